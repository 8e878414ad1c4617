"""Pretrained encoders: the pixels, the files of weights, what is frozen and what is not."""

import re
import socket
import threading
import time
import warnings

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from keras_cnnlstm.layers.residual_block import ResidualBlock
from keras_cnnlstm.models import imagenet as module
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.graph import leaf_layers
from keras_cnnlstm.models.imagenet import PRETRAINED, pretrained, unfreeze
from keras_cnnlstm.utils import environment

SMALL = "mobilenet_v3_small"  # the fastest to build


@pytest.fixture(scope="module")
def small():
    """The small network, frozen, its answers as far apart as a trained one's."""
    keras.utils.set_random_seed(0)
    model = pretrained(SMALL, weights=None, trainable=True, input_shape=(32, 32, 3))
    spread(model, pixels(8) / np.float32(255))
    model.trainable = False
    return model


def spread(model, inputs):
    """Sets the averages of batch normalisation to those of `inputs`.

    A deep network with random weights answers all frames alike otherwise.
    """
    norms = [x for x in model.layers if isinstance(x, layers.BatchNormalization)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0
    model(inputs, training=True)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


def pixels(count=2, channels=3, size=32, seed=0):
    """Raw frames `(B, H, W, C)` uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels), np.uint8)


def application(name, monkeypatch):
    """The network as Keras builds it for ImageNet, and the file and the address it would load."""
    asked = []

    def record(file, address, **options):
        asked.extend([file, address])

    builder = getattr(keras.applications, PRETRAINED[name].builder)
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these weights were learned at another size
        patch.setattr("keras.src.utils.file_utils.get_file", record)
        patch.setattr(keras.Model, "load_weights", lambda model, path: None)
        model = builder(include_top=False, input_shape=(32, 32, 3), pooling="avg")
    return model, asked


def before_convolution(model, inputs):
    """What the first convolution of a network is given."""
    first = next(layer for layer in model.layers if isinstance(layer, layers.Conv2D))
    return np.asarray(keras.Model(model.input, first.input)(inputs))


def values(model):
    return [keras.ops.convert_to_numpy(weight).copy() for weight in model.weights]


def write_old_h5(model, path):
    """The weights as Keras publishes them: by layer, in Keras 2's order and names."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{i}:0" for i in range(len(layer.weights))]
            group.attrs["weight_names"] = [name.encode() for name in names]
            weights = layer.trainable_weights + layer.non_trainable_weights
            for name, weight in zip(names, weights, strict=True):
                group[name] = keras.ops.convert_to_numpy(weight)


def save(model, path):
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    elif path.suffix == ".h5":
        write_old_h5(model, path)
    else:
        model.save(path)


MODULES = {
    "vgg16": "vgg16",
    "resnet50": "resnet50",
    "mobilenet_v3_small": "mobilenet_v3",
    "mobilenet_v3_large": "mobilenet_v3",
    "efficientnet_v2_b0": "efficientnet_v2",
}


class TestNetworks:
    @pytest.mark.parametrize(
        ("name", "saved"),
        [
            ("vgg16", "notop.h5"),
            ("resnet50", "notop.h5"),
            ("mobilenet_v3_small", "saved.keras"),
            ("mobilenet_v3_large", "saved.weights.h5"),
            ("efficientnet_v2_b0", "notop.h5"),
        ],
    )
    def test_is_the_network_of_keras(self, name, saved, monkeypatch, tmp_path):
        reference, asked = application(name, monkeypatch)
        network, raw = PRETRAINED[name], pixels(4)
        address = asked[1].replace("tensorflow//", "tensorflow/")
        assert (network.file, module.ADDRESS + network.weights) == (asked[0], address)
        prepare = getattr(keras.applications, MODULES[name]).preprocess_input
        prepared, frames = prepare(raw.astype("float32")), raw / np.float32(255)
        spread(reference, prepared)
        save(reference, tmp_path / saved)
        model = pretrained(name, weights=tmp_path / saved, input_shape=(32, 32, 3))
        np.testing.assert_allclose(
            before_convolution(model, frames), before_convolution(reference, prepared), atol=1e-4
        )
        for weight, expected in zip(values(model), values(reference), strict=True):
            np.testing.assert_array_equal(weight, expected)
        expected = np.asarray(reference(prepared))
        answers, in_training = (np.asarray(model(frames, training=t)) for t in (False, True))
        assert answers.shape == expected.shape
        assert np.ptp(expected, axis=0).max() > 0.1 * np.abs(expected).max()
        # Random deep networks amplify the last digit of a pixel.
        np.testing.assert_allclose(answers, expected, rtol=0, atol=5e-3 * np.abs(expected).max())
        # Frozen is frozen in training too: no batch statistics, no stochastic depth.
        assert not model.trainable_weights
        np.testing.assert_array_equal(in_training, answers)

    def test_grey_frames_are_red_green_and_blue_alike(self, small, tmp_path):
        path = tmp_path / "own.keras"
        small.save(path)  # what `pretrained` returned is itself a file of weights
        grey = pretrained(SMALL, weights=path, input_shape=(32, 32, 1))
        frames = pixels(channels=1) / np.float32(255)
        expected = small(np.repeat(frames, 3, axis=-1))
        np.testing.assert_array_equal(np.asarray(grey(frames)), np.asarray(expected))

    @pytest.mark.parametrize("policy", ["mixed_bfloat16"], indirect=True)
    def test_pixels_are_prepared_in_float32_under_a_half_policy(self, policy):
        model = pretrained(SMALL, weights=None, input_shape=(32, 32, 1))
        assert model.get_layer("pixels").compute_dtype == "float32"
        assert model.get_layer("grey_to_colour").compute_dtype == "float32"
        assert model.get_layer("conv").compute_dtype == "bfloat16"

    def test_trainable_from_the_start(self):
        model = pretrained("vgg16", weights=None, trainable=True, input_shape=(32, 32, 3))
        assert len(model.trainable_weights) == len(model.weights) == 26

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"name": "vgg"}, r"`name` must be one of \[.*'vgg16'\]; received 'vgg'\..*encoder"),
            (
                {"input_shape": (28, 32, 1)},
                r"32 pixels .*received \(28, 32, 1\)\. Resize.*image-size",
            ),
            ({"input_shape": (32, 32, 2)}, r"\(H, W, C\), .* C 1 .*received \(32, 32, 2\)"),
            ({"input_shape": (None, 32, 3)}, r"must be \(H, W, C\).*received \(None, 32, 3\)"),
        ],
    )
    def test_arguments_that_cannot_be(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            pretrained(**{"name": SMALL, "weights": None, **arguments})


class TestFilesOfWeights:
    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"'imagenet', None or an existing.*none\.h5"):
            pretrained(SMALL, weights=tmp_path / "none.h5", input_shape=(32, 32, 3))

    @pytest.mark.parametrize("name", ["cut.h5", "cut.weights.h5", "cut.keras", "pickle.pkl"])
    def test_no_weights_at_all(self, name, tmp_path):
        (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n not whole")
        with pytest.raises(ValueError, match=r"of vgg16 without .*\(notop\).*cannot be read as"):
            pretrained("vgg16", weights=tmp_path / name, input_shape=(32, 32, 3))

    @pytest.mark.parametrize("file", ["other.h5", "other.weights.h5", "other.keras"])
    def test_weights_of_another_network(self, file, small, tmp_path):
        path = tmp_path / file
        save(small, path)
        with pytest.raises(ValueError, match="must be those of vgg16 without its classifier"):
            pretrained("vgg16", weights=path, input_shape=(32, 32, 3))

    def test_one_array_of_another_shape(self, tmp_path):
        path = tmp_path / "notop.h5"
        write_old_h5(pretrained("vgg16", weights=None, input_shape=(32, 32, 3)), path)
        with h5py.File(path, "a") as file:
            name = "block5_conv3/0:0"
            del file[name]
            file[name] = np.zeros((3, 3, 512, 511), "float32")
        with pytest.raises(ValueError, match=r"those of vgg16.*\(3, 3, 512, 511\)"):
            pretrained("vgg16", weights=path, input_shape=(32, 32, 3))


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Where Keras's cache would have the weights of the small network."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return tmp_path / "models" / PRETRAINED[SMALL].file


def refuse(address, *args, **options):
    raise OSError("no route")


class TestImageNet:
    """No test here reaches a network: the places that ask it are replaced."""

    def test_says_at_once_what_is_missing_and_what_to_do(self, cached, monkeypatch):
        monkeypatch.setattr("urllib.request.urlopen", refuse)
        with pytest.raises(ConnectionError) as caught:
            pretrained(SMALL, input_shape=(32, 32, 3))
        message = str(caught.value)
        assert "of mobilenet_v3_small are not on this machine and cannot be downloaded" in message
        assert "no route" in message
        assert f"Put {cached.name} into {cached.parent}" in message
        assert "weights=PATH" in message

    def test_does_not_wait_for_a_network_that_never_answers(self, cached, monkeypatch):
        never, asked = threading.Event(), []

        def hang(address, timeout):
            asked.append(address)
            never.wait()
            raise OSError("too late")

        monkeypatch.setattr("urllib.request.urlopen", hang)
        monkeypatch.setattr(environment, "NETWORK_TIMEOUT", 0.05)
        begin = time.monotonic()
        try:
            with pytest.raises(ConnectionError, match="no answer in"):
                pretrained(SMALL, input_shape=(32, 32, 3))
        finally:
            never.set()
        assert asked == [module.ADDRESS + PRETRAINED[SMALL].weights]
        assert time.monotonic() - begin < 5

    @pytest.mark.parametrize("there", [False, True])
    def test_keras_loads_what_it_has_or_downloads(self, there, cached, small, monkeypatch):
        file, asked, waits = cached.parent / "other.h5", [], []
        cached.parent.mkdir()
        write_old_h5(small, file)
        if there:
            cached.touch()

        def get_file(name, address, *, cache_subdir, file_hash):
            waits.append(socket.getdefaulttimeout())
            return file

        monkeypatch.setattr(module, "check_reachable", asked.append)
        monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
        model, frames = pretrained(SMALL, input_shape=(32, 32, 3)), pixels() / np.float32(255)
        np.testing.assert_array_equal(np.asarray(model(frames)), np.asarray(small(frames)))
        assert len(asked) == (not there)
        assert 0 < 2 * waits[0] < 15
        assert socket.getdefaulttimeout() is None

    def test_a_download_that_breaks_off(self, cached, monkeypatch):
        monkeypatch.setattr(module, "check_reachable", lambda address: None)
        monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(cached.parent.parent))
        monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", refuse)
        with pytest.raises(ConnectionError, match=r"cannot be downloaded \(no route\)\. Put"):
            pretrained(SMALL, input_shape=(32, 32, 3))


