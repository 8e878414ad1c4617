"""A stream answers after every frame as the whole-sequence model does, and reads it once."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_cnnlstm.layers.time_distributed import TimeDistributed
from keras_cnnlstm.models.baselines import early_fusion_cnn, flat_mlp
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.streaming import FrameStream, Stream, step_model

FRAME = (8, 8, 1)  # (H, W, C)
POLICIES = {"float32": 1e-5, "mixed_bfloat16": 2e-2, "mixed_float16": 2e-2}  # and tolerances


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def video(batch=2, time=3, frame=FRAME, seed=0):
    """Frames `(B, T, H, W, C)` uint8."""
    return np.random.default_rng(seed).integers(0, 256, (batch, time, *frame), np.uint8)


def small(time=None, **options):
    return cnn_lstm((time, *FRAME), 3, **{"lstm_units": (5,), **options})


def chain(*stack, shape=(4, *FRAME)):
    """A model of these layers, one after the other."""
    return keras.Sequential([keras.Input(shape, dtype="uint8"), *stack])


def flattened():
    return TimeDistributed(layers.Flatten())


def normalising_encoder():
    return keras.Sequential(
        [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.GlobalAveragePooling2D()]
    )


def branching_encoder():
    """A functional model whose graph is no chain; as an encoder it counts as one layer."""
    x = keras.Input(FRAME)
    y = layers.Concatenate()([layers.Conv2D(2, 3)(x), layers.Conv2D(3, 3)(x)])
    return keras.Model(x, layers.Flatten()(y))


ARCHITECTURES = {
    "reference": {},
    "unrolled": {"time": 3},
    "fixed": {"time": 12},
    "stacked": {"lstm_units": (5, 3, 4), "dropout": 0.5},
    "encoder": {"wrap": "encoder", "lstm_units": (5, 4)},
    "normalising": {"encoder": normalising_encoder},
    "branching": {"encoder": branching_encoder},
}


def build(name, **options):
    """One of `ARCHITECTURES`, with further options."""
    options = ARCHITECTURES[name] | options
    if "encoder" in options:
        options["encoder"] = options["encoder"]()
    return small(**options)


def whole_answers(model, frames):
    """The answers of a whole-sequence model of any T to each prefix: `(B, T, num_classes)`."""
    prefixes = [frames[:, : t + 1] for t in range(frames.shape[1])]
    return np.stack([model.predict_on_batch(x) for x in prefixes], axis=1)


def stream_answers(stream, frames, output="probabilities"):
    state, answers = stream.initial_state(len(frames)), []
    for t in range(frames.shape[1]):
        outputs, state = stream.step(frames[:, t], state)
        assert {x.dtype for x in state.values()} == {np.dtype("float32")}
        answers.append(outputs[output])
    return np.stack(answers, axis=1)


def assert_streams_equal(stream, model, frames, tolerance=1e-5):
    expected = whole_answers(model, frames)
    assert np.ptp(expected, axis=1).max() > 1e-4  # the answer moves with the frames
    np.testing.assert_allclose(stream_answers(stream, frames), expected, rtol=0, atol=tolerance)


class TestEquality:
    @pytest.mark.parametrize("policy", POLICIES, indirect=True)
    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_equals_the_whole_model_after_every_frame(self, name, policy):
        model, reference = build(name), build(name, time=None)
        reference.set_weights(model.get_weights())
        assert_streams_equal(Stream(model), reference, video(), POLICIES[policy])

    @pytest.mark.parametrize("policy", POLICIES, indirect=True)
    def test_streams_a_loaded_model_in_its_own_precision(self, policy, tmp_path):
        model = small(lstm_units=(5, 4))
        model.save(tmp_path / "model.keras")
        keras.config.set_dtype_policy("float32")
        stream = Stream(keras.models.load_model(tmp_path / "model.keras"))
        assert stream.model.get_layer("lstm2_step").compute_dtype == model.compute_dtype
        assert_streams_equal(stream, model, video(), POLICIES[policy])

    def test_goes_on_past_the_length_of_the_model(self):
        model, reference = small(2), small()
        reference.set_weights(model.get_weights())
        assert_streams_equal(Stream(model), reference, video(time=6))

    def test_drops_nothing(self):
        stream = Stream(small(dropout=0.9))
        once, again = stream_answers(stream, video()), stream_answers(stream, video())
        np.testing.assert_array_equal(once, again)

    @pytest.mark.parametrize("wrapper", [TimeDistributed, layers.TimeDistributed])
    def test_answers_of_each_step_stream_too(self, wrapper):
        frames = keras.Input((3, *FRAME), dtype="uint8")
        x = layers.Rescaling(1 / 255)(frames)
        x = wrapper(layers.Flatten())(x)
        x = layers.Dense(6, "tanh")(x)
        x = layers.LSTM(4, return_sequences=True, dropout=0.5, recurrent_dropout=0.5)(x)
        model = keras.Model(frames, wrapper(layers.Dense(3), name="scores")(x))
        expected = keras.ops.convert_to_numpy(model(video()))
        answers = stream_answers(Stream(model), video(), "scores")
        np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-5)

    def test_streams_a_sequential_model(self):
        stack = [flattened(), layers.LSTM(4), layers.Dense(2, name="scores")]
        model = chain(*stack, shape=(None, *FRAME))
        answers = stream_answers(Stream(model), video(), "scores")
        np.testing.assert_allclose(answers, whole_answers(model, video()), rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("head", "output"), [("probabilities", "probabilities"), ("regression", "values")]
    )
    def test_a_model_with_lengths(self, head, output):
        model = small(5, per_step=True, lengths=True, head=head, lstm_units=(5, 4))
        frames = video(2, 5)
        whole = model({"frames": frames, "lengths": np.array([5, 5], "int32")})
        answers = stream_answers(Stream(model), frames, output)
        np.testing.assert_allclose(answers, np.asarray(whole), rtol=0, atol=1e-6)

    def test_numbers_stream_as_numbers(self):
        model = cnn_lstm((None, *FRAME), 2, head="regression", per_step=True, lstm_units=(5,))
        frames = video(1, 3)
        live = FrameStream(model)
        first, *_, last = live.answers(frames[0])
        np.testing.assert_allclose(last.values, np.asarray(model(frames))[0, -1], atol=1e-6)
        assert last.label == f"{last.values[0]:.2f}, {last.values[1]:.2f}"
        assert (last.step, last.class_id, last.probabilities) == (3, None, None)
        named = FrameStream(model, ["a", "b"])  # of numbers names are allowed, one for each
        np.testing.assert_array_equal(named.push(frames[0, 0]).values, first.values)
        with pytest.raises(ValueError, match="must have 2 names"):
            FrameStream(model, ["a"])

    def test_labels_stream_as_those_over_a_half(self):
        model = cnn_lstm((None, *FRAME), 3, head="multi_label", lstm_units=(5,))
        frames = video(1, 3)
        *_, last = FrameStream(model, ["a", "b", "c"]).answers(frames[0])
        whole = np.asarray(model(frames))[0]
        np.testing.assert_allclose(last.probabilities, whole, atol=1e-6)
        over = [name for name, share in zip("abc", whole, strict=True) if share > 0.5]
        assert (last.label, last.class_id) == (", ".join(over), None)


class TestStepModel:
    def test_has_the_named_inputs_and_outputs(self):
        step = step_model(small(lstm_units=(5, 4)))
        shapes = {
            f"lstm{i}_{part}": (None, units) for i, units in ((1, 5), (2, 4)) for part in "hc"
        }
        inputs, outputs = shapes | {"frame": (None, *FRAME)}, shapes | {"probabilities": (None, 3)}
        assert {n: x.shape for n, x in step.input.items()} == inputs
        assert {n: x.shape for n, x in step.output.items()} == outputs
        assert step.input["frame"].dtype == "uint8"
        assert {step.output[name].dtype for name in shapes} == {"float32"}
        assert step.name == "cnn_lstm_step"

    def test_shares_the_weights(self):
        model = small(dropout=0.5)
        stream, before = Stream(model), model.get_weights()
        assert {id(w) for w in stream.model.weights} == {id(w) for w in model.weights}
        old = stream_answers(stream, video())  # compiles the step with the old weights
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.train_on_batch(video(), np.array([0, 1]))
        assert_streams_equal(stream, model, video())
        assert np.abs(stream_answers(stream, video()) - old).max() > 1e-4
        model.set_weights(before)
        np.testing.assert_allclose(stream_answers(stream, video()), old, rtol=0, atol=1e-6)

    def test_leaves_the_whole_model_as_it_was(self, tmp_path):
        model = small(lstm_units=(5, 4))
        before, config = whole_answers(model, video()), model.get_config()
        step_model(model)
        assert model.get_config() == config
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(whole_answers(loaded, video()), before, rtol=0, atol=1e-6)

    def test_can_be_saved(self, tmp_path):
        stream = Stream(small(lstm_units=(5, 4)))
        before = stream_answers(stream, video())
        stream.model.save(tmp_path / "step.keras")
        stream.model = keras.models.load_model(tmp_path / "step.keras")
        np.testing.assert_allclose(stream_answers(stream, video()), before, rtol=0, atol=1e-6)

    def test_reads_each_frame_once(self):
        read = []

        class Counting(layers.Flatten):
            def call(self, x):
                read.append(x.shape[0])
                return super().call(x)

        stream = Stream(small(encoder=Counting()))
        stream.model.compile(run_eagerly=True)  # so that each call is counted, not each trace
        read.clear()
        stream_answers(stream, video(batch=2, time=4))
        assert read == [2, 2, 2, 2]  # the two new frames of each step


def two_inputs():
    frames, lengths = keras.Input((4, *FRAME)), keras.Input((), dtype="int32")
    x = layers.LSTM(2)(flattened()(frames))
    return keras.Model([frames, lengths], x + keras.ops.cast(lengths, "float32")[:, None])


def residual():
    x = keras.Input((4, 6))
    return keras.Model(x, layers.LSTM(2)(layers.Add()([x, layers.Dense(6)(x)])))


def state_as_answer():
    x = keras.Input((4, 6))
    return keras.Model(x, layers.Dense(2)(layers.LSTM(2, return_state=True)(x)[2]))


def bare_operation():
    x = keras.Input((4, 6))
    return keras.Model(x, keras.ops.flip(layers.LSTM(2)(x), axis=-1))


def always_training():
    x = keras.Input((4, 6))
    return keras.Model(x, layers.LSTM(2)(layers.Dropout(0.5)(x, training=True)))


class Opaque(keras.Model):
    def call(self, x):
        return x


REFUSED = {
    "bidirectional": (
        lambda: small(bidirectional=True),
        r"`model` .* Bidirectional 'bidirectional1' .* needs the future\. .*bidirectional=False",
    ),
    "backwards": (
        lambda: chain(flattened(), layers.LSTM(2, go_backwards=True)),
        "LSTM .* reads the frames backwards.*go_backwards=False",
    ),
    "flat_mlp": (lambda: flat_mlp((4, *FRAME)), "Flatten 'flatten' sees all frames.*wrap it in"),
    "early_fusion_cnn": (lambda: early_fusion_cnn((4, *FRAME)), "Permute 'time_to_.*' sees all"),
    "mixing": (
        lambda: chain(flattened(), layers.Conv1D(3, 2), layers.LSTM(2)),
        "Conv1D .* may mix them.*wrap it in TimeDistributed",
    ),
    "no LSTM": (lambda: chain(flattened()), "Sequential .* has no LSTM.*Stream a cnn_lstm"),
    "several inputs": (two_inputs, "has 2 inputs and 1 outputs, not one.*as a chain"),
    "branches": (residual, "Add .* has several inputs or outputs in use.*as a chain"),
    "state as answer": (state_as_answer, "LSTM .* has several inputs or outputs in use"),
    "operation": (bare_operation, "Flip .* outside of a layer.*Put it into a layer"),
    "training": (always_training, "Dropout .* with training=True.*Leave that out"),
    "subclass": (Opaque, "Opaque .* has no graph of layers.*functional model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_cannot_be_streamed(name):
    model, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^step_model: .*{message}"):
        step_model(model())


@pytest.fixture(scope="module")
def stream():
    return Stream(small(lstm_units=(5, 4)))


class TestStream:
    def test_begins_with_zeros(self, stream):
        state = stream.initial_state(3)
        shapes = {"lstm1_h": (3, 5), "lstm1_c": (3, 5), "lstm2_h": (3, 4), "lstm2_c": (3, 4)}
        assert {n: x.shape for n, x in state.items()} == shapes
        assert all(x.dtype == np.float32 and not x.any() for x in state.values())

    def test_streams_side_by_side_do_not_touch_each_other(self, stream):
        frames = video(3)
        alone = np.concatenate([stream_answers(stream, frames[i : i + 1]) for i in range(3)])
        np.testing.assert_allclose(stream_answers(stream, frames), alone, rtol=0, atol=1e-6)

    def test_does_not_change_the_state_it_is_given(self, stream):
        _, state = stream.step(video()[:, 0], stream.initial_state(2))
        copy = {name: x.copy() for name, x in state.items()}
        first, _ = stream.step(video()[:, 1], state)
        stream.reset(state, np.array([True, True]))
        for name, x in copy.items():
            np.testing.assert_array_equal(state[name], x)
        again, _ = stream.step(video()[:, 1], state)
        np.testing.assert_array_equal(first["probabilities"], again["probabilities"])

    def test_reset_starts_only_the_chosen_streams_afresh(self, stream):
        frames, state = video(3, 4), stream.initial_state(3)
        for t in range(2):
            _, state = stream.step(frames[:, t], state)
        state = stream.reset(state, np.array([False, True, False]))
        assert {x.dtype for x in state.values()} == {np.dtype("float32")}
        for t in range(2, 4):
            outputs, state = stream.step(frames[:, t], state)
        expected = stream_answers(stream, frames)[:, -1]
        expected[1] = stream_answers(stream, frames[1:2, 2:])[0, -1]
        np.testing.assert_allclose(outputs["probabilities"], expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("batch", [0, -1, 1.5, "two", None])
    def test_refuses_a_bad_batch(self, stream, batch):
        with pytest.raises(ValueError, match=r"initial_state: `batch` must be .*1"):
            stream.initial_state(batch)

    @pytest.mark.parametrize(
        ("frame", "received"),
        [
            (np.zeros(FRAME, "uint8"), r"uint8 of shape \(8, 8, 1\)"),
            (np.zeros((1, 8, 9, 1), "uint8"), r"uint8 of shape \(1, 8, 9, 1\)"),
            (np.zeros((1, 1, *FRAME), "uint8"), r"uint8 of shape \(1, 1, 8, 8, 1\)"),
            (np.zeros((1, *FRAME), "float32"), r"float32 of shape \(1, 8, 8, 1\)"),
        ],
    )
    def test_refuses_a_frame_that_does_not_fit(self, stream, frame, received):
        message = rf"step: `frame` must be uint8 of shape \(B, 8, 8, 1\); received {received}.*raw"
        with pytest.raises(ValueError, match=message):
            stream.step(frame, stream.initial_state())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda s: None, r"a dict .*\['lstm1_h', .*'lstm2_c'\]; received NoneType\. Begin"),
            (lambda s: {}, r"a dict .* received \[\]"),
            (lambda s: {**s, "lstm3_h": 0}, r"a dict .* received \[.*'lstm3_h'\]"),
            (lambda s: {"lstm1_h": s["lstm1_h"]}, r"a dict .* received \['lstm1_h'\]"),
        ],
    )
    def test_refuses_a_state_of_other_names(self, stream, change, message):
        with pytest.raises(ValueError, match=f"Stream.step: `state` must be {message}"):
            stream.step(video(1)[:, 0], change(stream.initial_state()))

    @pytest.mark.parametrize(
        ("value", "received"),
        [
            (np.zeros((2, 4), "float32"), r"float32 of shape \(2, 4\)"),
            (np.zeros((3, 5), "float32"), r"float32 of shape \(3, 5\)"),
            (np.zeros((3, 4)), r"float64 of shape \(3, 4\)"),
            (0.0, r"float64 of shape \(\)"),
        ],
    )
    def test_refuses_a_state_that_does_not_fit(self, stream, value, received):
        state = {**stream.initial_state(3), "lstm2_c": value}
        message = rf"`state\['lstm2_c'\]` must be float32 of shape \(3, 4\).*received {received}"
        with pytest.raises(ValueError, match=rf"step: {message}.*initial_state\(3\)"):
            stream.step(video(3)[:, 0], state)
        with pytest.raises(ValueError, match=rf"reset: {message}.*initial_state\(3\)"):
            stream.reset(state, np.zeros(3, bool))

    @pytest.mark.parametrize(
        ("where", "message"),
        [
            (np.array([0, 1]), r"where` must be bool .*received int64 of shape \(2,\).*np\.isin"),
            (np.zeros((2, 1), bool), r"where` .* \(B\); received bool of shape \(2, 1\)"),
            (True, r"where` must be bool of shape \(B\); received bool of shape \(\)"),
            (np.zeros(3, bool), r"state\['lstm1_h'\]` must .* \(3, 5\).*each stream of `where`"),
        ],
    )
    def test_refuses_a_bad_where(self, stream, where, message):
        with pytest.raises(ValueError, match=f"reset: `{message}"):
            stream.reset(stream.initial_state(2), where)


class TestFrameStream:
    def test_answers_as_the_stream_does(self, stream):
        live = FrameStream(stream, ["calm", "wind", "storm"])
        expected = stream_answers(stream, video(1))[0]
        for t, answer in enumerate(live.answers(video(1)[0])):
            np.testing.assert_allclose(answer.probabilities, expected[t], rtol=0, atol=1e-6)
            assert answer.step == t + 1
            assert answer.class_id == expected[t].argmax()
            assert answer.label == ["calm", "wind", "storm"][answer.class_id]
        assert t == 2

    def test_reads_frames_one_by_one(self, stream):
        live = FrameStream(stream)
        answers = live.answers(iter([video()[0, 0], "not reached"]))
        assert next(answers).step == 1

    def test_without_names_the_label_is_the_index(self):
        answer = FrameStream(small()).push(video()[0, 0])
        assert answer.label == str(answer.class_id)

    def test_reset_forgets(self, stream):
        live, frames = FrameStream(stream), video()[0]
        first = [live.push(frame) for frame in frames[:2]]
        live.reset()
        again = [live.push(frame) for frame in frames[:2]]
        assert [a.step for a in again] == [1, 2]
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a.probabilities, b.probabilities)

    def test_two_live_streams_may_share_one_stream(self, stream):
        one, other = FrameStream(stream), FrameStream(stream)
        list(one.answers(video()[0]))
        fresh, expected = other.push(video()[1, 0]), stream_answers(stream, video()[1:, :1])
        np.testing.assert_allclose(fresh.probabilities, expected[0, 0], rtol=0, atol=1e-6)

    def test_refuses_another_number_of_names(self, stream):
        message = "FrameStream: `class_names` must have 3 names.*received 2.*Leave it out"
        with pytest.raises(ValueError, match=message):
            FrameStream(stream, ["calm", "storm"])

    @pytest.mark.parametrize("frame", [np.zeros((1, *FRAME), "uint8"), np.zeros(FRAME)])
    def test_a_refused_frame_changes_nothing(self, stream, frame):
        live = FrameStream(stream)
        live.push(video()[0, 0])
        message = r"FrameStream.push: `frame` must be uint8 of shape \(8, 8, 1\); received .*raw"
        with pytest.raises(ValueError, match=message):
            live.push(frame)
        answer, expected = live.push(video()[0, 1]), stream_answers(stream, video()[:1, :2])
        assert answer.step == 2
        np.testing.assert_allclose(answer.probabilities, expected[0, 1], rtol=0, atol=1e-6)
