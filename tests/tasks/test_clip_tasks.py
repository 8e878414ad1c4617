"""Labels, numbers and segments of clips: targets, losses and metrics against NumPy, scores against
scikit-learn, brute force and hand-computed values, intervals against a simulation.
"""

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from oracles import numpy
from sklearn.metrics import f1_score

from keras_cnnlstm.data.clips import Clip
from keras_cnnlstm.data.labels import Label, Segment
from keras_cnnlstm.tasks import grouped_interval
from keras_cnnlstm.tasks.clip_classes import Classes
from keras_cnnlstm.tasks.clip_labels import ClipLabels
from keras_cnnlstm.tasks.clip_segments import ClipSegments
from keras_cnnlstm.tasks.clip_values import ClipValues
from keras_cnnlstm.tasks.label_scores import (
    bootstrap_interval,
    label_scores,
    segment_scores,
    segments_of,
    value_scores,
)


def clip(label=None, class_name="a"):
    return Clip(Path("clip"), class_name, "clip", label=label)


def target(task, label, frames=(0,), rate=25.0):
    return task.clip_target(clip(label), np.array(frames), rate)


class TestTargets:
    def test_a_class(self):
        task = Classes(("a", "b"))
        assert task.clip_target(clip(class_name="b"), np.arange(3), None) == 1
        clips = [clip(class_name=name) for name in ("b10", "a", "b2", "a")]
        assert Classes.for_clips(clips, [], length=4) == Classes(("a", "b2", "b10"), 4)

    def test_labels(self):
        clips = [clip(Label(("b", "a"))), clip(Label(("c",))), clip(Label())]
        task = ClipLabels.for_clips(clips, [], length=4)
        assert task == ClipLabels(("a", "b", "c"), 4)
        assert target(task, Label(("c", "a"))).tolist() == [1, 0, 1]
        assert target(task, Label()).tolist() == [0, 0, 0]

    def test_numbers_are_standardised_by_the_training_clips(self):
        labels = [Label(values=(("x", x), ("y", 10 * x))) for x in (1.0, 3.0, 100.0)]
        clips = [clip(label) for label in labels]
        task = ClipValues.for_clips(clips, clips[:2], length=4)
        assert task == ClipValues(("x", "y"), (2.0, 20.0), (1.0, 10.0), 4)
        assert target(task, labels[1]).tolist() == [3, 30]
        with pytest.raises(ValueError, match="column x must have different numbers"):
            ClipValues.for_clips(clips, clips[:1], length=4)

    def test_segments_in_seconds(self):
        task = ClipSegments(("background", "run", "walk"))
        label = Label(segments=(Segment(0.1, 0.2, "run"), Segment(0.2, 0.3, "walk")))
        frames = [0, 1, 2, 3, 4]
        assert target(task, label, frames, rate=10.0).tolist() == [0, 1, 2, 0, 0]
        assert target(task, label, [2, 3, 4, 5], rate=20.0).tolist() == [1, 1, 2, 2]
        with pytest.raises(ValueError, match="--frame-numbers"):
            target(task, label, frames, rate=None)

    def test_segments_in_frames(self):
        task = ClipSegments.for_clips(
            [clip(Label(segments=(Segment(2, 4, "run"),), in_frames=True))], [], length=4
        )
        assert task.class_names == ("background", "run")
        label = Label(segments=(Segment(2, 4, "run"),), in_frames=True)
        assert target(task, label, [0, 1, 2, 3, 4], rate=None).tolist() == [0, 0, 1, 1, 0]

    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (lambda: ClipLabels(()), "class_names.*one name or more"),
            (lambda: ClipValues(()), "value_names"),
            (lambda: ClipValues(("x",), (0.0, 1.0)), "mean"),
            (lambda: ClipValues(("x",), (0.0,), (0.0,)), "deviation"),
            (lambda: ClipValues(length=0), "length"),
            (lambda: ClipSegments(("a",)), "class_names.*two different names or more"),
        ],
    )
    def test_refused(self, build, message):
        with pytest.raises(ValueError, match=message):
            build()

    @pytest.mark.parametrize(
        "task",
        [
            ClipLabels(("a", "b"), 5),
            ClipValues(("x",), (1.0,), (2.0,), 5),
            ClipSegments(("background", "a"), 5),
        ],
    )
    def test_kept_as_json(self, task):
        import json

        assert type(task).from_config(json.loads(json.dumps(task.get_config()))) == task


