"""Two convolutions with batch normalization and a shortcut."""

import keras
from keras import ops

from keras_cnnlstm.layers.batch_normalization import BatchNormalization


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class ResidualBlock(keras.layers.Layer):
    """Two 3x3 convolutions that learn what to add to their input.

    Conv-BatchNorm-ReLU-Conv-BatchNorm, plus the input, then ReLU: He et al., "Deep Residual
    Learning for Image Recognition", CVPR 2016, figure 2. Where the size or the number of channels
    changes, a 1x1 convolution brings the input along (option B, page 4).

    Args:
        filters: output channels.
        strides: 1, or 2 to halve height and width (rounded up).
        **kwargs: `name`, `dtype`, ... of the layer.

    Call arguments:
        inputs: `(B, H, W, C)`.
        training: whether to normalise by the statistics of the batch.
        mask: boolean `(B, H, W)`, `False` at images that are padding; they are left out of the
            statistics. `TimeDistributed` hands it over.

    Returns:
        `(B, ceil(H / strides), ceil(W / strides), filters)`.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> ResidualBlock(16, strides=2)(ops.zeros((3, 28, 28, 8))).shape
    TensorShape([3, 14, 14, 16])
    """

    def __init__(self, filters, strides=1, **kwargs):
        super().__init__(**kwargs)
        if filters < 1 or strides not in (1, 2):
            raise ValueError(
                "ResidualBlock: `filters` must be 1 or more and `strides` 1 or 2; received "
                f"{filters} and {strides}."
            )
        self.filters, self.strides = filters, strides
        self.supports_masking = True
        self.conv1 = self._conv("conv1", 3, strides)
        self.norm1 = self._norm("norm1")
        self.conv2 = self._conv("conv2", 3, 1)
        self.norm2 = self._norm("norm2")
        self.shortcut = None

    def _conv(self, name, size, strides):
        return keras.layers.Conv2D(
            self.filters,
            size,
            strides=strides,
            padding="same",
            use_bias=False,  # the normalisation has one
            kernel_initializer="he_normal",
            dtype=self.dtype_policy,
            name=name,
        )

    def _norm(self, name):
        return BatchNormalization(dtype=self.dtype_policy, name=name)

    def build(self, input_shape):
        inner = self.compute_output_shape(input_shape)
        self.conv1.build(input_shape)
        self.norm1.build(inner)
        self.conv2.build(inner)
        self.norm2.build(inner)
        if input_shape[-1] != self.filters or self.strides > 1:
            self.shortcut = self._conv("shortcut", 1, self.strides)
            self.shortcut.build(input_shape)

    def call(self, inputs, training=None, mask=None):
        mask = None if mask is None else mask[:, :1, :1]  # an image is padding as a whole
        x = self.norm1(self.conv1(inputs), training=training, mask=mask)
        x = self.norm2(self.conv2(ops.relu(x)), training=training, mask=mask)
        return ops.relu(x + (self.shortcut(inputs) if self.shortcut else inputs))

    def compute_mask(self, inputs, previous_mask):
        return None if previous_mask is None else previous_mask[:, :: self.strides, :: self.strides]

    def compute_output_shape(self, input_shape):
        batch, *sides, _ = input_shape
        sides = [None if side is None else -(-side // self.strides) for side in sides]
        return (batch, *sides, self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "strides": self.strides}
