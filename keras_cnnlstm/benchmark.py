"""What a user can measure on his own machine: all comparisons, by section, in a table and a file.

Each section lives in a file of its own, `benchmark_*.py`, and is loaded when it is asked for, so
that those that speak Keras alone run where TensorFlow is not installed.
"""

import dataclasses
import datetime
import importlib
import json
import math
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import keras

from keras_cnnlstm.arguments import as_path, check_kind, check_whole, told
from keras_cnnlstm.benchmark_machine import RATES, facts, work_section
from keras_cnnlstm.benchmark_models import OURS, train_section
from keras_cnnlstm.files import write_text
from keras_cnnlstm.timings import Row


class Section(NamedTuple):
    """Where a section's rows come from."""

    module: str
    """The module; its function has the section's name unless `function` says otherwise."""

    options: tuple[str, ...]
    """Which options of `benchmark` the function takes, all of them by name."""

    function: str = ""
    """The function."""

    anywhere: bool = False
    """Whether it runs on every backend of Keras, not on TensorFlow alone."""


_SIZES = ("batch_size", "lengths", "repeats")

SECTIONS = {
    "machine": Section("benchmark_machine", ("lengths", "repeats", "say"), anywhere=True),
    "models": Section("benchmark_models", (*_SIZES, "say"), anywhere=True),
    "torch": Section("benchmark_torch", (*_SIZES, "say"), "against_torch", anywhere=True),
    "latency": Section("benchmark_exports", ("repeats",)),
    "streaming": Section("benchmark_exports", ("repeats",)),
    "pipeline": Section("benchmark_pipeline", _SIZES),
    "scale": Section("benchmark_scale", ("repeats", "say")),
}
"""The sections by name, in the order in which they are measured and told."""

