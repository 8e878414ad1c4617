"""The contract that every entry of `MODELS` keeps, and NumPy oracles for the reference."""

import re
from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import layers
from oracles import assert_all_equal, lstm, predict, softmax
from scipy.signal import correlate2d

from keras_cnnlstm.layers.time_distributed import TimeDistributed
from keras_cnnlstm.models.baselines import early_fusion_cnn, flat_mlp
from keras_cnnlstm.models.blocks import reset_states, state_names
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.encoders import ENCODERS, conv1d, conv_pool, residual_cnn, strided_cnn
from keras_cnnlstm.models.registry import MODELS
from keras_cnnlstm.models.streaming import Stream
from keras_cnnlstm.tasks.metrics import read_text

POLICIES = ["float32", "mixed_bfloat16", "mixed_float16"]
SMALL = (3, 8, 8, 1)  # (T, H, W, C)


class Entry(NamedTuple):
    """What an entry of `MODELS` takes and answers, and what it is to learn by heart."""

    axes: str  # of its input
    shape: tuple  # of its input, by default
    answer: tuple  # shape of the answer, by default
    small: tuple  # an input shape that is quick
    options: dict  # and others
    loss: Any = "sparse_categorical_crossentropy"
    targets: Any = np.arange(8) % 3
    read: Callable = partial(np.argmax, axis=-1)  # answer -> targets


SEQUENCES = partial(Entry, "T, H, W, C", (4, 28, 28, 1), (7,), SMALL)
IMAGES = partial(Entry, "H, W, C", (28, 28, 1), (10,), (8, 8, 1))
TEXTS = np.array([[1, 2], [2, 1], [3, 0], [1, 1], [3, 2], [2, 0], [1, 3], [3, 3]])
ENTRIES = {
    "cnn_lstm": SEQUENCES({"lstm_units": (32,)}),
    "bag_of_frames": SEQUENCES({}),
    "flat_mlp": SEQUENCES({"units": (32,)}),
    "early_fusion_cnn": SEQUENCES({"units": (32,)}),
    "image_cnn": IMAGES({"encoder": "small_cnn"}),
    "scan_lstm": IMAGES({"lstm_units": (16, 16)}),
    "renet": IMAGES({"lstm_units": (8,), "dense_units": (32,)}),
    "crnn": Entry(
        "H, W, C", (28, 112, 1), (28, 11), (8, 24, 1), {"filters": (8, 16), "lstm_units": (32,)},
        loss=keras.losses.CTC(), targets=TEXTS,
        read=lambda y: keras.ops.convert_to_numpy(read_text(y))[:, :2] + 1,
    ),
}  # fmt: skip


def batch(shape=SMALL, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, *shape), np.uint8)


