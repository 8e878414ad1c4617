"""What was given to a function, and how an error tells it on one line.

For checks that several files share. Knows nothing of what the arguments are for.
"""

import numbers
import os
from pathlib import Path
from typing import Any

import numpy as np

_TOLD = 200  # characters of a value in an error at most


def told(value: Any) -> str:
    """A value as an error shows it: on one line, and no longer than a person reads.

    Example:

    >>> told(np.zeros((2, 2)))
    'array([[0., 0.], [0., 0.]])'
    """
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # a whole number of more digits than Python writes
        text = f"a {type(value).__name__} too long to write"
    return text if len(text) <= _TOLD else f"{text[: _TOLD - 3]}..."


def is_whole(value: Any, low: float = -np.inf, high: float = np.inf) -> bool:
    """Whether a value is a whole number, of Python or NumPy, from `low` to `high`.

    Example:

    >>> is_whole(np.int64(3), 1), is_whole(3.0, 1), is_whole("3", 1), is_whole(0, 1)
    (True, False, False, False)
    """
    return isinstance(value, numbers.Integral) and bool(low <= int(value) <= high)


def is_number(value: Any, low: float = -np.inf, high: float = np.inf) -> bool:
    """Whether a value is a real number, of Python or NumPy, from `low` to `high`; NaN is none.

    Example:

    >>> is_number(0.5, 0, 1), is_number(np.float32(2), 0, 1), is_number(float("nan"))
    (True, False, False)
    """
    return isinstance(value, numbers.Real) and bool(low <= value <= high)


def as_array(what: str, value: Any) -> np.ndarray:
    """What `np.asarray` makes of a value.

    Args:
        what: function and argument, for the error: "scores: `targets`".
        value: an array, or what NumPy takes for one.

    Raises:
        ValueError: if NumPy cannot make one of it, as of rows of unequal length.
    """
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{what} must be an array; received {told(value)}.") from error


def as_path(what: str, value: Any) -> Path:
    """What `pathlib.Path` makes of a value.

    Args:
        what: function and argument, for the error: "find_clips: `root`".
        value: a path, as text or as an object.

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(value, str | os.PathLike) or "\0" in str(value):
        raise ValueError(f"{what} must be a path; received {told(value)}.")
    return Path(value)
