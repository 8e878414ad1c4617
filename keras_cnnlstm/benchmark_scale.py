"""How the reference model grows: what training takes over batch size, T and the size of frames.

Speed is measured in this process, the sizes of one comparison in turn. Memory is measured in a
fresh process for each size, since none gives back what it once took.
"""

import functools
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_cnnlstm.arguments import check_whole
from keras_cnnlstm.benchmark_models import (
    fresh_python,
    left_out,
    peak_memory,
    random_batch,
    train_call,
)
from keras_cnnlstm.memory import activation_memory, check_memory
from keras_cnnlstm.models import cnn_lstm
from keras_cnnlstm.optimizers import Adam
from keras_cnnlstm.runtime import Runtime
from keras_cnnlstm.timings import Row, interleaved

Say = Callable[[str], object]

_BUDGET = 45.0
"""Seconds that the turns of one comparison may take; there are fewer, three at least, then."""

_STEPS = 3
"""Train steps whose peak is measured; the first one traces."""

_LONGEST = 300
"""Seconds that one measurement of memory may take."""

_CLASSES = 7


class Size(NamedTuple):
    """What a train step is fed with."""

    batch_size: int
    """B, sequences."""

    length: int
    """T, frames of each."""

    side: int = 28
    """H and W, pixels."""

    channels: int = 1
    """C."""

    @property
    def frames(self) -> int:
        """All frames of a batch."""
        return self.batch_size * self.length

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """`(T, H, W, C)`."""
        return self.length, self.side, self.side, self.channels

    def __str__(self) -> str:
        return f"B={self.batch_size}, T={self.length}, {self.side}x{self.side}x{self.channels}"


SIZES: dict[str, tuple[Size, ...]] = {
    "batch size": tuple(Size(2**power, 4) for power in range(3, 10)),
    "T": tuple(Size(4, length) for length in (4, 16, 64, 256)),
    "frame size": tuple(Size(4, 16, *form) for form in itertools.product((28, 56, 112), (1, 3))),
}
"""What is measured, by what grows; smallest first."""


class Memory(NamedTuple):
    """What a train step takes."""

    measured: int
    """Bytes by which a process grew, from before the model was built to its peak."""

    estimated: int
    """Bytes that `activation_memory` says."""


def scale(
    *,
    repeats: int = 15,
    sizes: Mapping[str, Sequence[Size]] = SIZES,
    say: Say = lambda text: None,
) -> list[Row]:
    """Measures speed and memory of the reference model's training as it grows.

    Args:
        repeats: turns of each comparison; fewer if they take over 45 seconds.
        sizes: what to measure, by what grows.
        say: told what is being done.

    Returns:
        For each size the sequences a second, the memory at the peak and what `activation_memory`
        says that it is; over B and over T the memory of a further frame. What does not fit has a
        row without a figure, which says so. At the end, the first sizes that `check_memory`
        refuses on this machine, and its words.

    Raises:
        ValueError: if `repeats` is out of range.
    """
    check_whole("scale: `repeats`", repeats, 1, 1_000_000)
    rows = []
    for what, group in sizes.items():
        rows += _grown(f"training over {what}, {Runtime().policy}", group, repeats, say)
    say("scale: where memory ends")
    return rows + limit_rows()


def _grown(section, group, repeats, say):
    calls, found, missing = {}, {}, []
    for size in group:
        say(f"{section}: {size}")
        try:
            calls[size] = _train_step(size)
            calls[size]()
            found[size] = measured_memory(size)
        except (ValueError, OSError, subprocess.SubprocessError) as error:
            missing.append(left_out(section, f"{size}", " ".join(str(error).split())))
            calls.pop(size, None)
    say(f"{section}: measuring speed")
    turns = _turns(calls.values(), repeats)
    seconds = interleaved({str(size): call for size, call in calls.items()}, turns, block=1)
    speeds = dict(zip(calls, seconds.values(), strict=True))
    return [*speed_rows(section, speeds), *memory_rows(section, found), *missing]


def _train_step(size):
    """A call that trains on a batch once; refused if it would not fit."""
    model = _model(size)
    check_memory(model, size.batch_size)
    return train_call(model, *_batch(size))


def _model(size: Size) -> keras.Model:
    with Runtime("auto", "one-device").scope():
        model = cnn_lstm(size.input_shape, _CLASSES)
        model.compile(Adam(), "sparse_categorical_crossentropy")
    return model


