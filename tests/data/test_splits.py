"""Splits of clips: whole groups, groups from names and files, splits kept in a file, and shares
held against every division there is and against scikit-learn's folds.
"""

import csv
import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from keras_cnnlstm.data import splits
from keras_cnnlstm.data.clips import Clip
from keras_cnnlstm.data.splits import (
    fold_splits,
    groups_of,
    read_split,
    split_clips,
    write_split,
)

SHARES = (0.7, 0.15, 0.15)
TRAIN, VALIDATION, TEST = range(3)


def clip(name):
    return Clip(Path("data", name), name.partition("/")[0], name)


def some_clips(classes=("run", "walk"), people=10, takes=4):
    return [
        clip(f"{name}/p{person}_{take}")
        for name in classes
        for person in range(people)
        for take in range(takes)
    ]


def names(clips):
    return [clip.name for clip in clips]


def by_class(clips):
    return Counter(clip.class_name for clip in clips)


class TestSplit:
    def test_a_split_is_a_mapping_of_its_parts(self):
        clips = some_clips()
        split = split_clips(clips)
        assert list(split) == ["train", "validation", "test"]
        assert (split["train"], split["validation"], split["test"]) == (
            split.train, split.validation, split.test
        )  # fmt: skip
        assert sorted(names(itertools.chain(*split.values()))) == sorted(names(clips))
        assert by_class(split.train) == {"run": 28, "walk": 28}
        assert by_class(split.validation) == by_class(split.test) == {"run": 6, "walk": 6}
        assert split.test == sorted(split.test, key=lambda clip: clip.name)
        assert split.groups == {name: name for name in names(clips)}
        with pytest.raises(KeyError):
            split["groups"]

    def test_the_order_of_the_clips_does_not_matter_and_the_seed_does(self):
        clips = some_clips()
        assert split_clips(clips, seed=1) == split_clips(clips[::-1], seed=1)
        assert split_clips(clips, seed=1) != split_clips(clips, seed=2)

    def test_the_clips_of_a_split_do_not_change_from_one_version_to_the_next(self):
        """A test clip of a former version must not become a training clip."""
        split = split_clips(some_clips(takes=1), groups=r"^(.+?)_")
        assert names(split.validation) == ["run/p3_0", "walk/p3_0"]
        assert names(split.test) == ["run/p7_0", "run/p8_0", "walk/p7_0", "walk/p8_0"]
        split = split_clips(some_clips(people=3, takes=2))
        assert names(split.test) == ["run/p1_1", "walk/p1_1"]

    def test_no_clips_and_clips_of_one_name(self):
        with pytest.raises(ValueError, match=r"`clips` must be clips, two of each class; .* none"):
            split_clips([])
        with pytest.raises(ValueError, match=r"must have different names; received 'a/b' \(1\)"):
            split_clips([clip("a/b"), clip("a/c"), clip("a/b")])

    def test_a_class_of_one_group(self):
        with pytest.raises(ValueError, match=r"two groups or more.*'walk'"):
            split_clips([clip("run/a_1"), clip("run/b_1"), clip("walk/a_1"), clip("walk/a_2")],
                        groups="^(.+?)_")  # fmt: skip


class TestGroupsFromNames:
    @pytest.mark.parametrize(
        "pattern", [r"^(.+?)_", r"p\d+", r"(p\d)_(\d)", re.compile("P.", re.IGNORECASE)]
    )
    def test_the_first_group_or_the_whole_match(self, pattern):
        split = split_clips(some_clips(), groups=pattern)
        assert split.groups["walk/p7_3"] == split.groups["run/p7_0"] == "p7"

    def test_the_class_and_the_ending_of_a_video_are_not_searched(self):
        clips = [clip(f"p9/{name}") for name in ("p1_1.mp4", "p2_2.AVI", "p3_3")]
        split = split_clips(clips, groups=r"p(\d)")
        assert list(split.groups.values()) == ["1", "2", "3"]
        assert list(split_clips(clips, groups=r".$").groups.values()) == ["1", "2", "3"]

    @pytest.mark.parametrize("pattern", [r"^x_(\d)", r"z*", r"(z)|p"])
    def test_a_name_without_a_group(self, pattern):
        with pytest.raises(ValueError, match=r"finds no group in 'p0_0' \(run/p0_0\)"):
            split_clips(some_clips(), groups=pattern)

    @pytest.mark.parametrize("groups", ["(", 3])
    def test_no_pattern(self, groups):
        with pytest.raises(ValueError, match="`groups` must be a regular expression, or the path"):
            split_clips(some_clips(), groups=groups)


