"""Labels of clips in a table, CSV, TSV or JSON lines: one row a clip, or one row a segment of it.

| column         | what it holds                                                                 |
|----------------|-------------------------------------------------------------------------------|
| clip           | the clip, a folder of frames or a video, below the folder of clips            |
| class          | its class; with start and end, the class of that segment                      |
| classes        | its labels, several or none, separated by a vertical bar                      |
| value          | a number; several numbers have a column each, `value:NAME`                    |
| start, end     | where a segment begins and ends, in seconds                                   |
| frame classes  | the class of each stretch of frames, `0-29:walk|30-59:run`, both ends included |
| split          | train, validation or test                                                     |
| group          | what the clip was cut from: clips of one group stay in one part               |
| weight         | how much the clip counts in training; 1 is usual                              |

A table has `clip` and one way to label: `class`, `classes`, `value`, `start, end, class`, or
`frame classes`. All that is wrong in it is found in one pass, each with its row and column. Rows
are counted as a spreadsheet counts them: the header is row 1.
"""

import difflib
import itertools
import json
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from keras_cnnlstm.data.clips import PART_NAMES, Clip, Label, Problem, Segment, as_name
from keras_cnnlstm.data.tables import read_table
from keras_cnnlstm.data.videos import VIDEO_SUFFIXES
from keras_cnnlstm.utils.files import read_text, write_text
from keras_cnnlstm.utils.validation import as_path, short_repr

SUFFIXES = (".csv", ".tsv", ".jsonl")
"""Endings of a table's name."""

LabelType = Literal["class", "classes", "value", "segments"]

TASK_OF: dict[LabelType, str] = {
    "class": "clip",
    "classes": "clip_labels",
    "value": "clip_values",
    "segments": "clip_segments",
}
"""The task that each way of labelling asks."""

_COLUMNS = (
    "clip", "class", "classes", "value", "start", "end", "frame classes", "split", "group",
    "weight",
)  # fmt: skip
_FEWEST = 3  # groups of a stratum, one for each part of a split
_SHOWN = 5  # problems that an error shows


@dataclass(frozen=True)
class LabelTable:
    """A table of labels, read.

    Attributes:
        path: the file.
        type: "class", "classes", "value" or "segments".
        labels: what it says of each clip, by the clip's name: its path below the folder, with `/`.
        class_names: the classes, in the order in which they first occur.
        problems: what is wrong in it, each with its row and column.
    """

    path: Path
    type: LabelType
    labels: Mapping[str, Label]
    class_names: tuple[str, ...]
    problems: tuple[str, ...]

    def check(self) -> None:
        """Raises a ValueError that lists what is wrong, if anything is."""
        if self.problems:
            raise ValueError(_listed(self.problems))


