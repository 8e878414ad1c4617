"""The stack of LSTMs against PyTorch and loops in NumPy; the small parts against values by hand."""

import keras
import numpy as np
import pytest
from keras import layers
from oracles import lstm, numpy

from keras_cnnlstm.layers.length_mask import LengthMask
from keras_cnnlstm.models import blocks
from keras_cnnlstm.models.blocks import lstm_stack, reset_states, state_inputs, state_names

FEATURES, UNITS = 3, (5, 4)
TIMES = [4, 11]  # unrolled and rolled
TENSORFLOW = keras.backend.backend() == "tensorflow"


def stack(time=4, units=UNITS, *, given=False, lengths=False, batch_size=None, seed=0, **options):
    """A model of a stack alone, with random weights: the outputs `y`, and the states by name."""
    inputs = {"x": keras.Input((time, FEATURES), batch_size, name="x")}
    if lengths:
        inputs["lengths"] = keras.Input((), batch_size, dtype="int32", name="lengths")
        options["mask"] = LengthMask()(inputs["lengths"], inputs["x"])
    if given:
        options["initial_state"] = state_inputs(
            units, bidirectional=options.get("bidirectional", False), batch_size=batch_size
        )
        inputs |= options["initial_state"]
    y = lstm_stack(inputs["x"], units, **options)
    y, states = y if options.get("return_state") else (y, {})
    model = keras.Model(inputs, {"y": y, **states})
    rng = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(0, 0.6, weight.shape))
    return model


def sequences(time, batch=6, seed=1):
    return np.random.default_rng(seed).normal(0, 1, (batch, time, FEATURES)).astype("float32")


def some_states(units=UNITS, bidirectional=False, batch=6):
    rng = np.random.default_rng(2)
    return {
        name: rng.uniform(-0.8, 0.8, (batch, width)).astype("float32")
        for i, width in enumerate(units, start=1)
        for name in state_names(i, bidirectional)
    }


def run(model, x, **inputs):
    return {name: numpy(y) for name, y in model({"x": x, **inputs}).items()}


def directions(model):
    """The LSTMs of each layer, one or two, with the endings of their states' names."""
    for layer in model.layers:
        if isinstance(layer, layers.Bidirectional):
            yield [(layer.forward_layer, ""), (layer.backward_layer, "_backward")]
        elif isinstance(layer, layers.LSTM):
            yield [(layer, "")]


def by_hand(model, x, before=None):
    """All layers over one sequence `(T, F)`, step by step, in float64: outputs and final states."""
    states = {}
    for number, lstms in enumerate(directions(model), start=1):
        joined = []
        for layer, ending in lstms:
            weights = [w.astype(float) for w in layer.get_weights()[:3]]
            names = [f"lstm{number}{ending}_{part}" for part in "hc"]
            given = [before[name] for name in names] if before else ()
            outputs, c = lstm(x[::-1] if ending else x, weights, *given)
            joined.append(outputs[::-1] if ending else outputs)
            states |= dict(zip(names, (outputs[-1], c), strict=True))
        x = np.concatenate(joined, axis=1)
    return x, states


def last_outputs(model, states):
    """What the last layer answers once: of each direction, the output after all of its steps."""
    return np.concatenate([states[n] for n in states if n.startswith("lstm2") and n[-1] == "h"])


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("time", TIMES)
def test_equals_loops_in_numpy(time, bidirectional, return_sequences):
    options = {"bidirectional": bidirectional, "return_sequences": return_sequences}
    model = stack(time, given=True, return_state=True, **options)
    x, before = sequences(time), some_states(bidirectional=bidirectional)
    found = run(model, x, **before)
    for b in range(len(x)):
        y, states = by_hand(model, x[b], {name: s[b] for name, s in before.items()})
        expected = y if return_sequences else last_outputs(model, states)
        np.testing.assert_allclose(found["y"][b], expected, rtol=1e-5, atol=1e-6)
        assert states.keys() == found.keys() - {"y"}
        for name, state in states.items():
            np.testing.assert_allclose(found[name][b], state, rtol=1e-5, atol=1e-6)


