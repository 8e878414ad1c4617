"""`Trend` against brute force, hand-made examples and chi-square tests."""

import itertools

import numpy as np
import pytest
from scipy.stats import chisquare

from keras_cnnlstm.tasks import Trend

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
    assert np.bincount(targets, minlength=trend.num_classes).tolist() == trend.counts()


def test_reference_task():
    trend = Trend()
    assert trend.num_classes == 7
    assert trend.counts() == [10, 705, 705, 2595, 2595, 1695, 1695]
    digits = np.array([[int(c) for c in example] for example in EXAMPLES])
    assert trend.targets(digits).tolist() == list(range(7))
    assert trend.targets(np.array([[1, 1, 2, 3], [9, 9, 9, 0], [0, 5, 5, 0]])).tolist() == [1, 2, 3]


def test_counts_are_exact_where_floats_are_not():
    counts = Trend(32).counts()
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
    possible = np.flatnonzero(trend.counts())
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
    labels, uniforms = rng.integers(0, trend.num_classes + 1, 500), rng.random((500, 6))
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
