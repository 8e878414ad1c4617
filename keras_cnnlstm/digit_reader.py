"""A reader of single digits, and what the exact rule makes of its readings: the oracle.

A task on digits is solved by reading each digit and applying the rule; so a CNN trained on the
same images, with the rule by hand, tells how far a model of sequences could come, and whether its
mistake is a misread digit or a misread sequence.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import keras
import numpy as np

from keras_cnnlstm.arguments import as_numbers, check_kind, check_model, check_whole, told
from keras_cnnlstm.blocks import answer, dense_stack, rescaled, some_dropped
from keras_cnnlstm.digits import LabeledImages, check_images
from keras_cnnlstm.encoders import small_cnn
from keras_cnnlstm.optimizers import Adam
from keras_cnnlstm.pipeline import labeled_images
from keras_cnnlstm.task_arguments import Array
from keras_cnnlstm.tasks import Digits, RunningSum, Trend

Progress = Callable[[int, int], None]  # steps done, steps in all

_BATCH = 128
_IMAGES = 165_000  # to train on in all: three times those of MNIST
_EPOCHS = 60  # at most, of smaller sets
_LEARNING_RATE = 3e-3
_AUGMENT = 0.7  # of full strength, as there are few epochs to learn from
_STATES = 1500  # of the automaton times digits: what the exact ceiling of a trend is computed for


def train_reader(
    images: LabeledImages,
    *,
    seed: int = 0,
    steps: int | None = None,
    progress: Progress | None = None,
) -> keras.Model:
    """Trains a small CNN to read single digits.

    Args:
        images: what to train on.
        seed: of weights and data; sets Keras's, NumPy's and Python's generators.
        steps: batches of 128 images; by default those of 165,000 images, but no more than 60 times
            all of them.
        progress: called after each batch with the number of batches done and that of all.

    Returns:
        A model from `frames (N, H, W, C) uint8` to `probabilities (N, num_digits) float32`. With
        the defaults it reads 99 % of MNIST's test images.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_images("train_reader", images)
    if steps is None:
        steps = math.ceil(min(_IMAGES, _EPOCHS * len(images)) / _BATCH)
    check_whole("train_reader: `seed`", seed, 0, 2**32 - 1)
    check_whole("train_reader: `steps`", steps, 1, 10_000_000)
    keras.utils.set_random_seed(seed)
    model = _reader(images.image_shape, images.num_classes)
    schedule = keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps)
    model.compile(Adam(schedule), "sparse_categorical_crossentropy")
    data = labeled_images(images, batch_size=_BATCH, seed=seed, augment=_AUGMENT)
    told = [_told(progress, steps)] if progress else []
    model.fit(data, steps_per_epoch=steps, callbacks=told, shuffle=False, verbose=0)
    return keras.Model(model.inputs, model.outputs, name=model.name)  # without an optimizer


def _reader(image_shape, num_digits):
    frames = keras.Input(image_shape, dtype="uint8", name="frames")
    x = small_cnn()(rescaled(frames))  # (N, features)
    x = some_dropped(x, 0.2)
    x = dense_stack(x, (128,), 0.3)
    return keras.Model(frames, answer(x, num_digits), name="digit_reader")


def _told(progress, steps):
    return keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: progress(batch + 1, steps)
    )


@dataclass(frozen=True)
class _TrendDigits(Trend):
    """Draws what `Trend` draws, and asks for the digits."""

    def targets(self, digits: Array, *, xp: ModuleType = np) -> Array:
        return digits


def digits_behind(task: Trend | Digits) -> Trend | Digits:
    """The task that draws the same sequences, and asks which digit each frame shows.

    Args:
        task: a task on digits. The texts of `Text` are drawn as sequences of frames.

    Returns:
        A task whose targets are the digits, `(B, T)`: given the same images, seed and other
        options, `pipeline.digit_sequences` makes the same frames of it.

    Example:

    >>> digits_behind(RunningSum(length=3)).targets(np.array([[7, 3, 8]]))
    array([[7, 3, 8]])
    """
    _check_task("digits_behind", task)
    if isinstance(task, Trend):
        return _TrendDigits(task.length, task.num_digits)
    return Digits(task.length, task.num_digits, task.min_length)


def confusion_of(reader: keras.Model, images: LabeledImages) -> np.ndarray:
    """How a reader reads images: `(num_digits, num_digits)` counts, rows the truth.

    Raises:
        ValueError: if `images` are none, or the reader reads others.
    """
    check_images("confusion_of", images)
    check_reader("confusion_of", reader, images)
    read = reader.predict(images.images, batch_size=256, verbose=0).argmax(axis=1)
    counts = np.zeros((images.num_classes,) * 2, np.int64)
    np.add.at(counts, (images.labels, read), 1)
    return counts


