"""Memory, before it is spent: what a train step takes, what there is, which batch fits.

An out-of-memory error comes late, ends the process, and names no number to change. Here the sizes
are summed up from the shapes of the layers' outputs, before anything is allocated. Knows models,
not what trains them; the caller must give the memory of a GPU.
"""

import bisect
import contextlib
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import keras
import psutil
import tensorflow as tf
from keras import layers

from keras_cnnlstm.utils.model_calls import follow_calls
from keras_cnnlstm.utils.validation import check_integer, is_integer, short_repr

_LSTM_STEP = 6  # numbers a unit keeps of each step: four gates, the cell's state, the output
_MOST = 10**12  # sequences or frames that an estimate is made for


class Estimate(NamedTuple):
    """What a train step takes of the memory that there is.

    Attributes:
        bytes: the estimate for this batch, from `activation_memory`.
        limit: bytes that the step may take.
        largest_batch: sequences of the largest batch that fits.
        batch_size: sequences of this batch.
    """

    bytes: int
    limit: int
    largest_batch: int
    batch_size: int

    def describe(self) -> str:
        """One line: "1.2 GB of 20 GB for a batch of 64"."""
        return f"{_text(self.bytes)} of {_text(self.limit)} for a batch of {self.batch_size}"


def activation_memory(model: keras.Model, batch_size: int, *, time: int | None = None) -> int:
    """Bytes that a train step takes at its peak: an estimate, from shapes and dtypes alone.

    The sum of

    * the weights, a gradient for each trained one, and what the optimizer keeps (Adam's two numbers
      for each trained weight, if the model is not compiled yet);
    * the batch;
    * twice the output of each layer from the first trained one on, for the value is kept until the
      gradient of the same size is there. A layer that only reshapes keeps nothing. A layer made of
      layers keeps as many outputs as it has parts with weights. An LSTM keeps six numbers for each
      unit and step: four gates, the state of the cell, and the output;
    * before the first trained layer, such as in a frozen encoder, the input and the output of the
      one layer where these are largest.

    TensorFlow's program and the buffers of its kernels come on top, 0.1 to 0.2 GB on a CPU. Layers
    whose value no gradient needs, such as batch normalisation before a ReLU, may take half of it.

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
    145
    """
    check_integer("activation_memory: `batch_size`", batch_size, 1, _MOST)
    return _bytes_of("activation_memory", model, time)(int(batch_size))


def available_memory() -> int:
    """Bytes of main memory that this process can still take, without the memory of a GPU.

    What the system has left, or less where the control groups of the process (Linux, version 1 or
    2; those of a container or a job) leave less of their limits.
    """
    return min([psutil.virtual_memory().available, *_left_by_groups(Path("/"))])


def check_memory(
    model: keras.Model,
    batch_size: int,
    *,
    time: int | None = None,
    together: int = 1,
    limit: int | None = None,
) -> Estimate:
    """Refuses a batch that cannot fit, and names one that does.

    Args:
        model, batch_size, time: as in `activation_memory`.
        together: B must be a multiple of it, since groups of sequences exchange their frames.
        limit: bytes that a step may take, such as a GPU's; by default `available_memory()`.

    Returns:
        The estimate, to be printed.

    Raises:
        ValueError: if the batch does not fit, or an argument is out of range.

    Example:

    >>> from keras_cnnlstm.models import cnn_lstm
    >>> check_memory(cnn_lstm(), 64, limit=10**9).describe()
    '145 MB of 1 GB for a batch of 64'
    """
    check_integer("check_memory: `batch_size`", batch_size, 1, _MOST)
    check_integer("check_memory: `together`", together, 1, _MOST)
    if limit is not None:
        check_integer("check_memory: `limit`", limit, 0, sys.maxsize)
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
        sizes = model.inputs[0].shape[1:]
        frames = f" and T={sizes[0] or time}" if len(sizes) > 2 else ""
        raise ValueError(
            f"check_memory: `batch_size` must be at most {largest} with {model.name!r}{frames}, to "
            f"fit into {_text(limit)}; received {batch_size}, which takes "
            f"{_text(needed(batch_size))}. Take {handy}, or fewer frames, or a smaller encoder."
        )
    return Estimate(needed(batch_size), limit, largest, int(batch_size))


@contextlib.contextmanager
def out_of_memory_hint(batch_size: int) -> Iterator[None]:
    """Turns an out-of-memory error of the training inside into one line with the remedy.

    Raises:
        MemoryError: if main memory, or that of a GPU, did not suffice.
    """
    try:
        yield
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        smaller = f"{batch_size // 2} or fewer, or " if batch_size > 1 else ""
        raise MemoryError(
            f"batch_size must fit into the memory of the device; {batch_size} did not. Take "
            f"{smaller}fewer or smaller frames, or a smaller encoder."
        ) from error


