"""What a user can measure on a machine: all comparisons, by section, in a table and a file.

Each section is loaded when it is asked for, so that those that need only Keras run where TensorFlow
is not installed.
"""

import datetime
import importlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import keras

from keras_cnnlstm.benchmark.machine import RATES, facts, work_section
from keras_cnnlstm.benchmark.models import OURS, step_section
from keras_cnnlstm.benchmark.timings import Row, Settings
from keras_cnnlstm.utils.files import write_text
from keras_cnnlstm.utils.validation import (
    as_path,
    check_choice,
    check_instance,
    check_integer,
)

SECTIONS = {
    "machine": "machine.machine",
    "models": "models.models",
    "torch": "pytorch.against_torch",
    "latency": "exports.latency",
    "streaming": "exports.streaming",
    "pipeline": "pipeline.pipeline",
    "clips": "clips.clips",
    "scale": "scale.scale",
}
"""Module and function of each section, by name, in the order of measurement."""

_ANY_BACKEND = ("machine", "models", "torch")  # the others need Keras on TensorFlow

DEFAULT = tuple(name for name in SECTIONS if name not in ("clips", "scale"))
"""The sections that are measured unless others are asked for."""


@dataclass(frozen=True)
class Measured:
    """The results of a benchmark.

    Attributes:
        date: when it began, in UTC.
        machine: machine and software, as `machine.facts` returns them.
        options: sections, batch size, lengths, repeats.
        left_out: what could not be measured here, and why.
        rows: the measurements, in the order of the sections.
    """

    date: str
    machine: dict[str, Any]
    options: dict[str, Any]
    left_out: dict[str, str]
    rows: list[Row]

    def to_json(self) -> str:
        """All results, as JSON."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    def text(self) -> str:
        """All results as a person reads them: facts, tables, what is missing."""
        lines = [f"{name}: {_fact_text(fact)}" for name, fact in self.machine.items()]
        width = max((len(row.name) for row in self.rows), default=0)
        for title, rows in groupby(self.rows, key=lambda row: row.section):
            lines += ["", title, *(f"  {row.name:<{width}}  {_row_text(row)}" for row in rows)]
        if self.left_out:
            lines += ["", "left out", *(f"  {what}: {why}" for what, why in self.left_out.items())]
        return "\n".join(lines)


def benchmark(
    sections: Sequence[str] = DEFAULT,
    *,
    batch_size: int = 64,
    lengths: Sequence[int] = (4, 16, 40),
    repeats: int = 15,
    data: str | Path | None = None,
    output: str | Path | None = None,
    log: Callable[[str], object] | None = None,
) -> Measured:
    """Measures the sections one after the other.

    Args:
        sections: names of `SECTIONS`. A section that cannot run here, because a package or the
            TensorFlow backend is missing, is left out with the reason.
        batch_size: B, sequences in a training batch.
        lengths: T, frames in a sequence, of each comparison.
        repeats: turns of each comparison at T = 4, fewer for larger T. More turns take longer and
            scatter less.
        data: a folder of clips, whose videos the section clips reads; by default it writes some.
        output: a JSON file, written again after each section; by default none.
        log: called with each line of progress; by default none is shown.

    Raises:
        ValueError: if an argument is out of range.
        OSError: if the file cannot be written.
    """
    chosen = _checked_sections(sections)
    check_integer("benchmark: `batch_size`", batch_size, 1, 1_000_000)
    check_instance("benchmark: `lengths`", lengths, list | tuple, "a list of lengths")
    for length in lengths:
        check_integer("benchmark: `lengths`", length, 1, 10_000)
    if not lengths:
        raise ValueError("benchmark: `lengths` must name one at least; received none.")
    check_integer("benchmark: `repeats`", repeats, 1, 1_000_000)
    path = None if output is None else _checked_output(output)
    folder = None if data is None else str(as_path("benchmark: `data`", data))
    settings = Settings(batch_size, tuple(lengths), repeats, log or (lambda text: None), folder)
    options: dict[str, Any] = {"batch_size": batch_size, "lengths": tuple(lengths)}
    options |= {"repeats": repeats, "data": folder}
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    measured = Measured(date, facts(), {"sections": chosen, **options}, {}, [])
    for name in chosen:
        measured.rows.extend(_rows(name, settings, measured.left_out))
        if path:
            write_text(path, measured.to_json())
    measured.rows.extend(shares(measured.rows, settings))
    if path:
        write_text(path, measured.to_json())
    return measured


def shares(rows: Sequence[Row], settings: Settings) -> list[Row]:
    """Training's shares of the rate of matrix products, from the sections machine and models."""
    known = {(row.section, row.name): row for row in rows}
    found = []
    for length in settings.lengths:
        work = known.get((work_section(length), "training"))
        for policy in ("float32", "mixed_bfloat16", "mixed_float16"):
            section = step_section(settings.batch_size, length, train=True)
            step = known.get((section, f"{OURS}, {policy}"))
            rate = known.get((RATES, policy.removeprefix("mixed_")))
            if work and step and rate:
                share = settings.batch_size * work.value / step.value / rate.value
                name, remark = f"T={length}, {policy}", f"of {_figure(rate.value, rate.unit)}"
                found.append(Row("share of that rate in training", name, share, "", remark=remark))
    return found