def read_labels(path: str | Path, root: str | Path, *, frame_numbers: bool = False) -> LabelTable:
    """Reads a table of labels and finds the clips that it names.

    UTF-8, UTF-16 and Windows-1252 are read, with or without a byte order mark; columns separated by
    commas, semicolons or tabs, as the header has them; quotes, empty lines and any line ends.
    Headers may have capitals, spaces and underscores. Paths may have backslashes; a video may be
    named without its ending. Decimal commas are read where the separator is another.

    Args:
        path: the table, `.csv`, `.tsv` or `.jsonl`.
        root: the folder of clips.
        frame_numbers: whether `start` and `end` are numbers of frames, from 0; else they are
            seconds, or `minutes:seconds`.

    Returns:
        The table, with all problems found.

    Raises:
        FileNotFoundError: if there is no such table or folder.
        ValueError: if the file is no table: of another type, too large, or without usable columns.
    """
    path, root = as_path("read_labels: `path`", path), as_path("read_labels: `root`", root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: expected a folder of clips; found no such folder.")
    header, rows, comma = _table(path)
    columns = _columns(path, header)
    reader = _Reader(path, root, columns, comma, frame_numbers)
    for number, cells in rows:
        reader.add(number, cells)
    return reader.table()


def table_task(path: str | Path) -> str:
    """The name of the task that a table of labels asks, by its header.

    Raises:
        FileNotFoundError: if there is no such table.
        ValueError: if the file is no table.
    """
    path = as_path("table_task: `path`", path)
    header, _, _ = _table(path)
    return TASK_OF[_label_type(path, _columns(path, header))]


def labelled_clips(table: LabelTable, root: str | Path) -> tuple[list[Clip], list[Problem]]:
    """The clips of a table with their labels, and what is wrong in it.

    A clip's `class_name` is its class. Of other labels it is what the split balances: the rarest of
    its labels, or the quarter in which its first number lies.

    Returns:
        The clips, in the order of their names; the problems of the table, and a note on clips on
        disk that it does not name.
    """
    root = as_path("labelled_clips: `root`", root)
    strata = _strata(table)
    clips = [
        Clip(root / name, strata[name], as_name(name), label=label)
        for name, label in table.labels.items()
    ]
    problems = [
        Problem(table.path.name, None, "label", text.removeprefix(f"{table.path}: ")[:-1], True)
        for text in table.problems
    ]
    return sorted(clips, key=lambda clip: clip.name), problems + _unnamed(table, root)


def write_labels(path: Path, clips: Iterable[Clip], root: Path) -> None:
    """Writes the labels of clips below a folder as JSON lines that `read_stored` reads back."""
    lines = [
        json.dumps(
            {
                "clip": clip.path.relative_to(root).as_posix(),
                "class": clip.class_name,
                **vars(clip.label or Label()),
            }
        )
        for clip in clips
    ]
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_stored(path: Path, root: Path) -> list[Clip]:
    """The clips of a file that `write_labels` wrote.

    Raises:
        ValueError: if it cannot be read.
    """
    clips = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            row = json.loads(line)
            name, class_name = str(row.pop("clip")), str(row.pop("class"))
            row["segments"] = tuple(Segment(*each) for each in row["segments"])
            row["values"] = tuple((str(key), float(number)) for key, number in row["values"])
            lists = {"classes": tuple(row["classes"])}
            clips.append(
                Clip(root / name, class_name, as_name(name), label=Label(**{**row, **lists}))
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}: expected the labels of a clip on line {number}; received "
                f"{short_repr(line)}."
            ) from error
    return clips


