"""The layers against loops over frames and pixels, hand-computed values and Keras's own."""

import keras
import numpy as np
import pytest
from keras import layers
from oracles import assert_all_equal, numpy

from keras_cnnlstm.layers.averaging import GeometricMean
from keras_cnnlstm.layers.batch_normalization import BatchNormalization
from keras_cnnlstm.layers.conv2d import Conv2D
from keras_cnnlstm.layers.image_to_sequence import ImageToSequence
from keras_cnnlstm.layers.length_mask import LengthMask
from keras_cnnlstm.layers.lstm import LSTM
from keras_cnnlstm.layers.time_distributed import TimeDistributed

TENSORFLOW = keras.backend.backend() == "tensorflow"
POLICIES = ["float32", "mixed_bfloat16", "mixed_float16"]


def encoder():
    return keras.Sequential([layers.Conv2D(3, 3, activation="relu"), layers.Flatten()])


def branching():
    image = keras.Input((6, 6, 2))
    a, b = layers.Conv2D(2, 3, padding="same")(image), layers.AveragePooling2D(2)(image)
    return keras.Model(image, {"map": a, "mean": layers.GlobalAveragePooling2D()(b)})


WRAPPED = {
    "conv": lambda: layers.Conv2D(3, 3, strides=2),
    "pool": lambda: layers.MaxPooling2D(2),
    "flatten": layers.Flatten,
    "dense": lambda: layers.Dense(4),
    "float32 dense": lambda: layers.Dense(4, dtype="float32"),
    "nested": encoder,
    "two outputs": branching,
    "lstm inside": lambda: keras.Sequential([layers.Reshape((6, 12)), layers.LSTM(3)]),
}


def frames(batch=3, time=5, seed=0):
    return np.random.default_rng(seed).random((batch, time, 6, 6, 2), "float32")


@pytest.mark.parametrize("policy", POLICIES, indirect=True)
@pytest.mark.parametrize("time", [5, None])
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_equals_a_loop_over_frames(wrapped, time, policy):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((time, 6, 6, 2))
    layer = WRAPPED[wrapped]()
    model = keras.Model(inputs, TimeDistributed(layer)(inputs))
    x = frames()
    found = model(x)
    looped = [layer(x[:, t]) for t in range(5)]
    for part, *steps in zip(
        keras.tree.flatten(found), *map(keras.tree.flatten, looped), strict=True
    ):
        expected = np.stack([numpy(s) for s in steps], axis=1)
        # XLA and oneDNN may order the sums of a larger batch differently.
        tolerance = (
            1e-5 if "float32" in (policy, keras.backend.standardize_dtype(part.dtype)) else 2e-2
        )
        np.testing.assert_allclose(numpy(part), expected, rtol=tolerance, atol=tolerance)
    assert keras.tree.map_structure(lambda t: t.shape, model.output) == keras.tree.map_structure(
        lambda s: (None, time, *s.shape[1:]), looped[0]
    )


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_the_shape_told_before_is_that_of_the_answer(wrapped):
    layer = TimeDistributed(WRAPPED[wrapped]())
    answer = keras.tree.map_structure(lambda x: tuple(x.shape), layer(frames()))
    told = keras.tree.map_shape_structure(tuple, layer.compute_output_shape((3, 5, 6, 6, 2)))
    assert told == answer


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
def test_the_wrapped_layer_keeps_its_own_precision(policy):
    inputs = keras.Input((4, 8))
    head = TimeDistributed(layers.Dense(2, dtype="float32"))
    assert head(inputs).dtype == "float32"
    assert keras.backend.standardize_dtype(head(np.ones((1, 4, 8))).dtype) == "float32"
    stock = keras.layers.TimeDistributed(layers.Dense(2, dtype="float32"))
    assert keras.backend.standardize_dtype(stock(np.ones((1, 4, 8))).dtype) != "float32"


