"""What the methods of all tasks check: digits, uniform random numbers, sizes."""

from typing import Any

import numpy as np

from keras_cnnlstm.arguments import as_array, is_whole, told

Array = Any  # a NumPy array, or a tensor of the namespace given as `xp`


def checked_digits(task: Any, digits: Array) -> np.ndarray:
    """Digits `(B, T)` for a task, as int64.

    Raises:
        ValueError: if they are no integers of that shape that the task knows.
    """
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
    """Numbers `(B, columns)` that a method draws from.

    Raises:
        ValueError: in the method's name, if they are no floats of that shape in [0, 1).
    """
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
    """Refuses what is no whole number of a range; `what` has a place {} to name the range.

    Raises:
        ValueError: if it is none.
    """
    if not is_whole(value, low, high):
        raise ValueError(f"{what.format(f'{low} to {high}')}; received {told(value)}.")
