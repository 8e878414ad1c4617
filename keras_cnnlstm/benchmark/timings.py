"""Times calls on this machine, and describes what was measured as rows of a table.

Calls that are compared take turns in one process, so that a busy machine slows all of them alike.
A figure is the median over the turns, and a ratio is the median of the ratios of each turn.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

Call = Callable[[], object]
Log = Callable[[str], object]
Times = np.ndarray | Sequence[float]


class Settings(NamedTuple):
    """The options of a benchmark, which every section receives.

    Attributes:
        batch_size: B, sequences in a training batch.
        lengths: T, frames in a sequence, of each comparison.
        repeats: turns of each comparison; long ones take fewer.
        log: called with each line of progress.
        data: a folder of clips for the section of clips.
    """

    batch_size: int = 64
    lengths: tuple[int, ...] = (4, 16, 40)
    repeats: int = 15
    log: Log = lambda text: None
    data: str | None = None


@dataclass(frozen=True)
class Row:
    """One measurement of a benchmark.

    Attributes:
        section: the comparison, such as "train step, B=64, T=4".
        name: what was measured, such as "stock Keras, a wrapper for each layer, float32".
        value: the figure, the median if there were several turns; NaN if this machine has none.
        unit: of the figure: "s", "bytes", "FLOP/s", "nodes", ...
        low: the lower quartile, if there were several turns.
        high: the upper quartile.
        ratio: how many times as fast as the reference, the median over the turns.
        remark: the reference, or what the figure means, or why it is missing.
    """

    section: str
    name: str
    value: float
    unit: str = "s"
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    remark: str = ""


def median_row(
    section: str,
    name: str,
    values: Times,
    unit: str = "s",
    *,
    reference: Times | None = None,
    remark: str = "",
) -> Row:
    """A row with the median and the quartiles of the values of all turns.

    Its ratio compares them with the times of a reference in the same turns.
    """
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    ratio = None if reference is None else float(np.median(np.divide(reference, values)))
    return Row(section, name, median, unit, low, high, ratio, remark)


def left_out(section: str, name: str, why: str) -> Row:
    """A row without a figure, for what cannot be measured here."""
    return Row(section, name, math.nan, remark=f"left out: {why}")


def against_best(
    section: str, seconds: Mapping[str, Times], ours: Iterable[str], theirs: Iterable[str]
) -> list[Row]:
    """A row of the fastest of ours and the fastest of PyTorch, if `seconds` has both.

    The times are `(turns,)` or `(turns, calls)`, by name.
    """
    known = [[name for name in names if name in seconds] for names in (ours, theirs)]
    if not all(known):
        return []
    best = [min(names, key=lambda name: float(np.median(seconds[name]))) for names in known]
    fast, slow = (
        np.median(np.reshape(seconds[name], (len(seconds[name]), -1)), axis=1) for name in best
    )
    row = median_row(section, f"{best[0]}, against the best of PyTorch", slow / fast, "times")
    return [replace(row, ratio=row.value, remark=f"as fast as {best[1]}")]


def in_turns(measures: Mapping[str, Callable[[], Any]], turns: int) -> dict[str, list[Any]]:
    """Calls several functions in turn, and returns their results of each turn, by name.

    >>> numbers = iter(range(6))
    >>> in_turns({"a": lambda: next(numbers), "b": lambda: -next(numbers)}, turns=3)
    {'a': [0, 2, 4], 'b': [-1, -3, -5]}
    """
    results: dict[str, list[Any]] = {name: [] for name in measures}
    for _ in range(turns):
        for name, measure in measures.items():
            results[name].append(measure())
    return results


def each_call(
    calls: Mapping[str, Call],
    turns: int,
    *,
    block: int,
    warm: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Times single calls, in blocks that take turns, so that each finds its data in the caches.

    Args:
        calls: what to time, by name.
        turns: blocks of each call.
        block: timed calls in a block.
        warm: calls before a block, which are not timed.
        clock: returns the time in seconds.

    Returns:
        Seconds of each call, `(turns, block)` float64, by name.
    """

    def measure(call):
        for _ in range(warm):
            call()
        seconds = []
        for _ in range(block):
            start = clock()
            call()
            seconds.append(clock() - start)
        return seconds

    measures = {name: lambda call=call: measure(call) for name, call in calls.items()}
    return {name: np.array(seconds) for name, seconds in in_turns(measures, turns).items()}


def interleaved(
    calls: Mapping[str, Call], repeats: int, *, block: int = 4
) -> dict[str, list[float]]:
    """Times several calls that take turns in blocks.

    Args:
        calls: what to time, by name.
        repeats: turns that count; two turns before them do not.
        block: timed calls in a turn, after one that is not timed.

    Returns:
        The mean seconds of a call in each turn that counts, by name.
    """
    seconds = each_call(calls, repeats + 2, block=block, warm=1, clock=time.perf_counter)
    return {name: times[2:].mean(axis=1).tolist() for name, times in seconds.items()}


def turns_within(budget: float, turn: float, repeats: int) -> int:
    """How many turns of `turn` seconds fit into a budget: `repeats` at most, three at least.

    >>> turns_within(60, 5, 15), turns_within(60, 50, 15), turns_within(60, 50, 2)
    (12, 3, 2)
    """
    return min(repeats, max(int(budget / turn), 3))


def ready_calls(
    section: str, makers: Mapping[str, Callable[[], Call]], log: Log
) -> tuple[dict[str, Call], list[Row]]:
    """Makes and compiles calls; those that fail here get a row with the reason."""
    calls, missing = {}, []
    for name, make in makers.items():
        log(f"{section}: compiling {name}")
        try:
            call = make()
            call()  # traces, compiles, allocates
        except Exception as error:  # each runtime and compiler has its own
            reason, _, _ = str(error).strip().partition("\n")
            missing.append(left_out(section, name, f"{type(error).__name__}: {reason}"))
        else:
            calls[name] = call
    return calls, missing
