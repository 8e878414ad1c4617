"""What does the strip say? The characters of digits side by side in one image."""

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from keras_cnnlstm.tasks.answers import best_path
from keras_cnnlstm.tasks.digit_task import Array, DigitTask, checked_digits
from keras_cnnlstm.tasks.scores import text_scores, text_summary

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Text(DigitTask):
    """The characters of digits side by side, without where each stands; trained by CTC.

    Arguments as for `DigitTask`.

    Example:

    >>> Text(length=3).targets(np.array([[7, 0, 8]]))
    array([[8, 1, 9]])
    """

    arrangement = "strip"
    models: ClassVar[tuple[str, ...]] = ("crnn",)
    output = "logits"
    question = "What do they say?"

    def targets(self, digits: Array, *, xp: ModuleType = np) -> Array:
        """The classes for CTC, `(B, T)` int64: digit d is class d + 1, since 0 is the blank."""
        return (checked_digits(self, digits) if xp is np else digits) + 1

    def loss(self) -> "keras.losses.Loss":
        """Connectionist temporal classification (Graves et al., ICML 2006)."""
        import keras

        return keras.losses.CTC()

    def metrics(self) -> "list[keras.metrics.Metric]":
        """The share of texts without a mistake."""
        import keras

        from keras_cnnlstm.tasks.metrics import text_accuracy

        return [keras.metrics.MeanMetricWrapper(text_accuracy, name="accuracy")]

    def score(
        self, targets: np.ndarray, answers: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, Any]:
        """The entries of `scores.text_scores`.

        Args:
            targets: `(N, L)` integers, classes for CTC.
            answers: logits `(N, T, num_digits + 1)`, or the characters that were read, `(N, L)`
                integers and then -1.
            mask: not used.
        """
        if answers.ndim == 3:
            answers = _padded([best_path(row) for row in answers])
        return text_scores(targets - 1, answers)

    def summary(self, score: dict[str, Any]) -> str:
        """Accuracy of whole texts and of characters."""
        return text_summary(score)

    def perfect_answers(self, targets: np.ndarray) -> np.ndarray:
        """The characters, `(N, L)`, then -1 to the end."""
        return targets - 1

    def target_answer(self, target: np.ndarray) -> dict[str, Any]:
        """Its characters as `text`."""
        return {"text": "".join(self.class_names[k - 1] for k in target if k)}

    def constant_answers(self, targets: np.ndarray, mask: np.ndarray | None = None) -> None:
        """None: no text is frequent."""
        return None

    def exact_answers(self, digits: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The digits as they were read, -1 at padding."""
        return np.where(mask, digits, -1)

    def _ceiling(self, shares: np.ndarray) -> dict[str, float]:
        return {"accuracy": self._all_digits_right(shares)}


def _padded(rows: list[list[int]]) -> np.ndarray:
    """Rows of different lengths as one array, -1 behind each."""
    padded = np.full((len(rows), max(1, *map(len, rows))), -1)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded
