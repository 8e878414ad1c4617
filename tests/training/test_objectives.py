"""What a task asks of a model: the right shape, a loss and a metric that leave padding out."""

import keras
import numpy as np
import pytest

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.datasets import LabeledImages
from keras_cnnlstm.data.digit_source import digit_task
from keras_cnnlstm.models.baselines import flat_mlp
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.tasks import Digits, Label, RunningSum, Text
from keras_cnnlstm.tasks.metrics import text_accuracy
from keras_cnnlstm.tasks.trends import Trend
from keras_cnnlstm.training.build import adopt_weights, build_model, compile_model, model_options
from keras_cnnlstm.training.objectives import objective_for

IMAGE = (8, 8, 1)


def images(num_classes):
    return LabeledImages(np.zeros((num_classes, *IMAGE), np.uint8), np.arange(num_classes))


@pytest.mark.parametrize(
    ("options", "task"),
    [
        ({"length": 3}, Trend(3, num_digits=5)),
        ({"task": "digits", "length": 3}, Digits(3, num_digits=5)),
        ({"task": "running_sum"}, RunningSum(8, num_digits=5, min_length=1)),
        ({"model": "scan_lstm"}, Label(num_digits=5)),
        ({"model": "crnn", "min_length": 2}, Text(4, num_digits=5, min_length=2)),
    ],
)
def test_a_task_has_as_many_digits_as_the_images_have_classes(options, task):
    made = digit_task(TrainConfig(**options), images(5))
    assert made == task
    assert type(made) is type(task)


@pytest.mark.parametrize(
    ("options", "inputs", "output"),
    [
        ({"model": "cnn_lstm"}, {"frames": (4, 8, 8, 1)}, (7,)),
        ({"model": "flat_mlp"}, {"frames": (4, 8, 8, 1)}, (7,)),
        ({"task": "digits"}, {"frames": (4, 8, 8, 1)}, (4, 5)),
        ({"task": "digits", "min_length": 2}, {"frames": (4, 8, 8, 1), "lengths": ()}, (4, 5)),
        ({"task": "running_sum"}, {"frames": (8, 8, 8, 1), "lengths": ()}, (8, 1)),
        ({"task": "running_sum", "min_length": 8}, {"frames": (8, 8, 8, 1)}, (8, 1)),
        ({"model": "scan_lstm", "scan_by": "patches", "scan_size": 4}, {"frames": IMAGE}, (5,)),
        ({"model": "renet"}, {"frames": IMAGE}, (5,)),
        ({"model": "image_cnn", "encoder": "small_cnn"}, {"frames": IMAGE}, (5,)),
        ({"model": "crnn"}, {"frames": (8, 32, 1)}, (8, 6)),
    ],
)
def test_the_model_has_the_shape_of_the_task(options, inputs, output):
    config = TrainConfig(**options)
    model = build_model(config, digit_task(config, images(5)), IMAGE)
    assert {tensor.name: tensor.shape[1:] for tensor in model.inputs} == inputs
    assert model.output_shape[1:] == output


def test_sums_are_answered_in_units_of_the_digits():
    config = TrainConfig(task="running_sum", length=3)
    model = build_model(config, digit_task(config, images(5)), IMAGE)
    unscaled = keras.Model(model.input, model.get_layer("unscaled").output)
    inputs = {"frames": np.ones((2, 3, *IMAGE), "uint8"), "lengths": np.array([1, 3], "int32")}
    answer, part = np.asarray(model(inputs)), np.asarray(unscaled(inputs))
    assert np.abs(part).min() > 0
    np.testing.assert_allclose(answer, 5 * part, rtol=1e-6)
    assert model.output_names == ["values"]


def test_options_reach_the_model():
    config = TrainConfig(model="scan_lstm", scan_by="rows", scan_size=2, lstm_units=(3,))
    model = build_model(config, Label(num_digits=5), IMAGE)
    assert model.get_layer("steps").output.shape == (None, 4, 16)
    assert model.get_layer("lstm1").units == 3


@pytest.mark.parametrize("encoder", ["conv_pool", "small_cnn", "residual_cnn", "paired_cnn"])
def test_the_encoder_is_as_wide_as_asked(encoder):
    config = TrainConfig(encoder=encoder, encoder_filters=(3, 5))
    model = build_model(config, Trend(4), IMAGE)
    widths = [w.shape[-1] for w in model.weights if len(w.shape) == 4 and w.shape[0] == 3]
    assert sorted(set(widths)) == [3, 5]


