"""Models that read motion, in every format, and frame by frame from the exported file."""

import keras
import numpy as np
import pytest

from keras_cnnlstm.export import export, load_artifact
from keras_cnnlstm.models import cnn_lstm


def model_of(motion):
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            keras.layers.Conv2D(3, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    options = {"motion": motion, "motion_lag": 2, "normalize": True, "lstm_units": (4,)}
    return cnn_lstm((5, 12, 12, 3), 3, encoder=encoder, lengths=True, **options)


@pytest.mark.parametrize("format", ["saved_model", "litert", "onnx"])
@pytest.mark.parametrize("motion", ["difference", "both"])
def test_an_export_answers_as_the_model_does(motion, format, tmp_path):
    if format != "saved_model":
        pytest.importorskip({"litert": "ai_edge_litert", "onnx": "tf2onnx"}[format])
    model = model_of(motion)
    done = export(model, tmp_path / "out", format)  # it proves the parity, streams included
    frames = np.random.default_rng(1).integers(0, 256, (3, 5, 12, 12, 3)).astype("uint8")
    lengths = np.array([5, 4, 3], "int32")
    found = load_artifact(done.path).predict(frames, lengths)
    expected = model.predict_on_batch({"frames": frames, "lengths": lengths})
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert abs(np.diff(expected, axis=0)).max() > 1e-3  # and it answers to what it is shown
