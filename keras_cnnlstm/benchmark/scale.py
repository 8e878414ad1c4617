"""Speed and memory of training, as batch size, T and the size of frames grow.

Speed is measured in this process, where the sizes of one comparison take turns. Memory is measured
in a fresh process for each size, since a process does not return memory that it once took.
"""

import itertools
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_cnnlstm.benchmark.models import in_fresh_process, peak_memory, random_batch, train_call
from keras_cnnlstm.benchmark.timings import (
    Row,
    Settings,
    interleaved,
    left_out,
    median_row,
    turns_within,
)
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.runtime.memory import activation_memory, check_memory
from keras_cnnlstm.runtime.runtime import Runtime
from keras_cnnlstm.training.optimizers import Adam

_BUDGET = 45.0  # seconds for the turns of one comparison; three turns take longer if they must
_STEPS = 3  # train steps whose peak of memory is measured; the first one traces
_LONGEST = 300  # seconds for one measurement of memory
_CLASSES = 7


class Size(NamedTuple):
    """The size of a train step's input: B sequences of T frames, H and W pixels, C channels."""

    batch_size: int
    length: int
    side: int = 28
    channels: int = 1

    @property
    def frames(self) -> int:
        """All frames of a batch."""
        return self.batch_size * self.length

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)`."""
        return self.side, self.side, self.channels

    def __str__(self) -> str:
        return f"B={self.batch_size}, T={self.length}, {self.side}x{self.side}x{self.channels}"


SIZES: dict[str, tuple[Size, ...]] = {
    "batch size": tuple(Size(2**power, 4) for power in range(3, 10)),
    "T": tuple(Size(4, length) for length in (4, 16, 64, 256)),
    "frame size": tuple(Size(4, 16, *form) for form in itertools.product((28, 56, 112), (1, 3))),
}
"""The sizes to measure, by what grows; smallest first."""


class Memory(NamedTuple):
    """The memory of a train step.

    Attributes:
        measured: bytes by which a process grew, from before the model was built to its peak.
        estimated: bytes by `activation_memory`.
    """

    measured: int
    estimated: int


def scale(settings: Settings, sizes: Mapping[str, Sequence[Size]] = SIZES) -> list[Row]:
    """Measures speed and memory of the reference model's training as it grows.

    Args:
        settings: of which `repeats` and `log` count.
        sizes: the sizes to measure, by what grows.

    Returns:
        For each size the sequences a second, the memory at the peak and its estimate; over B and
        over T the memory of a further frame. At the end, the first sizes that `check_memory`
        refuses on this machine, and its words.
    """
    rows = []
    for what, group in sizes.items():
        rows += _grown(f"training over {what}, {Runtime().policy}", group, settings)
    settings.log("scale: where memory ends")
    return rows + limit_rows()


def _grown(section, group, settings):
    calls, found, missing = {}, {}, []
    for size in group:
        settings.log(f"{section}: {size}")
        try:
            calls[size] = _train_step(size)
            calls[size]()
            found[size] = Memory(*in_fresh_process(train_memory, *size, timeout=_LONGEST))
        except (ValueError, OSError, subprocess.SubprocessError) as error:
            missing.append(left_out(section, f"{size}", " ".join(str(error).split())))
            calls.pop(size, None)
    settings.log(f"{section}: measuring speed")
    turns = _turns(calls.values(), settings.repeats)
    seconds: Any = interleaved(calls, turns, block=1)
    return [*speed_rows(section, seconds), *memory_rows(section, found), *missing]


def _train_step(size):
    """A call that trains on a batch once; refused if it would not fit."""
    model = _model(size)
    check_memory(model, size.batch_size)
    return train_call(model, *random_batch(size.batch_size, size.length, size.frame_shape))


def _model(size: Size) -> keras.Model:
    with Runtime("auto", "one-device").scope():
        model = cnn_lstm((size.length, *size.frame_shape), _CLASSES)
        model.compile(Adam(), "sparse_categorical_crossentropy")
    return model


def _turns(calls, repeats):
    """How many turns fit into the budget, at two calls in each; two more do not count."""
    (turn,) = interleaved({"turn": lambda: [call() for call in calls]}, 1, block=1)["turn"]
    return turns_within(_BUDGET - 4 * turn, 2 * turn, repeats)


def speed_rows(section: str, seconds: Mapping[Size, Sequence[float]]) -> list[Row]:
    """A row for each size with sequences and frames a second, from times of the train step."""
    rows = []
    for size, times in seconds.items():
        speeds = size.batch_size / np.array(times)
        frames = float(np.median(speeds)) * size.length
        remark = f"{frames:,.0f} frames a second ({len(times)} turns)"
        rows.append(median_row(section, f"{size}, speed", speeds, "sequences/s", remark=remark))
    return rows


def memory_rows(section: str, found: Mapping[Size, Memory]) -> list[Row]:
    """Rows of the memory of each size, smallest first, and of a further frame of the same size."""
    rows = []
    for size, (measured, estimated) in found.items():
        each = f"{measured / size.frames / 1e3:,.0f} kB for each of {size.frames:,} frames"
        share = f"{estimated / measured:.2f} times what was measured"
        rows.append(Row(section, f"{size}, memory at peak", measured, "bytes", remark=each))
        rows.append(Row(section, f"{size}, memory estimated", estimated, "bytes", remark=share))
    if len(found) > 1 and len({size.frame_shape for size in found}) == 1:
        first, *_, last = found
        growth = found[last].measured - found[first].measured
        slope = growth / (last.frames - first.frames)
        remark = f"from {first} to {last}"
        rows.append(Row(section, "memory of a further frame", slope, "bytes", remark=remark))
    return rows


def train_memory(*size: int) -> Memory:
    """Trains in this process with a batch of a `Size`, and measures the memory."""
    before = peak_memory()
    batch = Size(*size)
    model = _model(batch)
    step = train_call(model, *random_batch(batch.batch_size, batch.length, batch.frame_shape))
    for _ in range(_STEPS):
        step()
    measured = peak_memory() - before
    return Memory(measured, activation_memory(model, batch.batch_size))


def limit_rows(limit: int | None = None) -> list[Row]:
    """The first sizes, each twice the last, that `check_memory` refuses, and its words.

    A step may take `limit` bytes, by default all that this machine has left.
    """
    rows = []
    for size in (Size(1, 4), Size(1, 16, 112, 3)):
        name = f"B at T={size.length}, {size.side}x{size.side}x{size.channels}"
        rows.append(_refused(name, "sequences", _model(size), limit))
    with Runtime("auto", "one-device").scope():
        model = cnn_lstm((None, 28, 28, 1), _CLASSES)
    return [*rows, _refused("T at B=4, 28x28x1", "frames", model, limit, batch_size=4)]


def _refused(name, unit, model, limit, *, batch_size=None):
    """A row of the first power of two that `check_memory` refuses: of T with a batch size, or B."""
    for number in (2**power for power in itertools.count()):
        time = {"time": number} if batch_size else {}
        try:
            check_memory(model, batch_size or number, limit=limit, **time)
        except ValueError as error:
            section = "the first that does not fit into memory"
            return Row(section, name, number, unit, remark=str(error))
