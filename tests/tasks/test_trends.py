"""Trends against brute force, hand-made examples and chi-square tests."""

import collections
import itertools

import numpy as np
import pytest
import tensorflow.experimental.numpy as tnp
from scipy.stats import chisquare

from keras_cnnlstm.tasks.trends import Trend, TrendAtEveryStep, row_complete_orders

EXAMPLES = ["1111", "1234", "4321", "1542", "7138", "2715", "7382"]  # one of each class, in order


def all_digits(length, num_digits=10):
    return np.array(list(itertools.product(range(num_digits), repeat=length)))


def trend_in_words(digits):
    """The definition, word by word: directions between unequal neighbours, runs merged."""
    steps = [b - a for a, b in itertools.pairwise(digits) if a != b]
    words = ["rising" if step > 0 else "falling" for step in steps]
    return "-".join(word for word, _ in itertools.groupby(words)) or "constant"


@pytest.mark.parametrize("length", [2, 3, 4, 5])
def test_targets_and_counts_equal_brute_force(length):
    trend, digits = Trend(length), all_digits(length)
    targets = trend.targets(digits)
    assert [trend.class_names[t] for t in targets] == [trend_in_words(d) for d in digits.tolist()]
    assert np.bincount(targets, minlength=trend.num_outputs).tolist() == trend.class_counts()


@pytest.mark.parametrize("length", [2, 3, 4])
def test_targets_so_far_are_those_of_each_beginning(length):
    task, digits = TrendAtEveryStep(length), all_digits(length)
    targets = task.targets(digits)
    assert targets.shape == (10**length, length)
    for row, sequence in zip(targets, digits.tolist(), strict=True):
        words = [trend_in_words(sequence[:end]) for end in range(1, length + 1)]
        assert [task.class_names[t] for t in row] == words
    np.testing.assert_array_equal(targets[:, -1], Trend(length).targets(digits))


def test_in_other_orders_the_targets_are_those_of_the_digits_in_them():
    task, digits = TrendAtEveryStep(4, permuted=True), all_digits(4)[::7]
    targets = task.targets(digits).reshape(len(digits), 4, 4)
    for order, told in zip(task.orders[0], targets.swapaxes(0, 1), strict=True):
        np.testing.assert_array_equal(told, TrendAtEveryStep(4).targets(digits[:, order]))
    np.testing.assert_array_equal(targets[:, -1], TrendAtEveryStep(4).targets(digits))
    np.testing.assert_array_equal(np.asarray(task.targets(tnp.asarray(digits), xp=tnp)),
                                  targets.reshape(len(digits), 16))  # fmt: skip


@pytest.mark.parametrize("permuted", [False, True])
def test_beside_other_digits_the_targets_are_those_of_what_is_shown(permuted):
    task = TrendAtEveryStep(4, permuted=permuted, group=5)
    digits = all_digits(4)[::8]  # (1250, T)
    targets = task.targets(digits)
    count = 5 * (4 if permuted else 1)
    assert targets.shape == (1250, count * 4)
    for b in range(0, 1250, 7):
        group = digits[b - b % 5 :][:5].reshape(-1)
        shown = group[task.orders[b % 5]]  # (K, T)
        expected = TrendAtEveryStep(4).targets(shown).reshape(-1)
        np.testing.assert_array_equal(targets[b], expected)
    np.testing.assert_array_equal(targets[:, -1], TrendAtEveryStep(4).targets(digits)[:, -1])
    np.testing.assert_array_equal(np.asarray(task.targets(tnp.asarray(digits), xp=tnp)), targets)


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_in_the_groups_every_frame_is_shown_equally_often_beside_others(count):
    orders = TrendAtEveryStep(4, group=count).orders  # (G, K, T)
    assert orders.shape == (count, count, 4)
    shown = np.bincount(orders.reshape(-1), minlength=4 * count)
    np.testing.assert_array_equal(shown, count)
    np.testing.assert_array_equal(orders % 4, np.broadcast_to(np.arange(4), orders.shape))
    np.testing.assert_array_equal(orders[:, -1], np.arange(4 * count).reshape(count, 4))
    follows = collections.Counter(
        pair for row in orders.reshape(-1, 4).tolist() for pair in itertools.pairwise(row)
    )
    assert set(follows.values()) == {1}  # no neighbours twice


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_the_size_of_a_group_is_checked(count):
    with pytest.raises(
        ValueError, match=r"TrendAtEveryStep: `group` must be 1 to 1,?000 sequences"
    ):
        TrendAtEveryStep(group=count)


@pytest.mark.parametrize("length", range(2, 12))
def test_in_the_orders_each_follows_each_other_equally_often(length):
    orders = row_complete_orders(length)
    assert len(orders) == length * (1 + length % 2)
    np.testing.assert_array_equal(np.sort(orders), np.tile(np.arange(length), (len(orders), 1)))
    follows = collections.Counter(
        pair for row in orders.tolist() for pair in itertools.pairwise(row)
    )
    assert follows == dict.fromkeys(itertools.permutations(range(length), 2), 1 + length % 2)
    assert orders[-1].tolist() == list(range(length))


def test_one_thing_has_no_orders():
    with pytest.raises(ValueError, match=r"row_complete_orders: `length` must be 2 to 1000"):
        row_complete_orders(1)


def test_the_trend_so_far_draws_the_digits_of_the_trend():
    uniforms = np.random.default_rng(0).random((50, 6))
    drawn = [task.draw(uniforms, balance=0.5) for task in (Trend(4), TrendAtEveryStep(4))]
    np.testing.assert_array_equal(*drawn)


