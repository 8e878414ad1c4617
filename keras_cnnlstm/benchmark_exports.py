"""How long one answer takes: of each exported form of the reference model, and of a stream.

Beside them stands the same model in PyTorch, where that is installed. Each call is timed by itself,
in blocks that take turns, so that the slowest in a hundred is known as well as the middle one.
NumPy arrays go in and come out, whatever the form.
"""

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_cnnlstm.arguments import check_whole
from keras_cnnlstm.artefacts import MODEL_FILES, load_artefact, required
from keras_cnnlstm.benchmark_machine import num_threads
from keras_cnnlstm.benchmark_models import left_out
from keras_cnnlstm.benchmark_torch import torch_cnn_lstm
from keras_cnnlstm.export import export
from keras_cnnlstm.models import cnn_lstm
from keras_cnnlstm.runtime import Runtime
from keras_cnnlstm.streaming import Stream
from keras_cnnlstm.timings import Row, against_row, interleaved, timing_row

Call = Callable[[], object]

_CALLS = 300
"""Timed calls of each form at least: three of them are slower than the 99th percentile."""

_WARM = 5
"""Calls before a block: in them the threads of the runtime before it come to rest."""

_SECTION = "latency, B=1, T=4, float32"

EXPORTED = ("SavedModel", "LiteRT", "LiteRT, 2 threads", "ONNX Runtime")
TORCH = ("PyTorch eager", "PyTorch channels_last", "PyTorch torch.compile")


def latency(*, repeats: int = 15) -> list[Row]:
    """Times one sequence through the reference model, T=4, in every form that runs here.

    SavedModel, LiteRT and ONNX are written and proven by `export` and asked through
    `artefacts.load_artefact`, but for LiteRT with two threads, which is the bare interpreter.

    Args:
        repeats: turns of the comparison; at least 300 calls of each form are spread over them.

    Returns:
        For each form a row of the median, with the quartiles of all calls, and one of the 99th
        percentile; and the fastest exported form against the best of PyTorch. A form that does
        not run here has a row without a figure that says why.

    Raises:
        ValueError: if `repeats` is out of range.
    """
    check_whole("latency: `repeats`", repeats, 1, 1_000_000)
    frames = np.random.default_rng(0).integers(0, 256, (1, 4, 28, 28, 1), np.uint8)
    with Runtime("float32", "one-device").scope():
        model = cnn_lstm()
    with tempfile.TemporaryDirectory() as directory:
        calls, reasons = opened(_forms(model, frames, Path(directory)))
        seconds = each_call(calls, repeats, block=math.ceil(_CALLS / repeats))
    return latency_rows(seconds) + [left_out(_SECTION, *reason) for reason in reasons.items()]


def latency_rows(seconds: Mapping[str, np.ndarray]) -> list[Row]:
    """The rows of timed calls, compared with the first form.

    Args:
        seconds: of each call, `(turns, block)` by form, as `each_call` gives them.
    """
    first = next(iter(seconds))
    than = first, seconds[first].ravel().tolist()
    rows = []
    for name, times in seconds.items():
        slowest = float(np.quantile(times, 0.99))
        remark = f"of {times.size:,} calls"
        rows.append(timing_row(_SECTION, name, times.ravel().tolist(), than=than))
        rows.append(Row(_SECTION, f"{name}, 99th percentile", slowest, remark=remark))
    return rows + _against_torch(seconds)


def _against_torch(seconds):
    """A row of the fastest exported form against the best of PyTorch, if there are both."""
    ours, theirs = (
        min(
            (name for name in names if name in seconds),
            key=lambda n: np.median(seconds[n]),
            default="",
        )
        for names in (EXPORTED, TORCH)
    )
    if not ours or not theirs:
        return []
    turns = {name: np.median(seconds[name], 1).tolist() for name in (ours, theirs)}
    return [against_row(_SECTION, ours, turns[ours], (theirs, turns[theirs]))]


