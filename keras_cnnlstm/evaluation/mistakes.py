"""Why was it wrong? A model's most confident mistakes, and what explains each.

A mistake on digits is a misread digit if a reader of single digits, with the exact rule, gives the
same wrong answer; if the reader reads all digits correctly, the model misjudged the order, or reads
less well than the reader.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_cnnlstm.evaluation.comparisons import Oracle
from keras_cnnlstm.evaluation.explanations import grad_cam, occlusion
from keras_cnnlstm.evaluation.gradcam import convolves
from keras_cnnlstm.models.streaming import FrameStream
from keras_cnnlstm.training.scoring import Answers
from keras_cnnlstm.utils.validation import as_numbers, as_shaped

MISREAD = "misread digit"  # the reader misreads one too, and the rule leads to the same answer
ORDER = "order"  # the reader reads all digits, so they are legible: the model misjudged the order
MODEL = "model"  # the same where there is no order to judge: the model misread what is legible
UNCLEAR = "unclear"  # the reader misreads a digit too, but the rule leads to another answer
_REASONS = (MISREAD, ORDER, MODEL, UNCLEAR)


@dataclass(frozen=True)
class Mistake:
    """A sequence that was answered wrongly.

    Attributes:
        index: its place in the test data, from 0.
        confidence: the probability of the wrong answer.
        truth: the name of the right class; where there is one at each step, of all of them.
        answer: the name of the class that the model answered, likewise.
        frames: `(T, H, W, C)` uint8, those that count.
        reason: `MISREAD`, `ORDER`, `MODEL` or `UNCLEAR`; `None` where no digits are read.
        digits: the digits behind the frames, as text; `None` for clips.
        read: the digits as the reader of single digits reads them, likewise.
        clip: the clip's name; `None` for digits.
        answers_by_frame: the answer after each frame, and its probability; empty if the model
            cannot be streamed.
        occlusion: `(T,)`, how much the answer falls when a frame is blanked; `None` for models of
            single images.
        maps: `(T, H, W)` in [0, 1], where the evidence for the answer is; `None` for models without
            convolutions.
    """

    index: int
    confidence: float
    truth: str
    answer: str
    frames: np.ndarray
    reason: str | None = None
    digits: str | None = None
    read: str | None = None
    clip: str | None = None
    answers_by_frame: tuple[tuple[str, float], ...] = ()
    occlusion: np.ndarray | None = None
    maps: np.ndarray | None = None


def wrong_sequences(
    targets: np.ndarray, probabilities: np.ndarray, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The sequences that were answered wrongly, the most confident mistake first.

    Args:
        targets: `(N,)` integers, or `(N, T)` of an answer at each step.
        probabilities: `(N, num_classes)`, or `(N, T, num_classes)`.
        mask: `(N, T)` boolean, the steps that count; by default all.

    Returns:
        Their indices, and the probability of the wrong answer; of several wrong steps, the largest.

    Raises:
        ValueError: if the arguments do not fit together.

    Example:

    >>> wrong_sequences(np.array([0, 0, 1]), np.array([[0.4, 0.6], [0.1, 0.9], [0.2, 0.8]]))
    (array([1, 0]), array([0.9, 0.6]))
    """
    targets = as_numbers("wrong_sequences: `targets`", targets, kinds="iu")
    probabilities = as_numbers("wrong_sequences: `probabilities`", probabilities)
    _check_steps(targets, probabilities, mask)
    sure = probabilities.max(axis=-1)
    wrong = probabilities.argmax(axis=-1) != targets
    if targets.ndim == 2:
        wrong = wrong & (True if mask is None else mask)
        sure, wrong = np.where(wrong, sure, 0).max(axis=1), wrong.any(axis=1)
    order = np.argsort(-sure, kind="stable")
    order = order[wrong[order]]
    return order, sure[order]


def _check_steps(targets, probabilities, mask):
    """Refuses answers for other sequences or steps than the targets are for."""
    fits = targets.ndim in (1, 2) and probabilities.shape[:-1] == targets.shape
    if not fits or not targets.size or not probabilities.size:
        raise ValueError(
            "wrong_sequences: `targets` must have shape (N,) or (N, T), and `probabilities` that "
            f"and num_classes; received {targets.shape} and {probabilities.shape}."
        )
    if mask is not None:
        as_shaped("wrong_sequences: `mask`", mask, "bool", targets.shape)


class MistakenFrames:
    """Keeps the frames of the most confident mistakes while the test batches pass.

    Args:
        count: sequences to keep at most.

    Attributes:
        kept: for each, in the order of `wrong_sequences`, minus its confidence, its index, its
            frames, and `(T,)` boolean which of them count.
    """

    def __init__(self, count: int):
        self._count, self._seen = count, 0
        self.kept: list[tuple[float, int, np.ndarray, np.ndarray]] = []

    def add(self, frames: np.ndarray, mask: np.ndarray, answers: Answers) -> None:
        """Takes the next batch; drops the frames of less confident mistakes."""
        if not self._count:
            return
        for row, sure in list(zip(*wrong_sequences(*answers), strict=True))[: self._count]:
            index = self._seen + int(row)
            self.kept.append((-float(sure), index, np.array(frames[row]), mask[row]))
        self.kept = sorted(self.kept, key=lambda one: one[:2])[: self._count]
        self._seen += len(answers.targets)


