"""Simpler answers than the model's, against values by hand and data whose answer is known."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data import digit_source
from keras_cnnlstm.data.datasets import DigitSplits, LabeledImages
from keras_cnnlstm.data.sources import open_source
from keras_cnnlstm.evaluation.comparisons import (
    BagOfFrames,
    Comparison,
    Oracle,
    ShuffledFrames,
    compare,
    comparison_lines,
    frames_of,
    verdict,
)
from keras_cnnlstm.tasks import Classes, Digits, RunningSum
from keras_cnnlstm.tasks.scores import number_scores, scores
from keras_cnnlstm.training.run_directory import Run
from keras_cnnlstm.training.scoring import Answers, joined

TASK = Classes(("dark", "light"), 3)


def dataset(frames, targets, lengths=None):
    inputs = np.asarray(frames, np.uint8)
    if lengths is not None:
        inputs = {"frames": inputs, "lengths": np.asarray(lengths, np.int32)}
    return tf.data.Dataset.from_tensor_slices((inputs, np.asarray(targets))).batch(4)


def grey(*values):
    """Frames of 2x2 pixels, each of one grey: `(N, T, 2, 2, 1)`."""
    return np.broadcast_to(np.array(values)[..., None, None, None], (*np.shape(values), 2, 2, 1))


def score_of(baseline, sequences):
    """The score of a baseline that has seen all batches once."""
    parts = []
    for inputs, targets, *weights in sequences:
        baseline.add(*frames_of(inputs))
        mask = np.asarray(weights[0]) > 0 if weights else None
        parts.append(Answers(np.asarray(targets), np.asarray(targets), mask))
    return baseline.row(joined(parts)).score


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


@pytest.fixture(
    params=[
        ("trend", {"length": 4}),
        ("running_sum", {"length": 5, "min_length": 1}),
        ("digits", {"length": 4}),
        ("digits", {"length": 4, "min_length": 2}),
        ("label", {"model": "scan_lstm"}),
        ("text", {"model": "crnn", "length": 3, "min_length": 1}),
    ],
    ids=lambda param: "-".join(map(str, (param[0], *param[1].values()))),
)
def source(request, coded_images, monkeypatch):
    """A source of sequences of `coded_images` for each task."""
    name, options = request.param
    splits = DigitSplits(coded_images, coded_images, coded_images)
    monkeypatch.setattr(digit_source, "load_digits", lambda *args: splits)
    return open_source(TrainConfig(task=name, test_sequences=3000, **options))


def oracle_of(source, coded_images, wrong=None):
    digits = source.test_digits("natural")
    oracle = Oracle(source.task, reader_of(coded_images, wrong), coded_images, digits)
    return oracle, score_of(oracle, source.tests()["natural"])


def test_a_reader_of_other_images(coded_images):
    other = reader_of(LabeledImages(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4)))
    with pytest.raises(ValueError, match=r"`reader` must read images \(6, 5, 1\) of 10 "):
        Oracle(Digits(4), other, coded_images, np.zeros((3, 4), int))


def test_an_oracle_that_reads_all_digits_makes_no_mistake(source, coded_images):
    oracle, score = oracle_of(source, coded_images)
    assert score.get("accuracy", 1 - score.get("rmse", 0)) == pytest.approx(1)
    assert score["digit_accuracy"] == 1
    np.testing.assert_array_equal(oracle.digits, oracle.read)


def test_an_oracle_that_misreads_scores_near_its_ceiling(source, coded_images):
    oracle, score = oracle_of(source, coded_images, wrong=(7, 1))
    assert set(oracle.read[oracle.digits == 7]) == {1}
    assert score["digit_accuracy"] == pytest.approx(47 / 55)
    measure = source.task.measure
    if source.task.arrangement == "image":
        assert score["ceiling"] is None
        assert score[measure] == pytest.approx(47 / 55)
    else:
        for name, expected in score["ceiling"].items():
            margin = {"rel": 0.05} if name == "rmse" else {"abs": 0.04}
            assert score[name] == pytest.approx(expected, **margin)
        assert measure in score["ceiling"]


@pytest.mark.parametrize(
    ("task", "targets", "mask", "expected"),
    [
        (TASK, [1, 1, 0, 1], None, {"accuracy": 0.75, "macro_recall": 0.5}),
        (
            Digits(2, 3, 1), [[2, 2], [1, 0]], [[True, True], [True, False]],
            {"accuracy": 2 / 3, "num_steps": 3},
        ),
        (RunningSum(2), [[[1.0], [3.0]], [[3.0], [7.0]]], None, {"rmse": 2}),
    ],
)  # fmt: skip
def test_the_constant_answer_by_hand(task, targets, mask, expected):
    targets, mask = np.array(targets), None if mask is None else np.array(mask)
    answers = Answers(targets, task.perfect_answers(targets), mask)
    model, constant = compare(task, answers, [])
    assert (model.knows_order, constant.knows_order) == (True, False)
    assert constant.title == task.constant_answer_name
    assert {name: constant.score[name] for name in expected} == pytest.approx(expected)


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
    """The same as a model with one input or two."""
    inputs = keras.Input((3, 2, 2, 1), dtype="uint8", name="frames")
    both = {"frames": inputs, "lengths": keras.Input((), dtype="int32", name="lengths")}
    return keras.Model(both if lengths else inputs, model(both if lengths else inputs))


def test_shuffled_frames_hurt_only_a_model_that_uses_the_order():
    rng = np.random.default_rng(0)
    values = rng.permuted(np.tile([0, 0, 255], (400, 1)), axis=1)
    targets = (values[:, 0] > 100).astype(int)
    data, model = dataset(grey(*values), targets), functional(First())
    assert (model.predict(grey(*values), verbose=0).argmax(axis=1) == targets).all()
    score = score_of(ShuffledFrames(model, TASK), data)
    assert score["accuracy"] == pytest.approx(1 / 9 + 4 / 9, abs=0.08)  # both light, both dark
    assert score == score_of(ShuffledFrames(model, TASK), data)
    by_mean = dataset(grey(*values), (values.mean(axis=1) > 100).astype(int))
    assert score_of(ShuffledFrames(functional(Mean()), TASK), by_mean)["accuracy"] == 1


def test_padding_is_not_shuffled_in():
    data = dataset(grey([255, 255, 0], [0, 0, 255]) * 1, [1, 0], lengths=[2, 2])
    model = functional(First(), lengths=True)
    for seed in range(5):
        assert score_of(ShuffledFrames(model, TASK, seed=seed), data)["accuracy"] == 1


def bag(frames, targets, task=TASK, lengths=None):
    """The score of a bag of frames that is fitted to the first half and tested on the second."""
    half = len(frames) // 2
    train, test = (
        dataset(frames[part], targets[part], None if lengths is None else lengths[part])
        for part in (slice(None, half), slice(half, None))
    )
    source = SimpleNamespace(task=task, training=train.repeat, training_sequences=half)
    run = Run(None, TrainConfig(batch_size=4), functional(Mean()), {})
    return score_of(BagOfFrames(run, source), test)


def test_a_bag_knows_what_is_there_but_not_when():
    values = np.random.default_rng(0).integers(0, 256, (400, 3))
    by_mean = (values.mean(axis=1) > 127).astype(int)
    assert bag(grey(*values), by_mean)["accuracy"] > 0.93
    by_order = (values[:, 0] > values[:, 2]).astype(int)
    assert bag(grey(*values), by_order)["accuracy"] == pytest.approx(0.5, abs=0.1)


def test_a_bag_leaves_padding_out():
    rng = np.random.default_rng(0)
    light, lengths = rng.integers(0, 2, 200), rng.integers(1, 4, 200)
    shown = np.where(np.arange(3) < lengths[:, None], light[:, None], 1 - light[:, None])
    assert bag(grey(*(255 * shown)), light, lengths=lengths)["accuracy"] == 1


def test_a_bag_of_digits_knows_their_sum():
    digits, task = np.random.default_rng(0).integers(0, 10, (300, 3)), RunningSum(3)
    score = bag(grey(*(digits * 20)), task.targets(digits), task)
    assert score["rmse"] < 0.1
    assert score["rmse_all_steps"] > 1  # it does not know where each digit stands


def test_a_bag_gives_the_same_answer_at_each_step():
    rng = np.random.default_rng(0)
    digits = np.repeat(rng.integers(0, 4, (200, 1)), 3, axis=1)  # the same at each step
    assert bag(grey(*(digits * 60)), digits, Digits(3, 4))["accuracy"] > 0.95
    mixed = rng.integers(0, 4, (200, 3))
    assert bag(grey(*(mixed * 60)), mixed, Digits(3, 4))["accuracy"] < 0.7


def test_a_bag_is_fitted_to_the_task_also_if_the_run_learns_more():
    found = []
    for supervision in ("last", "every_step", "permuted"):
        config = TrainConfig(batch_size=16, supervision=supervision)
        source, run = open_source(config), Run(None, config, functional(Mean()), {})
        fitted = BagOfFrames(run, source, training_sequences=64)
        found.append(score_of(fitted, source.tests(200)["natural"]))
    assert found[0]["num_sequences"] == 200
    assert found[1] == found[2] == found[0]


def compared(model, bag, mixed, count=1000):
    def score(accuracy):
        targets = np.arange(count) % 2
        right = np.arange(count) < round(accuracy * count)
        return scores(targets, np.eye(2)[np.where(right, targets, 1 - targets)], TASK.class_names)

    rows = [("The model", model, True), ("Most frequent class", 0.5, False),
            ("Bag of frames", bag, False), ("Frames shuffled", mixed, True)]  # fmt: skip
    return [Comparison(title, "", score(accuracy), order) for title, accuracy, order in rows]


def test_the_verdict_asks_whether_the_intervals_are_apart():
    assert verdict(TASK, compared(0.9, 0.6, 0.4)) == (
        "Yes. Bag of frames scores 60.00%, the model 90.00%. With the frames in random order the "
        "model scores 40.00%."
    )
    assert verdict(TASK, compared(0.62, 0.6, 0.4)).startswith("There is no sign of it. ")
    assert verdict(TASK, compared(0.4, 0.6, 0.4)).startswith("There is no sign of it. ")
    assert verdict(TASK, compared(0.9, 0.3, 0.4)).startswith("Yes. Most frequent class scores 50")
    for rows in (compared(0.9, 0.6, 0.4)[:2], compared(0.9, 0.6, 0.4)[:1]):
        assert "The input is one image" in verdict(TASK, rows)


def test_of_errors_the_smaller_is_the_better():
    targets = np.arange(20.0)[:, None]
    rows = [
        Comparison(title, "", number_scores(targets, targets + error), order)
        for title, error, order in [("The model", 0.5, True), ("Mean number", 4.0, False),
                                    ("Bag of frames", 2.0, False), ("Frames shuffled", 0.6, True)]
    ]  # fmt: skip
    text = verdict(RunningSum(1), rows)
    assert text.startswith("Yes. Bag of frames scores 2.000, the model 0.500.")
    (line,) = comparison_lines(RunningSum(1), [{"title": "The model", **rows[0].score}])
    assert line == "  The model     0.500  (0.500 to 0.500)"
