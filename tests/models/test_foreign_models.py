"""Models that users bring: answered as the package's own, or refused in one line."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_cnnlstm.evaluation.explanations import grad_cam, occlusion
from keras_cnnlstm.export.exporter import export
from keras_cnnlstm.layers.time_distributed import TimeDistributed
from keras_cnnlstm.models.baselines import early_fusion_cnn, image_cnn
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.ensembles import (
    average_models,
    encoder_from,
    with_test_time_augmentation,
)
from keras_cnnlstm.models.graph import split_model

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 1), np.uint8)


class Doubled(layers.Layer):
    """A user's layer, which no one registered."""

    def call(self, x):
        return x * 2.0


def sequential(*more):
    return keras.Sequential(
        [
            keras.Input((3, 8, 8, 1), dtype="uint8", name="frames"),
            layers.Rescaling(1 / 255, dtype="float32", name="rescale"),
            TimeDistributed(layers.Conv2D(2, 3), name="conv"),
            *[TimeDistributed(layer) for layer in more],
            TimeDistributed(layers.Flatten()),
            layers.LSTM(4),
            layers.Dense(2, "softmax", name="probabilities"),
        ]
    )


class Wrapped(keras.Model):
    """A subclassed model around a functional one."""

    def __init__(self):
        super().__init__()
        self.inner = cnn_lstm((3, 8, 8, 1), 2, lstm_units=(4,))

    def call(self, frames):
        return self.inner(frames)


def test_a_sequential_model_is_used_as_a_functional_one():
    model = sequential()
    functional = keras.Model(model.inputs, model.outputs)
    expected = model.predict(FRAMES, verbose=0)
    features = split_model(model).frame_encoder(FRAMES.reshape(6, 8, 8, 1))
    rest = split_model(model).sequence_model({"features": ops.reshape(features, (2, 3, -1))})
    np.testing.assert_allclose(rest, expected, atol=1e-6)
    mean = average_models([model, model]).predict(FRAMES, verbose=0)
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    for explain in (occlusion, grad_cam):
        np.testing.assert_allclose(explain(model, FRAMES), explain(functional, FRAMES), atol=1e-6)
    assert with_test_time_augmentation(model, 2).output_shape == (None, 2)
    assert encoder_from([model]).output_shape == (None, 72)


@pytest.mark.parametrize(
    "function",
    [
        split_model,
        with_test_time_augmentation,
        lambda model: average_models([model, model]),
        lambda model: encoder_from([model]),
        lambda model: occlusion(model, FRAMES),
        lambda model: grad_cam(model, FRAMES),
        lambda model: export(model, "nowhere"),
    ],
)
def test_a_model_without_a_graph_is_refused(function):
    for model in (Wrapped(), keras.Sequential([layers.Dense(2)])):
        with pytest.raises(ValueError, match=r"`model\w*` must be functional.*model inside of it"):
            function(model)


def test_own_layers_and_lambdas_are_exported(tmp_path):
    model = sequential(Doubled(), layers.Lambda(lambda x: x + 1))
    assert export(model, tmp_path / "model").parity["max_difference"] <= 1e-5


def test_an_encoder_of_two_outputs_is_refused():
    image = keras.Input((8, 8, 1))
    vector = layers.Flatten()(image)
    encoder = keras.Model(image, [layers.Dense(3)(vector), layers.Dense(2)(vector)])
    for builder, shape in ((cnn_lstm, (3, 8, 8, 1)), (image_cnn, (8, 8, 1))):
        with pytest.raises(ValueError, match=r"`encoder`.*2 outputs.*outputs\[0\]"):
            builder(shape, 2, encoder=encoder)
    with pytest.raises(ValueError, match="2 outputs"):
        early_fusion_cnn((1, 8, 8, 1), 2, encoder=encoder)


def test_channels_first_is_right_or_refused():
    encoder = keras.Sequential(
        [
            layers.Permute((3, 1, 2)),
            layers.Conv2D(2, 3, data_format="channels_first"),
            layers.Flatten(),
        ]
    )
    model = cnn_lstm((3, 8, 8, 1), 2, encoder=encoder, lstm_units=(4,))
    assert occlusion(model, FRAMES).shape == (2, 3)
    with pytest.raises(ValueError, match=r"grad_cam: `model`.*channels_last"):
        grad_cam(model, FRAMES)
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match=r"cnn_lstm: .*set_image_data_format"):
            cnn_lstm((3, 8, 8, 1), 2)
    finally:
        keras.config.set_image_data_format("channels_last")


def test_a_file_opens_after_the_package_and_keras_alone(tmp_path):
    path = tmp_path / "model.keras"
    cnn_lstm((3, 8, 8, 1), 2, lstm_units=(4,)).save(path)

    def opened(names):
        program = f"import {names}; keras.models.load_model({str(path)!r})"
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    for names in ("keras_cnnlstm, keras", "keras_cnnlstm, tensorflow, keras"):
        result = opened(names)
        assert result.returncode == 0, result.stderr
    # Keras's own message shows the module of the class.
    assert "'module': 'keras_cnnlstm." in opened("keras").stderr
