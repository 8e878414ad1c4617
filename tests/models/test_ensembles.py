"""The mean of several models against the mean by hand; whole, frame by frame, and calibrated."""

import itertools

import keras
import numpy as np
import pytest

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.export.exporter import export
from keras_cnnlstm.export.predictor import open_predictor
from keras_cnnlstm.layers.averaging import TTACopies
from keras_cnnlstm.models.baselines import bag_of_frames
from keras_cnnlstm.models.calibration import scale_temperature, scaled, softmax_head
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.ensembles import average_models, with_test_time_augmentation
from keras_cnnlstm.models.streaming import FrameStream, Stream, step_model
from keras_cnnlstm.training.trainer import member_configs

SHAPE = (3, 12, 10, 2)


def frames(batch=2):
    return np.random.default_rng(0).integers(0, 256, (batch, *SHAPE), np.uint8)


def model(**options):
    return cnn_lstm(SHAPE, 4, **{"encoder": "small_cnn", "lstm_units": (5,), **options})


def given(options):
    x = frames()
    return {"frames": x, "lengths": np.array([1, 3], "int32")} if "lengths" in options else x


@pytest.mark.parametrize(
    "options", [{}, {"per_step": True, "head": "regression"}, {"lengths": True}]
)
def test_the_answer_of_several_models_is_the_mean_of_theirs(options, reloaded):
    models = [model(**options) for _ in range(3)]
    x = given(options)
    expected = np.mean([one(x) for one in models], axis=0)
    whole = average_models(models)
    np.testing.assert_allclose(whole(x), expected, atol=1e-6)
    assert whole.output_names == models[0].output_names
    assert [i.name for i in whole.inputs] == [i.name for i in models[0].inputs]
    copies = keras.ops.convert_to_numpy(TTACopies(3)(frames())).reshape(3, *frames().shape)
    seen = [whole({**x, "frames": c} if options.get("lengths") else c) for c in copies]
    np.testing.assert_allclose(
        with_test_time_augmentation(whole, 3)(x), np.mean(seen, axis=0), atol=1e-5
    )
    models[1].set_weights([w + 0.1 for w in models[1].get_weights()])  # they are shared
    assert np.any(np.abs(whole(x) - expected) > 1e-4)
    loaded = reloaded(whole)
    np.testing.assert_allclose(loaded(x), whole(x), atol=1e-6)


def test_a_model_twice_answers_as_it_does():
    one = model()
    np.testing.assert_allclose(average_models([one, one])(frames()), one(frames()), atol=1e-6)


def test_the_mean_of_means_is_the_mean_of_all():
    models = [model() for _ in range(4)]
    whole = average_models([average_models(models[:2]), average_models(models[2:])])
    np.testing.assert_allclose(whole(frames()), average_models(models)(frames()), atol=1e-6)


def test_what_all_rule_out_has_the_least_probability_and_not_none():
    sure = model()
    kernel, _ = sure.layers[-1].get_weights()
    sure.layers[-1].set_weights([np.zeros_like(kernel), np.array([0, -300, 0, 0], "float32")])
    found = np.asarray(average_models([sure, sure])(frames()))
    np.testing.assert_allclose(found[:, [0, 2, 3]], 1 / 3, atol=1e-6)
    assert np.all(found[:, 1] <= 1e-29)


@pytest.mark.parametrize("policy", ["mixed_bfloat16"], indirect=True)
def test_in_half_precision_the_mean_is_taken_in_float32(policy):
    models = [model(), model(encoder="conv_pool")]
    expected = np.mean([np.asarray(one(frames())) for one in models], axis=0)
    whole = average_models(models)
    assert {layer.compute_dtype for layer in whole.layers[-2:]} == {"float32"}
    np.testing.assert_allclose(whole(frames()), expected, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.7])
@pytest.mark.parametrize("options", [{}, {"per_step": True}])
def test_the_mean_has_a_temperature_of_its_own(temperature, options):
    models = [model(**options) for _ in range(3)]
    expected = scaled(np.mean([one(frames()) for one in models], axis=0), temperature)
    whole = average_models(models)
    assert softmax_head(whole) is not None
    scale_temperature(whole, temperature)
    np.testing.assert_allclose(whole(frames()), expected, atol=1e-6)


def test_models_without_logits_have_their_mean_and_no_temperature():
    models = [model(), bag_of_frames(SHAPE, 4, encoder="small_cnn")]
    whole = average_models(models)
    expected = np.mean([one(frames()) for one in models], axis=0)
    np.testing.assert_allclose(whole(frames()), expected, atol=1e-6)
    assert softmax_head(whole) is None


@pytest.mark.parametrize(
    "options",
    [{}, {"lstm_units": (5, 3)}, {"per_step": True, "head": "regression"}, {"lengths": True}],
)
def test_frame_by_frame_it_answers_as_whole(options):
    models = [model(**options), model(**{**options, "encoder": "conv_pool", "dropout": 0.5})]
    stream = Stream(average_models(models))
    names = {f"member{i}_{name}" for i in (1, 2) for name in step_model(models[0]).input}
    assert stream.state_shapes.keys() == names - {"member1_frame", "member2_frame"}
    state = stream.initial_state(2)
    for step in range(SHAPE[0]):
        answers, state = stream.step(frames()[:, step], state)
        (answer,) = answers.values()
        # What each says of the frames so far, by itself.
        alone = [Stream(one) for one in models]
        expected = []
        for one in alone:
            before = one.initial_state(2)
            for seen in range(step + 1):
                told, before = one.step(frames()[:, seen], before)
            expected.append(*told.values())
        np.testing.assert_allclose(answer, np.mean(expected, axis=0), atol=1e-6)
    x = given(options)
    if "lengths" in options:
        x["lengths"] = np.array([3, 3], "int32")
    whole = np.asarray(average_models(models)(x))
    np.testing.assert_allclose(answer, whole[:, -1] if "per_step" in options else whole, atol=1e-5)


