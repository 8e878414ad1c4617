"""What a training wrote down epoch by epoch, read back: its curves, and who learns last."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_cnnlstm.files import read_text

_LEARNED = 0.9  # of its best recall: a class counts as learned from this epoch on


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a run's `history.csv`, an epoch each.

    Args:
        path: the run directory.

    Returns:
        For each epoch its numbers by name; nothing if there is no such file.

    Raises:
        ValueError: if it cannot be read.
    """
    return [
        {name: value for name, value in row.items() if value is not None}
        for row in _read_numbers(path / "history.csv")
    ]


def read_recalls(path: Path) -> dict[str, list[float | None]]:
    """The recall of each class in each validation, from a run's `recall.csv`.

    Args:
        path: the run directory.

    Returns:
        For each class a number an epoch, `None` where the validation had none of it; nothing if
        there is no such file, or no epoch.

    Raises:
        ValueError: if it cannot be read.
    """
    rows = _read_numbers(path / "recall.csv")
    names = [name for name in (rows[0] if rows else ()) if name != "epoch"]
    return {name: [row[name] for row in rows] for name in names}


def slowest_learned(recalls: Mapping[str, Sequence[float | None]]) -> list[dict[str, Any]]:
    """The classes, from the one that was learned slowest to the fastest.

    A class is slow if its recall, averaged over all epochs, is small: it came late, or stayed low.

    Args:
        recalls: as `read_recalls` returns them.

    Returns:
        For each class that occurred `name`, `mean_recall` over the epochs, `last_recall`, and
        `learned`: the epoch, from 1, in which it first came to nine tenths of its best recall;
        `None` if that is 0.

    Example:

    >>> [row["name"] for row in slowest_learned({"a": [0.9, 1.0], "b": [0.0, 1.0]})]
    ['b', 'a']
    """
    rows = []
    for name, values in recalls.items():
        seen = [(epoch, value) for epoch, value in enumerate(values, start=1) if value is not None]
        if seen:
            best = max(value for _, value in seen)
            learned = next(epoch for epoch, value in seen if value >= _LEARNED * best)
            row = {"name": name, "mean_recall": sum(value for _, value in seen) / len(seen)}
            rows.append(row | {"last_recall": seen[-1][1], "learned": learned if best else None})
    return sorted(rows, key=lambda row: row["mean_recall"])


def _read_numbers(file):
    """The rows of a CSV file of numbers; what is empty is `None`."""
    if not file.is_file():
        return []
    try:
        rows = csv.DictReader(io.StringIO(read_text(file)), strict=True)
        return [{k: float(v) if v else None for k, v in row.items()} for row in rows]
    except (csv.Error, TypeError, ValueError) as error:
        raise ValueError(f"{file}: expected a CSV file of numbers; {error}.") from error
