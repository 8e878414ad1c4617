"""Answers as text and JSON, against values computed by hand."""

import json

import numpy as np
import pytest

from keras_cnnlstm.tasks.answers import answer_dict, answer_text, best_path, headline

NAMES = ("calm", "storm")


def test_one_class_with_all_probabilities():
    answer = answer_dict("probabilities", np.array([0.25, 0.75], "float32"), NAMES)
    assert answer == {
        "label": "storm", "class_id": 1, "probabilities": {"calm": 0.25, "storm": 0.75},
    }  # fmt: skip
    assert answer_text(answer) == "storm (75.0%)\n   75.0%  storm\n   25.0%  calm"
    json.dumps(answer)


def test_an_answer_below_the_threshold_is_unsure():
    answers = np.array([[0.25, 0.75], [0.6, 0.4]])
    told = answer_dict("probabilities", answers, NAMES, confidence_threshold=0.75)
    assert [step["unsure"] for step in told["steps"]] == [False, True]
    assert answer_text(told) == "step 1: storm (75.0%)\nstep 2: unsure: calm (60.0%)"
    assert answer_text(
        answer_dict("probabilities", answers[1], NAMES, confidence_threshold=0.75)
    ) == ("unsure: calm (60.0%)\n   60.0%  calm\n   40.0%  storm")
    assert answer_dict("values", answers[1], confidence_threshold=0.75) == {"values": [0.6, 0.4]}
    with pytest.raises(ValueError, match="`confidence_threshold` must be 0 to 1; received '1'"):
        answer_dict("probabilities", answers[1], NAMES, confidence_threshold="1")


def test_one_class_at_each_step():
    answer = answer_dict("probabilities", np.array([[0.25, 0.75], [0.9, 0.1]]), NAMES)
    assert [step["label"] for step in answer["steps"]] == ["storm", "calm"]
    assert answer_text(answer) == "step 1: storm (75.0%)\nstep 2: calm (90.0%)"


def test_numbers_once_and_at_each_step():
    assert answer_dict("values", np.array([1.5, -2])) == {"values": [1.5, -2.0]}
    assert headline(answer_dict("values", np.array([1.5, -2]))) == "1.50, -2.00"
    answer = answer_dict("values", np.array([[7.0], [9.984]]))
    assert answer_text(answer) == "step 1: 7.00\nstep 2: 9.98"


def test_a_text():
    logits = np.eye(4)[[0, 1, 1, 0, 1, 3, 0]]
    assert answer_dict("logits", logits, ("a", "b", "c")) == {"text": "aac"}
    assert answer_text({"text": "aac"}) == "aac"
    assert answer_text(answer_dict("logits", np.eye(4)[[0, 0]], ("a", "b", "c"))) == "(no text)"


def test_reading_merges_repeats_and_drops_blanks():
    def by_hand(best):
        read, before = [], 0
        for k in best:
            if k not in (0, before):
                read.append(int(k) - 1)
            before = k
        return read

    rng = np.random.default_rng(0)
    for _ in range(200):
        best = rng.integers(0, 4, rng.integers(1, 12))
        assert best_path(np.eye(4)[best] + rng.random((len(best), 4)) * 0.4) == by_hand(best)


def test_reading_is_that_of_keras():
    from keras_cnnlstm.tasks import read_text

    logits = np.random.default_rng(0).normal(size=(50, 9, 4)).astype("float32")
    read = np.asarray(read_text(logits))
    for row, x in zip(read, logits, strict=True):
        assert row[row >= 0].tolist() == best_path(x)


def test_an_unknown_output():
    with pytest.raises(ValueError, match=r"`output`.*logits.*received 'x'"):
        answer_dict("x", np.zeros(2), NAMES)