def sequences(batch=3, time=2, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, time, 32, 32, 3), np.uint8)


def step(model, frames, steps=2):
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    for _ in range(steps):
        model.train_on_batch(frames, np.arange(len(frames)) % 3)


class TestInsideAModel:
    def test_frozen_in_training_and_after_saving(self, small, tmp_path):
        model = cnn_lstm((2, 32, 32, 3), 3, encoder=small, lstm_units=(4,))
        frames, before = sequences(), values(small)
        expected = np.asarray(model(frames))
        np.testing.assert_array_equal(np.asarray(model(frames, training=True)), expected)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
        assert len(loaded.trainable_weights) == 5  # three of the LSTM, two of the head
        np.testing.assert_array_equal(np.asarray(loaded(frames)), expected)
        step(loaded, frames)
        for was, now in zip(before, values(loaded.get_layer("encoder").layer), strict=True):
            np.testing.assert_array_equal(now, was)
        assert np.abs(np.asarray(loaded(frames)) - expected).max() > 1e-2  # the rest learned

    @pytest.mark.parametrize("wrap", ["layer", "encoder"])
    def test_fine_tuning_moves_the_unfrozen_layers_only(self, wrap):
        encoder = toy()
        encoder.trainable = False
        model = cnn_lstm((2, 8, 8, 1), 3, encoder=encoder, lstm_units=(4,), wrap=wrap)
        assert unfreeze(model, 2) == ["conv2", "dense"]
        before = values(encoder)
        step(model, sequences()[:, :, :8, :8, :1])
        moved = {
            weight.path.split("/")[-2]
            for weight, was, now in zip(encoder.weights, before, values(encoder), strict=True)
            if not np.array_equal(was, now)
        }
        assert moved == {"conv2", "dense"}