class TestPyTorch:
    """Each line of the table in the docstring of `lstm_stack`."""

    HIDDEN = 4

    def twin(self, model, bidirectional):
        torch = pytest.importorskip("torch")
        lstm = torch.nn.LSTM(
            input_size=FEATURES, hidden_size=self.HIDDEN, num_layers=2,
            bidirectional=bidirectional, batch_first=True,
        )  # fmt: skip
        with torch.no_grad():
            for number, lstms in enumerate(directions(model)):
                for (layer, _), ending in zip(lstms, ("", "_reverse"), strict=False):
                    kernel, recurrent, bias = map(torch.tensor, layer.get_weights())
                    getattr(lstm, f"weight_ih_l{number}{ending}").copy_(kernel.T)
                    getattr(lstm, f"weight_hh_l{number}{ending}").copy_(recurrent.T)
                    getattr(lstm, f"bias_ih_l{number}{ending}").copy_(bias - 0.25)
                    getattr(lstm, f"bias_hh_l{number}{ending}").fill_(0.25)
        return torch, lstm.requires_grad_(False)

    def packed(self, torch, states):
        """The dict of states as PyTorch has them: h and c, each `(L*D, B, H)`."""
        return tuple(
            torch.tensor(np.stack([s for name, s in states.items() if name[-1] == part]))
            for part in "hc"
        )

    @pytest.mark.parametrize("bidirectional", [False, True])
    def test_outputs_and_states(self, bidirectional):
        options = {"bidirectional": bidirectional, "units": (self.HIDDEN,) * 2}
        model = stack(given=True, return_sequences=True, return_state=True, **options)
        torch, lstm = self.twin(model, bidirectional)
        x, before = sequences(4), some_states((self.HIDDEN,) * 2, bidirectional)
        output, (h_n, c_n) = lstm(torch.tensor(x), self.packed(torch, before))
        found = run(model, x, **before)
        np.testing.assert_allclose(found.pop("y"), output, atol=1e-6)
        names = [*state_names(1, bidirectional), *state_names(2, bidirectional)]
        h, c = self.packed(torch, {name: found[name] for name in names})
        np.testing.assert_allclose(h, h_n, atol=1e-6)
        np.testing.assert_allclose(c, c_n, atol=1e-6)

    @pytest.mark.parametrize("bidirectional", [False, True])
    def test_the_last_output(self, bidirectional):
        model = stack(bidirectional=bidirectional, units=(self.HIDDEN,) * 2)
        torch, lstm = self.twin(model, bidirectional)
        x = sequences(4)
        output, (h_n, _) = lstm(torch.tensor(x))
        expected = torch.cat([h_n[-2], h_n[-1]], 1) if bidirectional else output[:, -1]
        found = run(model, x)["y"]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        if bidirectional:  # the note below the table
            assert np.abs(found - output[:, -1].numpy()).max() > 1e-2

    @pytest.mark.parametrize("bidirectional", [False, True])
    def test_packed_sequences(self, bidirectional):
        options = {"bidirectional": bidirectional, "units": (self.HIDDEN,) * 2}
        model = stack(lengths=True, return_sequences=True, return_state=True, **options)
        torch, lstm = self.twin(model, bidirectional)
        x, lengths = sequences(4), np.array([4, 1, 3, 2, 2, 4])
        utils = torch.nn.utils.rnn
        packed, (h_n, c_n) = lstm(
            utils.pack_padded_sequence(
                torch.tensor(x), lengths, batch_first=True, enforce_sorted=False
            )
        )
        output, _ = utils.pad_packed_sequence(packed, batch_first=True)
        found = run(model, x, lengths=lengths)
        counts = np.arange(4) < lengths[:, None]
        np.testing.assert_allclose(found["y"][counts], output[counts], atol=1e-6)
        names = [*state_names(1, bidirectional), *state_names(2, bidirectional)]
        h, c = self.packed(torch, {name: found[name] for name in names})
        np.testing.assert_allclose(h, h_n, atol=1e-6)
        np.testing.assert_allclose(c, c_n, atol=1e-6)


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("time", TIMES)
def test_each_sequence_is_read_as_if_alone_and_without_padding(
    time, bidirectional, return_sequences, monkeypatch
):
    # As in Keras after 3.15.1: no layer over time hands its mask on by itself.
    for layer in (layers.RNN, layers.Bidirectional):
        monkeypatch.setattr(layer, "compute_mask", lambda self, *_: None)
    options = {"bidirectional": bidirectional, "return_sequences": return_sequences}
    model = stack(time, lengths=True, return_state=True, **options)
    x = sequences(time)
    lengths = np.array([1, 2, 3, 4, x.shape[1], 2])
    x[np.arange(x.shape[1]) >= lengths[:, None]] = 1e3  # whatever stands there
    found = run(model, x, lengths=lengths)
    for b, length in enumerate(lengths):
        y, states = by_hand(model, x[b, :length])
        expected = y if return_sequences else last_outputs(model, states)
        of_b = found["y"][b, :length] if return_sequences else found["y"][b]
        np.testing.assert_allclose(of_b, expected, rtol=1e-5, atol=1e-6)
        for name, state in states.items():
            np.testing.assert_allclose(found[name][b], state, rtol=1e-5, atol=1e-6)


