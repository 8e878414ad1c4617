"""What a training shows of itself, by a clock of the test, so that no test waits."""

import io
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import assert_all_equal

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.training.progress import Progress
from keras_cnnlstm.training.trainer import train


class Clock:
    """Goes on only when the test sets it."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Fit:
    """A `fit` whose batches, steps and validations take as many seconds as the test says."""

    def __init__(self, *, epochs, steps, step=0, stream=None, per_execution=1):
        self.clock, self.stream = Clock(), stream or io.StringIO()
        self.progress = Progress(epochs, steps, 10, step=step, stream=self.stream, clock=self.clock)
        self.model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        self.model.compile("sgd", "mse", steps_per_execution=per_execution)
        self.model.train_function = self.train
        self.progress.set_model(self.model)
        self.data = iter(tf.data.Dataset.range(1000))
        self.wait = self.compute = 0.0
        self.logs = {"loss": 0.5, "accuracy": 0.75}

    def train(self, batches):
        self.clock.now += self.compute
        return [int(batch) for batch in batches]

    def steps(self, count):
        def fetching(dataset):
            self.clock.now += self.wait
            return next(dataset)

        got = []
        for batch in range(count):
            self.progress.on_train_batch_begin(batch)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("keras_cnnlstm.training.progress.next", fetching, raising=False)
                got += self.model.train_function(self.data)
            self.progress.on_train_batch_end(batch, self.logs)
        return got

    def epoch(self, number, steps, validation=0.0):
        self.progress.on_epoch_begin(number)
        self.steps(steps)
        self.progress.on_test_begin()
        self.clock.now += validation
        self.progress.on_epoch_end(number, self.logs | {"val_loss": 0.25})

    @property
    def lines(self):
        return self.stream.getvalue().splitlines()


def test_a_log_has_a_line_for_each_epoch():
    fit = Fit(epochs=3, steps=5)
    fit.progress.on_train_begin()
    fit.wait, fit.compute = 50.0, 200.0  # the first step compiles
    fit.progress.on_epoch_begin(0)
    fit.steps(1)
    fit.wait, fit.compute = 0.5, 1.5
    fit.steps(4)  # 8 s, 2 s of them waiting, for 40 sequences
    fit.clock.now += 7  # validation
    fit.progress.on_epoch_end(0, fit.logs | {"val_loss": 0.25})
    fit.wait, fit.compute = 3.0, 1.0
    fit.epoch(1, 5, validation=10)  # 20 s, 15 s of them waiting, for 50 sequences
    fit.epoch(2, 5)
    assert fit.lines == [
        "Epoch 1/3  loss 0.5000  accuracy 0.7500  val_loss 0.2500  5 sequences/s  compute-bound "
        "(input waits 25 %)  0:34 left",  # 10 steps of 2 s, 2 validations of 7 s
        "Epoch 2/3  loss 0.5000  accuracy 0.7500  val_loss 0.2500  2 sequences/s  input-bound "
        "(input waits 75 %)  0:30 left",  # 5 steps of 4 s, a validation of 10 s
        "Epoch 3/3  loss 0.5000  accuracy 0.7500  val_loss 0.2500  2 sequences/s  input-bound "
        "(input waits 75 %)",
    ]


def test_a_terminal_has_a_live_line_that_fits(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    fit = Fit(epochs=2, steps=4, stream=Terminal())
    fit.progress.on_train_begin()
    fit.compute = 2000.0
    fit.epoch(0, 4, validation=1)
    shown = fit.stream.getvalue().split("\r")[1:]
    assert shown[0].rstrip() == "Epoch 1/2  step 1/4  loss 0.5000  accuracy 0.7500"
    assert shown[1].rstrip() == "Epoch 1/2  step 2/4  3:20:00 left  0 sequences/s  compute-b"
    assert shown[4].startswith("Epoch 1/2  validation  2:13:20 left")
    assert all(len(line) <= 59 for line in shown[:-1])
    # The last one covers the live line and stays.
    assert shown[-1].endswith("2:13:21 left\n")
    assert "val_loss 0.2500" in shown[-1]
    assert len(shown) == 6


def test_a_live_line_is_not_written_more_often_than_eyes_can_see():
    fit = Fit(epochs=1, steps=100, stream=Terminal())
    fit.progress.on_train_begin()
    fit.compute = 0.01
    fit.progress.on_epoch_begin(0)
    fit.steps(90)
    assert 9 <= fit.stream.getvalue().count("\r") <= 10


def test_a_shorter_line_leaves_nothing_of_a_longer_one():
    fit = Fit(epochs=1, steps=9, stream=Terminal())
    fit.progress.on_train_begin()
    fit.compute = 1.0
    fit.progress.on_epoch_begin(0)
    fit.steps(3)
    fit.progress.on_test_begin()
    *_, longer, shorter = fit.stream.getvalue().split("\r")
    assert len(shorter) >= len(longer.rstrip())


def test_an_error_does_not_share_the_live_line():
    fit = Fit(epochs=1, steps=9, stream=Terminal())
    with fit.progress:
        fit.progress.on_train_begin()
        fit.progress.on_epoch_begin(0)
        fit.steps(2)
        assert not fit.stream.getvalue().endswith("\n")
    assert fit.stream.getvalue().endswith("\n")


def test_a_training_that_continues_shows_where_it_is():
    fit = Fit(epochs=3, steps=5, step=7)
    fit.compute = 1.0
    fit.progress.on_train_begin()
    fit.epoch(1, 3)
    fit.progress.on_train_end()
    assert fit.model.train_function == fit.train
    fit.progress.on_train_begin()
    fit.epoch(2, 5)
    assert [line[:9] for line in fit.lines] == ["Epoch 2/3", "Epoch 3/3"]
    assert fit.lines[0].endswith("10 sequences/s  compute-bound (input waits 0 %)  0:05 left")
    assert fit.progress.step == 15


@pytest.mark.parametrize("several", ["devices", "steps"])
def test_no_wait_is_shown_where_it_cannot_be_measured(several):
    fit = Fit(epochs=1, steps=6, per_execution=2 if several == "steps" else 1)
    if several == "devices":
        fit.data = iter(range(10))  # no iterator of tf.data, which is what several devices have

    def train(batches):
        fit.clock.now += 1
        return [int(next(batches))]

    fit.model.train_function = train
    fit.progress.on_train_begin()
    fit.progress.on_epoch_begin(0)
    assert fit.steps(3) == [0, 1, 2]
    assert fit.progress.input_share is None
    fit.progress.on_epoch_end(0, {})
    rate = {"steps": "Epoch 1/1  20", "devices": "Epoch 1/1  10"}[several]
    assert fit.lines[0].startswith(f"{rate} sequences/s")
    assert "input" not in fit.lines[0]


def trained(*callbacks, **batch):
    keras.utils.set_random_seed(0)
    model = cnn_lstm((2, 8, 8, 1), 3, encoder="small_cnn", lstm_units=(4,), dropout=0.3)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (60, 2, 8, 8, 1)).astype(np.uint8)
    data = tf.data.Dataset.from_tensor_slices((frames, rng.integers(0, 3, 60)))
    data = data.batch(6, **batch).repeat()
    history = model.fit(
        data, steps_per_epoch=5, epochs=3, callbacks=list(callbacks), shuffle=False, verbose=0
    )
    return model, history.history


@pytest.mark.parametrize("known", [True, False])
def test_a_training_that_is_watched_is_the_same_bit_for_bit(known):
    alone, history = trained(drop_remainder=known)
    progress = Progress(3, 5, 6, stream=io.StringIO())
    watched, same = trained(progress, drop_remainder=known)
    assert (progress.input_share is not None) == known
    assert history == same
    assert_all_equal(alone.get_weights(), watched.get_weights())


def test_trainings_show_it(tmp_path, capsys):
    config = TrainConfig(
        length=2, epochs=2, steps_per_epoch=3, batch_size=8, validation_sequences=8,
        test_sequences=10, lstm_units=(4,), encoder="small_cnn", run_dir=str(tmp_path / "run"),
    )  # fmt: skip
    train(config)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch")]
    number, rest = r"\d+\.\d{4}", r"[\d,]+ sequences/s  (compute|input)-bound \(input waits \d+ %\)"
    scores = rf"accuracy {number}  loss {number}  .*val_loss {number}  .*"
    assert re.fullmatch(rf"Epoch 1/2  {scores}  {rest}  0:\d\d left", lines[0])
    assert re.fullmatch(rf"Epoch 2/2  {scores}  {rest}", lines[1])
    assert len(lines) == 2
