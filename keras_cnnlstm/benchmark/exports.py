"""The time of one answer: of each exported form of the reference model, and of a stream.

PyTorch runs the same model beside them, where it is installed. Each call is timed separately, in
blocks that take turns, so that the slowest in a hundred is known too. NumPy arrays go in and come
out of every form.
"""

import math
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_cnnlstm.benchmark.machine import num_threads
from keras_cnnlstm.benchmark.pytorch import Variant, torch_predict
from keras_cnnlstm.benchmark.timings import (
    Call,
    Row,
    Settings,
    against_best,
    each_call,
    interleaved,
    median_row,
    ready_calls,
)
from keras_cnnlstm.export.artifact import load_artifact
from keras_cnnlstm.export.exporter import export
from keras_cnnlstm.export.formats import FORMATS
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.streaming import Stream
from keras_cnnlstm.runtime.runtime import Runtime
from keras_cnnlstm.utils.environment import required

_CALLS = 300
"""Timed calls of each form at least: three of them are slower than the 99th percentile."""

_WARM = 5
"""Calls before a block, in which the threads of the previous runtime come to rest."""

_SECTION = "latency, B=1, T=4, float32"

EXPORTED = ("SavedModel", "LiteRT", "LiteRT, 2 threads", "ONNX Runtime")
"""The exported forms by name."""

TORCH = (
    Variant("PyTorch eager"),
    Variant("PyTorch channels_last", channels_last=True),
    Variant("PyTorch torch.compile", compile=True),
)
"""The forms of PyTorch; their weights are others."""


def latency(settings: Settings) -> list[Row]:
    """Times one sequence of 4 frames through the reference model, in every form that runs here.

    `export` writes and proves SavedModel, LiteRT and ONNX, and `load_artifact` runs them; LiteRT
    with two threads is the bare interpreter. The turns share at least 300 calls of each form.

    Returns:
        For each form a row with the median and the quartiles of all calls, and one with the 99th
        percentile; and the fastest exported form against the best of PyTorch.
    """
    frames = np.random.default_rng(0).integers(0, 256, (1, 4, 28, 28, 1), np.uint8)
    with Runtime("float32", "one-device").scope():
        model = cnn_lstm()
    with tempfile.TemporaryDirectory() as directory:
        forms = _forms(model, frames, Path(directory))
        calls, missing = ready_calls(_SECTION, forms, settings.log)
        block = math.ceil(_CALLS / settings.repeats)
        seconds = each_call(calls, settings.repeats, block=block, warm=_WARM)
    return latency_rows(seconds) + missing


def latency_rows(seconds: Mapping[str, np.ndarray]) -> list[Row]:
    """The rows of times `(turns, block)` by form, compared with the first form."""
    first = next(iter(seconds))
    rows = []
    for name, times in seconds.items():
        remark, count = f"as fast as {first}", f"of {times.size:,} calls"
        rows.append(median_row(_SECTION, name, times, reference=seconds[first], remark=remark))
        slowest = float(np.quantile(times, 0.99))
        rows.append(Row(_SECTION, f"{name}, 99th percentile", slowest, remark=count))
    return rows + against_best(_SECTION, seconds, EXPORTED, [variant.name for variant in TORCH])


def _forms(
    model: keras.Model, frames: np.ndarray, directory: Path
) -> dict[str, Callable[[], Call]]:
    """Functions that make each form ready to be called, by name; others compare with the first."""
    compiled = tf.function(model, jit_compile=False)
    exported = partial(_exported, model, frames, directory)
    return {
        "Keras, predict_on_batch": lambda: lambda: model.predict_on_batch(frames),
        "Keras, compiled call": lambda: lambda: compiled(tf.constant(frames)).numpy(),
        "SavedModel": partial(exported, "saved_model"),
        "LiteRT": partial(exported, "litert"),
        "LiteRT, 2 threads": partial(_two_threads, frames, directory),
        "ONNX Runtime": partial(exported, "onnx"),
        **{variant.name: partial(_in_torch, variant, frames) for variant in TORCH},
    }


def _exported(model, frames, directory, format):
    where = export(model, directory / format, format).path
    answer = load_artifact(where).signatures["serving_default"]
    return lambda: answer(frames=frames)


def _two_threads(frames, directory):
    """The file that "LiteRT" wrote, in the bare interpreter."""
    interpreter = required("ai_edge_litert.interpreter").Interpreter(
        str(FORMATS["litert"].path(directory / "litert")), num_threads=2
    )
    answer = interpreter.get_signature_runner("serving_default")
    return lambda: answer(frames=frames)


def _in_torch(variant, frames):
    """PyTorch on the CPU, with as many threads as TensorFlow."""
    import torch

    torch.set_num_threads(num_threads())
    return torch_predict(variant, frames)


def streaming(settings: Settings) -> list[Row]:
    """Times a new frame of a stream, and the window of its last 16 frames read again.

    Returns:
        Two rows for frames of 28x28x1, and two for 112x112x3.
    """
    sizes = ((28, 28, 1), (112, 112, 3))
    return [row for size in sizes for row in _streamed(settings.repeats, size)]


def _streamed(repeats, frame_shape, *, window=16):
    with Runtime("float32", "one-device").scope():
        model = cnn_lstm((None, *frame_shape))
    stream = Stream(model)
    state = stream.initial_state()
    frames = np.random.default_rng(0).integers(0, 256, (1, window, *frame_shape), np.uint8)
    again = f"window of {window} read again"
    calls = {
        again: lambda: model.predict_on_batch(frames),
        "streamed": lambda: stream.step(frames[:, 0], state),
    }
    seconds = interleaved(calls, repeats, block=10)
    section = f"one new frame of {'x'.join(map(str, frame_shape))}, float32"
    remark = f"as fast as {again}"
    return [
        median_row(section, name, times, reference=seconds[again], remark=remark)
        for name, times in seconds.items()
    ]
