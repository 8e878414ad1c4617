"""The tasks against brute force and hand-made examples; trends have a file of their own."""

import itertools
import json

import numpy as np
import pytest
from scipy.stats import chisquare

from keras_cnnlstm.tasks import TASKS, Classes, Digits, Label, RunningSum, Text, task_from_config
from keras_cnnlstm.tasks.trends import Trend


class TestDigits:
    """`Digits`, `RunningSum`, `Label` and `Text`: what is asked at each step, or of one image."""

    @pytest.mark.parametrize(
        ("task", "dtype", "expected"),
        [
            (Digits(3), "int64", [[7, 0, 8], [0, 0, 9]]),
            (RunningSum(3), "float32", [[[7], [7], [15]], [[0], [0], [9]]]),
            (Text(3), "int64", [[8, 1, 9], [1, 1, 10]]),
        ],
    )
    def test_targets_by_hand(self, task, dtype, expected):
        targets = task.targets(np.array([[7, 0, 8], [0, 0, 9]]))
        assert targets.dtype == dtype
        np.testing.assert_array_equal(targets, expected)

    def test_the_class_of_one_image(self):
        assert Label().length == 1
        np.testing.assert_array_equal(Label().targets(np.array([[7], [0]])), [7, 0])

    @pytest.mark.parametrize("length", [1, 3])
    def test_targets_equal_brute_force(self, length):
        digits = np.array(list(itertools.product(range(7), repeat=length)))
        sums = [[[sum(d[: t + 1])] for t in range(length)] for d in digits.tolist()]
        characters = [[int(c) + 1 for c in "".join(map(str, d))] for d in digits.tolist()]
        np.testing.assert_array_equal(Digits(length, 7).targets(digits), digits)
        np.testing.assert_array_equal(RunningSum(length, 7).targets(digits), sums)
        np.testing.assert_array_equal(Text(length, 7).targets(digits), characters)

    @pytest.mark.parametrize(
        ("task", "num_classes", "class_names"),
        [
            (Digits(4, 3), 3, ("0", "1", "2")),
            (Text(4, 3), 3, ("0", "1", "2")),
            (Label(num_digits=12), 12, (*"0123456789", "10", "11")),
            (RunningSum(4, 3), 1, ()),
        ],
    )
    def test_the_names_of_the_answers(self, task, num_classes, class_names):
        assert task.num_outputs == num_classes
        assert task.class_names == class_names

    def test_all_sequences_are_of_the_longest_length_unless_asked(self):
        assert Digits(5).min_length == RunningSum(5).min_length == Text(5).min_length == 5
        assert Trend(5).min_length == 5
        assert Digits(5, min_length=2).min_length == 2

    @pytest.mark.parametrize("task", [Digits(3), RunningSum(3), Text(3), Label()])
    def test_each_digit_is_drawn_from_its_own_number(self, task):
        uniforms = np.random.default_rng(0).random((20_000, task.length + 2))
        digits = task.draw(uniforms)
        assert digits.dtype == np.int64
        np.testing.assert_array_equal(digits, np.floor(uniforms[:, 2:] * 10))
        assert chisquare(np.bincount(digits.ravel())).pvalue > 1e-3

    def test_extreme_uniform_numbers_stay_inside_the_digits(self):
        for num_digits in range(2, 101):
            uniforms = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 1 - 2.0**-53]])
            assert Digits(1, num_digits).draw(uniforms).ravel().tolist() == [0, num_digits - 1]

    @pytest.mark.parametrize("task", [Digits(), RunningSum(), Text(), Label()])
    def test_no_class_of_the_whole_sequence_to_balance(self, task):
        message = rf"{type(task).__name__}\.draw: `balance` must be 0.*received 0\.5"
        with pytest.raises(ValueError, match=message):
            task.draw(np.zeros((2, task.length + 2)), balance=0.5)

    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (lambda: Digits(0), "Digits: `length` must be 1 to 32 digits; received 0"),
            (lambda: RunningSum(33), "RunningSum: `length` must be 1 to 32 digits; received 33"),
            (lambda: Text(num_digits=1), "Text: `num_digits` must be 2 to 100; received 1"),
            (lambda: Digits(num_digits=101), "`num_digits` must be 2 to 100; received 101"),
            (lambda: Text(4, min_length=0), "`min_length` must be 1 to 4; received 0"),
            (lambda: Digits(4, min_length=5), "`min_length` must be 1 to 4; received 5"),
            (lambda: Label(2), "Label: `length` must be 1 to 1 digits; received 2"),
            (lambda: Label(num_digits=1), "Label: `num_digits` must be 2 to 100; received 1"),
        ],
    )
    def test_bad_arguments(self, build, message):
        with pytest.raises(ValueError, match=message):
            build()

    @pytest.mark.parametrize("task", [Digits(4), RunningSum(4), Text(4)])
    @pytest.mark.parametrize(
        ("digits", "message"),
        [
            (np.zeros((3, 5), int), r"shape \(B, 4\); received \(3, 5\)"),
            (np.zeros((3, 4)), "must be integers; received float64"),
            (np.full((3, 4), 10), "must be 0 to 9; received 10 to 10"),
        ],
    )
    def test_bad_digits(self, task, digits, message):
        with pytest.raises(ValueError, match=rf"{type(task).__name__}\.targets: .*{message}"):
            task.targets(digits)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.draws_digits])
class TestEveryTask:
    def test_the_same_numbers_in_tensorflow(self, name):
        tnp = pytest.importorskip("tensorflow.experimental.numpy")
        task = TASKS[name]()
        uniforms = np.random.default_rng(3).random((200, task.length + 2))
        balance = 0.5 if name == "trend" else 0.0
        digits = task.draw(uniforms, balance=balance)
        in_graph = task.draw(tnp.asarray(uniforms), balance=balance, xp=tnp)
        np.testing.assert_array_equal(in_graph, digits)
        targets, expected = task.targets(in_graph, xp=tnp), task.targets(digits)
        assert targets.dtype.as_numpy_dtype == expected.dtype
        np.testing.assert_array_equal(targets, expected)

    def test_says_what_the_pipeline_and_the_models_ask(self, name):
        task = TASKS[name]()
        assert 1 <= task.min_length <= task.length
        assert len(task.output_names) in (0, task.num_outputs)
        assert task.num_digits == 10
        assert isinstance(task, TASKS[name])
        stored = json.loads(json.dumps(task.get_config()))
        assert task_from_config(name, stored) == task


class TestClasses:
    def test_has_a_class_for_each_name(self):
        task = Classes(["left", "right", "up"], length=12)
        assert (task.num_outputs, task.class_names) == (3, ("left", "right", "up"))
        assert (task.length, task.min_length) == (12, 1)

    @pytest.mark.parametrize("names", [[], ["left"], ["left", "left"]])
    def test_needs_two_different_names(self, names):
        with pytest.raises(ValueError, match="`class_names` must be two different names or more"):
            Classes(names)

    def test_needs_a_frame(self):
        with pytest.raises(ValueError, match="`length` must be 1 to 10000 frames; received 0"):
            Classes(["left", "right"], length=0)
