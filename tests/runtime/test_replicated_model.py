"""A model on several replicas against the same model on one device."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import assert_all_equal

from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.runtime import replicated_model
from keras_cnnlstm.runtime.replicated_model import ReplicatedModel

RNG = np.random.default_rng(0)
TRUTH, ANSWERS = RNG.normal(size=(2, 4, 3, 2)).astype("float32")  # (B, T, features)
WEIGHTS = np.float32([[1, 1, 0], [1, 0, 0], [2, 1, 1], [0, 0, 0]])
MASK = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]], bool)
REDUCTIONS = ["sum_over_batch_size", "mean", "mean_with_sample_weight", "sum"]


def answers(rows, masked):
    tensor = tf.constant(ANSWERS[rows])
    if masked:
        tensor._keras_mask = tf.constant(MASK[rows])
    return tensor


def weights(rows, kind):
    return {"none": None, "steps": WEIGHTS[rows], "column": WEIGHTS[rows][..., None]}[kind]


@pytest.fixture
def two_replicas(monkeypatch):
    """Calls a function for the rows of each of two replicas, as if they ran side by side."""

    def run(function, *all_rows):
        sent, total = [], [0.0]
        monkeypatch.setattr(
            replicated_model, "sum_of_replicas", lambda values: sent.extend(values) or total
        )
        for rows in all_rows:
            function(rows)
        total = [sum(map(float, sent))]
        return [float(function(rows)) for rows in all_rows]

    return run


@pytest.mark.parametrize("kind", ["none", "steps", "column"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_parts_of_the_loss_add_up_to_that_of_the_batch(reduction, masked, kind, two_replicas):
    stock = keras.losses.MeanSquaredError(reduction=reduction)
    whole = slice(None)
    expected = float(stock(TRUTH, answers(whole, masked), weights(whole, kind)))
    ours = replicated_model._over_all_replicas(stock)
    np.testing.assert_allclose(
        ours(TRUTH, answers(whole, masked), weights(whole, kind)), expected, rtol=1e-5
    )

    def part(rows):
        return ours(TRUTH[rows], answers(rows, masked), weights(rows, kind))

    parts = two_replicas(part, slice(0, 3), slice(3, 4))
    np.testing.assert_allclose(sum(parts), expected, rtol=1e-5)
    assert stock.reduction == reduction  # the user's loss is as it was


def test_losses_by_name_function_or_not_at_all():
    def error(truth, answer):
        return keras.ops.square(truth - answer)

    truth, answer = TRUTH[:, 0, 0], ANSWERS[:, 0, :1]  # (B,), (B, 1)
    expected = np.square(truth - answer[:, 0]).mean()
    for loss in ("mse", keras.losses.MeanSquaredError(), error):
        np.testing.assert_allclose(
            replicated_model._over_all_replicas(loss)(truth, answer), expected, rtol=1e-5
        )
    assert replicated_model._over_all_replicas(None) is None
    none = keras.losses.MeanSquaredError(reduction=None)
    assert replicated_model._over_all_replicas(none)(TRUTH, ANSWERS).shape == (4, 3)


def test_another_version_of_keras_is_refused(monkeypatch):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    monkeypatch.setattr(keras, "__version__", "3.16.0")
    with pytest.raises(RuntimeError, match=r"need keras 3\.15\.\*.*received 3\.16\.0. Install"):
        ReplicatedModel(model)


def test_a_model_without_a_graph_is_refused():
    for model in (keras.Model(), keras.Sequential([keras.layers.Dense(1)])):
        with pytest.raises(ValueError, match=r"must be a functional or a built Sequential model;"):
            ReplicatedModel(model)


def test_it_is_the_plain_model_to_look_at_and_to_save(tmp_path):
    plain = cnn_lstm((3, 8, 8, 1), 2, lengths=True)
    model = ReplicatedModel(plain)
    model.compile("adam", "sparse_categorical_crossentropy")
    assert model.plain is plain
    assert model.name == plain.name
    assert [id(w) for w in model.weights] == [id(w) for w in plain.weights]
    x = {"frames": np.ones((2, 3, 8, 8, 1), np.uint8), "lengths": np.int32([1, 3])}
    np.testing.assert_array_equal(model(x), plain(x))
    data = tf.data.Dataset.from_tensors((x, np.array([0, 1])))
    model.fit(data, epochs=2, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    saved = keras.models.load_model(tmp_path / "model.keras")
    assert not isinstance(saved, ReplicatedModel)
    assert int(saved.optimizer.iterations) == 2
    np.testing.assert_array_equal(saved(x), plain(x))


TWO_DEVICES = """
import json
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.runtime.replicated_model import ReplicatedModel