def test_a_strided_cnn_drops_what_the_model_drops_and_wants_room_for_its_stages():
    config = TrainConfig(encoder="strided_cnn", encoder_filters=(3, 4, 5), dropout=0.25)
    model = build_model(config, Trend(4), (14, 13, 1))
    dropping = ["conv1_dropout", "conv2_dropout", "features_dropout", "dropout1"]
    assert [layer.name for layer in model.layers if "dropout" in layer.name] == dropping
    assert model.get_layer("conv2_dropout").layer.rate == 0.25
    assert model.get_layer("relu").output.shape == (None, 4, 5)
    message = (
        "encoder must .* images of 40x12 pixels; received strided_cnn, .* needs 13 on each side"
    )
    with pytest.raises(ValueError, match=message):
        build_model(TrainConfig(encoder="strided_cnn"), Trend(4), (40, 12, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "renet", "encoder_filters": (3,)}, r"encoder_filters .* received \(3,\)"),
        ({"model": "flat_mlp", "bidirectional": True}, "bidirectional must be left out with"),
        ({"scan_by": "rows"}, "scan_by must be left out with model cnn_lstm.*received 'rows'"),
        ({"model": "crnn", "encoder": "small_cnn"}, "encoder .* received 'small_cnn'"),
    ],
)
def test_options_that_the_model_does_not_have(options, message):
    with pytest.raises(ValueError, match=message):
        model_options(TrainConfig(**options))


@pytest.mark.parametrize("task", [Digits(3, 4), RunningSum(3, 4)])
def test_steps_of_weight_0_change_neither_loss_nor_metric(task):
    rng = np.random.default_rng(0)
    lengths = np.array([1, 3, 2])
    weight = (np.arange(5) < lengths[:, None]).astype("float32")  # (3, 5)
    if isinstance(task, RunningSum):
        target, answer = rng.random((2, 3, 5, 1), "float32")
        error = (target - answer)[weight > 0] ** 2
        expected = error.mean(), np.sqrt(error.mean())
    else:
        target, answer = rng.integers(0, 4, (3, 5)), rng.random((3, 5, 4), "float32")
        answer /= answer.sum(axis=-1, keepdims=True)
        told = np.take_along_axis(answer, target[..., None], -1)[..., 0]
        right = (answer.argmax(axis=-1) == target)[weight > 0]
        expected = -np.log(told[weight > 0]).mean(), right.mean()
    for time in (3, 5):  # the second with more padding
        objective = objective_for(task)
        cut = target[:, :time], answer[:, :time], weight[:, :time]
        loss = objective.loss(*cut)
        objective.metric.update_state(*cut)
        np.testing.assert_allclose([loss, objective.metric.result()], expected, rtol=1e-5)


def test_weights_are_taken_over_where_names_and_shapes_agree():
    source = cnn_lstm((3, *IMAGE), 5, per_step=True, lstm_units=(4, 3))
    model = cnn_lstm(
        (6, *IMAGE), 1, per_step=True, lstm_units=(4, 2), head="regression", lengths=True
    )
    before = model.get_layer("lstm2").get_weights()
    assert adopt_weights(model, source) == ["conv1", "conv2", "lstm1"]
    for name in ("conv1", "lstm1"):
        for a, b in zip(
            model.get_layer(name).get_weights(), source.get_layer(name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(model.get_layer("lstm2").get_weights()[0], before[0])
    with pytest.raises(ValueError, match=r"init_from: .* cnn_lstm has conv1, conv2, lstm1, lstm2"):
        adopt_weights(flat_mlp((2, *IMAGE)), source)


def test_a_text_is_right_only_as_a_whole():
    logits = np.eye(4)[[[1, 1, 0, 2, 0], [0, 3, 0, 0, 0], [1, 0, 1, 2, 2]]].astype("float32")
    target = np.array([[1, 2], [3, 0], [1, 2]])
    assert np.asarray(text_accuracy(target, logits)).tolist() == [1, 1, 0]
    metric = objective_for(Text(2, 3)).metric
    metric.update_state(target, logits)
    assert float(metric.result()) == pytest.approx(2 / 3)


def test_the_better_epoch():
    accuracy, error = objective_for(Trend(4)), objective_for(RunningSum(4))
    assert accuracy.better(0.1, None)
    assert error.better(0.1, None)
    assert accuracy.better(0.2, 0.1)
    assert not accuracy.better(0.1, 0.1)
    assert error.better(0.1, 0.2)
    assert not error.better(0.2, 0.1)


@pytest.mark.parametrize("optimizer", ["adam", "adadelta", "rmsprop", "sgd"])
def test_the_optimizer_and_its_schedule(optimizer):
    config = TrainConfig(optimizer=optimizer, learning_rate=0.5, epochs=2, steps_per_epoch=5)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "softmax")])
    compile_model(model, config, objective_for(Digits(1, 4)))
    assert type(model.optimizer).__name__.lower() == optimizer
    for _ in range(5):
        model.train_on_batch(np.ones((2, 3)), np.zeros(2))
    half_way = 0.5 if optimizer == "adadelta" else 0.25  # of a constant, or of a cosine
    assert float(model.optimizer.learning_rate) == pytest.approx(half_way)


def test_a_learning_rate_may_be_an_integer():
    config = TrainConfig(optimizer="adadelta", learning_rate=1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "softmax")])
    compile_model(model, config, objective_for(Digits(1, 4)))
    assert float(model.optimizer.learning_rate) == 1
