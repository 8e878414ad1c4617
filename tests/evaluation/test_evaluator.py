"""Scores against values computed by hand, and plots that really show something."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cnnlstm import plots
from keras_cnnlstm.data.digit_source import digit_tests
from keras_cnnlstm.tasks import Classes, Digits, Label, RunningSum, Text
from keras_cnnlstm.tasks.scores import (
    class_summary,
    number_scores,
    number_summary,
    scores,
    step_scores,
    step_summary,
    text_scores,
    text_summary,
)
from keras_cnnlstm.tasks.trends import Trend
from keras_cnnlstm.training.scoring import score

NAMES = ["a", "b", "c"]
TARGETS = np.array([0, 0, 0, 0, 1, 1])  # c never occurs
ANSWERS = np.array([0, 0, 0, 1, 1, 2])


def test_scores_by_hand():
    result = scores(TARGETS, np.eye(3)[ANSWERS], NAMES)
    assert result["num_sequences"] == 6
    assert result["accuracy"] == pytest.approx(4 / 6)
    assert result["macro_recall"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert result["macro_precision"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert result["classes"] == {
        "a": {"recall": 0.75, "precision": 1.0, "count": 4},
        "b": {"recall": 0.5, "precision": 0.5, "count": 2},
        "c": {"recall": None, "precision": 0.0, "count": 0},
    }
    assert result["confusion"] == [[3, 1, 0], [0, 1, 1], [0, 0, 0]]
    json.dumps(result, allow_nan=False)
    p, n, z = 4 / 6, 6, 1.959964  # Wilson's interval
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert result["accuracy_95"] == pytest.approx([centre - half, centre + half], rel=1e-5)
    text = class_summary(result)
    assert "accuracy 66.67% of 6 sequences" in text
    assert "macro recall 62.50%" in text
    assert [line.split()[0] for line in text.splitlines()[1:]] == NAMES


def test_scores_that_do_not_fit():
    with pytest.raises(ValueError, match=r"class_names.*must be 2.*received 3"):
        scores(TARGETS, np.zeros((6, 2)), NAMES)
    with pytest.raises(ValueError, match="1 at least"):
        scores(np.zeros(0, int), np.zeros((0, 3)), NAMES)


class Reader(keras.Model):
    """Reads the digit behind each of `coded_images`, and knows the rule of a task."""

    def __init__(self, task):
        super().__init__()
        self.task = task

    def call(self, inputs):
        frames = inputs["frames"] if isinstance(inputs, dict) else inputs
        if self.task.arrangement == "strip":  # each digit is 5 pixels wide
            digits = tf.cast(frames[:, 0, ::5, 0], tf.int64) // 20
            steps = tf.stack([digits + 1, tf.zeros_like(digits)], axis=2)  # a blank after each
            return tf.one_hot(tf.reshape(steps, (-1, 2 * self.task.length)), 11)
        if self.task.arrangement == "image":
            frames = frames[:, None]
        digits = tf.cast(frames[:, :, 0, 0, 0], tf.int64) // 20
        return tf.numpy_function(self.rule, [digits], tf.float32)

    def rule(self, digits):
        return self.task.perfect_answers(self.task.targets(digits)).astype(np.float32)


@pytest.mark.parametrize(
    ("task", "best"),
    [
        (Trend(4), {"accuracy": 1.0, "num_sequences": 700}),
        (Digits(4), {"accuracy": 1.0, "sequence_accuracy": 1.0, "num_steps": 2800}),
        (Digits(4, min_length=1), {"accuracy": 1.0, "sequence_accuracy": 1.0}),
        (RunningSum(5, min_length=1), {"rmse": 0.0, "rounded_accuracy": 1.0, "rmse_all_steps": 0}),
        (Label(), {"accuracy": 1.0, "num_sequences": 55}),
        (Text(4), {"accuracy": 1.0, "character_accuracy": 1.0}),
    ],
)
def test_a_model_that_knows_the_answers_scores_100_percent(coded_images, task, best):
    tests = digit_tests(coded_images, task, num_sequences=700)
    for result in score(Reader(task), tests, task).values():
        assert {name: result[name] for name in best} == best
        json.dumps(result, allow_nan=False)
        assert "num_sequences" in best or result["num_sequences"] == 700
        if isinstance(task, RunningSum):
            assert list(result["rmse_by_length"]) == ["1", "2", "3", "4", "5"]


def test_balanced_trends_are_equally_frequent(coded_images):
    task = Trend(4)
    tests = digit_tests(coded_images, task, num_sequences=700)
    result = score(Reader(task), tests, task)
    assert min(entry["count"] for entry in result["balanced"]["classes"].values()) > 60
    assert result["natural"]["classes"]["constant"]["count"] < 10


def test_steps_by_hand():
    targets = np.array([[0, 1, 0], [1, 1, 0]])
    answers = np.array([[0, 1, 1], [1, 0, 0]])
    mask = np.array([[True, True, False], [True, True, True]])
    result = step_scores(targets, np.eye(2)[answers], mask, ["a", "b"])
    assert (result["num_steps"], result["num_sequences"]) == (5, 2)
    assert result["accuracy"] == pytest.approx(4 / 5)
    assert result["sequence_accuracy"] == 1 / 2  # the mistake in the padding does not count
    assert result["classes"]["b"] == {"recall": pytest.approx(2 / 3), "precision": 1.0, "count": 3}
    text = step_summary(result)
    assert text.startswith("accuracy 80.00% of 5 steps (95 % interval")
    assert "all steps right in 50.00% of 2 sequences" in text


def test_numbers_by_hand():
    targets, values = np.array([[1.0, 3, 0], [2, 4, 9]]), np.array([[1.0, 3.4, 99], [2, 4, 8]])
    mask = np.array([[True, True, False], [True, True, True]])
    result = number_scores(targets, values, mask)
    assert result["rmse"] == pytest.approx(np.sqrt((0.4**2 + 1) / 2))
    assert result["mean_absolute_error"] == pytest.approx(0.7)
    assert result["rounded_accuracy"] == 1 / 2
    assert result["rmse_by_length"] == {"2": pytest.approx(0.4), "3": pytest.approx(1.0)}
    assert result["rmse_all_steps"] == pytest.approx(np.sqrt((0.4**2 + 1) / 5))
    margin = 1.96 * np.std([0.16, 1]) / np.sqrt(2)
    assert result["rmse_95"] == pytest.approx([0, np.sqrt(0.58 + margin)], abs=1e-6)
    text = number_summary(result)
    assert text.startswith("root-mean-square error of the last step 0.762 over 2 sequences")
    assert "length  3  1.000" in text


def test_texts_by_hand():
    targets = np.array([[1, 2, 3, 4], [5, 6, -1, -1], [7, 7, 7, -1]])
    read = np.array([[1, 2, 3, 4, -1], [5, 1, 6, -1, -1], [-1, -1, -1, -1, -1]])
    result = text_scores(targets, read)  # right; one inserted; three missing
    assert result["accuracy"] == pytest.approx(1 / 3)
    assert result["character_accuracy"] == pytest.approx(1 - 4 / 9)
    assert "33.33% of 3 sequences" in text_summary(result)
    assert "55.56% of characters" in text_summary(result)


def test_answers_and_targets_stay_together_over_unequal_batches():
    class Echo(keras.Model):
        def call(self, x):
            return tf.one_hot(x[:, 0], 3)

    x = np.array([[0], [1], [2], [1], [0]])
    data = tf.data.Dataset.from_tensor_slices((x, x[:, 0])).batch(2)
    assert score(Echo(), {"all": data}, Classes(NAMES))["all"]["accuracy"] == 1


@pytest.mark.parametrize(
    ("draw", "arguments"),
    [
        (plots.plot_history, [[{"loss": 1.0, "val_loss": 0.9, "accuracy": 0.4}] * 3]),
        (plots.plot_history, [[{"loss": 1.0, "val_loss": 0.9, "val_rmse": 0.5}] * 3, "rmse"]),
        (plots.plot_by_length, [{"1": 0.1, "2": 0.4}, "error"]),
        (plots.plot_confusion, [[[3, 1], [0, 0]], ["no", "yes"]]),
        (plots.plot_sequence, [np.zeros((4, 8, 8, 1), np.uint8)]),
        (plots.plot_sequence, [np.zeros((4, 8, 8, 3), np.uint8), np.ones(2) / 2, ["no", "yes"]]),
    ],
)
def test_plots_are_written_as_pictures(draw, arguments, tmp_path):
    from PIL import Image

    path = tmp_path / "plot.png"
    plots.save_figure(draw(*arguments), path)
    with Image.open(path) as image:
        assert min(image.size) > 150
        assert np.asarray(image.convert("L")).std() > 5