@pytest.mark.skipif(not TENSORFLOW, reason="the trace with an unknown T is TensorFlow's")
@pytest.mark.parametrize(("batch", "time"), [(1, 6), (3, 4), (4, 4), (6, 4), (4, 9)])
def test_right_when_time_is_unknown_in_the_graph_where_the_stock_layer_is_not(batch, time):
    import tensorflow as tf

    x = frames(batch, time)

    def traced(wrapper):
        layer = wrapper(layers.Flatten())
        layer.build((None, None, 6, 6, 2))
        return tf.function(layer, input_signature=[tf.TensorSpec((None, None, 6, 6, 2))])

    expected = x.reshape(batch, time, -1)
    np.testing.assert_array_equal(traced(TimeDistributed)(x), expected)
    if batch < time:  # frames after the batch size are dropped in silence
        assert traced(keras.layers.TimeDistributed)(x).shape == (batch, batch, 72)
    elif batch > time:
        with pytest.raises(tf.errors.InvalidArgumentError):
            traced(keras.layers.TimeDistributed)(x)


@pytest.mark.skipif(not TENSORFLOW, reason="counts the operations of a TensorFlow graph")
def test_the_graph_does_not_grow_with_time():
    import tensorflow as tf

    def operations(wrapper, time):
        layer = wrapper(encoder())
        layer.build((None, time, 6, 6, 2))
        call = tf.function(layer, input_signature=[tf.TensorSpec((None, time, 6, 6, 2))])
        return len(call.get_concrete_function().graph.get_operations())

    assert operations(TimeDistributed, 4) == operations(TimeDistributed, 40)
    assert operations(keras.layers.TimeDistributed, 40) > operations(
        keras.layers.TimeDistributed, 4
    )


def test_activity_regulariser_counts():
    layer = TimeDistributed(layers.Dense(1, use_bias=False, activity_regularizer="l1"))
    layer.layer.kernel_initializer = keras.initializers.Ones()
    layer(np.ones((2, 3, 4), "float32"))
    # L1 at 0.01 of six outputs of 4, divided by the folded batch of six frames.
    np.testing.assert_allclose(numpy(layer.losses[0]), 0.01 * 4, rtol=1e-6)


def test_batch_normalisation_over_all_frames_at_once():
    x = np.arange(12, dtype="float32").reshape(2, 3, 2)
    layer = TimeDistributed(layers.BatchNormalization(momentum=0.9))
    y = numpy(layer(x, training=True))
    flat = x.reshape(6, 2)
    expected = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-3)
    np.testing.assert_allclose(y.reshape(6, 2), expected, rtol=1e-4, atol=1e-5)
    # One update of the moving averages, from 0, for the whole batch.
    np.testing.assert_allclose(numpy(layer.layer.moving_mean), 0.1 * flat.mean(0), rtol=1e-5)


def test_a_mask_keeps_padded_frames_out_of_batch_normalisation():
    x = frames(2, 3)
    mask = np.array([[True, True, False], [True, False, False]])
    padded = np.where(mask[..., None, None, None], x, 1e3).astype("float32")
    layer = TimeDistributed(layers.BatchNormalization(momentum=0.0))
    layer(padded, mask=mask, training=True)
    np.testing.assert_allclose(
        numpy(layer.layer.moving_mean), x[mask].mean(axis=(0, 1, 2)), rtol=1e-5
    )


def test_a_softmax_of_each_step_is_that_of_its_classes():
    x = np.random.default_rng(0).random((2, 3, 4), "float32")
    mask = np.array([[True, True, False], [True, False, False]])
    found = TimeDistributed(layers.Softmax())(x, mask=mask)
    expected = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    np.testing.assert_allclose(numpy(found)[mask], expected[mask], rtol=1e-6)


