"""Adam in one operation, against Keras's own and against the paper's formula in NumPy."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers
from oracles import assert_all_equal

from keras_cnnlstm.models.captioner import captioner
from keras_cnnlstm.training.optimizers import Adam

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(8, 5)).astype("float32")
TARGETS = RNG.normal(size=(8, 2)).astype("float32")
TENSORFLOW = keras.backend.backend() == "tensorflow"
in_one_operation = pytest.mark.skipif(not TENSORFLOW, reason="an operation of TensorFlow")


def dense():
    return keras.Input((5,)), layers.Dense(4, "relu")


def words():
    return keras.Input((3,), dtype="int32"), layers.Embedding(9, 4), layers.Flatten()


def network(optimizer, parts=dense):
    """A compiled model, the same each time, which ends in two numbers."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([*parts(), layers.Dense(2)])
    model.compile(optimizer, "mse")
    return model


def state(model):
    return [*model.get_weights(), *(np.asarray(v) for v in model.optimizer.variables)]


def trained(optimizer, parts=dense, inputs=INPUTS, steps=6):
    model = network(optimizer, parts)
    for _ in range(steps):
        model.train_on_batch(inputs, TARGETS)
    return state(model)


def assert_same(found, expected, tolerance=1e-4):
    """By default to the rounding of 1 - 0.999, of which float32 keeps five digits."""
    assert len(found) == len(expected)
    assert_all_equal(found, expected, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta_1": 0.5, "beta_2": 0.8, "epsilon": 1e-3},
        {"weight_decay": 0.1},
        {"clipnorm": 0.1},
        {"global_clipnorm": 0.1},
        {"use_ema": True, "ema_momentum": 0.5},
        {"gradient_accumulation_steps": 2},
        {"amsgrad": True},
    ],
)
def test_same_weights_and_states_as_the_stock_one(options):
    options = {"learning_rate": 0.05, **options}
    assert_same(trained(Adam(**options)), trained(keras.optimizers.Adam(**options)))


def test_same_under_a_schedule():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 5)
    assert_same(trained(Adam(schedule)), trained(keras.optimizers.Adam(schedule)))


def test_sparse_gradients_are_the_stock_one_s():
    inputs = RNG.integers(0, 9, (8, 3))
    found = trained(Adam(0.05), words, inputs)
    assert_same(found, trained(keras.optimizers.Adam(0.05), words, inputs))


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_same_with_a_scaled_loss(policy):
    found, expected = trained(Adam(0.05)), trained(keras.optimizers.Adam(0.05))
    assert_same(found, expected, tolerance=5e-3)


def test_a_captioner_is_clipped_as_by_the_stock_one():
    """Its embedding has sparse gradients, and all are clipped, each by its own norm."""
    tokens = RNG.integers(0, 9, (16, 6)).astype("int32")
    frames = RNG.integers(0, 256, (16, 3, 8, 8, 1), np.uint8)

    def trained(optimizer):
        keras.utils.set_random_seed(1)
        model = captioner((3, 8, 8, 1), 9, 5, lstm_units=(6,), embedding=4)
        model.compile(optimizer, "sparse_categorical_crossentropy")
        for _ in range(3):
            model.train_on_batch({"frames": frames, "tokens": tokens[:, :-1]}, tokens[:, 1:])
        return state(model), [v for v in optimizer.variables if v.path.endswith("momentum")]

    found, momenta = trained(Adam(clipnorm=0.1))
    assert_same(found, trained(keras.optimizers.Adam(clipnorm=0.1))[0])
    norms = [np.linalg.norm(average) for average in momenta]  # of gradients of one direction
    np.testing.assert_allclose(max(norms), 0.1 * (1 - 0.9**3), rtol=0.05)


def test_the_formula_of_the_paper():
    """Algorithm 1 in double precision, with the epsilon of the end of section 2."""
    weight, optimizer = keras.Variable(RNG.normal(size=(3, 2))), Adam(0.1, epsilon=1e-2)
    x, m, v = np.asarray(weight, "float64"), 0.0, 0.0
    for step in range(1, 8):
        gradient = RNG.normal(size=(3, 2)).astype("float32")
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weight])
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient.astype("float64") ** 2
        rate = 0.1 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        x = x - rate * m / (np.sqrt(v) + 1e-2)
        np.testing.assert_allclose(np.asarray(weight), x, rtol=1e-4, atol=1e-6)


@in_one_operation
@pytest.mark.parametrize(("amsgrad", "operations"), [(False, 4), (True, 0)])
def test_one_operation_a_weight(amsgrad, operations):
    import tensorflow as tf

    model = network(Adam(amsgrad=amsgrad))
    model.optimizer.build(model.trainable_variables)
    step = tf.function(lambda: model.train_step((INPUTS, TARGETS))).get_concrete_function()
    ops = [op.type for op in step.graph.get_operations()]
    assert ops.count("ResourceApplyAdam") == operations
    assert ("AssignSubVariableOp" in ops) == amsgrad


def test_goes_on_from_the_state_of_the_stock_one():
    stock, ours = network(keras.optimizers.Adam(0.05)), network(Adam(0.05))
    for model in (stock, ours):
        model.train_on_batch(INPUTS, TARGETS)
    names = [
        [re.sub(r"_\d+", "", v.name) for v in model.optimizer.variables] for model in (stock, ours)
    ]
    assert names[0] == names[1]
    for model in (stock, ours):
        model.train_on_batch(-INPUTS, TARGETS)
    variables = zip(ours.variables + ours.optimizer.variables, state(stock), strict=True)
    for variable, value in variables:
        variable.assign(value)
    for model in (stock, ours):
        model.train_on_batch(INPUTS, TARGETS)
    assert_same(state(ours), state(stock))


def test_saved_with_the_model(reloaded):
    model = network(Adam(0.05, weight_decay=0.1))
    model.train_on_batch(INPUTS, TARGETS)
    loaded = reloaded(model)
    assert type(loaded.optimizer) is Adam
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for each in (model, loaded):
        each.train_on_batch(INPUTS, TARGETS)
    assert_same(state(loaded), state(model), tolerance=1e-7)


_MIRRORED = """
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_cnnlstm.models.captioner import captioner
from keras_cnnlstm.training.optimizers import Adam

def weights(kind):
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])
        model.compile(kind(0.05), "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 5)), rng.normal(size=(32, 2))
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()

for a, b in zip(weights(Adam), weights(keras.optimizers.Adam)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
print("equal")
"""


@pytest.mark.slow  # a process that starts TensorFlow anew
@in_one_operation
def test_same_on_two_replicas():
    """In a process of its own, since logical devices are chosen before anything is computed."""
    run = subprocess.run(
        [sys.executable, "-c", _MIRRORED],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.stdout.endswith("equal\n"), run.stderr[-2000:]
