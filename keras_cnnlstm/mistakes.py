"""Why was it wrong? A model's most confident mistakes, and what explains each.

A mistake on digits is a misread digit if a reader of single digits, with the exact rule, gives the
same wrong answer; if the reader reads all digits rightly, the model misjudged the order, or reads
less well than the reader.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_cnnlstm.arguments import as_array, as_numbers
from keras_cnnlstm.explanations import grad_cam, occlusion
from keras_cnnlstm.streaming import FrameStream

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
)

MISREAD = "misread digit"
"""The reader reads a digit wrongly, and by the rule comes to the same wrong answer."""

ORDER = "order"
"""The reader reads all digits rightly; so they are legible, and the model misjudged their order."""

MODEL = "model"
"""The same where there is no order to judge: the model misread what is legible."""

UNCLEAR = "unclear"
"""The reader reads a digit wrongly too, but by the rule comes to another answer."""


@dataclass(frozen=True)
class Mistake:
    """A sequence that was answered wrongly.

    Attributes:
        index: its place in the test data, from 0.
        confidence: the probability of the wrong answer.
        truth: the right class, by name; where there is one at each step, all of them.
        answer: the class that the model answered, likewise.
        reason: `MISREAD`, `ORDER`, `MODEL` or `UNCLEAR`; `None` where no digits are read.
        digits: the digits behind the frames, as text; `None` of clips.
        read: what the reader of single digits reads; likewise.
        clip: the clip's name; `None` of digits.
        frames: `(T, H, W, C)` uint8, those that count.
        so_far: the answer after each frame, and its probability; nothing if the model cannot be
            streamed.
        occlusion: `(T,)`, by how much the answer falls when a frame is blanked; `None` of models of
            single images.
        maps: `(T, H, W)` in [0, 1], where the answer's evidence is; `None` of models without
            convolutions.
    """

    index: int
    confidence: float
    truth: str
    answer: str
    reason: str | None
    digits: str | None
    read: str | None
    clip: str | None
    frames: np.ndarray
    so_far: tuple[tuple[str, float], ...] = ()
    occlusion: np.ndarray | None = None
    maps: np.ndarray | None = None


def wrong_sequences(
    targets: np.ndarray, probabilities: np.ndarray, counts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The sequences that were answered wrongly, the most confident mistake first.

    Args:
        targets: `(N,)` integers, or `(N, T)` of an answer at each step.
        probabilities: `(N, num_classes)`, or `(N, T, num_classes)`.
        counts: `(N, T)` boolean, which steps count; by default all.

    Returns:
        Their indices, and how sure the model was: of several wrong steps, of the surest.

    Raises:
        ValueError: if the arguments do not fit together.

    Example:

    >>> wrong_sequences(np.array([0, 0, 1]), np.array([[0.4, 0.6], [0.1, 0.9], [0.2, 0.8]]))
    (array([1, 0]), array([0.9, 0.6]))
    """
    targets = as_numbers("wrong_sequences: `targets`", targets, kinds="iu")
    probabilities = as_numbers("wrong_sequences: `probabilities`", probabilities)
    _check_steps(targets, probabilities, counts)
    sure = probabilities.max(axis=-1)
    wrong = probabilities.argmax(axis=-1) != targets
    if targets.ndim == 2:
        wrong = wrong & (True if counts is None else counts)
        sure, wrong = np.where(wrong, sure, 0).max(axis=1), wrong.any(axis=1)
    order = np.argsort(-sure, kind="stable")
    order = order[wrong[order]]
    return order, sure[order]


def _check_steps(targets, probabilities, counts):
    """Refuses answers for other sequences or steps than the targets are for."""
    fits = targets.ndim in (1, 2) and probabilities.shape[:-1] == targets.shape
    if not fits or not targets.size or not probabilities.size:
        raise ValueError(
            "wrong_sequences: `targets` must have shape (N,) or (N, T), and `probabilities` that "
            f"and num_classes; received {targets.shape} and {probabilities.shape}."
        )
    if counts is None:
        return
    counts = as_array("wrong_sequences: `counts`", counts)
    if counts.dtype != bool or counts.shape != targets.shape:
        raise ValueError(
            f"wrong_sequences: `counts` must be boolean of shape {targets.shape}, or None; "
            f"received {counts.dtype} of {counts.shape}."
        )


def explain(
    answers: np.ndarray,
    oracle: np.ndarray,
    truth: np.ndarray,
    read: np.ndarray,
    *,
    legible: str = ORDER,
) -> list[str]:
    """What explains each mistake on digits.

    Args:
        answers: `(N,)` or `(N, T)` classes that the model answered, wrongly.
        oracle: the classes that the rule gives to the digits as they were read.
        truth: `(N, T)` digits behind the frames.
        read: `(N, T)` digits as they were read.
        legible: what is to blame if all digits are read rightly, `ORDER` or `MODEL`.

    Returns:
        `MISREAD`, `legible` or `UNCLEAR` for each.

    Example:

    >>> explain(np.array([2]), np.array([2]), np.array([[4, 7]]), np.array([[9, 7]]))
    ['misread digit']
    """
    rows = len(answers)
    same = (answers == oracle).reshape(rows, -1).all(axis=1)
    right = (truth == read).all(axis=1)
    kinds = np.where(right, legible, np.where(same, MISREAD, UNCLEAR))
    return [str(kind) for kind in kinds]


def reasons(kinds: Sequence[str]) -> dict[str, int]:
    """How many mistakes each reason explains."""
    found = Counter(kinds)
    return {kind: found[kind] for kind in (MISREAD, ORDER, MODEL, UNCLEAR) if found[kind]}


def stream_of(model: keras.Model, class_names: Sequence[str]) -> tuple[FrameStream | None, str]:
    """A stream that tells the answer after each frame; or why the model cannot be streamed.

    Args:
        model: the model.
        class_names: names of the classes.

    Returns:
        The stream and nothing; or nothing and the reason.
    """
    try:
        return FrameStream(model, class_names), ""
    except ValueError as refused:
        return None, str(refused)


def answers_so_far(live: FrameStream, frames: np.ndarray) -> tuple[tuple[str, float], ...]:
    """The answer after each frame of a sequence `(T, H, W, C)` uint8, and its probability."""
    live.reset()
    told = ((answer.label, answer.probabilities) for answer in live.answers(frames))
    return tuple((label, float(p.max())) for label, p in told if p is not None)


def evidence(
    model: keras.Model, frames: np.ndarray, counts: np.ndarray
) -> dict[str, np.ndarray | None]:
    """Which frames the answers hang on, and where in them.

    Args:
        model: the model.
        frames: `(N, T, H, W, C)`, or `(N, H, W, C)` of single images.
        counts: `(N, T)` boolean, which frames count.

    Returns:
        `occlusion (N, T)` and `maps (N, T, H, W)`, as `explanations` makes them; `None` for what
        the model has not got.
    """
    lengths = counts.sum(axis=1).astype(np.int32) if len(model.inputs) > 1 else None
    reads_sequences = frames.ndim == 5
    found: dict[str, Any] = {"occlusion": None, "maps": None}
    if reads_sequences:
        found["occlusion"] = occlusion(model, frames, lengths)
    if any(isinstance(layer, _CONVOLUTIONS) for layer in model._flatten_layers()):
        maps = grad_cam(model, frames, lengths)
        found["maps"] = np.broadcast_to(maps, (len(frames), counts.shape[1], *maps.shape[2:]))
    return found