def test_a_mask_of_the_frames_own_positions_is_folded_too():
    x = np.random.default_rng(0).random((2, 3, 4, 5), "float32")  # sequences of sequences
    mask = np.arange(4) < np.array([[4, 2, 1], [3, 3, 4]])[..., None]  # (2, 3, 4)
    inner = layers.LSTM(2)
    y = numpy(TimeDistributed(inner)(x, mask=mask))
    for b, t in np.ndindex(2, 3):
        alone = inner(x[b, t, mask[b, t]][None])
        np.testing.assert_allclose(y[b, t], numpy(alone)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(2,), (2, 4), (3, 3), (2, 3, 6, 6, 2)])
def test_a_mask_that_does_not_fit(shape):
    layer = TimeDistributed(layers.BatchNormalization())
    with pytest.raises(ValueError, match=r"`mask` must have shape \(B, T\).*received a mask"):
        layer(frames(2, 3), mask=np.ones(shape, bool))


def test_inputs_without_a_time_axis():
    with pytest.raises(ValueError, match="at least 3 dimensions"):
        TimeDistributed(layers.Dense(1))(np.ones((2, 3), "float32"))


def test_no_layer():
    with pytest.raises(ValueError, match=r"`keras\.layers\.Layer` instance"):
        TimeDistributed("conv")


