"""The reference model here and in stock Keras: train step, inference, graph and memory.

Stock Keras loops over the frames in Python where this package folds them into one batch. Runs on
every backend of Keras, and loads TensorFlow only where it is that backend.
"""

import contextlib
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from keras_cnnlstm.benchmark_machine import accelerator, auto_policy
from keras_cnnlstm.models import cnn_lstm
from keras_cnnlstm.optimizers import Adam
from keras_cnnlstm.timings import Row, interleaved, timing_row

Say = Callable[[str], object]


class Variant(NamedTuple):
    """One of the models that are compared."""

    build: Callable[[tuple[int, int, int, int]], keras.Model]
    """From `(T, H, W, C)` to the model."""

    optimizer: type[keras.optimizers.Optimizer] = keras.optimizers.Adam
    """By which it is trained, with the defaults."""


OURS = "keras_cnnlstm"
STOCK = "stock Keras, a wrapper for each layer"
_STOCK_ADAM = "keras_cnnlstm with Keras's Adam"  # whose train step alone is another


def stock_cnn_lstm(
    input_shape: tuple[int, int, int, int],
    num_classes: int = 7,
    *,
    wrap: Literal["layer", "encoder"] = "layer",
) -> keras.Model:
    """The reference architecture in Keras's own `TimeDistributed`.

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
"""What is compared, by name."""

_ONCE = tuple(name for name in VARIANTS if name != _STOCK_ADAM)


def models(*, batch_size: int, lengths: Sequence[int], repeats: int, say: Say) -> list[Row]:
    """Times the reference model here and in stock Keras, in turn; sizes its graph and memory.

    Args:
        batch_size: B, sequences in a batch.
        lengths: T, frames in a sequence, of each comparison.
        repeats: turns of each comparison, as `blocks_and_turns` takes them.
        say: told what is being done.

    Returns:
        The rows; what cannot be measured here has one without a figure, as `left_out` makes it.
    """
    rows = []
    for length in lengths:
        for train in (True, False):
            rows += _compare(batch_size, length, repeats, train=train, say=say)
    if keras.backend.backend() == "tensorflow":
        rows += [row for length in lengths for row in _graphs(length, say)]
    if accelerator():
        why = "a process does not see what it takes of an accelerator's memory"
        return [*rows, left_out("memory of a train step", "all", why)]
    return rows + [row for length in lengths for row in _memory(batch_size, length, say)]


def left_out(section: str, name: str, why: str) -> Row:
    """A row without a figure, of what cannot be measured here."""
    return Row(section, name, math.nan, remark=f"left out: {why}")


def train_section(batch_size: int, length: int) -> str:
    """The title of the rows that time a train step."""
    return f"train step, B={batch_size}, T={length}"


def inference_section(batch_size: int, length: int) -> str:
    """The title of the rows that time inference."""
    return f"inference, B={batch_size}, T={length}"


def blocks_and_turns(length: int, repeats: int) -> tuple[int, int]:
    """Timed calls in a row, and turns, for sequences of T frames: fewer where each takes longer.

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


def train_call(model: keras.Model, frames: np.ndarray, targets: np.ndarray) -> Callable[[], object]:
    """A call that trains on the batch once, and returns when the weights are the new ones."""
    last = model.trainable_variables[-1]

    def step():
        model.train_on_batch(frames, targets)
        return ops.convert_to_numpy(last.value)  # an accelerator may still be at work

    return step


def predict_call(model: keras.Model, frames: np.ndarray, _: object = None) -> Callable[[], object]:
    """A call that answers the batch with probabilities, as a NumPy array."""
    return lambda: model.predict_on_batch(frames)


def warmed(section: str, calls: Mapping[str, Callable[[], object]], say: Say) -> None:
    """Calls each once, which compiles it, and says so."""
    for name, call in calls.items():
        say(f"{section}: compiling {name}")
        call()


def _compare(batch_size, length, repeats, *, train, say):
    section = (train_section if train else inference_section)(batch_size, length)
    batch, call = random_batch(batch_size, length), train_call if train else predict_call
    calls = {
        f"{name}, {policy}": call(compiled(name, length, policy), *batch)
        for policy in dict.fromkeys(("float32", auto_policy()))
        for name in (VARIANTS if train else _ONCE)
    }
    block, turns = blocks_and_turns(length, repeats)
    warmed(section, calls, say)
    say(f"{section}: measuring")
    seconds = interleaved(calls, turns, block=block)
    first = f"{STOCK}, float32"
    than = first, seconds[first]
    remark = f"as fast as {first} ({turns} turns)"
    return [timing_row(section, name, s, than=than, remark=remark) for name, s in seconds.items()]


def _graphs(length, say):
    """Rows of the size of the traced train step, and of the time to trace it."""
    section, rows = f"graph of the train step, T={length}", []
    for name in _ONCE:
        say(f"{section}: tracing {name}")
        nodes, seconds = traced(compiled(name, length, "float32"))
        rows.append(Row(section, name, nodes, "nodes", remark="functions within counted"))
        rows.append(Row(section, f"{name}, tracing", seconds, remark="once"))
    return rows


def traced(model: keras.Model) -> tuple[int, float]:
    """How many operations TensorFlow's graph of a train step has, and the seconds to trace it.

    Args:
        model: compiled, of one input and whole-numbered targets.
    """
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


def _memory(batch_size, length, say):
    """Rows of the memory that two train steps take, each in a process of its own."""
    section, rows = f"memory of a train step, B={batch_size}, T={length}", []
    for name in _ONCE:
        say(f"{section}: {name}")
        try:
            grown = _run(f"print_growth({name!r}, {batch_size}, {length})")
        except subprocess.CalledProcessError as error:
            last = error.stderr.strip().rpartition("\n")[2]
            why = last or f"the process ended with {error.returncode}"
            rows.append(left_out(section, name, why))
        else:
            remark = "at the peak, above the model that was built"
            rows.append(Row(section, name, grown, "bytes", remark=remark))
    return rows


def _run(expression):
    """The number that a fresh Python prints for an expression of this module."""
    done = fresh_python("-c", f"from {__spec__.name} import *; {expression}")
    done.check_returncode()
    return json.loads(done.stdout.splitlines()[-1])


def fresh_python(*words: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """What a Python process of its own, which finds this package, did with these words.

    Args:
        *words: after the name of the interpreter.
        timeout: seconds that it may take.

    Raises:
        subprocess.TimeoutExpired: if it takes longer.
    """
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *words],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def print_growth(name: str, batch_size: int, length: int) -> None:
    """Prints by how many bytes two train steps raise the peak of this process's memory.

    Args:
        name: of `VARIANTS`.
        batch_size: B.
        length: T.
    """
    model = compiled(name, length, "float32")
    step = train_call(model, *random_batch(batch_size, length))
    before = peak_memory()
    step(), step()
    print(peak_memory() - before)


def peak_memory() -> int:
    """Bytes of main memory that this process has held at most.

    Not `ru_maxrss` where Linux tells its own: a process begins with that of whoever started it.
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    if found:
        return int(found[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
