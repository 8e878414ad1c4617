"""The lines at the end of a training with clips."""

import dataclasses

import pytest

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.evaluation.comparisons import Comparison
from keras_cnnlstm.evaluation.conclusion import _sentences
from keras_cnnlstm.tasks.clip_classes import Classes

TASK = Classes(("a", "b"), 4)


def sentences(model, low, constant, bag, count=200, **options):
    rows = [
        Comparison(title, "", {"accuracy": value, "accuracy_95": [low, 1.0]}, order)
        for title, value, order in (("m", model, True), ("c", constant, False), ("b", bag, False))
    ]
    config = TrainConfig(data="./clips", **options)
    return " ".join(_sentences(TASK, rows, config, count))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0.9, 0.85, 0.5, 0.8), "better than both"),
        ((0.9, 0.75, 0.5, 0.8), "no sign that the order"),
        ((0.6, 0.45, 0.5, 0.4), "cannot tell"),
        ((0.5, 0.4, 0.5, 0.4), "no sign that the model has learned"),
    ],
)
def test_the_sentence_follows_from_the_intervals(values, words):
    assert words in sentences(*values)


def test_what_to_try_is_what_is_not_in_use():
    nothing = (0.5, 0.4, 0.5, 0.4)
    assert "efficientnet_lite0" in sentences(*nothing, encoder="residual_cnn")
    assert "--motion difference" in sentences(*nothing, motion="none")
    in_use = sentences(*nothing, encoder="efficientnet_lite0", motion="difference")
    assert "efficientnet_lite0" not in in_use
    assert "--motion" not in in_use


def test_few_test_clips_ask_for_folds():
    assert "--folds" not in sentences(0.9, 0.8, 0.5, 0.7, count=100)
    assert "--folds 5" in sentences(0.9, 0.8, 0.5, 0.7, count=99)


def test_errors_are_better_when_smaller():
    task = dataclasses.make_dataclass("Errors", [], namespace={
        "measure": "rmse", "smaller_is_better": True,
    })()  # fmt: skip
    rows = [
        Comparison("", "", {"rmse": value, "rmse_95": [0.9 * value, 1.1 * value]}, False)
        for value in (1.0, 3.0, 2.0)
    ]
    said = " ".join(_sentences(task, rows, TrainConfig(data="./clips"), 200))
    assert "better than both" in said
