"""Layers that encoders are made of, which look at one frame and know nothing of time.

Speaks `keras.ops`, so every backend works. Where TensorFlow has one operation for what takes
`keras.ops` many, it is used on that backend alone.
"""

import keras
from keras import ops

from keras_cnnlstm.layers.recomputed import Recomputed


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class Conv2D(Recomputed, keras.layers.Conv2D):
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
