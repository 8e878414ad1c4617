"""Memory told before it is spent: what a train step takes, what there is, which batch fits.

An out-of-memory error comes late, ends the process, and names no number to change. Here the sizes
are summed up from the layers' shapes, before anything is allocated. Knows models, not what trains
them; how much memory a GPU has, its caller must say.
"""

import bisect
import math
import os
import re
import sys
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import keras
from keras import layers

from keras_cnnlstm.arguments import check_whole, is_whole, told

_KEPT = 2.1
"""Bytes at the peak of a step for each byte of a layer's output: itself, its gradient, and what
convolutions rearrange. This and the next three are fitted to the growth of the resident memory in
real steps, on a CPU with TensorFlow 2.21; see `activation_memory`."""

_UPDATE = 2
"""Further arrays of the size of the largest weight that its gradient and its update take."""

_GRAPH = 20_000_000, 1_500_000
"""Bytes of a traced graph and its libraries: of any, and for each layer."""

_LSTM_STEP = 6
"""Numbers kept of each step by a unit of an LSTM, beside those that the gradients take."""

_MOST = 10**12  # sequences or frames that an estimate is made for

_VIEWS = (layers.Flatten, layers.Reshape)  # another shape of the same numbers

_GROUPS = {
    "v1": (
        "sys/fs/cgroup/memory",
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ),
    "v2": ("sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")),
}
"""Where control groups of both versions lie; the files of limit and use, and the cache's line."""


class Estimate(NamedTuple):
    """What a train step takes of the memory that there is."""

    bytes: int
    """Estimate for this batch: weights, gradients, optimizer and activations at their peak."""

    limit: int
    """Bytes that the step may take."""

    largest_batch: int
    """Sequences of the largest batch that fits."""

    batch_size: int
    """Sequences of this batch."""

    def describe(self) -> str:
        """One line: "1.2 GB of 20 GB for a batch of 64"."""
        return f"{_text(self.bytes)} of {_text(self.limit)} for a batch of {self.batch_size}"


def activation_memory(model: keras.Model, batch_size: int, *, time: int | None = None) -> int:
    """Bytes that a train step takes at its peak, an estimate.

    Activations, the outputs of all layers and of the layers inside of them, are kept until their
    gradients are there: they grow with the batch and with T. What comes before the first weight
    that is trained, such as a frozen encoder, keeps nothing. To these come weights, gradients and
    what the optimizer keeps; Adam's two numbers a weight, if the model is not compiled yet.

    Of 33 models and batches measured on a CPU (28x28x1 to 112x112x3 pixels, T 4 to 40, B 1 to 512,
    float32 and mixed_bfloat16) the estimate was 0.82 to 1.48 times the growth of the process, but
    for two small ones: 1.74 times for `flat_mlp`, 0.61 times for one image in `renet`. The same
    step of 40 frames took 0.94 to 1.37 GB from run to run. No GPU was measured.

    Args:
        model: a functional or sequential model, built.
        batch_size: B; of one replica, where several share a batch.
        time: T, for a model that takes any number of frames.

    Returns:
        Bytes on the device that trains.

    Raises:
        ValueError: if a size of an input is unknown, or an argument is out of range.

    Example:

    >>> from keras_cnnlstm.models import cnn_lstm
    >>> round(activation_memory(cnn_lstm(), 64) / 1e6)
    215
    """
    return _bytes_of("activation_memory", model, time)(
        _checked_batch("activation_memory", batch_size)
    )


def available_memory() -> int:
    """Bytes of main memory that this process can still take; what a GPU has is not counted.

    What Linux says is available, or less where the process's control groups (version 1 or 2; those
    of a container or a job) leave less of their limits. Elsewhere all that the machine has, and
    `sys.maxsize` where it does not tell.
    """
    return _available(Path("/"))