@pytest.mark.parametrize(("name", "entry"), [(name, ENTRIES[name]) for name in MODELS])
class TestContract:
    def test_builds_with_the_reference_shape(self, name, entry):
        model = MODELS[name]()
        assert model.input_shape == (None, *entry.shape)
        assert model.output_shape == (None, *entry.answer)
        assert [i.name for i in model.inputs] == ["frames"]
        assert model.inputs[0].dtype == "uint8"
        assert model.name == name

    @pytest.mark.parametrize("policy", POLICIES, indirect=True)
    def test_answers_in_float32_and_differently_to_different_frames(self, name, entry, policy):
        model = MODELS[name](entry.small, 5, **entry.options)
        y = model(batch(entry.small))
        assert keras.backend.standardize_dtype(y.dtype) == model.outputs[0].dtype == "float32"
        y = keras.ops.convert_to_numpy(y)
        assert y.shape == (8, *model.output_shape[1:])
        assert y.std(axis=0).max() > 1e-4
        if model.output_names == ["probabilities"]:
            np.testing.assert_allclose(y.sum(axis=-1), 1, rtol=1e-5)
            assert y.shape == (8, 5)

    @pytest.mark.parametrize(
        "policy",
        ["float32", *(pytest.param(p, marks=pytest.mark.slow) for p in POLICIES[1:])],
        indirect=True,
    )
    def test_learns_one_batch_by_heart(self, name, entry, policy):
        model = MODELS[name](entry.small, 3, **entry.options)
        model.compile(keras.optimizers.Adam(1e-2), entry.loss)
        x = batch(entry.small)
        for step in range(300):  # most need 20, texts 100
            model.train_on_batch(x, entry.targets)
            if step % 10 == 9 and np.array_equal(entry.read(predict(model, x)), entry.targets):
                return
        np.testing.assert_array_equal(entry.read(predict(model, x)), entry.targets)

    @pytest.mark.parametrize("policy", POLICIES, indirect=True)
    def test_saves_and_loads_equal(self, name, entry, policy, reloaded):
        model = MODELS[name](entry.small, 3, dropout=0.2, **entry.options)
        loaded = reloaded(model)
        x = batch(entry.small)
        np.testing.assert_array_equal(predict(loaded, x), predict(model, x))

    def test_dropout_acts_in_training_only(self, name, entry):
        model, x = MODELS[name](entry.small, 3, dropout=0.5, **entry.options), batch(entry.small)
        np.testing.assert_array_equal(predict(model, x), predict(model, x))
        trained = keras.ops.convert_to_numpy(model(x, training=True))
        assert np.abs(trained - predict(model, x)).max() > 1e-4

    def test_a_shape_that_cannot_be(self, name, entry):
        *rest, channels = entry.shape
        for shape in (tuple(rest), (*rest[:-1], None, channels), (*rest[:-1], 0, channels)):
            message = rf"{name}: `input_shape` must be \({entry.axes}\), positive.*received "
            with pytest.raises(ValueError, match=message + re.escape(f"{shape}. Grey images")):
                MODELS[name](shape)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_classes": 1}, "`num_classes` must be an integer from 2"),
            ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\); received 1.0"),
        ],
    )
    def test_bad_arguments(self, name, entry, arguments, message):
        with pytest.raises(ValueError, match=f"{name}: .*{message}"):
            MODELS[name](**arguments)


def test_reference_parameters():
    assert cnn_lstm().count_params() == 1_691_399
    assert [layer.name for layer in cnn_lstm().layers] == [
        "frames", "rescale", "conv1", "pool1", "relu1", "conv2", "pool2", "relu2", "flatten",
        "lstm1", "probabilities",
    ]  # fmt: skip


def test_the_baselines_are_of_the_same_size():
    for build in (flat_mlp, early_fusion_cnn):
        assert abs(build().count_params() / 1_691_399 - 1) < 0.05


def test_the_two_spellings_are_one_model():
    by_layer, by_encoder = cnn_lstm(wrap="layer"), cnn_lstm(wrap="encoder")
    x = batch((4, 28, 28, 1), 2)
    assert np.abs(predict(by_layer, x) - predict(by_encoder, x)).max() > 1e-4  # other weights
    by_encoder.set_weights(by_layer.get_weights())
    np.testing.assert_allclose(predict(by_encoder, x), predict(by_layer, x), atol=1e-6)
    moved_back = cnn_lstm(wrap="layer")
    moved_back.set_weights(by_encoder.get_weights())
    np.testing.assert_array_equal(predict(moved_back, x), predict(by_layer, x))


def forward_by_hand(weights, frames, lstm_layers):
    """The reference architecture in NumPy and SciPy, frame by frame; one sequence."""
    *convs, head_kernel, head_bias = weights
    features = []
    for frame in frames.astype(np.float64) / 255:
        maps = np.moveaxis(frame, -1, 0)
        for kernel, bias in zip(convs[0:4:2], convs[1:4:2], strict=True):
            maps = np.stack([
                np.maximum(0, bias[o] + sum(
                    correlate2d(m, kernel[:, :, i, o], mode="same") for i, m in enumerate(maps)
                ))
                for o in range(kernel.shape[-1])
            ])  # fmt: skip
            c, h, w = maps.shape
            maps = maps.reshape(c, h // 2, 2, w // 2, 2).max(axis=(2, 4))
        features.append(np.moveaxis(maps, 0, -1).ravel())
    sequence = np.array(features)
    for k in range(lstm_layers):
        sequence, _ = lstm(sequence, convs[4 + 3 * k : 7 + 3 * k])
    return softmax(sequence[-1] @ head_kernel + head_bias)


@pytest.mark.parametrize("lstm_units", [(5,), (5, 4)])
@pytest.mark.parametrize("time", [3, None])
def test_equals_the_forward_pass_by_hand(lstm_units, time):
    model = cnn_lstm((time, 8, 8, 2), 4, encoder=conv_pool((3, 2)), lstm_units=lstm_units)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.5, w.shape) for w in model.get_weights()])
    frames = batch((3, 8, 8, 2), 2)
    weights = [np.asarray(w, np.float64) for w in model.get_weights()]
    expected = [forward_by_hand(weights, f, len(lstm_units)) for f in frames]
    np.testing.assert_allclose(predict(model, frames), expected, rtol=1e-4, atol=1e-6)


