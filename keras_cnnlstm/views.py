"""Test-time averaging: one answer from several moved copies of each sequence.

Ciresan et al., "Multi-column Deep Neural Networks for Image Classification", CVPR 2012, section 2,
average the answers of networks that were trained on differently prepared images: their errors are
not all the same. Nor are those of one network to differently placed images. `ensembles` averages
several networks.
"""

import math

import keras
import numpy as np
from keras import layers, ops

from keras_cnnlstm.arguments import check_model, is_whole, told
from keras_cnnlstm.ensembles import as_given

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
    (answer,) = keras.tree.flatten(model(as_given(copies)))
    mean = MeanOfViews(int(views), name=model.output_names[0])(answer)
    return keras.Model(as_given(inputs), mean, name=f"{model.name}_views")


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class Views(layers.Layer):
    """Copies of sequences, each moved in its own way: `(B, T, H, W, C) -> (views * B, T, H, W, C)`.

    Or of single frames, `(B, H, W, C) -> (views * B, H, W, C)`.

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
        height, width, channels = frames.shape[-3:]
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
        batch, *rest = frames.shape
        return keras.KerasTensor((batch and batch * self.views, *rest), frames.dtype)

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
        batch, *rest = answers.shape
        return keras.KerasTensor((batch and batch // self.views, *rest), "float32")

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