def check_memory(
    model: keras.Model,
    batch_size: int,
    *,
    time: int | None = None,
    together: int = 1,
    limit: int | None = None,
) -> Estimate:
    """Refuses a batch that cannot fit, with the one that does.

    Args:
        model: the model to train, as `activation_memory` takes it.
        batch_size: B; of one replica, where several share a batch.
        time: T, for a model that takes any number of frames.
        together: B must be a multiple of it, since so many sequences exchange their frames.
        limit: bytes that a step may take, such as a GPU's; by default `available_memory()`.

    Returns:
        The estimate, to be printed.

    Raises:
        ValueError: if the batch does not fit, or an argument is out of range.

    Example:

    >>> from keras_cnnlstm.models import cnn_lstm
    >>> check_memory(cnn_lstm(), 64, limit=10**9).describe()
    '215 MB of 1 GB for a batch of 64'
    """
    batch_size = _checked_batch("check_memory", batch_size)
    if limit is not None:
        check_whole("check_memory: `limit`", limit, 0, sys.maxsize)
    check_whole("check_memory: `together`", together, 1, _MOST)
    limit, together = available_memory() if limit is None else int(limit), int(together)
    needed = _bytes_of("check_memory", model, time, together)
    largest = bisect.bisect_right(range(1, limit), limit, key=needed)  # a sequence has bytes
    largest -= largest % together
    if largest < 1:
        raise ValueError(
            f"check_memory: `model` must fit into {_text(limit)}; received {model.name!r}, which "
            f"takes {_text(needed(together))} for a batch of {together}. Take a smaller encoder, "
            "or fewer or smaller frames."
        )
    if largest < batch_size:
        power = 1 << largest.bit_length() - 1  # of two, as batches are
        handy = max(power - power % together, together)
        raise ValueError(
            f"check_memory: `batch_size` must be at most {largest} with {_named(model, time)}, to "
            f"fit into {_text(limit)}; received {batch_size}, which takes "
            f"{_text(needed(batch_size))}. Take {handy}, or fewer frames, or a smaller "
            "encoder."
        )
    return Estimate(needed(batch_size), limit, largest, batch_size)


def _bytes_of(caller, model, time, together=1):
    """The estimate as a function of the batch size."""
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"{caller}: `model` must have a graph of layers to follow; received "
            f"{type(model).__name__} {getattr(model, 'name', '')!r} without. Build a functional "
            "model."
        )
    inputs = [_fewest(caller, model, tensor, time, together) for tensor in model.inputs]
    activations = _Trace().run(model, inputs) / together  # of a sequence
    trained = [_bytes(weight) for weight in model.trainable_variables]
    graph = _GRAPH[0] + _GRAPH[1] * len(model._flatten_layers())
    weights = sum(map(_bytes, model.weights)) + sum(trained)  # and their gradients
    slots = _slots(model, 2 * sum(trained))
    fixed = graph + weights + slots + _UPDATE * max(trained, default=0)
    return lambda batch_size: fixed + int(_KEPT * batch_size * activations)


def _fewest(caller, model, tensor, time, together):
    """An input of the model for so many sequences, of `time` frames if any number will do."""
    _, *sizes = tensor.shape
    if sizes and sizes[0] is None:
        if not is_whole(time, 1, _MOST):
            raise ValueError(
                f"{caller}: `time` must be the number of frames, 1 or more, since {model.name!r} "
                f"takes any; received {told(time)}."
            )
        sizes[0] = time
    if None in sizes:
        raise ValueError(
            f"{caller}: `model` must have inputs of known size but for B and T; received "
            f"{tuple(tensor.shape)} for {tensor.name!r}."
        )
    return keras.KerasTensor((together, *sizes), tensor.dtype)


