"""Checks of arguments, with errors of one form: "`name` must be ...; received ...".

In each check `what` is the function and the argument, for the error: "cnn_lstm: `dropout`".
"""

import math
import numbers
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import numpy as np

_LONGEST = 200  # characters of a value in an error


def short_repr(value: Any) -> str:
    """The `repr` of a value for an error: one line of at most 200 characters.

    Example:

    >>> import numpy as np
    >>> short_repr(np.zeros((2, 2)))
    'array([[0., 0.], [0., 0.]])'
    """
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = f"a {type(value).__name__} too long to write"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def is_integer(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether a value is an integer of Python or NumPy, from `low` to `high`; a bool is not.

    Example:

    >>> import numpy as np
    >>> is_integer(np.int64(3), 1), is_integer(3.0, 1), is_integer("3", 1), is_integer(0, 1)
    (True, False, False, False)
    """
    integral = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return integral and bool(low <= int(value) <= high)


def is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether a value is a real number of Python or NumPy, from `low` to `high`; NaN is not.

    Example:

    >>> import numpy as np
    >>> is_number(0.5, 0, 1), is_number(np.float32(2), 0, 1), is_number(float("nan"))
    (True, False, False)
    """
    number: Any = value  # the type numbers.Real has no comparison
    return isinstance(value, numbers.Real) and bool(low <= number <= high)


def check_integer(what: str, value: Any, low: int, high: int) -> None:
    """Raises a ValueError unless a value is an integer from `low` to `high`."""
    if not is_integer(value, low, high):
        _refuse(what, f"an integer from {low:,} to {high:,}", value)


def check_number(what: str, value: Any, low: float, high: float) -> None:
    """Raises a ValueError unless a value is a number from `low` to `high`."""
    if not is_number(value, low, high):
        _refuse(what, f"{low:g} to {high:g}", value)


def check_choice(what: str, value: Any, choices: Iterable[str]) -> None:
    """Raises a ValueError unless a value is one of some names."""
    names = tuple(choices)
    if not isinstance(value, str) or value not in names:
        _refuse(what, f"one of {', '.join(names)}", value)


def check_instance(what: str, value: Any, types: Any, expected: str) -> None:
    """Raises a ValueError unless a value is an instance of `types`.

    Args:
        what: function and argument.
        value: the argument.
        types: as `isinstance` takes them.
        expected: their description, and where users get one: "a Run, as load_run reads it".
    """
    if not isinstance(value, types):
        _refuse(what, expected, value)


def check_names(what: str, value: Any) -> None:
    """Raises a ValueError unless a value is a list or tuple of strings."""
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        _refuse(what, "a list or tuple of names", value)


def check_dropout(function: str, dropout: Any) -> None:
    """Raises a ValueError unless the `dropout` of a function is a number in [0, 1)."""
    if not is_number(dropout, 0, 1) or dropout == 1:
        _refuse(f"{function}: `dropout`", "in [0, 1)", dropout)


def check_model(what: str, value: Any) -> None:
    """Raises a ValueError unless a value is a `keras.Model`."""
    import keras  # here, since numbers and paths are checked before Keras is loaded

    check_instance(what, value, keras.Model, "a keras.Model")


def as_path(what: str, value: Any) -> Path:
    """`pathlib.Path(value)`; raises a ValueError unless the value is a path."""
    if not isinstance(value, str | os.PathLike) or not str(value) or "\0" in str(value):
        _refuse(what, "a path", value)
    return Path(value)


def as_array(what: str, value: Any) -> "np.ndarray":
    """`np.asarray(value)`; raises a ValueError if NumPy cannot make an array of the value."""
    import numpy as np  # here, since `--help` does without it

    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{what} must be an array; received {short_repr(value)}.") from error


def as_numbers(
    what: str, value: Any, *, kinds: str = "iuf", shape: tuple[int, ...] | None = None
) -> "np.ndarray":
    """`np.asarray(value)`; raises a ValueError unless these are finite numbers.

    Args:
        what: function and argument.
        value: an array, or what NumPy makes one of.
        kinds: the allowed `dtype.kind`s, such as "iu" for integers.
        shape: the required shape; by default any.
    """
    import numpy as np

    array = as_array(what, value)
    if array.dtype.kind not in kinds:
        expected = "integers" if "f" not in kinds else "numbers"
        raise ValueError(f"{what} must be {expected}; received {array.dtype} of {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{what} must be finite; received NaN or infinity among numbers of shape {array.shape}."
        )
    if shape is not None and array.shape != shape:
        raise ValueError(f"{what} must have shape {shape}; received {array.shape}.")
    return array


def as_shaped(
    what: str, value: Any, dtype: Any, shape: Sequence[int | str | None], remedy: str = ""
) -> "np.ndarray":
    """`np.asarray(value)`; raises a ValueError unless it is of a dtype and a shape, and not empty.

    Args:
        what: function and argument.
        value: an array, or what NumPy makes one of.
        dtype: the required dtype, by its name.
        shape: the required sizes; a name such as "B" stands for any, `None` for any T.
        remedy: a sentence for the error.
    """
    array = as_array(what, value)
    sizes = [n if isinstance(n, int) else m for n, m in zip(shape, array.shape, strict=False)]
    fits = array.ndim == len(shape) and sizes == list(array.shape)
    if not fits or array.dtype != dtype or not array.size:
        expected = ", ".join("T" if size is None else str(size) for size in shape)
        empty = "" if array.size else ", not empty"
        raise ValueError(
            f"{what} must be {dtype} of shape ({expected}){empty}; received {array.dtype} of shape "
            f"{array.shape}. {remedy}".rstrip()
        )
    return array


def as_integers(what: str, value: Any, count: int, low: int, high: int) -> "np.ndarray":
    """`(count,)` int64; raises a ValueError unless these are integers from `low` to `high`."""
    array = as_array(what, value)
    fits = array.shape == (count,) and array.size and array.dtype.kind in "iu"
    if not fits or array.min() < low or array.max() > high:
        expected = f"{count} integers from {low} to {high}, one for each sequence"
        _refuse(what, expected, array)
    return array.astype("int64")


def as_classes(what: str, value: Any, count: int, *, of: str) -> "np.ndarray":
    """`np.asarray(value)`; raises a ValueError unless these are `count` integers.

    Args:
        what: function and argument.
        value: class numbers `(count,)`, an array or what NumPy makes one of.
        count: the number of examples.
        of: the word for one of them: "image".
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


def _refuse(what: str, expected: str, value: Any) -> NoReturn:
    raise ValueError(f"{what} must be {expected}; received {short_repr(value)}.")
