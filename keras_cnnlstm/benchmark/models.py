"""The reference model of this package and of stock Keras: train step, inference, graph and memory.

Stock Keras loops over the frames in Python; this package folds them into one batch. Runs on every
backend of Keras, and loads TensorFlow only where it is that backend.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from keras_cnnlstm.benchmark.machine import accelerator, policies
from keras_cnnlstm.benchmark.timings import Call, Row, Settings, interleaved, left_out, median_row
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.training.optimizers import Adam


class Variant(NamedTuple):
    """One of the models that are compared, and its optimizer.

    Attributes:
        build: from `(T, H, W, C)` to the model.
        optimizer: used with its default options.
    """

    build: Callable[[tuple[int, int, int, int]], keras.Model]
    optimizer: type[keras.optimizers.Optimizer] = keras.optimizers.Adam


OURS = "keras_cnnlstm"
STOCK = "stock Keras, a wrapper for each layer"
_STOCK_ADAM = "keras_cnnlstm with Keras's Adam"  # only its train step differs


def stock_cnn_lstm(
    input_shape: tuple[int, int, int, int],
    num_classes: int = 7,
    *,
    wrap: Literal["layer", "encoder"] = "layer",
) -> keras.Model:
    """The reference architecture with Keras's own `TimeDistributed`.

    Args:
        input_shape: `(T, H, W, C)`.
        num_classes: classes of the answer.
        wrap: "layer" has a wrapper for each layer of the CNN, "encoder" one around all of it.

    Returns:
        A model with the answers and the weights, in order, of `models.cnn_lstm`.
    """
    frames = keras.Input(input_shape, dtype="uint8", name="frames")
    x = layers.Rescaling(1 / 255, dtype="float32")(frames)
    parts: list[keras.Layer] = []
    for filters in (32, 64):
        parts += [
            layers.Conv2D(filters, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
        ]
    parts.append(layers.Flatten())
    for part in parts if wrap == "layer" else [keras.Sequential(parts)]:
        x = layers.TimeDistributed(part)(x)
    x = layers.LSTM(128)(x)
    return keras.Model(frames, layers.Dense(num_classes, "softmax", dtype="float32")(x))


VARIANTS = {
    STOCK: Variant(stock_cnn_lstm),
    "stock Keras, a wrapper around the CNN": Variant(partial(stock_cnn_lstm, wrap="encoder")),
    _STOCK_ADAM: Variant(cnn_lstm),
    OURS: Variant(cnn_lstm, Adam),
}
"""The models that are compared, by name."""

_ONCE = tuple(name for name in VARIANTS if name != _STOCK_ADAM)


def models(settings: Settings) -> list[Row]:
    """Times the reference model of this package and of stock Keras, and sizes graph and memory."""
    rows = []
    for length in settings.lengths:
        for train in (True, False):
            rows += _compare(settings, length, train=train)
    if keras.backend.backend() == "tensorflow":
        rows += [row for length in settings.lengths for row in _graphs(settings, length)]
    if accelerator():
        why = "a process cannot see how much of an accelerator's memory it uses"
        return [*rows, left_out("memory of a train step", "all", why)]
    return rows + [row for length in settings.lengths for row in _memory(settings, length)]


def step_section(batch_size: int, length: int, *, train: bool) -> str:
    """The section of the rows that time a train step, or inference."""
    return f"{'train step' if train else 'inference'}, B={batch_size}, T={length}"


def blocks_and_turns(length: int, repeats: int) -> tuple[int, int]:
    """Timed calls in a turn, and turns, for sequences of T frames: fewer where each takes longer.

    >>> blocks_and_turns(4, 15), blocks_and_turns(16, 15), blocks_and_turns(40, 15)
    ((4, 15), (1, 4), (1, 3))
    """
    return max(1, min(4, 16 // length)), min(repeats, max(3, round(repeats * 4 / length)))


def random_batch(
    batch_size: int, length: int, frame_shape: tuple[int, int, int] = (28, 28, 1)
) -> tuple[np.ndarray, np.ndarray]:
    """Frames `(B, T, H, W, C)` uint8 and targets `(B,)` int32, the same at each call."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (batch_size, length, *frame_shape), np.uint8)
    return frames, rng.integers(0, 7, batch_size, np.int32)


