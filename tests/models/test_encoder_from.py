"""Encoders from trained models: what these answer, frozen, put together, saved."""

import re

import keras
import numpy as np
import pytest

from keras_cnnlstm.layers.averaging import TTACopies
from keras_cnnlstm.models.baselines import bag_of_frames, flat_mlp, image_cnn
from keras_cnnlstm.models.calibration import scale_temperature
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.ensembles import encoder_from
from keras_cnnlstm.models.graph import split_model
from keras_cnnlstm.models.scanning import renet, scan_lstm
from keras_cnnlstm.models.streaming import Stream
from keras_cnnlstm.runtime.memory import activation_memory
from keras_cnnlstm.training.feature_cache import FeatureCache, encode_images

SHAPE = (8, 8, 1)
END = [keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]


def classifier(seed=0, classes=3, **options):
    keras.utils.set_random_seed(seed)
    options = {"encoder": "small_cnn", "lstm_units": (4,)} | options
    model = cnn_lstm((1, *SHAPE), classes, per_step=True, **options)
    scale_temperature(model, 0.05)  # else random weights say about the same of every class
    return model


def images(count=6):
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), np.uint8)


def answers_of(model):
    """Probabilities of a classifier to `images`, `(N, classes)`, as a model of sequences of one."""
    return np.asarray(model(images()[:, None]))[:, 0]