class TestLSTM:
    """The layer that projects all steps at once, against Keras's own with the same weights."""

    def pair(self, unroll=True, **options):
        stock = layers.LSTM(5, **options)
        ours = LSTM(5, unroll=unroll, **options)
        for layer in (stock, ours):
            layer.build((None, 4, 3))
        rng = np.random.default_rng(0)
        stock.set_weights([rng.normal(0, 1, w.shape) for w in stock.get_weights()])
        ours.set_weights(stock.get_weights())
        return stock, ours

    def sequences(self, seed=1):
        return np.random.default_rng(seed).normal(0, 1, (6, 4, 3)).astype("float32")

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"return_sequences": True},
            {"return_state": True, "return_sequences": True},
            {"go_backwards": True, "return_sequences": True},
            {"use_bias": False},
            {"activation": "relu", "recurrent_activation": "hard_sigmoid"},
        ],
    )
    @pytest.mark.parametrize("unroll", [True, False])
    def test_equals_the_stock_layer(self, unroll, options):
        stock, ours = self.pair(unroll, **options)
        x = self.sequences()
        for a, b in zip(keras.tree.flatten(ours(x)), keras.tree.flatten(stock(x)), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(numpy(a), numpy(b), rtol=1e-5, atol=1e-6)

    def test_a_given_initial_state_and_a_mask(self):
        stock, ours = self.pair()
        x, state = self.sequences(), [np.full((6, 5), v, "float32") for v in (0.3, -0.2)]
        np.testing.assert_allclose(
            numpy(ours(x, initial_state=state)), numpy(stock(x, initial_state=state)), atol=1e-6
        )
        mask = np.arange(4) < np.array([4, 1, 2, 3, 4, 1])[:, None]
        padded = np.where(mask[..., None], x, 1e3).astype("float32")
        np.testing.assert_allclose(
            numpy(ours(padded, mask=mask)), numpy(stock(x, mask=mask)), atol=1e-6
        )

    @pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"], indirect=True)
    @pytest.mark.parametrize("go_backwards", [False, True])
    @pytest.mark.parametrize("zero_output_for_mask", [False, True])
    @pytest.mark.parametrize("unroll", [True, False])
    def test_masked_steps_equal_those_of_the_stock_layer_rolled(
        self, unroll, zero_output_for_mask, go_backwards, policy
    ):
        stock, ours = self.pair(
            unroll, go_backwards=go_backwards, zero_output_for_mask=zero_output_for_mask,
            return_sequences=True, return_state=True,
        )  # fmt: skip
        mask = np.arange(4) < np.array([4, 1, 2, 3, 4, 1])[:, None]
        tolerance = 1e-6 if policy == "float32" else 2e-2
        found, expected = (layer(self.sequences(), mask=mask) for layer in (ours, stock))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(numpy(a), numpy(b), rtol=tolerance, atol=tolerance)

    def test_reads_padding_backwards_right_where_the_stock_layer_does_not(self):
        stock, _ = self.pair(return_sequences=True)
        x, mask = self.sequences(), np.arange(4) < np.array([4, 1, 2, 3, 4, 1])[:, None]

        def both(kind, unroll):
            layer = layers.Bidirectional(kind(5, return_sequences=True, unroll=unroll))
            layer.build((None, 4, 3))
            layer.set_weights(stock.get_weights() * 2)
            return numpy(layer(x, mask=mask))[mask]

        rolled = both(layers.LSTM, False)
        np.testing.assert_allclose(both(LSTM, True), rolled, atol=1e-6)
        if TENSORFLOW:
            assert np.abs(both(layers.LSTM, True) - rolled).max() > 0.1

    @pytest.mark.parametrize("dropout", ["dropout", "recurrent_dropout"])
    def test_dropout_is_the_stock_layer_s(self, dropout):
        _, ours = self.pair(**{dropout: 0.5})
        x = self.sequences()
        np.testing.assert_array_equal(numpy(ours(x)), numpy(ours(x)))
        assert np.abs(numpy(ours(x, training=True)) - numpy(ours(x))).max() > 1e-2

    @pytest.mark.parametrize("unroll", [True, False])
    def test_same_training_as_the_stock_layer(self, unroll):
        def trained(layer):
            model = keras.Sequential([keras.Input((4, 3)), layer, layers.Dense(1, "sigmoid")])
            model.layers[-1].set_weights([np.full((5, 1), 0.5), np.zeros(1)])
            model.compile(keras.optimizers.SGD(0.5), "mse")
            for seed in range(5):
                model.train_on_batch(self.sequences(seed), np.arange(6) % 2)
            return layer.get_weights()

        assert_all_equal(*map(trained, self.pair(unroll)), rtol=1e-4, atol=1e-5)

    @pytest.mark.skipif(not TENSORFLOW, reason="elsewhere rolled loops are the stock layer's")
    def test_rolled_it_projects_before_the_loop(self, monkeypatch):
        _, ours = self.pair(unroll=False)
        widths = []
        step = LSTM.step
        monkeypatch.setattr(
            LSTM, "step", lambda self, x, *rest: widths.append(x.shape[-1]) or step(self, x, *rest)
        )
        ours(self.sequences())
        assert set(widths) == {4 * 5}
        monkeypatch.setattr(keras.distribution, "list_devices", lambda kind: ["gpu:0"])
        widths.clear()
        ours(self.sequences())  # Keras, which asks for itself, finds no cuDNN
        assert not widths

    def test_bidirectional_and_saving(self, reloaded):
        inputs = keras.Input((4, 3))
        ours = layers.Bidirectional(LSTM(5, unroll=True, return_sequences=True))
        model = keras.Model(inputs, ours(inputs))
        stock = layers.Bidirectional(layers.LSTM(5, return_sequences=True))
        stock.build((None, 4, 3))
        stock.set_weights(model.get_weights())
        x = self.sequences()
        np.testing.assert_allclose(numpy(model(x)), numpy(stock(x)), atol=1e-6)
        loaded = reloaded(model)
        assert type(loaded.layers[-1].forward_layer) is LSTM
        np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))


