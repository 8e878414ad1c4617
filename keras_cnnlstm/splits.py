"""Which clips train, which validate and which test, so that a score says what it seems to say.

Clips cut from one recording, or of one person, look alike: with such clips on both sides a model
is tested on what it has learnt by heart. They are a *group* here, and a group stands on one side.
Knows names of clips only; opens none of them.
"""

import csv
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_cnnlstm.arguments import as_path, check_kind, told
from keras_cnnlstm.clips import Clip, checked_clips, find_clips
from keras_cnnlstm.files import replacing
from keras_cnnlstm.stratification import stratify

PARTS = ("train", "validation", "test")
"""The parts of a split, in the order of `shares`."""

_COLUMNS = ("clip", "class", "group", "split")


@dataclass(frozen=True, eq=False)
class Split(Mapping[str, list[Clip]]):
    """Clips in three parts; also a mapping from the names of the parts to the clips.

    Attributes:
        train: clips to learn from, in the order of their names.
        validation: clips to choose the best epoch by; may be none.
        test: clips to score with, once.
        groups: the group of each clip, by the clip's name.
    """

    train: list[Clip]
    validation: list[Clip]
    test: list[Clip]
    groups: Mapping[str, str]

    def __getitem__(self, part: str) -> list[Clip]:
        if part not in PARTS:
            raise KeyError(part)
        return getattr(self, part)

    def __iter__(self) -> Iterator[str]:
        return iter(PARTS)

    def __len__(self) -> int:
        return len(PARTS)


def split_clips(
    clips: Iterable[Clip],
    *,
    shares: Sequence[float] = (0.7, 0.15, 0.15),
    groups: str | Path | re.Pattern | None = None,
    seed: int = 0,
) -> Split:
    """Divides clips into training, validation and test, whole groups at a time.

    How is said in `stratification.stratify`: greedily, in an order drawn from `seed` and the names
    of the groups, and mended where a class would be missing from a part.

    How near the shares are met: where every group has clips of one class only, each part has the
    clips of a class that it should have to within two thirds of the class's largest group (without
    groups two thirds of a clip), unless its share is less than one clip or a class would have been
    missing from a part. Groups of several classes are a compromise between these.

    The order of `clips` does not matter. A clip that is added later leaves most others where they
    are, but can move a few from part to part: keep the split of a run with `write_split`.

    Args:
        clips: at least two groups of each class.
        shares: of training, validation and test in the clips of each class, summing to 1. The
            share of validation may be 0.
        groups: what belongs together. `None`: each clip by itself. A regular expression that is
            searched for in the clip's own name (what follows "class/", without the ending of a
            video): its first group, or all that matches, names the clip's group, such as
            `r"^(.+?)_"` for what stands before the first underscore. A path, or text that ends
            in ".csv": a file with columns `clip` ("class/clip", of videos with or without ending)
            and `group` and a line for each clip. The same group in several classes is one group.
        seed: another one gives another split.

    Returns:
        The split. Each class has clips in training and test, and in validation if it has three
        groups or more that can be divided so.

    Raises:
        FileNotFoundError: if there is no such file of groups.
        ValueError: if an argument is out of range, a clip has no group, the file of groups names
            clips that are not there, or the groups of a class cannot be divided.
    """
    clips = sorted(checked_clips("split_clips", clips), key=lambda clip: clip.name)
    _check_names(clips)
    group_of = _groups(clips, groups)
    sizes: defaultdict[str, Counter[str]] = defaultdict(Counter)  # clips of each class, by group
    for clip in clips:
        sizes[group_of[clip.name]][clip.class_name] += 1
    part_of = stratify(sizes, shares, seed=seed)
    return _split(clips, {name: part_of[group] for name, group in group_of.items()}, group_of)


