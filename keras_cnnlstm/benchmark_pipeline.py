"""What the input pipeline costs: alone, and as a share of the training that it feeds.

Alone it runs as fast as it can, with every core for itself. In a training it works while the model
does, on the same cores; what it then costs shows only in the train step.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from keras_cnnlstm.arguments import check_kind, check_whole
from keras_cnnlstm.benchmark_models import left_out
from keras_cnnlstm.digits import load_digits
from keras_cnnlstm.models import cnn_lstm
from keras_cnnlstm.optimizers import Adam
from keras_cnnlstm.pipeline import digit_sequences
from keras_cnnlstm.runtime import Runtime
from keras_cnnlstm.tasks import Trend
from keras_cnnlstm.timings import Row, timing_row

Clock = Callable[[], float]

VARIANTS: dict[str, dict[str, float]] = {
    "plain": {},
    "augmented": {"augment": 1.0},
    "augmented and elastic": {"augment": 1.0, "elastic": 1.0},
}
"""Options of `digit_sequences`, by name."""

_MEMORY = "one batch from memory"

_FIT = 1.5
"""Seconds that the timed steps of one fit are to take, ..."""

_STEPS = 4, 40
"""... but at least and at most so many steps, ..."""

_BUDGET = 60.0
"""... and all fits of one T; they take fewer turns, though three at least, if that is too short."""

_ALONE = 0.3
"""Seconds that the batches of one turn are to take where the pipeline is alone, ..."""

_BATCHES = 20, 1000
"""... but at least and at most so many batches: many more than it has in store."""

_FIRST = 3
"""Steps, or batches, before the clock starts: the pipeline starts its threads."""

_LONGEST = 32
"""Steps of the longest sequences that a task draws."""


def pipeline(
    *, batch_size: int = 64, lengths: Sequence[int] = (4, 16, 40), repeats: int = 15
) -> list[Row]:
    """Times the pipeline alone, and a training fed by it against one fed from memory.

    The model is the reference one, in the precision that a training picks here, with its optimizer.
    Both trainings are `fit` on a dataset; that from memory gets the same batch at each step. They
    take turns.

    Args:
        batch_size: B, sequences in a batch.
        lengths: T, frames in a sequence; each is measured. No task draws sequences of more than 32,
            so longer ones are measured at 32.
        repeats: turns of each comparison; fewer for long sequences, as the remarks say.

    Returns:
        For each T the train steps of a training from memory and of one fed by each of `VARIANTS`;
        what each costs, as a share of the step from memory; and one batch of each alone, with
        how many times as fast it is as the training.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_whole("pipeline: `batch_size`", batch_size, 1, 1_000_000)
    check_whole("pipeline: `repeats`", repeats, 1, 1_000_000)
    check_kind("pipeline: `lengths`", lengths, list | tuple, "a list of frame counts")
    rows = []
    for length in dict.fromkeys(min(length, _LONGEST) for length in lengths):
        size = f"B={batch_size}, T={length}"
        if length < 2:
            rows.append(left_out(f"pipeline, {size}", "all", "a trend has two frames or more"))
            continue
        fits, alone = _measured(Trend(length), batch_size, repeats)
        rows += overlapped_rows(f"fit, {size}, {Runtime().policy}", fits)
        rows += alone_rows(f"pipeline alone, {size}", alone, batch_size, fits[_MEMORY])
    return rows


def overlapped_rows(section: str, steps: dict[str, list[float]]) -> list[Row]:
    """The train steps, and the shares of them that go to the pipeline.

    Args:
        section: as in `Row`.
        steps: seconds of a step, one for each turn, by what feeds it; from memory first.
    """
    (memory, base), *fed = steps.items()
    turns = f"{len(base)} turns"
    rows = [timing_row(section, f"train step, {memory}", base, remark=turns)]
    for name, seconds in fed:
        than = memory, base
        rows.append(timing_row(section, f"train step, {name}", seconds, than=than))
    for name, seconds in fed:
        shares = [s / b - 1 for s, b in zip(seconds, base, strict=True)]
        low, median, high = np.quantile(shares, (0.25, 0.5, 0.75)).tolist()
        remark = "of the train step from memory, median of the turns"
        rows.append(Row(section, f"share of {name}", median, "", low, high, None, remark))
    return rows