def steps_by_hand(image, height, width):
    """The numbers of each step, for steps of this size, in the order in which one reads."""
    rows, columns, channels = image.shape
    return [
        [
            image[top + i, left + j, c]
            for i in range(height)
            for j in range(width)
            for c in range(channels)
        ]
        for top in range(0, rows, height)
        for left in range(0, columns, width)
    ]


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.LSTM(3),
        keras.layers.Bidirectional(keras.layers.GRU(3)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_go_over_the_positions_of_a_frame_make_numbers_of_padding(layer):
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype("float32")  # (B, T, L, C)
    wrapped = TimeDistributed(layer)
    y = np.asarray(wrapped(x, mask=np.array([[1, 1, 1, 1], [1, 0, 0, 0]], bool)))
    np.testing.assert_allclose(y, np.asarray(wrapped(x)), rtol=1e-6)  # finite, among other things


class TestImageToSequence:
    IMAGES = np.random.default_rng(0).random((2, 6, 4, 3), "float32")

    @pytest.mark.parametrize(
        ("by", "size", "step"),  # height and width of a step in images of 6x4 pixels
        [
            ("rows", 1, (1, 4)),
            ("rows", 3, (3, 4)),
            ("columns", 1, (6, 1)),
            ("columns", 2, (6, 2)),
            ("patches", 1, (1, 1)),
            ("patches", 2, (2, 2)),
            ("patches", (3, 2), (3, 2)),
            ("patches", [2, 4], (2, 4)),
        ],
    )
    def test_equals_loops_over_the_pixels(self, by, size, step):
        expected = np.array([steps_by_hand(image, *step) for image in self.IMAGES])
        layer = ImageToSequence(by, size)
        np.testing.assert_array_equal(numpy(layer(self.IMAGES)), expected)
        assert layer(keras.Input((6, 4, 3))).shape == (None, *expected.shape[1:])
        assert layer.compute_output_shape((2, 6, 4, 3)) == expected.shape
        assert layer.patch_shape((None, 6, 4, 3)) == step

    def test_the_steps_put_together_are_the_image(self):
        rows, columns, patches = (
            numpy(ImageToSequence(by, 2)(self.IMAGES)) for by in ("rows", "columns", "patches")
        )
        for b, image in enumerate(self.IMAGES):
            np.testing.assert_array_equal(np.vstack(rows[b].reshape(3, 2, 4, 3)), image)
            np.testing.assert_array_equal(np.hstack(columns[b].reshape(2, 6, 2, 3)), image)
            lines = patches[b].reshape(3, 2, 2, 2, 3)  # (lines, patches in a line, h, w, C)
            np.testing.assert_array_equal(np.vstack([np.hstack(line) for line in lines]), image)

    @pytest.mark.parametrize("policy", POLICIES, indirect=True)
    def test_raw_pixels_stay_whole_numbers(self, policy):
        images, layer = (255 * self.IMAGES).astype(np.uint8), ImageToSequence("columns")
        steps = keras.ops.convert_to_numpy(layer(images))
        assert steps.dtype == layer(keras.Input((6, 4, 3), dtype="uint8")).dtype == "uint8"
        np.testing.assert_array_equal(steps[:, 1, :3], images[:, 0, 1])
        floats = keras.backend.standardize_dtype(layer(self.IMAGES).dtype)
        assert floats == layer(keras.Input((6, 4, 3))).dtype == layer.compute_dtype

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("lines",), "`by` must be one of rows, columns, patches; received 'lines'"),
            (("rows", 0), "positive integer of pixels.*received 0 with by='rows'"),
            (("rows", -2), "received -2 with by='rows'"),
            (("columns", 1.5), "received 1.5 with by='columns'"),
            (("columns", (2, 2)), r"received \(2, 2\) with by='columns'"),
            (("patches", (2, 0)), r"received \(2, 0\) with by='patches'"),
            (("patches", (2, 2, 1)), r"received \(2, 2, 1\) with by='patches'"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=f"ImageToSequence: .*{message}"):
            ImageToSequence(*arguments)

    @pytest.mark.parametrize(
        ("arguments", "shape", "message"),
        [
            (("rows",), (6, 4), r"shape \(B, H, W, C\), all known but B; received \(None, 6, 4\)"),
            (("rows",), (None, 4, 1), r"all known but B; received \(None, None, 4, 1\)"),
            (("rows", 4), (6, 4, 1), "received steps of 4x4 for 6x4 pixels. Choose another size"),
            (("columns", 3), (6, 4, 1), "`size` must divide the image; received steps of 6x3"),
            (("patches", (2, 3)), (6, 4, 1), "received steps of 2x3 for 6x4 pixels"),
            (("patches", 8), (6, 4, 1), "received steps of 8x8 for 6x4 pixels"),
        ],
    )
    def test_images_that_do_not_divide(self, arguments, shape, message):
        with pytest.raises(ValueError, match=f"ImageToSequence: .*{message}"):
            ImageToSequence(*arguments)(keras.Input(shape))