def compiled(name: str, length: int, policy: str) -> keras.Model:
    """One of `VARIANTS` for T frames, built and compiled under a dtype policy."""
    variant = VARIANTS[name]
    with _dtype_policy(policy):
        model = variant.build((length, 28, 28, 1))
        model.compile(variant.optimizer(), "sparse_categorical_crossentropy")
    return model


@contextlib.contextmanager
def _dtype_policy(policy: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def train_call(model: keras.Model, frames: np.ndarray, targets: np.ndarray) -> Call:
    """A call that trains on the batch once, and returns when the weights are updated."""
    last = model.trainable_variables[-1]

    def step():
        model.train_on_batch(frames, targets)
        return ops.convert_to_numpy(last.value)  # an accelerator may still be at work

    return step


def predict_call(model: keras.Model, frames: np.ndarray, _: object = None) -> Call:
    """A call that answers the batch with probabilities, as a NumPy array."""
    return lambda: model.predict_on_batch(frames)


def _compare(settings, length, *, train):
    section = step_section(settings.batch_size, length, train=train)
    batch, prepared = (
        random_batch(settings.batch_size, length),
        train_call if train else predict_call,
    )
    calls = {
        f"{name}, {policy}": prepared(compiled(name, length, policy), *batch)
        for policy in policies()
        for name in (VARIANTS if train else _ONCE)
    }
    for name, call in calls.items():
        settings.log(f"{section}: compiling {name}")
        call()
    settings.log(f"{section}: measuring")
    block, turns = blocks_and_turns(length, settings.repeats)
    seconds = interleaved(calls, turns, block=block)
    first = f"{STOCK}, float32"
    remark = f"as fast as {first} ({turns} turns)"
    return [
        median_row(section, name, times, reference=seconds[first], remark=remark)
        for name, times in seconds.items()
    ]


def _graphs(settings, length):
    """Rows of the size of the traced train step, and of the time to trace it."""
    section, rows = f"graph of the train step, T={length}", []
    for name in _ONCE:
        settings.log(f"{section}: tracing {name}")
        nodes, seconds = traced(compiled(name, length, "float32"))
        rows.append(Row(section, name, nodes, "nodes", remark="with those of inner functions"))
        rows.append(Row(section, f"{name}, tracing", seconds, remark="once"))
    return rows


def traced(model: keras.Model) -> tuple[int, float]:
    """The operations in TensorFlow's graph of a train step, and the seconds to trace it."""
    import tensorflow as tf

    model.optimizer.build(model.trainable_variables)
    step = tf.function(lambda frames, targets: model.train_step((frames, targets)))
    frames = tf.TensorSpec(model.inputs[0].shape, model.inputs[0].dtype)
    start = time.perf_counter()
    graph = step.get_concrete_function(frames, tf.TensorSpec((None,), "int32")).graph
    seconds = time.perf_counter() - start
    definition = graph.as_graph_def()
    inner = sum(len(function.node_def) for function in definition.library.function)
    return len(definition.node) + inner, seconds


def _memory(settings, length):
    """Rows of the memory that two train steps take, each in a process of its own."""
    section, rows = f"memory of a train step, B={settings.batch_size}, T={length}", []
    for name in _ONCE:
        settings.log(f"{section}: {name}")
        try:
            grown = in_fresh_process(memory_growth, name, settings.batch_size, length)
        except ChildProcessError as error:
            rows.append(left_out(section, name, str(error)))
        else:
            remark = "at the peak, above the model that was built"
            rows.append(Row(section, name, grown, "bytes", remark=remark))
    return rows


def memory_growth(name: str, batch_size: int, length: int) -> int:
    """Bytes by which two train steps of one of `VARIANTS` raise this process's peak memory."""
    model = compiled(name, length, "float32")
    step = train_call(model, *random_batch(batch_size, length))
    before = peak_memory()
    step(), step()
    return peak_memory() - before


def in_fresh_process(
    function: Callable[..., Any], *arguments: Any, timeout: float | None = None
) -> Any:
    """Calls a function in a Python process of its own; JSON carries its result."""
    code = (
        f"import json; from {function.__module__} import {function.__name__} as function; "
        f"print(json.dumps(function(*{arguments!r})))"
    )
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise ChildProcessError(last or f"the process ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory() -> int:
    """Bytes of main memory that this process has held at most.

    Prefers Linux's own count to `ru_maxrss`, which begins with the peak of the parent process.
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    if found:
        return int(found[1]) * 1024
    try:
        import resource
    except ImportError as error:  # Windows
        raise OSError(f"{sys.platform} has no count of a process's peak memory") from error
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
