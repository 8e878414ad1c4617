"""The feature cache: training from it is training through the encoder; its files are right."""

from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from keras import layers
from oracles import assert_all_equal

from keras_cnnlstm.layers.lstm import LSTM
from keras_cnnlstm.layers.residual_block import ResidualBlock
from keras_cnnlstm.layers.time_distributed import TimeDistributed
from keras_cnnlstm.models.baselines import flat_mlp
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.graph import split_model
from keras_cnnlstm.models.imagenet import pretrained, unfreeze
from keras_cnnlstm.training.feature_cache import FeatureCache, encode_images, fingerprint
from keras_cnnlstm.utils.files import frames_key

FRAME = (8, 8, 1)  # (H, W, C)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def clips(batch=6, time=3, seed=0):
    """Frames `(B, T, H, W, C)` uint8."""
    return np.random.default_rng(seed).integers(0, 256, (batch, time, *FRAME), np.uint8)


def encoder(filters=3):
    """Frozen, with batch statistics that are not those of a new one."""
    model = keras.Sequential(
        [
            keras.Input(FRAME),
            layers.Conv2D(filters, 3, activation="tanh", name="conv"),
            layers.BatchNormalization(name="norm"),
            ResidualBlock(4, 2, name="block"),
            layers.Flatten(name="flatten"),
        ],
        name="toy",
    )
    model.get_layer("norm").moving_mean.assign(np.linspace(-1, 1, filters))
    model.trainable = False
    return model


def small(time=3, **options):
    given = {"encoder": None, "lstm_units": (5,), "num_classes": 3, **options}
    given["encoder"] = given["encoder"] or encoder()
    return cnn_lstm((time, *FRAME), **given)


def frame_encoder(**options):
    return split_model(small(**options)).frame_encoder


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "cache", frame_encoder(), batch_size=4)


MODELS = {
    "reference": {},
    "any number of frames": {"time": None},
    "encoder": {"wrap": "encoder"},
    "lengths": {"lengths": True, "time": 5},
    "lengths of any": {"lengths": True, "time": None, "lstm_units": (5, 4)},
    "bidirectional": {"bidirectional": True, "lengths": True, "per_step": True},
    "dropout": {"dropout": 0.5},
    "numbers": {"head": "regression", "scale": 3.0, "per_step": True, "num_classes": 1},
}


