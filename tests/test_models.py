"""The contract that every entry of `MODELS` keeps, and NumPy oracles for the reference."""

import keras
import numpy as np
import pytest
from keras import layers
from scipy.signal import correlate2d

from keras_cnnlstm.encoders import ENCODERS, conv_pool
from keras_cnnlstm.models import MODELS, channel_cnn, cnn_lstm, flat_mlp

POLICIES = ["float32", "mixed_bfloat16", "mixed_float16"]
SMALL = (3, 8, 8, 1)  # (T, H, W, C)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def batch(shape=SMALL, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, *shape), np.uint8)


def predict(model, frames):
    return keras.ops.convert_to_numpy(model(frames))


@pytest.mark.parametrize("name", MODELS)
class TestContract:
    def test_builds_with_the_reference_shape(self, name):
        model = MODELS[name]()
        assert model.input_shape == (None, 4, 28, 28, 1)
        assert model.output_shape == (None, 7)
        assert [i.name for i in model.inputs] == ["frames"]
        assert model.inputs[0].dtype == "uint8"
        assert model.name == name

    @pytest.mark.parametrize("policy", POLICIES, indirect=True)
    def test_answers_with_float32_probabilities(self, name, policy):
        y = MODELS[name](SMALL, 5)(batch())
        assert keras.backend.standardize_dtype(y.dtype) == "float32"
        y = keras.ops.convert_to_numpy(y)
        assert y.shape == (8, 5)
        np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-5)
        assert y.std(axis=0).max() > 1e-4  # the answer depends on the frames

    @pytest.mark.parametrize("policy", POLICIES, indirect=True)
    def test_learns_one_batch_by_heart(self, name, policy):
        model = MODELS[name](SMALL, 3)
        model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
        x, y = batch(), np.arange(8) % 3
        for _ in range(60):
            model.train_on_batch(x, y)
        assert (predict(model, x).argmax(axis=1) == y).all()

    @pytest.mark.parametrize("policy", POLICIES, indirect=True)
    def test_saves_and_loads_equal(self, name, policy, tmp_path):
        model = MODELS[name](SMALL, 3, dropout=0.2)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
        np.testing.assert_array_equal(predict(loaded, batch()), predict(model, batch()))

    def test_dropout_acts_in_training_only(self, name):
        model = MODELS[name](SMALL, 3, dropout=0.5)
        x = batch()
        np.testing.assert_array_equal(predict(model, x), predict(model, x))
        trained = keras.ops.convert_to_numpy(model(x, training=True))
        assert np.abs(trained - predict(model, x)).max() > 1e-3

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"input_shape": (4, 28, 28)}, r"must be \(T, H, W, C\).*\(4, 28, 28, 1\)"),
            ({"input_shape": (4, None, 28, 1)}, "only T possibly None"),
            ({"input_shape": (4, 28, 0, 1)}, "positive"),
            ({"num_classes": 1}, "`num_classes` must be 2 or more; received 1"),
            ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\); received 1.0"),
        ],
    )
    def test_bad_arguments(self, name, arguments, message):
        with pytest.raises(ValueError, match=f"{name}: .*{message}"):
            MODELS[name](**arguments)


def test_reference_parameters():
    assert cnn_lstm().count_params() == 1_691_399
    assert [layer.name for layer in cnn_lstm().layers] == [
        "frames", "rescale", "conv1", "pool1", "conv2", "pool2", "flatten", "lstm1",
        "probabilities",
    ]  # fmt: skip


def test_the_baselines_are_of_the_same_size():
    for build in (flat_mlp, channel_cnn):
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


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


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
        kernel, recurrent, bias = convs[4 + 3 * k : 7 + 3 * k]
        h = c = np.zeros(len(recurrent))
        states = []
        for x in sequence:
            i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            states.append(h)
        sequence = np.array(states)
    logits = sequence[-1] @ head_kernel + head_bias
    return np.exp(logits) / np.exp(logits).sum()


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


