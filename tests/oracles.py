"""Layers in NumPy, against which several test files compare, and answers as NumPy arrays."""

import keras
import numpy as np


def numpy(x):
    return keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))


def predict(model, inputs):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(inputs))


def assert_all_equal(found, expected, **tolerance):
    """Compares arrays one by one; exactly without a tolerance."""
    equal = np.testing.assert_allclose if tolerance else np.testing.assert_array_equal
    for one, other in zip(found, expected, strict=True):
        equal(one, other, **tolerance)


def take(data, batches):
    """Frames and targets of the first batches."""
    frames, targets = zip(*data.take(batches).as_numpy_iterator(), strict=True)
    return np.concatenate(frames), np.concatenate(targets)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def lstm(steps, weights, h=0.0, c=0.0):
    """An LSTM over one sequence `(T, F)`: its outputs `(T, H)`, and the state of its cell."""
    kernel, recurrent, bias = weights
    h, c = (state + np.zeros(len(recurrent)) for state in (h, c))
    outputs = []
    for step in steps:
        i, f, g, o = np.split(step @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs), c
