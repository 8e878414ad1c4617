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
    """Whether a value is a whole number, of Python or NumPy, from `low` to `high`; no truth value.

    Example:

    >>> is_whole(np.int64(3), 1), is_whole(3.0, 1), is_whole("3", 1), is_whole(0, 1)
    (True, False, False, False)
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and bool(low <= int(value) <= high)


def is_number(value: Any, low: float = -np.inf, high: float = np.inf) -> bool:
    """Whether a value is a real number, of Python or NumPy, from `low` to `high`; NaN is none.

    Example:

    >>> is_number(0.5, 0, 1), is_number(np.float32(2), 0, 1), is_number(float("nan"))
    (True, False, False)
    """
    number: Any = value  # numbers.Real does not say that it can be compared
    return isinstance(value, numbers.Real) and bool(low <= number <= high)


def check_whole(what: str, value: Any, low: int, high: int) -> None:
    """Refuses what is no whole number in a range.

    Args:
        what: function and argument, for the error: "digit_sequences: `batch_size`".
        value: the argument.
        low: the least.
        high: the most; where there is no limit in the matter, what any machine could hold.

    Raises:
        ValueError: if it is none.
    """
    if not is_whole(value, low, high):
        raise ValueError(
            f"{what} must be {low} or more; received {told(value)}. It is a whole number, {high:,} "
            "at most."
        )


def check_kind(what: str, value: Any, kinds: Any, expected: str) -> None:
    """Refuses what is of another class than a function can work with.

    Args:
        what: function and argument, for the error: "captioned: `sentences`".
        value: the argument.
        kinds: what `isinstance` takes.
        expected: what these are, and where one gets them: "a Run, as load_run reads it".

    Raises:
        ValueError: if it is of none of them.
    """
    if not isinstance(value, kinds):
        raise ValueError(f"{what} must be {expected}; received {told(value)}.")


def check_names(what: str, value: Any) -> None:
    """Refuses what is no list or tuple of texts, such as names of classes.

    Args:
        what: function and argument, for the error: "scores: `class_names`".
        value: the argument.

    Raises:
        ValueError: if it is none.
    """
    names = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    if not names:
        raise ValueError(f"{what} must be a list or tuple of names; received {told(value)}.")


def as_numbers(what: str, value: Any, *, kinds: str = "iuf") -> np.ndarray:
    """What `np.asarray` makes of numbers, all of them finite.

    Args:
        what: function and argument, for the error: "scores: `targets`".
        value: an array, or what NumPy takes for one.
        kinds: what NumPy calls the `kind` of the types that will do.

    Raises:
        ValueError: if it is no array of these, or one of them is NaN or infinite.
    """
    array = as_array(what, value)
    if array.dtype.kind not in kinds:
        expected = "whole numbers" if "f" not in kinds else "numbers"
        raise ValueError(f"{what} must be {expected}; received {array.dtype} of {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{what} must be finite; received NaN or infinity among numbers of shape {array.shape}."
        )
    return array


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


def as_classes(what: str, value: Any, count: int, *, of: str) -> np.ndarray:
    """What `np.asarray` makes of the classes of so many things, one for each.

    Args:
        what: function and argument, for the error: "LabeledImages: `labels`".
        value: an array, or what NumPy takes for one.
        count: how many there are.
        of: what each is the class of: "image".

    Raises:
        ValueError: if it is no array of so many integers.
    """
    classes = as_array(what, value)
    if classes.shape != (count,):
        raise ValueError(
            f"{what} must have shape ({count},), one for each {of}; received {classes.shape}."
        )
    if classes.dtype.kind not in "iu":
        raise ValueError(
            f"{what} must be integers; received {classes.dtype}. Turn one-hot rows into "
            "`labels.argmax(axis=1)`."
        )
    return classes


def check_dropout(function: str, dropout: Any) -> None:
    """Refuses what is no share that a layer can drop.

    Args:
        function: its name, for the error: "cnn_lstm".
        dropout: the argument.

    Raises:
        ValueError: if it is not a number in [0, 1).
    """
    if not is_number(dropout, 0, 1) or dropout == 1:
        raise ValueError(f"{function}: `dropout` must be in [0, 1); received {told(dropout)}.")


def check_model(what: str, value: Any) -> None:
    """Refuses what is no `keras.Model`.

    Args:
        what: function and argument, for the error: "split_model: `model`".
        value: the argument.

    Raises:
        ValueError: if it is none.
    """
    import keras  # not above: numbers and paths are checked where Keras is not loaded

    if not isinstance(value, keras.Model):
        raise ValueError(f"{what} must be a keras.Model; received {told(value)}.")


def as_path(what: str, value: Any) -> Path:
    """What `pathlib.Path` makes of a value.

    Args:
        what: function and argument, for the error: "find_clips: `root`".
        value: a path, as text or as an object.

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(value, str | os.PathLike) or not str(value) or "\0" in str(value):
        raise ValueError(f"{what} must be a path; received {told(value)}.")
    return Path(value)
