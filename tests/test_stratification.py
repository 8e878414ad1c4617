"""Divisions of groups, held against every division there is and against scikit-learn's."""

import itertools
from collections import Counter

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from keras_cnnlstm import stratification
from keras_cnnlstm.stratification import TEST, TRAIN, VALIDATION, stratify

SHARES = (0.7, 0.15, 0.15)


def ungrouped(**clips):
    return {f"{name}/{i}": {name: 1} for name, n in clips.items() for i in range(n)}


def random_groups(rng, *, groups, classes, most=1):
    """Groups of one to seven clips of each of one to `most` classes."""
    names = [f"class {k}" for k in range(classes)]
    return {
        f"group {i}": {
            str(name): int(rng.integers(1, 8))
            for name in rng.choice(names, rng.integers(1, most + 1), replace=False)
        }
        for i in range(groups)
    }


def counts(sizes, part_of):
    """Clips of each class in each part."""
    parts = [Counter(), Counter(), Counter()]
    for group, size in sizes.items():
        parts[part_of[group]].update(size)
    return parts


def totals(sizes):
    return sum(map(Counter, sizes.values()), Counter())


def largest_error(sizes, part_of, shares=SHARES):
    total = totals(sizes)
    return max(
        abs(part[name] / total[name] - share)
        for part, share in zip(counts(sizes, part_of), shares, strict=True)
        for name in total
    )


def is_divided(sizes, part_of):
    train, _, test = counts(sizes, part_of)
    return all(train[name] and test[name] for name in totals(sizes))


@pytest.mark.parametrize(
    ("clips", "expected"),
    [(2, [1, 0, 1]), (3, [1, 1, 1]), (4, [2, 1, 1]), (7, [5, 1, 1]), (20, [14, 3, 3]),
     (100, [70, 15, 15])],
)  # fmt: skip
def test_clips_without_groups(clips, expected, monkeypatch):
    monkeypatch.delattr(stratification, "_solve")  # they need no program, which can take long
    sizes = ungrouped(a=clips, b=20)
    parts = counts(sizes, stratify(sizes, SHARES, seed=3))
    assert [part["a"] for part in parts] == expected
    assert [part["b"] for part in parts] == [14, 3, 3]


def test_without_a_share_of_validation_there_is_none():
    sizes = ungrouped(a=10, b=5)
    parts = counts(sizes, stratify(sizes, (0.8, 0, 0.2)))
    assert parts == [{"a": 8, "b": 4}, {}, {"a": 2, "b": 1}]
    lopsided = {"big": {"a": 90}, "small": {"a": 1}, "other": {"a": 1}}
    assert VALIDATION not in stratify(lopsided, (0.5, 0, 0.5)).values()


@pytest.mark.parametrize("seed", range(8))
def test_groups_of_one_class_are_within_two_thirds_of_a_group(seed):
    rng = np.random.default_rng(seed)
    sizes = random_groups(rng, groups=120, classes=3)
    shares = rng.dirichlet([8, 3, 3])
    parts, total = counts(sizes, stratify(sizes, shares, seed=seed)), totals(sizes)
    for name in total:
        largest = max(size[name] for size in sizes.values() if name in size)
        for part, share in zip(parts, shares, strict=True):
            assert abs(part[name] - share * total[name]) <= largest * 2 / 3 + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_no_group_alone_could_come_closer(seed):
    sizes = random_groups(np.random.default_rng(seed), groups=30, classes=4, most=4)
    for size in sizes.values():  # a class many times as large as the others
        size.update({name: 20 * n for name, n in size.items() if name == "class 0"})
    part_of, total = stratify(sizes, SHARES), totals(sizes)

    def deviation(part_of):
        return sum(
            (part[name] / total[name] - share) ** 2
            for part, share in zip(counts(sizes, part_of), SHARES, strict=True)
            for name in total
        )

    for group, part in itertools.product(sizes, range(3)):
        assert deviation(part_of | {group: part}) > deviation(part_of) - 1e-8


def test_as_near_to_the_shares_as_scikit_learn():
    """Mean over structures of the largest error in any class and part."""
    ours, theirs = [], []
    for seed in range(10):
        sizes = random_groups(np.random.default_rng(seed), groups=60, classes=5, most=5)
        shares = (5 / 7, 1 / 7, 1 / 7)
        ours.append(largest_error(sizes, stratify(sizes, shares, seed=seed), shares))
        theirs.append(largest_error(sizes, folds(sizes, seed), shares))
    assert np.mean(ours) < np.mean(theirs)