def _batch(size):
    return random_batch(size.batch_size, size.length, size.input_shape[1:])


def _turns(calls, repeats):
    """How many turns fit into the budget, at two calls in each; two more do not count."""
    (turn,) = interleaved({"turn": lambda: [call() for call in calls]}, 1, block=1)["turn"]
    return max(min(repeats, int(_BUDGET / (2 * turn)) - 2), min(repeats, 3))


def speed_rows(section: str, seconds: Mapping[Size, Sequence[float]]) -> list[Row]:
    """A row of the sequences a second for each size, with its spread and the frames a second.

    Args:
        section: as in `Row`.
        seconds: of a train step, one for each turn, by size.
    """
    rows = []
    for size, times in seconds.items():
        speeds = size.batch_size / np.array(times)
        low, median, high = np.quantile(speeds, (0.25, 0.5, 0.75)).tolist()
        remark = f"{median * size.length:,.0f} frames a second ({len(times)} turns)"
        name = f"{size}, speed"
        rows.append(Row(section, name, median, "sequences/s", low, high, remark=remark))
    return rows


def memory_rows(section: str, found: Mapping[Size, Memory]) -> list[Row]:
    """Rows of the memory of each size, and of a further frame where all frames are alike.

    Args:
        section: as in `Row`.
        found: memory by size, smallest first.
    """
    rows = []
    for size, (measured, estimated) in found.items():
        each = f"{measured / size.frames / 1e3:,.0f} kB for each of {size.frames:,} frames"
        share = f"{estimated / measured:.2f} times what was measured"
        rows.append(Row(section, f"{size}, memory at peak", measured, "bytes", remark=each))
        rows.append(Row(section, f"{size}, memory estimated", estimated, "bytes", remark=share))
    if len(found) > 1 and len({size[2:] for size in found}) == 1:
        first, *_, last = found
        growth = found[last].measured - found[first].measured
        slope = growth / (last.frames - first.frames)
        remark = f"from {first} to {last}"
        rows.append(Row(section, "memory of a further frame", slope, "bytes", remark=remark))
    return rows


def measured_memory(size: Size) -> Memory:
    """What some train steps take in a fresh process.

    Args:
        size: of the batch.

    Raises:
        ValueError: if that process fails; with its last words.
        subprocess.TimeoutExpired: if it takes over five minutes.
    """
    done = fresh_python("-m", __spec__.name, *map(str, size), timeout=_LONGEST)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise ValueError(
            f"measured_memory: `size` must be one that a process can train; {size} ended it with "
            f"{done.returncode}: {last}. Take a smaller one."
        )
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


def print_memory(size: Size) -> None:
    """Trains in this process, and prints a `Memory` as JSON.

    Args:
        size: of the batch.
    """
    before = peak_memory()
    model = _model(size)
    step = train_call(model, *_batch(size))
    for _ in range(_STEPS):
        step()
    measured = peak_memory() - before
    estimated = activation_memory(model, size.batch_size)
    print(json.dumps(Memory(measured, estimated)._asdict()))


def limit_rows(limit: int | None = None) -> list[Row]:
    """The first sizes, each twice the last, that `check_memory` refuses, and its words.

    Args:
        limit: bytes that a step may take; by default all that this machine has left.
    """
    rows = []
    for size in (Size(1, 4), Size(1, 16, 112, 3)):
        check = functools.partial(check_memory, _model(size), limit=limit)
        name = f"B at T={size.length}, {size.side}x{size.side}x{size.channels}"
        rows.append(_refused(name, "sequences", check))
    with Runtime("auto", "one-device").scope():
        endless = cnn_lstm((None, 28, 28, 1), _CLASSES)
    rows.append(
        _refused(
            "T at B=4, 28x28x1", "frames", lambda t: check_memory(endless, 4, time=t, limit=limit)
        )
    )
    return rows


def _refused(name, unit, check):
    """A row of the first power of two that a check refuses, and its words."""
    for number in (2**power for power in itertools.count()):
        try:
            check(number)
        except ValueError as error:
            return Row(
                "the first refused for want of memory", name, number, unit, remark=str(error)
            )


if __name__ == "__main__":
    print_memory(Size(*map(int, sys.argv[1:])))
