"""What is asked of images of digits: the target, the names of the answers, digits to draw.

`Trend` asks for one class of the whole sequence, `Digits` for one at each step, `RunningSum` for
one number at each step, `Label` for the class of a single image, `Text` for the characters of
digits side by side, `Classes` for the class of a clip. `TASKS` has them by name.

NumPy only. The methods that work on batches of digits also run inside a TensorFlow graph: pass
`xp=tf.experimental.numpy`. One implementation serves the data pipeline and the tests.
"""

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from keras_cnnlstm.arguments import is_number, told
from keras_cnnlstm.task_arguments import Array, check_range, checked_digits, checked_uniforms
from keras_cnnlstm.trends import Trend


@dataclass(frozen=True)
class Digits:
    """Which digit each step shows: one class per step.

    Args:
        length: T, steps of the longest sequence, 1 to 32.
        num_digits: digits are 0 to `num_digits - 1`; 2 to 100.
        min_length: steps of the shortest sequence, 1 to T; by default all have T. Each length is
            equally likely.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> Digits(length=3).targets(np.array([[7, 3, 8]]))
    array([[7, 3, 8]])
    """

    length: int = 4
    num_digits: int = 10
    min_length: int | None = None

    def __post_init__(self):
        name = type(self).__name__
        check_range(f"{name}: `length` must be {{}} steps", self.length, 1, 32)
        check_range(f"{name}: `num_digits` must be {{}}", self.num_digits, 2, 100)
        if self.min_length is None:
            object.__setattr__(self, "min_length", self.length)
        check_range(f"{name}: `min_length` must be {{}} steps", self.min_length, 1, self.length)

    @property
    def num_classes(self) -> int:
        """One for each digit."""
        return self.num_digits

    @property
    def class_names(self) -> tuple[str, ...]:
        """The digits as text."""
        return tuple(map(str, range(self.num_digits)))

    def targets(self, digits: Array, *, xp: ModuleType = np) -> Array:
        """The class at each step: the digits themselves, `(B, T)` int64.

        Args:
            digits: `(B, T)` integers, 0 to `num_digits - 1`.
            xp: array namespace, `numpy` or `tf.experimental.numpy`.

        Raises:
            ValueError: if `digits` has another shape (or, in NumPy, dtype or range).
        """
        return checked_digits(self, digits) if xp is np else digits

    def draw(self, uniforms: Array, *, balance: float = 0.0, xp: ModuleType = np) -> Array:
        """Digits from uniform random numbers, each equally likely.

        Args:
            uniforms: `(B, T + 2)` float64 in [0, 1); the first two are left to tasks that draw a
                class first.
            balance: must be 0; for tasks that draw a class first.
            xp: array namespace, `numpy` or `tf.experimental.numpy`.

        Returns:
            `(B, T)` int64.

        Raises:
            ValueError: if an argument is none of these (in NumPy).
        """
        if not is_number(balance, 0, 0):
            raise ValueError(
                f"{type(self).__name__}.draw: `balance` must be 0, since no class of the whole "
                f"sequence can be balanced; received {told(balance)}."
            )
        if xp is np:
            uniforms = checked_uniforms(f"{type(self).__name__}.draw", uniforms, self.length + 2)
        return xp.asarray(uniforms[:, 2:] * self.num_digits, np.int64)


class RunningSum(Digits):
    """The sum of the digits so far: one number per step, the last being the sum of all.

    Args:
        length: T, steps of the longest sequence, 1 to 32.
        num_digits: digits are 0 to `num_digits - 1`; 2 to 100.
        min_length: steps of the shortest sequence, 1 to T; by default all have T. Each length is
            equally likely.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> RunningSum(length=3).targets(np.array([[7, 3, 8]]))[0, :, 0]
    array([ 7., 10., 18.], dtype=float32)
    """

    @property
    def num_classes(self) -> int:
        """One number at each step."""
        return 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """None: the answers are numbers."""
        return ()

    def targets(self, digits: Array, *, xp: ModuleType = np) -> Array:
        """The sum up to each step, `(B, T, 1)` float32, for `digits` as `Digits.targets`."""
        digits = super().targets(digits, xp=xp)
        return xp.asarray(xp.cumsum(digits, axis=1)[:, :, None], np.float32)


class Label(Digits):
    """Which digit a single image shows; more generally, its class.

    Args:
        length: 1, since there is one image.
        num_digits: classes are 0 to `num_digits - 1`; 2 to 100.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, length: int = 1, num_digits: int = 10):
        check_range("Label: `length` must be {} image", length, 1, 1)
        super().__init__(length, num_digits)


class Text(Digits):
    """The characters of digits side by side in one image, without where each stands.

    Args:
        length: T, digits in the longest text, 1 to 32.
        num_digits: digits are 0 to `num_digits - 1`; 2 to 100.
        min_length: digits in the shortest text, 1 to T; by default all have T. Each length is
            equally likely.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> Text(length=3).targets(np.array([[7, 0, 8]]))
    array([[8, 1, 9]])
    """

    def targets(self, digits: Array, *, xp: ModuleType = np) -> Array:
        """The classes for CTC, `(B, T)` int64: digit d is class d + 1, since 0 is the blank."""
        return super().targets(digits, xp=xp) + 1


@dataclass(frozen=True)
class Classes:
    """Which of some named classes a clip belongs to: one class of the whole sequence.

    Args:
        class_names: the names, in the order of their indices; two or more, all different.
        length: T, frames of the longest sequence; shorter ones are padded.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> Classes(("left", "right"), length=12).num_classes
    2
    """

    class_names: tuple[str, ...]
    length: int = 16
    min_length: int = 1

    def __post_init__(self):
        names = self.class_names if isinstance(self.class_names, list | tuple) else ()
        of_text = all(isinstance(name, str) for name in names)
        if len(names) < 2 or not of_text or len(set(names)) < len(names):
            raise ValueError(
                "Classes: `class_names` must be two different names or more; received "
                f"{told(self.class_names)}."
            )
        object.__setattr__(self, "class_names", tuple(names))
        check_range("Classes: `length` must be {} frames", self.length, 1, 10_000)
        check_range("Classes: `min_length` must be {} frames", self.min_length, 1, self.length)

    @property
    def num_classes(self) -> int:
        """One for each name."""
        return len(self.class_names)


Task = Trend | Digits | Classes
"""Any of them: `Trend` and `Digits` stand for their subclasses too."""

TASKS: dict[str, type] = {
    "trend": Trend,
    "digits": Digits,
    "running_sum": RunningSum,
    "clip": Classes,
    "label": Label,
    "text": Text,
}
"""Tasks by name, as `TrainConfig.task` and `--task` take them."""