class TestGroupsFromAFile:
    @pytest.fixture
    def listed(self, tmp_path):
        def listed(text, clips=("a/1", "a/2.mp4", "b/ö, \n1", "b/2"), as_type=str, **options):
            path = tmp_path / "people.CSV"
            path.write_text(text, **({"encoding": "utf-8"} | options))
            return split_clips(map(clip, clips), groups=as_type(path)).groups

        return listed

    @pytest.mark.parametrize("as_type", [str, Path])
    def test_names_with_and_without_the_ending_of_a_video(self, listed, as_type):
        lines = 'note,group,clip\n,x,a/1\n,y,a/{}\n,x,"b/ö, \n1"\n?,y,b/2\n'
        expected = {"a/1": "x", "a/2.mp4": "y", "b/2": "y", "b/ö, \n1": "x"}
        for ending in ("2", "2.mp4"):
            assert listed(lines.format(ending), as_type=as_type) == expected

    def test_a_file_as_spreadsheets_write_it(self, listed):
        lines = "clip,group\r\na/1,x\r\na/2,y\r\n"
        assert listed(lines, ("a/1", "a/2"), encoding="utf-8-sig") == {"a/1": "x", "a/2": "y"}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("clip,group\na/1,x\n", r"expected a group for each clip; 'a/2' \(1\) missing. Add"),
            ("clip,group\na/1,x\na/2,y\na/3,y\n", r"expected names of clips.*'a/3' \(1\) unknown"),
            ("clip,group\na/1,x\na/2,y\na/1,y\n", "one line for each clip; 'a/1' has two"),
            ("clip,group\na/1,x\na/2,\n", "columns clip,group, all .* row 3 is 'a/2,'"),
            ("clip,person\na/1,x\na/2,y\n", "expected columns clip,group, all .* row 2 is 'a/1,x'"),
            ("clip,group\n", "expected columns clip,group; there are no lines"),
            ("", "there are no lines"),
            ('clip,group\na/1,"x', "expected a CSV file; row 2 .*unexpected end of data"),
        ],
    )
    def test_files_that_do_not_fit(self, listed, text, message):
        with pytest.raises(ValueError, match=rf"people\.CSV: .*{message}"):
            listed(text, ("a/1", "a/2"))

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no\.csv: expected a CSV file; found nothing"):
            split_clips(some_clips(), groups=str(tmp_path / "no.csv"))
        with pytest.raises(ValueError, match=r"expected a CSV file; found a folder"):
            split_clips(some_clips(), groups=tmp_path)


