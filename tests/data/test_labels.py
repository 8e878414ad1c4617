"""Tables of labels: what people's spreadsheets write is read, and all that is wrong in them is
found, each in one line with row and column.
"""

import json
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_cnnlstm.data.clips import find_clips
from keras_cnnlstm.data.labels import (
    Label,
    Segment,
    labelled_clips,
    read_labels,
    read_stored,
    table_task,
    write_labels,
)
from keras_cnnlstm.data.splits import prescribed_split, split_clips
from keras_cnnlstm.utils.files import png_bytes

FRAME = png_bytes(np.zeros((2, 2, 1), np.uint8))
FOLDERS = ("one", "two", "three", "deep/four")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Clips: the folders of FOLDERS, and the videos film.mp4 and film 2.avi."""
    root = tmp_path_factory.mktemp("clips")
    for name in FOLDERS:
        (root / name).mkdir(parents=True)
        (root / name / "0.png").write_bytes(FRAME)
    (root / "notes.txt").write_text("no clip")
    for name in ("film.mp4", "film 2.avi"):
        (root / name).write_bytes(b"")
    return root


@pytest.fixture
def table(tmp_path):
    """Writes a table, of text or bytes, and gives its path."""

    def write(content, name="labels.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def read(table, root, **options):
    table = read_labels(table, root, **options)
    table.check()
    return table


CLASSES = {"one": Label(("run",)), "two": Label(("walk",))}


class TestForms:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("a.csv", "clip,class\none,run\ntwo,walk\n"),
            ("a.csv", "clip;class\r\none;run\r\ntwo;walk"),
            ("a.csv", "\ufeffclip,class\n\none,run\n , \ntwo,walk\n"),
            ("a.csv", "sep=;\nclip;class\none;run\ntwo;walk\n"),
            ("a.csv", 'Clip , CLASS\n"one","run"\n two , "walk"\n'),
            ("a.csv", "class,clip\nrun,./one/\nwalk,.\\two\n"),
            ("a.csv", "clip\tclass\none\trun\ntwo\twalk\n"),
            ("a.tsv", "clip\tclass\none\trun\ntwo\twalk\n"),
            ("a.TSV", "clip\tclass\none\trun\ntwo\twalk\n"),
            ("a.csv", "clip,class\none,run\ntwo,walk\n".encode("utf-16")),
            ("a.jsonl", '{"clip": "one", "class": "run"}\n\n{"clip": "two", "class": "walk"}'),
        ],
    )
    def test_every_spelling_of_one_table(self, table, root, name, content):
        found = read(table(content, name), root)
        assert (found.type, dict(found.labels)) == ("class", CLASSES)
        assert found.class_names == ("run", "walk")

    def test_other_letters_than_ascii(self, table, root):
        text = "clip;class\none;Zoë\ntwo;Käfer\n"
        for content in (text.encode("cp1252"), text.encode(), text.encode("utf-16")):
            assert read(table(content), root).class_names == ("Zoë", "Käfer")

    def test_paths_of_other_systems(self, table, tmp_path):
        root = tmp_path / "clips"
        composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
        for name in (apart, "deep/four"):
            (root / name).mkdir(parents=True)
        (root / "film.mp4").write_bytes(b"")
        text = f"clip,class\ndeep\\four,run\nfilm,walk\n{composed},run\n"
        assert list(read(table(text), root).labels) == ["deep/four", "film.mp4", apart]

    def test_several_labels(self, table, root):
        found = read(table("clip,classes\none,run|jump\ntwo,\nthree, jump \n"), root)
        assert found.labels == {
            "one": Label(("run", "jump")), "two": Label(), "three": Label(("jump",)),
        }  # fmt: skip
        lines = [{"clip": "one", "classes": ["a|b", "c"]}, {"clip": "two", "classes": []}]
        found = read(table("\n".join(map(json.dumps, lines)), "a.jsonl"), root)
        assert found.labels["one"].classes == ("a|b", "c")

    def test_numbers(self, table, root):
        found = read(table("clip;value:speed;value: mass\none;1,5;2e3\ntwo;-1;0\n"), root)
        assert found.labels["one"].values == (("speed", 1.5), ("mass", 2000.0))
        assert read(table("clip,value\none,1\n"), root).labels["one"].values == (("value", 1.0),)

    def test_segments_in_seconds_and_frames(self, table, root):
        text = "clip,start,end,class\none,1:02.5,70,run\none,0,3.5,walk\ntwo,1,2,run\n"
        label = read(table(text), root).labels["one"]
        assert label.segments == (Segment(0, 3.5, "walk"), Segment(62.5, 70, "run"))
        assert not label.in_frames
        text = "clip,start,end,class\none,0,30,run\n"
        assert read(table(text), root, frame_numbers=True).labels["one"].in_frames

    def test_classes_of_frames(self, table, root):
        expected = (Segment(0, 30, "walk"), Segment(40, 41, "run: fast"))
        label = read(table("clip,frame classes\none,40:run: fast|0-29:walk\n"), root).labels["one"]
        assert (label.segments, label.in_frames) == (expected, True)
        row = {"clip": "one", "frame_classes": [[0, 29, "walk"], [40, 40, "run: fast"]]}
        found = read(table(json.dumps(row), "a.jsonl"), root)
        assert found.labels["one"].segments == expected

    def test_split_group_and_weight(self, table, root):
        text = "clip,class,split,group,weight\none,run,Train,a,2\ntwo,walk,val,b,0.5\n"
        text += "three,run,TEST,c,0\n"
        found = read(table(text), root)
        assert [label.split for label in found.labels.values()] == ["train", "validation", "test"]
        assert found.labels["two"] == Label(("walk",), (), (), False, "validation", "b", 0.5)

    @pytest.mark.parametrize(
        ("header", "task"),
        [
            ("clip,class", "clip"),
            ("clip,classes", "clip_labels"),
            ("clip,value", "clip_values"),
            ("clip,value:a,value:b", "clip_values"),
            ("clip,start,end,class", "clip_segments"),
            ("clip,frame classes", "clip_segments"),
        ],
    )
    def test_the_columns_say_what_is_asked(self, table, header, task):
        assert table_task(table(header + "\n")) == task


# What is wrong, the row and the column that the error names, and a word of the remedy.
BROKEN = {
    # files
    "another type": ("x.xlsx", "clip,class\n", "", "", ".csv, .tsv, .jsonl"),
    "empty": ("x.csv", "", "", "", "header"),
    "blank": ("x.csv", "\n\n", "", "", "header"),
    "bytes": ("x.csv", b"\x00\x01\x02\x00", "", "", "UTF-8"),
    "header alone": ("x.csv", "clip,class\n", "", "", "no rows"),
    "no json": ("x.jsonl", "clip,class\n", "1", "", "JSON"),
    "json of lists": ("x.jsonl", '["one", "run"]\n', "1", "", "JSON object"),
    "a broken line of json": ("x.jsonl", '{"clip": "one", "class": "a"}\n{"clip"', "2", "", "JSON"),
    "an open quote": ("x.csv", 'clip,class\none,"run\n', "2", "", "CSV"),
    # columns
    "no clip": ("x.csv", "name,class\none,run\n", "1", "1", "name"),
    "clip is missing": ("x.csv", "class\nrun\n", "1", "", "column clip"),
    "an unknown column": ("x.csv", "clip,clas\none,run\n", "1", "2", "Did you mean class"),
    "a column twice": ("x.csv", "clip,class,Class\none,a,b\n", "1", "3", "twice"),
    "a column without a name": ("x.csv", "clip,class,\none,a,b\n", "1", "3", "name"),
    "no label": ("x.csv", "clip,group\none,a\n", "1", "", "one way to label"),
    "two ways": ("x.csv", "clip,class,value\none,a,1\n", "1", "", "class and value"),
    "class and classes": ("x.csv", "clip,class,classes\none,a,b\n", "1", "", "class and classes"),
    "segments and frames": (
        "x.csv", "clip,start,end,class,frame classes\none,0,1,a,0:a\n", "1", "", "frame classes",
    ),
    "no end": ("x.csv", "clip,start,class\none,0,a\n", "1", "", "missing end"),
    "no class of segments": ("x.csv", "clip,start,end\none,0,1\n", "1", "", "missing class"),
    "value and value:a": ("x.csv", "clip,value,value:a\none,1,2\n", "1", "", "value:NAME"),
    "value without a name": ("x.csv", "clip,value:\none,1\n", "1", "2", "unknown column"),
    # rows
    "too many cells": ("x.csv", "clip,class\none,run,fast\n", "2", "", "3 cells"),
    "the second row": ("x.csv", "clip,class\none,run\nnone,walk\n", "3", "clip", "no 'none'"),
    "no path": ("x.csv", "clip,class\n,run\n", "2", "clip", "path"),
    "an absolute path": ("x.csv", "clip,class\n/one,run\n", "2", "clip", "below"),
    "a drive": ("x.csv", "clip,class\nC:\\one,run\n", "2", "clip", "below"),
    "up": ("x.csv", "clip,class\n../one,run\n", "2", "clip", "leads out"),
    "up and down": ("x.csv", "clip,class\ndeep/../one,run\n", "2", "clip", "leads out"),
    "the folder itself": ("x.csv", "clip,class\n.,run\n", "2", "clip", "leads out"),
    "a missing clip": ("x.csv", "clip,class\nfive,run\n", "2", "clip", "no 'five'"),
    "a near name": ("x.csv", "clip,class\nthre,run\n", "2", "clip", "but three"),
    "a missing folder": ("x.csv", "clip,class\nnowhere/one,run\n", "2", "clip", "nowhere"),
    "no video": ("x.csv", "clip,class\nnotes.txt,run\n", "2", "clip", "neither"),
    "capitals": ("x.csv", "clip,class\nFilm.mp4,run\n", "2", "clip", "but film.mp4"),
    "a clip twice": ("x.csv", "clip,class\none,run\none,run\n", "3", "clip", "row 2"),
    "a clip twice, otherwise spelled": (
        "x.csv", "clip,class\nfilm,a\nfilm.mp4,b\n", "3", "clip", "row 2",
    ),
    "frames of a clip twice": (
        "x.csv", "clip,frame classes\none,0:a\none,1:a\n", "3", "clip", "row 2",
    ),
    # classes
    "no class": ("x.csv", "clip,class\none,\n", "2", "class", "filled in"),
    "a short row": ("x.csv", "clip,class\none\n", "2", "class", "filled in"),
    "null": ("x.jsonl", '{"clip": "one", "class": null}', "1", "class", "filled in"),
    "capitals of a class": ("x.csv", "clip,class\none,Run\ntwo,run\n", "3", "class", "row 2"),
    "spaces of a class": (
        "x.csv", "clip,class\none,high jump\ntwo,highjump\n", "3", "class", "row 2",
    ),
    "underscores of a class": (
        "x.csv", "clip,class\none,high jump\ntwo,high_jump\n", "3", "class", "row 2",
    ),
    "one class": ("x.csv", "clip,class\none,run\ntwo,run\n", "", "class", "2 classes"),
    "a control character": ("x.csv", "clip,class\none,r\x07n\n", "2", "class", "Cc"),
    "a label twice": ("x.csv", "clip,classes\none,a|b|a\n", "2", "classes", "twice"),
    "no labels at all": ("x.csv", "clip,classes\none,\n", "", "classes", "1 classes"),
    # numbers
    "no number": ("x.csv", "clip,value\none,fast\n", "2", "value", "number"),
    "an empty number": ("x.csv", "clip,value:a\none,\n", "2", "value:a", "number"),
    "NaN": ("x.csv", "clip,value\none,nan\n", "2", "value", "number"),
    "infinity": ("x.csv", "clip,value\none,inf\n", "2", "value", "number"),
    "thousands": ("x.csv", 'clip,value\none,"1,500"\n', "2", "value", "number"),
    "a boolean": ("x.jsonl", '{"clip": "one", "value": true}', "1", "value", "number"),
    "a negative weight": ("x.csv", "clip,value,weight\none,1,-1\n", "2", "weight", "from 0"),
    # segments
    "a negative start": ("x.csv", "clip,start,end,class\none,-1,1,a\n", "2", "start", "0 or more"),
    "an end before the start": ("x.csv", "clip,start,end,class\none,2,1,a\n", "2", "end", "after"),
    "an empty segment": ("x.csv", "clip,start,end,class\none,1,1,a\n", "2", "end", "after"),
    "an overlap": (
        "x.csv", "clip,start,end,class\none,0,2,a\none,1,3,b\n", "3", "start", "overlaps",
    ),
    "no frames": ("x.csv", "clip,frame classes\none,walk\n", "2", "frame classes", "0-29:walk"),
    "frames backwards": ("x.csv", "clip,frame classes\none,5-2:a\n", "2", "frame classes", "low"),
    "a frame of two classes": (
        "x.csv", "clip,frame classes\none,0-5:a|5-9:b\n", "2", "frame classes", "frame 5",
    ),
    # split and group
    "a fourth part": ("x.csv", "clip,class,split\none,a,all\n", "2", "split", "validation"),
    "no part": ("x.csv", "clip,class,split\none,a,\n", "2", "split", "filled in"),
    "no test": (
        "x.csv", "clip,class,split\none,a,train\ntwo,b,val\n", "", "split", "none of test",
    ),
    "a group in two parts": (
        "x.csv", "clip,class,group,split\none,a,g,train\ntwo,b,g,test\n", "3", "split", "row 2",
    ),
    "no group": ("x.csv", "clip,class,group\none,a,\n", "2", "group", "filled in"),
    "two groups of a clip": (
        "x.csv", "clip,start,end,class,group\none,0,1,a,g\none,1,2,a,h\n", "3", "group", "same",
    ),
}  # fmt: skip


class TestBroken:
    @pytest.mark.parametrize("name", BROKEN)
    def test_one_line_names_row_and_column(self, table, root, name):
        file, content, row, column, word = BROKEN[name]
        path = table(content, file)
        with pytest.raises(ValueError, match=re.escape(word)) as caught:
            read(path, root)
        text = str(caught.value)
        assert text.startswith(f"{path}: ")
        assert "\n" not in text
        assert not row or f"row {row}" in text
        assert not column or f"column {column}:" in text

    def test_all_that_is_wrong_is_found(self, table, root):
        text = "clip,class,weight\nfive,run,1\none,,x\ntwo,walk,1\ntwo,walk,1\n"
        problems = read_labels(table(text), root).problems
        places = [re.search(r"row (\d+), column (\w+)", problem).groups() for problem in problems]
        assert places == [("2", "clip"), ("3", "class"), ("3", "weight"), ("5", "clip")]
        many = "clip,class\n" + "".join(f"none{i},run\n" for i in range(20))
        with pytest.raises(ValueError, match="and 15 more"):
            read(table(many), root)

    def test_nothing_there(self, table, root, tmp_path):
        with pytest.raises(FileNotFoundError, match="found nothing"):
            read_labels(tmp_path / "none.csv", root)
        with pytest.raises(FileNotFoundError, match="folder"):
            read_labels(table("clip,class\n"), root / "none")
        (tmp_path / "folder.csv").mkdir()
        with pytest.raises(ValueError, match="found a folder"):
            read_labels(tmp_path / "folder.csv", root)

    def test_a_link_that_leads_out(self, table, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "clips").mkdir()
        (tmp_path / "clips" / "out").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ValueError, match="row 2, column clip: 'out' is a link"):
            read(table("clip,class\nout,run\n"), tmp_path / "clips")


CELLS = st.text(max_size=6) | st.sampled_from(
    ["one", "two", "film", "run", "a|b", "1", "-1", "x", "", "0-3:a", "train", "test", '"', "\0"]
)
HEADERS = st.sampled_from(
    ["clip", "class", "classes", "value", "value:x", "start", "end", "frame classes", "split",
     "group", "weight", "Clip ", "", "other"]
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    header=st.lists(HEADERS, min_size=1, max_size=5),
    rows=st.lists(st.lists(CELLS, max_size=6), max_size=5),
    mark=st.sampled_from([",", ";", "\t"]),
    damage=st.binary(max_size=3),
)
def test_any_table_is_read_or_refused_in_lines(
    ends_well, root, tmp_path_factory, header, rows, mark, damage
):
    path = tmp_path_factory.getbasetemp() / "drawn.csv"
    lines = [mark.join(row) for row in [["clip", *header], *rows]]
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass") + damage)
    found = ends_well(lambda: read_labels(path, root), path.name)
    if isinstance(found, Exception):
        return
    clips, _ = labelled_clips(found, root)
    assert len(clips) == len(found.labels)
    assert all(str(path) in problem and "\n" not in problem for problem in found.problems)


class TestClips:
    def test_in_the_order_of_their_names_with_what_the_table_says(self, table, root):
        clips, problems = labelled_clips(
            read_labels(table("clip,class\ntwo,walk\ndeep/four,run\n"), root), root
        )
        assert [(clip.name, clip.class_name) for clip in clips] == [
            ("deep/four", "run"), ("two", "walk"),
        ]  # fmt: skip
        assert clips[0].path == root / "deep" / "four"
        (problem,) = problems
        assert not problem.fatal
        assert "film 2.avi, film.mp4, one, ... (4)" in problem.reason

    def test_strata(self, table, root):
        def strata(text):
            clips, _ = labelled_clips(read_labels(table(text), root), root)
            return {clip.name: clip.class_name for clip in clips}

        six = ("one", "two", "three", "film.mp4", "film 2.avi", "deep/four")

        def of_labels(*labels):
            rows = (f"{name},{label}" for name, label in zip(six, labels, strict=True))
            return list(strata("\n".join(["clip,classes", *rows])).items())

        found = dict(of_labels("a|b", "a|b", "b|a", "a", "a", "a"))
        assert [found[name] for name in six] == ["b", "b", "b", "a", "a", "a"]
        # Labels that are too rare for each part of a split are put together, or to the others.
        found = dict(of_labels("a", "a", "a", "b", "c", ""))
        assert [found[name] for name in six] == ["a", "a", "a", *["other labels"] * 3]
        found = dict(of_labels("a", "a", "a", "a", "b", "c"))
        assert set(found.values()) == {"a"}
        assert set(strata("clip,value\none,1\ntwo,5\n").values()) == {"quarter 1 of 1"}

    def test_groups_and_a_prescribed_split(self, table, root):
        text = (
            "clip,class,group,split\none,a,g,train\ntwo,b,h,train\nthree,a,i,test\nfilm,b,i,test\n"
        )
        clips, _ = labelled_clips(read_labels(table(text), root), root)
        split = prescribed_split(clips)
        assert [clip.name for clip in split.train] == ["one", "two"]
        assert [clip.name for clip in split.test] == ["film.mp4", "three"]
        assert (split.validation, split.groups["film.mp4"]) == ([], "i")
        text = "clip,class,group\none,a,g\ntwo,b,g\nthree,a,i\nfilm,b,i\n"
        clips, _ = labelled_clips(read_labels(table(text), root), root)
        assert prescribed_split(clips) is None
        split = split_clips(clips, shares=(0.5, 0, 0.5))
        assert len({split.groups[clip.name] for clip in split.train}) == 1

    def test_folders_prescribe_no_split(self, tmp_path):
        (tmp_path / "a" / "clip").mkdir(parents=True)
        (tmp_path / "a" / "clip" / "0.png").write_bytes(FRAME)
        assert prescribed_split(find_clips(tmp_path)) is None

    @pytest.mark.parametrize(
        "text",
        [
            "clip,class,split,group,weight\none,a,train,g,2\ntwo,b,test,h,1\n",
            "clip,classes\none,a|b\ntwo,\n",
            "clip,value:x,value:y\none,1,2.5\ntwo,0,-1\n",
            "clip,start,end,class\none,0,1.5,a\none,2,3,b\n",
            "clip,frame classes\none,0-4:a\n",
        ],
    )
    def test_kept_in_a_file(self, table, root, tmp_path, text):
        clips, _ = labelled_clips(read_labels(table(text), root), root)
        write_labels(tmp_path / "kept.jsonl", clips, root)
        assert read_stored(tmp_path / "kept.jsonl", root) == clips
        (tmp_path / "kept.jsonl").write_text('{"clip": 1}\n')
        with pytest.raises(ValueError, match="on line 1"):
            read_stored(tmp_path / "kept.jsonl", root)
