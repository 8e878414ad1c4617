"""Scores against values computed by hand, and plots that really show something."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cnnlstm import evaluation
from keras_cnnlstm.evaluation import evaluate, score_digits, scores, summary
from keras_cnnlstm.tasks import Trend

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


def test_interval_is_wilson_s():
    p, n, z = 4 / 6, 6, 1.959964
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert scores(TARGETS, np.eye(3)[ANSWERS], NAMES)["accuracy_95"] == pytest.approx(
        [centre - half, centre + half], rel=1e-5
    )


def test_scores_that_do_not_fit():
    with pytest.raises(ValueError, match=r"shape \(N, 3\).*\(6,\); received \(6, 2\)"):
        scores(TARGETS, np.zeros((6, 2)), NAMES)
    with pytest.raises(ValueError, match="N at least 1"):
        scores(np.zeros(0, int), np.zeros((0, 3)), NAMES)


def test_summary_names_every_class():
    text = summary(scores(TARGETS, np.eye(3)[ANSWERS], NAMES))
    assert "accuracy 66.67% of 6 sequences" in text
    assert "macro recall 62.50%" in text
    assert [line.split()[0] for line in text.splitlines()[1:]] == NAMES


def reader_of_coded_images(task):
    """A model that reads the digit behind each of `coded_images` and knows the rule."""
    table = keras.ops.convert_to_tensor(task.next_state)

    def rule(frames):
        digits = tf.cast(frames[:, :, 0, 0, 0], tf.int64) // 20
        state = tf.zeros_like(digits[:, 0])
        for t in range(1, task.length):
            sign = tf.sign(digits[:, t] - digits[:, t - 1])
            state = tf.gather_nd(table, tf.stack([state, sign + 1], axis=1))
        return tf.one_hot(state, task.num_classes)

    class Reader(keras.Model):
        def call(self, frames):
            return rule(frames)

    return Reader()


def test_a_model_that_knows_the_rule_scores_100_percent(coded_images):
    task = Trend(4)
    result = score_digits(reader_of_coded_images(task), coded_images, task, num_sequences=700)
    for part in ("natural", "balanced"):
        assert result[part]["accuracy"] == 1
        assert result[part]["num_sequences"] == 700
    counts = [c["count"] for c in result["balanced"]["classes"].values()]
    assert min(counts) > 60
    assert result["natural"]["classes"]["constant"]["count"] < 10


def test_answers_and_targets_stay_together_over_unequal_batches():
    class Echo(keras.Model):
        def call(self, x):
            return tf.one_hot(x[:, 0], 3)

    x = np.array([[0], [1], [2], [1], [0]])
    data = tf.data.Dataset.from_tensor_slices((x, x[:, 0])).batch(2)
    assert evaluate(Echo(), data, NAMES)["accuracy"] == 1


@pytest.mark.parametrize(
    "draw",
    [
        lambda: evaluation.plot_history(
            [{"loss": 1.0, "val_loss": 0.9, "accuracy": 0.4, "val_accuracy": 0.5}] * 3
        ),
        lambda: evaluation.plot_confusion([[3, 1], [0, 0]], ["no", "yes"]),
        lambda: evaluation.plot_sequence(np.zeros((4, 8, 8, 1), np.uint8)),
        lambda: evaluation.plot_sequence(
            np.zeros((4, 8, 8, 3), np.uint8), np.array([0.2, 0.8]), ["no", "yes"], title="title"
        ),
    ],
)
def test_plots_are_written_as_pictures(draw, tmp_path):
    from PIL import Image

    path = tmp_path / "plot.png"
    evaluation.save_figure(draw(), path)
    with Image.open(path) as image:
        assert min(image.size) > 150
        assert np.asarray(image.convert("L")).std() > 5