class TestFiles:
    @pytest.fixture
    def file(self, tmp_path):
        return tmp_path / "split.csv"

    def test_comes_back_as_it_was(self, file):
        clips = [*some_clips(), clip('walk/"ö", \n'), clip("walk/\udcff_no text.mp4")]
        split = split_clips(clips, groups="^(.+?)(_|,)")
        write_split(file, split)
        again = read_split(file, clips[::-1])
        assert again == split
        assert again.groups == split.groups
        assert [path.name for path in file.parent.iterdir()] == ["split.csv"]

    def test_columns(self, file):
        clips = some_clips(takes=2)
        split = split_clips(clips, groups="^(.+?)_")
        write_split(file, split)
        write_split(file, split)  # over it
        rows = list(csv.reader(file.read_text(encoding="utf-8").splitlines()))
        assert rows[0] == ["clip", "class", "group", "split"]
        expected = [
            [member.name, member.class_name, split.groups[member.name], part]
            for part, members in split.items()
            for member in members
        ]
        assert rows[1:] == sorted(expected)

    def test_nothing_is_left_of_a_file_that_could_not_be_written(self, file):
        (file / "folder").mkdir(parents=True)
        with pytest.raises(OSError, match=r"split\.csv"):
            write_split(file, split_clips(some_clips()))
        assert [path.name for path in file.parent.iterdir()] == ["split.csv"]

    def test_from_a_folder(self, file, tmp_path):
        for name in ("a/1", "a/2", "b/1", "b/2"):
            (tmp_path / "clips" / name).mkdir(parents=True)
        split = split_clips(map(clip, ("a/1", "a/2", "b/1", "b/2")))
        write_split(file, split)
        again = read_split(file, tmp_path / "clips")
        assert [names(part) for part in again.values()] == [names(p) for p in split.values()]
        assert again.train[0].path.is_dir()

    def test_a_clip_that_is_gone(self, file):
        clips = some_clips()
        write_split(file, split_clips(clips))
        with pytest.raises(FileNotFoundError, match=r"'run/p0_0', 'run/p0_1' \(2\) missing"):
            read_split(file, clips[2:])
        with pytest.raises(FileNotFoundError, match=r"'run/p1_0', \.\.\. \(80\) missing"):
            read_split(file, [])

    def test_a_clip_that_is_new(self, file):
        clips = some_clips()
        split = split_clips(clips)
        write_split(file, split)
        with pytest.warns(UserWarning, match=r"'new/1' \(1\) not in this split, and left out"):
            again = read_split(file, [clip("new/1"), *clips])
        assert again == split

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (["a/1,a,x,train", "a/2,a,x,test"], "each group in one part; 'x' is in train and in"),
            (["a/1,a,x,train", "a/2,a,y,dev"], "train, validation, test in column split; 'a/2'"),
            (["a/1,a,x", "a/2,a,y,test"], "expected columns clip,group,split, all of them filled"),
            ([], "there are no lines"),
        ],
    )
    def test_a_file_that_is_no_split(self, file, lines, message):
        file.write_text("\n".join(["clip,class,group,split", *lines]), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_split(file, [clip("a/1"), clip("a/2")])

    def test_no_file(self, file):
        with pytest.raises(FileNotFoundError, match=r"split\.csv: expected a CSV file; found noth"):
            read_split(file, some_clips())


def divide(sizes, shares=SHARES, seed=0):
    """The part of each group, of which `sizes` tells the clips of each class."""
    names = [
        f"{name}/{group}_{i}"
        for group, size in sizes.items() for name, n in size.items() for i in range(n)
    ]  # fmt: skip
    split = split_clips(map(clip, names), shares=shares, groups=r"^(.+)_\d+$", seed=seed)
    parts = {}
    for number, members in enumerate(split.values()):
        for member in members:
            assert parts.setdefault(split.groups[member.name], number) == number
    return parts


def ungrouped(**clips):
    return {f"{name}/{i}": {name: 1} for name, n in clips.items() for i in range(n)}


def random_groups(seed, *, groups, classes, most=1):
    """Groups of one to seven clips of each of one to `most` classes."""
    rng = np.random.default_rng(seed)
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


def errors(sizes, part_of, shares=SHARES):
    """How far each part is from its share of each class."""
    parts = counts(sizes, part_of)
    total = sum(parts, Counter())
    return np.array([
        part[name] / total[name] - share
        for part, share in zip(parts, shares, strict=True) for name in total
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("clips", "expected"),
    [(2, [1, 0, 1]), (3, [1, 1, 1]), (4, [2, 1, 1]), (7, [5, 1, 1]), (20, [14, 3, 3]),
     (100, [70, 15, 15]), (2000, [1400, 300, 300])],
)  # fmt: skip
def test_clips_without_groups(clips, expected):
    sizes = ungrouped(a=clips, b=20)
    parts = counts(sizes, divide(sizes, seed=3))
    assert [part["a"] for part in parts] == expected
    assert [part["b"] for part in parts] == [14, 3, 3]


def test_without_a_share_of_validation_there_is_none():
    sizes = ungrouped(a=10, b=5)
    parts = counts(sizes, divide(sizes, (0.8, 0, 0.2)))
    assert parts == [{"a": 8, "b": 4}, {}, {"a": 2, "b": 1}]
    lopsided = {"big": {"a": 90}, "small": {"a": 1}, "other": {"a": 1}}
    assert VALIDATION not in divide(lopsided, (0.5, 0, 0.5)).values()


@pytest.mark.parametrize("seed", range(8))
def test_groups_of_one_class_are_within_two_thirds_of_a_group(seed):
    sizes = random_groups(seed, groups=120, classes=3)
    shares = np.random.default_rng(seed).dirichlet([8, 3, 3])
    parts = counts(sizes, divide(sizes, shares, seed=seed))
    for name, total in sum(parts, Counter()).items():
        largest = max(size[name] for size in sizes.values() if name in size)
        for part, share in zip(parts, shares, strict=True):
            assert abs(part[name] - share * total) <= largest * 2 / 3 + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_no_group_alone_could_come_closer(seed):
    sizes = random_groups(seed, groups=30, classes=4, most=4)
    for size in sizes.values():  # a class many times as large as the others
        size.update({name: 20 * n for name, n in size.items() if name == "class 0"})
    part_of = divide(sizes)
    deviation = (errors(sizes, part_of) ** 2).sum()
    for group, part in itertools.product(sizes, range(3)):
        assert (errors(sizes, part_of | {group: part}) ** 2).sum() > deviation - 1e-8


def test_nearer_to_the_shares_than_the_folds_of_scikit_learn():
    """Mean over structures of the largest error in any class and part."""
    shares = (5 / 7, 1 / 7, 1 / 7)
    ours, theirs = [], []
    for seed in range(10):
        sizes = random_groups(seed, groups=60, classes=5, most=5)
        ours.append(np.abs(errors(sizes, divide(sizes, shares, seed=seed), shares)).max())
        theirs.append(np.abs(errors(sizes, folds(sizes, seed), shares)).max())
    assert np.mean(ours) < np.mean(theirs) / 2


def folds(sizes, seed):
    """Two of seven folds to validation and test."""
    rows = [(g, k) for g, size in sizes.items() for k, n in size.items() for _ in range(n)]
    groups, classes = map(np.array, zip(*rows, strict=True))
    folds = StratifiedGroupKFold(7, shuffle=True, random_state=seed).split(rows, classes, groups)
    part_of = dict.fromkeys(sizes, TRAIN)
    for part, (_, members) in zip((TEST, VALIDATION), folds, strict=False):
        part_of |= dict.fromkeys(map(str, groups[members]), part)
    return part_of


def absent(sizes, part_of):
    """Classes that training or test lacks; and those of three groups that validation lacks."""
    groups = Counter(name for size in sizes.values() for name in size)
    train, validation, test = counts(sizes, part_of)
    missing = sum((not train[name]) + (not test[name]) for name in groups)
    return missing, sum(n > 2 and not validation[name] for name, n in groups.items())


def test_the_best_of_all_divisions():
    """Against every division of small random structures."""
    outcomes = Counter()
    for seed in range(40):
        sizes = random_groups(seed, groups=6, classes=3, most=2)
        divisions = [
            dict(zip(sizes, parts, strict=True)) for parts in itertools.product(range(3), repeat=6)
        ]
        best = min((*absent(sizes, d), (errors(sizes, d) ** 2).sum()) for d in divisions)
        try:
            part_of = divide(sizes, seed=seed)
        except ValueError:
            outcomes["refused"] += 1
            assert best[0]
            continue
        found = (*absent(sizes, part_of), (errors(sizes, part_of) ** 2).sum())
        assert found == pytest.approx(best)
        outcomes["divided"] += 1
    assert min(outcomes["refused"], outcomes["divided"]) >= 8, outcomes


@pytest.mark.parametrize("seed", range(10))
def test_many_groups_of_rare_classes_are_divided(seed):
    """Classes of few groups that they share with others; in the folds alone they are not."""
    sizes = random_groups(seed, groups=20, classes=12, most=4)
    groups = Counter(name for size in sizes.values() for name in size)
    sizes |= {f"more {name}": {name: 1} for name, n in groups.items() if n < 3}
    assert absent(sizes, divide(sizes)) == (0, 0)


def test_large_groups_do_not_keep_a_class_out_of_a_part():
    sizes = {name: {"a": 50, "b": 50} for name in ("anna", "ben", "carl")}
    assert sorted(divide(sizes).values()) == [TRAIN, VALIDATION, TEST]


def test_the_order_does_not_matter_and_the_seed_does():
    sizes = random_groups(1, groups=40, classes=3, most=2)
    backwards = {g: dict(reversed(size.items())) for g, size in reversed(sizes.items())}
    assert divide(sizes, seed=5) == divide(backwards, seed=5)
    assert divide(sizes, seed=5) != divide(sizes, seed=6)


def test_a_class_of_one_group_is_refused_by_name():
    sizes = ungrouped(a=5, lonely=1) | {"anna": {"big": 70, "a": 2}}
    with pytest.raises(ValueError, match=r"two groups or more.* one group: 'big', 'lonely' \(2\)"):
        divide(sizes)


def test_a_class_that_cannot_be_divided_with_others_is_named():
    # With any two of the three groups on one side, a class is there as a whole.
    sizes = {"x": {"a": 1, "b": 1}, "y": {"b": 1, "c": 1}, "z": {"a": 1, "c": 1}}
    with pytest.raises(ValueError, match=r"could not be divided with those of others: '[abc]' \(1"):
        divide(sizes | ungrouped(fine=5))


@pytest.mark.parametrize(
    "shares", [(0.5, 0.5), (0.7, 0.2, 0.2), (1.2, -0.4, 0.2), (1, 0, 0), (0, 0.5, 0.5),
               (float("nan"), 0.5, 0.5)],
)  # fmt: skip
def test_bad_shares(shares):
    with pytest.raises(ValueError, match=r"`shares` must be three numbers .* sum to 1"):
        divide(ungrouped(a=5), shares)


def test_a_bad_seed():
    with pytest.raises(ValueError, match=r"`seed` must be .*0 .*received -1"):
        divide(ungrouped(a=5), seed=-1)


def fold(sizes, folds, seed=0, order=1):
    """The test fold of each group, after a look at the splits."""
    clips = [
        clip(f"{name}/{group}_{i}")
        for group, size in sizes.items() for name, n in size.items() for i in range(n)
    ]  # fmt: skip
    splits = fold_splits(clips[::order], folds, groups=r"^(.+)_\d+$", seed=seed)
    assert len(splits) == folds
    fold_of = {}
    for number, split in enumerate(splits):
        assert sorted(names(itertools.chain(*split.values()))) == sorted(names(clips))
        sides = [{split.groups[member.name] for member in part} for part in split.values()]
        assert not any(a & b for a, b in itertools.combinations(sides, 2))
        for group in sides[TEST]:
            assert fold_of.setdefault(group, number) == number
        outside = Counter(
            name for g, size in sizes.items() if g not in sides[TEST] for name in size
        )
        classes = {name for size in sizes.values() for name in size}
        assert by_class(split.train).keys() == by_class(split.test).keys() == classes
        assert by_class(split.validation).keys() == {c for c, n in outside.items() if n > 1}
    assert fold_of.keys() == sizes.keys()
    return fold_of


def enough(sizes, folds):
    """More groups of a class of its own for each class that has too few."""
    groups = Counter(name for size in sizes.values() for name in size)
    more = {f"more {name} {i}": {name: 2} for name, n in groups.items() for i in range(folds - n)}
    return sizes | more


@pytest.mark.parametrize(
    ("folds", "groups", "classes", "most"),
    [(2, 12, 2, 1), (3, 9, 3, 2), (5, 34, 2, 2), (5, 24, 6, 4), (10, 60, 4, 1)],
)
@pytest.mark.parametrize("seed", range(3))
def test_each_clip_is_tested_once_and_no_group_is_on_two_sides(folds, groups, classes, most, seed):
    sizes = enough(random_groups(seed, groups=groups, classes=classes, most=most), folds)
    assert fold(sizes, folds, seed) == fold(sizes, folds, seed, order=-1)


def can_be_spread(groups, folds, classes):
    """Whether any assignment of groups to folds, given with their classes, has all in each."""
    if all(fold == classes for fold in folds):
        return True
    return bool(groups) and any(
        can_be_spread(groups[1:], [*folds[:i], folds[i] | groups[0], *folds[i + 1 :]], classes)
        for i in {fold: i for i, fold in enumerate(folds)}.values()
    )


@pytest.mark.parametrize("seed", [*range(6), 15])  # in the last no assignment will do
def test_folds_of_few_groups_that_share_their_classes(seed):
    """Against every assignment: as many groups as folds of a class, each in another fold."""
    sizes = enough(random_groups(seed, groups=5, classes=4, most=3), 3)
    groups = [frozenset(size) for size in sizes.values()]
    if can_be_spread(groups, [frozenset()] * 3, frozenset().union(*groups)):
        fold(sizes, 3, seed)
    else:
        with pytest.raises(ValueError, match=r"`folds` must be fewer.*spread 'class"):
            fold(sizes, 3, seed)


def test_folds_are_even_and_another_seed_gives_others():
    sizes = ungrouped(a=13, b=12, c=8)
    folds = [fold(sizes, 5, seed) for seed in range(2)]
    assert folds[0] != folds[1]
    assert sorted(Counter(folds[0].values()).values()) == [6, 6, 7, 7, 7]
    for name, least in (("a", 2), ("b", 2), ("c", 1)):
        found = Counter(number for group, number in folds[0].items() if group[0] == name)
        assert set(found.values()) == {least, least + 1}


@pytest.mark.parametrize(("folds", "clips"), [(2, 200), (5, 200), (10, 200)])
def test_about_15_percent_of_all_clips_validate_in_each_fold(folds, clips):
    members = [clip(f"{name}/{i}") for name in "ab" for i in range(clips)]
    for split in fold_splits(members, folds):
        assert by_class(split.validation) == {"a": clips * 0.15, "b": clips * 0.15}
        assert by_class(split.test) == {"a": clips / folds, "b": clips / folds}


def test_a_class_of_fewer_groups_than_folds_is_named_with_the_most_folds():
    sizes = ungrouped(a=9, b=9) | {"anna": {"c": 40}, "ben": {"c": 5}, "carl": {"c": 5}}
    with pytest.raises(ValueError, match=r"`folds` must be .*class 'c' has 3: take 3 folds at mo"):
        fold(sizes, 4)
    fold(sizes, 3)
    with pytest.raises(ValueError, match="class 'd' has 1: record more, or leave it out"):
        fold(sizes | {"dora": {"d": 8}}, 2)


def test_folds_over_which_a_class_cannot_be_spread():
    # Each two of the three groups share a class, of which one fold then has none.
    sizes = {"x": {"a": 1, "b": 1}, "y": {"b": 1, "c": 1}, "z": {"a": 1, "c": 1}}
    with pytest.raises(ValueError, match=r"`folds` must be fewer.*spread '[abc]' \(1\)"):
        fold(sizes | ungrouped(fine=5), 2)


@pytest.mark.parametrize("folds", [1, 101, 2.0, "5", None])
def test_bad_folds(folds):
    with pytest.raises(ValueError, match="`folds` must be an integer from 2 to 100"):
        fold_splits(some_clips(), folds)


class TestTablesAsProgramsWriteThem:
    CLIPS = (clip("walk/zo\u00eb_1"), clip("walk/b.mp4"), clip("run/c d"))
    EXPECTED = {"walk/zo\u00eb_1": "1", "walk/b.mp4": "2", "run/c d": "1"}  # noqa: RUF012

    @pytest.mark.parametrize(
        "text",
        [
            "clip;group\nwalk/zo\u00eb_1;1\nwalk/b;2\nrun/c d;1\n",
            "clip\tgroup\r\nwalk/zo\u00eb_1\t1\r\nwalk/b\t2\r\nrun/c d\t1\r\n",
            '\ufeffClip, GROUP \n walk/zo\u00eb_1 , 1\n"walk/b", 2\nrun/c d , 1 \n',
            "clip,group\nwalk/zoe\u0308_1,1\nwalk/b.mp4,2\nrun/c d,1\n",
        ],
        ids=["semicolons", "tabs", "BOM, capitals and spaces", "NFD"],
    )
    def test_marks_capitals_spaces_and_forms(self, tmp_path, text):
        table = tmp_path / "groups.csv"
        table.write_bytes(text.encode())
        assert groups_of(self.CLIPS, table) == self.EXPECTED

    def test_names_in_latin_1(self, tmp_path):
        (tmp_path / "groups.csv").write_bytes(
            "clip,group\nwalk/zo\xeb_1,1\nwalk/b,2\nrun/c d,1\n".encode("latin-1")
        )
        assert groups_of(self.CLIPS, tmp_path / "groups.csv") == self.EXPECTED

    def test_a_split_in_another_form(self, tmp_path):
        text = "CLIP;Group;Split\nwalk/zoe\u0308_1;1;train\nwalk/b.mp4;2;test\nrun/c d;1;train\n"
        (tmp_path / "split.csv").write_text(text)
        split = read_split(tmp_path / "split.csv", self.CLIPS)
        assert [c.name for c in split.train] == ["run/c d", "walk/zo\u00eb_1"]
        assert split.groups == self.EXPECTED


def test_a_pattern_that_tries_too_many_ways_is_given_up(monkeypatch):
    monkeypatch.setattr(splits, "_PATIENCE", 0.05)
    clips = [clip(f"{name}/{'a' * 40}{i}!") for name in ("walk", "run") for i in range(4)]
    with pytest.raises(ValueError, match=r"`groups` must match .* within .* simpler pattern"):
        split_clips(clips, groups="^(a|aa)+$")


def test_flags_of_a_compiled_pattern_count():
    clips = [clip(f"walk/{letter}_{i}") for i, letter in enumerate("aAbB")]
    groups = groups_of(clips, re.compile("^([ab])", re.IGNORECASE))
    assert list(groups.values()) == ["a", "A", "b", "B"]