class _Reader:
    """Reads row by row into labels, and keeps what is wrong."""

    def __init__(self, path, root, columns, comma, frame_numbers):
        self.path, self.root, self.columns, self.comma = path, root, columns, comma
        self.type: LabelType = _label_type(path, columns)
        self.in_frames = frame_numbers or "frame classes" in columns
        self.value_names = tuple(name for name in columns if name.split(":")[0] == "value")
        self.problems: list[str] = []
        self.labels: dict[str, Label] = {}
        self.first: dict[str, int] = {}  # row of each clip
        self.spellings: dict[str, tuple[str, int]] = {}  # first spelling of a class, and its row
        self.parts: dict[str, tuple[str, int]] = {}  # part of each group, and its row
        self.names: dict[str, dict[str, str]] = {}  # files of a folder, by their composed names
        self.number, self.fine = 0, True

    def refuse(self, column, reason):
        self.fine = False
        self.problems.append(f"{self.path}: row {self.number}, column {column}: {reason}.")

    def add(self, number, cells):
        self.number, self.fine = number, True
        if isinstance(cells, str):  # not a row
            self.problems.append(f"{self.path}: row {number}: {cells}.")
            return
        row = {column: cells.get(header) for column, header in self.columns.items()}
        clip = self.clip(row["clip"])
        label = Label(
            classes=self.classes(row),
            values=tuple(
                (name.removeprefix("value:"), self.finite(name, row[name]))
                for name in self.value_names
            ),
            segments=self.segments(row),
            in_frames=self.in_frames,
            split=self.part(row.get("split")) if "split" in row else None,
            group=self.text("group", row.get("group")) if "group" in row else None,
            weight=self.weight(row.get("weight")) if "weight" in row else 1.0,
        )
        if clip is not None and "split" in row:
            self.together(label.group or clip, label.split)
        if clip is None or not self.fine:
            return
        before = self.labels.get(clip)
        if before is None:
            self.labels[clip], self.first[clip] = label, number
        elif self.type != "segments" or "frame classes" in self.columns:
            self.refuse("clip", f"{short_repr(clip)} is in row {self.first[clip]} too; keep one")
        else:
            self.join(clip, before, label)

    def join(self, clip, before, label):
        """Adds a segment to a clip."""
        for column in ("split", "group", "weight"):
            if getattr(before, column) != getattr(label, column):
                other = f"{getattr(before, column)!r} in row {self.first[clip]}"
                self.refuse(column, f"must be the same in all rows of a clip; {clip} has {other}")
                return
        segments = tuple(sorted(before.segments + label.segments))
        for one, two in itertools.pairwise(segments):
            if two.start < one.end - 1e-9:
                self.refuse("start", f"the segment overlaps another of {clip}: {_stretch(one)}")
                return
        self.labels[clip] = replace(before, segments=segments)

    def text(self, column, value):
        """A cell as text that is not empty; `None` after a problem."""
        found = " ".join(str(value).split()) if value is not None else ""
        if not found:
            self.refuse(column, "must be filled in")
            return None
        if odd := {unicodedata.category(letter) for letter in found} & {"Cc", "Cs"}:
            self.refuse(column, f"has characters that are no text ({', '.join(sorted(odd))})")
            return None
        return found

    def class_name(self, column, value):
        """A class; refuses one that is another but for capitals and spaces."""
        name = self.text(column, value)
        if name is None:
            return None
        key = unicodedata.normalize("NFC", name).casefold().replace(" ", "").replace("_", "")
        spelling, row = self.spellings.setdefault(key, (name, self.number))
        if spelling != name:
            self.refuse(
                column,
                f"class {short_repr(name)} differs from {short_repr(spelling)} in row {row} in "
                "capitals, spaces or underscores alone; write both alike",
            )
        return spelling

    def classes(self, row):
        if self.type == "class":
            return (self.class_name("class", row["class"]),)
        if self.type != "classes":
            return ()
        value = row["classes"]
        names = value if isinstance(value, list) else str(value or "").split("|")
        names = [name for name in names if isinstance(value, list) or name.strip()]
        found = tuple(self.class_name("classes", name) for name in names)
        if len(set(found)) < len(found):
            self.refuse("classes", f"a label is there twice: {short_repr(value)}")
        return found

    def clip(self, value):
        """The name of a clip that is there; `None` after a problem."""
        text = str(value).strip() if value is not None else ""
        if not text or "\0" in text:
            self.refuse("clip", "must be a path below the folder of clips")
            return None
        name = text.replace("\\", "/")
        if name.startswith("/") or re.match(r"[A-Za-z]:", name):
            self.refuse(
                "clip", f"{short_repr(text)} must be a path below {self.root}, not absolute"
            )
            return None
        pieces = [piece for piece in name.split("/") if piece not in ("", ".")]
        if ".." in pieces or not pieces:
            self.refuse("clip", f"{short_repr(text)} leads out of {self.root}")
            return None
        found = self.on_disk(pieces)
        if found is None:
            return None
        path = self.root / found
        top = os.path.realpath(self.root)
        if not os.path.realpath(path).startswith(os.path.join(top, "")):
            self.refuse("clip", f"{short_repr(text)} is a link that leads out of {self.root}")
            return None
        if not path.is_dir() and path.suffix.lower() not in VIDEO_SUFFIXES:
            self.refuse(
                "clip",
                f"{short_repr(text)} is neither a folder of frames nor a video "
                f"({', '.join(VIDEO_SUFFIXES)})",
            )
            return None
        return found

    def on_disk(self, pieces):
        """The path of a clip as the disk spells it; a video may lack its ending."""
        found: list[str] = []
        for place, piece in enumerate(pieces):
            folder = "/".join(found)
            names = self.entries(folder)
            key = unicodedata.normalize("NFC", piece)
            match = names.get(key)
            if match is None and place == len(pieces) - 1:
                videos = [
                    names[other]
                    for other in names
                    if other.lower().startswith(f"{key.lower()}.")
                    and other[len(key) :].lower() in VIDEO_SUFFIXES
                ]
                match = videos[0] if len(videos) == 1 else None
            if match is None:
                near = difflib.get_close_matches(key, list(names), 1, 0.6)
                hint = f", but {'/'.join([*found, names[near[0]]])}" if near else ""
                place_text = self.root / folder if folder else self.root
                self.refuse("clip", f"no {short_repr('/'.join(pieces))} in {place_text}{hint}")
                return None
            found.append(match)
        return "/".join(found)

    def entries(self, folder):
        if folder not in self.names:
            try:
                entries = os.listdir(self.root / folder)
            except OSError:
                entries = []
            composed = {unicodedata.normalize("NFC", name): name for name in sorted(entries)}
            self.names[folder] = composed | {name: name for name in entries}
        return self.names[folder]

    def number_of(self, column, value):
        """A cell as a number; `None` after a problem."""
        text = "" if value is None or isinstance(value, bool) else str(value).strip()
        if not self.comma and text.count(",") == 1 and "." not in text:
            text = text.replace(",", ".")
        try:
            found = float(text)
        except ValueError:
            found = math.nan
        if not text or "_" in text or not math.isfinite(found):
            self.refuse(column, f"must be a number; received {short_repr(value)}")
            return None
        return found

    def finite(self, column, value):
        found = self.number_of(column, value)
        return 0.0 if found is None else found

    def weight(self, value):
        found = self.number_of("weight", value)
        if found is not None and not 0 <= found <= 1e6:
            self.refuse("weight", f"must be from 0 to 1,000,000; received {short_repr(value)}")
        return 1.0 if found is None else found

    def part(self, value):
        text = self.text("split", value)
        if text is not None and text.casefold() not in PART_NAMES:
            self.refuse("split", f"must be train, validation or test; received {short_repr(text)}")
        return text and PART_NAMES.get(text.casefold())

    def together(self, group, part):
        """Refuses a group in two parts."""
        first, row = self.parts.setdefault(group, (part, self.number))
        if part and first and first != part:
            self.refuse(
                "split",
                f"group {short_repr(group)} is in {first} (row {row}) and in {part}; move all of "
                "it to one part",
            )

    def time(self, column, value):
        """Seconds, also as minutes:seconds or hours:minutes:seconds; or a number of a frame."""
        text = str(value).strip() if value is not None else ""
        if not self.in_frames and re.fullmatch(r"(\d+:)?[0-5]?\d:[0-5]?\d([.,]\d+)?", text):
            seconds = 0.0
            for piece in text.replace(",", ".").split(":"):
                seconds = 60 * seconds + float(piece)
            return seconds
        found = self.number_of(column, value)
        if found is not None and (found < 0 or (self.in_frames and found != int(found))):
            what = "the number of a frame, from 0" if self.in_frames else "seconds, 0 or more"
            self.refuse(column, f"must be {what}; received {short_repr(value)}")
            return None
        return found

    def segments(self, row):
        if self.type != "segments":
            return ()
        if "frame classes" in self.columns:
            return self.frame_classes(row["frame classes"])
        name = self.class_name("class", row["class"])
        start, end = self.time("start", row["start"]), self.time("end", row["end"])
        if start is None or end is None or name is None:
            return ()
        if end <= start:
            self.refuse("end", f"must be after start, {start:g}; received {end:g}")
            return ()
        return (Segment(start, end, name),)

    def frame_classes(self, value):
        """Stretches of frames, "0-29:walk|30-59:run"; in JSON also a list of [0, 29, "walk"]."""
        column, found = "frame classes", []
        pieces = value if isinstance(value, list) else str(value or "").split("|")
        for piece in pieces:
            if isinstance(piece, list) and len(piece) == 3:
                piece = f"{piece[0]}-{piece[1]}:{piece[2]}"
            match = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?:(.+)", str(piece))
            if not match:
                self.refuse(column, f"must be as 0-29:walk|30-59:run; received {short_repr(piece)}")
                return ()
            first, last = int(match[1]), int(match[2] or match[1])
            name = self.class_name(column, match[3])
            if last < first or name is None:
                if name is not None:
                    self.refuse(column, f"must go from low to high; received {short_repr(piece)}")
                return ()
            found.append(Segment(first, last + 1, name))
        found.sort()
        for one, two in itertools.pairwise(found):
            if two.start < one.end:
                self.refuse(column, f"frame {two.start:.0f} has two classes")
                return ()
        return tuple(found)

    def table(self):
        if not self.labels and not self.problems:
            self.problems.append(f"{self.path}: expected one row a clip; there are no rows.")
        if len(self.labels) > 0 and not self.problems:
            self.whole()
        names = tuple(name for name, _ in self.spellings.values())
        return LabelTable(self.path, self.type, self.labels, names, tuple(self.problems))

    def whole(self):
        """Refuses a table that no model can learn from."""
        column = next(c for c in ("frame classes", "classes", "class", "value") if self.has(c))
        names = [name for name, _ in self.spellings.values()]
        least = 1 if self.type in ("classes", "segments") else 2
        if self.type != "value" and len(names) < least:
            found = ", ".join(map(short_repr, names)) or "none"
            self.problems.append(
                f"{self.path}: column {column}: must name {least} classes or more; it has {found}."
            )
        if "split" in self.columns:
            parts = {label.split for label in self.labels.values()}
            if missing := [part for part in ("train", "test") if part not in parts]:
                self.problems.append(
                    f"{self.path}: column split: must name clips of train and of test; there are "
                    f"none of {' and '.join(missing)}."
                )

    def has(self, column):
        return any(name.split(":")[0] == column for name in self.columns)


