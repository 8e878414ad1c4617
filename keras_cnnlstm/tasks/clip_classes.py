"""Which class does a clip belong to? One class of the whole sequence."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from keras_cnnlstm.tasks.digit_task import check_range
from keras_cnnlstm.tasks.task import Task
from keras_cnnlstm.utils.files import natural_order
from keras_cnnlstm.utils.validation import short_repr


@dataclass(frozen=True)
class Classes(Task):
    """Which of some named classes a clip belongs to.

    Args:
        class_names: the names, in the order of their indices; two or more, all different.
        length: T, frames of the longest sequence; shorter ones are padded.
        min_length: frames of the shortest sequence.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> Classes(("left", "right"), length=12).num_outputs
    2
    """

    default_length = 16
    default_min_length = 1
    lengths = (1, 10_000)
    models: ClassVar[tuple[str, ...]] = ("cnn_lstm", "bag_of_frames")
    can_balance = True
    fewest_classes: ClassVar[int] = 2

    class_names: tuple[str, ...] = ()
    length: int = 16
    min_length: int = 1

    def __post_init__(self) -> None:
        names = self.class_names if isinstance(self.class_names, list | tuple) else ()
        of_text = all(isinstance(name, str) for name in names)
        least = self.fewest_classes
        if len(names) < least or not of_text or len(set(names)) < len(names):
            rule = (
                "one name or more, all different" if least == 1 else "two different names or more"
            )
            raise ValueError(
                f"{type(self).__name__}: `class_names` must be {rule}; "
                f"received {short_repr(self.class_names)}."
            )
        object.__setattr__(self, "class_names", tuple(names))
        check_clip_lengths(self)

    @property
    def has_lengths(self) -> bool:
        """Always: a clip may be shorter than the longest."""
        return True

    @classmethod
    def for_clips(cls, clips: Sequence[Any], train: Sequence[Any], *, length: int) -> Self:
        """The task on some clips.

        Args:
            clips: all of them; their classes in natural order are those of the task.
            train: those to learn from.
            length: T.
        """
        names = sorted(cls.names_in(clips), key=lambda name: natural_order(Path(name)))
        return cls(tuple(names), length)

    @classmethod
    def names_in(cls, clips: Iterable[Any]) -> set[str]:
        """The names of what there is to answer of some clips: their classes."""
        return {clip.class_name for clip in clips}


def check_clip_lengths(task: Any) -> None:
    """Refuses lengths that clips cannot have."""
    name = type(task).__name__
    check_range(f"{name}: `length` must be {{}} frames", task.length, *task.lengths)
    check_range(f"{name}: `min_length` must be {{}} frames", task.min_length, 1, task.length)