def test_equals_pytorch():
    torch = pytest.importorskip("torch")
    model = cnn_lstm((4, 28, 28, 1), 7)
    k1, b1, k2, b2, kernel, recurrent, bias, head, head_bias = map(
        torch.tensor, model.get_weights()
    )
    lstm = torch.nn.LSTM(3136, 128, batch_first=True)
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(kernel.T)
        lstm.weight_hh_l0.copy_(recurrent.T)
        lstm.bias_ih_l0.copy_(bias)
        lstm.bias_hh_l0.zero_()
        frames = batch((4, 28, 28, 1), 3)
        x = torch.tensor(frames).reshape(12, 1, 28, 28) / 255
        for k, b in ((k1, b1), (k2, b2)):
            x = torch.conv2d(x, k.permute(3, 2, 0, 1), b, padding=1).relu()
            x = torch.max_pool2d(x, 2)
        steps, _ = lstm(x.permute(0, 2, 3, 1).reshape(3, 4, 3136))
        expected = (steps[:, -1] @ head + head_bias).softmax(dim=1).numpy()
    np.testing.assert_allclose(predict(model, frames), expected, atol=1e-6)


def test_one_model_reads_sequences_of_any_length():
    model = cnn_lstm((None, 8, 8, 1), 3)
    fixed = cnn_lstm((5, 8, 8, 1), 3)
    fixed.set_weights(model.get_weights())
    for time in (2, 5, 9):
        assert predict(model, batch((time, 8, 8, 1))).shape == (8, 3)
    x = batch((5, 8, 8, 1))
    np.testing.assert_allclose(predict(model, x), predict(fixed, x), atol=1e-6)


def test_the_order_of_frames_matters_to_the_lstm():
    model, x = cnn_lstm(SMALL, 3), batch()
    assert np.abs(predict(model, x) - predict(model, x[:, ::-1])).max() > 1e-4


def test_bidirectional_doubles_the_last_outputs_and_reads_backwards_too():
    model = cnn_lstm(SMALL, 3, lstm_units=(4, 6), bidirectional=True)
    assert model.get_layer("bidirectional1").output.shape == (None, 3, 8)
    assert model.get_layer("bidirectional2").output.shape == (None, 12)


def test_own_encoders():
    image = keras.Input((8, 8, 1))
    mean = layers.GlobalAveragePooling2D()(image)
    branching = keras.Model(image, layers.Concatenate()([mean, mean]))
    for wrap in ("layer", "encoder"):
        model = cnn_lstm(SMALL, 3, encoder=branching, wrap=wrap)
        assert model.get_layer("encoder").layer is branching
    own = keras.Sequential([layers.Flatten(name="flat"), layers.Dense(4, name="squeeze")])
    assert cnn_lstm(SMALL, 3, encoder=own).get_layer("squeeze").output.shape == (None, 3, 4)


def test_channel_cnn_sees_frame_t_in_channel_t():
    model = channel_cnn((3, 8, 8, 2), 3)
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
        (lambda: cnn_lstm(encoder="resnet"), r"`encoder` must be one of \['conv_pool'\]"),
        (lambda: cnn_lstm(encoder=layers.Conv2D(2, 3)), "one vector of known size; received one"),
        (lambda: cnn_lstm(wrap="both"), "`wrap` must be 'layer' or 'encoder'; received 'both'"),
        (lambda: cnn_lstm(lstm_units=()), r"one or more positive numbers.*received \(\)"),
        (lambda: cnn_lstm(lstm_units=(4, 0)), r"received \(4, 0\)"),
        (lambda: flat_mlp(units=()), "one or more positive numbers"),
        (lambda: flat_mlp((None, 8, 8, 1)), "flat_mlp: `input_shape` must have a known T"),
        (lambda: channel_cnn((None, 8, 8, 1)), "channel_cnn: `input_shape` must have a known T"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_turn_frames_into_vectors(name):
    y = ENCODERS[name]()(np.zeros((2, 28, 28, 1), "float32"))
    assert len(y.shape) == 2