def _rows(name, settings, left_out):
    """The rows of a section; none, and the reason in `left_out`, if it cannot run here."""
    backend = keras.backend.backend()
    settings.log(name)
    try:
        if name not in _ANY_BACKEND and backend != "tensorflow":
            raise ImportError(f"needs Keras on TensorFlow; this is Keras on {backend}")
        file, function = SECTIONS[name].split(".")
        module = importlib.import_module(f"keras_cnnlstm.benchmark.{file}")
        rows = getattr(module, function)(settings)
    except ImportError as error:
        settings.log(f"{name}: left out: {error}")
        left_out[name] = str(error)
        return []
    for row in rows:
        if math.isnan(row.value):
            left_out[f"{row.section}, {row.name}"] = row.remark.removeprefix("left out: ")
    return [row for row in rows if not math.isnan(row.value)]


def _checked_sections(sections):
    """The sections in their order."""
    expected = f"a list of {', '.join(SECTIONS)}"
    check_instance("benchmark: `sections`", sections, list | tuple, expected)
    for name in sections:
        check_choice("benchmark: `sections`", name, SECTIONS)
    if not sections:
        raise ValueError("benchmark: `sections` must name one at least; received none.")
    return tuple(name for name in SECTIONS if name in sections)


def _checked_output(output):
    path = as_path("benchmark: `output`", output)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(
            f"benchmark: `output` must be a file in a folder that exists; received {path}."
        )
    return path


def _fact_text(fact):
    if isinstance(fact, dict):
        return ", ".join(f"{name} {value}" for name, value in fact.items())
    return ", ".join(fact) or "none" if isinstance(fact, list) else str(fact)


def _row_text(row):
    spread = ""
    if row.low is not None and row.high is not None:
        spread = f"({_figure(row.low, row.unit)} to {_figure(row.high, row.unit)})"
    times = "" if row.ratio is None else f"{row.ratio:.2f} times "
    return f"{_figure(row.value, row.unit):>13}  {spread:<26}  {times}{row.remark}".rstrip()


def _figure(value: float, unit: str) -> str:
    """A figure as a person writes it.

    >>> _figure(0.0123456, "s"), _figure(44078848, "FLOP"), _figure(1974, "nodes")
    ('12.346 ms', '44.1 MFLOP', '1,974 nodes')
    """
    if unit == "s":
        return f"{value * 1e3:,.3f} ms"
    if unit in ("FLOP", "FLOP/s", "bytes"):
        power = max(0, min(4, math.floor(math.log10(max(abs(value), 1) / 0.9995) / 3)))
        unit = "B" if unit == "bytes" else unit
        return f"{value / 1000**power:.3g} {('', 'k', 'M', 'G', 'T')[power]}{unit}"
    return (f"{value:,}" if float(value).is_integer() else f"{value:,.3f}") + f" {unit}".rstrip()
