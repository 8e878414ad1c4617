"""How long a model takes for a sequence, on this machine."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from keras_cnnlstm.arguments import as_array, check_kind, check_whole, told

_ENOUGH = 3.0  # seconds for each batch size, after the first call


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