class _Trace:
    """Runs layers on shapes alone, and sums up the bytes of what each of them keeps."""

    def __init__(self):
        self._bytes, self._learning = 0, False

    def run(self, model, inputs):
        self._call(model, inputs)
        return self._bytes

    def _call(self, layer, inputs, *args, **kwargs):
        if isinstance(layer, keras.Sequential):
            for inner in layer.layers:
                inputs = self._call(inner, *keras.tree.flatten(inputs))
            return inputs
        if hasattr(layer, "_run_through_graph"):  # a functional model
            return layer._run_through_graph(inputs, lambda inner: partial(self._call, inner))
        if isinstance(layer, layers.TimeDistributed):
            return self._fold(layer.layer, inputs)
        outputs = layer.compute_output_spec(inputs, *args, **kwargs)
        self._learning = self._learning or bool(getattr(layer, "trainable_variables", ()))
        if self._learning:
            self._bytes += _kept(layer, inputs, outputs)
        else:  # no gradient will go back this far: the numbers go when the next layer has them
            passing = map(_bytes, keras.tree.flatten([inputs, outputs]))
            self._bytes = max(self._bytes, sum(passing))
        return outputs

    def _fold(self, layer, inputs):
        batch, time, *sizes = inputs.shape
        outputs = self._call(layer, keras.KerasTensor((batch * time, *sizes), inputs.dtype))
        return keras.tree.map_structure(
            lambda x: keras.KerasTensor((batch, time, *x.shape[1:]), x.dtype), outputs
        )


def _kept(layer, inputs, outputs):
    """Bytes that a layer adds to what lives until the gradients are there."""
    if isinstance(layer, _VIEWS):
        return 0
    first, *_ = keras.tree.flatten(outputs)
    if isinstance(layer, layers.RNN | layers.Bidirectional):
        steps = 1 if layer.return_sequences else inputs.shape[1]
        return _LSTM_STEP * steps * _bytes(first)
    # Of a layer of layers, such as a residual block, as much for each of them.
    parts = len(layer._flatten_layers()) - 1 if isinstance(layer, keras.Layer) else 0
    return max(parts, 1) * sum(map(_bytes, keras.tree.flatten(outputs)))


def _slots(model, default):
    """Bytes of what the optimizer keeps; where there is none yet, the default."""
    optimizer = getattr(model, "optimizer", None)
    built = optimizer is not None and optimizer.built
    return sum(map(_bytes, optimizer.variables)) if built else default


def _bytes(tensor):
    """Bytes of a tensor or variable of known shape."""
    digits = re.search(r"\d+", tensor.dtype)  # a boolean has none
    return math.prod(tensor.shape) * (int(digits[0]) // 8 if digits else 1)


def _checked_batch(caller, batch_size):
    if not is_whole(batch_size, 1, _MOST):
        raise ValueError(
            f"{caller}: `batch_size` must be a whole number, 1 or more; received "
            f"{told(batch_size)}."
        )
    return int(batch_size)


def _named(model, time):
    sizes = model.inputs[0].shape[1:]
    frames = sizes[0] or time
    return f"{model.name!r} and T={frames}" if len(sizes) > 2 else repr(model.name)


def _text(size):
    """Bytes as a person says them: "171 MB", "1.2 GB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            return f"{size:.2g} {unit}" if size < 9.95 else f"{size:.0f} {unit}"
        size /= 1000
    raise AssertionError


def _available(root):
    """`available_memory` of the machine whose files lie under `root`."""
    return min([_machine(root), *_left_by_groups(root)])


def _machine(root):
    """Bytes that Linux says are available; all that there are, where it is another system."""
    try:
        found = re.search(r"^MemAvailable: *(\d+) kB$", (root / "proc/meminfo").read_text(), re.M)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize


def _left_by_groups(root):
    """Bytes that each control group of this process, and each above it, leaves of its limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number != "0" and "memory" not in controllers.split(","):
            continue
        folder, names = _GROUPS["v2" if number == "0" else "v1"]
        group = PurePosixPath(path)
        for part in (group, *group.parents):
            left = _left(root / folder / part.relative_to("/"), *names)
            if left is not None:
                yield left


def _left(folder, limit, usage, cache):
    try:
        left = int((folder / limit).read_text()) - int((folder / usage).read_text())
        stat = (folder / "memory.stat").read_text()
    except (OSError, ValueError):  # no such group here, or its limit is "max"
        return None
    # Files that were read count as used, but make room when it is needed.
    cached = re.search(rf"^{cache} (\d+)$", stat, re.M)
    return max(0, left + (int(cached[1]) if cached else 0))
