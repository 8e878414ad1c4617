"""The reader of single digits, and the ceiling of reader and rule against brute force."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import assert_all_equal

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.datasets import LabeledImages, load_digits
from keras_cnnlstm.data.run_files import save_task
from keras_cnnlstm.evaluation.reader import confusion_of, digit_reader, train_reader
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.tasks import Classes, Digits, RunningSum, Text
from keras_cnnlstm.tasks.trends import Trend
from keras_cnnlstm.training.run_directory import Run


def brute_force(task, confusion):
    """Chances of all digits and all readings of them, and the rule's answer to each."""
    shares = confusion / confusion.sum(axis=1, keepdims=True)
    combinations = np.array(list(itertools.product(range(task.num_digits), repeat=task.length)))
    chances = np.array([[shares[a, b].prod() for b in combinations] for a in combinations])
    return chances / len(combinations), task.targets(combinations)


@pytest.fixture(params=[(3, 3), (2, 4), (4, 2)], ids=str)
def sizes(request):
    length, num_digits = request.param
    confusion = np.random.default_rng(0).integers(0, 5, (num_digits, num_digits))
    return length, num_digits, confusion + 7 * np.eye(num_digits, dtype=int)


def test_the_ceiling_of_a_trend_is_that_of_all_combinations(sizes):
    length, num_digits, confusion = sizes
    chances, answers = brute_force(Trend(length, num_digits), confusion)
    expected = chances[answers[:, None] == answers].sum()
    assert Trend(length, num_digits).ceiling(confusion)["accuracy"] == pytest.approx(expected)
    assert expected < 0.95


def test_the_ceiling_of_a_sum_is_that_of_all_combinations(sizes):
    length, num_digits, confusion = sizes
    task = RunningSum(length, num_digits)
    chances, answers = brute_force(task, confusion)
    error = answers[:, None, -1, 0] - answers[None, :, -1, 0]
    found = task.ceiling(confusion)
    assert found["rounded_accuracy"] == pytest.approx(chances[error == 0].sum())
    assert found["rmse"] == pytest.approx(np.sqrt((chances * error**2).sum()))


def test_the_ceiling_of_digits_and_texts_is_that_of_all_combinations(sizes):
    length, num_digits, confusion = sizes
    chances, answers = brute_force(Digits(length, num_digits), confusion)
    whole = chances[(answers[:, None] == answers).all(axis=-1)].sum()
    steps = (chances * (answers[:, None] == answers).mean(axis=-1)).sum()
    found = Digits(length, num_digits).ceiling(confusion)
    assert found["sequence_accuracy"] == pytest.approx(whole)
    assert found["accuracy"] == pytest.approx(steps)
    assert Text(length, num_digits).ceiling(confusion)["accuracy"] == pytest.approx(whole)


def test_the_ceiling_over_unequal_lengths_is_the_mean_of_each():
    confusion = np.array([[8, 2], [1, 9]])
    each = [RunningSum(n, 2).ceiling(confusion) for n in (1, 2, 3)]
    found = RunningSum(3, 2, min_length=1).ceiling(confusion)
    assert found["rounded_accuracy"] == pytest.approx(
        np.mean([e["rounded_accuracy"] for e in each])
    )
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean([e["rmse"] ** 2 for e in each])))
    shorter = Digits(3, 2, min_length=1).ceiling(confusion)["sequence_accuracy"]
    assert shorter == pytest.approx(np.mean([0.85, 0.85**2, 0.85**3]))


def test_the_ceiling_without_misread_digits_is_perfect():
    assert Trend(4).ceiling(np.eye(10))["accuracy"] == pytest.approx(1)
    assert RunningSum(4).ceiling(np.eye(10)) == {"rmse": 0, "rounded_accuracy": pytest.approx(1)}
    assert Trend(32, 100).ceiling(np.eye(100)) is None


def test_a_confusion_that_does_not_fit():
    with pytest.raises(
        ValueError, match=r"`confusion` must be counts of shape \(10, 10\).*\(3, 3\)"
    ):
        Trend(4).ceiling(np.eye(3))
    with pytest.raises(ValueError, match=r"at least one in each row.*\[2.0, 0.0\]"):
        Trend(2, 2).ceiling(np.array([[1, 1], [0, 0]]))


class Shifted(keras.Model):
    """Reads `coded_images`, but each 3 as a 4."""

    def call(self, frames):
        digits = tf.cast(frames[:, 0, 0, 0], tf.int64) // 20
        return tf.one_hot(tf.where(digits == 3, tf.constant(4, tf.int64), digits), 10)


def test_confusion_counts_what_is_read(coded_images):
    frames = keras.Input(coded_images.image_shape, dtype="uint8")
    counts = confusion_of(keras.Model(frames, Shifted()(frames)), coded_images)
    expected = np.diag(np.arange(1, 11))
    expected[3, 3], expected[3, 4] = 0, 4
    np.testing.assert_array_equal(counts, expected)


def test_a_reader_learns_to_read_and_reports_its_progress():
    splits = load_digits()
    steps = []
    reader = train_reader(splits.train, steps=70, progress=lambda *step: steps.append(step))
    assert steps == [(i, 70) for i in range(1, 71)]
    assert reader.input_shape == (None, 28, 28, 1)
    assert reader.inputs[0].dtype == "uint8"
    confusion = confusion_of(reader, splits.test)
    assert confusion.diagonal().sum() / confusion.sum() > 0.85
    with pytest.raises(ValueError, match="`steps` must be an integer from 1"):
        train_reader(splits.train, steps=0)
    with pytest.raises(ValueError, match="`images` must be LabeledImages"):
        train_reader(np.zeros((3, 28, 28, 1)))


@pytest.mark.slow
@pytest.mark.mnist
def test_it_reads_99_percent_of_mnist():
    try:
        splits = load_digits("mnist")
    except ConnectionError as error:
        pytest.skip(str(error))
    confusion = confusion_of(train_reader(splits.train), splits.test)
    assert confusion.diagonal().sum() / confusion.sum() >= 0.99


def test_the_same_seed_gives_the_same_reader():
    images = load_digits().train
    few = LabeledImages(images.images[:200], images.labels[:200])
    first, again = (train_reader(few, seed=5, steps=2) for _ in range(2))
    assert_all_equal(first.get_weights(), again.get_weights())


def test_clips_have_no_digits_to_read(tmp_path):
    task = Classes(("a", "b"), 4)
    save_task(tmp_path, TrainConfig(task="clip", data="./clips"), task)
    run = Run(tmp_path, TrainConfig(data="./clips"), cnn_lstm((4, 8, 8, 1), 2), {})
    with pytest.raises(ValueError, match=r"`run` must be one on digits; .* clips"):
        digit_reader(run)