def check_reader(function: str, reader: keras.Model, images: LabeledImages) -> None:
    """Refuses in the name of a function a reader of other images, or of other digits.

    Raises:
        ValueError: if it is one.
    """
    check_model(f"{function}: `reader`", reader)
    expected = (None, *images.image_shape), (None, images.num_classes)
    if (reader.input_shape, reader.output_shape) != expected:
        raise ValueError(
            f"{function}: `reader` must read images {images.image_shape} of "
            f"{images.num_classes} digits; received one from {told(reader.input_shape)} to "
            f"{told(reader.output_shape)}. Train one on images like these with train_reader; that "
            "of a run is made anew if its digit_reader.keras is removed."
        )


def ceiling(task: Trend | Digits, confusion: np.ndarray) -> dict[str, float] | None:
    """What reader and rule score in expectation on natural sequences, computed, not measured.

    Each digit is uniform and misread independently of the others; the expectation is over all
    combinations of digits and of readings, exactly.

    Args:
        task: what is asked.
        confusion: `(num_digits, num_digits)` counts or shares, how often row i is read as j; each
            row has at least one.

    Returns:
        For a `Trend` `accuracy`; for `Digits` that of a step, and `sequence_accuracy`; for a
        `RunningSum` of full length `rmse` and `rounded_accuracy`; for a `Text` `accuracy` of the
        whole. `None` for a trend of so many digits that it takes too long.

    Raises:
        ValueError: if `confusion` has another shape, or a row of nothing.

    Example:

    >>> round(ceiling(Trend(2, 2), np.array([[9, 1], [0, 10]]))["accuracy"], 3)
    0.905
    """
    _check_task("ceiling", task)
    confusion = as_numbers("ceiling: `confusion`", confusion).astype(np.float64)
    expected = (task.num_digits, task.num_digits)
    if confusion.shape != expected or confusion.min() < 0 or not confusion.sum(axis=1).all():
        raise ValueError(
            f"ceiling: `confusion` must be counts of shape {expected}, each row with one or more; "
            f"received {confusion.shape} with the sums {confusion.sum(axis=-1).tolist()}."
        )
    shares = confusion / confusion.sum(axis=1, keepdims=True)
    if isinstance(task, Trend):
        if task.num_classes * task.num_digits > _STATES:
            return None
        return {"accuracy": _trend_ceiling(task, shares)}
    if isinstance(task, RunningSum):
        return _sum_ceiling(task, shares)
    right = float(shares.diagonal().mean())
    lengths = range(task.min_length or 1, task.length + 1)  # each is equally likely
    whole = float(np.mean([right**length for length in lengths]))
    if type(task) is Digits:
        return {"accuracy": right, "sequence_accuracy": whole}
    return {"accuracy": whole}


def _check_task(function, task):
    check_kind(f"{function}: `task`", task, Trend | Digits, "a task on digits, as Trend(4)")


def _trend_ceiling(task, shares):
    """The chance that the automaton ends in one state, fed with the digits or the readings.

    `joint[s, d, r, e]`: that it is in state s after digit d, and in r after reading e.
    """
    states, count = task.num_classes, task.num_digits
    digit = np.arange(count)
    after = task.next_state[:, np.sign(digit[:, None] - digit) + 1]  # (state, digit, previous)
    # moves[d, s, p, n]: whether digit d leads from state s after digit p to state n.
    moves = np.moveaxis(np.eye(states)[after], 1, 0)
    joint = np.zeros((states, count, states, count))
    joint[0, :, 0, :] = shares / count
    for _ in range(task.length - 1):
        longer = np.zeros_like(joint)
        for d in range(count):
            half = np.tensordot(moves[d], joint, axes=((0, 1), (0, 1)))  # (n, state, digit)
            for e in range(count):
                moved = np.tensordot(half, moves[e], axes=((1, 2), (0, 1)))  # (n, m)
                longer[:, d, :, e] = moved * shares[d, e] / count
        joint = longer
    return float(np.einsum("sdse->", joint))


def _sum_ceiling(task, shares):
    """From the distribution of the error of one digit; errors of several add up."""
    count = task.num_digits
    one = np.zeros(2 * count - 1)  # of an error of 1 - count to count - 1
    for shift in range(1 - count, count):
        one[shift + count - 1] = shares.diagonal(shift).sum() / count
    error = np.arange(1 - count, count)
    mean = float((one * error).sum())
    variance = float((one * error**2).sum()) - mean**2
    lengths = np.arange(task.min_length, task.length + 1)
    right, total = [], np.ones(1)
    for length in range(1, task.length + 1):
        total = np.convolve(total, one)
        if length >= task.min_length:
            right.append(total[len(total) // 2])
    square = float((lengths * variance + (lengths * mean) ** 2).mean())
    return {"rmse": math.sqrt(square), "rounded_accuracy": float(np.mean(right))}