def each_call(
    calls: Mapping[str, Call],
    turns: int,
    *,
    block: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Times single calls in turn, in blocks, so that each form finds its own data in the caches.

    Args:
        calls: what to time, by name.
        turns: how often each has its turn.
        block: timed calls in a turn, after five that are not.
        clock: what tells the time, in seconds.

    Returns:
        Seconds of each call, `(turns, block)` float64, by name.
    """
    seconds: dict[str, list[list[float]]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            for _ in range(_WARM):
                call()
            seconds[name].append([_timed(call, clock) for _ in range(block)])
    return {name: np.array(rows) for name, rows in seconds.items()}


def _timed(call, clock):
    start = clock()
    call()
    return clock() - start


def _forms(
    model: keras.Model, frames: np.ndarray, directory: Path
) -> dict[str, Callable[[], Call]]:
    """What makes each form ready to be called, by name; the first is what others compare with."""
    compiled = tf.function(model, jit_compile=False)
    exported = partial(_exported, model, frames, directory)
    return {
        "Keras, predict_on_batch": lambda: lambda: model.predict_on_batch(frames),
        "Keras, compiled call": lambda: lambda: compiled(tf.constant(frames)).numpy(),
        "SavedModel": partial(exported, "saved_model"),
        "LiteRT": partial(exported, "litert"),
        "LiteRT, 2 threads": partial(_threaded, frames, directory),
        "ONNX Runtime": partial(exported, "onnx"),
        **{name: partial(_in_torch, name, frames) for name in TORCH},
    }


def opened(forms: Mapping[str, Callable[[], Call]]) -> tuple[dict[str, Call], dict[str, str]]:
    """The calls of those forms that answer here, and the reasons why others do not.

    Args:
        forms: what makes a call, by name.
    """
    calls, reasons = {}, {}
    for name, make in forms.items():
        try:
            call = make()
            call()  # traces, compiles, allocates
        except Exception as error:  # of whatever kind: each runtime has its own
            what, _, _ = str(error).strip().partition("\n")
            reasons[name] = f"{type(error).__name__}: {what}"
        else:
            calls[name] = call
    return calls, reasons


def _exported(model, frames, directory, format):
    where = export(model, directory / format, format).path
    answer = load_artefact(where).signatures["serving_default"]
    return lambda: answer(frames=frames)


def _threaded(frames, directory):
    """The file that "LiteRT" wrote, in the bare interpreter."""
    interpreter = required("ai_edge_litert.interpreter").Interpreter(
        str(directory / "litert" / MODEL_FILES["litert"]), num_threads=2
    )
    answer = interpreter.get_signature_runner("serving_default")
    return lambda: answer(frames=frames)


def _in_torch(name, frames):
    """The same architecture with other weights, as `benchmark_torch` builds it, on the CPU."""
    module = torch_cnn_lstm(channels_last="channels_last" in name).eval()
    import torch

    torch.set_num_threads(num_threads())
    forward = torch.compile(module, dynamic=False) if "compile" in name else module

    def answer():
        with torch.inference_mode():
            return torch.softmax(forward(torch.from_numpy(frames)), -1).numpy()

    return answer


def streaming(*, repeats: int = 15) -> list[Row]:
    """Times a new frame of a stream against reading the window of its last 16 frames again.

    Args:
        repeats: turns of each comparison.

    Returns:
        Two rows for frames of 28x28x1, and two for 112x112x3.

    Raises:
        ValueError: if `repeats` is out of range.
    """
    check_whole("streaming: `repeats`", repeats, 1, 1_000_000)
    sizes = ((28, 28, 1), (112, 112, 3))
    return [row for size in sizes for row in _streamed(repeats, size)]


def _streamed(repeats, frame_shape, *, window=16):
    with Runtime("float32", "one-device").scope():
        model = cnn_lstm((None, *frame_shape))
    stream = Stream(model)
    state = stream.initial_state()
    frames = np.random.default_rng(0).integers(0, 256, (1, window, *frame_shape), np.uint8)
    again = f"window of {window} read again"
    seconds = interleaved(
        {
            again: lambda: model.predict_on_batch(frames),
            "streamed": lambda: stream.step(frames[:, 0], state),
        },
        repeats,
        block=10,
    )
    section = f"one new frame of {'x'.join(map(str, frame_shape))}, float32"
    slow = again, seconds[again]
    return [timing_row(section, name, times, than=slow) for name, times in seconds.items()]
