"""Weights from PyTorch and back: PyTorch itself is the oracle, and numbers recorded from it."""

import json
import sys

import keras
import numpy as np
import pytest
from keras import layers

from keras_cnnlstm.layers.lstm import LSTM
from keras_cnnlstm.layers.time_distributed import TimeDistributed
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.scanning import scan_lstm
from keras_cnnlstm.torch_weights.convert import load_torch, to_torch
from keras_cnnlstm.torch_weights.state_dict import read_state_dict, write_state_dict


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    return torch


def predict(model, inputs):
    return keras.ops.convert_to_numpy(model(inputs))


def uniform(*shape, low=-1.0, seed=0):
    return np.random.default_rng(seed).uniform(low, 1, shape).astype("float32")


def channels_first(frames):
    return np.ascontiguousarray(np.moveaxis(frames, -1, -3))


def chain(shape, *stack):
    """A functional model of these layers, one after the other."""
    x = inputs = keras.Input(shape)
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, x)


def net_of(torch, forward, **parts):
    """A PyTorch module of these parts, in evaluation, with averages that are not the initial."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

        def forward(self, x):
            return forward(self, x)

    net = Net().eval()
    for name, buffer in net.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 2)
    return net


def asked(net, x):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return net(torch.from_numpy(x)).numpy()


def assert_equal_both_ways(net, model, in_torch, in_keras=None, state=None):
    """PyTorch's weights give its answers in Keras, and Keras' new ones give Keras' in PyTorch.

    `state` is the net's state_dict, if it came in another way than in memory.
    """
    torch = pytest.importorskip("torch")
    in_keras = in_torch if in_keras is None else in_keras
    state = net.state_dict() if state is None else state
    report = load_torch(model, state)
    np.testing.assert_allclose(predict(model, in_keras), asked(net, in_torch), atol=1e-5)

    for seed, variable in enumerate(model.weights):
        low = 0.1 if variable.name == "moving_variance" else -1.0
        variable.assign(0.4 * uniform(*variable.shape, low=low, seed=seed))
    answers = predict(model, in_keras)
    assert np.abs(answers - asked(net, in_torch)).max() > 1e-3
    back = to_torch(model, like=state)
    assert list(back) == list(state)
    net.load_state_dict({k: torch.from_numpy(v) for k, v in back.items()}, strict=True)
    np.testing.assert_allclose(answers, asked(net, in_torch), atol=1e-5)
    return report


# The PyTorch models


def frames_net(torch, filters=(32, 64), features=3136, units=128, classes=7):
    """Conv, pool, Conv, pool, flatten for each frame; LSTM; Linear on the last step."""
    nn = torch.nn

    def forward(net, x):  # (B, T, C, H, W)
        batch, time = x.shape[:2]
        x = x.flatten(0, 1)
        for conv in (net.conv1, net.conv2):
            x = net.pool(conv(x).relu())
        steps, _ = net.lstm(x.flatten(1).unflatten(0, (batch, time)))
        return net.fc(steps[:, -1]).softmax(1)

    return net_of(
        torch,
        forward,
        conv1=nn.Conv2d(1, filters[0], 3, padding=1),
        conv2=nn.Conv2d(filters[0], filters[1], 3, padding=1),
        pool=nn.MaxPool2d(2),
        lstm=nn.LSTM(features, units, batch_first=True),
        fc=nn.Linear(units, classes),
    )


def bidirectional_net(torch, features=6, units=5, outputs=3):
    """Two layers in both directions, and a Linear on the last outputs of the two."""

    def forward(net, x):
        _, (h, _) = net.lstm(x)
        return net.fc(torch.cat([h[-2], h[-1]], 1))

    lstm = torch.nn.LSTM(features, units, num_layers=2, batch_first=True, bidirectional=True)
    return net_of(torch, forward, lstm=lstm, fc=torch.nn.Linear(2 * units, outputs))


def bidirectional_model(features=6, units=5, outputs=3):
    return chain(
        (None, features),
        layers.Bidirectional(LSTM(units, return_sequences=True)),
        layers.Bidirectional(LSTM(units)),
        layers.Dense(outputs),
    )


def normalised_net(torch, filters=(4, 6), size=6, outputs=5):
    """Conv, batch norm, Conv, flatten, batch norm, Linear."""
    nn = torch.nn
    features = filters[1] * size**2
    return net_of(
        torch,
        lambda net, x: net.fc(net.bn2(net.conv2(net.bn1(net.conv1(x)).relu()).flatten(1))),
        conv1=nn.Conv2d(3, filters[0], 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(filters[0]),
        conv2=nn.Conv2d(filters[0], filters[1], 3, padding=1),
        bn2=nn.BatchNorm1d(features),
        fc=nn.Linear(features, outputs),
    )


def normalised_model(filters=(4, 6), size=6, outputs=5):
    return chain(
        (size, size, 3),
        layers.Conv2D(filters[0], 3, padding="same", use_bias=False),
        layers.BatchNormalization(epsilon=1e-5),
        layers.ReLU(),
        layers.Conv2D(filters[1], 3, padding="same"),
        layers.Flatten(),
        layers.BatchNormalization(epsilon=1e-5),
        layers.Dense(outputs),
    )


def mobile_net(torch, channels=4, classes=3):
    """An inverted residual, a grouped convolution, averages, and two heads."""
    nn, wide = torch.nn, 6 * channels

    def block(before, after, **options):
        return nn.Sequential(nn.Conv2d(before, after, bias=False, **options), nn.BatchNorm2d(after))

    def forward(net, x):
        x = net.stem(x).clamp(0, 6)
        y = net.depthwise(net.expand(x).clamp(0, 6)).clamp(0, 6)
        return net.fc(net.grouped(x + net.project(y)).mean((2, 3)))

    return net_of(
        torch,
        forward,
        stem=block(3, channels, kernel_size=3, stride=2, padding=1),
        expand=block(channels, wide, kernel_size=1),
        depthwise=block(wide, wide, kernel_size=3, padding=1, groups=wide),
        project=block(wide, channels, kernel_size=1),
        grouped=nn.Conv2d(channels, 8, 3, groups=2),
        fc=nn.Linear(8, classes),
        aux=nn.Linear(channels, classes),
    )


def mobile_model(channels=4, classes=3):
    def block(x, layer, relu=True):
        x = layers.BatchNormalization(epsilon=1e-5)(layer(x))
        return layers.ReLU(6)(x) if relu else x

    options = {"padding": "same", "use_bias": False}
    image = keras.Input((9, 9, 3))
    before = block(image, layers.Conv2D(channels, 3, strides=2, **options))
    x = block(before, layers.Conv2D(6 * channels, 1, **options))
    x = block(x, layers.DepthwiseConv2D(3, **options))
    x = block(x, layers.Conv2D(channels, 1, **options), relu=False)
    x = layers.Conv2D(8, 3, groups=2)(layers.Add()([before, x]))
    return keras.Model(image, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))


class TestEqualsPyTorch:
    def test_a_mobile_network_without_its_second_head(self, torch):
        net, model, images = mobile_net(torch), mobile_model(), uniform(2, 9, 9, 3)
        whole = net.state_dict()
        with pytest.raises(
            ValueError, match=r"received aux\.weight .*ignore entries without a lay"
        ):
            load_torch(model, whole)
        report = load_torch(model, whole, ignore=["fc", r"aux\..*"])
        assert report.notes[-1].endswith("project.1.num_batches_tracked, aux.weight, aux.bias.")
        done = {move.torch[0]: move.done for move in report.moves}
        assert done["depthwise.0.weight"] == "transposed (2, 3, 0, 1)"
        assert done["grouped.weight"] == "transposed (2, 3, 1, 0)"
        del net.aux
        assert_equal_both_ways(net, model, channels_first(images), images)

    @pytest.mark.parametrize("wrap", ["layer", "encoder"])
    def test_cnn_lstm_through_a_file(self, torch, wrap, tmp_path):
        files = pytest.importorskip("safetensors.torch")
        net, model = frames_net(torch), cnn_lstm(wrap=wrap)
        path = tmp_path / "model.safetensors"
        files.save_file(net.state_dict(), path)
        frames = np.random.default_rng(0).integers(0, 256, (3, 4, 28, 28, 1), np.uint8)
        scaled = channels_first(frames).astype("float32") / 255
        report = assert_equal_both_ways(net, model, scaled, frames, read_state_dict(path))
        assert [(move.torch, move.keras.split("/")[-1], move.done) for move in report.moves] == [
            (("conv1.weight",), "kernel", "transposed (2, 3, 1, 0)"),
            (("conv1.bias",), "bias", "as it is"),
            (("conv2.weight",), "kernel", "transposed (2, 3, 1, 0)"),
            (("conv2.bias",), "bias", "as it is"),
            (("lstm.weight_ih_l0",), "kernel",
             "transposed (1, 0), rows permuted from (64, 7, 7) to (7, 7, 64)"),
            (("lstm.weight_hh_l0",), "recurrent_kernel", "transposed (1, 0)"),
            (("lstm.bias_ih_l0", "lstm.bias_hh_l0"), "bias", "sum of the two"),
            (("fc.weight",), "kernel", "transposed (1, 0)"),
            (("fc.bias",), "bias", "as it is"),
        ]  # fmt: skip

    def test_back_through_a_file(self, torch, tmp_path):
        files = pytest.importorskip("safetensors.torch")
        net, model = bidirectional_net(torch), bidirectional_model()
        path = tmp_path / "model.safetensors"
        write_state_dict(path, to_torch(model, like=net.state_dict()))
        net.load_state_dict(files.load_file(path), strict=True)
        steps = uniform(2, 7, 6)
        np.testing.assert_allclose(asked(net, steps), predict(model, steps), atol=1e-5)

    def test_a_scanner_of_columns(self, torch):
        net = net_of(
            torch,
            lambda net, x: net.fc(net.lstm(x)[0][:, -1]).softmax(1),
            lstm=torch.nn.LSTM(28, 100, num_layers=2, batch_first=True),
            fc=torch.nn.Linear(100, 10),
        )
        images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
        columns = images[..., 0].swapaxes(1, 2).astype("float32") / 127.5 - 1  # (B, W, H)
        assert_equal_both_ways(net, scan_lstm(), columns, images)

    @pytest.mark.parametrize("wrap", [lambda layer: layer, TimeDistributed])
    def test_one_number_at_each_step(self, torch, wrap):
        net = net_of(
            torch,
            lambda net, x: net.fc(net.lstm(x)[0]),
            lstm=torch.nn.LSTM(3, 8, batch_first=True, bias=False),
            fc=torch.nn.Linear(8, 1),
        )
        lstm = layers.LSTM(8, return_sequences=True, use_bias=False)
        model = chain((None, 3), lstm, wrap(layers.Dense(1)))
        assert_equal_both_ways(net, model, uniform(2, 5, 3))

    def test_two_layers_in_both_directions(self, torch):
        assert_equal_both_ways(bidirectional_net(torch), bidirectional_model(), uniform(2, 7, 6))

    def test_batch_normalization_before_and_after_a_flatten(self, torch):
        images = uniform(2, 6, 6, 3)
        net, model = normalised_net(torch), normalised_model()
        report = assert_equal_both_ways(net, model, channels_first(images), images)
        assert report.notes[-1] == "Ignored: bn1.num_batches_tracked, bn2.num_batches_tracked."
        net.bn1.num_batches_tracked += 5
        assert to_torch(model, like=net.state_dict())["bn1.num_batches_tracked"] == 5

    def test_batch_normalization_without_scale_and_center(self, torch):
        net = net_of(torch, lambda net, x: net.bn(x), bn=torch.nn.BatchNorm1d(3, affine=False))
        model = chain((3,), layers.BatchNormalization(epsilon=1e-5, scale=False, center=False))
        assert_equal_both_ways(net, model, uniform(4, 3))

    def test_columns_of_a_map_as_steps(self, torch):
        """The stem of a text reader: (B, C, H, W) -> W steps of C*H features."""
        net = net_of(
            torch,
            lambda net, x: net.lstm(net.conv(x).permute(0, 3, 1, 2).flatten(2))[0],
            conv=torch.nn.Conv2d(1, 4, 3, padding=1),
            lstm=torch.nn.LSTM(4 * 6, 5, batch_first=True, bidirectional=True),
        )
        model = chain(
            (6, 9, 1),
            layers.Conv2D(4, 3, padding="same"),
            layers.Permute((2, 1, 3)),
            layers.Reshape((9, 6 * 4)),
            layers.Dropout(0.5),
            layers.Bidirectional(LSTM(5, return_sequences=True)),
        )
        images = uniform(2, 6, 9, 1)
        report = assert_equal_both_ways(net, model, channels_first(images), images)
        assert report.moves[2].done.endswith("rows permuted from (4, 6) to (6, 4)")

    def test_raw_frames_flattened_all_together(self, torch):
        net = net_of(torch, lambda net, x: net.fc(x.flatten(1)), fc=torch.nn.Linear(4 * 27, 2))
        model = chain((4, 3, 3, 3), layers.Flatten(), layers.Dense(2))
        frames = uniform(2, 4, 3, 3, 3)
        assert_equal_both_ways(net, model, channels_first(frames), frames)

    def test_frames_as_channels(self, torch):
        net = net_of(torch, lambda net, x: net.conv(x.flatten(1, 2)).mean((2, 3)),
                     conv=torch.nn.Conv2d(4 * 3, 2, 3))  # fmt: skip
        model = chain(
            (4, 5, 5, 3), layers.Permute((2, 3, 1, 4)), layers.Reshape((5, 5, 12)),
            layers.Conv2D(2, 3), layers.GlobalAveragePooling2D(),
        )  # fmt: skip
        frames = uniform(2, 4, 5, 5, 3)
        assert_equal_both_ways(net, model, channels_first(frames), frames)

    def test_a_flatten_with_a_mask_and_another_input(self, torch):
        net = frames_net(torch, (2, 3), 12, 4, 5)
        frames, mask = keras.Input((3, 8, 8, 1)), keras.Input((3,), dtype="bool")
        x = frames
        for filters in (2, 3):
            conv = layers.Conv2D(filters, 3, padding="same", activation="relu")
            x = TimeDistributed(conv)(x, mask=mask)
            x = TimeDistributed(layers.MaxPooling2D())(x, mask=mask)
        x = TimeDistributed(layers.Flatten())(x, mask=mask)
        x = layers.Dense(5, "softmax")(LSTM(4)(x, mask=mask))
        model = keras.Model([frames, mask], x)
        given = uniform(2, 3, 8, 8, 1)
        inputs = [given, np.ones((2, 3), bool)]
        assert_equal_both_ways(net, model, channels_first(given), inputs)

    def test_two_branches_and_a_shared_encoder(self, torch):
        nn = torch.nn

        def forward(net, x):
            features = [net.encoder(half).flatten(1) for half in x.split(1, dim=1)]
            return net.fc(torch.stack([net.squeeze(f) for f in features]).sum(0))

        net = net_of(torch, forward, encoder=nn.Conv2d(1, 2, 3), squeeze=nn.Linear(18, 4),
                     fc=nn.Linear(4, 3))  # fmt: skip
        encoder = keras.Sequential(
            [keras.Input((5, 5, 1)), layers.Conv2D(2, 3), layers.Flatten()], name="encoder"
        )
        image, squeeze = keras.Input((5, 5, 2)), layers.Dense(4)
        x = layers.Add()([squeeze(encoder(image[..., k : k + 1])) for k in range(2)])
        model = keras.Model(image, layers.Dense(3)(x))
        images = uniform(2, 5, 5, 2)
        assert_equal_both_ways(net, model, channels_first(images), images)

    def test_names_after_the_layers(self, torch):
        """Without `like`, a PyTorch model whose modules are named as the layers takes it as is."""
        net = frames_net(torch)
        model = cnn_lstm()
        names = {"lstm1": "lstm", "probabilities": "fc"}
        state = to_torch(model)
        state = {names.get(k.split(".")[0], k.split(".")[0]) + k[k.index("."):]: v
                 for k, v in state.items()}  # fmt: skip
        net.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
        frames = np.random.default_rng(0).integers(0, 256, (2, 4, 28, 28, 1), np.uint8)
        scaled = channels_first(frames).astype("float32") / 255
        np.testing.assert_allclose(asked(net, scaled), predict(model, frames), atol=1e-5)


# Recorded from PyTorch 2.13, for where it is not installed: `record` with `sines` as weights


def sines(shapes):
    """Weights by formula: the sine of 0, 1, 2, ... on through all entries; variances above 1."""
    state, start = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        state[name] = np.sin(np.arange(start, start + size, dtype="float32")).reshape(shape)
        state[name] += 2 * ("running_var" in name)
        start += size
    return state


def cosines(*shape):
    return np.cos(np.arange(np.prod(shape), dtype="float32")).reshape(shape)


def lstm_shapes(name, inputs, units, suffixes):
    for suffix in suffixes:
        yield f"{name}.weight_ih_{suffix}", (4 * units, inputs)
        yield f"{name}.weight_hh_{suffix}", (4 * units, units)
        yield f"{name}.bias_ih_{suffix}", (4 * units,)
        yield f"{name}.bias_hh_{suffix}", (4 * units,)


RECORDED = {
    "frames": (
        frames_net,
        {"filters": (2, 2), "features": 8, "units": 2, "classes": 3},
        lambda: chain(
            (2, 8, 8, 1),
            *(
                TimeDistributed(layer)
                for layer in (
                    layers.Conv2D(2, 3, padding="same", activation="relu"),
                    layers.MaxPooling2D(),
                    layers.Conv2D(2, 3, padding="same", activation="relu"),
                    layers.MaxPooling2D(),
                    layers.Flatten(),
                )
            ),
            LSTM(2),
            layers.Dense(3, "softmax"),
        ),
        {
            "conv1.weight": (2, 1, 3, 3), "conv1.bias": (2,),
            "conv2.weight": (2, 2, 3, 3), "conv2.bias": (2,),
            **dict(lstm_shapes("lstm", 8, 2, ["l0"])),
            "fc.weight": (3, 2), "fc.bias": (3,),
        },
        cosines(2, 2, 8, 8, 1),
        [[0.6879235, 0.19818129, 0.11389526], [0.7601934, 0.16601779, 0.07378881]],
    ),
    "bidirectional": (
        bidirectional_net,
        {"features": 3, "units": 2, "outputs": 2},
        lambda: bidirectional_model(3, 2, 2),
        {
            **dict(lstm_shapes("lstm", 3, 2, ["l0", "l0_reverse"])),
            **dict(lstm_shapes("lstm", 4, 2, ["l1", "l1_reverse"])),
            "fc.weight": (2, 4), "fc.bias": (2,),
        },
        cosines(2, 4, 3),
        [[0.4921686, -0.93720603], [0.4990465, -0.9461169]],
    ),
    "normalised": (
        normalised_net,
        {"filters": (2, 2), "size": 3, "outputs": 2},
        lambda: normalised_model((2, 2), 3, 2),
        {
            "conv1.weight": (2, 3, 3, 3),
            "bn1.weight": (2,), "bn1.bias": (2,), "bn1.running_mean": (2,), "bn1.running_var": (2,),
            "conv2.weight": (2, 2, 3, 3), "conv2.bias": (2,),
            "bn2.weight": (18,), "bn2.bias": (18,),
            "bn2.running_mean": (18,), "bn2.running_var": (18,),
            "fc.weight": (2, 18), "fc.bias": (2,),
        },
        cosines(2, 3, 3, 3),
        [[-4.067937, -6.005199], [-4.3379464, -6.0839806]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDED)
class TestRecorded:
    def test_keras_answers_as_recorded(self, name):
        _, _, model, shapes, inputs, expected = RECORDED[name]
        model = model()
        load_torch(model, sines(shapes))
        np.testing.assert_allclose(predict(model, inputs), expected, atol=1e-5)

    def test_the_names_and_weights_come_back(self, name):
        _, _, model, shapes, _, _ = RECORDED[name]
        model, state = model(), sines(shapes)
        load_torch(model, state)
        back = to_torch(model, like=state)
        assert list(back) == list(state)
        for entry in state:
            expected = state[entry]
            if "bias_ih" in entry:
                expected = expected + state[entry.replace("bias_ih", "bias_hh")]
            np.testing.assert_array_equal(back[entry], expected * ("bias_hh" not in entry))
            assert back[entry].flags.c_contiguous

    def test_the_record_is_pytorchs(self, name, torch):
        net, sizes, _, shapes, inputs, expected = RECORDED[name]
        net, state = net(torch, **sizes), sines(shapes)
        net.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=False)
        inputs = channels_first(inputs) if inputs.ndim > 3 else inputs
        np.testing.assert_allclose(asked(net, inputs), expected, atol=1e-6)


# Which module goes where


def dense_chain(*widths, names=()):
    stack = [
        layers.Dense(n, name=name)
        for n, name in zip(widths[1:], names or [None] * len(widths), strict=False)
    ]
    return chain(widths[:1], *stack)


def linears(names, *widths):
    """Linear modules of these names and widths; entry k of module k is k + 1 throughout."""
    state = {}
    for k, (name, inputs, outputs) in enumerate(zip(names, widths, widths[1:], strict=False)):
        state[f"{name}.weight"] = np.full((outputs, inputs), k + 1.0)
        state[f"{name}.bias"] = np.full(outputs, k + 1.0)
    return state


def order(model):
    """Which of `linears` went into each Dense layer."""
    return [int(w[0]) for w in model.get_weights() if w.ndim == 1]


class TestMatching:
    @pytest.mark.parametrize(
        ("widths", "entries", "how"),
        [
            # In memory a state_dict is in the order of the modules, whatever their names.
            ((2, 2, 2, 2), {"stem": 1, "body": 2, "head": 3}, "in the order of the entries"),
            # Sorted entries tell nothing: 2 comes before 10, as text or not.
            ((2, 2, 2, 2), {"fc1": 1, "fc10": 3, "fc2": 2}, "in natural order of names"),
            ((2, 2, 2, 2), {"fc1": 1, "fc2": 2, "fc10": 3}, "in natural order of names"),
            ((2, 3, 2), {"z": 2, "a": 1}, "in natural order of names"),
            ((2, 3, 2), {"b9": 1, "b10": 2}, "in natural order of names"),
            ((2, 3, 2), {"fc10": 1, "fc2": 2}, "in the order of the entries"),
            ((2, 3, 4, 5), {"a": 2, "b": 3, "c": 1}, "by shape, which fits in this order only"),
            # The layers' own names.
            ((2, 2, 2, 2), {"dense_b": 1, "dense_c": 2, "dense_a": 3}, "by the layers' names"),
        ],
    )
    def test_the_order_of_modules(self, widths, entries, how):
        names = sorted(entries, key=entries.get)
        state = linears(names, *widths)
        state = {f"{n}.{e}": state[f"{n}.{e}"] for n in entries for e in ("weight", "bias")}
        model = dense_chain(*widths, names=("dense_b", "dense_c", "dense_a"))
        report = load_torch(model, state)
        assert order(model) == sorted(entries.values())
        assert report.notes[0].startswith(f"Linear: matched {how}")

    def test_modules_of_equal_shapes_are_named(self):
        state = linears(("a", "b", "c"), 3, 2, 2, 2)
        (note,) = load_torch(dense_chain(3, 2, 2, 2), state).notes
        assert note.endswith("; by this alone, as their shapes are equal, b, c.")
        assert load_torch(dense_chain(3, 2), linears(("a",), 3, 2)).notes == ()

    def test_several_lstm_modules_and_cells(self):
        shapes = {
            **dict(lstm_shapes("first", 3, 4, ["l0"])),
            **dict(lstm_shapes("first", 4, 4, ["l1"])),
            **{n.replace("_l0", ""): shape for n, shape in lstm_shapes("cell", 4, 5, ["l0"])},
        }
        state = sines(shapes)
        model = chain(
            (None, 3), LSTM(4, return_sequences=True), LSTM(4, return_sequences=True), LSTM(5)
        )
        report = load_torch(model, state)
        assert [move.torch[0] for move in report.moves] == [
            "first.weight_ih_l0", "first.weight_hh_l0", "first.bias_ih_l0",
            "first.weight_ih_l1", "first.weight_hh_l1", "first.bias_ih_l1",
            "cell.weight_ih", "cell.weight_hh", "cell.bias_ih",
        ]  # fmt: skip
        assert list(to_torch(model, like=state)) == list(state)

    def test_names_come_from_the_layers_and_find_them_again(self, tmp_path):
        pytest.importorskip("safetensors")
        encoder = keras.Sequential(
            [layers.Conv2D(2, 3, name="conv"), layers.BatchNormalization(name="norm"),
             layers.Flatten()]
        )  # fmt: skip
        model = chain(
            (None, 4, 4, 1),
            TimeDistributed(encoder, name="encoder"),
            layers.Bidirectional(LSTM(2, return_sequences=True), name="there"),
            LSTM(3, name="back"),
            layers.Dense(2, name="scores"),
        )
        state = to_torch(model)
        lstm = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
        assert list(state) == [
            "encoder.conv.weight", "encoder.conv.bias",
            "encoder.norm.weight", "encoder.norm.bias",
            "encoder.norm.running_mean", "encoder.norm.running_var",
            *(f"there.{entry}" for entry in lstm), *(f"there.{entry}_reverse" for entry in lstm),
            *(f"back.{entry}" for entry in lstm),
            "scores.weight", "scores.bias", "encoder.norm.num_batches_tracked",
        ]  # fmt: skip
        assert state["encoder.norm.num_batches_tracked"].dtype == np.int64

        write_state_dict(tmp_path / "model.safetensors", state)
        x, before = uniform(2, 3, 4, 4, 1), model.get_weights()
        answers = predict(model, x)
        model.set_weights([w + 1 for w in before])
        load_torch(model, read_state_dict(tmp_path / "model.safetensors"))
        np.testing.assert_array_equal(predict(model, x), answers)

    def test_layers_come_branch_by_branch(self):
        image = keras.Input((6, 6, 1))
        branches = []
        for name in "zab":
            x = layers.Conv2D(2, 3, use_bias=False, name=f"{name}1")(image)
            branches.append(layers.Conv2D(2, 3, use_bias=False, name=f"{name}2")(x))
        model = keras.Model(image, layers.Concatenate()(branches))
        assert [n.split(".")[0] for n in to_torch(model)] == ["z1", "z2", "a1", "a2", "b1", "b2"]

    def test_the_report_as_text(self):
        frames = keras.Input((2, 2, 3))
        model = keras.Model(frames, layers.Dense(2, name="scores")(layers.Flatten()(frames)))
        assert str(load_torch(model, linears(("fc",), 12, 2))).splitlines() == [
            "PyTorch    shape    Keras          shape    done",
            "fc.weight  (2, 12)  scores/kernel  (12, 2)  transposed (1, 0), rows permuted from "
            "(3, 2, 2) to (2, 2, 3)",
            "fc.bias    (2,)     scores/bias    (2,)     as it is",
        ]

    def test_the_report_tells_of_another_epsilon(self):
        model = chain((3,), layers.BatchNormalization(name="norm"))
        report = load_torch(model, to_torch(model))
        assert report.notes[0] == "norm: its epsilon is 0.001; PyTorch's default is 1e-05."

    def test_half_precision(self):
        model = chain((3,), layers.Dense(2, dtype="bfloat16", name="scores"))
        load_torch(model, linears(("fc",), 3, 2))
        state = to_torch(model)
        assert {array.dtype for array in state.values()} == {np.dtype("float32")}
        np.testing.assert_array_equal(state["scores.weight"], np.ones((2, 3)))


# What is refused


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (linears(("fc",), 5, 2),
         r"received fc.weight \(2, 5\) for scores/kernel \(3, 2\), which needs \(2, 3\)"),
        ({"fc.weight": np.ones((2, 3))},
         r"received no bias for scores/bias \(2,\), which needs \(2,\)"),
        ({**linears(("fc",), 3, 2), "aux.weight": np.ones((2, 3))},
         r"received aux.weight \(2, 3\), for which the model has no weights. Build the Keras"),
        ({}, r"received no weight for scores/kernel \(3, 2\), which needs \(2, 3\)"),
        ({**linears(("fc",), 3, 2), "conv.weight": np.ones((1, 1, 3, 3))},
         r"received conv.weight \(1, 1, 3, 3\), for which the model has no weights"),
        ({"gru.weight_ih_l0": np.ones((6, 3)), "gru.weight_hh_l0": np.ones((6, 2))},
         r"LSTM \(without proj_size\).*received gru.weight_ih_l0 of shape \(6, 3\), part of some"),
        ({"lstm.weight_ih_l0": np.ones((8, 3)), "lstm.weight_hh_l0": np.ones((8, 2)),
          "lstm.weight_hr_l0": np.ones((1, 2))},
         r"received lstm.weight_hr_l0 of shape \(1, 2\), part of something else"),
        ({"norm.weight": np.ones(3)}, r"received norm.weight of shape \(3,\), part of something"),
        ({"fc.weight": np.ones((2, 3)), "fc.scale": np.ones(1)}, "received fc.scale of shape"),
        ({"fc.weight": np.ones((2, 3), int)},
         r"expected fc.weight to be of floating point; received int64 of shape \(2, 3\)"),
        ({"fc.weight": np.full((2, 3), np.nan)},
         r"expected finite numbers; received NaN or infinity in fc.weight of shape \(2, 3\)"),
        ({"fc.weight": np.full((2, 3), 1e300)}, "received NaN or infinity in fc.weight"),
        ({"fc.weight": {"nested": 1}}, "expected fc.weight to be of floating point; received obj"),
        (
            [("fc.weight", 1)],
            r"expected a mapping from names to arrays; received list.*state_dict\(\)",
        ),
        ({0: np.ones(3)}, "expected a mapping from names to arrays; received dict"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("argument", ["state_dict", "like"])
def test_entries_that_do_not_fit(state, message, argument):
    model = chain((3,), layers.Dense(2, name="scores"))
    with pytest.raises(ValueError, match=f"^{argument}: .*{message}"):
        load_torch(model, state) if argument == "state_dict" else to_torch(model, like=state)


@pytest.mark.parametrize("ignore", ["(", ["fc.*", b"fc"], 3, [None]])
def test_what_is_no_regular_expression(ignore):
    with pytest.raises(
        ValueError, match=r"^ignore: expected regular expressions; received .*fc\.\*"
    ):
        load_torch(dense_chain(3, 2), linears("a", 3, 2), ignore=ignore)


@pytest.mark.parametrize("ignore", ["count|names", ("count", "na.es")])
def test_an_entry_that_is_ignored_may_be_anything(ignore):
    state = {**linears("a", 3, 2), "count": np.ones(2, int), "names": "abc"}
    report = load_torch(dense_chain(3, 2), state, ignore=ignore)
    assert report.notes == ("Ignored: count, names.",)


def test_an_order_that_shapes_do_not_tell():
    state = {
        "a.weight": np.ones((2, 2)), "a.bias": np.ones(2),
        "b.weight": np.ones((2, 2)), "b.bias": np.ones(2),
        "c.weight": np.ones((2, 3)), "c.bias": np.ones(2),
    }  # fmt: skip
    message = r"received a, b, c, .* shapes fit in several orders\. .* in the order of its layers"
    with pytest.raises(ValueError, match=message):
        load_torch(dense_chain(3, 2, 2, 2), state)
    reordered = {name: state[name] for name in sorted(state, key=lambda name: "cab".index(name[0]))}
    assert load_torch(dense_chain(3, 2, 2, 2), reordered).moves[0].torch == ("c.weight",)


def test_tensors_that_numpy_cannot_read():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            raise TypeError("Got unsupported ScalarType BFloat16")

    message = r"expected fc.weight to be an array; received Tensor .*BFloat16.*\.cpu\(\)\.float\(\)"
    with pytest.raises(ValueError, match=message):
        load_torch(dense_chain(3, 2), {"fc.weight": Tensor()})


def test_nothing_is_changed_if_anything_does_not_fit():
    model = chain((3,), layers.Dense(2), layers.Dense(4))
    before = model.get_weights()
    for last in (np.ones(5), np.full(4, np.inf), np.ones(4, int)):
        with pytest.raises(ValueError, match=r"^state_dict: expected"):
            load_torch(model, {**linears(("a", "b"), 3, 2, 4), "b.bias": last})
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@keras.saving.register_keras_serializable()
class ScaledDense(layers.Dense):
    """A Dense with a weight of its own."""

    def build(self, input_shape):
        super().build(input_shape)
        self.scale = self.add_weight(shape=())


class Subclassed(keras.Model):
    """A model without a graph."""


def shared_in_two_orders():
    image, dense = keras.Input((2, 2, 3)), layers.Dense(2)
    again = layers.Flatten()(layers.Permute((3, 1, 2))(image))
    return keras.Model(image, layers.Add()([dense(layers.Flatten()(image)), dense(again)]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Subclassed(name="own"), "^model: .*received Subclassed 'own' without a graph"),
        (lambda: keras.Sequential([layers.Dense(2)]), "without a graph.*Begin it with keras.Input"),
        (lambda: chain((4, 4, 1), layers.DepthwiseConv2D(3, depth_multiplier=2, name="deep")),
         "received DepthwiseConv2D 'deep', which has several filters .* as Conv2D with groups"),
        (lambda: chain((4, 4, 1), layers.SeparableConv2D(2, 3, name="two")),
         "^model: expected weights in Conv2D, .*received SeparableConv2D 'two', which has no"),
        (lambda: chain((None, 3), layers.GRU(2)), "received GRU 'gru.*', which has no counterpart"),
        (lambda: chain((None, 3), layers.Bidirectional(layers.GRU(2))), "Bidirectional .*no LSTM"),
        (lambda: chain((None, 3), layers.LSTM(2, activation="relu")), "other activations than"),
        (lambda: chain((3,), layers.BatchNormalization(scale=False)), "Give it scale and center"),
        (lambda: chain((4, 3), layers.BatchNormalization(axis=1)), "or neither, and axis=-1"),
        (lambda: chain((3,), ScaledDense(2)), "received ScaledDense .*, which has weights of its"),
        (lambda: chain((3, 4, 4), layers.Conv2D(2, 3, data_format="channels_first")),
         "which has its channels first. Build it with channels_last"),
        (lambda: chain((2, 2, 3), layers.Flatten(), layers.Reshape((3, 4)), layers.Dense(2)),
         "received Dense .* reads features that 'reshape.*' may order otherwise than PyTorch"),
        (lambda: chain((2, 2, 3), layers.Flatten(), layers.Softmax(), layers.Dense(2)),
         "reads features that 'softmax.*'"),
        (lambda: chain((3,), layers.Dense(12), layers.Reshape((2, 2, 3)), layers.Conv2D(1, 2)),
         "received Conv2D .* reads features that 'reshape.*'"),
        (lambda: chain((2, 2, 4), layers.Reshape((4, 4, 1)), layers.Conv2D(1, 2)),
         "received Conv2D .* reads features that 'reshape.*'"),
        (shared_in_two_orders, "received Dense .* is called with features in two orders"),
    ],
)  # fmt: skip
def test_models_that_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        to_torch(build())


# Features that stay in order


@pytest.mark.parametrize(
    ("shape", "stack"),
    [
        ((4, 4, 1), [layers.Flatten()]),  # one channel
        ((1, 1, 5), [layers.Conv2D(3, 1), layers.Flatten()]),  # one position
        ((4, 4, 1), [layers.Conv2D(3, 3), layers.GlobalAveragePooling2D()]),
        ((None, 3), [LSTM(4, return_sequences=True), layers.Dense(3), LSTM(2)]),
        ((5, 3), [layers.Flatten()]),  # steps of features
        ((5, 3), [LSTM(4, return_sequences=True), layers.Flatten()]),
        ((5, 6, 7), [layers.Reshape((5, 42)), LSTM(2)]),  # (T, H, W) has no channels
        ((4, 4, 1), [layers.Permute((2, 1, 3)), layers.Reshape((4, 4)), LSTM(2)]),
        ((4, 4, 2), [layers.Permute((3, 1, 2)), layers.Flatten()]),  # as PyTorch does it
        ((4, 4, 2), [layers.Reshape((16, 2)), LSTM(2)]),
    ],
)
def test_no_rows_are_permuted(shape, stack):
    model = chain(shape, *stack, layers.Dense(2))
    report = load_torch(model, to_torch(model))
    assert not [move.done for move in report.moves if "permuted" in move.done]


@pytest.mark.parametrize(
    ("shape", "stack", "done"),
    [
        ((None, 4, 4, 3), [TimeDistributed(layers.Flatten()), LSTM(2)], "(3, 4, 4) to (4, 4, 3)"),
        ((2, 4, 4, 3), [layers.Reshape((2, 48)), LSTM(2)], "(3, 4, 4) to (4, 4, 3)"),
        ((4, 6, 3), [layers.Reshape((4, 18)), LSTM(2)], "(3, 6) to (6, 3)"),
        ((4, 4, 1), [layers.Conv2D(2, 1), layers.MaxPooling2D(), layers.Flatten(),
                     layers.Dropout(0.1), layers.Activation("relu"), layers.Reshape((8,))],
         "(2, 2, 2) to (2, 2, 2)"),
    ],
)  # fmt: skip
def test_rows_are_permuted(shape, stack, done):
    model = chain(shape, *stack, layers.Dense(2))
    report = load_torch(model, to_torch(model))
    permuted = [move.done for move in report.moves if "permuted" in move.done]
    assert permuted == [f"transposed (1, 0), rows permuted from {done}"]


# Files


def container(path, dtype, shape, data, name="w"):
    """A `.safetensors` file by hand: the length of the header, the header, the bytes."""
    header = {name: {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


class TestFiles:
    @pytest.fixture(autouse=True)
    def needs_safetensors(self):
        pytest.importorskip("safetensors")

    @pytest.mark.parametrize(
        ("dtype", "data", "expected"),
        [
            ("F32", np.array([1.5, -2], "<f4").tobytes(), np.float32([1.5, -2])),
            ("F64", np.array([1.5, -2], "<f8").tobytes(), np.float32([1.5, -2])),
            ("F16", np.array([1.5, -2], "<f2").tobytes(), np.float32([1.5, -2])),
            ("BF16", b"\xc0\x3f\x00\xc0", np.float32([1.5, -2])),
            ("I64", np.array([1, -2], "<i8").tobytes(), np.array([1, -2])),
        ],
    )
    def test_dtypes(self, tmp_path, dtype, data, expected):
        read = read_state_dict(container(tmp_path / "a.safetensors", dtype, [2], data))["w"]
        assert read.dtype == expected.dtype
        np.testing.assert_array_equal(read, expected)
        assert read.flags.writeable

    def test_written_and_read(self, tmp_path):
        path = tmp_path / "model.safetensors"
        path.write_text("an old file")
        square = np.arange(6, dtype="float64").reshape(2, 3)
        state = {"a10.w": square.T, "a2.w": square, "a2.num_batches_tracked": np.array(7)}
        write_state_dict(path, state)
        read = read_state_dict(path)
        assert list(read) == ["a2.num_batches_tracked", "a2.w", "a10.w"]
        for name, array in state.items():
            np.testing.assert_array_equal(read[name], array)
            assert read[name].shape == array.shape
        assert [p.name for p in tmp_path.iterdir()] == [path.name]

    def test_a_failed_writing_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "model.safetensors"
        path.write_text("an old file")

        def fail(arrays, file, metadata):
            file.write_text("half of")
            raise OSError("disk full")

        monkeypatch.setattr("safetensors.numpy.save_file", fail)
        with pytest.raises(OSError, match="disk full"):
            write_state_dict(path, {"w": np.ones(2)})
        with pytest.raises(ValueError, match=r"^state_dict: expected finite numbers"):
            write_state_dict(path, {"w": np.array([np.inf])})
        assert path.read_text() == "an old file"
        assert len(list(tmp_path.iterdir())) == 1

    @pytest.mark.parametrize("ending", ["pt", "pth", "bin", "pkl", "npz"])
    def test_other_endings(self, tmp_path, ending):
        message = (
            rf"^path: expected a .safetensors file; received .*m\.{ending}\. .*pickles.*save_f"
        )
        with pytest.raises(ValueError, match=message):
            read_state_dict(tmp_path / f"m.{ending}")
        with pytest.raises(ValueError, match=message):
            write_state_dict(tmp_path / f"m.{ending}", {})

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"^path: .* received .*: nothing there\."):
            read_state_dict(tmp_path / "m.safetensors")
        (tmp_path / "d.safetensors").mkdir()
        with pytest.raises(FileNotFoundError, match=r"^path: .* received .*: a directory\."):
            read_state_dict(tmp_path / "d.safetensors")

    @pytest.mark.parametrize("keep", [0, 7, 30, -1])
    def test_damaged(self, tmp_path, keep):
        path = container(tmp_path / "m.safetensors", "F32", [2], b"12345678")
        path.write_bytes(path.read_bytes()[:keep])
        message = (
            r"^path: expected a whole .safetensors file; received .*, which cannot be read \(.*"
        )
        with pytest.raises(ValueError, match=message + "Copy it or write it again") as error:
            read_state_dict(path)
        assert "\n" not in str(error.value)

    def test_numbers_of_8_bits(self, tmp_path):
        path = container(tmp_path / "m.safetensors", "F8_E4M3", [2], b"12", name="fc.weight")
        with pytest.raises(ValueError, match=r"received fc\.weight of type F8_E4M3\. Write"):
            read_state_dict(path)

    def test_missing_package(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "safetensors", None)
        monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
        message = (
            "^safetensors: expected this package to be installed; it is not. Install it with "
            r'python -m pip install "keras-cnnlstm\[safetensors\]"\.$'
        )
        with pytest.raises(ValueError, match=message):
            read_state_dict(tmp_path / "m.safetensors")
        with pytest.raises(ValueError, match=message):
            write_state_dict(tmp_path / "m.safetensors", {})


def test_an_lstm_without_biases_has_zeros():
    model = keras.Sequential([keras.Input((3, 4)), LSTM(2, return_sequences=True), LSTM(2)])
    model.add(layers.Dense(2))
    model.set_weights([np.ones_like(weight) for weight in model.get_weights()])
    shapes = dict(lstm_shapes("lstm", 4, 2, ["l0"])) | dict(lstm_shapes("lstm", 2, 2, ["l1"]))
    bare = sines(
        {k: v for k, v in shapes.items() if "bias" not in k}
        | {"fc.weight": (2, 2), "fc.bias": (2,)}
    )
    zeros = {name: np.zeros(shape, "float32") for name, shape in shapes.items() if "bias" in name}
    report = load_torch(model, bare)
    answers = predict(model, cosines(2, 3, 4))
    assert [move.done for move in report.moves if not move.torch] == 2 * [
        "zeros, of an LSTM without biases"
    ]
    load_torch(model, bare | zeros)
    np.testing.assert_array_equal(predict(model, cosines(2, 3, 4)), answers)
    with pytest.raises(ValueError, match=r"like: .*bias"):  # a bias has no place there
        to_torch(model, like=bare)
    with pytest.raises(ValueError, match=r"no bias_hh"):  # one of two is a mistake
        load_torch(model, bare | {"lstm.bias_ih_l0": np.zeros(8, "float32")})