class TestSplitModel:
    @pytest.mark.parametrize("name", MODELS)
    def test_training_from_features_is_training_through_the_encoder(self, name, tmp_path):
        options, time = MODELS[name], MODELS[name].get("time", 3) or 4
        whole, halved = small(**options), small(**options)
        for one, other in zip(whole.variables, halved.variables, strict=True):
            other.assign(np.array(one))  # the seeds of the dropout among them
        parts = split_model(halved)
        cache = FeatureCache(tmp_path, parts.frame_encoder, batch_size=7)
        frames = clips(time=time)
        features = cache.features("all", frames.reshape(-1, *FRAME)).reshape(6, time, -1)
        inputs, short = {"frames": frames}, {"features": features}
        if options.get("lengths"):
            inputs["lengths"] = short["lengths"] = np.array([1, 3, 2, time, 3, 1])
        else:
            inputs = frames  # without a dict, as everywhere
        answers = np.asarray(whole(inputs))
        truth = np.random.default_rng(1).uniform(size=answers.shape)
        for model, given in ((whole, inputs), (parts.sequence_model, short)):
            # To trace a graph takes longer than a few steps without one.
            model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=name != "reference")
            for rows in (slice(0, 3), slice(3, 6), slice(1, 4), slice(0, 6)):
                batch = keras.tree.map_structure(lambda x, rows=rows: x[rows], given)
                model.train_on_batch(batch, truth[rows])
        trained = np.asarray(whole(inputs))
        assert np.abs(trained - answers).max() > 1e-3
        assert_all_equal(whole.get_weights(), halved.get_weights(), rtol=0, atol=1e-6)
        for given, model in ((inputs, halved), (short, parts.sequence_model)):
            np.testing.assert_allclose(np.asarray(model(given)), trained, rtol=0, atol=1e-6)

    def test_of_a_pretrained_network_read_from_a_file(self, tmp_path):
        network = pretrained("mobilenet_v3_small", weights=None, input_shape=(32, 32, 3))
        cnn_lstm((2, 32, 32, 3), 3, encoder=network).save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
        parts = split_model(model)
        frames = np.random.default_rng(0).integers(0, 256, (3, 2, 32, 32, 3), np.uint8)
        cache = FeatureCache(tmp_path, parts.frame_encoder)
        features = encode_images(cache, frames.reshape(-1, 32, 32, 3)).reshape(3, 2, -1)
        np.testing.assert_allclose(
            np.asarray(parts.sequence_model({"features": features})),
            np.asarray(model(frames)),
            rtol=0, atol=1e-6,
        )  # fmt: skip
        built = split_model(cnn_lstm((2, 32, 32, 3), 3, encoder=network)).frame_encoder
        assert FeatureCache(tmp_path, built).folder == cache.folder

    def test_states_go_in_and_come_out(self):
        model = small(initial_state=True, return_state=True, lstm_units=(5, 4))
        parts, frames = split_model(model), clips()
        states = {
            key: np.random.default_rng(2).normal(size=(6, x.shape[-1])).astype("float32")
            for key, x in model.input.items()
            if key != "frames"
        }
        assert len(states) == 4
        features = np.asarray(parts.frame_encoder(frames.reshape(-1, *FRAME))).reshape(6, 3, -1)
        answers = parts.sequence_model({"features": features, **states})
        expected = model({"frames": frames, **states})
        assert answers.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(np.asarray(answers[key]), value, rtol=0, atol=1e-6)

    def test_a_stateful_model_keeps_its_batch_size(self):
        parts = split_model(small(stateful=True, batch_size=2))
        assert parts.sequence_model.input["features"].shape == (2, 3, 36)

    @pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
    def test_features_are_float32_and_hold_half_precision_exactly(self, policy, tmp_path):
        model = small(wrap="encoder")
        parts, frames = split_model(model), clips()
        features = FeatureCache(tmp_path, parts.frame_encoder).features("a", frames[:, 0])
        inner = model.get_layer("encoder").layer
        half = inner(frames[:, 0] / np.float32(255))
        assert keras.backend.standardize_dtype(half.dtype) == policy.removeprefix("mixed_")
        assert features.dtype == parts.frame_encoder.outputs[0].dtype == "float32"
        exact = np.asarray(half, "float32")
        np.testing.assert_allclose(features, exact, rtol=0, atol=2e-2)
        np.testing.assert_array_equal(features, features.astype(np.asarray(half).dtype))
        np.testing.assert_array_equal(
            np.asarray(parts.sequence_model({"features": np.stack([exact] * 3, axis=1)})),
            np.asarray(model(np.repeat(frames[:, :1], 3, axis=1))),
        )

    def test_what_comes_after_the_encoder_goes_with_the_sequence(self):
        frames = keras.Input((3, *FRAME), dtype="uint8", name="frames")
        x = TimeDistributed(encoder())(layers.Rescaling(1 / 255)(frames))
        x = TimeDistributed(layers.Dense(2))(layers.Rescaling(2.0)(layers.Dense(4)(x)))
        model = keras.Model(frames, LSTM(3)(x))
        parts = split_model(model)
        assert parts.frame_encoder.output_shape == (None, 36)
        assert len(parts.sequence_model.trainable_weights) == 2 + 2 + 3
        features = np.asarray(parts.frame_encoder(clips()[:, 0]))
        np.testing.assert_allclose(
            np.asarray(parts.sequence_model({"features": np.stack([features] * 3, axis=1)})),
            np.asarray(model(np.repeat(clips()[:, :1], 3, axis=1))),
            rtol=0, atol=1e-6,
        )  # fmt: skip

    def test_lines_that_no_layer_rescales(self):
        lines = np.random.default_rng(0).normal(size=(2, 3, 16, 2)).astype("float32")
        model = cnn_lstm((3, 16, 2), 3, encoder="conv1d")
        parts = split_model(model)
        features = np.asarray(parts.frame_encoder(lines.reshape(6, 16, 2))).reshape(2, 3, -1)
        np.testing.assert_allclose(
            np.asarray(parts.sequence_model({"features": features})),
            np.asarray(model(lines)),
            rtol=0, atol=1e-6,
        )  # fmt: skip

    def test_no_encoder(self):
        with pytest.raises(ValueError, match=r"into vectors in TimeDist.*'flat_mlp' begins with R"):
            split_model(flat_mlp((3, *FRAME), 3))

    def test_an_encoder_that_ends_in_maps(self):
        frames = keras.Input((3, *FRAME), name="frames")
        x = TimeDistributed(layers.Conv2D(2, 3))(frames)
        model = keras.Model(frames, LSTM(3)(layers.Reshape((3, -1))(x)), name="maps")
        with pytest.raises(ValueError, match=r"must turn frames into vectors.*'maps'.*TimeDistri"):
            split_model(model)

    def test_frames_that_something_else_reads_too(self):
        frames = keras.Input((3, *FRAME), name="frames")
        x = LSTM(3)(TimeDistributed(encoder())(frames))
        answer = layers.Concatenate()([x, layers.Flatten()(frames)])
        with pytest.raises(ValueError, match="`model` must read its input 'frames' in the encoder"):
            split_model(keras.Model(frames, answer))