def toy(**options):
    """An encoder with a block that has layers of its own; `options` of the outermost."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(2, 3, name="conv1"),
            layers.BatchNormalization(name="norm1"),
            layers.ReLU(name="relu1"),
            ResidualBlock(2, name="block"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(3, name="dense"),
        ],
        **options,
    )


def trained(model):
    return [layer.name for layer, free in leaf_layers(model) if free and layer.trainable_weights]


CONVOLUTIONS = ["conv1", "conv1", "conv2", "dense"]  # the encoder's, the block's two


class TestUnfreeze:
    @pytest.mark.parametrize(
        ("chosen", "expected"),
        [
            (None, CONVOLUTIONS),
            (1, ["dense"]),
            (3, ["conv1", "conv2", "dense"]),
            (4, CONVOLUTIONS),
            ("conv2", ["conv2", "dense"]),
            ("pool", ["dense"]),  # a layer without weights is a place too
        ],
    )
    def test_which_layers(self, chosen, expected):
        model = toy()
        model.trainable = False
        assert unfreeze(model, chosen) == expected == trained(model)
        assert len(model.trainable_weights) == len(
            [w for layer in leaf_layers(model) for w in layer[0].trainable_weights]
        )

    def test_batch_normalisation_stays_frozen(self):
        model = toy()
        model.trainable = False
        frames = np.random.default_rng(0).uniform(size=(4, 8, 8, 1)).astype("float32")
        unfreeze(model)
        model(frames, training=True)
        np.testing.assert_array_equal(model.get_layer("norm1").moving_mean, 0)
        assert len(model.trainable_weights) == 4 + 2  # biases: conv1 and dense have them

    @pytest.mark.parametrize("wrap", ["layer", "encoder"])
    def test_finds_the_encoder_in_a_model(self, wrap):
        encoder = toy()
        encoder.trainable = False
        model = cnn_lstm((2, 8, 8, 1), 3, encoder=encoder, lstm_units=(4,), wrap=wrap)
        assert len(model.trainable_weights) == 5
        assert unfreeze(model, 2) == ["conv2", "dense"]
        assert len(model.trainable_weights) == 5 + 1 + 2

    def test_a_frozen_wrapper_is_opened(self):
        model = cnn_lstm((2, 8, 8, 1), 3, encoder=toy(), lstm_units=(4,), wrap="encoder")
        model.get_layer("encoder").trainable = False
        unfreeze(model, 1)
        assert len(model.trainable_weights) == 5 + 2

    def test_layers_that_were_trained_stay_so(self):
        model = toy()
        model.trainable = False
        unfreeze(model, "dense")
        unfreeze(model, 1)
        assert trained(model) == ["conv2", "dense"]

    def test_a_container_frozen_by_itself(self):
        model = toy(trainable=False)  # Keras leaves the flags of the layers inside
        assert trained(model) == []
        unfreeze(model, 1)
        assert trained(model) == ["dense"]

    @pytest.mark.parametrize("chosen", [0, -1, 5, "conv3", "block5", (), ["pool"], 1.5])
    def test_layers_that_are_not_there(self, chosen):
        model = toy()
        model.trainable = False
        expected = r"number from 1 to 4.*received " + re.escape(repr(chosen)) + ".*conv1, conv1, co"
        with pytest.raises(ValueError, match=expected):
            unfreeze(model, chosen)
        assert not model.trainable_weights  # refused before anything is changed

    def test_nothing_is_frozen(self):
        with pytest.raises(ValueError, match=r"must have frozen layers.*'cnn_lstm' has none"):
            unfreeze(cnn_lstm((2, 8, 8, 1), 3, encoder=toy()))