def test_one_model_reads_sequences_of_any_length():
    model = cnn_lstm((None, 8, 8, 1), 3)
    fixed = cnn_lstm((5, 8, 8, 1), 3)
    fixed.set_weights(model.get_weights())
    for time in (2, 5, 9):
        assert predict(model, batch((time, 8, 8, 1))).shape == (8, 3)
    x = batch((5, 8, 8, 1))
    np.testing.assert_allclose(predict(model, x), predict(fixed, x), atol=1e-6)


def plain_twin(model, **options):
    """A model that answers once, for sequences of any length, with the same weights."""
    shape = (None, *model.get_layer("frames").output.shape[2:])
    num_classes = model.get_layer("values" if "head" in options else "probabilities").units
    twin = cnn_lstm(shape, num_classes, **options)
    twin.set_weights(model.get_weights())
    return twin


class TestPerStep:
    def test_each_answer_is_that_of_the_plain_model_to_the_frames_so_far(self):
        options = {"lstm_units": (5, 4), "head": "regression"}
        model = cnn_lstm((4, 8, 8, 1), 3, per_step=True, **options)
        plain, x = plain_twin(model, **options), batch((4, 8, 8, 1))
        y = predict(model, x)
        assert y.shape == (8, 4, 3)
        for t in range(4):
            np.testing.assert_allclose(y[:, t], predict(plain, x[:, : t + 1]), atol=1e-6)
        assert np.abs(y[:, 3] - y[:, 2]).max() > 1e-3

    def test_in_two_directions_each_answer_depends_on_all_frames(self):
        model = cnn_lstm(SMALL, 3, lstm_units=(4,), bidirectional=True, per_step=True)
        x, changed = batch(), batch()
        changed[:, 2] = 255 - changed[:, 2]
        moved = np.abs(predict(model, x) - predict(model, changed)).max(axis=(0, 2))
        assert (moved > 1e-4).all()

    def test_learns_the_class_of_each_frame_by_heart(self):
        model = cnn_lstm(SMALL, 3, per_step=True, lstm_units=(16,))
        model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
        x, y = batch(), np.arange(24).reshape(8, 3) % 3
        for _ in range(60):
            model.train_on_batch(x, y)
        np.testing.assert_array_equal(predict(model, x).argmax(axis=-1), y)


class TestValues:
    def test_are_scaled_and_probabilities_are_not(self):
        for head, factor in (("regression", 10), ("probabilities", 1)):
            plain, scaled = (cnn_lstm(SMALL, 3, head=head, scale=scale) for scale in (1, 10))
            scaled.set_weights(plain.get_weights())
            expected = factor * predict(plain, batch())
            np.testing.assert_allclose(predict(scaled, batch()), expected, rtol=1e-5)


