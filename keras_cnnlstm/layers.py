"""Layers over time that CNN-LSTMs need and Keras lacks, or has in a form that is slow or wrong.

Knows nothing of tasks, data or models; speaks `keras.ops` only, so every backend works.
"""

import inspect
from types import SimpleNamespace

import keras
from keras import ops

from keras_cnnlstm.arguments import is_whole, told


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class TimeDistributed(keras.layers.TimeDistributed):
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
      once a batch. The stock wrapper normalises each step by itself, which erases the
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
                kwargs["mask"] = _fold(_spread_mask(mask, inputs))  # (B*T, ...)
        outputs = self.layer(_fold(inputs), **kwargs)  # (B*T, ...)
        return keras.tree.map_structure(lambda x: _unfold(x, inputs), outputs)  # (B, T, ...)

    def compute_output_spec(self, inputs, training=None, mask=None):
        if mask is not None:
            _check_mask(mask, inputs)
        frames = keras.KerasTensor((None, *inputs.shape[2:]), inputs.dtype)
        return keras.tree.map_structure(
            lambda x: keras.KerasTensor((*inputs.shape[:2], *x.shape[1:]), x.dtype),
            self.layer.compute_output_spec(frames),
        )

    def _takes_mask(self, mask):
        if "mask" not in self._layer_arguments() or not self.layer.supports_masking:
            return False
        # Of a frame that is padding as a whole these would make 0 / 0, or fail on a GPU.
        within = (
            keras.layers.GlobalAveragePooling1D,
            keras.layers.RNN,
            keras.layers.Bidirectional,
        )
        return len(mask.shape) > 2 or not isinstance(self.layer, within)

    def _layer_arguments(self):
        return inspect.signature(self.layer.call).parameters


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class LSTM(keras.layers.LSTM):
    """`keras.layers.LSTM`, faster where no cuDNN runs it: it projects all steps' inputs at once.

    The gates of step t are `x_t W + h_{t-1} U + b`. The stock layer multiplies by W step by
    step; but `x W` needs no state, so this one takes it for all B*T rows in one product, which a
    processor finishes sooner than T small ones, and so for its gradients: of the reference model's
    train step it took 2 % in float32 and 7 % in mixed_bfloat16, against the stock layer unrolled
    (2 cores with avx512_bf16, T = 4, B = 64; medians, interleaved), and 9 % in float32 against the
    stock layer rolled (one core with AVX-512, T = 16).
    Weights, configuration and answers are those of the stock layer. Dropout is left to it, and so
    are rolled loops with cuDNN, which TensorFlow has on GPUs, and on other backends. One answer is
    not: unrolled, backwards and with a mask, as in `Bidirectional`, the stock layer of Keras 3.15.1
    on TensorFlow returns zeros in place of the first steps' outputs, and keeps those of the
    padding.

    Example:

    >>> LSTM(128, unroll=True)(ops.zeros((3, 4, 3136))).shape
    TensorShape([3, 128])
    """

    def inner_loop(self, sequences, initial_state, mask, training=False):
        if not self._projects_at_once(training):
            return super().inner_loop(sequences, initial_state, mask, training)
        mask = mask[0] if keras.tree.is_nested(mask) else mask
        projected = ops.matmul(_fold(sequences), self.cell.kernel)  # (B*T, 4*units)
        if self.cell.use_bias:
            projected = ops.add(projected, self.cell.bias)
        projected = _unfold(projected, sequences)  # (B, T, 4*units)
        if self.unroll:
            return self._unrolled(projected, initial_state, mask)
        loop = SimpleNamespace(
            cell=lambda x, state: self._step(x, state, None),
            go_backwards=self.go_backwards,
            unroll=False,
            zero_output_for_mask=self.zero_output_for_mask,
            return_sequences=self.return_sequences,
        )
        # Keras's own loop, over what is projected already.
        return keras.layers.RNN.inner_loop(loop, projected, initial_state, mask, training)

    def _projects_at_once(self, training):
        if training and (self.dropout or self.recurrent_dropout):
            return False
        if self.unroll:
            return True
        # Elsewhere Keras calls what the hardware or the backend has for a whole LSTM.
        tensorflow = keras.backend.backend() == "tensorflow" and self.use_cudnn is not True
        return tensorflow and not (self.use_cudnn and keras.distribution.list_devices("gpu"))

    def _unrolled(self, projected, state, mask):
        if self.go_backwards:
            projected = ops.flip(projected, axis=1)
            mask = None if mask is None else ops.flip(mask, axis=1)
        outputs = []
        # Unstacked at once: the gradient of T slices would be T arrays of the whole size.
        for t, x in enumerate(ops.unstack(projected, projected.shape[1], axis=1)):
            output, state = self._step(x, state, None if mask is None else mask[:, t, None])
            outputs.append(output)
        return output, ops.stack(outputs if self.return_sequences else [output], axis=1), state

    def _step(self, x, state, counts):
        """The output and the state after a step, from its projected inputs `(B, 4*units)`.

        `counts` is boolean `(B, 1)`, `False` where the step is padding, or `None` if none is.
        """
        cell, (h, c) = self.cell, state
        i, f, g, o = ops.split(ops.add(x, ops.matmul(h, cell.recurrent_kernel)), 4, axis=1)
        c = cell.recurrent_activation(f) * c + cell.recurrent_activation(i) * cell.activation(g)
        h = cell.recurrent_activation(o) * cell.activation(c)  # (B, units)
        if counts is None:
            return h, [h, c]
        state = [ops.where(counts, new, old) for new, old in zip((h, c), state, strict=True)]
        return ops.where(counts, h, 0) if self.zero_output_for_mask else state[0], state


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class ImageToSequence(keras.layers.Layer):
    """Cuts an image into the steps of a sequence: rows, columns, or patches row by row.

    A row of pixels is a step as a frame is one: 28x28 pixels become 28 steps of 28 numbers. The
    numbers of a step keep the order that they have in the image: top to bottom, in each line left
    to right, channels innermost.

    Args:
        by: "rows", from top to bottom; "columns", from left to right; "patches", line by line as
            one reads a page.
        size: pixels of a step: rows or columns in each, or the side of the square patches. A pair
            (height, width) for patches of another shape.
        **kwargs: `name`, `dtype`, ... of the layer.

    Call arguments:
        inputs: `(B, H, W, C)` of known H, W and C, which `size` must divide.

    Returns:
        `(B, T, features)`: rows `(B, H/size, size*W*C)`, columns `(B, W/size, H*size*C)`, patches
        `(B, H/size * W/size, size*size*C)`, of the dtype of `inputs`.

    Raises:
        ValueError: if an argument is none of these, or the image does not divide into the steps.

    Example:

    >>> import numpy as np
    >>> image = np.arange(12.0).reshape(1, 3, 4, 1)  # (B, H, W, C), numbered as one reads
    >>> np.asarray(ImageToSequence("columns")(image))[0, :2].tolist()
    [[0.0, 4.0, 8.0], [1.0, 5.0, 9.0]]
    """

    def __init__(self, by="rows", size=1, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(by, str) or by not in ("rows", "columns", "patches"):
            raise ValueError(
                f"ImageToSequence: `by` must be 'rows', 'columns' or 'patches'; received "
                f"{told(by)}."
            )
        pair = isinstance(size, tuple | list) and len(size) == 2 and by == "patches"
        if not all(is_whole(s, 1) for s in (size if pair else [size])):
            raise ValueError(
                "ImageToSequence: `size` must be a positive whole number of pixels, or for patches "
                f"a pair of them; received {told(size)} with by={by!r}."
            )
        self.by = by
        self.size = tuple(map(int, size)) if pair else int(size)

    def call(self, inputs):
        height, width, channels = self._checked_shape(inputs.shape)
        h, w = self.patch_shape(inputs.shape)
        x = ops.reshape(inputs, (-1, height // h, h, width // w, w, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # (B, H/h, W/w, h, w, C)
        return ops.reshape(x, (-1, *self.compute_output_shape(inputs.shape)[1:]))

    def compute_output_shape(self, input_shape):
        height, width, channels = self._checked_shape(input_shape)
        h, w = self.patch_shape(input_shape)
        return (input_shape[0], (height // h) * (width // w), h * w * channels)

    def compute_output_spec(self, inputs):
        # Keras's own would promise floats for raw pixels, which the layer leaves as they are.
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), inputs.dtype)

    def patch_shape(self, input_shape):
        """Height and width of a step in pixels, for images of this shape `(B, H, W, C)`."""
        _, height, width, _ = input_shape
        if self.by == "patches":
            return self.size if isinstance(self.size, tuple) else (self.size, self.size)
        return (self.size, width) if self.by == "rows" else (height, self.size)

    def get_config(self):
        return {**super().get_config(), "by": self.by, "size": self.size}

    def _checked_shape(self, shape):
        if len(shape) != 4 or None in shape[1:]:
            raise ValueError(
                "ImageToSequence: `inputs` must have shape (B, H, W, C), all known but B; received "
                f"{tuple(shape)}."
            )
        height, width = self.patch_shape(shape)
        if shape[1] % height or shape[2] % width:
            raise ValueError(
                f"ImageToSequence: `size` must divide the image; received steps of "
                f"{height}x{width} for {shape[1]}x{shape[2]} pixels. Choose another size, or pad "
                "or resize the image."
            )
        return shape[1:]


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class LengthMask(keras.layers.Layer):
    """Tells the steps of each sequence from its padding.

    Call arguments:
        lengths: `(B,)` integers, steps that count in each sequence, from the first one on.
        sequences: `(B, T, ...)`, whose T is taken, fixed or not.

    Returns:
        Boolean `(B, T)`, `True` at the first `lengths[b]` steps of sequence b: the `mask` of every
        layer that goes over time.

    Example:

    >>> LengthMask()(ops.array([1, 3]), ops.zeros((2, 3, 5))).numpy().astype(int).tolist()
    [[1, 0, 0], [1, 1, 1]]
    """

    def call(self, lengths, sequences):
        steps = ops.arange(ops.shape(sequences)[1], dtype="int32")
        return steps[None, :] < ops.cast(lengths, "int32")[:, None]  # (B, T)

    def compute_output_spec(self, lengths, sequences):
        return keras.KerasTensor(sequences.shape[:2], "bool")


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class GeometricMean(keras.layers.Layer):
    """The geometric mean of several classifiers' probabilities, normalised: float32.

    Args:
        views: so many answers of each to one frame are averaged, too, as `views.Views` lays copies
            of all frames one after the other.
        **kwargs: `name`, ... of the layer.

    Call arguments:
        probabilities: one or more `(views * B, ..., classes)` of equal shape.

    Returns:
        `(B, ..., classes)`, whose sum over the classes is 1.

    Example:

    >>> sure, unsure = ops.array([[0.9, 0.1]]), ops.array([[0.5, 0.5]])
    >>> GeometricMean()([sure, unsure]).numpy().round(2).tolist()
    [[0.75, 0.25]]
    """

    def __init__(self, views=1, **kwargs):
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.views = views

    def call(self, probabilities):
        tiny = 1e-9  # of a class that somebody thinks impossible, which the others may yet see
        logarithms = ops.log(ops.maximum(ops.stack(probabilities), tiny))
        if self.views > 1:  # (K, views * B, ..., classes) -> (K * views, B, ..., classes)
            rest = ops.shape(probabilities[0])[1:]
            logarithms = ops.reshape(logarithms, (len(probabilities) * self.views, -1, *rest))
        return ops.softmax(ops.mean(logarithms, axis=0))

    def compute_output_spec(self, probabilities):
        batch, *rest = probabilities[0].shape
        return keras.KerasTensor((batch and batch // self.views, *rest), "float32")

    def get_config(self):
        return {**super().get_config(), "views": self.views}


def _fold(x):
    """`(B, T, ...) -> (B*T, ...)`, with unknown sizes taken at run time."""
    return ops.reshape(x, (-1, *ops.shape(x)[2:]))


def _unfold(x, like):
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
