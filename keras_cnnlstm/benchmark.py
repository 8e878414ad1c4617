"""Timings that a user can repeat on his own machine: interleaved in one process, as medians.

Rows that are compared take turns, so that a busy machine slows all of them alike; the ratios are
medians of the ratios of each turn.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from keras_cnnlstm.arguments import check_whole
from keras_cnnlstm.digits import load_digits
from keras_cnnlstm.models import cnn_lstm
from keras_cnnlstm.pipeline import digit_sequences
from keras_cnnlstm.runtime import Runtime
from keras_cnnlstm.streaming import Stream
from keras_cnnlstm.tasks import Trend


class Row(NamedTuple):
    """One timing: a name, the median seconds of one call, and how it compares."""

    name: str
    seconds: float
    remark: str


def benchmark(*, batch_size: int = 64, length: int = 4, repeats: int = 15) -> list[Row]:
    """Times the reference model against stock Keras, the pipeline, and streaming.

    Args:
        batch_size: B, sequences in a training batch.
        length: T, frames in a sequence.
        repeats: turns of each comparison; more take longer and scatter less.

    Returns:
        The rows, in the order of measuring.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_whole("benchmark: `batch_size`", batch_size, 1, 1_000_000)
    check_whole("benchmark: `repeats`", repeats, 1, 1_000_000)
    task = Trend(length)
    steps = _train_steps(task, batch_size, repeats)
    return [
        *steps,
        *_pipeline(task, batch_size, repeats, fastest=min(row.seconds for row in steps)),
        *_streaming(repeats, (28, 28, 1)),
        *_streaming(repeats, (112, 112, 3)),
    ]


def interleaved(
    calls: dict[str, Callable[[], object]], repeats: int, *, block: int = 4
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


def _ratio(slow: list[float], fast: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def _compared(title, seconds, slow, than):
    """A row for each of `seconds`, each compared with the one named `slow`."""
    return [
        Row(
            f"{title}, {name}",
            statistics.median(s),
            f"{_ratio(seconds[slow], s):.2f} times as fast as {than}",
        )
        for name, s in seconds.items()
    ]


def stock_cnn_lstm(input_shape: tuple[int, int, int, int], num_classes: int) -> keras.Model:
    """The reference architecture in Keras's own `TimeDistributed`, one around each layer."""
    frames = keras.Input(input_shape, dtype="uint8", name="frames")
    x = layers.Rescaling(1 / 255, dtype="float32")(frames)
    for filters in (32, 64):
        conv = layers.Conv2D(filters, 3, padding="same", activation="relu")
        x = layers.TimeDistributed(conv)(x)
        x = layers.TimeDistributed(layers.MaxPooling2D(2))(x)
    x = layers.LSTM(128)(layers.TimeDistributed(layers.Flatten())(x))
    return keras.Model(frames, layers.Dense(num_classes, "softmax", dtype="float32")(x))


def _train_steps(task, batch_size, repeats):
    shape = (task.length, 28, 28, 1)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (batch_size, *shape), np.uint8)
    targets = rng.integers(0, task.num_classes, batch_size)
    calls = {}
    for precision in dict.fromkeys(("float32", Runtime().policy)):
        for name, build in (("stock Keras", stock_cnn_lstm), ("keras_cnnlstm", cnn_lstm)):
            with Runtime(precision, "one-device").scope():
                model = build(shape, task.num_classes)
                model.compile("adam", "sparse_categorical_crossentropy")
            calls[f"{name}, {precision}"] = lambda m=model: m.train_on_batch(frames, targets)
    title = f"train step, B={batch_size}, T={task.length}"
    seconds = interleaved(calls, repeats)
    return _compared(title, seconds, "stock Keras, float32", "stock Keras in float32")


def _pipeline(task, batch_size, repeats, *, fastest):
    images = load_digits().train
    calls = {}
    for name, augment in (("plain", False), ("augmented", True)):
        data = digit_sequences(images, task, batch_size=batch_size, seed=0, augment=augment)
        calls[name] = functools.partial(next, iter(data))
    return [
        Row(
            f"pipeline, one batch, {name}",
            (median := statistics.median(s)),
            f"{batch_size / median:,.0f} sequences a second, {fastest / median:.0f} times the "
            "fastest train step above",
        )
        for name, s in interleaved(calls, repeats, block=200).items()
    ]


def _streaming(repeats, frame_shape, *, window=16):
    with Runtime("float32", "one-device").scope():
        model = cnn_lstm((None, *frame_shape))
    stream = Stream(model)
    state = stream.initial_state()
    frames = np.random.default_rng(0).integers(0, 256, (1, window, *frame_shape), np.uint8)
    again = f"window of {window} read again"
    seconds = interleaved(
        {
            "streamed": lambda: stream.step(frames[:, 0], state),
            again: lambda: model.predict_on_batch(frames),
        },
        repeats,
        block=10,
    )
    size = "x".join(map(str, frame_shape))
    return _compared(f"one new frame of {size}", seconds, again, "reading the window again")