class TestLengths:
    LENGTHS = np.array([4, 1, 2, 2, 4, 1], "int32")

    def sequences(self, padding=0, time=4):
        """The same sequences each time, and then other frames."""
        x = batch((time, 8, 8, 1), 6, seed=padding)
        shown = batch((4, 8, 8, 1), 6)
        x[:, :4] = np.where(self.counts()[..., None, None, None], shown, x[:, :4])
        return {"frames": x, "lengths": self.LENGTHS}

    def counts(self, time=4):
        return np.arange(time) < self.LENGTHS[:, None]

    @pytest.mark.parametrize(
        ("time", "per_step", "bidirectional"),
        [(4, True, True), (4, False, False), (None, True, False), (None, False, True)],
    )
    def test_each_answer_is_that_to_the_sequence_without_padding(
        self, time, per_step, bidirectional, monkeypatch
    ):
        # As in Keras after 3.15.1: no layer over time hands its mask on by itself.
        for layer in (TimeDistributed, layers.RNN, layers.Bidirectional):
            monkeypatch.setattr(layer, "compute_mask", lambda self, *_: None)
        options = {"lstm_units": (5, 4), "bidirectional": bidirectional, "per_step": per_step}
        model = cnn_lstm((time, 8, 8, 1), 3, lengths=True, **options)
        plain, x = plain_twin(model, **options), self.sequences(padding=1)
        y = predict(model, x)
        for length in (1, 2, 4):
            of_length = length == self.LENGTHS
            found = y[of_length, :length] if per_step else y[of_length]
            expected = predict(plain, x["frames"][of_length, :length])
            np.testing.assert_allclose(found, expected, atol=1e-6)

    def trained(self, x, time=4):
        """The loss of a batch, with weights of 0 at its padding, and the weights it leads to."""
        keras.utils.set_random_seed(1)
        options = {"head": "regression", "per_step": True, "lengths": True, "lstm_units": (4,)}
        model = cnn_lstm((time, 8, 8, 1), 1, **options)
        model.compile(
            keras.optimizers.SGD(0.1),
            keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"),
        )
        counts, before = self.counts(time), predict(model, x)[..., 0]
        targets = np.where(counts, np.arange(6)[:, None], 99)[..., None].astype("float32")
        loss = model.train_on_batch(x, targets, sample_weight=counts.astype("float32"))
        expected = ((before - targets[..., 0]) ** 2)[counts].mean()
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        return [loss, *model.get_weights()]

    def test_training_does_not_depend_on_the_padding(self):
        expected = self.trained(self.sequences())
        found = self.trained(self.sequences(padding=1, time=6), time=6)
        assert_all_equal(found, expected, rtol=1e-4, atol=1e-6)


class TestStates:
    def test_states_in_and_out_go_on_where_the_sequence_was_left(self):
        options = {"lstm_units": (5, 4), "initial_state": True, "return_state": True}
        model = cnn_lstm((2, 8, 8, 1), 3, **options)
        plain, x = plain_twin(model, lstm_units=(5, 4)), batch((4, 8, 8, 1))
        names = [*state_names(1), *state_names(2)]
        assert list(model.input) == ["frames", *names]
        assert list(model.output) == ["probabilities", *names]
        zeros = {name: np.zeros((8, *model.input[name].shape[1:]), "float32") for name in names}
        first = predict(model, {"frames": x[:, :2], **zeros})
        np.testing.assert_allclose(first.pop("probabilities"), predict(plain, x[:, :2]), atol=1e-6)
        second = predict(model, {"frames": x[:, 2:], **first})
        np.testing.assert_allclose(second["probabilities"], predict(plain, x), atol=1e-6)

    @pytest.mark.parametrize("run", [predict, lambda model, x: model.predict(x, 8, verbose=0)])
    def test_kept_states_go_on_until_they_are_reset(self, run):
        if run is not predict and keras.backend.backend() == "jax":
            pytest.skip("in predict() Keras on JAX keeps no states")
        model = cnn_lstm((2, 8, 8, 1), 3, stateful=True, batch_size=8, lstm_units=(5,))
        plain, x = cnn_lstm((None, 8, 8, 1), 3, lstm_units=(5,)), batch((4, 8, 8, 1))
        for ours, weight in zip(model.trainable_variables, plain.trainable_variables, strict=True):
            ours.assign(weight)
        for _ in range(2):
            np.testing.assert_allclose(run(model, x[:, :2]), predict(plain, x[:, :2]), atol=1e-6)
            np.testing.assert_allclose(run(model, x[:, 2:]), predict(plain, x), atol=1e-6)
            reset_states(model)

    @pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"], indirect=True)
    def test_with_lengths_and_all_outputs_saves_and_loads_equal(self, policy, reloaded):
        model = cnn_lstm(
            (None, 8, 8, 1), 3, lengths=True, initial_state=True, return_state=True,
            per_step=True, lstm_units=(5, 4), bidirectional=True,
        )  # fmt: skip
        loaded = reloaded(model)
        rng = np.random.default_rng(0)
        x = {name: rng.normal(0, 1, (8, s.shape[-1])) for name, s in model.output.items()}
        del x["probabilities"]  # the states are left
        x |= {"frames": batch((4, 8, 8, 1)), "lengths": np.arange(8) % 4 + 1}
        found, expected = predict(loaded, x), predict(model, x)
        assert found.keys() == expected.keys() == model.output.keys()
        for name, y in expected.items():
            assert y.dtype == "float32"
            np.testing.assert_array_equal(found[name], y)