class TestLosses:
    def test_labels(self):
        truth, answers = np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[0.8, 0.4], [0.5, 0.1]])
        each = -(truth * np.log(answers) + (1 - truth) * np.log(1 - answers)).mean(axis=1)
        loss = ClipLabels(("a", "b")).loss()
        np.testing.assert_allclose(numpy(loss(truth, answers)), each.mean(), rtol=1e-5)
        weighted = numpy(loss(truth, answers, sample_weight=np.array([3.0, 1.0])))
        np.testing.assert_allclose(weighted, (3 * each[0] + each[1]) / 4, rtol=1e-5)

    def test_numbers(self):
        task = ClipValues(("x", "y"), (0.0, 0.0), (2.0, 10.0))
        truth, answers = np.array([[0.0, 0.0]]), np.array([[4.0, 10.0]])
        np.testing.assert_allclose(numpy(task.loss()(truth, answers)), (2**2 + 1**2) / 2)
        (metric,) = task.metrics()
        metric.update_state(truth, answers)
        np.testing.assert_allclose(numpy(metric.result()), (2 + 1) / 2)
        (metric,) = ClipValues(("x",), (0.0,), (2.0,)).metrics()
        metric.update_state(truth[:, :1], answers[:, :1])
        np.testing.assert_allclose(numpy(metric.result()), 4)

    @pytest.mark.parametrize("gamma", [0.0, 2.0])
    def test_focal(self, gamma):
        from keras_cnnlstm.tasks.metrics import SparseFocalCrossentropy

        truth, answers = np.array([1, 0]), np.array([[0.2, 0.8], [0.3, 0.7]], "float32")
        right = np.array([0.8, 0.3])
        expected = -((1 - right) ** gamma) * np.log(right)
        loss = SparseFocalCrossentropy(gamma)
        np.testing.assert_allclose(numpy(loss(truth, answers)), expected.mean(), rtol=1e-5)
        again = SparseFocalCrossentropy.from_config(loss.get_config())
        assert again.gamma == gamma


class TestLabelScores:
    def test_against_scikit_learn(self):
        rng = np.random.default_rng(0)
        truth, answers = rng.integers(0, 2, (50, 4)), rng.random((50, 4))
        found = label_scores(truth, answers, list("abcd"))
        assert found["macro_f1"] == pytest.approx(f1_score(truth, answers > 0.5, average="macro"))
        for k, name in enumerate("abcd"):
            y, p = truth[:, k], answers[:, k]
            # The area under the ROC curve is the share of pairs that are in the right order.
            pairs = list(itertools.product(p[y == 1], p[y == 0]))
            expected = np.mean([one > other for one, other in pairs])
            assert found["labels"][name]["roc_auc"] == pytest.approx(expected)
            ranked = y[np.argsort(-p)]
            precision = ranked.cumsum() / np.arange(1, 51)
            expected = precision[ranked == 1].mean()
            assert found["labels"][name]["average_precision"] == pytest.approx(expected)
        low, high = found["macro_f1_95"]
        assert low < found["macro_f1"] < high

    def test_labels_that_do_not_occur(self):
        found = label_scores(np.array([[1, 0]]), np.array([[0.9, 0.1]]), ["a", "b"])
        assert (found["macro_f1"], found["exact_accuracy"]) == (1.0, 1.0)
        assert found["labels"]["b"] == {
            "precision": None, "recall": None, "f1": None, "average_precision": None,
            "roc_auc": None, "count": 0,
        }  # fmt: skip
        assert "F1   -  " in ClipLabels(("a", "b")).summary(found)

    def test_refused(self):
        with pytest.raises(ValueError, match="0 or 1"):
            label_scores(np.array([[2]]), np.array([[0.5]]), ["a"])
        with pytest.raises(ValueError, match="shape"):
            label_scores(np.array([[1, 0]]), np.array([[0.5, 0.1]]), ["a"])


class TestValueScores:
    def test_by_hand(self):
        truth = np.array([[1.0, 10.0], [3.0, 10.0], [5.0, 10.0]])
        answers = np.array([[1.0, 10.0], [4.0, 12.0], [3.0, 11.0]])
        found = value_scores(truth, answers, ["x", "y"], (2.0, 4.0))
        assert found["values"]["x"]["mean_absolute_error"] == pytest.approx(1)
        assert found["values"]["x"]["rmse"] == pytest.approx((5 / 3) ** 0.5)
        assert found["values"]["x"]["r2"] == pytest.approx(1 - 5 / 8)
        assert found["values"]["y"]["r2"] is None
        assert found["mean_absolute_error"] == pytest.approx(np.mean([0, 0.5, 1, 0, 0.5, 0.25]))
        assert found["r2"] == pytest.approx(1 - 5 / 8)
        assert "in standard deviations" in ClipValues(("x", "y"), (0.0, 0.0), (1.0, 1.0)).summary(
            found
        )

    def test_refused(self):
        with pytest.raises(ValueError, match="shape"):
            value_scores(np.ones((2, 1)), np.ones((2, 2)), ["x"])