def test_neither_more_padding_nor_the_rest_of_the_batch_changes_an_answer():
    model = stack(None, lengths=True, bidirectional=True, return_sequences=True)
    x, lengths = sequences(4), np.array([4, 1, 3, 2, 2, 4])
    counts = np.arange(4) < lengths[:, None]
    expected = run(model, x, lengths=lengths)["y"]
    longer = np.pad(x, ((0, 0), (0, 7), (0, 0)), constant_values=-7)
    found = run(model, longer, lengths=lengths)["y"][:, :4]
    np.testing.assert_allclose(found[counts], expected[counts], atol=1e-6)
    alone = run(model, x[2:3], lengths=lengths[2:3])["y"]
    np.testing.assert_allclose(alone[0, :3], expected[2, :3], atol=1e-6)


@pytest.mark.skipif(not TENSORFLOW, reason="the trace with an unknown T is TensorFlow's")
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_same_when_time_and_batch_are_unknown_in_the_graph(bidirectional):
    import tensorflow as tf

    options = {"lengths": True, "return_state": True, "bidirectional": bidirectional}
    model = stack(None, return_sequences=True, **options)
    signature = {
        "x": tf.TensorSpec((None, None, FEATURES)), "lengths": tf.TensorSpec((None,), tf.int32),
    }  # fmt: skip
    traced = tf.function(model, input_signature=[signature])
    for time in (4, 9):
        x, lengths = sequences(time), np.array([4, 1, 3, 2, 2, 4], "int32")
        expected = run(model, x, lengths=lengths)
        for name, found in traced({"x": x, "lengths": lengths}).items():
            np.testing.assert_allclose(found, expected[name], atol=1e-6)