DEFAULT = tuple(name for name in SECTIONS if name != "scale")
"""The sections that are measured unless others are asked for."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a benchmark found."""

    date: str
    """When it began, in UTC."""

    machine: dict[str, Any]
    """What it ran on and with, as `benchmark_machine.facts` tells it."""

    options: dict[str, Any]
    """Sections, batch size, lengths, repeats."""

    left_out: dict[str, str]
    """What could not be measured here, and why."""

    rows: list[Row]
    """The measurements, in the order of the sections."""

    def to_json(self) -> str:
        """All of it, as JSON."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        rows = [row._asdict() for row in self.rows]
        return json.dumps(found | {"rows": rows}, indent=2, allow_nan=False) + "\n"

    def text(self) -> str:
        """All of it as a person reads it: facts, a table for each comparison, what is missing."""
        lines = [f"{name}: {_told_fact(fact)}" for name, fact in self.machine.items()]
        width = max((len(row.name) for row in self.rows), default=0)
        for title, rows in groupby(self.rows, key=lambda row: row.section):
            lines += ["", title, *(f"  {row.name:<{width}}  {_told_row(row)}" for row in rows)]
        if self.left_out:
            lines += ["", "left out", *(f"  {what}: {why}" for what, why in self.left_out.items())]
        return "\n".join(lines)


def benchmark(
    sections: Sequence[str] = DEFAULT,
    *,
    batch_size: int = 64,
    lengths: Sequence[int] = (4, 16, 40),
    repeats: int = 15,
    output: str | Path | None = None,
    say: Callable[[str], object] | None = None,
) -> Measured:
    """Measures the sections one after the other.

    Args:
        sections: names of `SECTIONS`. One that cannot run here, for want of a package or of the
            TensorFlow backend, is left out, and the reason is told.
        batch_size: B, sequences in a training batch.
        lengths: T, frames in a sequence, of each comparison.
        repeats: turns of each comparison at T = 4, fewer where T is larger; more take longer and
            scatter less.
        output: a JSON file to write, again after each section; none if it is not given.
        say: told what is being done; by default nobody is.

    Raises:
        ValueError: if an argument is out of range.
        OSError: if the file cannot be written.
    """
    chosen = _checked(sections, batch_size, lengths, repeats)
    path = None if output is None else _checked_output(output)
    options = {"batch_size": batch_size, "lengths": tuple(lengths), "repeats": repeats}
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    measured = Measured(date, facts(), {"sections": chosen, **options}, {}, [])
    for name in chosen:
        measured.rows.extend(_rows(name, options, measured.left_out, say or (lambda text: None)))
        if path:
            write_text(path, measured.to_json())
    measured.rows.extend(shares(measured.rows, batch_size=batch_size, lengths=lengths))
    if path:
        write_text(path, measured.to_json())
    return measured


def shares(rows: Sequence[Row], *, batch_size: int, lengths: Sequence[int]) -> list[Row]:
    """Which share of the rate of matrix products training reaches.

    Args:
        rows: those of the sections "machine" and "models"; without them there are no shares.
        batch_size: B of the train steps.
        lengths: T of the train steps.
    """
    known = {(row.section, row.name): row for row in rows}
    found = []
    for length in lengths:
        work = known.get((work_section(length), "training"))
        for policy in ("float32", "mixed_bfloat16", "mixed_float16"):
            step = known.get((train_section(batch_size, length), f"{OURS}, {policy}"))
            rate = known.get((RATES, policy.removeprefix("mixed_")))
            if work and step and rate:
                share = batch_size * work.value / step.value / rate.value
                name, remark = f"T={length}, {policy}", f"of {_figure(rate.value, rate.unit)}"
                found.append(Row("share of that rate in training", name, share, "", remark=remark))
    return found


def _rows(name, options, left_out, say):
    """The rows of a section; none, and the reason in `left_out`, if it cannot run here."""
    section, backend = SECTIONS[name], keras.backend.backend()
    say(name)
    try:
        if not section.anywhere and backend != "tensorflow":
            raise ImportError(f"needs Keras on TensorFlow; this is Keras on {backend}")
        module = importlib.import_module(f"keras_cnnlstm.{section.module}")
        function = getattr(module, section.function or name)
        given = options | {"say": say}
        rows = function(**{option: given[option] for option in section.options})
    except ImportError as error:
        say(f"{name}: left out: {error}")
        left_out[name] = str(error)
        return []
    for row in rows:
        if math.isnan(row.value):
            left_out[f"{row.section}, {row.name}"] = row.remark.removeprefix("left out: ")
    return [row for row in rows if not math.isnan(row.value)]


def _checked(sections, batch_size, lengths, repeats):
    """The sections in their order, if all is well."""
    expected = f"a list of {', '.join(SECTIONS)}"
    check_kind("benchmark: `sections`", sections, list | tuple, expected)
    for name in sections:
        if not isinstance(name, str) or name not in SECTIONS:
            raise ValueError(f"benchmark: `sections` must be {expected}; received {told(name)}.")
    check_kind("benchmark: `lengths`", lengths, list | tuple, "a list of lengths")
    for length in lengths:
        check_whole("benchmark: `lengths`", length, 1, 10_000)
    if not sections or not lengths:
        empty = "lengths" if sections else "sections"
        raise ValueError(f"benchmark: `{empty}` must name one at least; received none.")
    check_whole("benchmark: `batch_size`", batch_size, 1, 1_000_000)
    check_whole("benchmark: `repeats`", repeats, 1, 1_000_000)
    return tuple(name for name in SECTIONS if name in sections)


def _checked_output(output):
    path = as_path("benchmark: `output`", output)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(
            f"benchmark: `output` must be a file in a folder that exists; received {path}."
        )
    return path


def _told_fact(fact):
    if isinstance(fact, dict):
        return ", ".join(f"{name} {value}" for name, value in fact.items())
    return ", ".join(fact) or "none" if isinstance(fact, list) else str(fact)


def _told_row(row):
    spread = ""
    if row.low is not None and row.high is not None:
        spread = f"({_figure(row.low, row.unit)} to {_figure(row.high, row.unit)})"
    times = "" if row.ratio is None else f"{row.ratio:.2f} times "
    return f"{_figure(row.value, row.unit):>13}  {spread:<26}  {times}{row.remark}".rstrip()


def _figure(value: float, unit: str) -> str:
    """A figure as a person says it.

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
