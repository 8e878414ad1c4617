"""Which answers are wrong, how sure, and why: by hand, and against the model itself."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from keras_cnnlstm.evaluation.mistakes import (
    MISREAD,
    MODEL,
    ORDER,
    UNCLEAR,
    MistakenFrames,
    answers_so_far,
    evidence,
    reasons_of,
    wrong_sequences,
)
from keras_cnnlstm.models.baselines import bag_of_frames, flat_mlp
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.scanning import scan_lstm
from keras_cnnlstm.tasks import Digits
from keras_cnnlstm.tasks.trends import Trend
from keras_cnnlstm.training.scoring import Answers

NAMES = ["a", "b", "c"]
FRAMES = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 1), np.uint8)
STEPS = np.array([[[0.9, 0.1], [0.4, 0.6]], [[0.8, 0.2], [0.3, 0.7]], [[0.9, 0.1], [0.0, 1.0]]])
PADDED = np.array([[True, True], [True, True], [True, False]])


@pytest.mark.parametrize(
    ("targets", "probabilities", "mask", "indices", "sure"),
    [
        ([1, 0, 0, 1, 0], [[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.3, 0.7]], None,
         [2, 3, 4, 0], [0.8, 0.7, 0.7, 0.6]),
        ([[0, 0], [1, 1], [0, 0]], STEPS, PADDED, [1, 0], [0.8, 0.6]),
        ([[0, 0], [1, 1], [0, 0]], STEPS, None, [2, 1, 0], [1.0, 0.8, 0.6]),
        ([0], [[0.9, 0.1]], None, [], []),
    ],
    ids=["classes", "steps with padding", "steps", "no mistake"],
)  # fmt: skip
def test_the_most_confident_mistake_comes_first(targets, probabilities, mask, indices, sure):
    found = wrong_sequences(np.array(targets), np.array(probabilities), mask)
    assert [x.tolist() for x in found] == [indices, sure]


@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_the_frames_kept_are_those_of_the_most_confident_mistakes(count):
    rng = np.random.default_rng(0)
    frames, mask = rng.integers(0, 256, (60, 3, 2, 2, 1), np.uint8), rng.random((60, 3)) < 0.7
    targets = rng.integers(0, 4, 60)
    probabilities = rng.integers(1, 5, (60, 4)) / 8  # many are equally confident
    shown = MistakenFrames(count)
    for part in np.split(np.arange(60), [13, 14, 40]):
        shown.add(frames[part], mask[part], Answers(targets[part], probabilities[part], None))
    indices = wrong_sequences(targets, probabilities)[0][:count]
    assert len(shown.kept) == len(indices)
    for (_, _, kept, counts), index in zip(shown.kept, indices, strict=True):
        np.testing.assert_array_equal(kept, frames[index])
        np.testing.assert_array_equal(counts, mask[index])
        assert kept.base is None  # a view would keep the whole batch


@pytest.mark.parametrize(
    ("task", "answers", "expected", "reasons"),
    [
        (Trend(2, 3), [2, 2, 2, 0], [2, 1, 1, 0], [MISREAD, ORDER, UNCLEAR]),
        (Digits(2), [[1, 0], [1, 2], [1, 2], [1, 4]], None, [MISREAD, MODEL, MISREAD]),
    ],
    ids=["trend", "digits"],
)
def test_what_explains_a_mistake(task, answers, expected, reasons):
    digits, read = np.array([[1, 4]] * 4), np.array([[1, 0], [1, 4], [1, 2], [1, 4]])
    rule = read if expected is None else np.array(expected)  # of digits what is read
    oracle = SimpleNamespace(digits=digits, read=read, answers=task.perfect_answers(rule))
    answers = Answers(None, task.perfect_answers(np.array(answers)), None)
    assert reasons_of(task, answers, oracle, np.arange(3)) == reasons


def test_the_answer_after_each_frame_is_that_of_the_model_so_far():
    model = cnn_lstm((None, 8, 8, 1), 3, lstm_units=(5,))
    answers, refused = answers_so_far(model, NAMES, FRAMES)
    assert refused == ""
    for sequence, told in zip(FRAMES, answers, strict=True):
        assert len(told) == 3
        for t, (label, probability) in enumerate(told, start=1):
            expected = model.predict(sequence[None, :t], verbose=0)[0]
            assert label == NAMES[expected.argmax()]
            assert probability == pytest.approx(expected.max(), abs=1e-5)


def test_a_model_that_needs_the_future_has_no_answers_so_far():
    model = cnn_lstm((3, 8, 8, 1), 3, bidirectional=True)
    answers, refused = answers_so_far(model, NAMES, FRAMES)
    assert answers == [(), ()]
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
def test_the_evidence_for_answers(model, occlusion, maps):
    frames = FRAMES if len(model.inputs[0].shape) == 5 else FRAMES[:, 0]
    mask = np.array([[True, True, False], [True, True, True]])
    if len(model.inputs) == 1:
        mask = np.ones((2, 3 if frames.ndim == 5 else 1), bool)
    found = evidence(model, frames, mask)
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
