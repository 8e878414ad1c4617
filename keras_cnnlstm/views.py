"""Test-time averaging: one answer from several moved copies of each sequence, or several models.

Ciresan et al., "Multi-column Deep Neural Networks for Image Classification", CVPR 2012, section 2,
average the answers of networks that were trained on differently prepared images: their errors are
not all the same. Nor are those of networks that differ by their first weights and their batches
alone (`average_models`), nor those of one network to differently placed images (`average_views`).
"""

import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import layers, ops

from keras_cnnlstm.arguments import check_kind, check_model, is_whole, told

# Rotation in degrees, zooms, and shifts in shares of the side: the frames as they are come first.
_MOVES = (
    (0, 1.0, 0.0, 0.0),
    (5, 1.0, 0.0, 0.0),
    (-5, 1.0, 0.0, 0.0),
    (0, 1.06, 0.0, 0.0),
    (0, 0.94, 0.0, 0.0),
    (0, 1.0, 0.018, 0.018),
    (0, 1.0, -0.018, -0.018),
)
MOST_VIEWS = len(_MOVES)
_INPUTS = {"frames", "lengths"}


def average_views(model: keras.Model, views: int = MOST_VIEWS) -> keras.Model:
    """The model that answers to several views of the frames, and says the mean.

    It takes and returns what `model` does and shares its weights, so it is predicted, scored and
    exported in its place; it takes `views` times as long. It cannot be streamed.

    Args:
        model: a model from `frames (B, T, H, W, C) uint8`, and perhaps `lengths (B,)`, to
            probabilities or values.
        views: how many: the frames as they are, turned by 5 degrees each way, zoomed by 6 % each
            way, shifted by 1.8 % of the side each way, in this order; 2 to 7.

    Returns:
        A model from the same inputs to the mean answer, under the same names.

    Raises:
        ValueError: if an argument is none of these.

    Example:

    >>> from keras_cnnlstm.models import cnn_lstm
    >>> average_views(cnn_lstm()).output_shape
    (None, 7)
    """
    check_model("average_views: `model`", model)
    if not is_whole(views, 2, MOST_VIEWS):
        raise ValueError(
            f"average_views: `views` must be 2 to {MOST_VIEWS}; received {told(views)}."
        )
    given = {tensor.name: tensor for tensor in model.inputs}
    fits = "frames" in given and len(given["frames"].shape) == 5 and given.keys() <= _INPUTS
    if not fits or len(model.outputs) != 1:
        raise ValueError(
            "average_views: `model` must go from frames (B, T, H, W, C), and perhaps lengths, to "
            f"one answer; received one of the inputs {sorted(given)} and {len(model.outputs)} "
            "outputs."
        )
    inputs = {name: keras.Input(x.shape[1:], dtype=x.dtype, name=name) for name, x in given.items()}
    copies = {
        "frames": Views(int(views), name="views")(inputs["frames"])
    }  # (views * B, T, H, W, C)
    if "lengths" in given:
        copies["lengths"] = Views(int(views), move=False, name="same_lengths")(inputs["lengths"])
    (answer,) = keras.tree.flatten(model(copies if len(copies) > 1 else copies["frames"]))
    mean = MeanOfViews(int(views), name=model.output_names[0])(answer)
    return keras.Model(_given(list(inputs.values())), mean, name=f"{model.name}_views")


def average_models(models: Sequence[keras.Model]) -> keras.Model:
    """The model that gives the mean of several models' answers: an ensemble.

    It takes and returns what each of them does and shares their weights, so it is predicted, scored
    and exported in their place. It cannot be streamed.

    Args:
        models: two or more, such as runs of one recipe with several seeds: functional, with equal
            inputs and one output, of probabilities or values, of equal shape.

    Returns:
        A model from the same inputs to the mean answer, under the same names.

    Raises:
        ValueError: if there are fewer than two, or they do not fit together.

    Example:

    >>> from keras_cnnlstm.models import cnn_lstm
    >>> average_models([cnn_lstm(), cnn_lstm()]).output_shape
    (None, 7)
    """
    check_kind("average_models: `models`", models, list | tuple, "a list of models")
    for model in models:
        check_model("average_models: `models`", model)
    if len(models) < 2:
        raise ValueError(f"average_models: `models` must be two or more; received {len(models)}.")
    first, *others = [_face(model) for model in models]
    for other in others:
        if other != first:
            raise ValueError(
                "average_models: `models` must have equal inputs and outputs; received "
                f"{_in_words(first)} and {_in_words(other)}."
            )
    if len(models[0].outputs) != 1:
        raise ValueError(
            "average_models: `models` must have one output each; received ones with "
            f"{len(models[0].outputs)}."
        )
    inputs = _given(
        [keras.Input(x.shape[1:], dtype=x.dtype, name=x.name) for x in models[0].inputs]
    )
    answers = [  # of models with names of their own
        keras.Model(_given(model.inputs), model.outputs[0], name=f"member{number}")(inputs)
        for number, model in enumerate(models, start=1)
    ]
    mean = layers.Average(dtype="float32", name=models[0].output_names[0])(answers)
    return keras.Model(inputs, mean, name=f"{models[0].name}_{len(models)}_models")


