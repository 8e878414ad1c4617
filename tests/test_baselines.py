"""Simpler answers than the model's, against values by hand and data whose answer is known."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cnnlstm import baselines
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.digits import LabeledImages
from keras_cnnlstm.runs import Run
from keras_cnnlstm.sources import digit_tests, open_source
from keras_cnnlstm.tasks import Classes, Digits, Label, RunningSum, Text, Trend

TASK = Classes(("dark", "light"), 3)


def dataset(frames, targets, lengths=None):
    inputs = np.asarray(frames, np.uint8)
    if lengths is not None:
        inputs = {"frames": inputs, "lengths": np.asarray(lengths, np.int32)}
    return tf.data.Dataset.from_tensor_slices((inputs, np.asarray(targets))).batch(4)


def grey(*values):
    """Frames of 2x2 pixels, each of one grey: `(N, T, 2, 2, 1)`."""
    return np.broadcast_to(np.array(values)[..., None, None, None], (*np.shape(values), 2, 2, 1))


class Reader(keras.Model):
    """Reads each of `coded_images`, but one digit as another."""

    def __init__(self, wrong=None):
        super().__init__()
        self.table = np.arange(10)
        if wrong:
            self.table[wrong[0]] = wrong[1]

    def call(self, frames):
        digits = tf.cast(frames[:, 0, 0, 0], tf.int64) // 20
        return tf.one_hot(tf.gather(self.table, digits), 10)


def reader_of(images, wrong=None):
    frames = keras.Input(images.image_shape, dtype="uint8")
    return keras.Model(frames, Reader(wrong)(frames))


def source_of(coded_images, task):
    return SimpleNamespace(splits=SimpleNamespace(test=coded_images), task=task)


TASKS = [
    Trend(4), RunningSum(5, min_length=1), Digits(4), Digits(4, min_length=2), Label(),
    Text(3, min_length=1),
]  # fmt: skip


def test_a_reader_of_other_images(coded_images):
    other = reader_of(LabeledImages(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4)))
    source = source_of(coded_images, Trend(4))
    with pytest.raises(ValueError, match=r"readings: `reader` must read images \(6, 5, 1\) of 10 "):
        baselines.readings(source, other, name="natural", num_sequences=3)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{type(task).__name__}{task.min_length}")
def test_who_reads_all_digits_and_knows_the_rule_is_right(coded_images, task):
    source = source_of(coded_images, task)
    reader = reader_of(coded_images)
    found = baselines.readings(source, reader, name="natural", num_sequences=300)
    data = digit_tests(coded_images, task, num_sequences=300)["natural"]
    targets = np.concatenate([target for _, target, *_ in data])
    score = baselines.oracle(source, reader, found, targets)
    assert score.get("accuracy", 1 - score.get("rmse", 0)) == pytest.approx(1)
    assert score["digit_accuracy"] == 1
    np.testing.assert_array_equal(found.truth, found.read)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{type(task).__name__}{task.min_length}")
def test_what_a_reader_scores_that_errs_is_near_its_ceiling(coded_images, task):
    source, reader = source_of(coded_images, task), reader_of(coded_images, wrong=(7, 1))
    count = 55 if isinstance(task, Label) else 3000
    found = baselines.readings(source, reader, name="natural", num_sequences=count)
    data = digit_tests(coded_images, task, num_sequences=count)["natural"]
    targets = np.concatenate([target for _, target, *_ in data])
    score = baselines.oracle(source, reader, found, targets)
    assert set(found.read[found.truth == 7]) == {1}
    assert score["digit_accuracy"] == pytest.approx(47 / 55)
    if isinstance(task, Label):
        assert score["ceiling"] is None
        assert score["accuracy"] == pytest.approx(47 / 55)
    elif isinstance(task, RunningSum):
        assert score["rmse"] == pytest.approx(score["ceiling"]["rmse"], rel=0.05)
        assert score["rounded_accuracy"] == pytest.approx(
            score["ceiling"]["rounded_accuracy"], abs=0.04
        )
    else:
        expected = score["ceiling"]["accuracy"]
        assert score["accuracy"] == pytest.approx(expected, abs=0.04)
        assert 0.5 < expected < 0.95


def test_the_majority_by_hand():
    score = baselines.majority(TASK, np.array([1, 1, 0, 1]))
    assert score["accuracy"] == 0.75
    assert score["macro_recall"] == 0.5
    counts = np.array([[True, True], [True, False]])
    steps = baselines.majority(Digits(2, 3, 1), np.array([[2, 2], [1, 0]]), counts)
    assert (steps["accuracy"], steps["num_steps"]) == (pytest.approx(2 / 3), 3)
    sums = np.array([[[1.0], [3.0]], [[3.0], [7.0]]])
    assert baselines.majority(RunningSum(2), sums)["rmse"] == pytest.approx(2)


class First(keras.Model):
    """Light if the first frame is."""

    def call(self, inputs):
        frames = inputs["frames"] if isinstance(inputs, dict) else inputs
        light = tf.cast(frames[:, 0, 0, 0, 0] > 100, tf.int32)
        return tf.one_hot(light, 2)


class Mean(keras.Model):
    """Light if the mean frame is."""

    def call(self, frames):
        mean = tf.reduce_mean(tf.cast(frames, tf.float32), axis=(1, 2, 3, 4))
        return tf.one_hot(tf.cast(mean > 100, tf.int32), 2)


def functional(model, *, lengths=False):
    """The same as a model with inputs, of which a report counts one or two."""
    inputs = keras.Input((3, 2, 2, 1), dtype="uint8", name="frames")
    both = {"frames": inputs, "lengths": keras.Input((), dtype="int32", name="lengths")}
    return keras.Model(both if lengths else inputs, model(both if lengths else inputs))


def test_shuffled_frames_hurt_only_who_looks_at_the_order():
    rng = np.random.default_rng(0)
    values = rng.permuted(np.tile([0, 0, 255], (400, 1)), axis=1)
    targets = (values[:, 0] > 100).astype(int)
    data = dataset(grey(*values), targets)
    model = functional(First())
    assert (model.predict(grey(*values), verbose=0).argmax(axis=1) == targets).all()
    score = baselines.shuffled(model, data, TASK)
    assert score["accuracy"] == pytest.approx(1 / 9 + 4 / 9, abs=0.08)  # both light, both dark
    assert score == baselines.shuffled(model, data, TASK)
    by_mean = (values.mean(axis=1) > 100).astype(int)
    assert baselines.shuffled(functional(Mean()), dataset(grey(*values), by_mean), TASK)[
        "accuracy"
    ] == 1  # fmt: skip


def test_padding_is_not_shuffled_in():
    data = dataset(grey([255, 255, 0], [0, 0, 255]) * 1, [1, 0], lengths=[2, 2])
    for seed in range(5):
        model = functional(First(), lengths=True)
        assert baselines.shuffled(model, data, TASK, seed=seed)["accuracy"] == 1


def bag(frames, targets, task=TASK, lengths=None):
    """The bag of frames on the first half, tested on the second."""
    half = len(frames) // 2
    parts = [slice(None, half), slice(half, None)]
    train, test = (
        dataset(frames[part], targets[part], None if lengths is None else lengths[part])
        for part in parts
    )
    source = SimpleNamespace(task=task, training=train.repeat)
    run = Run(None, TrainConfig(batch_size=4), functional(Mean()), {})
    return baselines.bag_of_frames(run, source, test, training_sequences=half)


def test_a_bag_knows_what_is_there_but_not_when():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (400, 3))
    by_mean = (values.mean(axis=1) > 127).astype(int)
    assert bag(grey(*values), by_mean)["accuracy"] > 0.93
    by_order = (values[:, 0] > values[:, 2]).astype(int)
    assert bag(grey(*values), by_order)["accuracy"] == pytest.approx(0.5, abs=0.1)


def test_a_bag_leaves_padding_out():
    rng = np.random.default_rng(0)
    light = rng.integers(0, 2, 200)
    lengths = rng.integers(1, 4, 200)
    shown = np.where(np.arange(3) < lengths[:, None], light[:, None], 1 - light[:, None])
    assert bag(grey(*(255 * shown)), light, lengths=lengths)["accuracy"] == 1


def test_a_bag_of_digits_knows_their_sum():
    rng = np.random.default_rng(0)
    digits = rng.integers(0, 10, (300, 3))
    task = RunningSum(3)
    score = bag(grey(*(digits * 20)), task.targets(digits), task)
    assert score["rmse"] < 0.1
    assert score["rmse_all_steps"] > 1  # it does not know where each digit stands


def test_a_bag_at_each_step_says_the_same():
    rng = np.random.default_rng(0)
    digits = np.repeat(rng.integers(0, 4, (200, 1)), 3, axis=1)  # the same at each step
    score = bag(grey(*(digits * 60)), digits, Digits(3, 4))
    assert score["accuracy"] > 0.95
    mixed = rng.integers(0, 4, (200, 3))
    assert bag(grey(*(mixed * 60)), mixed, Digits(3, 4))["accuracy"] < 0.7


def test_a_bag_of_a_run_that_learns_more_than_the_task_is_fitted_to_the_task():
    scores = []
    for lesson in ({}, {"so_far": True}, {"so_far": True, "reorder": True}):
        config = TrainConfig(batch_size=16, **lesson)
        source, run = open_source(config), Run(None, config, functional(Mean()), {})
        test = source.tests(200)["natural"]
        scores.append(baselines.bag_of_frames(run, source, test, training_sequences=64))
    assert scores[0]["num_sequences"] == 200
    assert scores[1] == scores[2] == scores[0]


def test_clips_have_no_digits_to_read(tmp_path):
    run = Run(tmp_path, TrainConfig(data="clips"), functional(Mean()), {})
    with pytest.raises(ValueError, match=r"`run` must be one on digits; .*the clips of clips"):
        baselines.digit_reader(run)
