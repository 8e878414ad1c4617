"""What was found in a folder of clips, as a table for people and as JSON for programs."""

import json
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from keras_cnnlstm.clips import Clip, ClipInfo

_WIDTH = 100  # columns of the printed report
_CLASS_WIDTH = 40


@dataclass(frozen=True)
class Problem:
    """Something wrong in a folder of clips.

    Attributes:
        place: the clip's name, or the path of the file or folder, relative to the root, with `/`.
        clip: name of the clip that it is in; `None` if it is in none.
        kind: "unreadable", "empty", "link", "stray", "one frame", "sizes", "large", "duplicate" or
            "few".
        reason: what is wrong, in a sentence.
        fatal: whether the clip, or the folder, cannot be used as it is.
    """

    place: str
    clip: str | None
    kind: str
    reason: str
    fatal: bool


@dataclass(frozen=True)
class ClipReport:
    """What `check_clips` found.

    Attributes:
        root: the folder.
        clips: all clips, sound or not, in the order of `find_clips`.
        infos: frames, size and rate of those that could be read, by name. The frames are counted,
            the size is that of the first one.
        problems: in the order in which they were found.
    """

    root: Path
    clips: Sequence[Clip]
    infos: Mapping[str, ClipInfo]
    problems: Sequence[Problem]

    @property
    def failures(self) -> list[Problem]:
        """The fatal problems."""
        return [problem for problem in self.problems if problem.fatal]

    @property
    def warnings(self) -> list[Problem]:
        """The other problems."""
        return [problem for problem in self.problems if not problem.fatal]

    @property
    def usable(self) -> list[Clip]:
        """The clips without a fatal problem."""
        broken = {problem.clip for problem in self.failures}
        return [clip for clip in self.clips if clip.name not in broken]

    @property
    def classes(self) -> dict[str, int]:
        """Clips of each class, sound or not."""
        return dict(Counter(clip.class_name for clip in self.clips))

    @property
    def sizes(self) -> dict[tuple[int, int], int]:
        """Clips by the height and width in pixels of their first frame, most frequent first."""
        return dict(Counter((i.height, i.width) for i in self.infos.values()).most_common())

    @property
    def rates(self) -> dict[float | None, int]:
        """Clips by frames a second, most frequent first; `None` for those that do not say."""
        return dict(Counter(info.rate for info in self.infos.values()).most_common())

    def lengths(self, class_name: str | None = None) -> tuple[int, float, int] | None:
        """The least, the median and the most frames of a clip; `None` if none could be read.

        Args:
            class_name: count the clips of this class only.
        """
        frames = [
            self.infos[clip.name].frames
            for clip in self.clips
            if clip.name in self.infos and class_name in (None, clip.class_name)
        ]
        return (min(frames), median(frames), max(frames)) if frames else None

    def text(self, limit: int = 20) -> str:
        """The report for people, at most 100 columns wide.

        Args:
            limit: how many failures, and how many warnings, to list at most.
        """
        frames = sum(info.frames for info in self.infos.values())
        heading = (
            f"{self.root}: {_count(len(self.clips), 'clip')} of "
            f"{_count(len(self.classes), 'class', 'classes')}, {_count(frames, 'frame')}"
        )
        lines = [
            *_wrapped(heading),
            "",
            *self._table(),
            "",
            *_wrapped(f"width x height: {_shares(_size, self.sizes)}"),
            *_wrapped(f"frames a second: {_shares(_rate, self.rates)}"),
            "",
            *_listed("failure", self.failures, limit),
            *_listed("warning", self.warnings, limit),
        ]
        return "\n".join(lines)

    def to_json(self) -> str:
        """The report for programs. Each clip has a line of its own in `clips`."""
        clips = [
            {"name": clip.name, "class": clip.class_name, "usable": clip in usable}
            | (self.infos[clip.name]._asdict() if clip.name in self.infos else {})
            for usable in [set(self.usable)]
            for clip in self.clips
        ]
        report = {
            "root": str(self.root),
            "classes": self.classes,
            "clips": clips,
            "problems": [asdict(problem) for problem in self.problems],
        }
        return json.dumps(report, indent=2)

    def _table(self):
        """For each class its clips, and the least, median and most frames of a clip."""
        rows = [(_short(name), n, self.lengths(name)) for name, n in self.classes.items()]
        rows.append(("all", len(self.clips), self.lengths()))
        width = max(len(name) for name, *_ in [("class",), *rows])
        yield f"{'class':{width}} {'clips':>9} {'frames, least':>15} {'median':>9} {'most':>9}"
        for name, n, lengths in rows:
            least, middle, most = (f"{x:,.9g}" for x in lengths or (0, 0, 0))
            yield f"{name:{width}} {n:9,} {least:>15} {middle:>9} {most:>9}"


def _size(size):
    height, width = size
    return f"{width}x{height}"


def _rate(rate):
    return "not said" if rate is None else f"{rate:.4g}"


def _shares(describe, counts, limit=8):
    """The most frequent values with their clips: `64x64 (12 clips), 32x32 (1 clip)`."""
    shown = [
        f"{describe(value)} ({_count(n, 'clip')})" for value, n in list(counts.items())[:limit]
    ]
    return ", ".join(shown + ["..."] * (len(counts) > limit)) or "-"


def _count(n, one, many=None):
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _listed(what, problems, limit):
    yield f"{_count(len(problems), what)}{':' if problems else ''}"
    for problem in problems[:limit]:
        yield from _wrapped(f"  {problem.place}: {problem.kind}: {problem.reason}")
    if len(problems) > limit:
        yield f"  ... and {len(problems) - limit:,} more"


def _short(name):
    name = _printable(name)
    return name if len(name) <= _CLASS_WIDTH else f"{name[: _CLASS_WIDTH - 3]}..."


def _wrapped(line):
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(
        _printable(line), _WIDTH, subsequent_indent=f"{indent}    ", break_on_hyphens=False
    )


def _printable(text: str) -> str:
    """Text that any terminal can show: what controls it or is no Unicode is escaped.

    Names of files can hold line breaks, commands to a terminal and bytes that are no text.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
