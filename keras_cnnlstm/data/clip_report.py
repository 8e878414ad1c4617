"""The report on a folder of clips, as a table for people and as JSON for programs."""

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from statistics import median

from keras_cnnlstm.data.clips import Clip, ClipInfo, Problem

_WIDTH = 100  # columns of the printed report
_CLASS_WIDTH = 40


@dataclass(frozen=True)
class ClipReport:
    """The result of `check_clips`.

    Attributes:
        root: the folder.
        clips: all clips, sound or not, in the order of `find_clips`.
        infos: frames, size and rate of the readable clips, by name. The frames are counted, the
            size is that of the first one.
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

    def text(self, limit: int = 20) -> str:
        """The report for people, at most 100 columns wide.

        Args:
            limit: the most failures, and the most warnings, that are listed.
        """
        infos = self.infos.values()
        lines = [
            f"{self.root}: {_count(len(self.clips), 'clip')} of "
            f"{_count(len(self.classes), 'class', 'classes')}, "
            f"{_count(sum(info.frames for info in infos), 'frame')}",
            "",
            *self._table(),
            "",
            f"width x height: {_most_common(f'{info.width}x{info.height}' for info in infos)}",
            f"frames per second: {_most_common(_rate(info.rate) for info in infos)}",
            "",
        ]
        for name, problems in (("failure", self.failures), ("warning", self.warnings)):
            lines.append(f"{_count(len(problems), name)}{':' if problems else ''}")
            lines += [f"  {p.place}: {p.type}: {p.reason}" for p in problems[:limit]]
            if len(problems) > limit:
                lines.append(f"  ... and {len(problems) - limit:,} more")
        return "\n".join(chain.from_iterable(map(_wrapped, lines)))

    def to_json(self) -> str:
        """The report for programs, with an entry for each clip in `clips`."""
        usable = set(self.usable)
        clips = []
        for clip in self.clips:
            entry = {"name": clip.name, "class": clip.class_name, "usable": clip in usable}
            info = self.infos.get(clip.name)
            clips.append(entry | (info._asdict() if info else {}))
        problems = [asdict(problem) for problem in self.problems]
        report = {"root": str(self.root), "classes": self.classes}
        return json.dumps({**report, "clips": clips, "problems": problems}, indent=2)

    def _table(self):
        """For each class its clips, and the least, median and most frames of a clip."""
        lengths: dict[str, list[int]] = {name: [] for name in self.classes}
        for clip in self.clips:
            if clip.name in self.infos:
                lengths[clip.class_name].append(self.infos[clip.name].frames)
        rows = [(printable(name), n, lengths[name]) for name, n in self.classes.items()]
        rows.append(("all", len(self.clips), [*chain.from_iterable(lengths.values())]))
        width = min(_CLASS_WIDTH, max(len(name) for name in ["class", *(row[0] for row in rows)]))
        yield f"{'class':{width}} {'clips':>9} {'frames, least':>15} {'median':>9} {'most':>9}"
        for name, n, frames in rows:
            name = name if len(name) <= width else f"{name[: width - 3]}..."
            least, middle, most = (f"{f(frames or [0]):,.9g}" for f in (min, median, max))
            yield f"{name:{width}} {n:9,} {least:>15} {middle:>9} {most:>9}"


def _rate(rate):
    return "unknown" if rate is None else f"{rate:.4g}"


def _most_common(values: Iterable[str], limit: int = 8) -> str:
    """The most common values with their clips: `64x64 (12 clips), 32x32 (1 clip)`."""
    counts = Counter(values)
    shown = [f"{value} ({_count(n, 'clip')})" for value, n in counts.most_common(limit)]
    return ", ".join(shown + ["..."] * (len(counts) > limit)) or "-"


def _count(n, one, many=None):
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _wrapped(line):
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    text = printable(line)
    return textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False) or [""]


def printable(text: str) -> str:
    """Text that is safe to print: names of files can hold line breaks, commands to a terminal and
    bytes that are no text.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
