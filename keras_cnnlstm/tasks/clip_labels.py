"""Which labels does a clip have? Any number of them at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from keras_cnnlstm.tasks.clip_classes import Classes
from keras_cnnlstm.tasks.label_scores import label_scores, label_summary, macro_f1
from keras_cnnlstm.tasks.linear import softmax_regression

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class ClipLabels(Classes):
    """Which of some labels a clip has: a probability for each, independent of the others.

    Args:
        class_names: the labels, in the order of their indices; one or more, all different.
        length: T, frames of the longest sequence; shorter ones are padded.
        min_length: frames of the shortest sequence.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> task = ClipLabels(("person", "car"))
    >>> task.answer(np.array([0.9, 0.2]))["labels"]
    ['person']
    """

    models: ClassVar[tuple[str, ...]] = ("cnn_lstm",)
    output = "label_probabilities"
    head = "multi_label"
    measure = "macro_f1"
    measure_name = "macro F1"
    measure_is_mean = False
    needs_labels = True
    question = "Which labels fit?"
    constant_answer_name = "Share of each label"
    outputs_name = "labels"
    fewest_classes = 1

    @classmethod
    def names_in(cls, clips: Iterable[Any]) -> set[str]:
        """The labels of some clips."""
        return {name for clip in clips for name in clip.label.classes}

    def clip_target(self, clip: Any, frames: np.ndarray, rate: float | None) -> np.ndarray:
        """1 for each label of the clip, else 0, `(num_labels,)` float32."""
        return np.isin(self.class_names, clip.label.classes).astype(np.float32)

    def loss(self) -> "keras.losses.Loss":
        """The mean binary cross-entropy of the labels."""
        import keras

        return keras.losses.BinaryCrossentropy(reduction="mean_with_sample_weight")

    def metrics(self) -> "list[keras.metrics.Metric]":
        """The mean over the labels of the area under the precision-recall curve, and macro F1."""
        import keras

        options = {"curve": "PR", "multi_label": True, "num_labels": self.num_outputs}
        return [
            keras.metrics.AUC(name="average_precision", **options),
            keras.metrics.F1Score("macro", threshold=0.5, name="f1"),
        ]

    def score(
        self, targets: np.ndarray, answers: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, Any]:
        """The entries of `label_scores.label_scores`."""
        return label_scores(targets, answers, self.class_names)

    def measured(
        self, targets: np.ndarray, answers: np.ndarray, mask: np.ndarray | None = None
    ) -> float:
        """Macro F1."""
        return macro_f1(targets.astype(int), (answers > 0.5).astype(int))

    def summary(self, score: dict[str, Any]) -> str:
        """Macro F1 and the figures of each label."""
        return label_summary(score)

    def perfect_answers(self, targets: np.ndarray) -> np.ndarray:
        """The targets themselves."""
        return np.asarray(targets, np.float64)

    def constant_answers(self, targets: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """How frequent each label is, for every clip."""
        return np.broadcast_to(targets.mean(axis=0), targets.shape)

    def linear_answers(
        self, fitted: tuple[np.ndarray, ...], x_test: np.ndarray, mask_test: np.ndarray
    ) -> np.ndarray:
        """Those of a logistic regression for each label."""
        x, y, _ = fitted
        answers = np.empty((len(x_test), self.num_outputs))
        for k, column in enumerate(y.T.astype(int)):
            both = 0 < column[1:].sum() < len(column) - 1  # also where some rows are held out
            answers[:, k] = (
                softmax_regression(x, column, x_test, 2)[:, 1] if both else column.mean()
            )
        return answers