def test_reference_task():
    trend = Trend()
    assert trend.num_outputs == 7
    assert trend.class_counts() == [10, 705, 705, 2595, 2595, 1695, 1695]
    digits = np.array([[int(c) for c in example] for example in EXAMPLES])
    assert trend.targets(digits).tolist() == list(range(7))
    assert trend.targets(np.array([[1, 1, 2, 3], [9, 9, 9, 0], [0, 5, 5, 0]])).tolist() == [1, 2, 3]


def test_counts_are_exact_where_floats_are_not():
    counts = Trend(32).class_counts()
    assert len(counts) == 63
    assert sum(counts) == 10**32
    assert counts[0] == 10
    assert counts[1] == counts[2]  # reversing the digits' order of size swaps the two


@pytest.mark.parametrize(("length", "label"), [(4, 0), (4, 1), (4, 6), (3, 4), (5, 7)])
def test_sampling_given_a_label_is_uniform_over_its_combinations(length, label):
    trend = Trend(length)
    wanted = all_digits(length)[trend.targets(all_digits(length)) == label]
    n = 40 * len(wanted)
    drawn = trend.sample(n, np.random.default_rng(label), labels=np.full(n, label))
    place = 10 ** np.arange(length)[::-1]
    observed = np.bincount(drawn @ place, minlength=10**length)
    assert observed.sum() == observed[wanted @ place].sum()  # nothing outside the class
    assert chisquare(observed[wanted @ place]).pvalue > 1e-3


def test_natural_sampling_is_uniform_over_all_combinations():
    drawn = Trend(3).sample(50_000, np.random.default_rng(0))
    observed = np.bincount(drawn @ [100, 10, 1], minlength=1000)
    assert chisquare(observed).pvalue > 1e-3


@pytest.mark.parametrize(("length", "num_digits"), [(2, 2), (7, 3), (32, 10), (20, 62)])
def test_every_label_can_be_drawn_at_every_length(length, num_digits):
    trend = Trend(length, num_digits)
    possible = np.flatnonzero(trend.class_counts())
    labels = np.repeat(possible, 20)
    drawn = trend.sample(len(labels), np.random.default_rng(1), labels=labels)
    assert drawn.min() >= 0
    assert drawn.max() < num_digits
    np.testing.assert_array_equal(trend.targets(drawn), labels)


def test_extreme_uniform_numbers_stay_inside_the_class():
    trend = Trend(4)
    labels = np.repeat(np.arange(7), 2)
    uniforms = np.tile([[0.0] * 4, [1 - 2.0**-53] * 4], (7, 1))
    np.testing.assert_array_equal(trend.targets(trend.digits_for(labels, uniforms)), labels)


def test_the_same_numbers_in_tensorflow():
    tnp = pytest.importorskip("tensorflow.experimental.numpy")
    trend, rng = Trend(6), np.random.default_rng(2)
    labels, uniforms = rng.integers(0, trend.num_outputs + 1, 500), rng.random((500, 6))
    digits = trend.digits_for(labels, uniforms)
    in_graph = trend.digits_for(tnp.asarray(labels), tnp.asarray(uniforms), xp=tnp)
    np.testing.assert_array_equal(in_graph, digits)
    np.testing.assert_array_equal(trend.targets(in_graph, xp=tnp), trend.targets(digits))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 1}, "`length` must be 2 to 32 digits; received 1"),
        ({"length": 33}, "`length` must be 2 to 32 digits; received 33"),
        ({"num_digits": 1}, "`num_digits` must be 2 to 100; received 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Trend(**arguments)


@pytest.mark.parametrize(
    ("digits", "message"),
    [
        (np.zeros((3, 5), int), r"shape \(B, 4\); received \(3, 5\)"),
        (np.zeros(4, int), r"shape \(B, 4\); received \(4,\)"),
        (np.zeros((3, 4)), "must be integers; received float64"),
        (np.full((3, 4), 10), "must be 0 to 9; received 10 to 10"),
        (np.full((3, 4), -1), "must be 0 to 9; received -1 to -1"),
    ],
)
def test_bad_digits(digits, message):
    with pytest.raises(ValueError, match=message):
        Trend(4).targets(digits)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(2, int), r"shape \(3,\), one for each sequence; received \(2,\)"),
        (np.array([0, 7, 1]), r"must be 0 to 6; received \[0, 1, 7\]"),
    ],
)
def test_bad_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        Trend(4).sample(3, np.random.default_rng(0), labels=labels)


class TestDrawingTrends:
    def test_a_class_is_drawn_where_the_first_number_is_below_the_balance(self):
        trend = Trend(3)
        uniforms = np.random.default_rng(0).random((500, 5))
        uniforms[:3, 0] = 0.0, 0.3, np.nextafter(0.3, 0)
        labels = [int(5 * u[1]) if u[0] < 0.3 else 5 for u in uniforms]
        digits = trend.draw(uniforms, balance=0.3)
        np.testing.assert_array_equal(digits, trend.digits_for(np.array(labels), uniforms[:, 2:]))
        drawn = uniforms[:, 0] < 0.3
        np.testing.assert_array_equal(trend.targets(digits)[drawn], np.array(labels)[drawn])

    def test_without_balance_each_digit_comes_from_its_own_number(self):
        uniforms = np.random.default_rng(1).random((500, 6))
        expected = np.floor(10 * uniforms[:, 2:])
        np.testing.assert_array_equal(Trend(4).draw(uniforms), expected)
