"""The pipeline's cost: what is fed to whom, which steps count, and the shares by hand."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cnnlstm.benchmark import pipeline as module
from keras_cnnlstm.benchmark.pipeline import (
    VARIANTS,
    alone_rows,
    alone_seconds,
    fit_rows,
    fit_seconds,
    pipeline,
)
from keras_cnnlstm.benchmark.timings import Settings
from keras_cnnlstm.tasks.trends import Trend

MEMORY = "one batch from memory"


class Clock:
    """A clock whose seconds are the batches that were asked for."""

    def __init__(self):
        self.asked = 0

    def __call__(self):
        return float(self.asked)


class Counted:
    """Endless batches; the clock goes on by the square of their number, so each counts apart."""

    def __init__(self, clock):
        self.clock, self.started = clock, 0

    def __iter__(self):
        self.started += 1
        number = 0
        while True:
            number += 1
            self.clock.asked += number**2
            yield number


class TestAlone:
    def test_three_batches_do_not_count(self):
        data = Counted(Clock())
        assert alone_seconds(data, 2, clock=data.clock) == (4**2 + 5**2) / 2

    def test_each_call_has_an_iterator_of_its_own(self):
        data = Counted(Clock())
        assert [alone_seconds(data, 1, clock=data.clock) for _ in range(2)] == [16.0, 16.0]
        assert data.started == 2


class Steps(keras.Model):
    """Step n of a fit takes n squared seconds of the clock."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.built = clock, True

    def fit(self, data, *, steps_per_epoch, callbacks, **options):
        assert options == {"shuffle": False, "verbose": 0}
        for batch in range(steps_per_epoch):
            self.clock.asked += (batch + 1) ** 2
            callbacks[0].on_train_batch_end(batch, {"loss": 1.0})


class TestFit:
    def test_three_steps_do_not_count(self):
        clock = Clock()
        assert fit_seconds(Steps(clock), None, 2, clock=clock) == (4**2 + 5**2) / 2

    def test_a_real_fit_takes_its_steps_from_the_data(self):
        seen = []
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        ones = np.ones((2, 1), "float32")
        watched = tf.data.Dataset.counter().map(lambda i: (ones, ones))
        model.train_step = watch_calls(model.train_step, seen)
        model.run_eagerly = True
        assert fit_seconds(model, watched, 4) > 0
        assert len(seen) == 3 + 4


def watch_calls(call, seen):
    def watched(data):
        seen.append(data)
        return call(data)

    return watched


class TestRows:
    STEPS = {MEMORY: [10.0, 20.0, 40.0], "plain": [10.1, 20.8, 41.2]}  # noqa: RUF012

    def test_shares_are_the_medians_of_the_turns(self):
        rows = {row.name: row for row in fit_rows("fit", self.STEPS)}
        share = rows["share of plain"]
        assert share.value == pytest.approx(0.03)
        assert (share.low, share.high) == (pytest.approx(0.02), pytest.approx(0.035))
        assert rows[f"train step, {MEMORY}"].value == 20.0
        assert rows[f"train step, {MEMORY}"].remark == "3 turns"
        assert rows["train step, plain"].ratio == pytest.approx(1 / 1.03)

    def test_a_pipeline_that_costs_nothing_may_have_a_negative_share(self):
        steps = {MEMORY: [10.0], "plain": [9.0]}
        assert fit_rows("fit", steps)[-1].value == pytest.approx(-0.1)

    def test_how_many_times_what_training_takes(self):
        (row,) = alone_rows("alone", {"plain": [0.1, 0.4, 0.5]}, 64, self.STEPS[MEMORY])
        assert row.value == 0.4
        assert row.ratio == pytest.approx(80.0)  # of 100, 50 and 80
        assert row.remark == "as fast as training takes them; 160 sequences a second"


def test_memory_gives_one_batch_again_and_again_and_the_variants_differ():
    data = module._datasets(Trend(3), 2)
    first = {name: [b[0].numpy() for b in batches.take(2)] for name, batches in data.items()}
    assert first.keys() == {MEMORY, *VARIANTS}
    np.testing.assert_array_equal(first[MEMORY][0], first[MEMORY][1])
    np.testing.assert_array_equal(first[MEMORY][0], first["plain"][0])
    assert (first["plain"][0] != first["plain"][1]).any()
    assert (first["augmented"][0] != first["plain"][0]).any()
    assert (first["augmented and elastic"][0] != first["augmented"][0]).any()


def test_lengths_that_no_trend_has(monkeypatch):
    asked = []

    def measured(task, batch_size, repeats):
        asked.append(task.length)
        steps = [1.0] * repeats
        return {MEMORY: steps, "plain": steps}, {"plain": steps}

    monkeypatch.setattr(module, "_measured", measured)
    rows = pipeline(Settings(2, (1, 4, 40, 100), 2))
    assert asked == [4, 32]
    (left_out,) = (row for row in rows if math.isnan(row.value))
    assert left_out.section == "pipeline, B=2, T=1"
    assert left_out.remark == "left out: a trend has two frames or more"
    assert "pipeline alone, B=2, T=32" in {row.section for row in rows}


def test_a_small_one_for_real(monkeypatch):
    monkeypatch.setattr(module, "_FIT", 0.0)
    monkeypatch.setattr(module, "_ALONE", 0.0)
    rows = pipeline(Settings(2, (2,), 1))
    names = [(row.section, row.name) for row in rows]
    assert len(set(names)) == len(names) == 1 + 3 * len(VARIANTS)
    assert all(row.value > 0 for row in rows if row.unit == "s")
