"""What Keras would cast without a word is refused, wherever it is given to a model."""

import keras
import numpy as np
import pytest

from keras_cnnlstm.layers.frames_model import FramesModel
from keras_cnnlstm.models.baselines import image_cnn
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.graph import split_model

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 1), np.uint8)
TARGETS = np.zeros(2, np.int32)


@pytest.fixture(scope="module", params=["new", "loaded"])
def model(request, tmp_path_factory):
    """A model, and the same from a file of unknown origin."""
    model = cnn_lstm((3, 8, 8, 1), 2, lstm_units=(2,))
    if request.param == "loaded":
        path = tmp_path_factory.mktemp("models") / "model.keras"
        model.save(path)
        model = keras.models.load_model(path, safe_mode=True)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


@pytest.fixture(scope="module")
def with_lengths():
    return cnn_lstm((3, 8, 8, 1), 2, lstm_units=(2,), lengths=True)


def calls(model):
    """The ways in which frames come to a model."""
    return [
        model,
        lambda x: model.predict(x, verbose=0),
        model.predict_on_batch,
        lambda x: model.evaluate(x, TARGETS, verbose=0),
        lambda x: model.fit(x, TARGETS, verbose=0),
    ]


@pytest.mark.parametrize(
    "frames",
    [
        FRAMES / 255,
        (FRAMES / 255).astype("float32"),
        FRAMES.astype("float16"),
        np.where(FRAMES > 200, np.nan, FRAMES),
        FRAMES.astype(bool),
        FRAMES.astype(int) - 5,
        FRAMES.astype("int32") + 300,
    ],
    ids=["float64", "float32", "float16", "nan", "bool", "below", "above"],
)
def test_frames_that_are_no_pixels_are_refused(model, frames):
    for call in calls(model):
        with pytest.raises(ValueError, match=r"`frames`.*uint8 from 0 to 255.*by 255") as error:
            call(frames)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", ["uint16", "int32", "int64"])
def test_pixels_of_other_integer_types_are_answered_alike(model, dtype):
    answers = model.predict(FRAMES, verbose=0)
    np.testing.assert_allclose(model.predict(FRAMES.astype(dtype), verbose=0), answers, atol=1e-6)
    np.testing.assert_allclose(model(FRAMES.astype(dtype)), answers, atol=1e-6)


def test_tensors_and_symbols_of_floats_are_refused(model):
    for frames in (keras.ops.ones((2, 3, 8, 8, 1)), keras.Input((3, 8, 8, 1))):
        with pytest.raises(ValueError, match=r"`frames`.*received float32.*multiply by 255"):
            model(frames)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of tf.data")
@pytest.mark.parametrize("function", ["fit", "evaluate", "predict"])
def test_a_pipeline_of_floats_is_refused(model, function):
    import tensorflow as tf

    batches = tf.data.Dataset.from_tensors((FRAMES, TARGETS))
    options = {"shuffle": False} if function == "fit" else {}
    getattr(model, function)(batches, verbose=0, **options)
    floats = batches.map(lambda x, y: (tf.cast(x, tf.float32) / 255, y))
    with pytest.raises(ValueError, match=r"`frames`.*received float32.*multiply by 255"):
        getattr(model, function)(floats, verbose=0, **options)


def test_other_models_are_checked_too():
    image, parts = image_cnn((8, 8, 1), 2), split_model(cnn_lstm((3, 8, 8, 1), 2, lstm_units=(2,)))
    for model in (image, parts.frame_encoder):
        assert isinstance(model, FramesModel)
        with pytest.raises(ValueError, match="multiply by 255"):
            model(FRAMES[0] / 255)
    lines = cnn_lstm((3, 8, 1), 2, encoder="conv1d", lstm_units=(2,))  # whose frames are floats
    assert lines(FRAMES[:, :, 0] / 255).shape == (2, 2)


@pytest.mark.parametrize("lengths", [[0, 1], [-1, 3], [3, 4], [1.5, 3], [3], [[3, 3]]])
def test_lengths_out_of_range_are_refused(with_lengths, lengths):
    inputs = {"frames": FRAMES, "lengths": np.array(lengths)}
    for call in (with_lengths, lambda x: with_lengths.predict(x, verbose=0)):
        with pytest.raises(ValueError, match=r"`lengths` must be 2 integers from 1 to 3"):
            call(inputs)


def test_an_empty_batch_is_refused(model):
    for call in (model, lambda x: model.predict(x, verbose=0), model.predict_on_batch):
        with pytest.raises(ValueError, match=r"`frames` must be one sequence or more"):
            call(FRAMES[:0])
