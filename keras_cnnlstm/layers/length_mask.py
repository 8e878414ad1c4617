"""Lengths of sequences as a boolean mask of their steps."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class LengthMask(keras.layers.Layer):
    """Tells the steps of each sequence from its padding.

    Args:
        skip: frames at the start of each sequence for which there is no step, as `Motion` leaves
            some out; one step always counts.
        **kwargs: `name`, ... of the layer.

    Call arguments:
        lengths: `(B,)` integers, steps that count in each sequence, from the first one on. 0 and
            less count none, more than T all; the models here refuse both in NumPy arrays.
        sequences: `(B, T, ...)`, whose T is taken, fixed or not.

    Returns:
        Boolean `(B, T)`, `True` at the first `lengths[b] - skip` steps of sequence b: the `mask` of
        every layer that goes over time.

    Example:

    >>> LengthMask()(ops.array([1, 3]), ops.zeros((2, 3, 5))).numpy().astype(int).tolist()
    [[1, 0, 0], [1, 1, 1]]
    """

    def __init__(self, skip=0, **kwargs):
        super().__init__(**kwargs)
        self.skip = skip

    def call(self, lengths, sequences):
        steps = ops.arange(ops.shape(sequences)[1], dtype="int32")
        lengths = ops.cast(lengths, "int32")
        if self.skip:
            lengths = ops.maximum(lengths - self.skip, 1)
        return steps[None, :] < lengths[:, None]  # (B, T)

    def compute_output_spec(self, lengths, sequences):
        return keras.KerasTensor(sequences.shape[:2], "bool")

    def get_config(self):
        return {**super().get_config(), "skip": self.skip}
