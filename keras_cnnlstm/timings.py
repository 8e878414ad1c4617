"""How long calls take on this machine: interleaved in one process, as medians with their spread.

Calls that are compared take turns, so that a busy machine slows all of them alike; ratios are
medians of the ratios of each turn.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_cnnlstm.arguments import as_array, check_kind, check_whole, told

_ENOUGH = 3.0  # seconds for each batch size, after the first call


class Row(NamedTuple):
    """One measurement of a benchmark."""

    section: str
    """What was compared, such as "train step, B=64, T=4"."""

    name: str
    """Which of those compared, such as "stock Keras, one wrapper per layer, float32"."""

    value: float
    """The figure; of timings the median."""

    unit: str = "s"
    """Of the figure: "s", "bytes", "FLOP/s", "nodes", ..."""

    low: float | None = None
    """The lower quartile, of what was measured several times."""

    high: float | None = None
    """The upper quartile."""

    ratio: float | None = None
    """How many times as fast as what the remark names, the median over the turns."""

    remark: str = ""
    """What the figure is compared with, or means."""


def interleaved(
    calls: Mapping[str, Callable[[], object]], repeats: int, *, block: int = 4
) -> dict[str, list[float]]:
    """Times several calls in turn, in blocks, so that each finds its own data in the caches.

    Args:
        calls: what to time, by name.
        repeats: turns that count; two before them do not.
        block: timed calls in a row, after one that is not timed.

    Returns:
        Seconds of one call, a number for each turn that counts, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 2):
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            for _ in range(block):
                call()
            if turn >= 2:
                seconds[name].append((time.perf_counter() - start) / block)
    return seconds


def times_as_fast(slow: Sequence[float], fast: Sequence[float]) -> float:
    """The median over the turns of how many times `fast` goes into `slow`."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def timing_row(
    section: str,
    name: str,
    seconds: Sequence[float],
    *,
    than: tuple[str, Sequence[float]] | None = None,
    remark: str = "",
) -> Row:
    """A row of the median and the quartiles of some seconds.

    Args:
        section: as in `Row`.
        name: as in `Row`.
        seconds: of one call, one for each turn.
        than: the name and the seconds of what the row is compared with.
        remark: said in place of what it is compared with.
    """
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
    if than is None:
        return Row(section, name, median, "s", low, high, None, remark)
    ratio = times_as_fast(than[1], seconds)
    return Row(section, name, median, "s", low, high, ratio, remark or f"as fast as {than[0]}")


def against_row(
    section: str, name: str, ours: Sequence[float], best: tuple[str, Sequence[float]]
) -> Row:
    """A row of how many times as fast ours is as the best of PyTorch: no time, a ratio.

    Args:
        section: as in `Row`.
        name: of what is ours.
        ours: its seconds, one for each turn.
        best: name and seconds of what it is compared with.
    """
    ratios = [slow / fast for slow, fast in zip(best[1], ours, strict=True)]
    low, median, high = np.quantile(ratios, (0.25, 0.5, 0.75)).tolist()
    name, remark = f"{name}, against the best of PyTorch", f"as fast as {best[0]}"
    return Row(section, name, median, "times", low, high, median, remark)


def seconds_per_sequence(
    model: keras.Model,
    inputs: np.ndarray | Mapping[str, np.ndarray],
    *,
    batch_sizes: Sequence[int] = (1, 64),
    repeats: int = 30,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """The median time that a model takes for a sequence, one by one and in batches.

    Args:
        model: the model.
        inputs: one sequence or more, as the model takes them; repeated to fill a batch.
        batch_sizes: sequences in a batch.
        repeats: calls of each size, after one that compiles; fewer if they take over 3 seconds.
        clock: what tells the time, in seconds.

    Returns:
        For each batch size, as text, seconds for one of its sequences.

    Raises:
        ValueError: if a number is out of range.
    """
    if isinstance(model, keras.Model):
        _check_inputs(model, inputs)
    elif not callable(getattr(model, "predict_on_batch", None)):
        raise ValueError(f"seconds_per_sequence: `model` must be one; received {told(model)}.")
    check_whole("seconds_per_sequence: `repeats`", repeats, 1, 1_000_000)
    check_kind("seconds_per_sequence: `batch_sizes`", batch_sizes, list | tuple, "a list of sizes")
    for size in batch_sizes:
        check_whole("seconds_per_sequence: `batch_sizes`", size, 1, 1_000_000)
    times = {}
    for size in batch_sizes:
        batch = _repeated(inputs, size)
        model.predict_on_batch(batch)
        taken: list[float] = []
        while len(taken) < repeats and sum(taken) < _ENOUGH:
            start = clock()
            model.predict_on_batch(batch)
            taken.append(clock() - start)
        times[str(size)] = statistics.median(taken) / size
    return times


def _check_inputs(model, inputs):
    """Refuses what a model does not take, before it says so in many lines."""
    given = inputs if isinstance(inputs, Mapping) else {model.inputs[0].name: inputs}
    for tensor in model.inputs:
        value = as_array("seconds_per_sequence: `inputs`", given.get(tensor.name))
        fits = len(value.shape) == len(tensor.shape) and all(
            size in (None, have) for size, have in zip(tensor.shape, value.shape, strict=True)
        )
        if not fits or not len(value) or value.dtype.kind not in "biuf":
            raise ValueError(
                f"seconds_per_sequence: `inputs` must be {tensor.dtype} of shape {tensor.shape} "
                f"for {tensor.name!r}; received {value.dtype} of {value.shape}."
            )


def _repeated(inputs, size):
    if isinstance(inputs, Mapping):
        return {name: _repeated(value, size) for name, value in inputs.items()}
    return inputs[np.arange(size) % len(inputs)]
