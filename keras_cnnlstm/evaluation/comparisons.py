"""Does time help? What simpler answers score on the same test sequences as the model.

A constant answer; a bag of the frames, whose order is lost; the model itself on shuffled frames;
and for digits the oracle: a reader of single digits and the exact rule. What the model has over the
second and third it owes to the order of the frames; what it lacks to the oracle, to reading or to
the rule.

A baseline is given each test batch once (`add`), keeps a few numbers for each sequence and no
frames, and makes its row of the table at the end (`row`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np

from keras_cnnlstm.data.datasets import LabeledImages
from keras_cnnlstm.evaluation.reader import check_reader, confusion_of
from keras_cnnlstm.models.graph import split_model
from keras_cnnlstm.tasks.task import Task
from keras_cnnlstm.training.run_directory import Run
from keras_cnnlstm.training.scoring import Answers, grouped_score

_FITTED = 4000  # training sequences that the bag is fitted to
_SHUFFLED = "Frames shuffled"
_ONE_IMAGE = "The input is one image, so there is no order of frames."


@dataclass(frozen=True)
class Comparison:
    """A row of the table: what answers the test sequences, and how well.

    Attributes:
        title: a few words.
        how: a sentence.
        score: as `task.score` returns it, perhaps with `ceiling`.
        knows_order: whether it has learned from frames in their order.
    """

    title: str
    how: str
    score: Mapping[str, Any]
    knows_order: bool


def compare(
    task: Task,
    answers: Answers,
    baselines: Sequence[Any],
    groups: Sequence[str] | None = None,
    score: Mapping[str, Any] | None = None,
) -> list[Comparison]:
    """The table: the model, the constant answer if there is one, and the baselines.

    Args:
        task: the task.
        answers: of the model.
        baselines: that have been given each test batch.
        groups: the group of each test sequence, if some belong together, for the intervals.
        score: of the answers, if it is known.
    """
    score = score or grouped_score(task, answers, groups)
    rows = [Comparison("The model", "As it was trained.", score, True)]
    constant = task.constant_answers(answers.targets, answers.mask)
    if constant is not None:
        score = grouped_score(task, answers._replace(answers=constant), groups)
        how = "The same answer to every sequence."
        rows.append(Comparison(task.constant_answer_name, how, score, False))
    return rows + [baseline.row(answers, groups) for baseline in baselines]


def frames_of(inputs: Any) -> tuple[np.ndarray, np.ndarray]:
    """The frames of a batch, and `(B, T)` boolean which of them count; `(B, 1)` for single images.

    Args:
        inputs: frames `(B, T, H, W, C)` or single images `(B, H, W, C)`; or a dict of `frames` and
            perhaps `lengths (B,)`; or with `features (B, T, F)` of encoded frames.
    """
    given = inputs if isinstance(inputs, dict) else {"frames": inputs}
    frames = np.asarray(given["features"] if "features" in given else given["frames"])
    time = 1 if frames.ndim == 4 else frames.shape[1]
    lengths = np.asarray(given.get("lengths", np.full(len(frames), time)))
    return frames, np.arange(time) < lengths[:, None]


class ShuffledFrames:
    """The model on the test sequences, the frames of each in random order.

    Args:
        model: the model.
        task: the task that the model was trained for.
        seed: of the orders; those that leave all frames in place are among them.
    """

    def __init__(self, model: keras.Model, task: Task, *, seed: int = 0):
        self._model, self._task = model, task
        self._rng = np.random.default_rng(seed)
        self._answers: list[np.ndarray] = []

    def add(self, frames: np.ndarray, mask: np.ndarray) -> None:
        """Has the model answer a batch in random order; padding stays where it is."""
        keys = np.where(mask, self._rng.random(mask.shape), 1 + np.arange(mask.shape[1]))
        order = keys.argsort(axis=1)
        mixed = np.take_along_axis(frames, order.reshape(*order.shape, 1, 1, 1), axis=1)
        both = {"frames": mixed, "lengths": mask.sum(axis=1).astype(np.int32)}
        inputs = both if len(self._model.inputs) > 1 else mixed
        self._answers.append(self._model.predict_on_batch(inputs))

    def row(self, answers: Answers, groups: Sequence[str] | None = None) -> Comparison:
        """The score of these answers."""
        mixed = answers._replace(answers=np.concatenate(self._answers))
        score = grouped_score(self._task, mixed, groups)
        how = "The model, with the frames of each sequence in random order."
        return Comparison(_SHUFFLED, how, score, True)


class BagOfFrames:
    """A regression on the mean of the frames' vectors, in which their order is lost.

    Softmax regression for classes (of all steps, if each has one), ridge regression for numbers,
    fitted to training sequences as the run's training draws them. A vector is what the run's
    encoder makes of a frame; the frame's pixels, if the model has no encoder of single frames.

    Args:
        run: the run.
        source: of the run.
        training_sequences: how many to fit to; by default 4,000, if the training sees as many.
    """

    def __init__(self, run: Run, source: Any, *, training_sequences: int | None = None):
        self._source, self._task = source, source.task
        self._vectors, self._skip = _sequence_vectors(run.model)
        self._batch = run.config.batch_size or 1
        self._count = training_sequences or min(_FITTED, source.training_sequences)
        self._means: list[np.ndarray] = []
        self._masks: list[np.ndarray] = []

    def add(self, frames: np.ndarray, mask: np.ndarray) -> None:
        """Keeps the mean vector of each sequence."""
        self._means.append(self._mean(frames, mask))
        self._masks.append(mask)

    def row(self, answers: Answers, groups: Sequence[str] | None = None) -> Comparison:
        """Fits the regression, and scores its answers."""
        x, masks = np.concatenate(self._means), np.concatenate(self._masks)
        bag = answers._replace(answers=self._answers(x, masks))
        score = grouped_score(self._task, bag, groups)
        how = (
            "A regression on the mean of the encoder's vectors of the frames; their order is lost."
        )
        return Comparison("Bag of frames", how, score, False)

    def _mean(self, frames, mask):
        each = frames if frames.ndim == 3 else self._vectors(frames)  # encoded already, or not
        each = each.reshape(len(mask), -1, each.shape[-1])  # (B, T, F), fewer steps with motion
        mask = np.arange(each.shape[1]) < np.maximum(mask.sum(axis=1) - self._skip, 1)[:, None]
        return (each * mask[..., None]).sum(axis=1) / mask.sum(axis=1)[:, None]  # (B, F)

    def _answers(self, x_test, mask_test):
        parts = []
        for batch in self._source.training().take(-(-self._count // self._batch)):
            inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(batch)
            frames, mask = frames_of(inputs)
            parts.append((self._mean(frames, mask), np.asarray(targets), mask))
        fitted = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
        return self._task.linear_answers(fitted, x_test, mask_test)


class Oracle:
    """A reader of single digits and the exact rule.

    Args:
        task: a task on digits.
        reader: as `digit_reader` returns it.
        images: the test images of single digits.
        digits: `(N, T)`, those behind the frames of the test sequences; -1 at padding.

    Attributes:
        digits: `(N, T)`, 0 at padding.
        mask: `(N, T)` boolean, the frames that count.

    Raises:
        ValueError: if the reader reads other images.
    """

    def __init__(self, task: Any, reader: keras.Model, images: LabeledImages, digits: np.ndarray):
        check_reader("evaluate", reader, images)
        self._task, self._reader, self._images = task, reader, images
        self.mask = digits >= 0
        self.digits = np.where(self.mask, digits, 0)
        self._read: list[np.ndarray] = []

    def add(self, frames: np.ndarray, mask: np.ndarray) -> None:
        """Reads each frame of a batch, also those that stand side by side in one image."""
        time = self.digits.shape[1]
        if frames.ndim == 4:
            count, height, width, channels = frames.shape
            frames = frames.reshape(count, height, time, width // time, channels)
            frames = np.moveaxis(frames, 2, 1)  # (B, T, H, W, C)
        flat = frames.reshape(-1, *frames.shape[2:])
        self._read.append(self._reader.predict_on_batch(flat).argmax(axis=1).reshape(-1, time))

    @cached_property
    def read(self) -> np.ndarray:
        """The digits as they were read, `(N, T)`, 0 at padding."""
        return np.where(self.mask, np.concatenate(self._read), 0)

    @cached_property
    def answers(self) -> np.ndarray:
        """What the rule answers to them."""
        return self._task.exact_answers(self.read, self.mask)

    def row(self, answers: Answers, groups: Sequence[str] | None = None) -> Comparison:
        """The score, with its expectation, `ceiling`, and the reader's `digit_accuracy`."""
        confusion = confusion_of(self._reader, self._images)
        accuracy = float(confusion.diagonal().sum() / confusion.sum())
        score = self._task.score(answers.targets, self.answers, answers.mask)
        score |= {"digit_accuracy": accuracy, "ceiling": self._task.ceiling(confusion)}
        title = "Oracle: reader" + (" + exact rule" if self._task.has_rule else "")
        how = (
            f"A CNN trained on the same images reads single digits, {accuracy:.2%} of the test "
            f"images correctly{'; the rule is exact' if self._task.has_rule else ''}."
        )
        return Comparison(title, how, score, True)


