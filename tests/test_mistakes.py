"""Which answers are wrong, how sure, and why: by hand, and against the model itself."""

import keras
import numpy as np
import pytest

from keras_cnnlstm.mistakes import (
    MISREAD,
    MODEL,
    ORDER,
    UNCLEAR,
    answers_so_far,
    evidence,
    explain,
    reasons,
    stream_of,
    wrong_sequences,
)
from keras_cnnlstm.models import bag_of_frames, cnn_lstm, flat_mlp, scan_lstm

NAMES = ["a", "b", "c"]
FRAMES = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 1), np.uint8)


def test_the_most_confident_mistake_comes_first():
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.3, 0.7]])
    indices, sure = wrong_sequences(np.array([1, 0, 0, 1, 0]), probabilities)
    assert indices.tolist() == [2, 3, 4, 0]
    assert sure.tolist() == [0.8, 0.7, 0.7, 0.6]


def test_of_several_steps_the_surest_wrong_one_counts():
    targets = np.array([[0, 0], [1, 1], [0, 0]])
    probabilities = np.array(
        [[[0.9, 0.1], [0.4, 0.6]], [[0.8, 0.2], [0.3, 0.7]], [[0.9, 0.1], [0.0, 1.0]]]
    )
    counts = np.array([[True, True], [True, True], [True, False]])
    indices, sure = wrong_sequences(targets, probabilities, counts)
    assert indices.tolist() == [1, 0]  # the mistake of the third is padding
    assert sure.tolist() == [0.8, 0.6]
    assert wrong_sequences(targets, probabilities)[0].tolist() == [2, 1, 0]


def test_nothing_is_wrong():
    indices, sure = wrong_sequences(np.array([0]), np.array([[0.9, 0.1]]))
    assert len(indices) == len(sure) == 0


def test_what_explains_a_mistake():
    truth = np.array([[1, 4], [1, 4], [1, 4]])
    read = np.array([[1, 0], [1, 4], [1, 2]])
    kinds = explain(np.array([2, 2, 2]), np.array([2, 1, 1]), truth, read)
    assert kinds == [MISREAD, ORDER, UNCLEAR]
    assert reasons([MISREAD, *kinds]) == {MISREAD: 2, ORDER: 1, UNCLEAR: 1}
    steps = explain(read, read, truth, read, legible=MODEL)
    assert steps == [MISREAD, MODEL, MISREAD]
    assert reasons(steps) == {MISREAD: 2, MODEL: 1}


def test_the_answer_after_each_frame_is_that_of_the_model_so_far():
    model = cnn_lstm((None, 8, 8, 1), 3, lstm_units=(5,))
    live, refused = stream_of(model, NAMES)
    assert refused == ""
    answers_so_far(live, FRAMES[1])
    told = answers_so_far(live, FRAMES[0])  # as if there had been none before
    for t, (label, probability) in enumerate(told, start=1):
        expected = model.predict(FRAMES[:1, :t], verbose=0)[0]
        assert label == NAMES[expected.argmax()]
        assert probability == pytest.approx(expected.max(), abs=1e-5)
    assert len(told) == 3


def test_who_needs_the_future_is_not_asked_before():
    model = cnn_lstm((3, 8, 8, 1), 3, bidirectional=True)
    live, refused = stream_of(model, NAMES)
    assert live is None
    assert "reads the frames backwards too" in refused


@pytest.mark.parametrize(
    ("model", "occlusion", "maps"),
    [
        (cnn_lstm((3, 8, 8, 1), 3, lstm_units=(5,)), True, True),
        (cnn_lstm((3, 8, 8, 1), 3, lstm_units=(5,), lengths=True), True, True),
        (bag_of_frames((3, 8, 8, 1), 3), True, True),
        (flat_mlp((3, 8, 8, 1), 3), True, False),
        (scan_lstm((8, 8, 1), 3), False, False),
    ],
    ids=["cnn_lstm", "lengths", "bag_of_frames", "flat_mlp", "scan_lstm"],
)
def test_what_the_answers_hang_on(model, occlusion, maps):
    frames = FRAMES if len(model.inputs[0].shape) == 5 else FRAMES[:, 0]
    counts = np.array([[True, True, False], [True, True, True]])
    if len(model.inputs) == 1:
        counts = np.ones((2, 3 if frames.ndim == 5 else 1), bool)
    found = evidence(model, frames, counts)
    assert (found["occlusion"] is not None, found["maps"] is not None) == (occlusion, maps)
    if occlusion:
        assert found["occlusion"].shape == (2, 3)
    if maps:
        assert found["maps"].shape == (2, 3, 8, 8)
    if len(model.inputs) > 1:
        assert found["occlusion"][0, 2] == found["maps"][0, 2].max() == 0


def test_no_map_of_a_model_that_only_rescales():
    frames = keras.Input((4, 4, 1), dtype="uint8", name="frames")
    flat = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(frames))
    model = keras.Model(frames, keras.layers.Dense(2, "softmax")(flat))
    found = evidence(model, FRAMES[:, 0, :4, :4], np.ones((2, 1), bool))
    assert found == {"occlusion": None, "maps": None}