def uniform(**options):
    """A frame encoder all of whose weights are one half."""
    model = frame_encoder(**options)
    model.set_weights([np.full(w.shape, 0.5) for w in model.get_weights()])
    return model


def nameless(swapped=False):
    """An encoder of two branches whose layers Keras names; all its weights are one half."""
    frame = keras.Input(FRAME)
    x = layers.Conv2D(2, 3)(frame)
    y = keras.ops.flip(layers.Conv2D(2, 3, padding="same")(x), axis=1)
    x = layers.Subtract()([y, x] if swapped else [x, y])
    model = keras.Model(frame, layers.Flatten()(x))
    model.set_weights([np.full(w.shape, 0.5) for w in model.get_weights()])
    return model


def rescaled(scale, activation="relu", name="relu"):
    frame = keras.Input(FRAME, dtype="uint8")
    x = layers.Rescaling(scale, dtype="float32")(frame)
    return fingerprint(
        keras.Model(frame, layers.Flatten()(layers.Activation(activation, name=name)(x)))
    )


class TestFingerprint:
    def test_tells_a_single_weight(self):
        model = frame_encoder()
        before = fingerprint(model)
        for index, weight in enumerate(model.get_weights()):
            values = model.get_weights()
            values[index] = weight + np.eye(1, weight.size, dtype="float32").reshape(weight.shape)
            kept = model.get_weights()
            model.set_weights(values)
            assert fingerprint(model) != before, index
            model.set_weights(kept)
        assert fingerprint(model) == before

    def test_tells_the_preparation_of_the_pixels_and_the_architecture(self):
        prints = [
            rescaled(1 / 255),
            rescaled(1 / 127.5),
            rescaled(1 / 255, "tanh"),
            rescaled(1 / 255, "tanh", name="tanh"),  # names tell nothing, functions do
        ]
        assert len(set(prints)) == 3
        assert prints[2] == prints[3]

    def test_tells_the_precision(self):
        prints = set()
        for policy in ("float32", "mixed_bfloat16", "mixed_float16"):
            inner = [layers.Flatten(), layers.Dense(4, dtype=policy), layers.ReLU(dtype="float32")]
            prints.add(fingerprint(uniform(encoder=keras.Sequential(inner), wrap="encoder")))
        assert len(prints) == 3

    def test_names_freezing_and_saving_change_nothing(self, reloaded):
        one, other = nameless(), nameless()
        assert not {x.name for x in one.layers} & {x.name for x in other.layers}
        other.set_weights(one.get_weights())
        one.trainable = False
        model = small(encoder=one)
        loaded = reloaded(model)
        prints = {
            fingerprint(split_model(x).frame_encoder)
            for x in (model, loaded, small(encoder=other, time=7, name="another"))
        }
        assert len(prints) == 1
        assert prints != {fingerprint(frame_encoder(encoder=nameless(swapped=True)))}

    def test_keys_of_frames(self):
        frames = clips()[:, 0]
        other = frames.copy()
        other[-1, -1, -1, -1] += 1
        keys = {frames_key(x) for x in (frames, other, frames[:-1], frames.reshape(3, 2, 8, 8))}
        assert len(keys) == 4
        assert frames_key(frames.copy()) == frames_key(np.asfortranarray(frames))