def _given(inputs):
    """Inputs as they are given to a model: one as it is, several by their names."""
    return {x.name: x for x in inputs} if len(inputs) > 1 else inputs[0]


def _face(model):
    """What a model shows to the outside: names, shapes and dtypes of inputs, shapes of outputs."""
    inputs = {x.name: (tuple(x.shape), x.dtype) for x in model.inputs}
    return inputs, [tuple(x.shape) for x in model.outputs]


def _in_words(face):
    inputs, outputs = face
    given = ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in inputs.items())
    return f"{given} -> {', '.join(map(str, outputs))}"


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class Views(layers.Layer):
    """Copies of sequences, each moved in its own way: `(B, T, H, W, C) -> (views * B, T, H, W, C)`.

    All views of a sequence are moved as a whole, interpolated between four pixels, and rounded if
    the frames are integers; black comes in at the edges.

    Args:
        views: how many copies, the first as it is.
        move: whether to move them; else the copies are equal, whatever their shape.
        **kwargs: `name`, `dtype`, ... of the layer.
    """

    def __init__(self, views, move=True, **kwargs):
        super().__init__(**kwargs)
        self.views, self.move = views, move

    def call(self, frames):
        if not self.move:
            return ops.concatenate([frames] * self.views, axis=0)
        height, width, channels = frames.shape[2:]
        pixels = ops.cast(ops.reshape(frames, (-1, height * width, channels)), "float32")
        copies = [frames]
        for move in _MOVES[1 : self.views]:
            places, weights = neighbours(move, height, width)  # (H*W, 4) each
            near = ops.reshape(
                ops.take(pixels, places.reshape(-1), axis=1), (-1, height * width, 4, channels)
            )
            moved = ops.sum(near * weights[:, :, None], axis=2)
            if keras.backend.standardize_dtype(frames.dtype).startswith(("uint", "int")):
                moved = ops.round(moved)
            moved = ops.reshape(moved, (-1, *ops.shape(frames)[1:]))
            copies.append(ops.cast(moved, frames.dtype))
        return ops.concatenate(copies, axis=0)

    def compute_output_spec(self, frames):
        return keras.KerasTensor((None, *frames.shape[1:]), frames.dtype)

    def get_config(self):
        return {**super().get_config(), "views": self.views, "move": self.move}


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class MeanOfViews(layers.Layer):
    """The mean over the views that `Views` made: `(views * B, ...) -> (B, ...)`, float32.

    Args:
        views: how many there are.
        **kwargs: `name`, ... of the layer.
    """

    def __init__(self, views, **kwargs):
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.views = views
        self.supports_masking = True  # takes answers of unequal lengths, and goes on without a mask

    def call(self, answers):
        return ops.mean(ops.reshape(answers, (self.views, -1, *ops.shape(answers)[1:])), axis=0)

    def compute_output_spec(self, answers):
        return keras.KerasTensor((None, *answers.shape[1:]), "float32")

    def compute_mask(self, answers, previous_mask):
        return None  # that of the views is longer

    def get_config(self):
        return {**super().get_config(), "views": self.views}


def neighbours(move: tuple, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The four pixels between which each pixel of a moved image lies, and what each counts.

    Args:
        move: rotation in degrees, zoom, and shifts down and to the right in shares of the side.
        height: H, pixels.
        width: W, pixels.

    Returns:
        Indices into the image's pixels `(H*W, 4)` int32, and weights `(H*W, 4)` float32, which are
        0 of pixels outside.
    """
    degrees, zoom, down, right = move
    cos, sin = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    y, x = np.indices((height, width)).reshape(2, -1).astype(float)
    y, x = y - (height - 1) / 2 - down * height, x - (width - 1) / 2 - right * width
    y, x = cos * y - sin * x + (height - 1) / 2, sin * y + cos * x + (width - 1) / 2
    top, left = np.floor(y), np.floor(x)
    places, weights = [], []
    for i in (0, 1):
        for j in (0, 1):
            row, column = top + i, left + j
            weight = (1 - abs(y - row)) * (1 - abs(x - column))
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weights.append(weight * inside)
            places.append(np.clip(row, 0, height - 1) * width + np.clip(column, 0, width - 1))
    return np.stack(places, 1).astype(np.int32), np.stack(weights, 1).astype(np.float32)