def test_a_live_stream_of_an_ensemble_of_ensembles():
    models = [model() for _ in range(3)]
    whole = average_models([average_models(models[:2]), models[2]])
    live = FrameStream(whole, list("abcd"))
    for frame in frames(1)[0]:
        answer = live.push(frame)
    np.testing.assert_allclose(answer.probabilities, whole(frames(1))[0], atol=1e-5)


def test_means_of_something_else_are_not_taken_for_an_ensemble():
    frames = keras.Input(SHAPE, dtype="uint8", name="frames")

    def member(**options):
        built = model(**options)
        return keras.Model(built.inputs[0], built.outputs[0], name=f"member{next(numbers)}")

    numbers = itertools.count(1)
    one, other = member(), member()
    upside_down = keras.layers.Average()([one(frames), other(frames[:, :, ::-1])])
    joined = keras.layers.Concatenate()([one(frames), other(frames)])
    steps = [member(per_step=True)(frames), member(per_step=True)(frames)]
    over_time = keras.layers.GlobalAveragePooling1D()(keras.layers.Average()(steps))
    for answer in (upside_down, joined, over_time):
        with pytest.raises(ValueError, match="step_model: `model` must read its frames in order"):
            step_model(keras.Model(frames, answer))


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="export needs TensorFlow")
@pytest.mark.parametrize("format", ["saved_model", "litert", "onnx"])
def test_it_is_exported_with_its_temperature(format, tmp_path):
    whole = average_models([model(), model(encoder="conv_pool")])
    scale_temperature(whole, 0.6)
    done = export(whole, tmp_path / "out", format, class_names=list("abcd"))
    assert done.parity["max_difference"] <= 1e-5
    told = open_predictor(done.path).answer_frames(frames(1)[0])
    found = list(told["probabilities"].values())
    np.testing.assert_allclose(found, whole.predict(frames(1), verbose=0)[0], atol=1e-5)


def test_a_member_that_needs_the_future_is_named():
    whole = average_models([model(), model(bidirectional=True)])
    with pytest.raises(
        ValueError, match="Bidirectional 'bidirectional1' reads the frames backwards too"
    ):
        step_model(whole)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: [model()], "must be two or more; received 1"),
        (lambda: [], "must be two or more; received 0"),
        (model, "must be a list of models; received"),
        (lambda: [model(), "a run"], "must be"),
        (lambda: [model(), model(lengths=True)], r"equal inputs and outputs; .* lengths \(None,\)"),
        (
            lambda: [model(), cnn_lstm(SHAPE, 5, encoder="small_cnn")],
            r"uint8 -> \(None, 4\) and .* uint8 -> \(None, 5\)",
        ),
        (lambda: [model(return_state=True)] * 2, "one output each; received ones with 3"),
    ],
)
def test_models_that_have_no_mean(build, message):
    with pytest.raises(ValueError, match=rf"average_models: `models` .*{message}"):
        average_models(build())


def test_members_differ_by_seed_and_encoder(tmp_path):
    encoders = ("paired_cnn", "small_cnn", "paired_cnn")
    config = TrainConfig(ensemble=encoders, seed=7, lstm_units=(9,))
    found = member_configs(config, tmp_path)
    assert tuple(one.encoder for one in found) == encoders
    assert [one.seed for one in found] == [7, 8, 9]
    assert [one.run_dir for one in found] == [str(tmp_path / "members" / n) for n in "123"]
    assert {(one.ensemble, one.lstm_units) for one in found} == {(None, (9,))}


PAIR = ("small_cnn", "small_cnn")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ensemble": ()}, r"ensemble must be one or more, each text; received \(\)"),
        ({"ensemble": ("small_cnn",)}, "ensemble must have two encoders or more; received"),
        ({"ensemble": ("small_cnn", "no")}, "ensemble must be encoders, each one of conv_pool, .*"),
        ({"ensemble": PAIR, "model": "captioner"}, "ensemble must .* with model captioner"),
        ({"ensemble": PAIR, "model": "scan_lstm"}, "ensemble must .* with model scan_lstm: .*seed"),
        ({"ensemble": PAIR, "encoder": "paired_cnn"}, "encoder must .* --ensemble.* 'paired_cnn'"),
        ({"ensemble": PAIR, "encoder": ("./run",)}, r"encoder must .* received \('./run',\)"),
        ({"ensemble": PAIR, "seed": 2**31 - 1}, "seed must be 2147483646 at most for 2 members"),
    ],
)
def test_options_that_are_no_ensemble_s(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)


def test_members_may_be_any_encoder_there_are_seeds_for():
    assert TrainConfig(ensemble=["./a", "b.keras"]).resolved.ensemble == ("./a", "b.keras")
    assert len(TrainConfig(ensemble=PAIR, seed=2**31 - 2).ensemble) == 2