class TestLengthMask:
    LENGTHS = np.array([1, 3, 5, 0])
    MASK = np.array([[1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)

    @pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
    def test_true_up_to_the_length(self, dtype):
        mask = LengthMask()(self.LENGTHS.astype(dtype), np.zeros((4, 5, 2), "float32"))
        assert keras.backend.standardize_dtype(mask.dtype) == "bool"
        np.testing.assert_array_equal(numpy(mask), self.MASK)

    @pytest.mark.parametrize("time", [5, None])
    def test_in_a_model_that_is_traced_and_saved(self, time, reloaded):
        lengths = keras.Input((), dtype="int32", name="lengths")
        sequences = keras.Input((time, 2), name="sequences")
        mask = LengthMask(name="mask")(lengths, sequences)
        assert (mask.shape, mask.dtype) == ((None, time), "bool")
        model = keras.Model([lengths, sequences], mask)
        loaded = reloaded(model)
        for steps in (5,) if time else (5, 3, 7):
            data = [self.LENGTHS, np.zeros((4, steps, 2))]
            expected = np.pad(self.MASK, ((0, 0), (0, 2)))[:, :steps]
            np.testing.assert_array_equal(model.predict(data, verbose=0), expected)
            np.testing.assert_array_equal(loaded.predict(data, verbose=0), expected)


class TestGeometricMean:
    GIVEN = np.array([[[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]], [[0.3, 0.3, 0.4], [0.2, 0.8, 0.0]]])

    def test_it_is_the_root_of_the_product_normalised(self):
        product = np.sqrt(self.GIVEN[0, 0] * self.GIVEN[1, 0])
        mean = numpy(GeometricMean()(list(self.GIVEN.astype("float32"))))  # (2, 3)
        np.testing.assert_allclose(mean[0], product / product.sum(), atol=1e-6)
        # What one thinks impossible and another likely stays possible.
        np.testing.assert_allclose(mean[1], [0.99994, 0.00006, 0.0], atol=1e-5)

    def test_of_one_it_is_that_one(self):
        mean = numpy(GeometricMean()([self.GIVEN[0].astype("float32")]))
        np.testing.assert_allclose(mean, self.GIVEN[0], atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        (lambda: TimeDistributed(encoder()), [(None, 6, 6, 2)]),
        (lambda: ImageToSequence("columns", 2), [(6, 4, 3)]),
        (lambda: ImageToSequence("patches", (3, 2)), [(6, 4, 3)]),
        (lambda: GeometricMean(), [(3,), (3,)]),
        (lambda: Conv2D(2, 3, activation="relu"), [(6, 4, 3)]),
        (lambda: BatchNormalization(momentum=0.7), [(6, 4, 3)]),
    ],
    ids=["TimeDistributed", "columns", "patches", "GeometricMean", "Conv2D", "BatchNormalization"],
)
def test_survives_saving(layer, shapes, reloaded):
    inputs, layer = [keras.Input(shape) for shape in shapes], layer()
    model = keras.Model(inputs, layer(inputs if len(inputs) > 1 else inputs[0]))
    loaded = reloaded(model)
    assert type(loaded.layers[-1]) is type(layer)
    ours, theirs = (each.get_config() for each in (layer, loaded.layers[-1]))
    assert {**theirs, "layer": None} == {**ours, "layer": None}
    rng = np.random.default_rng(0)
    given = [rng.random((2, *(size or 5 for size in shape)), "float32") for shape in shapes]
    np.testing.assert_array_equal(numpy(loaded(given)), numpy(model(given)))