class Counted:
    """Frames that count how often they are asked for."""

    def __init__(self, frames):
        self.frames, self.times = frames, 0

    def __call__(self):
        self.times += 1
        return self.frames


class TestFeatureCache:
    def test_encodes_once_in_batches_and_reads_from_the_file(self, cache, tmp_path):
        source, seen = Counted(clips(9)[:, 0]), []
        features = cache.features("a", source, progress=lambda *done: seen.append(done))
        assert seen == [(4, 9), (8, 9), (9, 9)]
        assert isinstance(features, np.memmap)
        assert not features.flags.writeable
        expected = np.asarray(cache.frame_encoder(source.frames))
        np.testing.assert_allclose(features, expected, rtol=0, atol=1e-6)
        again = FeatureCache(tmp_path / "cache", cache.frame_encoder)
        for each in (cache, again):
            np.testing.assert_array_equal(each.features("a", source), features)
        assert source.times == 1
        (file,) = cache.folder.iterdir()
        assert cache.folder.parent == tmp_path / "cache"
        np.testing.assert_array_equal(np.load(file, allow_pickle=False), features)

    def test_every_key_has_its_own_features(self, cache):
        frames = clips(2)[:, 0]
        one, other = (cache.features(key, frames[[i]]) for i, key in enumerate(["a/b", "../a"]))
        assert np.abs(one - other).max() > 1e-3
        assert len(list(cache.folder.iterdir())) == 2

    def test_other_weights_have_another_folder(self, cache, tmp_path):
        frames = clips()[:, 0]
        before = cache.features("a", frames)
        other = frame_encoder()
        other.set_weights([2 * w for w in cache.frame_encoder.get_weights()])
        second = FeatureCache(tmp_path / "cache", other)
        assert second.folder != cache.folder
        assert np.abs(second.features("a", frames) - before).max() > 1e-3

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: data[:-1],
            lambda data: data[:200],
            lambda data: data[:5],
            lambda data: b"",
            lambda data: data + b"\0",
            lambda data: data[:300] + bytes([data[300] ^ 1]) + data[301:],
            lambda data: data[:-1] + bytes([data[-1] ^ 1]),
            lambda data: data.replace(b"<f4", b"<i4"),
            lambda data: data.replace(b"(9, 36)", b"(36, 9)"),
            lambda data: data.replace(b"False", b"True "),  # of the order of the numbers
            lambda data: data.replace(b"NUMPY", b"PICKL"),
        ],
    )
    def test_a_damaged_file_is_made_anew(self, damage, cache, tmp_path):
        source = Counted(clips(9)[:, 0])
        expected = np.array(cache.features("a", source))
        (file,) = cache.folder.iterdir()
        whole = file.read_bytes()
        file.write_bytes(damage(whole))
        assert file.read_bytes() != whole
        again = FeatureCache(tmp_path / "cache", cache.frame_encoder, batch_size=4)
        np.testing.assert_array_equal(again.features("a", source), expected)
        assert source.times == 2
        assert file.read_bytes() == whole

    def test_another_number_of_frames_is_encoded_anew(self, cache):
        frames = clips(5)[:, 0]
        cache.features("a", frames)
        assert len(cache.features("a", frames[:3])) == 3

    def test_an_interrupted_write_leaves_nothing(self, cache):
        def interrupt(done, total):
            raise KeyboardInterrupt

        frames = clips(9)[:, 0]
        with pytest.raises(KeyboardInterrupt):
            cache.features("a", frames, progress=interrupt)
        assert list(cache.folder.iterdir()) == []
        assert len(cache.features("a", frames)) == 9

    def test_a_disk_that_gives_back_something_else(self, cache, monkeypatch):
        monkeypatch.setattr(
            "keras_cnnlstm.training.feature_cache._stored_checksum", lambda path: b""
        )
        with pytest.raises(OSError, match=r"FeatureCache: .*\.npy cannot be read back"):
            cache.features("a", clips()[:, 0])

    def test_threads_that_ask_for_the_same(self, cache):
        source = Counted(clips(9)[:, 0])
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: cache.features("a", source), range(8)))
        assert source.times == 1
        for features in results:
            np.testing.assert_array_equal(features, results[0])

    def test_images(self, cache):
        images = clips(5)[:, 0]
        features = encode_images(cache, images)
        assert features.shape == (5, 36)
        np.testing.assert_array_equal(features, cache.features(frames_key(images), Counted(None)))

    @pytest.mark.parametrize(
        "frames",
        [
            clips()[:, 0] / np.float32(255),
            clips()[:, 0, :7],
            clips(),
            clips()[:0, 0],
        ],
    )
    def test_frames_that_do_not_fit(self, frames, cache):
        with pytest.raises(ValueError, match=r"must be uint8 of shape \(n, 8, 8, 1\).*recei"):
            cache.features("a", frames)

    def test_batch_size(self, cache, tmp_path):
        with pytest.raises(ValueError, match=r"`batch_size` must be an integer from 1"):
            FeatureCache(tmp_path, cache.frame_encoder, batch_size=0)