def alone_rows(
    section: str, alone: dict[str, list[float]], batch_size: int, steps: Sequence[float]
) -> list[Row]:
    """The batches of the pipeline alone, compared with the train step that eats one.

    Args:
        section: as in `Row`.
        alone: seconds of a batch, one for each turn, by the pipeline's name.
        batch_size: sequences in a batch.
        steps: seconds of a train step from memory, one for each turn.
    """
    rows = []
    for name, seconds in alone.items():
        speed = f"{batch_size / float(np.median(seconds)):,.0f} sequences a second"
        remark = f"as fast as training takes them; {speed}"
        rows.append(timing_row(section, name, seconds, than=("", steps), remark=remark))
    return rows


def _datasets(task, batch_size):
    """Batches of one T for ever, by what they come from: memory first, then `VARIANTS`."""
    images = load_digits().train
    make = partial(digit_sequences, images, task, batch_size=batch_size, seed=0)
    data = {name: make(**options) for name, options in VARIANTS.items()}
    batch = next(iter(data["plain"]))
    return {_MEMORY: tf.data.Dataset.from_tensors(batch).repeat(), **data}


def _measured(task, batch_size, repeats):
    """Seconds of a step of `fit`, and of a batch alone, for each turn, by what feeds them."""
    data = _datasets(task, batch_size)
    with Runtime("auto", "one-device").scope():
        model = cnn_lstm((task.length, 28, 28, 1), task.num_classes)
        model.compile(Adam(), "sparse_categorical_crossentropy")
    step = fit_seconds(model, data[_MEMORY], 1)
    steps = min(max(round(_FIT / step), _STEPS[0]), _STEPS[1])
    fits = {name: partial(fit_seconds, model, batches, steps) for name, batches in data.items()}
    slowest = max(alone_seconds(data[name], 1) for name in VARIANTS)
    count = min(max(round(_ALONE / slowest), _BATCHES[0]), _BATCHES[1])
    alone = {name: partial(alone_seconds, data[name], count) for name in VARIANTS}
    turns = _turns(repeats, len(fits) * (_FIRST + steps) * step)
    seconds = in_turn([*fits.values(), *alone.values()], turns)
    return dict(zip(fits, seconds, strict=False)), dict(
        zip(alone, seconds[len(fits) :], strict=True)
    )


def _turns(repeats, seconds):
    """How many turns of so many seconds fit into the budget: three at least, if so many."""
    return max(min(repeats, int(_BUDGET / seconds)), min(repeats, 3))


def in_turn(measures: Sequence[Callable[[], float]], turns: int) -> list[list[float]]:
    """What each of several measures says, a number for each turn; they take turns.

    Example:

    >>> numbers = iter(range(6))
    >>> in_turn([lambda: next(numbers), lambda: -next(numbers)], turns=3)
    [[0, 2, 4], [-1, -3, -5]]
    """
    said = [[measure() for measure in measures] for _ in range(turns)]
    return [list(numbers) for numbers in zip(*said, strict=True)]


def alone_seconds(data: tf.data.Dataset, count: int, *, clock: Clock = time.perf_counter) -> float:
    """Seconds of one batch that nothing but the clock waits for, the mean over some.

    Each call has an iterator of its own, so that none has batches in store, made while something
    else was timed.

    Args:
        data: batches for ever.
        count: how many count, after three that do not.
        clock: what tells the time, in seconds.
    """
    batches = iter(data)
    for _ in range(_FIRST):
        next(batches)
    start = clock()
    for _ in range(count):
        next(batches)
    return (clock() - start) / count


def fit_seconds(
    model: keras.Model, data: tf.data.Dataset, steps: int, *, clock: Clock = time.perf_counter
) -> float:
    """Seconds of one step of a `fit`, the mean over some, after three that do not count.

    Args:
        model: a compiled model.
        data: batches for ever.
        steps: how many count.
        clock: what tells the time, in seconds.
    """
    total = _FIRST + steps
    watch = _Watch(_FIRST, total, clock)
    model.fit(data, steps_per_epoch=total, shuffle=False, verbose=0, callbacks=[watch])
    return (watch.end - watch.start) / steps


class _Watch(keras.callbacks.Callback):
    """Reads the clock after some number of steps, and after a later one."""

    def __init__(self, first: int, last: int, clock: Clock):
        super().__init__()
        self._first, self._last, self._clock = first, last, clock
        self.start = self.end = math.nan

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 not in (self._first, self._last):
            return
        float((logs or {}).get("loss", 0.0))  # on an accelerator, waits for the step
        if batch + 1 == self._first:
            self.start = self._clock()
        else:
            self.end = self._clock()