def number_text(task: Task, value: float) -> str:
    """A measure as text: an error with three places, a share as a percentage."""
    return f"{value:.3f}" if task.smaller_is_better else f"{value:.2%}"


def value_text(task: Task, score: Mapping[str, Any]) -> str:
    """The measure of a score as text."""
    return number_text(task, score[task.measure])


def interval_text(task: Task, score: Mapping[str, Any]) -> str:
    """Both ends of its 95 % interval as text."""
    return " to ".join(number_text(task, end) for end in score[f"{task.measure}_95"])


def ceiling_of(task: Task, score: Mapping[str, Any]) -> float | None:
    """The oracle's ceiling of the measure, if there is one."""
    return (score.get("ceiling") or {}).get(task.measure)


def verdict(task: Task, rows: Sequence[Comparison]) -> str:
    """Whether the order of the frames helps, in a sentence or two.

    It does if the model's 95 % interval lies apart from that of the best answer without order.

    Args:
        task: the task.
        rows: the table, the model first.
    """
    blind = [row for row in rows if not row.knows_order]
    if not blind:
        return _ONE_IMAGE
    smaller, model = task.smaller_is_better, rows[0].score
    best = (min if smaller else max)(blind, key=lambda row: row.score[task.measure])
    text = f"{best.title} scores {value_text(task, best.score)}, the model "
    text += f"{value_text(task, model)}. "
    shuffled = next((row.score for row in rows if row.title == _SHUFFLED), None)
    if shuffled is None:
        return text + _ONE_IMAGE
    (low, high), (other_low, other_high) = (x[f"{task.measure}_95"] for x in (model, best.score))
    apart = high < other_low if smaller else low > other_high
    return (
        f"{'Yes' if apart else 'There is no sign of it'}. {text}With the frames in random order "
        f"the model scores {value_text(task, shuffled)}."
    )


def comparison_lines(task: Task, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table as lines of text for a terminal; a row is a score with its `title`."""
    width = max(len(row["title"]) for row in rows)
    lines = []
    for row in rows:
        ceiling = ceiling_of(task, row)
        end = "" if ceiling is None else f"  ceiling {number_text(task, ceiling)}"
        title, value = f"{row['title']:<{width}}", f"{value_text(task, row):>8}"
        lines.append(f"  {title}  {value}  ({interval_text(task, row)}){end}")
    return lines


def _sequence_vectors(model) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """From frames `(B, T, H, W, C)` to the vectors `(N, F)` that the model's encoder makes of them.

    And how many frames of a sequence have none, where the encoder reads motion.
    """
    if not any(isinstance(layer, keras.layers.TimeDistributed) for layer in model.layers):
        return lambda frames: frames.reshape(np.prod(frames.shape[:-3]), -1) / np.float32(255), 0
    parts = split_model(model)

    def vectors(frames):
        images = frames if parts.motion is None else np.asarray(parts.motion(frames))
        return parts.frame_encoder.predict_on_batch(images.reshape(-1, *images.shape[2:]))

    return vectors, parts.motion.lag if parts.motion else 0