def test_own_encoders():
    image = keras.Input((8, 8, 1))
    mean = layers.GlobalAveragePooling2D()(image)
    branching = keras.Model(image, layers.Concatenate()([mean, mean]))
    for wrap in ("layer", "encoder"):
        model = cnn_lstm(SMALL, 3, encoder=branching, wrap=wrap)
        assert model.get_layer("encoder").layer is branching
    own = keras.Sequential([layers.Flatten(name="flat"), layers.Dense(4, name="squeeze")])
    assert cnn_lstm(SMALL, 3, encoder=own).get_layer("squeeze").output.shape == (None, 3, 4)


def test_early_fusion_sees_frame_t_in_channel_t():
    model = early_fusion_cnn((3, 8, 8, 2), 3)
    merged = keras.Model(model.input, model.get_layer("merge_channels").output)
    x = batch((3, 8, 8, 2), 2)
    y = predict(merged, x) * 255
    for t, c in np.ndindex(3, 2):
        np.testing.assert_allclose(y[..., 2 * t + c], x[:, t, :, :, c], atol=1e-3)


def test_flat_mlp_sees_all_pixels_as_one_vector():
    assert flat_mlp().get_layer("flatten").output.shape == (None, 3136)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: cnn_lstm(encoder="resnet"),
            re.escape(f"`encoder` must be one of {sorted(ENCODERS)} or a Keras layer; received"),
        ),
        (lambda: cnn_lstm(encoder=layers.Conv2D(2, 3)), "one vector of known size; received one"),
        (lambda: cnn_lstm(wrap="both"), "`wrap` must be 'layer' or 'encoder'; received 'both'"),
        (lambda: cnn_lstm(lstm_units=()), r"one or more positive numbers.*received \(\)"),
        (lambda: cnn_lstm(head="logits"), "cnn_lstm: `head` must be one of probabilities, "),
        (
            lambda: cnn_lstm(num_classes=0, head="regression"),
            "cnn_lstm: `num_classes` must be an integer from 1",
        ),
        (lambda: cnn_lstm(stateful=True), "`stateful` needs a known batch size"),
        (
            lambda: cnn_lstm(stateful=True, initial_state=True, batch_size=2),
            "`stateful` keeps the states and `initial_state` gives them; received both",
        ),
        (lambda: cnn_lstm(lstm_units=(4, 0)), r"received \(4, 0\)"),
        (lambda: flat_mlp(units=()), "one or more positive numbers"),
        (lambda: flat_mlp((None, 8, 8, 1)), "flat_mlp: `input_shape` must have a known T"),
        (
            lambda: early_fusion_cnn((None, 8, 8, 1)),
            "early_fusion_cnn: `input_shape` must have a known T",
        ),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