def folds(sizes, seed):
    """Two of seven folds to validation and test."""
    rows = [(g, k) for g, size in sizes.items() for k, n in size.items() for _ in range(n)]
    groups, classes = map(np.array, zip(*rows, strict=True))
    folds = StratifiedGroupKFold(7, shuffle=True, random_state=seed).split(rows, classes, groups)
    part_of = dict.fromkeys(sizes, TRAIN)
    for part, (_, members) in zip((TEST, VALIDATION), folds, strict=False):
        part_of |= dict.fromkeys(map(str, groups[members]), part)
    return part_of


def every_division(sizes):
    for parts in itertools.product(range(3), repeat=len(sizes)):
        part_of = dict(zip(sizes, parts, strict=True))
        if is_divided(sizes, part_of):
            yield part_of


def test_divides_whatever_can_be_divided_with_the_fewest_moves(monkeypatch):
    """Against all divisions of small random structures; what is moved is counted in clips."""
    starts = []
    solve = stratification._solve
    monkeypatch.setattr(
        stratification, "_solve", lambda *args: (starts.append(args[1]), solve(*args))[1]
    )
    outcomes = Counter()
    for seed in range(40):
        sizes = random_groups(np.random.default_rng(seed), groups=6, classes=3, most=2)
        divisions = list(every_division(sizes))
        starts.clear()
        try:
            part_of = stratify(sizes, SHARES, seed=seed)
        except ValueError:
            outcomes["refused"] += 1
            assert not divisions
            continue
        assert is_divided(sizes, part_of)
        outcomes["moved" if starts else "greedy"] += 1
        if starts:
            assert cost(sizes, starts[0], part_of) == min(
                cost(sizes, starts[0], division) for division in divisions
            )
    assert min(outcomes[name] for name in ("refused", "moved", "greedy")) >= 4, outcomes


def cost(sizes, start, part_of):
    """Classes of three groups that are not in validation, and then clips moved."""
    groups = Counter(name for size in sizes.values() for name in size)
    validation = counts(sizes, part_of)[VALIDATION]
    missing = [name for name, n in groups.items() if n >= 3 and not validation[name]]
    moved = sum(sum(sizes[g].values()) for g in sizes if part_of[g] != start[g])
    return len(missing), moved


def test_large_groups_do_not_keep_a_class_out_of_a_part():
    sizes = {name: {"a": 50, "b": 50} for name in ("anna", "ben", "carl")}
    assert sorted(stratify(sizes, SHARES).values()) == [TRAIN, VALIDATION, TEST]


def test_the_order_does_not_matter_and_the_seed_does():
    sizes = random_groups(np.random.default_rng(1), groups=40, classes=3, most=2)
    backwards = {g: dict(reversed(size.items())) for g, size in reversed(sizes.items())}
    assert stratify(sizes, SHARES, seed=5) == stratify(backwards, SHARES, seed=5)
    assert stratify(sizes, SHARES, seed=5) != stratify(sizes, SHARES, seed=6)


def test_a_new_clip_leaves_most_others_where_they_are():
    before = ungrouped(a=200)
    for i in range(10):
        after = stratify(before | {f"new {i}": {"a": 1}}, SHARES)
        assert sum(after[g] != part for g, part in stratify(before, SHARES).items()) <= 3


def test_a_class_of_one_group_is_refused_by_name():
    sizes = ungrouped(a=5, lonely=1) | {"anna": {"big": 70, "a": 2}}
    message = (
        "each class must have two groups at least, to stand in training and in test; of 'big', "
        "'lonely' each has only one. Record more"
    )
    with pytest.raises(ValueError, match=message):
        stratify(sizes, SHARES)


def test_classes_that_cannot_be_divided_together_are_named():
    # With any two of the three groups on one side, a class is there as a whole.
    sizes = {"x": {"a": 1, "b": 1}, "y": {"b": 1, "c": 1}, "z": {"a": 1, "c": 1}}
    with pytest.raises(ValueError, match=r"of 'a', 'b', 'c' no division of the groups leaves each"):
        stratify(sizes | ungrouped(fine=5), SHARES)


@pytest.mark.parametrize(
    "shares", [(0.5, 0.5), (0.7, 0.2, 0.2), (1.2, -0.4, 0.2), (1, 0, 0), (0, 0.5, 0.5),
               (float("nan"), 0.5, 0.5)],
)  # fmt: skip
def test_bad_shares(shares):
    with pytest.raises(ValueError, match=r"`shares` must be three numbers .* that sum to 1"):
        stratify(ungrouped(a=5), shares)