@pytest.mark.parametrize("options", [{}, {"wrap": "encoder"}, {"encoder": "residual_cnn"}])
def test_one_says_what_it_says_alone(options):
    model = classifier(**options)
    np.testing.assert_allclose(
        encoder_from([model])(images() / np.float32(255)), answers_of(model), atol=1e-5
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
    keras.utils.set_random_seed(1)
    model = model()
    scale_temperature(model, 0.05)
    given = encoder_from([model])(images() / np.float32(255))
    np.testing.assert_allclose(given, model(images()), atol=1e-5)
    both = encoder_from([model, classifier()])(images() / np.float32(255))
    product = np.sqrt(model(images()) * answers_of(classifier()))
    np.testing.assert_allclose(both, product / product.sum(axis=1, keepdims=True), atol=1e-5)


def test_several_say_the_geometric_mean_of_what_each_says():
    models = [
        classifier(0),
        classifier(1, encoder="residual_cnn"),
        classifier(2, lstm_units=(5, 6)),
    ]
    each = [answers_of(model) for model in models]
    product = np.prod(each, axis=0) ** (1 / 3)
    expected = product / product.sum(axis=1, keepdims=True)
    assert np.abs(expected - np.mean(each, axis=0)).max() > 1e-3  # the arithmetic one is another
    given = encoder_from(models)(images() / np.float32(255))
    np.testing.assert_allclose(given, expected, atol=1e-5)


@pytest.mark.parametrize("tta", [2, 7])
def test_of_several_copies_it_is_the_mean_over_all(tta):
    models = [classifier(0), classifier(1, encoder="residual_cnn")]
    x = (images() / np.float32(255))[:, None]
    copies = np.asarray(TTACopies(tta, dtype="float32")(x)).reshape(tta, -1, *SHAPE)
    assert len({copy.tobytes() for copy in copies}) == tta
    each = [np.asarray(encoder_from([model])(copy)) for model in models for copy in copies]
    product = np.prod(each, axis=0, dtype=float) ** (1 / len(each))
    found = encoder_from(models, tta=tta)(x[:, 0])
    np.testing.assert_allclose(found, product / product.sum(1, keepdims=True), atol=1e-5)
    assert np.abs(found - encoder_from(models)(x[:, 0])).max() > 1e-3


def test_an_encoder_with_copies_reads_sequences_is_saved_cached_and_streamed(tmp_path):
    model = cnn_lstm((4, *SHAPE), 7, encoder=encoder_from([classifier()], tta=3), lstm_units=(5,))
    frames = images(8).reshape(2, 4, *SHAPE)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_allclose(loaded(frames), model(frames), atol=1e-6)
    np.testing.assert_allclose(model(frames[:1])[0], model(frames)[0], atol=1e-5)  # each by itself
    features = encode_images(FeatureCache(tmp_path, split_model(loaded).frame_encoder), images(4))
    plain = cnn_lstm((4, *SHAPE), 7, encoder=encoder_from([classifier()]), lstm_units=(5,))
    others = encode_images(FeatureCache(tmp_path, split_model(plain).frame_encoder), images(4))
    assert np.abs(features - others).max() > 1e-3  # not kept under the same name
    stream = Stream(model)
    state = stream.initial_state(batch=2)
    for step in range(4):
        answer, state = stream.step(frames[:, step], state)
    np.testing.assert_allclose(answer["probabilities"], model(frames), atol=1e-5)


def test_copies_take_their_memory():
    encoders = [encoder_from([classifier()], tta=tta) for tta in (1, 7)]
    models = [cnn_lstm((4, *SHAPE), 7, encoder=encoder) for encoder in encoders]
    plain, moved = (activation_memory(model, 64) for model in models)
    assert moved > plain


def test_a_scaling_of_the_encoders_own_stays():
    layers = [keras.layers.Rescaling(3.0, offset=-1.0), keras.layers.Flatten()]
    model = classifier(encoder=keras.Sequential(layers))
    given = encoder_from([model])(images() / np.float32(255))
    np.testing.assert_allclose(given, answers_of(model), atol=1e-5)


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"encoder": "residual_cnn"}])
def test_training_changes_neither_the_models_nor_their_answers(options):
    model = classifier(**options)
    expected = answers_of(model)
    encoder = encoder_from([model])
    sums = cnn_lstm(
        (4, *SHAPE), 1, encoder=encoder, head="regression", lstm_units=(5,), lengths=True
    )
    assert {w.path.split("/")[0] for w in sums.trainable_weights} == {"lstm1", "values"}
    before = [w.numpy() for w in encoder.weights]
    sums.compile("sgd", "mse")
    frames = np.stack([images()[:4], images()[2:]])  # (2, 4, H, W, C)
    sums.fit({"frames": frames, "lengths": np.array([4, 2])}, np.ones((2, 1)), verbose=0)
    for weight, value in zip(encoder.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    in_training = encoder(images() / np.float32(255), training=True)
    np.testing.assert_allclose(in_training, expected, atol=1e-5)


def test_the_models_are_saved_with_the_encoder(tmp_path):
    model = cnn_lstm(
        (4, *SHAPE), 7, encoder=encoder_from([classifier(0), classifier(1)]), lstm_units=(5,)
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    frames = images(8).reshape(2, 4, *SHAPE)
    np.testing.assert_allclose(loaded(frames), model(frames), atol=1e-6)
    assert not split_model(loaded).frame_encoder.trainable_weights


def test_it_is_cached_and_streamed(tmp_path):
    encoder = encoder_from([classifier(0, dropout=0.5), classifier(1, encoder="residual_cnn")])
    model = cnn_lstm((4, *SHAPE), 7, encoder=encoder, lstm_units=(5,))
    features = encode_images(FeatureCache(tmp_path, split_model(model).frame_encoder), images(4))
    np.testing.assert_allclose(features, encoder(images(4) / np.float32(255)), atol=1e-5)
    stream = Stream(model)
    state = stream.initial_state(batch=1)
    for frame in images(4):
        answer, state = stream.step(frame[None], state)
    np.testing.assert_allclose(answer["probabilities"], model(images(4)[None]), atol=1e-5)


def sequences(**options):
    """A model of sequences, whose encoder may be taken out."""
    options = {"encoder": "small_cnn", "lstm_units": (4,)} | options
    return cnn_lstm((2, *SHAPE), 3, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"encoder": "residual_cnn", "dropout": 0.5, "lengths": True},
        {"wrap": "encoder"},
        {"encoder": keras.Sequential([keras.layers.Rescaling(3.0), keras.layers.Flatten()])},
    ],
)
def test_of_a_model_of_sequences_it_is_the_encoder(options):
    model = sequences(**options)
    expected = split_model(model).frame_encoder(images())
    encoder = encoder_from([model])
    assert not encoder.trainable_weights
    for training in (False, True):
        found = encoder(images() / np.float32(255), training=training)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_vectors_of_several_stand_side_by_side_each_the_mean_over_copies(tmp_path):
    models = [sequences(), bag_of_frames((3, *SHAPE), 4, encoder="residual_cnn")]
    x = images() / np.float32(255)
    each = [np.asarray(split_model(model).frame_encoder(images())) for model in models]
    np.testing.assert_allclose(encoder_from(models)(x), np.concatenate(each, 1), atol=1e-5)
    copies = np.asarray(TTACopies(3, dtype="float32")(x)).reshape(3, -1, *SHAPE)
    expected = np.mean([encoder_from(models)(copy) for copy in copies], axis=0)
    model = cnn_lstm((4, *SHAPE), 7, encoder=encoder_from(models, tta=3), lstm_units=(5,))
    features = encode_images(FeatureCache(tmp_path, split_model(model).frame_encoder), images())
    np.testing.assert_allclose(features, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (lambda: None, "`models` must be a list of models; received None"),
        (list, "`models` must be one or more; received none"),
        (lambda: [3], "`models` must be a keras.Model; received 3"),
        (lambda: [flat_mlp((2, *SHAPE), 3)], r"encode frame by frame; received 'flat_mlp' \("),
        (lambda: [keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten()])], "frame by fr"),
        (
            lambda: [keras.Sequential([keras.Input((4, 4, 1)), *END])],
            "must rescale their frames themselves",
        ),
        (
            lambda: [classifier(), classifier(classes=4)],
            re.escape("(8, 8, 1) -> (3,), (8, 8, 1) -> (4,)"),
        ),
        (lambda: [classifier(), sequences()], "all classify single frames, or none .* 1 of 2"),
    ],
)
def test_models_that_are_no_encoder_are_refused(models, message):
    with pytest.raises(ValueError, match=f"^encoder_from: .*{message}"):
        encoder_from(models())


@pytest.mark.parametrize("tta", [0, 8, 1.5, None])
def test_copies_that_are_none(tta):
    with pytest.raises(ValueError, match="encoder_from: `tta` must be "):
        encoder_from([classifier()], tta=tta)
