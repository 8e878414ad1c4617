"""Times for a sequence, by a clock that the test turns."""

import keras
import numpy as np
import pytest

from keras_cnnlstm.evaluation.evaluator import seconds_per_sequence


class Clock:
    """Each call of the model takes as long as the next of these seconds."""

    def __init__(self, seconds):
        self.now, self.seconds, self.running = 0.0, iter(seconds), False

    def __call__(self):
        if self.running:
            self.now += next(self.seconds)
        self.running = not self.running
        return self.now


class Fake:
    def __init__(self):
        self.shapes = []

    def predict_on_batch(self, inputs):
        self.shapes.append(keras.tree.map_structure(np.shape, inputs))


def test_the_median_of_each_batch_size():
    model = Fake()
    clock = Clock([0.1, 0.3, 0.2, 0.64, 6.4, 1.28])
    times = seconds_per_sequence(
        model, np.zeros((5, 2, 3)), batch_sizes=(1, 64), repeats=3, clock=clock
    )
    assert times == {"1": pytest.approx(0.2), "64": pytest.approx(0.0535, abs=0.01)}
    assert model.shapes[:4] == [(1, 2, 3)] * 4
    assert model.shapes[-1] == (64, 2, 3)


def test_a_slow_model_is_asked_less_often():
    model = Fake()
    inputs = {"frames": np.zeros((2, 4, 3)), "lengths": np.ones(2, np.int32)}
    times = seconds_per_sequence(model, inputs, batch_sizes=(4,), clock=Clock([2.0, 4.0, 9.0]))
    assert times == {"4": 0.75}
    assert model.shapes == [{"frames": (4, 4, 3), "lengths": (4,)}] * 3


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match="`repeats` must be an integer from 1"):
        seconds_per_sequence(Fake(), np.zeros((1, 2)), repeats=0)
    with pytest.raises(ValueError, match="`batch_sizes` must be an integer from 1"):
        seconds_per_sequence(Fake(), np.zeros((1, 2)), batch_sizes=(0,))
