"""The cost of the input pipeline: alone, and as a share of the training that it feeds.

Alone it has every core. During training it shares the cores with the model, so that its cost shows
only in the train step.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cnnlstm.benchmark.timings import (
    Row,
    Settings,
    in_turns,
    left_out,
    median_row,
    turns_within,
)
from keras_cnnlstm.data.augmentation import Augmentation
from keras_cnnlstm.data.datasets import load_digits
from keras_cnnlstm.data.digit_batches import digit_sequences
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.runtime.runtime import Runtime
from keras_cnnlstm.tasks.trends import Trend
from keras_cnnlstm.training.optimizers import Adam

Clock = Callable[[], float]
Seconds = Mapping[str, list[float]]
"""Times, one for each turn, by name."""

VARIANTS = {
    "plain": Augmentation(),
    "augmented": Augmentation(affine=1.0),
    "augmented and elastic": Augmentation(affine=1.0, elastic=1.0),
}
"""Augmentations by name."""

_MEMORY = "one batch from memory"
_FIT = 1.5  # seconds for the timed steps of one fit,
_STEPS = 4, 40  # which are at least and at most this many
_BUDGET = 60.0  # seconds for all fits of one T; three turns take longer if they must
_ALONE = 0.3  # seconds for the batches of one turn of the pipeline alone,
_BATCHES = 20, 1000  # which are at least and at most this many, more than it holds ready
_FIRST = 3  # steps or batches before the clock starts, while the pipeline starts its threads
_LONGEST = 32  # frames of the longest sequences that a task draws


def pipeline(settings: Settings) -> list[Row]:
    """Times the pipeline alone, and a training fed by it against one fed from memory.

    The model is the reference one, with its optimizer, in the precision that "auto" chooses. Both
    trainings are `fit` on a dataset and take turns; from memory comes the same batch at each step.
    Tasks draw sequences of 32 frames at most, so that longer ones are measured at 32.

    Returns:
        For each T the train steps from memory and with each of `VARIANTS`; the cost of each, as a
        share of the step from memory; and one batch of each alone, with how many times as fast it
        is as the training.
    """
    rows = []
    for length in dict.fromkeys(min(length, _LONGEST) for length in settings.lengths):
        size = f"B={settings.batch_size}, T={length}"
        if length < 2:
            rows.append(left_out(f"pipeline, {size}", "all", "a trend has two frames or more"))
            continue
        fits, alone = _measured(Trend(length), settings.batch_size, settings.repeats)
        rows += fit_rows(f"fit, {size}, {Runtime().policy}", fits)
        rows += alone_rows(f"pipeline alone, {size}", alone, settings.batch_size, fits[_MEMORY])
    return rows


def fit_rows(section: str, steps: Seconds) -> list[Row]:
    """Rows of the train steps, fed from memory first, and of the pipelines' shares of them."""
    (memory, base), *fed = steps.items()
    rows = [median_row(section, f"train step, {memory}", base, remark=f"{len(base)} turns")]
    for name, seconds in fed:
        title, remark = f"train step, {name}", f"as fast as {memory}"
        rows.append(median_row(section, title, seconds, reference=base, remark=remark))
    for name, seconds in fed:
        remark = "of the train step from memory, median of the turns"
        shares = np.divide(seconds, base) - 1
        rows.append(median_row(section, f"share of {name}", shares, "", remark=remark))
    return rows


def alone_rows(section: str, alone: Seconds, batch_size: int, steps: list[float]) -> list[Row]:
    """Rows of the pipelines' batches alone, compared with train steps from memory."""
    rows = []
    for name, seconds in alone.items():
        speed = f"{batch_size / float(np.median(seconds)):,.0f} sequences a second"
        remark = f"as fast as training takes them; {speed}"
        rows.append(median_row(section, name, seconds, reference=steps, remark=remark))
    return rows


def _datasets(task, batch_size):
    """Endless batches of one T, by what they come from: memory first, then `VARIANTS`."""
    images = load_digits().train
    make: Any = partial(digit_sequences, images, task, batch_size=batch_size, seed=0)
    data = {name: make(augmentation=value) for name, value in VARIANTS.items()}
    batch = next(iter(data["plain"]))
    return {_MEMORY: tf.data.Dataset.from_tensors(batch).repeat(), **data}


def _measured(task, batch_size, repeats) -> tuple[Seconds, Seconds]:
    """Times of a step of `fit` by what feeds it, and of a batch of each pipeline alone."""
    data = _datasets(task, batch_size)
    with Runtime("auto", "one-device").scope():
        model = cnn_lstm((task.length, 28, 28, 1), task.num_outputs)
        model.compile(Adam(), "sparse_categorical_crossentropy")
    step = fit_seconds(model, data[_MEMORY], 1)
    steps = int(np.clip(round(_FIT / step), *_STEPS))
    batch = max(alone_seconds(data[name], 1) for name in VARIANTS)
    count = int(np.clip(round(_ALONE / batch), *_BATCHES))
    fits = {name: partial(fit_seconds, model, data[name], steps) for name in data}
    alone = {f"{name} alone": partial(alone_seconds, data[name], count) for name in VARIANTS}
    turns = turns_within(_BUDGET, len(fits) * (_FIRST + steps) * step, repeats)
    seconds = in_turns({**fits, **alone}, turns)
    return {n: seconds[n] for n in fits}, {n: seconds[f"{n} alone"] for n in VARIANTS}


def alone_seconds(data: tf.data.Dataset, count: int, *, clock: Clock = time.perf_counter) -> float:
    """Mean seconds of `count` batches for which only the clock waits, after three others.

    Each call has an iterator of its own, so that none holds batches ready from before.
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
    """Mean seconds of `steps` steps of `fit` on endless batches, after three others."""
    total = _FIRST + steps
    watch = _Watch((_FIRST, total), clock)
    model.fit(data, steps_per_epoch=total, shuffle=False, verbose=0, callbacks=[watch])
    start, end = watch.times
    return (end - start) / steps


class _Watch(keras.callbacks.Callback):
    """Reads the clock after some of the steps."""

    def __init__(self, steps: tuple[int, ...], clock: Clock):
        super().__init__()
        self._steps, self._clock = steps, clock
        self.times: list[float] = []

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 in self._steps:
            float((logs or {}).get("loss", 0.0))  # on an accelerator, waits for the step
            self.times.append(self._clock())