def _bytes_of(caller, model, time, together=1):
    """The estimate as a function of the batch size."""
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"{caller}: `model` must have a graph of layers to follow; received "
            f"{type(model).__name__} {getattr(model, 'name', '')!r} without. Build a functional "
            "model."
        )
    inputs = [
        keras.KerasTensor(_shape(caller, model, x, time, together), x.dtype) for x in model.inputs
    ]
    trace = _Trace()
    trace.follow(model, inputs, ())
    sequence = (_bytes(inputs) + 2 * trace.kept + trace.passing) / together
    trained = _bytes(model.trainable_variables)
    optimizer = getattr(model, "optimizer", None)
    slots = _bytes(optimizer.variables) if optimizer and optimizer.built else 2 * trained
    fixed = _bytes(model.weights) + trained + slots
    return lambda batch_size: fixed + int(batch_size * sequence)


def _shape(caller, model, tensor, time, together):
    """Shape of an input for this many sequences, of `time` frames if any number will do."""
    _, *sizes = tensor.shape
    if sizes and sizes[0] is None:
        if not is_integer(time, 1, _MOST):
            raise ValueError(
                f"{caller}: `time` must be the number of frames, 1 or more, since {model.name!r} "
                f"takes any; received {short_repr(time)}."
            )
        sizes[0] = time
    if None in sizes:
        raise ValueError(
            f"{caller}: `model` must have inputs of known size but for B and T; received "
            f"{tuple(tensor.shape)} for {tensor.name!r}."
        )
    return together, *sizes


class _Trace:
    """Follows the layers of a model, and counts the bytes of what each of them keeps.

    Attributes:
        kept: bytes that live until the gradients are there.
        passing: bytes of the largest input and output before the first trained layer.
    """

    def __init__(self):
        self.kept = self.passing = 0
        self._learning = False

    def follow(self, layer, inputs, outputs):
        """Counts a layer that makes these outputs of these inputs."""
        if isinstance(layer, layers.TimeDistributed):
            folded = keras.tree.map_structure(_folded, (inputs, outputs))
            self.follow(layer.layer, *folded)
        elif isinstance(layer, keras.Model) and getattr(layer, "inputs", None):
            follow_calls(layer, self._call, inputs)
        else:
            self._learning = self._learning or bool(getattr(layer, "trainable_variables", ()))
            if self._learning:
                self.kept += _kept(layer, inputs, outputs)
            else:  # no gradient goes back this far
                self.passing = max(self.passing, _bytes([inputs, outputs]))

    def _call(self, layer, *args, **kwargs):
        outputs = layer.compute_output_spec(*args, **kwargs)
        self.follow(layer, args[0] if args else kwargs, outputs)
        return outputs


def _folded(x):
    """`(B, T, ...)` as `(B*T, ...)`."""
    return keras.KerasTensor((x.shape[0] * x.shape[1], *x.shape[2:]), x.dtype)


def _kept(layer, inputs, outputs):
    """Bytes of the values that a layer keeps for the gradients."""
    if isinstance(layer, layers.Flatten | layers.Reshape):
        return 0
    if isinstance(layer, layers.RNN | layers.Bidirectional):
        first, *_ = keras.tree.flatten(outputs)
        return _LSTM_STEP * (1 if layer.return_sequences else inputs.shape[1]) * _bytes(first)
    # A layer of layers, such as a residual block, as much for each of them.
    parts = {weight.path.rpartition("/")[0] for weight in getattr(layer, "weights", ())}
    return max(len(parts), 1) * _bytes(outputs)


def _bytes(tensors):
    """Bytes of tensors or variables of known shape, however nested."""
    return sum(
        math.prod(x.shape) * tf.as_dtype(x.dtype).size
        for x in keras.tree.flatten(tensors)
        if hasattr(x, "dtype")
    )


def _text(size):
    """Bytes for people: "171 MB", "1.2 GB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            return f"{size:.2g} {unit}" if size < 9.95 else f"{size:.0f} {unit}"
        size /= 1000
    raise AssertionError


def _left_by_groups(root):
    """Bytes that each control group of this process, and each above it, leaves of its limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":  # version 2
            folder, files = "", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            folder = "memory"
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = PurePosixPath(path)
        for part in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # no such group, or its limit is "max"
                yield _left(root / "sys/fs/cgroup" / folder / part.relative_to("/"), *files)


def _left(group, limit, usage, cache):
    left = int((group / limit).read_text()) - int((group / usage).read_text())
    # Files that were read count as used, but make room when it is needed.
    cached = re.search(rf"^{cache} (\d+)$", (group / "memory.stat").read_text(), re.M)
    return max(0, left + (int(cached[1]) if cached else 0))