def levenshtein(one, two):
    """By its definition."""

    @cache
    def distance(i, j):
        if not i or not j:
            return i + j
        same = one[i - 1] == two[j - 1]
        return min(
            distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (not same)
        )

    return distance(len(one), len(two))


def probabilities(classes, number):
    return np.eye(number)[np.asarray(classes)]


class TestSegmentScores:
    NAMES = ("background", "run", "walk")

    def score(self, truth, answer):
        truth = np.array([truth])
        return segment_scores(truth, probabilities([answer], 3), None, self.NAMES)

    def test_by_hand(self):
        #        background, run x4, walk x4
        truth = [0, 1, 1, 1, 1, 2, 2, 2, 2, 0]
        assert self.score(truth, truth)["segmental_f1"] == {"10": 1.0, "25": 1.0, "50": 1.0}
        # run overlaps 3 of 5 frames in the union, walk 1 of 4.
        answer = [1, 1, 1, 1, 0, 0, 0, 0, 2, 0]
        found = self.score(truth, answer)
        assert found["segmental_f1"] == {"10": 1.0, "25": 1.0, "50": 0.5}
        assert found["edit_score"] == 1.0
        # The same segment in two pieces: one hit, one too many.
        found = self.score([1] * 8, [1, 1, 1, 1, 1, 0, 1, 1])
        assert found["segmental_f1"]["50"] == pytest.approx(2 / 3)
        assert found["edit_score"] == pytest.approx(0.5)

    def test_nothing_but_background(self):
        assert self.score([0, 0], [0, 0])["segmental_f1"]["50"] == 1.0
        assert self.score([0, 0], [0, 1])["segmental_f1"]["50"] == 0.0
        assert self.score([0, 0], [0, 1])["edit_score"] == 0.0

    def test_edit_score_against_the_definition(self):
        rng = np.random.default_rng(0)
        for _ in range(50):
            truth, answer = rng.integers(0, 3, (2, 12))
            orders = [[name for name, _, _ in segments_of(x) if name] for x in (truth, answer)]
            longest = max(map(len, orders))
            expected = 1 - levenshtein(*orders) / longest if longest else 1
            assert self.score(truth, answer)["edit_score"] == pytest.approx(expected)

    def test_segments_are_stretches(self):
        classes = np.random.default_rng(1).integers(0, 3, 200)
        again = [np.full(end - start, name) for name, start, end in segments_of(classes)]
        np.testing.assert_array_equal(np.concatenate(again), classes)
        assert all(a[0] != b[0] for a, b in itertools.pairwise(segments_of(classes)))

    def test_padding_does_not_count(self):
        truth = np.array([[1, 1, 0, 0]])
        answers = probabilities([[1, 1, 2, 2]], 3)
        found = segment_scores(truth, answers, np.array([[True, True, False, False]]), self.NAMES)
        assert (found["accuracy"], found["edit_score"]) == (1.0, 1.0)
        assert "edit score 100.0" in ClipSegments(self.NAMES).summary(found)


class TestIntervals:
    def test_one_group_has_no_spread(self):
        values = np.array([0.0, 1.0])
        assert bootstrap_interval(lambda rows: values[rows].mean(), ["a", "a"]) == [0.5, 0.5]

    def test_of_a_mean_it_is_that_of_grouped_interval(self):
        rng = np.random.default_rng(0)
        values, groups = rng.random(60), [str(k // 3) for k in range(60)]
        found = bootstrap_interval(lambda rows: values[rows].mean(), groups)
        np.testing.assert_allclose(found, grouped_interval(values, groups), atol=0.01)

    def test_it_holds_the_truth_as_often_as_it_says(self):
        """Clips of one of 40 films are right together: 500 draws, true accuracy 0.7."""
        rng, hits, narrow = np.random.default_rng(0), 0, 0
        groups = [str(k // 5) for k in range(200)]
        for trial in range(500):
            of_film = rng.beta(7 / 3, 1, 40)  # mean 0.7
            right = (rng.random(200) < np.repeat(of_film, 5)).astype(float)
            low, high = grouped_interval(right, groups, resamples=400, seed=trial)
            hits += low <= 0.7 <= high
            singly = list(map(str, range(200)))
            low, high = grouped_interval(right, singly, resamples=400, seed=trial)
            narrow += low <= 0.7 <= high
        assert 0.90 <= hits / 500 <= 0.98
        assert narrow < hits