class TestFrozen:
    def test_weights_that_can_be_trained(self, tmp_path):
        free = encoder()
        assert unfreeze(free, 1) == ["shortcut"]
        message = r"must be frozen.*its layers shortcut\. Freeze it: encoder.trainable = False"
        for wrap in ("layer", "encoder"):
            with pytest.raises(ValueError, match=message):
                FeatureCache(tmp_path, frame_encoder(encoder=free, wrap=wrap))

    def test_statistics_that_move_without_a_weight_to_train(self, tmp_path):
        norm = layers.BatchNormalization(center=False, scale=False, name="plain")
        free = keras.Sequential([norm, layers.Flatten()])
        with pytest.raises(ValueError, match=r"would change its layers plain\."):
            FeatureCache(tmp_path, frame_encoder(encoder=free))
        norm.trainable = False
        FeatureCache(tmp_path, frame_encoder(encoder=free))

    @pytest.mark.parametrize(
        "random", [layers.Dropout(0.5), layers.GaussianNoise(0.1), layers.RandomFlip()]
    )
    def test_layers_that_are_random_in_training(self, random, tmp_path):
        model = keras.Sequential([random, layers.Flatten()])
        message = rf"what it answers otherwise; its layers {random.name} are random then\. Leave"
        with pytest.raises(ValueError, match=message):
            FeatureCache(tmp_path, frame_encoder(encoder=model))

    def test_a_dropout_of_nothing_is_not_random(self, tmp_path):
        dropout = layers.Dropout(0.5)
        dropout.rate = 0
        frozen = frame_encoder(encoder=keras.Sequential([dropout, layers.Flatten()]))
        FeatureCache(tmp_path, frozen)
