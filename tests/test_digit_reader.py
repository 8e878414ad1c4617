"""The reader of single digits, and the ceiling of reader and rule against brute force."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cnnlstm.digit_reader import ceiling, confusion_of, digits_behind, train_reader
from keras_cnnlstm.digits import LabeledImages, load_digits
from keras_cnnlstm.pipeline import digit_sequences, digit_strips
from keras_cnnlstm.tasks import Digits, RunningSum, Text, Trend


def brute_force(task, confusion):
    """Chances of all digits and all readings of them, and what the rule says of each."""
    shares = confusion / confusion.sum(axis=1, keepdims=True)
    combinations = np.array(list(itertools.product(range(task.num_digits), repeat=task.length)))
    chances = np.array([[shares[a, b].prod() for b in combinations] for a in combinations])
    told = task.targets(combinations)
    return chances / len(combinations), told


@pytest.fixture(params=[(3, 3), (2, 4), (4, 2)], ids=str)
def sizes(request):
    length, num_digits = request.param
    confusion = np.random.default_rng(0).integers(0, 5, (num_digits, num_digits))
    return length, num_digits, confusion + 7 * np.eye(num_digits, dtype=int)


def test_the_ceiling_of_a_trend_is_that_of_all_combinations(sizes):
    length, num_digits, confusion = sizes
    chances, told = brute_force(Trend(length, num_digits), confusion)
    expected = chances[told[:, None] == told].sum()
    assert ceiling(Trend(length, num_digits), confusion)["accuracy"] == pytest.approx(expected)
    assert expected < 0.95


def test_the_ceiling_of_a_sum_is_that_of_all_combinations(sizes):
    length, num_digits, confusion = sizes
    task = RunningSum(length, num_digits)
    chances, told = brute_force(task, confusion)
    error = told[:, None, -1, 0] - told[None, :, -1, 0]
    found = ceiling(task, confusion)
    assert found["rounded_accuracy"] == pytest.approx(chances[error == 0].sum())
    assert found["rmse"] == pytest.approx(np.sqrt((chances * error**2).sum()))


def test_the_ceiling_of_digits_and_texts_is_that_of_all_combinations(sizes):
    length, num_digits, confusion = sizes
    chances, told = brute_force(Digits(length, num_digits), confusion)
    whole = chances[(told[:, None] == told).all(axis=-1)].sum()
    steps = (chances * (told[:, None] == told).mean(axis=-1)).sum()
    found = ceiling(Digits(length, num_digits), confusion)
    assert found["sequence_accuracy"] == pytest.approx(whole)
    assert found["accuracy"] == pytest.approx(steps)
    assert ceiling(Text(length, num_digits), confusion)["accuracy"] == pytest.approx(whole)


def test_the_ceiling_over_unequal_lengths_is_the_mean_of_each():
    confusion = np.array([[8, 2], [1, 9]])
    each = [ceiling(RunningSum(n, 2), confusion) for n in (1, 2, 3)]
    found = ceiling(RunningSum(3, 2, min_length=1), confusion)
    assert found["rounded_accuracy"] == pytest.approx(
        np.mean([e["rounded_accuracy"] for e in each])
    )
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean([e["rmse"] ** 2 for e in each])))
    shorter = ceiling(Digits(3, 2, min_length=1), confusion)["sequence_accuracy"]
    assert shorter == pytest.approx(np.mean([0.85, 0.85**2, 0.85**3]))


def test_who_never_misreads_is_always_right():
    assert ceiling(Trend(4), np.eye(10))["accuracy"] == pytest.approx(1)
    assert ceiling(RunningSum(4), np.eye(10)) == {"rmse": 0, "rounded_accuracy": pytest.approx(1)}
    assert ceiling(Trend(32, 100), np.eye(100)) is None


def test_a_confusion_that_does_not_fit():
    with pytest.raises(
        ValueError, match=r"`confusion` must be counts of shape \(10, 10\).*\(3, 3\)"
    ):
        ceiling(Trend(4), np.eye(3))
    with pytest.raises(ValueError, match=r"each row with one or more.*\[2.0, 0.0\]"):
        ceiling(Trend(2, 2), np.array([[1, 1], [0, 0]]))


@pytest.mark.parametrize(
    ("task", "options"),
    [
        (Trend(4), {"balance": 0.5}),
        (RunningSum(5, min_length=2), {}),
        (Digits(3), {}),
        (Text(3, min_length=1), {}),
    ],
    ids=["trend", "running_sum", "digits", "text"],
)
def test_the_digits_behind_are_those_of_the_same_frames(coded_images, task, options):
    """Each of `coded_images` tells its digit by its pixels: 20 * digit + k."""
    options |= {"batch_size": 32, "seed": 3}
    behind = next(iter(digit_sequences(coded_images, digits_behind(task), **options)))
    frames = behind[0]["frames"] if isinstance(behind[0], dict) else behind[0]
    if isinstance(task, Text):
        strips = next(iter(digit_strips(coded_images, task, **options)))[0]
        np.testing.assert_array_equal(np.moveaxis(frames, 1, 2).reshape(strips.shape), strips)
    else:
        same, target, *_ = next(iter(digit_sequences(coded_images, task, **options)))
        same = same["frames"] if isinstance(same, dict) else same
        np.testing.assert_array_equal(frames, same)
        counts = np.asarray(behind[2]) if len(behind) > 2 else np.ones(behind[1].shape)
        told = task.targets(np.asarray(behind[1]))
        shape = (*counts.shape, *[1] * (told.ndim - 2))
        if told.ndim > 1:
            told = told * counts.reshape(shape)
        np.testing.assert_array_equal(told, target)
    np.testing.assert_array_equal(np.asarray(frames)[:, :, 0, 0, 0] // 20, behind[1])


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


def test_a_reader_learns_to_read_and_tells_how_far_it_is():
    splits = load_digits()
    steps = []
    reader = train_reader(splits.train, steps=70, progress=lambda *told: steps.append(told))
    assert steps == [(i, 70) for i in range(1, 71)]
    assert reader.input_shape == (None, 28, 28, 1)
    assert reader.inputs[0].dtype == "uint8"
    confusion = confusion_of(reader, splits.test)
    assert confusion.diagonal().sum() / confusion.sum() > 0.85
    with pytest.raises(ValueError, match="`steps` must be 1 or more; received 0"):
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
    for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
