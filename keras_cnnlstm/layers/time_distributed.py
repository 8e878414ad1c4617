"""Layers over time that CNN-LSTMs need and Keras lacks, or has in a form that is slow or wrong.

Knows nothing of tasks, data or models; speaks `keras.ops` only, so every backend works.
"""

import inspect

import keras
from keras import ops

from keras_cnnlstm.layers.recomputed import Recomputed


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class TimeDistributed(Recomputed, keras.layers.TimeDistributed):
    """Applies one layer to every frame of a sequence, all frames in a single call.

    The frames of all sequences are folded into one batch, `(B, T, ...) -> (B*T, ...)`, the
    wrapped layer is called once, and its outputs are split again. Any T works, fixed or not,
    and the graph does not grow with it. `keras.layers.TimeDistributed`, of which this is a
    drop-in subclass, calls the layer T times in a Python loop instead, and reads the wrong
    number of frames when T is unknown while the graph is traced.

    Two consequences of the folding are worth knowing:

    * The wrapped layer is called through `__call__`, so its own precision policy and its
      activity regulariser hold.
    * `BatchNormalization` takes its statistics over all `B*T` frames and moves its averages
      once a batch. The stock wrapper normalises each step separately, which erases the
      differences in level between the steps.

    Args:
        layer: the `keras.layers.Layer` or model to apply to each frame. It must treat the
            samples of a batch alike (no `stateful=True`) and return the batch axis first.
        **kwargs: `name`, `dtype`, ... of the wrapper. `dtype` is the wrapped layer's own
            policy unless given.

    Call arguments:
        inputs: `(B, T, ...)`, any dtype the wrapped layer takes.
        training: passed to the wrapped layer if it takes it.
        mask: boolean `(B, T)`, `False` at padded steps, or `(B, T, ...)` down to the last axis
            but one of `inputs`. A `(B, T)` mask is broadcast over the positions of a frame and
            handed to the wrapped layer if that layer supports masking (so a
            `BatchNormalization` leaves padded frames out of its statistics), unless it goes over
            the positions itself, as an LSTM does: of padding it would make 0 / 0. It is also
            attached to the output, but Keras after 3.15.1 stops doing so: pass `mask=` by hand
            to each later layer that must not read padding. A nested model does not get the
            mask, since its first layer without mask support would drop it.

    Returns:
        `(B, T, ...)`: the wrapped layer's outputs, nested as it nests them.

    Raises:
        ValueError: if `inputs` has fewer than three axes, or `mask` does not fit `inputs`.

    Example:

    >>> import numpy as np
    >>> frames = np.zeros((3, 4, 28, 28, 1), "float32")  # (B, T, H, W, C)
    >>> TimeDistributed(keras.layers.Conv2D(32, 3))(frames).shape
    TensorShape([3, 4, 26, 26, 32])
    """

    def __init__(self, layer, **kwargs):
        if "dtype" not in kwargs and isinstance(layer, keras.Layer):
            kwargs["dtype"] = layer.dtype_policy
        super().__init__(layer, **kwargs)

    def call(self, inputs, training=None, mask=None):
        kwargs = {}
        if "training" in self._layer_arguments():
            kwargs["training"] = training
        if mask is not None:
            _check_mask(mask, inputs)
            if self._takes_mask(mask):
                kwargs["mask"] = fold(_spread_mask(mask, inputs))  # (B*T, ...)
        outputs = self.call_layer(fold(inputs), **kwargs)  # (B*T, ...)
        return keras.tree.map_structure(lambda x: unfold(x, inputs), outputs)  # (B, T, ...)

    def call_layer(self, frames, **kwargs):
        """Calls the wrapped layer on all frames `(B*T, ...)`; subclasses may call it otherwise."""
        return self.layer(frames, **kwargs)

    def compute_output_spec(self, inputs, training=None, mask=None):
        if mask is not None:
            _check_mask(mask, inputs)
        frames = keras.KerasTensor((None, *inputs.shape[2:]), inputs.dtype)
        return keras.tree.map_structure(
            lambda x: keras.KerasTensor((*inputs.shape[:2], *x.shape[1:]), x.dtype),
            self.layer.compute_output_spec(frames),
        )

    def compute_output_shape(self, input_shape):
        shapes = self.layer.compute_output_shape((None, *input_shape[2:]))
        return keras.tree.map_shape_structure(lambda x: (*input_shape[:2], *x[1:]), shapes)

    def _takes_mask(self, mask):
        if "mask" not in self._layer_arguments() or not self.layer.supports_masking:
            return False
        # Of a frame that is padding as a whole these would make 0 / 0, or fail on a GPU; the mask
        # of a Softmax is one of its classes.
        within = (
            keras.layers.GlobalAveragePooling1D,
            keras.layers.RNN,
            keras.layers.Bidirectional,
            keras.layers.Softmax,
        )
        return len(mask.shape) > 2 or not isinstance(self.layer, within)

    def _layer_arguments(self):
        return inspect.signature(self.layer.call).parameters


def fold(x):
    """`(B, T, ...) -> (B*T, ...)`, with unknown sizes taken at run time."""
    return ops.reshape(x, (-1, *ops.shape(x)[2:]))


def unfold(x, like):
    """`(B*T, ...) -> (B, T, ...)`, with B and T of `like`.

    A known T goes into the shape as a number, so that the output's static shape keeps it.
    """
    batch, time = ops.shape(like)[:2]
    leading = (-1, time) if isinstance(time, int) else (batch, time)
    return ops.reshape(x, (*leading, *ops.shape(x)[1:]))


def _spread_mask(mask, inputs):
    """A boolean per frame `(B, T)` -> one per position, `inputs.shape[:-1]`, as layers expect."""
    extra = len(inputs.shape) - 1 - len(mask.shape)
    mask = ops.reshape(mask, (*ops.shape(mask), *([1] * extra)))
    return ops.broadcast_to(mask, ops.shape(inputs)[:-1])


def _check_mask(mask, inputs):
    rank, most = len(mask.shape), len(inputs.shape) - 1
    fits = all(
        a is None or b is None or a == b
        for a, b in zip(mask.shape, inputs.shape[:-1], strict=False)
    )
    if not 2 <= rank <= most or not fits:
        raise ValueError(
            "TimeDistributed: `mask` must have shape (B, T), the first two axes of `inputs`, or "
            f"go on with the axes after them, {tuple(inputs.shape[:-1])} at most; received a mask "
            f"of shape {tuple(mask.shape)}. Make one from lengths with "
            "`keras.ops.arange(T)[None, :] < lengths[:, None]`."
        )
