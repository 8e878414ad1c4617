"""Splits of clips: whole groups, groups from names and files, and splits kept in a file."""

import csv
import itertools
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from keras_cnnlstm.clips import Clip
from keras_cnnlstm.splits import read_split, split_clips, write_split

SHARES = (0.7, 0.15, 0.15)


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
        assert names(split.validation) == ["run/p5_0", "run/p9_0", "walk/p5_0", "walk/p9_0"]
        assert names(split.test) == ["run/p4_0", "walk/p4_0"]
        split = split_clips(some_clips(people=3, takes=2))
        assert names(split.test) == ["run/p0_1", "walk/p0_0"]

    @pytest.mark.parametrize("seed", range(6))
    def test_random_structures_of_groups(self, seed):
        rng = np.random.default_rng(seed)
        people = rng.integers(12, size=300)
        clips = [clip(f"{'abc'[rng.integers(3)]}/{p}_{i}") for i, p in enumerate(people)]
        split = split_clips(clips, groups=r"^(\d+)_", seed=seed)
        sides = defaultdict(set)
        for part, members in split.items():
            for member in members:
                person = re.match(r"./(\d+)_", member.name)[1]
                assert split.groups[member.name] == person
                sides[person].add(part)
        assert all(len(parts) == 1 for parts in sides.values())
        assert sorted(names(itertools.chain(*split.values()))) == sorted(names(clips))
        for part, share in zip(split.values(), SHARES, strict=True):
            for name, n in by_class(clips).items():
                assert by_class(part)[name]
                assert abs(by_class(part)[name] / n - share) < 0.1

    def test_no_clips_and_clips_of_one_name(self):
        with pytest.raises(ValueError, match=r"`clips` must be clips, two of each class; .* none"):
            split_clips([])
        with pytest.raises(ValueError, match=r"must have different names; received 'a/b' \(1\)"):
            split_clips([clip("a/b"), clip("a/c"), clip("a/b")])

    def test_a_class_of_one_group(self):
        with pytest.raises(ValueError, match=r"two groups at least.*'walk' each has only one"):
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
            ("clip,group\na/1,x\na/2,y\na/3,y\n", r"expected names of clips.*'a/3' \(1\) none"),
            ("clip,group\na/1,x\na/2,y\na/1,y\n", "one line for each clip; 'a/1' has two"),
            ("clip,group\na/1,x\na/2,\n", "columns clip,group, all .* row 3 is 'a/2,'"),
            ("clip,person\na/1,x\na/2,y\n", "expected columns clip,group, all .* row 2 is 'a/1,x'"),
            ("clip,group\n", "expected columns clip,group; there are no lines"),
            ("", "there are no lines"),
            ('clip,group\na/1,"x', "expected a CSV file; unexpected end of data"),
        ],
    )
    def test_files_that_do_not_fit(self, listed, text, message):
        with pytest.raises(ValueError, match=rf"people\.CSV: .*{message}"):
            listed(text, ("a/1", "a/2"))

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no\.csv: expected a CSV file; found nothing"):
            split_clips(some_clips(), groups=str(tmp_path / "no.csv"))
        with pytest.raises(ValueError, match=r"expected a CSV file; .*Is a directory"):
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
        with pytest.raises(
            FileNotFoundError, match=r"'run/p0_0', 'run/p0_1' \(2\) missing. Put them back, or"
        ):
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