N, T = 22, 3
rng = np.random.default_rng(0)
frames = rng.integers(0, 256, (N, T, 8, 8, 1), np.uint8)
lengths = rng.integers(1, T + 1, N).astype("int32")
targets = rng.integers(0, 5, (N, T))
weights = (np.arange(T) < lengths[:, None]).astype("float32")
sequences = tf.data.Dataset.from_tensor_slices(
    ({"frames": frames, "lengths": lengths}, targets, weights)
)
one, two = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def sequence_model():
    encoder = keras.Sequential([keras.layers.Conv2D(4, 3), keras.layers.MaxPooling2D(2),
                                keras.layers.Flatten()])
    return cnn_lstm((T, 8, 8, 1), 5, encoder=encoder, lstm_units=(8,), lengths=True,
                    per_step=True)


def sequence_fit(model, batch_size, clip):
    model.compile(
        keras.optimizers.Adam(0.01, global_clipnorm=clip),
        keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight"),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    data = sequences.batch(batch_size)
    history = model.fit(data, epochs=3, validation_data=data, shuffle=False, verbose=0).history
    return [*history.values(), model.evaluate(data.skip(N // batch_size), verbose=0)]


def dense_model():
    return keras.Sequential([keras.Input((2,)),
                             keras.layers.Dense(3, kernel_regularizer="l2"),
                             keras.layers.Dense(1)])


def dense_fit(model):
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    x = np.linspace(-1, 1, 24, dtype="float32").reshape(12, 2)
    y = np.arange(12, dtype="float32")
    return list(model.fit(x, y, batch_size=5, epochs=3, shuffle=False, verbose=0).history.values())


def trained(strategy, build, fit, *args):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        plain = build()
        results = fit(plain if strategy is one else ReplicatedModel(plain), *args)
    return {"results": results, "weights": [w.tolist() for w in plain.get_weights()]}


def compared(*args):
    return [trained(strategy, *args) for strategy in (one, two)]


def overflow(wrap):
    '''Weights and loss scale after a batch whose second half overflows.'''
    with two.scope():
        dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        plain = keras.Sequential([keras.Input((1,)), dense])
        model = wrap(plain)
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), 4.0)
        model.compile(optimizer, "mse")
        data = tf.data.Dataset.from_tensors(([[1.0], [3e38]], [[0.0], [0.0]]))
        model.fit(data, shuffle=False, verbose=0)
    return [str(float(plain.weights[0].numpy().item())), float(optimizer.dynamic_scale.numpy())]


def averages():
    '''The moving mean and variance on each replica after a batch of 0, 2 and 10, 30.'''
    with two.scope():
        plain = keras.Sequential([keras.Input((1,)),
                                  keras.layers.BatchNormalization(momentum=0.5)])
        model = ReplicatedModel(plain)
        model.compile("sgd", "mse")
        x = np.float32([[0], [2], [10], [30]])
        model.fit(tf.data.Dataset.from_tensors((x, x)), shuffle=False, verbose=0)
    norm = plain.layers[0]
    return [[float(v.numpy().item()) for v in two.experimental_local_results(w.value)]
            for w in (norm.moving_mean, norm.moving_variance)]


print(json.dumps({
    "even": compared(sequence_model, sequence_fit, 8, 0.1),
    "odd": compared(sequence_model, sequence_fit, 7, None),
    "arrays": compared(dense_model, dense_fit),
    "overflow": [overflow(ReplicatedModel), overflow(lambda plain: plain)],
    "averages": averages(),
}))
"""


@pytest.fixture(scope="module")
def two_devices():
    output = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", TWO_DEVICES],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return json.loads(output.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("case", ["even", "odd", "arrays"])
def test_two_devices_train_and_score_as_one(two_devices, case):
    """Unequal lengths, batches that do not divide, one of a single row; clipping; regularisers."""
    single, double = two_devices[case]
    assert np.ptp(single["results"][1]) > 1e-3  # it has learnt something
    assert_all_equal(double["results"], single["results"], rtol=1e-5, atol=1e-6)
    assert_all_equal(double["weights"], single["weights"], atol=1e-5)


@pytest.mark.slow
def test_an_overflow_on_the_second_replica_stays_out_of_the_weights(two_devices):
    ours, stock = two_devices["overflow"]
    assert ours == ["1.0", 2.0]  # the step is left out, the scale halved
    assert stock[0] in ("nan", "-inf", "inf")  # what is guarded against still happens


@pytest.mark.slow
def test_all_replicas_have_the_same_averages(two_devices):
    mean, variance = two_devices["averages"]
    # The halves have means 1 and 20, variances 1 and 100; before, mean 0 and variance 1.
    np.testing.assert_allclose(mean, [0.5 * (1 + 20) / 2] * 2)
    np.testing.assert_allclose(variance, [0.5 * 1 + 0.5 * (1 + 100) / 2] * 2, rtol=1e-6)