class TestStates:
    @pytest.mark.parametrize("halves", [4, 9])
    def test_returned_states_given_back_go_on_where_the_sequence_was_left(self, halves):
        x = sequences(2 * halves)
        whole = run(stack(2 * halves, return_sequences=True, return_state=True), x)
        model = stack(halves, given=True, return_sequences=True, return_state=True)
        zeros = {name: 0 * state for name, state in some_states().items()}
        first = run(model, x[:, :halves], **zeros)
        y = first.pop("y")
        second = run(model, x[:, halves:], **first)
        np.testing.assert_allclose(y, whole["y"][:, :halves], atol=1e-6)
        for name in whole.keys() - {"y"}:
            np.testing.assert_allclose(second[name], whole[name], atol=1e-6)
        np.testing.assert_allclose(second["y"], whole["y"][:, halves:], atol=1e-6)

    @pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
    def test_float32_states_hold_the_numbers_of_a_half_policy_exactly(self, policy):
        model = stack(given=True, bidirectional=True, return_state=True)
        states = model({"x": sequences(4), **some_states(bidirectional=True)})
        y = states.pop("y")
        half = policy.removeprefix("mixed_")
        assert keras.backend.standardize_dtype(y.dtype) == half
        for name, state in states.items():
            assert keras.backend.standardize_dtype(state.dtype) == "float32"
            assert model.output[name].dtype == "float32"
            np.testing.assert_array_equal(numpy(keras.ops.cast(state, half)), numpy(state))

    @pytest.mark.parametrize("halves", [4, 9])
    def test_kept_states_go_on_until_they_are_reset(self, halves):
        x = sequences(2 * halves)
        options = {"return_sequences": True, "seed": 3}
        expected = run(stack(2 * halves, **options), x)["y"]
        model = stack(halves, stateful=True, batch_size=6, **options)
        for _ in range(2):
            first, second = run(model, x[:, :halves])["y"], run(model, x[:, halves:])["y"]
            np.testing.assert_allclose(first, expected[:, :halves], atol=1e-6)
            np.testing.assert_allclose(second, expected[:, halves:], atol=1e-6)
            third = run(model, x[:, :halves])["y"]
            assert np.abs(third - first).max() > 1e-2
            reset_states(model)

    def test_each_direction_keeps_its_own_state(self):
        x, again = sequences(4), sequences(4, seed=9)
        model = stack(bidirectional=True, stateful=True, batch_size=6)
        given = stack(bidirectional=True, given=True, return_state=True)
        zeros = {name: 0 * state for name, state in some_states(bidirectional=True).items()}
        states = run(given, x, **zeros)
        first = states.pop("y")
        np.testing.assert_allclose(run(model, x)["y"], first, atol=1e-6)
        expected = run(given, again, **states)["y"]
        np.testing.assert_allclose(run(model, again)["y"], expected, atol=1e-6)
        reset_states(model)
        np.testing.assert_allclose(run(model, x)["y"], first, atol=1e-6)

    def test_their_names(self):
        assert state_names(1) == ["lstm1_h", "lstm1_c"]
        assert state_names(2, bidirectional=True) == [
            "lstm2_h", "lstm2_c", "lstm2_backward_h", "lstm2_backward_c",
        ]  # fmt: skip
        inputs = state_inputs((5, 4), bidirectional=True, batch_size=2)
        assert list(inputs) == state_names(1, True) + state_names(2, True)
        assert [i.name for i in inputs.values()] == list(inputs)
        assert inputs["lstm1_backward_c"].shape == (2, 5)
        assert inputs["lstm2_h"].shape == (2, 4)
        assert {i.dtype for i in inputs.values()} == {"float32"}