class TestNormalisation:
    """Batch normalisation inside of a `cnn_lstm` with lengths counts no frame of padding."""

    LENGTHS = np.array([4, 1, 2, 3], "int32")
    NORMS = {residual_cnn: 5, strided_cnn: 4}  # noqa: RUF012

    @pytest.fixture(params=NORMS, ids=lambda encoder: encoder.__name__)
    def each_encoder(self, request):
        self.encoder = request.param

    def sequences(self, padding=0, time=4):
        """The same frames each time, and then other padding, brighter than any frame is."""
        counts = np.arange(time) < self.LENGTHS[:, None]
        x = np.full((4, time, 12, 12, 1), 200, "uint8") + batch((time, 12, 12, 1), 4, padding) // 5
        x[:, :4][counts[:, :4]] = batch((4, 12, 12, 1), 4)[counts[:, :4]] // 2
        return {"frames": x, "lengths": self.LENGTHS}

    def model(self, time=4, **options):
        keras.utils.set_random_seed(1)
        encoder = self.encoder((4, 6))
        return cnn_lstm(
            (time, 12, 12, 1), 3, encoder=encoder, lengths=True, lstm_units=(5,), **options
        )

    def after_a_step(self, x, time=4):
        """Loss and answer of a batch in training, and the weights and answers it leads to."""
        model = self.model(time)
        trained = keras.ops.convert_to_numpy(model(x, training=True))
        model = self.model(time)
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        loss = model.train_on_batch(x, np.array([0, 1, 2, 0]))
        names = [weight.path for weight in model.weights]
        assert sum("moving_" in name for name in names) == 2 * self.NORMS[self.encoder]
        return [trained, loss, *model.get_weights(), predict(model, x)]

    @pytest.mark.usefixtures("each_encoder")
    def test_padding_changes_neither_training_nor_averages_nor_answers(self):
        expected = self.after_a_step(self.sequences())
        for padding, time, tolerance in ((1, 4, 1e-6), (2, 6, 1e-5)):
            found = self.after_a_step(self.sequences(padding, time), time)
            assert_all_equal(found, expected, rtol=tolerance, atol=1e-6)

    @pytest.mark.usefixtures("each_encoder")
    def test_the_averages_are_those_of_the_frames_that_count_alone(self):
        model, x = self.model(), self.sequences()
        alone = self.encoder((4, 6))
        alone.build((None, 12, 12, 1))
        alone.set_weights(model.get_weights()[: len(alone.weights)])
        counts = np.arange(4) < self.LENGTHS[:, None]
        alone(x["frames"][counts] / np.float32(255), training=True)
        model(x, training=True)
        moved = 0
        for weight, other in zip(model.weights, alone.weights, strict=False):
            found, expected = map(keras.ops.convert_to_numpy, (weight, other))
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
            moved += "moving_mean" in other.path and np.abs(expected).max() > 1e-3
        assert moved == self.NORMS[self.encoder]

    def test_wrapped_as_one_the_answers_are_the_same(self):
        options = {"encoder": "residual_cnn", "lstm_units": (5,)}
        by_layer, by_encoder = (cnn_lstm(SMALL, 3, wrap=w, **options) for w in ("layer", "encoder"))
        by_layer(batch(), training=True)  # moves the averages
        by_encoder.set_weights(by_layer.get_weights())
        np.testing.assert_allclose(
            predict(by_encoder, batch()), predict(by_layer, batch()), atol=1e-6
        )

    def graph(self, trainable):
        """An encoder that is no chain of layers, with normalisation, learning or frozen."""
        image = keras.Input((12, 12, 1))
        x = layers.BatchNormalization(name="norm")(layers.Flatten()(image))
        encoder = keras.Model(image, layers.Concatenate()([x, x]), name="graph")
        encoder.trainable = trainable
        return encoder

    @pytest.mark.parametrize(
        ("encoder", "wrap", "where"),
        [
            (lambda self: residual_cnn((4,)), "encoder", "'norm1' inside of 'residual_cnn'"),
            (lambda self: self.graph(True), "layer", "'norm' inside of 'graph'"),
            (
                lambda self: keras.Sequential([self.graph(True), layers.Dense(2)]), "layer",
                "'norm' inside of 'graph'",
            ),
        ],
    )  # fmt: skip
    def test_out_of_a_mask_s_reach_it_must_be_frozen(self, encoder, wrap, where):
        options = {"encoder": encoder(self), "wrap": wrap}
        message = f"cnn_lstm: `encoder` with `lengths` must .*received {where}, .*wrap='layer', or"
        with pytest.raises(ValueError, match=message):
            cnn_lstm((4, 12, 12, 1), 3, lengths=True, **options)
        assert cnn_lstm((4, 12, 12, 1), 3, **options).output_shape == (None, 3)

    @pytest.mark.parametrize("wrap", ["layer", "encoder"])
    def test_frozen_it_counts_nothing(self, wrap):
        model = cnn_lstm((4, 12, 12, 1), 3, encoder=self.graph(False), wrap=wrap, lengths=True)
        before = model.get_weights()
        x, y = (
            keras.ops.convert_to_numpy(model(self.sequences(seed), training=True))
            for seed in (0, 1)
        )
        np.testing.assert_allclose(x, y, atol=1e-6)
        assert_all_equal(model.get_weights(), before)


