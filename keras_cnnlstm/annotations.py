"""Whether a value is what an annotation says. Loads nothing but the standard library."""

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin


def check_type(name: str, value: Any, expected: Any) -> None:
    """Refuses a value that an annotation does not allow.

    Args:
        name: of the option, for the message.
        value: what was given.
        expected: a type, a Literal of values, `tuple[..., ...]`, or a union of these. A list passes
            for a tuple, as JSON can only write that, and a whole number for a float.

    Raises:
        ValueError: if the value is none of it.
    """
    if not _matches(value, expected):
        from keras_cnnlstm.arguments import told  # loads NumPy, which help does without

        raise ValueError(f"{name}: expected {_described(expected)}; received {told(value)}.")


def _described(expected) -> str:
    origin, arguments = get_origin(expected), get_args(expected)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin in (Union, UnionType):
        return " or ".join(_described(a) for a in arguments)
    if expected is NoneType:
        return "None"
    return str(expected) if origin else expected.__name__


def _matches(value, expected) -> bool:
    origin, arguments = get_origin(expected), get_args(expected)
    if origin is Literal:
        return isinstance(value, str | int) and value in arguments
    if origin in (Union, UnionType):
        return any(_matches(value, option) for option in arguments)
    if origin is tuple:  # tuple[int, ...], which JSON can only write as a list
        return isinstance(value, tuple | list) and all(_matches(v, arguments[0]) for v in value)
    if expected is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, expected)
