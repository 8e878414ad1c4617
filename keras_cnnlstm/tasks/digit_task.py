"""Tasks on sequences of digits that are drawn: what they have in common.

The methods that work on batches of digits also run inside a TensorFlow graph: pass
`xp=tf.experimental.numpy`. One implementation serves the data pipeline and the tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np

from keras_cnnlstm.tasks.task import Task
from keras_cnnlstm.utils.validation import as_array, as_numbers, is_integer, is_number, short_repr

Array = Any  # a NumPy array, or a tensor of the namespace given as `xp`


@dataclass(frozen=True)
class DigitTask(Task):
    """A task on T digits, each equally likely.

    Args:
        length: T, digits in the longest sequence; `lengths` has the limits.
        num_digits: digits are 0 to `num_digits - 1`; 2 to 100.
        min_length: digits in the shortest sequence, 1 to T; by default all have T. Each length is
            equally likely. Tasks without `variable_length` allow only T.

    Raises:
        ValueError: if an argument is out of range.
    """

    draws_digits = True
    question = "Which is it?"
    has_rule = True

    reads_order: ClassVar[bool] = False
    """Whether the answer depends on the order of the digits."""

    length: int = 4
    num_digits: int = 10
    min_length: int | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_range(f"{name}: `length` must be {{}} digits", self.length, *self.lengths)
        check_range(f"{name}: `num_digits` must be {{}}", self.num_digits, 2, 100)
        if self.min_length is None:
            object.__setattr__(self, "min_length", self.length)
        shortest = 1 if self.variable_length else self.length
        check_range(f"{name}: `min_length` must be {{}}", self.min_length, shortest, self.length)

    @classmethod
    def for_images(cls, num_digits: int, *, length: int, min_length: int) -> Self:
        """The task on images of `num_digits` classes, with the lengths of a run's options."""
        return cls(length, num_digits, min_length)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The digits as text."""
        return tuple(map(str, range(self.num_digits)))

    def targets(self, digits: Array, *, xp: ModuleType = np) -> Array:
        """The target of each sequence of digits.

        Args:
            digits: `(B, T)` integers, 0 to `num_digits - 1`.
            xp: array namespace, `numpy` or `tf.experimental.numpy`.

        Raises:
            ValueError: if `digits` has another shape (or, in NumPy, dtype or range).
        """
        raise NotImplementedError

    def draw(self, uniforms: Array, *, balance: float = 0.0, xp: ModuleType = np) -> Array:
        """Digits from uniform random numbers, each equally likely.

        Args:
            uniforms: `(B, T + 2)` float64 in [0, 1); the first two are for tasks that draw a class
                first.
            balance: must be 0; for tasks that draw a class first.
            xp: array namespace, `numpy` or `tf.experimental.numpy`.

        Returns:
            `(B, T)` int64.

        Raises:
            ValueError: if an argument is none of these (in NumPy).
        """
        name = type(self).__name__
        if not is_number(balance, 0, 0):
            raise ValueError(
                f"{name}.draw: `balance` must be 0, since the sequences have no class to balance; "
                f"received {short_repr(balance)}."
            )
        if xp is np:
            uniforms = checked_uniforms(f"{name}.draw", uniforms, self.length + 2)
        return xp.asarray(uniforms[:, 2:] * self.num_digits, np.int64)

    def rule_text(self, digits: Sequence[int]) -> str:
        """The exact rule for some digits as text; empty where there is nothing to show."""
        return ""

    def reading_task(self) -> "DigitTask":
        """The task that draws the same sequences, and asks which digit each frame shows."""
        return ReadDigits(self.length, self.num_digits, self.min_length)

    def exact_answers(self, digits: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """What the exact rule answers to digits, as `score` takes it.

        Args:
            digits: `(N, T)` integers, 0 to `num_digits - 1`; 0 at padding.
            mask: `(N, T)` boolean, the digits that count.
        """
        return self.perfect_answers(self.targets(digits))

    def ceiling(self, confusion: np.ndarray) -> dict[str, float] | None:
        """What a reader of single digits and the exact rule score in expectation, computed exactly.

        On natural sequences, whose digits are uniform and misread independently of one another.

        Args:
            confusion: `(num_digits, num_digits)`, how often digit i is read as j; each row has at
                least one.

        Returns:
            Entries of `score`, or `None` where there is nothing to compute or it takes too long.

        Raises:
            ValueError: if `confusion` has another shape, or an empty row.
        """
        confusion = as_numbers("ceiling: `confusion`", confusion).astype(np.float64)
        expected = (self.num_digits, self.num_digits)
        if confusion.shape != expected or confusion.min() < 0 or not confusion.sum(axis=1).all():
            raise ValueError(
                f"ceiling: `confusion` must be counts of shape {expected}, at least one in each "
                f"row; received {confusion.shape} with the sums "
                f"{short_repr(confusion.sum(axis=-1).tolist())}."
            )
        return self._ceiling(confusion / confusion.sum(axis=1, keepdims=True))

    def _ceiling(self, shares: np.ndarray) -> dict[str, float] | None:
        return None

    def _all_digits_right(self, shares: np.ndarray) -> float:
        """The share of sequences of which each digit is read rightly."""
        right = shares.diagonal().mean()
        lengths = range(self.min_length or 1, self.length + 1)  # each is equally likely
        return float(np.mean([right**length for length in lengths]))


@dataclass(frozen=True)
class ReadDigits(DigitTask):
    """Draws digits, and asks for each of them. Arguments as for `DigitTask`."""

    def targets(self, digits: Array, *, xp: ModuleType = np) -> Array:
        """The digits themselves, `(B, T)` int64."""
        return checked_digits(self, digits) if xp is np else digits


def checked_digits(task: DigitTask, digits: Array) -> np.ndarray:
    """Digits `(B, T)` for a task, as int64."""
    name = type(task).__name__
    digits = as_array(f"{name}.targets: `digits`", digits)
    if digits.ndim != 2 or digits.shape[1] != task.length:
        raise ValueError(
            f"{name}.targets: `digits` must have shape (B, {task.length}); received {digits.shape}."
        )
    if digits.dtype.kind not in "iu":
        raise ValueError(f"{name}.targets: `digits` must be integers; received {digits.dtype}.")
    if digits.size and not (digits.min() >= 0 and digits.max() < task.num_digits):
        raise ValueError(
            f"{name}.targets: `digits` must be 0 to {task.num_digits - 1}; received "
            f"{digits.min()} to {digits.max()}."
        )
    return digits.astype(np.int64)


def checked_uniforms(method: str, uniforms: Array, columns: int) -> np.ndarray:
    """Random numbers `(B, columns)` in [0, 1); `method` names the caller in an error."""
    uniforms = as_array(f"{method}: `uniforms`", uniforms)
    if uniforms.shape[1:] != (columns,) or uniforms.dtype.kind != "f":
        raise ValueError(
            f"{method}: `uniforms` must be (B, {columns}) floats; received {uniforms.dtype} of "
            f"shape {uniforms.shape}."
        )
    if not ((uniforms >= 0) & (uniforms < 1)).all():
        raise ValueError(
            f"{method}: `uniforms` must be in [0, 1); received {uniforms.min()} to "
            f"{uniforms.max()}. Draw them with rng.random."
        )
    return uniforms


def check_range(what: str, value: Any, low: int, high: int) -> None:
    """Refuses what is no integer of a range; `what` has a place {} to name the range."""
    if not is_integer(value, low, high):
        raise ValueError(f"{what.format(f'{low} to {high}')}; received {short_repr(value)}.")
