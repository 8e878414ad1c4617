"""The layers of encoders, against NumPy and Keras's own."""

import keras
import numpy as np
import pytest
from keras import layers
from oracles import assert_all_equal, numpy

from keras_cnnlstm.layers.batch_normalization import BatchNormalization
from keras_cnnlstm.layers.conv2d import Conv2D
from keras_cnnlstm.layers.residual_block import ResidualBlock
from keras_cnnlstm.models.encoders import conv_pool

TENSORFLOW = keras.backend.backend() == "tensorflow"
POLICIES = ["float32", "mixed_bfloat16", "mixed_float16"]


def block_by_hand(block, x):
    """A block's answer in float64, its convolutions as sums over their taps."""
    weights = {w.path.split("/", 1)[1]: numpy(w).astype(float) for w in block.weights}

    def conv(x, name, strides):
        kernel = weights[f"{name}/kernel"]
        size, (height, width) = len(kernel), x.shape[1:3]
        rows, columns = -(-height // strides), -(-width // strides)
        # TensorFlow's "same": as much padding as the last step needs, the odd line of it behind.
        pads = [
            divmod(max((n - 1) * strides + size - side, 0), 2)
            for n, side in ((rows, height), (columns, width))
        ]
        x = np.pad(x, [(0, 0), *((half, half + odd) for half, odd in pads), (0, 0)])
        return sum(
            x[:, i : i + rows * strides : strides, j : j + columns * strides : strides][
                :, :rows, :columns
            ]
            @ kernel[i, j]
            for i in range(size)
            for j in range(size)
        )

    def norm(x, name):
        gamma, beta, mean, variance = (
            weights[f"{name}/{part}"]
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta

    y = np.maximum(norm(conv(x, "conv1", block.strides), "norm1"), 0)
    y = norm(conv(y, "conv2", 1), "norm2")
    shortcut = conv(x, "shortcut", block.strides) if "shortcut/kernel" in weights else x
    return np.maximum(y + shortcut, 0)


class TestResidualBlock:
    def images(self, height=7, width=6, channels=3, batch=5):
        rng = np.random.default_rng(0)
        return rng.normal(0, 1, (batch, height, width, channels)).astype("float32")

    def trained(self, filters, strides, x):
        """A block whose every weight, averages included, is some random number."""
        block, rng = ResidualBlock(filters, strides), np.random.default_rng(1)
        block.build(x.shape)
        for weight in block.weights:
            low = 0.5 if "variance" in weight.path or "gamma" in weight.path else -0.5
            weight.assign(rng.uniform(low, 1, weight.shape))
        return block

    @pytest.mark.parametrize("sides", [(8, 6), (7, 6), (9, 5), (29, 31), (1, 2)])
    @pytest.mark.parametrize(("filters", "strides"), [(3, 1), (5, 1), (5, 2), (3, 2)])
    def test_equals_the_sums_by_hand(self, filters, strides, sides):
        x = self.images(*sides, batch=2)
        block = self.trained(filters, strides, x)
        found, expected = numpy(block(x)), block_by_hand(block, x.astype(float))
        assert found.shape == expected.shape == block.compute_output_shape(x.shape)
        assert (block.shortcut is None) == (filters == 3 and strides == 1)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        assert 0.05 < (expected > 0).mean() <= 1

    @pytest.mark.parametrize(("filters", "strides"), [(3, 1), (5, 1), (5, 2)])
    def test_equals_pytorch(self, filters, strides):
        torch = pytest.importorskip("torch")
        x = self.images(7, 9)  # odd: there the two pad a strided convolution alike
        block = self.trained(filters, strides, x)
        weights = {w.path.split("/", 1)[1]: torch.tensor(numpy(w)) for w in block.weights}

        def conv(x, name, strides, padding):
            kernel = weights[f"{name}/kernel"].permute(3, 2, 0, 1)
            return torch.conv2d(x, kernel, stride=strides, padding=padding)

        def norm(x, name):
            parts = ("moving_mean", "moving_variance", "gamma", "beta")
            values = [weights[f"{name}/{part}"] for part in parts]
            return torch.nn.functional.batch_norm(x, *values, eps=1e-3)

        images = torch.tensor(x).permute(0, 3, 1, 2)
        y = norm(conv(images, "conv1", strides, 1), "norm1").relu()
        y = norm(conv(y, "conv2", 1, 1), "norm2")
        if block.shortcut:
            images = conv(images, "shortcut", strides, 0)
        expected = (y + images).relu().permute(0, 2, 3, 1)
        np.testing.assert_allclose(numpy(block(x)), expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("strides", [1, 2])
    def test_unknown_sides_are_taken_as_they_come(self, strides):
        inputs = keras.Input((None, None, 3))
        model = keras.Model(inputs, ResidualBlock(4, strides)(inputs))
        assert model.output_shape == (None, None, None, 4)
        for sides in ((6, 6), (7, 5)):
            assert model(self.images(*sides)).shape[1:3] == tuple(-(-s // strides) for s in sides)

    @pytest.mark.parametrize("policy", POLICIES, indirect=True)
    def test_computes_in_the_policy_s_precision_and_saves_and_loads_equal(self, policy, reloaded):
        inputs = keras.Input((7, 6, 3))
        model = keras.Model(inputs, ResidualBlock(4, 2, name="block")(inputs))
        x = self.images()
        model(x, training=True)  # moves the averages
        y = model(x)
        assert keras.backend.standardize_dtype(y.dtype) == policy.removeprefix("mixed_")
        assert {w.dtype for w in model.weights} == {"float32"}
        loaded = reloaded(model)
        assert type(loaded.get_layer("block")) is ResidualBlock
        assert loaded.get_layer("block").get_config() == model.get_layer("block").get_config()
        np.testing.assert_array_equal(numpy(loaded(x)), numpy(y))

    def test_a_precision_of_its_own_reaches_every_part(self):
        block = ResidualBlock(4, 2, dtype="mixed_bfloat16")
        assert keras.backend.standardize_dtype(block(self.images()).dtype) == "bfloat16"
        parts = (block.conv1, block.norm1, block.conv2, block.norm2, block.shortcut)
        assert {part.dtype_policy.name for part in parts} == {"mixed_bfloat16"}

    def test_in_training_by_the_statistics_of_the_batch_which_move_the_averages_once(self):
        x, block = self.images(), ResidualBlock(3)
        y = numpy(block(x, training=True))
        assert np.abs(y - numpy(block(x))).max() > 1e-2
        maps = numpy(block.conv1(x)).reshape(-1, 3)
        np.testing.assert_allclose(numpy(block.norm1.moving_mean), 0.1 * maps.mean(0), atol=1e-5)
        np.testing.assert_allclose(
            numpy(block.norm1.moving_variance),
            0.9 + 0.1 * maps.var(0),
            rtol=1e-4,
        )

    @pytest.mark.parametrize("strides", [1, 2])
    def test_a_mask_leaves_images_of_padding_out_of_the_statistics(self, strides):
        x, counts = self.images(), np.array([True, False, True, True, False])
        padded = np.where(counts[:, None, None, None], x, 1e3).astype("float32")
        mask = np.broadcast_to(counts[:, None, None], x.shape[:-1])
        masked, alone = ResidualBlock(4, strides), ResidualBlock(4, strides)
        alone.build(x.shape)
        masked.build(x.shape)
        masked.set_weights(alone.get_weights())
        found = numpy(masked(padded, training=True, mask=mask))[counts]
        np.testing.assert_allclose(found, numpy(alone(x[counts], training=True)), atol=1e-5)
        assert_all_equal(masked.get_weights(), alone.get_weights(), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(("strides", "sides"), [(1, (7, 6)), (2, (4, 3))])
    def test_the_mask_goes_on_in_the_size_of_the_answer(self, strides, sides):
        block, counts = ResidualBlock(4, strides), np.array([True, False])
        mask = np.broadcast_to(counts[:, None, None], (2, 7, 6))
        after = block.compute_mask(None, mask)
        np.testing.assert_array_equal(after, np.broadcast_to(counts[:, None, None], (2, *sides)))
        assert block.compute_mask(None, None) is None

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [((0,), "received 0 and 1"), ((4, 3), "received 4 and 3"), ((4, 0), "received 4 and 0")],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=f"`filters` must be 1 or more.* 1 or 2; {message}"):
            ResidualBlock(*arguments)


class TestConv2D:
    """Against Keras's own layer, whose gradients are TensorFlow's."""

    @staticmethod
    def pair(filters=4, size=3, **options):
        pair = Conv2D(filters, size, **options), layers.Conv2D(filters, size, **options)
        rng = np.random.default_rng(1)
        for layer in pair:
            layer.build((None, 6, 5, 3))
        weights = [rng.normal(size=w.shape) for w in pair[0].weights]
        for layer in pair:
            layer.set_weights(weights)
        return pair

    @staticmethod
    def images(batch=7):
        return np.random.default_rng(0).normal(size=(batch, 6, 5, 3)).astype("float32")

    @staticmethod
    def gradients(layer, x, training=True):
        """By the input, the kernel and the bias, of a weighted sum of the answers; in a graph."""
        import tensorflow as tf

        maps = layer.compute_output_shape((None, *x.shape[1:]))[1:]
        towards = np.random.default_rng(2).normal(size=(len(x), *maps))

        @tf.function(input_signature=[tf.TensorSpec((None, *x.shape[1:]))])
        def found(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                answers = tf.cast(layer(x, **({"training": True} if training else {})), tf.float32)
                loss = tf.reduce_sum(answers * tf.constant(towards, tf.float32))
            return tape.gradient(loss, [x, *(w.value for w in layer.trainable_weights)])

        operations = {node.type for node in found.get_concrete_function().graph.get_operations()}
        return [numpy(part) for part in found(x)], operations

    @pytest.mark.parametrize("policy", POLICIES, indirect=True)
    @pytest.mark.parametrize("training", [True, False])
    def test_answers_are_those_of_the_stock_layer(self, policy, training):
        (ours, stock), x = self.pair(activation="relu"), self.images()
        y, expected = ours(x, training=training), stock(x)
        assert y.dtype == expected.dtype
        np.testing.assert_allclose(numpy(y), numpy(expected), rtol=1e-6, atol=1e-6)

    @pytest.mark.skipif(not TENSORFLOW, reason="of TensorFlow's gradients")
    @pytest.mark.parametrize(
        "options",
        [{}, {"strides": 2, "activation": "tanh"}, {"padding": "same", "size": (2, 5)},
         {"filters": 1}, {"use_bias": False}],
    )  # fmt: skip
    def test_gradients_are_those_of_the_stock_layer(self, options):
        (ours, stock), x = self.pair(**options), self.images()
        found, _ = self.gradients(ours, x)
        expected, _ = self.gradients(stock, x, training=False)
        assert len(found) == len(expected) == (2 if "use_bias" in options else 3)
        for mine, theirs in zip(found, expected, strict=True):
            assert np.abs(theirs).max() > 0.1
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)

    @pytest.mark.skipif(not TENSORFLOW, reason="of TensorFlow's operations")
    @pytest.mark.parametrize(
        ("policy", "options", "own"),
        [
            ("float32", {}, True),
            ("mixed_bfloat16", {}, False),
            ("float32", {"use_bias": False}, None),
            ("float32", {"data_format": "channels_first"}, None),
        ],
        indirect=["policy"],
    )
    def test_the_bias_s_gradient_is_a_product_where_that_is_faster(self, policy, options, own):
        layer = self.pair(**options)[0]
        assert layer._sums_by_product(True) is bool(own)
        assert not layer._sums_by_product(False)
        if own is not None:
            _, operations = self.gradients(layer, self.images())
            assert ("BiasAddGrad" in operations) is not own
            assert ("MatMul" in operations) is own

    def test_is_what_models_train_with(self):
        assert type(conv_pool((2,)).layers[0]) is Conv2D


class TestBatchNormalization:
    """Against Keras's own layer, which computes mean and variance by themselves."""

    @staticmethod
    def pair(**options):
        pair = BatchNormalization(**options), layers.BatchNormalization(momentum=0.9, **options)
        for layer in pair:
            layer.build((None, 5, 4, 3))
        weights = np.random.default_rng(1).uniform(0.5, 2, (4, 3)).astype("float32")
        for layer in pair:
            layer.set_weights(list(weights))
        return pair

    @staticmethod
    def images():
        return np.random.default_rng(0).normal(3, 2, (6, 5, 4, 3)).astype("float32")

    @pytest.mark.parametrize("policy", POLICIES, indirect=True)
    def test_answers_and_averages_are_those_of_the_stock_layer(self, policy):
        (ours, stock), x = self.pair(), self.images()
        tolerance = 1e-5 if policy == "float32" else 3e-2
        for training in (True, False):
            y, expected = numpy(ours(x, training=training)), numpy(stock(x, training=training))
            np.testing.assert_allclose(y, expected, atol=tolerance, rtol=tolerance)
        assert_all_equal(ours.get_weights(), stock.get_weights(), rtol=1e-5)

    @pytest.mark.parametrize(
        "floatx",
        [
            "float16",
            pytest.param(
                "float64",
                marks=pytest.mark.skipif(not TENSORFLOW, reason="JAX has float64 on demand only"),
            ),
        ],
    )
    def test_in_numbers_of_another_size(self, floatx):
        keras.config.set_floatx(floatx)
        try:
            (ours, stock), x = self.pair(dtype=floatx), self.images()
            y, expected = numpy(ours(x, training=True)), numpy(stock(x, training=True))
            assert ours.compute_dtype == stock.compute_dtype == floatx
            np.testing.assert_allclose(y, expected, atol=1e-2)
            assert_all_equal(ours.get_weights(), stock.get_weights(), rtol=1e-2)
        finally:
            keras.config.set_floatx("float32")

    @pytest.mark.skipif(not TENSORFLOW, reason="of the operation that TensorFlow has")
    def test_gradients_are_those_of_the_stock_layer(self):
        import tensorflow as tf

        x, found = tf.constant(self.images()), []
        towards = tf.constant(np.random.default_rng(2).normal(size=x.shape), tf.float32)
        for layer in self.pair():
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(layer(x, training=True) * towards)
            found.append(tape.gradient(loss, [x, layer.gamma.value, layer.beta.value]))
        assert_all_equal(*found, atol=1e-4)

    @pytest.mark.skipif(not TENSORFLOW, reason="of the operation that TensorFlow has")
    def test_in_training_it_is_one_operation(self):
        import tensorflow as tf

        def operations(synchronized=False, **call):
            layer = self.pair(synchronized=synchronized)[0]
            function = tf.function(lambda x: layer(x, **call)).get_concrete_function(
                tf.TensorSpec((None, 5, 4, 3))
            )
            return {operation.type for operation in function.graph.get_operations()}

        assert "FusedBatchNormV3" in operations(training=True)
        assert "FusedBatchNormV3" not in operations(training=False)
        # over all devices, which the operation knows nothing of
        assert "FusedBatchNormV3" not in operations(synchronized=True, training=True)

    @pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}, {"axis": 1}])
    def test_what_the_operation_cannot_do_is_left_to_the_stock_layer(self, options):
        ours, stock = BatchNormalization(**options), layers.BatchNormalization(**options)
        stock.momentum, x = 0.9, self.images()
        mask = np.ones(x.shape[:-1], bool)
        mask[2:] = False
        given = {} if options else {"mask": mask}
        y, expected = ours(x, training=True, **given), stock(x, training=True, **given)
        np.testing.assert_allclose(numpy(y), numpy(expected), atol=1e-5)
        assert_all_equal(ours.get_weights(), stock.get_weights(), rtol=1e-5)

    def test_frozen_it_answers_by_its_averages_and_keeps_them(self):
        (ours, _), x = self.pair(), self.images()
        ours.trainable = False
        before = ours.get_weights()
        np.testing.assert_array_equal(numpy(ours(x, training=True)), numpy(ours(x)))
        assert_all_equal(ours.get_weights(), before)
