"""Which digit is it? At each step of a sequence (`Digits`), or in a single image (`Label`)."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from keras_cnnlstm.tasks.digit_task import Array, DigitTask, ReadDigits, checked_digits
from keras_cnnlstm.tasks.scores import step_scores, step_summary


@dataclass(frozen=True)
class Digits(ReadDigits):
    """Which digit each step shows: one class per step. Arguments as for `DigitTask`.

    Example:

    >>> Digits(length=3).targets(np.array([[7, 3, 8]]))
    array([[7, 3, 8]])
    """

    per_step = True
    measure_name = "accuracy of steps"
    question = "Which are they?"
    has_rule = False

    def score(
        self, targets: np.ndarray, answers: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, Any]:
        """The entries of `scores.step_scores`."""
        return step_scores(targets, answers, mask, self.class_names)

    def summary(self, score: dict[str, Any]) -> str:
        """Accuracy of steps and of whole sequences."""
        return step_summary(score)

    def _ceiling(self, shares: np.ndarray) -> dict[str, float]:
        return {
            "accuracy": float(shares.diagonal().mean()),
            "sequence_accuracy": self._all_digits_right(shares),
        }


@dataclass(frozen=True)
class Label(DigitTask):
    """Which digit a single image shows; more generally, its class.

    Args:
        length: 1, since there is one image.
        num_digits: classes are 0 to `num_digits - 1`; 2 to 100.
        min_length: 1.

    Raises:
        ValueError: if an argument is out of range.
    """

    default_length = 1
    lengths = (1, 1)
    variable_length = False
    question = "Which one is it?"
    has_rule = False
    arrangement = "image"
    models: ClassVar[tuple[str, ...]] = ("image_cnn", "scan_lstm", "renet")

    length: int = 1

    def targets(self, digits: Array, *, xp: ModuleType = np) -> Array:
        """The class of each image, `(B,)` int64, for digits `(B, 1)`."""
        return (checked_digits(self, digits) if xp is np else digits)[:, 0]