class TestLayers:
    def test_their_names(self):
        model = stack(dropout=0.1)
        assert [layer.name for layer in model.layers] == [
            "x", "lstm1", "dropout1", "lstm2", "dropout2",
        ]  # fmt: skip
        model = stack(bidirectional=True)
        assert [layer.name for layer in model.layers] == ["x", "bidirectional1", "bidirectional2"]

    @pytest.mark.parametrize(
        ("time", "unrolled"), [(1, True), (8, True), (9, False), (None, False)]
    )
    def test_short_loops_are_written_out(self, time, unrolled):
        assert [layer.unroll for layer in stack(time).layers[1:]] == [unrolled, unrolled]
        both = stack(time, bidirectional=True).layers[1]
        assert both.forward_layer.unroll == both.backward_layer.unroll == unrolled

    def test_dropout_in_training_only_and_after_every_layer(self):
        x, units = sequences(4), (30, 50)
        plain = run(stack(units=units, return_sequences=True), x)["y"]
        model = stack(units=units, return_sequences=True, dropout=0.25)
        np.testing.assert_array_equal(run(model, x)["y"], plain)
        parts = [model.get_layer(name).output for name in ("dropout1", "lstm2", "dropout2")]
        below, y, dropped = map(numpy, keras.Model(model.input, parts)({"x": x}, training=True))
        assert abs((below == 0).mean() - 0.25) < 0.05
        assert abs((dropped == 0).mean() - 0.25) < 0.05
        np.testing.assert_allclose(dropped[dropped != 0], y[dropped != 0] / 0.75, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": ()}, r"units must be one or more positive numbers.*received \(\)"),
        ({"units": (4, 0)}, r"units must be one or more positive.*received \(4, 0\)"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\); received 1.0"),
        ({"dropout": -0.1}, r"`dropout` must be in \[0, 1\); received -0.1"),
        ({"stateful": True}, r"needs a known batch size.*shape \(None, 4, 3\).*a `batch_size`"),
        ({"stateful": True, "batch_size": 2, "given": True}, "received both. Choose one"),
        (
            {"stateful": True, "batch_size": 2, "bidirectional": True, "return_state": True},
            "`stateful` with `return_state` in two directions fails in Keras",
        ),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=f"lstm_stack: .*{message}"):
        stack(**options)


@pytest.mark.parametrize(
    ("given", "bidirectional"),
    [([], False), (["lstm1_h"], False), ([*state_names(1), "lstm2_h", "h"], True)],
)
def test_initial_states_that_are_not_those_of_the_layers(given, bidirectional):
    states = {name: keras.Input((4,), name=name) for name in given}
    message = r"entries \['lstm1_h', 'lstm1_c'.*received " + str(given).replace("[", r"\[")
    with pytest.raises(ValueError, match=message):
        lstm_stack(keras.Input((4, 3)), (4,), initial_state=states, bidirectional=bidirectional)


def test_no_states_to_reset():
    with pytest.raises(ValueError, match=r"must have stateful layers; 'plain' has none\. Build it"):
        reset_states(keras.Model(x := keras.Input((4, 3)), lstm_stack(x, (2,)), name="plain"))


