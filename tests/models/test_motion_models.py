"""Models whose encoder reads motion: parts, streams, saving, explanations."""

import keras
import numpy as np
import pytest

from keras_cnnlstm.evaluation import grad_cam
from keras_cnnlstm.layers import Motion
from keras_cnnlstm.models import FrameStream, bag_of_frames, cnn_lstm, split_model

T, LAG = 6, 2


def built():
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )


@pytest.fixture(params=["difference", "both of a name", "both of a model"])
def model(request):
    keras.utils.set_random_seed(1)
    motion = request.param.split()[0]
    encoder = built() if request.param == "both of a model" else "conv_pool"
    shape = (T, 16, 16, 3)
    options = {"motion": motion, "motion_lag": LAG, "normalize": True}
    return cnn_lstm(shape, 3, encoder=encoder, lengths=True, lstm_units=(8,), **options)


@pytest.fixture
def inputs():
    frames = np.random.default_rng(2).integers(0, 256, (2, T, 16, 16, 3)).astype("uint8")
    return {"frames": frames, "lengths": np.array([T, 4], "int32")}


def test_the_parts_answer_what_the_model_does(model, inputs):
    parts = split_model(model)
    images = keras.ops.convert_to_numpy(parts.motion(inputs["frames"]))
    vectors = parts.frame_encoder.predict_on_batch(images.reshape(-1, *images.shape[2:]))
    given = {"features": vectors.reshape(2, T - LAG, -1), "lengths": inputs["lengths"]}
    found = parts.sequence_model.predict_on_batch(given)
    np.testing.assert_allclose(found, model.predict_on_batch(inputs), atol=1e-6)


def test_a_model_of_differences_sees_no_still_scene(inputs):
    model = cnn_lstm((T, 16, 16, 3), 3, motion="difference")
    still = np.repeat(inputs["frames"][:, :1], T, axis=1)
    answers = model.predict_on_batch(still)
    np.testing.assert_array_equal(answers[0], answers[1])
    assert abs(np.diff(model.predict_on_batch(inputs["frames"]), axis=0)).max() > 1e-4


def test_a_stream_answers_what_the_model_does(model, inputs):
    whole = model.predict_on_batch(inputs)
    for row, length in enumerate(inputs["lengths"]):
        live = FrameStream(model)
        *_, last = live.answers(inputs["frames"][row, :length])
        np.testing.assert_allclose(last.probabilities, whole[row], atol=1e-6)
        live.reset()
        *_, again = live.answers(inputs["frames"][row, :length])
        np.testing.assert_array_equal(again.probabilities, last.probabilities)


def test_streams_side_by_side_begin_again_alone(model, inputs):
    stream = FrameStream(model).stream
    state = stream.initial_state(2)
    frames = inputs["frames"]
    for t in range(4):
        _, state = stream.step(frames[:, t], state)
    state = stream.reset(state, np.array([True, False]))
    for t in range(3):
        outputs, state = stream.step(frames[:, t], state)
    *_, third = FrameStream(stream).answers(frames[0, :3])
    np.testing.assert_allclose(outputs["probabilities"][0], third.probabilities, atol=1e-6)
    *_, other = FrameStream(stream).answers(np.concatenate([frames[1, :4], frames[1, :3]]))
    np.testing.assert_allclose(outputs["probabilities"][1], other.probabilities, atol=1e-6)


def test_the_first_frames_of_a_stream_have_no_motion(model, inputs):
    live = FrameStream(model)
    answers = [live.push(frame).probabilities for frame in inputs["frames"][0, :LAG]]
    others = [FrameStream(model).push(frame).probabilities for frame in inputs["frames"][1, :LAG]]
    for answer in answers + others:
        np.testing.assert_array_equal(answer, answers[0])


def test_it_opens_from_a_file(model, inputs, tmp_path):
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(again.predict_on_batch(inputs), model.predict_on_batch(inputs))


def test_grad_cam_has_a_map_for_each_frame(model, inputs):
    maps = grad_cam(model, inputs["frames"], inputs["lengths"])
    assert maps.shape == (2, T, 16, 16)
    assert not maps[:, :LAG].any()
    assert maps[:, LAG:4].any()
    alone = grad_cam(model, inputs["frames"][:1], inputs["lengths"][:1])
    np.testing.assert_allclose(maps[0], alone[0], atol=1e-4)


def test_bag_of_frames_reads_motion():
    model = bag_of_frames((T, 16, 16, 3), 3, motion="both", motion_lag=LAG)
    assert any(isinstance(layer, Motion) and layer.lag == LAG for layer in model.layers)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"motion": "flow"}, "motion.*none, difference, both"),
        ({"motion": None}, "motion.*none, difference, both"),
        ({"motion": "both", "motion_lag": 0}, "motion_lag.*1"),
        ({"motion": "both", "motion_lag": 4}, "motion_lag.*longer"),
        ({"motion": "both", "input_shape": (4, 30, 1), "encoder": "conv1d"}, "motion.*lines"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(ValueError, match=words):
        cnn_lstm(**options)
