"""The model that answers after each step: of the same weights, and right at each of them."""

import re

import keras
import numpy as np
import pytest

from keras_cnnlstm.models.baselines import bag_of_frames
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.graph import every_step_model
from keras_cnnlstm.tasks.metrics import last_step_accuracy
from keras_cnnlstm.tasks.trends import TrendAtEveryStep

SHAPE = (4, 8, 8, 1)


def frames(batch=3, time=4):
    return np.random.default_rng(0).integers(0, 256, (batch, time, 8, 8, 1), np.uint8)


@pytest.mark.parametrize("options", [{}, {"lstm_units": (5, 6), "dropout": 0.3}])
def test_its_answer_at_a_step_is_that_of_the_model_for_the_frames_so_far(options):
    model = cnn_lstm((None, *SHAPE[1:]), 5, encoder="small_cnn", **options)
    answers = every_step_model(model)(frames())
    assert answers.shape == (3, 4, 5)
    for t in range(4):
        expected = model(frames()[:, : t + 1])
        np.testing.assert_allclose(answers[:, t], expected, atol=1e-5)


def test_in_other_orders_its_answers_are_those_to_the_frames_in_them():
    model = cnn_lstm(SHAPE, 5, encoder="small_cnn", lstm_units=(5, 6), dropout=0.3)
    orders = [[3, 1, 0, 2], [2, 3, 1, 0], [0, 1, 2, 3]]
    answers = every_step_model(model, orders)(frames())
    assert answers.shape == (3, 12, 5)
    alone = every_step_model(model)
    expected = np.concatenate([alone(frames()[:, order]) for order in orders], axis=1)
    np.testing.assert_allclose(answers, expected, atol=1e-6)
    np.testing.assert_allclose(answers[:, -1], model(frames()), atol=1e-6)


def test_sequences_may_exchange_frames():
    model = cnn_lstm(SHAPE, 5, encoder="small_cnn", lstm_units=(5,))
    orders = TrendAtEveryStep(4, permuted=True, group=3).orders
    given = frames(6)
    answers = every_step_model(model, orders)(given)
    assert answers.shape == (6, 3 * 4 * 4, 5)
    alone = every_step_model(model)
    for b, told in enumerate(np.asarray(answers)):
        group = given[b - b % 3 :][:3].reshape(12, *SHAPE[1:])  # frame by frame
        expected = alone(group[orders[b % 3]])  # (K, T, classes)
        np.testing.assert_allclose(told, np.reshape(expected, (48, 5)), atol=1e-6)
    np.testing.assert_allclose(answers[:, -1], model(given), atol=1e-6)


def test_the_encoder_reads_each_frame_once_for_all_orders():
    read = []

    class Counted(keras.layers.Layer):
        def call(self, images):
            read.append(images.shape[0])
            return keras.ops.mean(keras.ops.cast(images, "float32"), axis=(1, 2))

        def compute_output_shape(self, shape):
            return (shape[0], shape[-1])

    model = cnn_lstm(SHAPE, 5, encoder=Counted(), lstm_units=(6,))
    twin = every_step_model(model, [[3, 1, 0, 2], [2, 3, 1, 0], [0, 1, 2, 3]])
    read.clear()
    twin(frames(2))
    assert sum(read) == 2 * 4


@pytest.mark.parametrize(
    "orders",
    [
        3,
        [0, 1, 2, 3],
        [[0, 1, 2]],
        [[0, 1, 2, 4]],
        [[1, 1, 2, 3]],
        [[0.0, 1, 2, 3]],
        np.zeros((0, 4)),
        [[[0, 1, 2, 4]]],
        [[[0, 1, 2, 3]], [[4, 5, 6, 8]]],
        [[[0, 1, 2, 3]], [[-1, 5, 6, 7]]],
    ],
)
def test_refuses_what_is_no_order_of_the_frames(orders):
    model = cnn_lstm(SHAPE, 5, encoder="small_cnn", lstm_units=(6,))
    with pytest.raises(ValueError, match=r"every_step_model: `orders` must be"):
        every_step_model(model, orders)


def test_any_number_of_frames_has_no_orders():
    model = cnn_lstm((None, *SHAPE[1:]), 5, encoder="small_cnn")
    with pytest.raises(ValueError, match=r"must be \(K, None\) permutations"):
        every_step_model(model, [[0, 1, 2, 3]])


def test_training_it_trains_the_model():
    model = cnn_lstm(SHAPE, 5, encoder="small_cnn", lstm_units=(6,))
    before = model.get_weights()
    twin = every_step_model(model)
    twin.compile("sgd", "sparse_categorical_crossentropy")
    twin.train_on_batch(frames(), np.zeros((3, 4), int))
    assert all(np.any(old != new) for old, new in zip(before, model.get_weights(), strict=True))
    assert [w.path for w in twin.weights] == [w.path for w in model.weights]
    np.testing.assert_allclose(twin(frames())[:, -1], model(frames()), atol=1e-6)


def test_the_loss_at_early_steps_reaches_the_encoder():
    """Of a sequence whose last frames are black, only the first answers tell of the first frame."""
    model = cnn_lstm(SHAPE, 5, encoder="small_cnn", lstm_units=(6,))
    weights = model.get_weights()
    losses = []
    for target in ([1, 0, 0, 0], [0, 0, 0, 0]):
        model.set_weights(weights)
        twin = every_step_model(model)
        twin.compile("sgd", "sparse_categorical_crossentropy")
        twin.train_on_batch(frames(1), np.array([target]))
        losses.append(model.get_weights())
    assert any(np.any(a != b) for a, b in zip(*losses, strict=True))


@pytest.mark.parametrize(
    "model",
    [
        lambda: cnn_lstm(SHAPE, 5, encoder="small_cnn", per_step=True),
        lambda: keras.Sequential([keras.Input((4, 3)), keras.layers.Dense(2)]),
        lambda: keras.Sequential([keras.Input((4, 3)), keras.layers.LSTM(2, go_backwards=True)]),
        lambda: cnn_lstm(SHAPE, 5, encoder="small_cnn", bidirectional=True),
    ],
)
def test_refuses_what_has_no_answers_on_the_way(model):
    with pytest.raises(
        ValueError, match=r"every_step_model: `model` must read its frames in order"
    ):
        every_step_model(model())


def test_refuses_what_is_no_chain():
    with pytest.raises(ValueError, match=re.escape("`model` must read its frames in order")):
        every_step_model(bag_of_frames(SHAPE, 5))


def test_only_the_last_step_counts():
    target = np.array([[0, 1], [1, 0], [1, 1]])
    answers = np.zeros((3, 2, 3), "float32")
    answers[0, 1, 1] = answers[1, 0, 1] = answers[1, 1, 2] = answers[2, 1, 1] = 1
    assert np.asarray(last_step_accuracy(target, answers)).tolist() == [1, 0, 1]
