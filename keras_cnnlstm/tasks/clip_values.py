"""Which numbers belong to a clip, such as a speed or a count?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from keras_cnnlstm.tasks.clip_classes import check_clip_lengths
from keras_cnnlstm.tasks.label_scores import value_scores, value_summary
from keras_cnnlstm.tasks.linear import ridge_regression
from keras_cnnlstm.tasks.task import Task
from keras_cnnlstm.utils.validation import is_number, short_repr

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class ClipValues(Task):
    """One or several numbers of a clip.

    The model learns the numbers standardised, and its last layer turns them back, so that it, its
    exports and its streams answer in the unit of the table.

    Args:
        value_names: names of the numbers, one or more, all different.
        mean: of each number, over the training clips.
        deviation: the standard deviation of each, over 0.
        length: T, frames of the longest sequence; shorter ones are padded.
        min_length: frames of the shortest sequence.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> ClipValues(("speed",), (3.0,), (1.5,)).answer(np.array([2.5]))
    {'values': {'speed': 2.5}}
    """

    default_length = 16
    default_min_length = 1
    lengths = (1, 10_000)
    models: ClassVar[tuple[str, ...]] = ("cnn_lstm",)
    output = "values"
    head = "regression"
    measure = "mean_absolute_error"
    measure_name = "mean absolute error"
    smaller_is_better = True
    needs_labels = True
    question = "Which numbers belong to it?"
    constant_answer_name = "Median"
    outputs_name = "numbers"

    value_names: tuple[str, ...] = ("value",)
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)
    length: int = 16
    min_length: int = 1

    def __post_init__(self) -> None:
        names = tuple(self.value_names) if isinstance(self.value_names, list | tuple) else ()
        if not names or len(set(names)) < len(names) or not all(isinstance(n, str) for n in names):
            raise ValueError(
                f"ClipValues: `value_names` must be different names, one or more; received "
                f"{short_repr(self.value_names)}."
            )
        object.__setattr__(self, "value_names", names)
        for argument, least in (("mean", -1e30), ("deviation", 1e-30)):
            given = getattr(self, argument)
            fits = isinstance(given, list | tuple) and len(given) == len(names)
            if not fits or not all(is_number(number, least, 1e30) for number in given):
                rule = "numbers over 0" if argument == "deviation" else "numbers"
                raise ValueError(
                    f"ClipValues: `{argument}` must be {rule}, one for each name; received "
                    f"{short_repr(given)}."
                )
            object.__setattr__(self, argument, tuple(map(float, given)))
        check_clip_lengths(self)

    @classmethod
    def for_clips(cls, clips: Sequence[Any], train: Sequence[Any], *, length: int) -> Self:
        """The task on some clips.

        Args:
            clips: all of them.
            train: those to learn from, whose mean and standard deviation the model standardises by.
            length: T.

        Raises:
            ValueError: if a number is the same for all of these.
        """
        names = tuple(name for name, _ in clips[0].label.values)
        numbers = np.array([[number for _, number in clip.label.values] for clip in train])
        deviation = numbers.std(axis=0)
        if not deviation.all():
            same = names[int(deviation.argmin())]
            raise ValueError(
                f"labels: column {same} must have different numbers; all training clips have "
                f"{numbers[0, int(deviation.argmin())]:g}."
            )
        return cls(names, tuple(numbers.mean(axis=0)), tuple(deviation), length)

    @classmethod
    def names_in(cls, clips: Iterable[Any]) -> set[str]:
        """The names of the numbers of some clips."""
        return {name for clip in clips for name, _ in clip.label.values}

    @property
    def class_names(self) -> tuple[str, ...]:
        """None: the answers are numbers."""
        return ()

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the numbers."""
        return self.value_names

    @property
    def num_outputs(self) -> int:
        """How many numbers there are."""
        return len(self.value_names)

    @property
    def has_lengths(self) -> bool:
        """Always: a clip may be shorter than the longest."""
        return True

    def clip_target(self, clip: Any, frames: np.ndarray, rate: float | None) -> np.ndarray:
        """The numbers of the clip, `(num_values,)` float32."""
        return np.array([number for _, number in clip.label.values], np.float32)

    def head_options(self) -> dict[str, Any]:
        """The regression head, which turns standardised numbers into those of the table."""
        return {**super().head_options(), "scale": self.deviation, "offset": self.mean}

    def loss(self) -> "keras.losses.Loss":
        """The mean squared error of the standardised numbers."""
        from keras_cnnlstm.tasks.metrics import ScaledSquaredError

        return ScaledSquaredError(self.deviation)

    def metrics(self) -> "list[keras.metrics.Metric]":
        """The mean absolute error; of several numbers in standard deviations."""
        from keras_cnnlstm.tasks.metrics import ScaledAbsoluteError

        return [ScaledAbsoluteError(self._unit, name="mae")]

    @property
    def _unit(self):
        """What an error is measured in: as it is, of several numbers in deviations."""
        return (1.0,) if self.num_outputs == 1 else self.deviation

    def score(
        self, targets: np.ndarray, answers: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, Any]:
        """The entries of `label_scores.value_scores`."""
        return value_scores(targets, answers, self.value_names, self._unit)

    def summary(self, score: dict[str, Any]) -> str:
        """The errors of each number."""
        return value_summary(score)

    def perfect_answers(self, targets: np.ndarray) -> np.ndarray:
        """The targets themselves."""
        return targets

    def constant_answers(self, targets: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """The median of each number."""
        return np.broadcast_to(np.median(targets, axis=0), targets.shape)

    def linear_answers(
        self, fitted: tuple[np.ndarray, ...], x_test: np.ndarray, mask_test: np.ndarray
    ) -> np.ndarray:
        """Those of a ridge regression on the mean vectors."""
        x, y, _ = fitted
        return ridge_regression(x, y, x_test).reshape(len(x_test), -1)
