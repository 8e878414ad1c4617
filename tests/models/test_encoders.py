"""Encoders: what a frame becomes, against NumPy; that places and tones are told apart."""

import re
from functools import partial

import keras
import numpy as np
import pytest
from scipy.ndimage import correlate

from keras_cnnlstm.models.encoders import (
    ENCODERS,
    conv1d,
    conv_pool,
    fewest_pixels,
    paired_cnn,
    residual_cnn,
    small_cnn,
    strided_cnn,
)

POLICIES = ["float32", "mixed_bfloat16", "mixed_float16"]
FRAMES = dict.fromkeys(ENCODERS, (28, 28, 1)) | {"conv1d": (400, 1)}


def numpy(x):
    return keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))


def frames(shape, batch=2):
    return np.random.default_rng(0).random((batch, *shape), "float32")


@pytest.mark.parametrize("name", ENCODERS)
class TestContract:
    SIZES = {  # noqa: RUF012
        "conv_pool": 3136, "small_cnn": 576, "residual_cnn": 96, "paired_cnn": 96,
        "strided_cnn": 128, "conv1d": 64,
    }  # fmt: skip

    def test_turns_frames_into_vectors(self, name):
        assert ENCODERS[name]()(frames(FRAMES[name])).shape == (2, self.SIZES[name])

    @pytest.mark.parametrize("policy", POLICIES, indirect=True)
    def test_in_every_precision_saves_and_loads_equal(self, name, policy, tmp_path):
        inputs, x = keras.Input(FRAMES[name]), frames(FRAMES[name])
        model = keras.Model(inputs, ENCODERS[name]()(inputs))
        model(x, training=True)
        y = model(x)
        assert keras.backend.standardize_dtype(y.dtype) == policy.removeprefix("mixed_")
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
        np.testing.assert_array_equal(numpy(loaded(x)), numpy(y))
        assert numpy(y).std(axis=0).max() > 1e-3  # not the same for each frame


class TestConvPool:
    def test_answers_and_gradients_are_those_of_relu_before_the_pooling(self):
        usual = keras.Sequential(
            [
                keras.layers.Conv2D(4, 3, padding="same", activation="relu"),
                keras.layers.MaxPooling2D(2),
                keras.layers.Conv2D(5, 3, padding="same", activation="relu"),
                keras.layers.MaxPooling2D(2),
                keras.layers.Flatten(),
            ]
        )
        x, target = frames((9, 8, 2), 6) - 0.5, frames((20,), 6)
        models = [conv_pool((4, 5)), usual]
        for model in models:
            model.build(x.shape)
        rng = np.random.default_rng(1)
        weights = [rng.normal(0, 0.5, w.shape) for w in models[0].get_weights()]
        for model in models:
            model.set_weights(weights)
            model.compile(keras.optimizers.SGD(0.1), "mse")
        ours, theirs = (model.predict_on_batch(x) for model in models)
        assert 0.1 < (ours == 0).mean() < 0.9  # ReLU has something to do
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
        for model in models:
            model.train_on_batch(x, target)
        for now, other, before in zip(*(m.get_weights() for m in models), weights, strict=True):
            assert np.abs(now - before).max() > 1e-4
            np.testing.assert_allclose(now, other, atol=1e-6)


class TestResidualCNN:
    @pytest.mark.parametrize(
        ("side", "pooling", "size"),
        [
            ((28, 28), "average", 12),
            ((28, 28), "flatten", 4 * 4 * 12),  # 28, 14 after the pooling, 7, 4
            ((29, 31), "average", 12),
            ((29, 31), "flatten", 4 * 4 * 12),  # 29x31, 14x15, 7x8, 4x4
            ((2, 2), "flatten", 12),
        ],
    )
    def test_sides_are_halved_and_rounded_up(self, side, pooling, size):
        encoder = residual_cnn((4, 8, 12), pooling=pooling)
        assert encoder(frames((*side, 3))).shape == (2, size)
        assert [layer.name for layer in encoder.layers] == [
            "conv1", "pool1", "norm1", "relu1", "block1", "block2", "block3",
            {"average": "pool", "flatten": "flatten"}[pooling],
        ]  # fmt: skip

    def moved(self, pooling):
        """How far apart the vectors of a dot here and of the same dot there are."""
        keras.utils.set_random_seed(0)
        x = np.zeros((2, 64, 64, 1), "float32")
        x[0, 25, 25] = x[1, 33, 33] = 1  # 8 pixels on: whole steps of the last maps
        here, there = numpy(residual_cnn((4, 8), pooling=pooling)(x))
        assert here.max() > 0
        return np.abs(here - there).max() / here.max()

    def test_flatten_tells_where_a_thing_is_and_average_does_not(self):
        assert self.moved("flatten") > 0.5
        assert self.moved("average") < 1e-5

    @pytest.mark.parametrize(
        ("filters", "pooling", "received"),
        [((), "average", r"\(\) and 'average'"), ((4,), "max", r"\(4,\) and 'max'")],
    )
    def test_bad_arguments(self, filters, pooling, received):
        with pytest.raises(ValueError, match=f"residual_cnn: `filters` must .*received {received}"):
            residual_cnn(filters, pooling=pooling)


