"""Layers that encoders are made of, which look at one frame and know nothing of time.

Speaks `keras.ops`, so every backend works. Where TensorFlow has one operation for what takes
`keras.ops` many, it is used on that backend alone.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D`, faster in float32 training where TensorFlow runs it on a CPU.

    TensorFlow hands the gradient of the bias to oneDNN together with that of the kernel, and in
    float32 oneDNN takes longer for the two than for the kernel's and a pass over the maps: the
    reference model's first convolution and its pooling, there and back, took 13.8 ms, without any
    gradient of the bias 9.4. Here the sum over all positions that this gradient is, is a product
    with ones, and all took 10.5. The train step of the reference model became 7 to 8 % shorter
    (2 cores with AVX-512, B = 64, T = 4, 16 and 40; medians, interleaved). In bfloat16, where it
    became longer, both gradients are left to oneDNN.

    Weights and configuration are those of the stock layer, and so are answers and gradients, but
    for rounding. Inference, GPUs and other backends are left to it.

    Example:

    >>> Conv2D(8, 3, padding="same")(ops.zeros((3, 28, 28, 1))).shape
    TensorShape([3, 28, 28, 8])
    """

    def call(self, inputs, training=None):
        if not self._sums_by_product(training):
            return super().call(inputs)
        maps = self.convolution_op(inputs, self.kernel)
        bias = ops.reshape(self.bias, (self.filters,))  # a tensor; gradients take no variables
        maps = _with_bias(maps, bias)  # (B, H', W', filters)
        return maps if self.activation is None else self.activation(maps)

    def _sums_by_product(self, training):
        return (
            keras.backend.backend() == "tensorflow"
            and bool(training)
            and self.use_bias
            and self.data_format == "channels_last"
            and self.compute_dtype == "float32"
            and not keras.distribution.list_devices("gpu")
        )


@ops.custom_gradient
def _with_bias(maps, bias):
    """`(B, H, W, C)` and `(C,)` -> the sum, whose gradient by the bias is a matrix product."""

    def gradient(upstream):
        batch, height, width, channels = ops.shape(upstream)
        rows = ops.reshape(upstream, (-1, height * width * channels))
        sums = ops.matmul(ops.ones((1, batch), rows.dtype), rows)  # over the batch
        return upstream, ops.sum(ops.reshape(sums, (-1, channels)), axis=0)

    return ops.add(maps, bias), gradient


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, faster in training where TensorFlow runs it.

    The stock layer of Keras 3.15.1 computes mean, variance and the normalised maps one after the
    other, and so their gradients; TensorFlow has one operation for all of it, and one for the
    gradient. The train step of `residual_cnn` and of an encoder like `paired_cnn` took 0.82 of the
    time (256 images of 28x28, float32, one core with AVX-512; medians, interleaved). Weights,
    answers and averages are those of the stock layer. Masked inputs, whose padding is left out of
    the statistics, and other backends are left to it.

    Args:
        momentum: of the averages. Those of Keras (0.99) are far behind after 100 batches, and a
            validation that early would look like chance.
        **kwargs: as of the stock layer.

    Example:

    >>> BatchNormalization()(ops.zeros((3, 28, 28, 8))).shape
    TensorShape([3, 28, 28, 8])
    """

    def __init__(self, momentum=0.9, **kwargs):
        super().__init__(momentum=momentum, **kwargs)

    def call(self, inputs, training=None, mask=None):
        if not self._fits(inputs, training, mask):
            return super().call(inputs, training=training, mask=mask)
        from tensorflow.raw_ops import FusedBatchNormV3

        x = ops.cast(inputs, self.compute_dtype)
        gamma, beta = ops.cast(self.gamma, "float32"), ops.cast(self.beta, "float32")
        none = ops.zeros((0,))
        fused = FusedBatchNormV3(
            x=x, scale=gamma, offset=beta, mean=none, variance=none, epsilon=self.epsilon
        )
        count = ops.cast(ops.prod(ops.shape(x)[:-1]), "float32")
        variance = fused.batch_variance * (count - 1) / count  # it tells the unbiased one
        for average, now in (
            (self.moving_mean, fused.batch_mean),
            (self.moving_variance, variance),
        ):
            now = ops.cast(now, average.dtype)
            average.assign(average * self.momentum + now * (1 - self.momentum))
        return fused.y

    def _fits(self, inputs, training, mask):
        return (
            keras.backend.backend() == "tensorflow"
            and training is True
            and self.trainable
            and mask is None
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.center
            and self.scale
            and self.compute_dtype in ("float32", "bfloat16", "float16")
        )


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