def write_split(path: str | Path, split: Split) -> None:
    """Writes a split as CSV with columns clip, class, group and split, a line for each clip.

    Args:
        path: the file, replaced at once if it exists.
        split: what to write.
    """
    path = as_path("write_split: `path`", path)
    check_kind("write_split: `split`", split, Split, "a Split, as split_clips returns it")
    rows = sorted(
        (clip.name, clip.class_name, split.groups[clip.name], part)
        for part, clips in split.items()
        for clip in clips
    )
    with (
        replacing(path) as temporary,
        # Names of files need not be UTF-8; Python keeps what is not as surrogates.
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows([_COLUMNS, *rows])


def read_split(path: str | Path, clips: Iterable[Clip] | str | Path) -> Split:
    """Reads a split that `write_split` wrote, or that was made by hand in the same columns.

    Args:
        path: the file; its columns clip, group and split are read.
        clips: the clips that there are, or the folder that they lie in. Those that the file does
            not name are left out, with a warning.

    Returns:
        The split.

    Raises:
        FileNotFoundError: if there is no such file, or a clip that it names is not there.
        ValueError: if it is no such file, or has a group on two sides.
    """
    path = as_path("read_split: `path`", path)
    rows = _read_rows(path, ("clip", "group", "split"))
    if isinstance(clips, str | Path):
        found = find_clips(clips)
    else:
        found = checked_clips("read_split", clips)
    by_name = {clip.name: clip for clip in found}
    _check_rows(path, rows)
    if missing := [name for name in rows if name not in by_name]:
        raise FileNotFoundError(
            f"{path}: expected the clips of this split on disk; {_some(missing)} missing. Put "
            "them back, or split the clips anew."
        )
    if unlisted := [name for name in by_name if name not in rows]:
        warnings.warn(
            f"{path}: {_some(unlisted)} not in this split, and left out. To use them, split the "
            "clips anew.",
            stacklevel=2,
        )
    part_of = {name: PARTS.index(part) for name, (_, part) in rows.items()}
    listed = sorted((by_name[name] for name in rows), key=lambda clip: clip.name)
    return _split(listed, part_of, {name: group for name, (group, _) in rows.items()})


def _split(clips, part_of, group_of):
    parts = [[clip for clip in clips if part_of[clip.name] == part] for part in range(len(PARTS))]
    return Split(*parts, groups=group_of)


def _groups(clips, groups) -> dict[str, str]:
    """The group of each clip, by the clip's name."""
    if groups is None:
        return {clip.name: clip.name for clip in clips}
    if isinstance(groups, Path) or (isinstance(groups, str) and groups.lower().endswith(".csv")):
        return listed(clips, Path(groups), "group")
    try:
        pattern = re.compile(groups)
        pattern.search("")  # one of bytes compiles too
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(
            "split_clips: `groups` must be a regular expression, or the path of a .csv file; "
            f"received {told(groups)} ({error})."
        ) from error
    return {clip.name: _matched_group(clip, pattern) for clip in clips}


def _matched_group(clip, pattern):
    name = _short_name(clip).removeprefix(f"{clip.class_name}/")
    match = pattern.search(name)
    group = match and (match[1] if pattern.groups else match[0])
    if not group:
        raise ValueError(
            f"split_clips: `groups` must match each clip's name; {told(pattern.pattern)} finds no "
            f"group in {name!r} ({clip.name}). Give another pattern, or a .csv file."
        )
    return group


def listed(clips: Iterable[Clip], path: Path, column: str) -> dict[str, str]:
    """What a CSV file with the columns `clip` and another one says of each clip, by its name.

    Args:
        clips: all clips that there are. A video may be listed without its ending.
        path: the file.
        column: the other column, such as "group".

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, lacks a clip, or names one that is not there.
    """
    clips = list(clips)
    rows = {name: value for name, (value,) in _read_rows(path, ("clip", column)).items()}
    keys = {clip.name: clip.name if clip.name in rows else _short_name(clip) for clip in clips}
    if missing := [name for name, key in keys.items() if key not in rows]:
        raise ValueError(
            f"{path}: expected a {column} for each clip; {_some(missing)} missing. Add a line "
            f"clip,{column} for each."
        )
    if unknown := sorted(rows.keys() - set(keys.values())):
        raise ValueError(
            f"{path}: expected names of clips, such as {clips[0].name!r}; {_some(unknown)} none. "
            "Mend or remove these lines."
        )
    return {name: rows[key] for name, key in keys.items()}


def _short_name(clip):
    return clip.name.removesuffix(clip.path.suffix) if clip.is_video else clip.name


def _read_rows(path, columns) -> dict[str, tuple[str, ...]]:
    """The other columns of a CSV file, by the first one."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected a CSV file; found nothing.")
    if not path.is_file() and not path.is_dir():  # to open a pipe would wait for ever
        raise ValueError(f"{path}: expected a CSV file; found something else.")
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            lines = list(csv.DictReader(file, strict=True))
    except (OSError, csv.Error) as error:
        raise ValueError(f"{path}: expected a CSV file; {error}.") from error
    rows: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, start=2):
        first, *others = (line.get(column) or "" for column in columns)
        if not first or not all(others):
            raise ValueError(
                f"{path}: expected columns {','.join(columns)}, all of them filled in; row "
                f"{number} is {told(','.join(map(str, line.values())))}."
            )
        if first in rows:
            raise ValueError(f"{path}: expected one line for each clip; {told(first)} has two.")
        rows[first] = tuple(others)
    if not rows:
        raise ValueError(f"{path}: expected columns {','.join(columns)}; there are no lines.")
    return rows


def _check_names(clips):
    if not clips:
        raise ValueError("split_clips: `clips` must be clips, two of each class; received none.")
    if twice := [name for name, n in Counter(clip.name for clip in clips).items() if n > 1]:
        raise ValueError(
            f"split_clips: `clips` must have different names; received {_some(twice)} twice."
        )


def _check_rows(path, rows):
    """Refuses a split that was changed by hand into one that is none."""
    sides: dict[str, str] = {}
    for name, (group, part) in rows.items():
        if part not in PARTS:
            raise ValueError(
                f"{path}: expected {', '.join(PARTS)} in column split; {told(name)} has "
                f"{told(part)}."
            )
        if sides.setdefault(group, part) != part:
            raise ValueError(
                f"{path}: expected each group in one part; {told(group)} is in {sides[group]} and "
                f"in {part}. Move all its clips to one."
            )


def _some(names: Sequence[str]) -> str:
    """The first few names with how many there are."""
    shown = ", ".join(map(told, names[:5])) + (", ..." if len(names) > 5 else "")
    return f"{shown} ({len(names)})"
