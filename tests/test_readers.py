"""Classifiers of single frames as an encoder: what they say, frozen, put together, saved."""

import re

import keras
import numpy as np
import pytest

from keras_cnnlstm.calibration import scale_temperature
from keras_cnnlstm.features import FeatureCache, encode_images, split_model
from keras_cnnlstm.memory import activation_memory
from keras_cnnlstm.models import cnn_lstm, image_cnn, renet, scan_lstm
from keras_cnnlstm.readers import mean_reader
from keras_cnnlstm.streaming import Stream
from keras_cnnlstm.views import Views

SHAPE = (8, 8, 1)


def reader(seed=0, classes=3, **options):
    keras.utils.set_random_seed(seed)
    options = {"encoder": "small_cnn", "lstm_units": (4,)} | options
    model = cnn_lstm((1, *SHAPE), classes, per_step=True, **options)
    scale_temperature(model, 0.05)  # else random weights say about the same of every class
    return model


def images(count=6):
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), np.uint8)


def answers_of(model):
    """Probabilities of a reader to `images`, `(N, classes)`, as a model of sequences of one."""
    return np.asarray(model(images()[:, None]))[:, 0]


@pytest.mark.parametrize("options", [{}, {"wrap": "encoder"}, {"encoder": "residual_cnn"}])
def test_one_says_what_it_says_alone(options):
    model = reader(**options)
    np.testing.assert_allclose(
        mean_reader([model])(images() / np.float32(255)), answers_of(model), atol=1e-5
    )


@pytest.mark.parametrize(
    "model",
    [
        lambda: image_cnn(SHAPE, 3, encoder="residual_cnn", dropout=0.5),
        lambda: scan_lstm(SHAPE, 3, lstm_units=(4,), bidirectional=True),  # scales to [-1, 1]
        lambda: renet(SHAPE, 3, lstm_units=(4,)),
    ],
)
def test_models_of_images_read_frames_too(model):
    model = model()
    scale_temperature(model, 0.05)
    given = mean_reader([model])(images() / np.float32(255))
    np.testing.assert_allclose(given, model(images()), atol=1e-5)
    both = mean_reader([model, reader()])(images() / np.float32(255))
    product = np.sqrt(model(images()) * answers_of(reader()))
    np.testing.assert_allclose(both, product / product.sum(axis=1, keepdims=True), atol=1e-5)


def test_several_say_the_geometric_mean_of_what_each_says():
    models = [reader(0), reader(1, encoder="residual_cnn"), reader(2, lstm_units=(5, 6))]
    each = [answers_of(model) for model in models]
    product = np.prod(each, axis=0) ** (1 / 3)
    expected = product / product.sum(axis=1, keepdims=True)
    assert np.abs(expected - np.mean(each, axis=0)).max() > 1e-3  # the arithmetic one is another
    given = mean_reader(models)(images() / np.float32(255))
    np.testing.assert_allclose(given, expected, atol=1e-5)


@pytest.mark.parametrize("views", [2, 7])
def test_of_several_views_it_is_the_mean_over_all(views):
    models = [reader(0), reader(1, encoder="residual_cnn")]
    x = (images() / np.float32(255))[:, None]
    copies = np.asarray(Views(views, dtype="float32")(x)).reshape(views, -1, *SHAPE)
    assert len({copy.tobytes() for copy in copies}) == views
    each = [np.asarray(mean_reader([model])(copy)) for model in models for copy in copies]
    product = np.prod(each, axis=0, dtype=float) ** (1 / len(each))
    found = mean_reader(models, views=views)(x[:, 0])
    np.testing.assert_allclose(found, product / product.sum(1, keepdims=True), atol=1e-5)
    assert np.abs(found - mean_reader(models)(x[:, 0])).max() > 1e-3


def test_an_encoder_of_views_reads_sequences_is_saved_cached_and_streamed(tmp_path):
    model = cnn_lstm((4, *SHAPE), 7, encoder=mean_reader([reader()], views=3), lstm_units=(5,))
    frames = images(8).reshape(2, 4, *SHAPE)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_allclose(loaded(frames), model(frames), atol=1e-6)
    np.testing.assert_allclose(model(frames[:1])[0], model(frames)[0], atol=1e-5)  # each by itself
    features = encode_images(FeatureCache(tmp_path, split_model(loaded).frame_encoder), images(4))
    plain = cnn_lstm((4, *SHAPE), 7, encoder=mean_reader([reader()]), lstm_units=(5,))
    others = encode_images(FeatureCache(tmp_path, split_model(plain).frame_encoder), images(4))
    assert np.abs(features - others).max() > 1e-3  # not kept under the same name
    stream = Stream(model)
    state = stream.initial_state(batch=2)
    for step in range(4):
        answer, state = stream.step(frames[:, step], state)
    np.testing.assert_allclose(answer["probabilities"], model(frames), atol=1e-5)