def explain_mistakes(
    task: Any,
    model: keras.Model,
    answers: Answers,
    shown: MistakenFrames,
    *,
    oracle: Oracle | None = None,
    names: Sequence[str] | None = None,
) -> tuple[list[Mistake], dict[str, int], str]:
    """The most confident mistakes, with what explains them.

    Args:
        task: the task, whose answers are probabilities.
        model: the model.
        answers: all of its answers.
        shown: the frames of the mistakes to show.
        oracle: the reader of single digits, after all batches.
        names: of the clips.

    Returns:
        The mistakes; how many `sequences` were answered wrongly, and how many each reason explains;
        and why there are no answers after each frame, if so.
    """
    indices, sure = wrong_sequences(*answers)
    wrong, chosen = {"sequences": len(indices)}, answers.answers.argmax(axis=-1)
    columns: dict[str, Any] = {"confidence": sure.tolist()}
    if oracle is not None and len(indices):
        columns["reason"] = reasons_of(task, answers, oracle, indices)
        wrong |= {k: columns["reason"].count(k) for k in _REASONS if k in columns["reason"]}
    if not shown.kept:
        return [], wrong, ""
    frames, mask = (np.stack(column) for column in list(zip(*shown.kept, strict=True))[2:])
    indices, lengths, not_streamed = indices[: len(frames)], mask.sum(axis=1), ""

    def cut(rows):
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]

    def text(rows, names=None):
        rows = cut(rows[indices].reshape(len(indices), -1))
        return [" ".join(names[k] if names else str(k) for k in row) for row in rows]

    columns |= {name: cut(x) for name, x in evidence(model, frames, mask).items() if x is not None}
    columns["frames"] = frames[:, None] if frames.ndim == 4 else cut(frames)
    if frames.ndim == 5:
        each = columns["frames"]
        columns["answers_by_frame"], not_streamed = answers_so_far(model, task.class_names, each)
    columns["truth"] = text(answers.targets, task.class_names)
    columns["answer"] = text(chosen, task.class_names)
    if oracle is not None:
        columns |= {"digits": text(oracle.digits), "read": text(oracle.read)}
    if names is not None:
        columns["clip"] = [names[index] for index in indices]
    mistakes = [
        Mistake(int(index), **{name: column[k] for name, column in columns.items()})
        for k, index in enumerate(indices)
    ]
    return mistakes, wrong, not_streamed


def reasons_of(task: Any, answers: Answers, oracle: Oracle, indices: np.ndarray) -> list[str]:
    """What explains each mistake on digits: `MISREAD`, `UNCLEAR`, and `ORDER` or `MODEL`.

    Args:
        task: a task on digits.
        answers: of the model.
        oracle: after all batches.
        indices: of the sequences that were answered wrongly.
    """
    steps = True if answers.mask is None else answers.mask[indices]
    pair = (x.argmax(axis=-1)[indices] for x in (answers.answers, oracle.answers))
    same = np.equal(*(np.where(steps, x, 0) for x in pair)).reshape(len(indices), -1)
    legible = ORDER if task.reads_order else MODEL
    right = (oracle.digits[indices] == oracle.read[indices]).all(axis=1)
    misread = np.where(same.all(axis=1), MISREAD, UNCLEAR)
    return np.where(right, legible, misread).tolist()


def answers_so_far(
    model: keras.Model, class_names: Sequence[str], sequences: Sequence[np.ndarray]
) -> tuple[list[tuple[tuple[str, float], ...]], str]:
    """The answer after each frame of sequences, and its probability.

    Args:
        model: the model.
        class_names: names of the classes.
        sequences: each `(T, H, W, C)` uint8.

    Returns:
        A tuple for each sequence; empty ones, and the reason, if the model cannot be streamed.
    """
    try:
        live = FrameStream(model, class_names)
    except ValueError as refused:
        return [() for _ in sequences], str(refused)
    found = []
    for frames in sequences:
        live.reset()
        probable = [(answer.label, answer.probabilities) for answer in live.answers(frames)]
        found.append(tuple((label, float(p.max())) for label, p in probable if p is not None))
    return found, ""


def evidence(
    model: keras.Model, frames: np.ndarray, mask: np.ndarray
) -> dict[str, np.ndarray | None]:
    """Which frames the answers hang on, and where in them.

    Args:
        model: the model.
        frames: `(N, T, H, W, C)`, or `(N, H, W, C)` of single images.
        mask: `(N, T)` boolean, the frames that count.

    Returns:
        `occlusion (N, T)` and `maps (N, T, H, W)`, as `explanations` makes them; `None` for models
        of single images, and for models without convolutions.
    """
    lengths = mask.sum(axis=1).astype(np.int32) if len(model.inputs) > 1 else None
    found: dict[str, Any] = {"occlusion": None, "maps": None}
    if frames.ndim == 5:
        found["occlusion"] = occlusion(model, frames, lengths)
    if convolves(model):
        maps = grad_cam(model, frames, lengths)
        found["maps"] = np.broadcast_to(maps, (len(frames), mask.shape[1], *maps.shape[2:]))
    return found
