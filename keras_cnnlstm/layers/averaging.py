"""Means of answers: over models, and over the copies of test-time augmentation."""

import math

import keras
import numpy as np
from keras import layers, ops

_LEAST = 1e-30  # of a probability whose logarithm is taken


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class LogOfMean(layers.Layer):
    """The logarithm of the mean of probabilities, `(..., num_classes)` each; of 1e-30 at least.

    Their softmax is the mean again, so they are its logits.
    """

    def call(self, probabilities):
        return ops.log(ops.maximum(sum(probabilities) / len(probabilities), _LEAST))


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class GeometricMean(keras.layers.Layer):
    """The geometric mean of several classifiers' probabilities, normalised: float32.

    Args:
        copies: answers of each classifier to one frame, which are averaged too; `TTACopies` lays
            the copies of all frames one after the other.
        **kwargs: `name`, ... of the layer.

    Call arguments:
        probabilities: one or more `(copies * B, ..., classes)` of equal shape.

    Returns:
        `(B, ..., classes)`, whose sum over the classes is 1.

    Example:

    >>> sure, unsure = ops.array([[0.9, 0.1]]), ops.array([[0.5, 0.5]])
    >>> GeometricMean()([sure, unsure]).numpy().round(2).tolist()
    [[0.75, 0.25]]
    """

    def __init__(self, copies=1, **kwargs):
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.copies = copies

    def call(self, probabilities):
        tiny = 1e-9  # of a class that one model excludes, which the others may yet see
        logarithms = ops.log(ops.maximum(ops.stack(probabilities), tiny))
        if self.copies > 1:  # (K, copies * B, ..., classes) -> (K * copies, B, ..., classes)
            rest = ops.shape(probabilities[0])[1:]
            logarithms = ops.reshape(logarithms, (len(probabilities) * self.copies, -1, *rest))
        return ops.softmax(ops.mean(logarithms, axis=0))

    def compute_output_spec(self, probabilities):
        batch, *rest = probabilities[0].shape
        return keras.KerasTensor((batch and batch // self.copies, *rest), "float32")

    def get_config(self):
        return {**super().get_config(), "copies": self.copies}


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

MOST_COPIES = len(_MOVES)


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class TTACopies(layers.Layer):
    """The copies of test-time augmentation: `(B, T, H, W, C) -> (copies * B, T, H, W, C)`.

    Or of single frames, `(B, H, W, C) -> (copies * B, H, W, C)`. Each copy of a sequence is turned,
    zoomed or shifted as a whole, interpolated between four pixels, and rounded if the frames are
    integers; black comes in at the edges.

    Args:
        copies: how many, the first as it is.
        move: whether to move them; else the copies are equal, whatever their shape.
        **kwargs: `name`, `dtype`, ... of the layer.
    """

    def __init__(self, copies, move=True, **kwargs):
        super().__init__(**kwargs)
        self.copies, self.move = copies, move

    def call(self, frames):
        if not self.move:
            return ops.concatenate([frames] * self.copies, axis=0)
        height, width, channels = frames.shape[-3:]
        pixels = ops.cast(ops.reshape(frames, (-1, height * width, channels)), "float32")
        found = [frames]
        for move in _MOVES[1 : self.copies]:
            places, weights = neighbours(move, height, width)  # (H*W, 4) each
            near = ops.reshape(
                ops.take(pixels, places.reshape(-1), axis=1), (-1, height * width, 4, channels)
            )
            moved = ops.sum(near * weights[:, :, None], axis=2)
            if keras.backend.standardize_dtype(frames.dtype).startswith(("uint", "int")):
                moved = ops.round(moved)
            moved = ops.reshape(moved, (-1, *ops.shape(frames)[1:]))
            found.append(ops.cast(moved, frames.dtype))
        return ops.concatenate(found, axis=0)

    def compute_output_spec(self, frames):
        batch, *rest = frames.shape
        return keras.KerasTensor((batch and batch * self.copies, *rest), frames.dtype)

    def get_config(self):
        return {**super().get_config(), "copies": self.copies, "move": self.move}


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class TTAMean(layers.Layer):
    """The mean answer to the copies of `TTACopies`: `(copies * B, ...) -> (B, ...)`, float32.

    Args:
        copies: how many there are.
        **kwargs: `name`, ... of the layer.
    """

    def __init__(self, copies, **kwargs):
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.copies = copies
        self.supports_masking = True  # takes answers of unequal lengths, and goes on without a mask

    def call(self, answers):
        return ops.mean(ops.reshape(answers, (self.copies, -1, *ops.shape(answers)[1:])), axis=0)

    def compute_output_spec(self, answers):
        batch, *rest = answers.shape
        return keras.KerasTensor((batch and batch // self.copies, *rest), "float32")

    def compute_mask(self, answers, previous_mask):
        return None  # that of the copies is longer

    def get_config(self):
        return {**super().get_config(), "copies": self.copies}


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
