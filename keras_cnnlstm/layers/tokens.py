"""The tokens of a caption: the first one, and the likeliest next one."""

import keras
from keras import ops

from keras_cnnlstm.tasks.vocabulary import END, PADDING, START

LEAST = 1e-30  # probability; the logarithm of 0 is no number


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class FirstToken(keras.layers.Layer):
    """The start of a caption, for a state `(B, D)`.

    Returns `START` `(B, 1)` int32, the logarithm of its probability, 0, `(B,)` float32, and whether
    the caption has ended, `(B,)` boolean.
    """

    def call(self, state):
        zeros = ops.zeros_like(state[:, 0], dtype="float32")  # (B,)
        token = ops.cast(zeros, "int32")[:, None] + START
        return token, zeros, ops.cast(zeros, "bool")


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class LikeliestToken(keras.layers.Layer):
    """Chooses the next token of a caption, `PADDING` if the caption has ended.

    From its probabilities `(B, 1, V)`, the logarithm of the probability of the caption before
    `(B,)`, and whether it has ended `(B,)`, to the token `(B, 1)` int32 and the other two after it.
    """

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32"} | kwargs)

    def call(self, inputs):
        probabilities, total, ended = inputs
        # Without PADDING and START. Not argmax, which LiteRT and ONNX refuse.
        best, place = ops.top_k(probabilities[:, 0, END:], 1)  # (B, 1) each
        token = ops.cast(place[:, 0], "int32") + END
        logs = ops.log(ops.maximum(best[:, 0], LEAST))
        total = total + ops.where(ended, ops.zeros_like(logs), logs)
        token = ops.where(ended, ops.full_like(token, PADDING), token)  # (B,)
        return token[:, None], total, ops.logical_or(ended, ops.equal(token, END))
