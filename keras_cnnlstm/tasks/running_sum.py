"""What is the sum so far? A number at each step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from keras_cnnlstm.tasks.digit_task import Array, DigitTask, checked_digits
from keras_cnnlstm.tasks.linear import ridge_regression
from keras_cnnlstm.tasks.scores import number_scores, number_summary

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class RunningSum(DigitTask):
    """The sum of the digits so far: one number per step, the last being the sum of all.

    Arguments as for `DigitTask`.

    Example:

    >>> RunningSum(length=3).targets(np.array([[7, 3, 8]]))[0, :, 0]
    array([ 7., 10., 18.], dtype=float32)
    """

    default_length = 8
    default_min_length = 1
    output = "values"
    per_step = True
    head = "regression"
    measure = "rmse"
    measure_name = "root-mean-square error"
    smaller_is_better = True
    question = "What is their sum?"
    constant_answer_name: ClassVar[str] = "Mean number"

    @property
    def class_names(self) -> tuple[str, ...]:
        """None: the answers are numbers."""
        return ()

    @property
    def num_outputs(self) -> int:
        """One number at each step."""
        return 1

    def head_options(self) -> dict[str, Any]:
        """The regression head, scaled by the largest digit."""
        return {**super().head_options(), "scale": float(self.num_digits)}

    def targets(self, digits: Array, *, xp: ModuleType = np) -> Array:
        """The sum up to each step, `(B, T, 1)` float32."""
        digits = checked_digits(self, digits) if xp is np else digits
        return xp.asarray(xp.cumsum(digits, axis=1)[:, :, None], np.float32)

    def rule_text(self, digits: Sequence[int]) -> str:
        """The sum.

        Example:

        >>> RunningSum().rule_text([7, 3])
        '7 + 3 = 10'
        """
        return f"{' + '.join(map(str, digits))} = {sum(digits)}"

    def loss(self) -> "keras.losses.Loss":
        """The mean squared error of all real steps."""
        import keras

        return keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")

    def metrics(self) -> "list[keras.metrics.Metric]":
        """The root-mean-square error."""
        import keras

        return [keras.metrics.RootMeanSquaredError(name="rmse")]

    def score(
        self, targets: np.ndarray, answers: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, Any]:
        """The entries of `scores.number_scores`."""
        return number_scores(targets[..., 0], answers[..., 0], mask)

    def summary(self, score: dict[str, Any]) -> str:
        """The errors, and that of each length."""
        return number_summary(score)

    def perfect_answers(self, targets: np.ndarray) -> np.ndarray:
        """The targets themselves."""
        return targets

    def constant_answers(self, targets: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """The mean of each step, `(N, T, 1)`."""
        counted = np.ones(targets.shape[:2], bool) if mask is None else mask
        mean = [targets[counted[:, t], t, 0].mean() for t in range(targets.shape[1])]
        return np.broadcast_to(mean, counted.shape)[..., None]

    def linear_answers(
        self, fitted: tuple[np.ndarray, ...], x_test: np.ndarray, mask_test: np.ndarray
    ) -> np.ndarray:
        """Those of a ridge regression on the sum of the vectors; targets of padded steps are 0."""
        x, y, mask = fitted
        x, x_test = x * mask.sum(1, keepdims=True), x_test * mask_test.sum(1, keepdims=True)
        return ridge_regression(x, y.reshape(len(y), -1), x_test).reshape(-1, *y.shape[1:])

    def _ceiling(self, shares: np.ndarray) -> dict[str, float]:
        """From the distribution of the error of one digit; errors of several add up."""
        count = self.num_digits
        error = np.arange(1 - count, count)
        one = np.array([shares.diagonal(shift).sum() / count for shift in error])
        mean = float((one * error).sum())
        variance = float((one * error**2).sum()) - mean**2
        lengths = np.arange(self.min_length or 1, self.length + 1)
        right, total = [], np.ones(1)
        for length in range(1, self.length + 1):
            total = np.convolve(total, one)
            if length >= lengths[0]:
                right.append(total[len(total) // 2])
        square = float((lengths * variance + (lengths * mean) ** 2).mean())
        return {"rmse": math.sqrt(square), "rounded_accuracy": float(np.mean(right))}