def tones(count, seed, time=4, length=64):
    """Sequences of tones in noise, each of any phase: rising (0), falling (1), constant (2) pitch.

    The tones of a falling sequence are those of a rising one, in another order.
    """
    rng = np.random.default_rng(seed)
    trends = rng.integers(3, size=count)
    rising = np.sort(rng.permuted(np.tile(np.arange(6), (count, 1)), axis=1)[:, :time], axis=1)
    levels = np.stack([rising, rising[:, ::-1], np.repeat(rising[:, :1], time, 1)], 1)
    pitches = 3 + 2 * levels[np.arange(count), trends]  # (B, T), waves in a window
    phases = rng.uniform(0, 2 * np.pi, (count, time, 1))
    waves = np.sin(2 * np.pi * pitches[..., None] * np.arange(length) / length + phases)
    x = 0.5 * waves + rng.normal(0, 0.1, waves.shape)
    return x[..., None].astype("float32"), trends  # (B, T, L, 1), (B,)


class TestLines:
    """Frames that are lines of samples `(L, C)`, not planes of pixels."""

    LINES = (4, 20, 2)  # (T, L, C)
    SMALL = MappingProxyType({"encoder": "conv1d", "lstm_units": (5,)})

    def batch(self, shape=LINES, size=6, seed=0):
        return np.random.default_rng(seed).normal(0, 0.5, (size, *shape)).astype("float32")

    def test_learns_which_way_the_pitch_goes(self):
        encoder = conv1d((8, 16), 9, pool_size=4)
        model = cnn_lstm((4, 64, 1), 3, encoder=encoder, lstm_units=(16,))
        model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
        for step in range(300):
            model.train_on_batch(*tones(32, seed=step))
        x, trends = tones(1000, seed=10_000)
        assert (predict(model, x).argmax(axis=1) == trends).mean() > 0.95
        backwards = np.array([1, 0, 2])[trends]
        assert (predict(model, x[:, ::-1]).argmax(axis=1) == backwards).mean() > 0.95

    @pytest.mark.parametrize("policy", POLICIES, indirect=True)
    def test_samples_reach_the_encoder_as_they_are(self, policy):
        model = cnn_lstm(self.LINES, 3, **self.SMALL)
        (frames,) = model.inputs
        assert (frames.name, frames.dtype, frames.shape) == (
            "frames",
            "float32",
            (None, *self.LINES),
        )
        assert [layer.name for layer in model.layers] == [
            "frames", "conv1", "pool1", "conv2", "pool2", "pool", "lstm1", "probabilities",
        ]  # fmt: skip
        y = model(self.batch())
        assert keras.backend.standardize_dtype(y.dtype) == "float32"
        expected = predict(self.by_parts(model), self.batch())
        np.testing.assert_allclose(keras.ops.convert_to_numpy(y), expected, atol=1e-6)

    def by_parts(self, model):
        """The model's own LSTM and head, over its encoder called for one window after the other."""
        windows = [layer.layer for layer in model.layers[1:6]]

        def answer(x):
            steps = []
            for t in range(x.shape[1]):
                step = x[:, t]
                for layer in windows:
                    step = layer(step)
                steps.append(step)
            x = keras.ops.stack(steps, axis=1)
            return model.layers[7](model.layers[6](x))

        return answer

    @pytest.mark.parametrize("options", [
        {"wrap": "encoder"}, {"bidirectional": True, "per_step": True}, {"head": "regression"},
        {"dropout": 0.2, "encoder": conv1d((4,), pooling="flatten")},
    ])  # fmt: skip
    def test_with_all_switches_saves_and_loads_equal(self, options, reloaded):
        model = cnn_lstm(self.LINES, 3, **self.SMALL | options)
        loaded = reloaded(model)
        np.testing.assert_array_equal(predict(loaded, self.batch()), predict(model, self.batch()))

    @pytest.mark.parametrize("time", [4, None])
    def test_padded_windows_change_no_answer(self, time):
        model = cnn_lstm((time, 20, 2), 3, lengths=True, **self.SMALL)
        plain, lengths = cnn_lstm((None, 20, 2), 3, **self.SMALL), np.array([4, 1, 3, 3, 4, 1])
        plain.set_weights(model.get_weights())
        x = self.batch()
        x[np.arange(4) >= lengths[:, None]] = 1e3
        y = predict(model, {"frames": x, "lengths": lengths})
        for length in (1, 3, 4):
            alone = predict(plain, x[lengths == length, :length])
            np.testing.assert_allclose(y[lengths == length], alone, atol=1e-6)

    @pytest.mark.parametrize("encoder", [
        layers.Flatten(), keras.Sequential([layers.Flatten(), layers.Dense(3)]), layers.LSTM(3),
        keras.Sequential([keras.Input((20, 2)), layers.GlobalMaxPooling1D()]),
    ])  # fmt: skip
    def test_own_encoders_of_lines(self, encoder):
        model = cnn_lstm(self.LINES, 3, encoder=encoder)
        assert model.inputs[0].dtype == "float32"
        assert predict(model, self.batch()).shape == (6, 3)

    def test_early_fusion_sees_window_t_in_channel_t(self):
        model = early_fusion_cnn(self.LINES, 3, encoder="conv1d")
        merged = keras.Model(model.input, model.get_layer("merge_channels").output)
        x = self.batch()
        y = predict(merged, x)
        assert y.shape == (6, 20, 8)
        for t, c in np.ndindex(4, 2):
            np.testing.assert_array_equal(y[..., 2 * t + c], x[:, t, :, c])

    @pytest.mark.parametrize("build", [cnn_lstm, early_fusion_cnn])
    @pytest.mark.parametrize(
        ("shape", "encoder", "message"),
        [
            ((4, 20, 2), "conv_pool", r"\(T, H, W, C\), .*\(4, 20, 2\)\. .*Lines .* as 'conv1d'"),
            ((4, 20, 2), layers.Conv2D(2, 3), r"\(T, H, W, C\), .* such as 'conv1d'\.$"),
            ((4, 8, 8, 1), "conv1d", r"\(T, L, C\), .*\(4, 8, 8, 1\)\. .*Images .* as 'conv_pool'"),
            ((4, 8, 8, 1), layers.LSTM(2), r"\(T, L, C\), .* such as 'conv_pool'\.$"),
            ((4, 20), "conv1d", r"\(T, L, C\), .*received \(4, 20\)\. A line of one channel needs"),
            ((4, 20), layers.Flatten(), r"\(T, H, W, C\), .*received \(4, 20\)"),
            ((4, None, 2), "conv1d", r"\(T, L, C\), positive, only T possibly None; received"),
        ],
    )
    def test_a_shape_that_is_not_the_encoder_s(self, build, shape, encoder, message):
        with pytest.raises(ValueError, match=f"{build.__name__}: `input_shape` must be {message}"):
            build(shape, 3, encoder=encoder)


@pytest.mark.parametrize(
    ("shape", "encoder"),
    [((5, 20, 2), "conv1d"), ((5, 12, 12, 1), "residual_cnn")],
)
@pytest.mark.parametrize("lengths", [False, True])
def test_streams_frame_by_frame(shape, encoder, lengths):
    model = cnn_lstm(shape, 3, encoder=encoder, lstm_units=(5, 4), per_step=True, lengths=lengths)
    rng = np.random.default_rng(0)
    dtype = model.inputs[0].dtype
    x = rng.integers(0, 256, (3, *shape)).astype(dtype)
    full = np.full(3, shape[0], "int32")
    inputs = {"frames": x, "lengths": full} if lengths else x
    model(inputs, training=True)  # moves the averages
    expected = predict(model, inputs)
    stream = Stream(model)
    state = stream.initial_state(3)
    for t in range(shape[0]):
        outputs, state = stream.step(x[:, t], state)
        np.testing.assert_allclose(outputs["probabilities"], expected[:, t], rtol=1e-4, atol=1e-6)


def test_three_narrow_stages_make_a_model_of_a_quarter_of_the_parameters():
    assert cnn_lstm(encoder="small_cnn").count_params() < 1_691_399 / 4