def test_views_take_their_memory():
    encoders = [mean_reader([reader()], views=views) for views in (1, 7)]
    models = [cnn_lstm((4, *SHAPE), 7, encoder=encoder) for encoder in encoders]
    plain, moved = (activation_memory(model, 64) for model in models)
    assert moved > plain


def test_a_scaling_of_the_encoders_own_stays():
    layers = [keras.layers.Rescaling(3.0, offset=-1.0), keras.layers.Flatten()]
    model = reader(encoder=keras.Sequential(layers))
    given = mean_reader([model])(images() / np.float32(255))
    np.testing.assert_allclose(given, answers_of(model), atol=1e-5)


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"encoder": "residual_cnn"}])
def test_training_changes_neither_the_readers_nor_what_they_say(options):
    model = reader(**options)
    expected = answers_of(model)
    encoder = mean_reader([model])
    sums = cnn_lstm((4, *SHAPE), 1, encoder=encoder, head="values", lstm_units=(5,), lengths=True)
    assert {w.path.split("/")[0] for w in sums.trainable_weights} == {"lstm1", "values"}
    before = [w.numpy() for w in encoder.weights]
    sums.compile("sgd", "mse")
    frames = np.stack([images()[:4], images()[2:]])  # (2, 4, H, W, C)
    sums.fit({"frames": frames, "lengths": np.array([4, 2])}, np.ones((2, 1)), verbose=0)
    for weight, value in zip(encoder.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    in_training = encoder(images() / np.float32(255), training=True)
    np.testing.assert_allclose(in_training, expected, atol=1e-5)


def test_what_reads_them_is_saved_with_them(tmp_path):
    model = cnn_lstm((4, *SHAPE), 7, encoder=mean_reader([reader(0), reader(1)]), lstm_units=(5,))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    frames = images(8).reshape(2, 4, *SHAPE)
    np.testing.assert_allclose(loaded(frames), model(frames), atol=1e-6)
    assert not split_model(loaded).frame_encoder.trainable_weights


def test_it_is_cached_and_streamed(tmp_path):
    encoder = mean_reader([reader(0, dropout=0.5), reader(1, encoder="residual_cnn")])
    model = cnn_lstm((4, *SHAPE), 7, encoder=encoder, lstm_units=(5,))
    features = encode_images(FeatureCache(tmp_path, split_model(model).frame_encoder), images(4))
    np.testing.assert_allclose(features, encoder(images(4) / np.float32(255)), atol=1e-5)
    stream = Stream(model)
    state = stream.initial_state(batch=1)
    for frame in images(4):
        answer, state = stream.step(frame[None], state)
    np.testing.assert_allclose(answer["probabilities"], model(images(4)[None]), atol=1e-5)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (lambda: None, "`models` must be a list of models; received None"),
        (list, "`models` must be one or more; received none"),
        (lambda: [3], "`models` must be a keras.Model; received 3"),
        (
            lambda: [cnn_lstm((2, *SHAPE), 3, encoder="small_cnn", per_step=True)],
            r"one frame, .* received one from \[\(None, 2, 8, 8, 1\)\] .* --model image_cnn",
        ),
        (lambda: [cnn_lstm((1, *SHAPE), 3, encoder="small_cnn")], r"to \[\(None, 3\)\]"),
        (lambda: [keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten()])], "they rescale"),
        (lambda: [reader(lengths=True)], r"from \[\(None, 1, 8, 8, 1\), \(None,\)\]"),
        (
            lambda: [reader(), reader(classes=4)],
            re.escape("(8, 8, 1) -> (3,) and (8, 8, 1) -> (4,)"),
        ),
    ],
)
def test_what_does_not_read_frames_is_refused(models, message):
    with pytest.raises(ValueError, match=f"^mean_reader: .*{message}"):
        mean_reader(models())


@pytest.mark.parametrize("views", [0, 8, 1.5, None])
def test_views_that_are_none(views):
    with pytest.raises(ValueError, match="mean_reader: `views` must be "):
        mean_reader([reader()], views=views)
