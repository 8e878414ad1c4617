"""How long a model takes for a sequence, on this machine."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from keras_cnnlstm.arguments import check_whole

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
    check_whole("seconds_per_sequence: `repeats`", repeats, 1, 1_000_000)
    times = {}
    for size in batch_sizes:
        check_whole("seconds_per_sequence: `batch_sizes`", size, 1, 1_000_000)
        batch = _repeated(inputs, size)
        model.predict_on_batch(batch)
        taken: list[float] = []
        while len(taken) < repeats and sum(taken) < _ENOUGH:
            start = clock()
            model.predict_on_batch(batch)
            taken.append(clock() - start)
        times[str(size)] = statistics.median(taken) / size
    return times


def _repeated(inputs, size):
    if isinstance(inputs, Mapping):
        return {name: _repeated(value, size) for name, value in inputs.items()}
    return inputs[np.arange(size) % len(inputs)]
