"""What a training wrote down epoch by epoch, read back: its curves, and the class learned last."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_cnnlstm.utils.files import naming_in_errors, read_text
from keras_cnnlstm.utils.validation import as_path, is_number, short_repr

_LEARNED = 0.9  # of its best recall: a class counts as learned from this epoch on


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a run's `history.csv`, one for each epoch.

    Args:
        path: the run directory.

    Returns:
        For each epoch its numbers by name; empty if there is no such file.

    Raises:
        ValueError: if it cannot be read.
    """
    rows = _read_numbers(as_path("read_history: `path`", path) / "history.csv")
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def read_recalls(path: Path) -> dict[str, list[float | None]]:
    """The recall of each class in each validation, from a run's `recall.csv`.

    Args:
        path: the run directory.

    Returns:
        For each class a number for each epoch, `None` where the validation had none of it; empty if
        there is no such file, or no epoch.

    Raises:
        ValueError: if it cannot be read.
    """
    file = as_path("read_recalls: `path`", path) / "recall.csv"
    rows = _read_numbers(file)
    names = [name for name in (rows[0] if rows else ()) if name != "epoch"]
    recalls = {name: [row[name] for row in rows] for name in names}
    with naming_in_errors(file):
        _check_recalls("read_recalls", recalls)
    return recalls


def slowest_learned(recalls: Mapping[str, Sequence[float | None]]) -> list[dict[str, Any]]:
    """The classes, from the one that was learned slowest to the fastest.

    A class is slow if its recall, averaged over all epochs, is small: it came late, or stayed low.

    Args:
        recalls: as `read_recalls` returns them.

    Returns:
        For each class that occurred `name`, `mean_recall` over the epochs, `last_recall`, and
        `learned`: the epoch, from 1, in which it first came to nine tenths of its best recall;
        `None` if that is 0.

    Raises:
        ValueError: if a recall is none.

    Example:

    >>> [row["name"] for row in slowest_learned({"a": [0.9, 1.0], "b": [0.0, 1.0]})]
    ['b', 'a']
    """
    _check_recalls("slowest_learned", recalls)
    rows = []
    for name, values in recalls.items():
        seen = [(epoch, value) for epoch, value in enumerate(values, start=1) if value is not None]
        if seen:
            best = max(value for _, value in seen)
            learned = next(epoch for epoch, value in seen if value >= _LEARNED * best)
            row = {"name": name, "mean_recall": sum(value for _, value in seen) / len(seen)}
            rows.append(row | {"last_recall": seen[-1][1], "learned": learned if best else None})
    return sorted(rows, key=lambda row: row["mean_recall"])


def _check_recalls(function, recalls):
    """Refuses what is not as `read_recalls` returns it."""
    lists: Any = recalls.values() if isinstance(recalls, Mapping) else [None]
    for values in lists:
        listed = isinstance(values, list | tuple)
        if not listed or not all(value is None or is_number(value, 0, 1) for value in values):
            raise ValueError(
                f"{function}: `recalls` must be for each class a list of numbers from 0 to 1, or "
                f"None, one for each epoch; received {short_repr(recalls)}."
            )


def _read_numbers(file):
    """The rows of a CSV file of numbers; an empty field is `None`."""
    if not file.is_file():
        return []
    text = read_text(file)
    try:
        rows = csv.DictReader(io.StringIO(text), strict=True)
        return [{k: float(v) if v else None for k, v in row.items()} for row in rows]
    except (csv.Error, TypeError, ValueError) as error:
        raise ValueError(f"{file}: expected a CSV file of numbers; {str(error)[:200]}.") from error