def correlated(maps, kernel):
    """Maps (N, H, W, C) with black around them, correlated with a kernel; (N, H, W, filters)."""
    return np.stack(
        [
            sum(
                correlate(maps[..., c], kernel[None, :, :, c, f], mode="constant")
                for c in range(maps.shape[-1])
            )
            for f in range(kernel.shape[-1])
        ],
        axis=-1,
    )


def normalised(maps, layer):
    """What BatchNorm and ReLU make of maps or vectors."""
    gamma, beta, mean, var = map(numpy, layer.weights)
    return np.maximum(0, gamma * (maps - mean) / np.sqrt(var + 1e-3) + beta)


class TestPairedCNN:
    def test_equals_convolutions_of_scipy(self):
        """After one batch in training, by which scales and averages differ from the first ones."""
        x = frames((9, 7, 2))
        encoder = paired_cnn((3, 4))
        encoder(x, training=True)
        maps = x.astype(float)
        for i in (1, 2):
            for part in "ab":
                kernel = numpy(encoder.get_layer(f"conv{i}{part}").kernel)
                maps = correlated(maps, kernel)
                if (i, part) == (1, "b"):  # 9x7 -> 4x3, the odd line and column left out
                    maps = maps[:, :8, :6].reshape(2, 4, 2, 3, 2, -1).max((2, 4))
                maps = normalised(maps, encoder.get_layer(f"norm{i}{part}"))
        np.testing.assert_allclose(numpy(encoder(x)), maps.mean((1, 2)), atol=1e-5)

    def test_sizes_halve_between_pairs(self):
        encoder = paired_cnn((4, 8, 12))
        assert encoder(frames((28, 28, 1))).shape == (2, 12)
        sizes = [layer.output.shape[1] for layer in encoder.layers if "conv" in layer.name]
        assert sizes == [28, 28, 14, 14, 7, 7]

    @pytest.mark.parametrize("filters", [(), (0,), 3])
    def test_bad_arguments(self, filters):
        with pytest.raises(ValueError, match="paired_cnn: `filters` must be positive"):
            paired_cnn(filters)


class TestStridedCNN:
    def test_equals_convolutions_of_scipy(self):
        """After one batch in training, by which scales and averages differ from the first ones."""
        x = frames((14, 13, 2))
        encoder = strided_cnn((3, 4, 5), dropout=0.3)
        encoder(x, training=True)
        maps = x.astype(float)
        for i in (1, 2):
            for part in "abc":
                maps = correlated(maps, numpy(encoder.get_layer(f"conv{i}{part}").kernel))
                if part == "c":
                    # Every second place, the border of 3 or 4 pixels shared between both sides.
                    _, height, width, _ = maps.shape
                    maps = maps[:, (height + 1) % 2 :: 2, (width + 1) % 2 :: 2]
                else:
                    maps = maps[:, 1:-1, 1:-1]
                maps = normalised(maps, encoder.get_layer(f"norm{i}{part}"))
        assert maps.shape == (2, 1, 1, 4)
        vectors = maps.reshape(2, -1) @ numpy(encoder.get_layer("dense").kernel)
        expected = normalised(vectors, encoder.get_layer("norm"))
        np.testing.assert_allclose(numpy(encoder(x)), expected, atol=1e-5)

    def test_drops_behind_each_stage_in_training_alone(self):
        x = frames((28, 28, 1))
        assert not any(isinstance(layer, keras.layers.Dropout) for layer in strided_cnn().layers)
        encoder = strided_cnn((4, 4, 8), dropout=0.5)
        dropping = [layer.name for layer in encoder.layers if layer.name.endswith("_dropout")]
        assert dropping == ["conv1_dropout", "conv2_dropout"]
        np.testing.assert_array_equal(numpy(encoder(x)), numpy(encoder(x)))
        behind = keras.Sequential(encoder.layers[: 1 + encoder.layers.index(
            encoder.get_layer("conv1_dropout"))])  # fmt: skip
        kept, whole = numpy(behind(x, training=True)), numpy(behind(x))
        assert (kept == 0).mean() > (whole == 0).mean() + 0.1

    def test_a_last_layer_tells_where_a_thing_is(self):
        keras.utils.set_random_seed(0)
        x = np.zeros((2, 28, 28, 1), "float32")
        x[0, 10, 10] = x[1, 18, 18] = 1  # 8 pixels on: whole steps of the last maps
        here, there = numpy(strided_cnn((4, 8, 16))(x))
        assert np.abs(here - there).max() > 0.1 * here.max() > 0

    def test_bad_arguments(self):
        for filters in ((), (0,), 3):
            with pytest.raises(ValueError, match="strided_cnn: `filters` must be positive"):
                strided_cnn(filters)
        for dropout in (-0.1, 1, "0.5", None):
            with pytest.raises(ValueError, match=r"strided_cnn: `dropout` must be in .*received"):
                strided_cnn(dropout=dropout)