def _stretch(segment):
    return f"{segment.start:g} to {segment.end:g} ({segment.class_name})"


def _strata(table) -> dict[str, str]:
    """What the split balances, by the names of the clips."""
    labels = table.labels
    if table.type == "class":
        return {name: label.classes[0] for name, label in labels.items()}
    if table.type == "value":
        ordered = sorted(labels, key=lambda name: (labels[name].values[0][1], name))
        quarters = min(4, max(1, len(ordered) // 8))
        return {
            name: f"quarter {1 + quarters * place // len(ordered)} of {quarters}"
            for place, name in enumerate(ordered)
        }
    held = {
        name: {*label.classes, *(segment.class_name for segment in label.segments)}
        for name, label in labels.items()
    }
    count = {one: sum(one in names for names in held.values()) for one in table.class_names}
    rarest = {
        name: min(names, key=lambda one: (count[one], one)) if names else "no label"
        for name, names in held.items()
    }
    return _merged(rarest, labels)


def _merged(strata, labels) -> dict[str, str]:
    """The strata, those that are too small for each part of a split put together."""
    groups: dict[str, set[str]] = {}
    for name, stratum in strata.items():
        groups.setdefault(stratum, set()).add(labels[name].group or name)
    small = {stratum for stratum, members in groups.items() if len(members) < _FEWEST}
    together = {member for stratum in small for member in groups[stratum]}
    other = "other labels"
    if small and len(together) < _FEWEST:  # even so too small: they go to the largest one
        other = max(groups, key=lambda stratum: (len(groups[stratum]), stratum))
    return {name: other if stratum in small else stratum for name, stratum in strata.items()}


def _unnamed(table, root) -> list[Problem]:
    """Clips on disk that the table does not name: a note with the first of them."""
    folders = {name.rpartition("/")[0] for name in table.labels}
    found = []
    for folder in sorted(folders):
        for path in sorted((root / folder).iterdir()):
            name = path.relative_to(root).as_posix()
            inside = any(other == name or other.startswith(f"{name}/") for other in folders)
            clip = path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES
            if clip and not inside and name not in table.labels and path.name[0] != ".":
                found.append(name)
    if not found:
        return []
    shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
    reason = f"not in {table.path.name}, so left out: {shown} ({len(found)})"
    return [Problem(".", None, "stray", reason, False)]


def _listed(problems) -> str:
    text = "\n".join(problems[:_SHOWN])
    more = len(problems) - _SHOWN
    return text + (f"\nand {more:,} more; keras-cnnlstm validate lists all." if more > 0 else "")


def _table(path):
    """The table as `read_table` reads it, if it has the ending of one."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path}: expected a table of labels, {', '.join(SUFFIXES)}; received another type."
        )
    return read_table(path, "a table of labels")


def _columns(path, header) -> dict[str, str]:
    """The names of known columns, and as the header spells them.

    Raises:
        ValueError: if a column is unknown, there twice, or `clip` is not there.
    """
    found: dict[str, str] = {}
    for place, spelled in enumerate(header, start=1):
        name = " ".join(str(spelled).replace("_", " ").split())
        if not name:
            raise ValueError(f"{path}: row 1, column {place}: must have a name.")
        start, colon, rest = name.partition(":")
        key = start.strip().casefold() + (f":{rest.strip()}" if colon else "")
        known = key in _COLUMNS or (key.startswith("value:") and key != "value:")
        if not known:
            near = difflib.get_close_matches(key, _COLUMNS, 1, 0.6)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(
                f"{path}: row 1, column {place}: unknown column {short_repr(spelled)}. Columns are "
                f"{', '.join(_COLUMNS)} and value:NAME.{hint}"
            )
        if key in found:
            raise ValueError(f"{path}: row 1, column {place}: {key} is there twice.")
        found[key] = spelled
    if "clip" not in found:
        raise ValueError(
            f"{path}: row 1: expected a column clip; received {short_repr(', '.join(header))}."
        )
    return found


def _label_type(path, columns) -> LabelType:
    """The one way in which a table labels clips."""
    values = [name for name in columns if name.split(":")[0] == "value"]
    timed = [name for name in ("start", "end") if name in columns]
    ways: list[tuple[str, LabelType]] = []
    if timed or "frame classes" in columns:
        ways.append(("start, end, class" if timed else "frame classes", "segments"))
    if timed and "frame classes" in columns:
        ways.append(("frame classes", "segments"))
    if "class" in columns and not timed:
        ways.append(("class", "class"))
    if "classes" in columns:
        ways.append(("classes", "classes"))
    if values:
        ways.append(("value", "value"))
    if len(ways) != 1:
        found = " and ".join(name for name, _ in ways) or "none of them"
        raise ValueError(
            f"{path}: row 1: expected one way to label: class; classes; value or value:NAME; "
            f"start, end and class; or frame classes. Received {found}."
        )
    if timed and (len(timed) < 2 or "class" not in columns):
        missing = [name for name in ("start", "end", "class") if name not in columns]
        raise ValueError(
            f"{path}: row 1: segments have the columns start, end and class; missing "
            f"{', '.join(missing)}."
        )
    if "value" in columns and len(values) > 1:
        raise ValueError(
            f"{path}: row 1: expected value, or value:NAME for each of several numbers; received "
            f"both."
        )
    return ways[0][1]