class TestSmallParts:
    @pytest.mark.parametrize(
        ("shape", "axes", "batch_size"),
        [((None, 8, 8, 1), "THWC", None), ((4, 8, 6, 3), "THWC", 2), ((8, 6, 1), "HWC", None)],
    )
    def test_the_input_is_raw_frames(self, shape, axes, batch_size):
        frames = blocks.frames_input("model", shape, axes, batch_size)
        assert frames.shape == (batch_size, *shape)
        assert (frames.name, frames.dtype) == ("frames", "uint8")

    @pytest.mark.parametrize(("time", "batch_size"), [(None, None), (4, 2)])
    def test_or_lines_of_samples(self, time, batch_size):
        frames = blocks.frames_input("model", (time, 400, 1), "TLC", batch_size)
        assert frames.shape == (batch_size, time, 400, 1)
        assert (frames.name, frames.dtype) == ("frames", "float32")

    def test_what_else_to_do_is_said_at_the_end(self):
        with pytest.raises(ValueError, match=r"is \(400, 1\)\. Cut it\.$"):
            blocks.frames_input("net", (4, 400), "TLC", remedy="Cut it.")

    @pytest.mark.parametrize(
        ("shape", "axes", "message"),
        [
            ((28, 28), "HWC", r"\(H, W, C\), positive, all known; received \(28, 28\)"),
            ((None, 28, 1), "HWC", r"all known; received \(None, 28, 1\)"),
            ((4, 28, 28), "THWC", r"\(T, H, W, C\), positive, only T possibly None; received"),
            ((4, None, 28, 1), "THWC", r"received \(4, None, 28, 1\)"),
            ((0, 28, 28, 1), "THWC", r"received \(0, 28, 28, 1\)"),
            ((4, 28, -1, 1), "THWC", r"received \(4, 28, -1, 1\)\. Grey images need their channel"),
            ((4, 400), "TLC", r"\(T, L, C\), positive, only T possibly None; received \(4, 400\)"),
            (
                (4, None, 1),
                "TLC",
                r"received \(4, None, 1\)\. A line of one channel needs its axis",
            ),
        ],
    )
    def test_a_shape_that_cannot_be(self, shape, axes, message):
        with pytest.raises(ValueError, match=f"net: `input_shape` must be .*{message}"):
            blocks.frames_input("net", shape, axes)

    @pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"], indirect=True)
    @pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1)])
    def test_every_pixel_value_keeps_its_place(self, low, high, policy):
        frames = keras.Input((16, 16, 1), dtype="uint8")
        model = keras.Model(frames, blocks.rescaled(frames, low, high))
        y = model(np.arange(256, dtype="uint8").reshape(1, 16, 16, 1))
        assert keras.backend.standardize_dtype(y.dtype) == "float32"
        np.testing.assert_allclose(numpy(y).ravel(), np.linspace(low, high, 256), atol=1e-6)

    def test_fully_connected_layers_by_hand(self):
        x = keras.Input((3,))
        model = keras.Model(x, blocks.dense_stack(x, (4, 2), 0.5))
        names = [layer.name for layer in model.layers[1:]]
        assert names == ["dense1", "dropout1", "dense2", "dropout2"]
        rng = np.random.default_rng(0)
        w1, b1, w2, b2 = (rng.normal(0, 1, w.shape) for w in model.get_weights())
        model.set_weights([w1, b1, w2, b2])
        inputs = rng.normal(0, 1, (5, 3)).astype("float32")
        expected = np.maximum(0, np.maximum(0, inputs @ w1 + b1) @ w2 + b2)
        np.testing.assert_allclose(numpy(model(inputs)), expected, rtol=1e-5, atol=1e-6)
        assert (expected > 0).any()

    @pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
    @pytest.mark.parametrize(
        ("head", "name"), [("probabilities", "probabilities"), ("regression", "values")]
    )
    def test_the_answer_by_hand(self, head, name, policy):
        x = keras.Input((4, 3))
        model = keras.Model(x, blocks.answer(x, 2, head))
        assert model.layers[-1].name == name
        rng = np.random.default_rng(0)
        kernel, bias = rng.normal(0, 1, (3, 2)), rng.normal(0, 1, 2)
        model.set_weights([kernel, bias])
        inputs = rng.normal(0, 1, (5, 4, 3)).astype("float32")
        y = model(inputs)
        assert keras.backend.standardize_dtype(y.dtype) == "float32"
        values = inputs @ kernel + bias
        shares = np.exp(values) / np.exp(values).sum(axis=-1, keepdims=True)
        expected = {"probabilities": shares, "regression": values}[head]
        np.testing.assert_allclose(numpy(y), expected, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"], indirect=True)
    def test_values_are_scaled_at_the_end(self, policy):
        x = keras.Input((3,))
        plain, scaled = (
            keras.Model(x, blocks.answer(x, 2, "regression", scale=scale)) for scale in (1, 12.5)
        )
        scaled.set_weights(plain.get_weights())
        inputs = np.random.default_rng(0).normal(0, 1, (5, 3)).astype("float32")
        y = scaled(inputs)
        assert scaled.layers[-1].name == "values"
        assert keras.backend.standardize_dtype(y.dtype) == "float32"
        np.testing.assert_allclose(numpy(y), 12.5 * numpy(plain(inputs)), rtol=1e-6)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((1,), "`num_classes` must be an integer from 2"),
            ((0, "regression"), "`num_classes` must be an integer from 1"),
            (
                (3, "logits"),
                r"`head` must be one of probabilities, multi_label, regression.*'logits'",
            ),
        ],
    )
    def test_answers_that_cannot_be(self, arguments, message):
        with pytest.raises(ValueError, match=f"net: {message}"):
            blocks.check_classes("net", *arguments)
        blocks.check_classes("net", 1, "regression")