class TestFewestPixels:
    @pytest.mark.parametrize(
        ("encoder", "side"),
        [
            (conv_pool, 4),
            (paired_cnn, 4),
            (partial(conv_pool, (2,) * 5), 32),
            (partial(conv_pool, (2,) * 7), 128),
            (partial(strided_cnn, (6,)), 1),
            (partial(strided_cnn, (4, 6)), 5),
            (partial(strided_cnn, (4, 5, 6)), 13),
            (partial(strided_cnn, (4, 5, 3, 6)), 29),
        ],
    )
    def test_are_enough_and_fewer_are_not(self, encoder, side):
        assert fewest_pixels(encoder()) == side
        assert encoder()(frames((side, side + 3, 1))).shape[0] == 2
        if side > 1:
            with pytest.raises(ValueError, match="output size"):
                encoder()(frames((side + 3, side - 1, 1)))

    @pytest.mark.parametrize("encoder", [residual_cnn, small_cnn])
    def test_of_a_model_that_has_frames_already(self, encoder):
        built = encoder()
        built(frames((28, 28, 1)))
        assert fewest_pixels(built) == fewest_pixels(encoder())

    def test_bad_arguments(self):
        with pytest.raises(
            ValueError, match=r"fewest_pixels: `encoder` must be a keras\.Sequential"
        ):
            fewest_pixels("strided_cnn")
        with pytest.raises(
            ValueError, match=r"`encoder` must take frames .* 'conv1d', which takes"
        ):
            fewest_pixels(conv1d())


def lines_by_hand(weights, lines, pool_size, pooling):
    """Conv-ReLU-MaxPool over each line in NumPy, one output at a time."""
    vectors = []
    for x in lines.astype(float):
        for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
            size, half = len(kernel), (len(kernel) - 1) // 2
            padded = np.pad(x, ((half, size - 1 - half), (0, 0)))
            maps = [
                np.tensordot(padded[i : i + size], kernel, ((0, 1), (0, 1))) for i in range(len(x))
            ]
            x = np.maximum(0, np.array(maps) + bias)
            # "same" pooling: what is missing to whole steps is left out on both sides, most behind.
            missing = -len(x) % pool_size
            first = pool_size - missing // 2
            edges = range(first, len(x), pool_size)
            x = np.array([part.max(axis=0) for part in np.split(x, edges)])
        vectors.append(x.max(axis=0) if pooling == "max" else x.ravel())
    return np.array(vectors)


class TestConv1D:
    @pytest.mark.parametrize("pooling", ["max", "flatten"])
    @pytest.mark.parametrize(
        ("length", "kernel_size", "pool_size"), [(16, 3, 2), (15, 5, 2), (17, 4, 3), (3, 5, 4)]
    )
    def test_equals_loops_in_numpy(self, length, kernel_size, pool_size, pooling):
        encoder = conv1d((4, 3), kernel_size, pool_size=pool_size, pooling=pooling)
        x = frames((length, 2), 3) - 0.5
        encoder.build(x.shape)
        rng = np.random.default_rng(1)
        weights = [rng.normal(0, 0.5, w.shape) for w in encoder.get_weights()]
        encoder.set_weights(weights)
        found, expected = numpy(encoder(x)), lines_by_hand(weights, x, pool_size, pooling)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert (expected > 0).mean() > 0.2

    def test_takes_no_mask_that_would_be_divided_by(self):
        assert not any(layer.supports_masking for layer in conv1d().layers)

    @pytest.mark.parametrize(
        ("arguments", "options"),
        [
            (((),), {}),
            (((4, 0),), {}),
            (((4,), 0), {}),
            (((4,),), {"pool_size": 0}),
            (((4,),), {"pooling": "average"}),
        ],
    )
    def test_bad_arguments(self, arguments, options):
        received = {"pool_size": 2, "pooling": "max"} | options
        values = f"{received['pool_size']} and {received['pooling']!r}."
        message = "conv1d: `filters` must have one entry or more, all sizes must be positive"
        with pytest.raises(ValueError, match=f"{message}.*received .*{re.escape(values)}$"):
            conv1d(*arguments, **options)
