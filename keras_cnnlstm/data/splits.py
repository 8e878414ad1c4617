"""Which clips train, which validate and which test, so that a score means what it seems to mean.

Clips cut from one recording, or of one person, look alike: with such clips on both sides a model
is tested on what it has learned by heart. They form a *group* here, and a group stays in one part.
This module knows names of clips only; it opens none of them.
"""

import csv
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import regex

from keras_cnnlstm.data.clips import Clip, as_name, checked_clips, find_clips
from keras_cnnlstm.data.tables import read_table
from keras_cnnlstm.utils.files import replacing
from keras_cnnlstm.utils.validation import (
    as_array,
    as_path,
    check_instance,
    check_integer,
    check_number,
    short_repr,
)

PARTS = ("train", "validation", "test")
"""The parts of a split, in the order of `shares`."""

_COLUMNS = ("clip", "class", "group", "split")


@dataclass(frozen=True, eq=False)
class Split(Mapping[str, list[Clip]]):
    """Clips in three parts; also a mapping from the names of the parts to the clips.

    Attributes:
        train: clips to learn from, in the order of their names.
        validation: clips to choose the best epoch by; may be empty.
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
    groups: str | Path | re.Pattern | Mapping[str, str] | None = None,
    seed: int = 0,
) -> Split:
    """Divides clips into training, validation and test, whole groups at a time.

    scikit-learn's `StratifiedGroupKFold` spreads the groups over folds. Many assignments of folds
    to parts are compared; in the best one single groups are moved while that brings the parts
    nearer to their shares. This is done with several seeds. The best split has the most classes in
    all parts, and of those the least sum of squared differences, in shares of each class.

    The order of `clips` does not matter. A new clip can move others to another part, so keep the
    split of a run with `write_split`.

    Args:
        clips: at least two groups of each class.
        shares: of training, validation and test in the clips of each class, summing to 1. The
            share of validation may be 0.
        groups: which clips belong together. `None`: those that a table of labels gives one group;
            else each clip is a group. A regular expression,
            searched in the clip's own name (the part after "class/", without the ending of a
            video): its first group, or else the whole match, names the clip's group. The pattern
            `r"^(.+?)_"` takes the text before the first underscore. A path, or text that ends
            in ".csv": a file with the columns `clip` ("class/clip", videos with or without ending)
            and `group` and a line for each clip. A mapping: the group of each clip by its name.
            The same group in several classes is one group.
        seed: an integer, 0 or more; another one gives another split.

    Returns:
        The split. Each class has clips in training and test, and also in validation if it has three
        groups or more that can be divided so.

    Raises:
        FileNotFoundError: if there is no such file of groups.
        ValueError: if an argument is out of range, a clip has no group, the file of groups names
            clips that are not there, or the groups of a class cannot be divided.
    """
    table = _counted("split_clips", clips, groups)
    _check_shares(shares)
    check_integer("split_clips: `seed`", seed, 0, 2**63)
    _refuse(table.classes, (table.sizes > 0).sum(axis=0) < 2, "classes of one group")
    parts, lacking = _stratify(table.sizes, shares, seed)
    found = "classes whose groups could not be divided with those of others"
    _refuse(table.classes, lacking, found)
    return table.split(parts)


def prescribed_split(
    clips: Iterable[Clip], groups: str | Path | re.Pattern | Mapping[str, str] | None = None
) -> Split | None:
    """The split that a table or the folders prescribe for clips; `None` if they do not.

    Raises:
        FileNotFoundError: if there is no such file of groups.
        ValueError: if a group, as in `split_clips`, is in two parts.
    """
    clips = sorted(checked_clips("prescribed_split", clips), key=lambda clip: clip.name)
    part_of = {clip.name: clip.label.split if clip.label else None for clip in clips}
    if not any(part_of.values()):
        return None
    group_of = groups_of(clips, groups)
    first: dict[str, Clip] = {}
    for clip in clips:
        other = first.setdefault(group_of[clip.name], clip)
        if part_of[other.name] != part_of[clip.name]:
            raise ValueError(
                "prescribed_split: `groups` must each be in one part of the prescribed split; "
                f"{short_repr(group_of[clip.name])} has {other.name} in {part_of[other.name]} and "
                f"{clip.name} in {part_of[clip.name]}."
            )
    return _split(clips, part_of, group_of)


def training_splits(
    clips: Iterable[Clip],
    *,
    groups: str | Path | re.Pattern | Mapping[str, str] | None,
    validation: float = 0.15,
    folds: int | None = None,
    seed: int = 0,
) -> list[Split]:
    """The split that a training uses, or those of its folds; each part has clips.

    Args:
        clips: as in `split_clips`. Where a table prescribes their split, it is taken; if it names
            no clips for validation, some of those for training validate.
        groups: as in `split_clips`.
        validation: share of the clips that validate.
        folds: as in `fold_splits`; `None` for one split, of which 0.15 of the clips test.
        seed: of the folds.

    Raises:
        FileNotFoundError: if there is no such file of groups.
        ValueError: if the clips cannot be divided so.
    """
    clips = list(clips)
    if prescribed := prescribed_split(clips, groups):
        splits = [prescribed if prescribed.validation else _validated(prescribed, validation)]
    elif folds:
        splits = fold_splits(clips, folds, groups=groups, seed=seed, validation=validation)
    else:
        shares = (0.85 - validation, validation, 0.15)
        splits = [split_clips(clips, groups=groups, shares=shares)]
    if not all(split.validation for split in splits):
        raise ValueError(
            "split: a class must have three groups or more, so that clips remain for validation "
            "besides training and test; received two of each. Record more, or give finer groups."
        )
    return splits


def _validated(split, share) -> Split:
    """A split without a validation part, with one that is taken from training."""
    inner = split_clips(split.train, groups=split.groups, shares=(1 - share, 0, share))
    return Split(inner.train, inner.test, split.test, groups=split.groups)


def fold_splits(
    clips: Iterable[Clip],
    folds: int,
    *,
    groups: str | Path | re.Pattern | Mapping[str, str] | None = None,
    seed: int = 0,
    validation: float = 0.15,
) -> list[Split]:
    """Splits for a cross-validation: each clip, and each group, is in the test part of one of them.

    scikit-learn's `StratifiedGroupKFold` spreads the groups over the folds, with several seeds; if
    a fold lacks a class, single groups are moved. The clips outside a fold are divided into
    training and validation as `split_clips` divides them. The order of `clips` does not matter.

    Args:
        clips: of each class as many groups as folds, or more.
        folds: K, 2 to 100.
        groups: which clips belong together, as in `split_clips`.
        seed: an integer, 0 or more; another one gives other folds.
        validation: share of all clips that validate, about; more than 0, less than half.

    Returns:
        K splits. Each class has clips in training and test of each, and also in validation if two
        groups or more of it remain outside the fold.

    Raises:
        FileNotFoundError: if there is no such file of groups.
        ValueError: if an argument is out of range, a clip has no group, the file of groups names
            clips that are not there, or the groups of a class cannot be spread over the folds.
    """
    table = _counted("fold_splits", clips, groups)
    check_integer("fold_splits: `folds`", folds, 2, 100)
    check_integer("fold_splits: `seed`", seed, 0, 2**63)
    fold_of = _spread(table, folds, seed)
    check_number("fold_splits: `validation`", validation, 1e-6, 0.499)
    share = validation * folds / (folds - 1)
    splits = []
    for fold in range(folds):
        rest = fold_of != fold
        parts = np.full(len(fold_of), TEST)
        parts[rest], _ = _stratify(table.sizes[rest], (1 - share, share, 0.0), seed)
        splits.append(table.split(parts))
    return splits


@dataclass(frozen=True)
class _Table:
    """Clips, sorted by name, and how many of each class `(K,)` are in each group `(G,)`."""

    clips: list[Clip]
    group_of: Mapping[str, str]
    rows: np.ndarray  # the group of each clip
    classes: list[str]
    sizes: np.ndarray  # (G, K)

    def split(self, parts: np.ndarray) -> Split:
        """The split in which the groups are in these parts, `(G,)`."""
        of_clips = zip(self.clips, parts[self.rows], strict=True)
        return _split(self.clips, {clip.name: PARTS[i] for clip, i in of_clips}, self.group_of)


def _counted(function, clips, groups) -> _Table:
    clips = sorted(checked_clips(function, clips), key=lambda clip: clip.name)
    if not clips:
        raise ValueError(f"{function}: `clips` must be clips, two of each class; received none.")
    if twice := [name for name, n in Counter(clip.name for clip in clips).items() if n > 1]:
        raise ValueError(
            f"{function}: `clips` must have different names; received {_some(twice)} twice."
        )
    group_of = groups_of(clips, groups)
    names, rows = np.unique([group_of[clip.name] for clip in clips], return_inverse=True)
    classes, columns = np.unique([clip.class_name for clip in clips], return_inverse=True)
    counts = np.zeros((len(names), len(classes)), np.int64)
    np.add.at(counts, (rows, columns), 1)
    return _Table(clips, group_of, rows, classes.tolist(), counts)


def write_split(path: str | Path, split: Split) -> None:
    """Writes a split as CSV with columns clip, class, group and split, a line for each clip.

    Args:
        path: the file, replaced at once if it exists.
        split: the split to write.
    """
    path = as_path("write_split: `path`", path)
    check_instance("write_split: `split`", split, Split, "a Split, as split_clips returns it")
    rows = sorted(
        (clip.name, clip.class_name, split.groups[clip.name], part)
        for part, clips in split.items()
        for clip in clips
    )
    with (
        replacing(path) as temporary,
        # Names of files need not be UTF-8; Python keeps other bytes as surrogates.
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows([_COLUMNS, *rows])


def read_split(path: str | Path, clips: Iterable[Clip] | str | Path) -> Split:
    """Reads a split that `write_split` wrote, or that was made by hand in the same columns.

    Args:
        path: the file; its columns clip, group and split are read.
        clips: all clips, or the folder that holds them. Clips that the file does not name are left
            out, with a warning.

    Returns:
        The split.

    Raises:
        FileNotFoundError: if there is no such file, or a clip that it names is not there.
        ValueError: if the file is no split, or has a group in two parts.
    """
    path = as_path("read_split: `path`", path)
    rows = _read_rows(path, ("clip", "group", "split"))
    if isinstance(clips, str | Path):
        found = find_clips(clips)
    else:
        found = checked_clips("read_split", clips)
    by_name = {_key(clip.name): clip for clip in found}
    _check_rows(path, rows)
    if missing := [name for name in rows if name not in by_name]:
        raise FileNotFoundError(
            f"{path}: expected the clips of this split on disk; {_some(missing)} missing. Put "
            "them back, or split the clips again."
        )
    if unlisted := [name for name in by_name if name not in rows]:
        warnings.warn(
            f"{path}: {_some(unlisted)} not in this split, and left out. To use them, split the "
            "clips again.",
            stacklevel=2,
        )
    listed = sorted((by_name[name] for name in rows), key=lambda clip: clip.name)
    groups, parts = ({by_name[n].name: row[i] for n, row in rows.items()} for i in range(2))
    return _split(listed, parts, groups)


def _split(clips, part_of, group_of):
    train, validation, test = (
        [clip for clip in clips if part_of[clip.name] == part] for part in PARTS
    )
    return Split(train, validation, test, groups=group_of)


def groups_of(
    clips: Sequence[Clip], groups: str | Path | re.Pattern | Mapping[str, str] | None
) -> Mapping[str, str]:
    """The group of each clip, by the clip's name; `groups` and errors as in `split_clips`."""
    if groups is None:
        return {clip.name: (clip.label and clip.label.group) or clip.name for clip in clips}
    if isinstance(groups, Mapping):
        return {clip.name: groups[clip.name] for clip in clips}
    if isinstance(groups, Path) or (isinstance(groups, str) and groups.lower().endswith(".csv")):
        return read_column(Path(groups), "group", clips)
    try:
        if isinstance(groups, re.Pattern):
            letters = "".join(x for x in "aimsx" if groups.flags & re.RegexFlag[x.upper()])
            groups = f"(?{letters}){groups.pattern}" if letters else groups.pattern
        pattern = regex.compile(groups)
        pattern.search("")  # a pattern of bytes compiles too
    except (regex.error, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(
            "split_clips: `groups` must be a regular expression, or the path of a .csv file; "
            f"received {short_repr(groups)} ({error})."
        ) from error
    return {clip.name: _matched_group(clip, pattern) for clip in clips}


_PATIENCE = 2  # seconds for one name: some patterns try 2**n ways on n letters


def _matched_group(clip, pattern):
    above, found, own = f"/{_short_name(clip)}".partition(f"/{clip.class_name}/")
    name = own if found else above[1:]
    try:
        match = pattern.search(name, timeout=_PATIENCE)
    except TimeoutError as error:
        raise ValueError(
            f"split_clips: `groups` must match each clip's name within {_PATIENCE} s; received "
            f"{short_repr(pattern.pattern)}, which tries too many ways on {name!r}. Give a simpler "
            "pattern, or a .csv file."
        ) from error
    group = match and (match[1] if pattern.groups else match[0])
    if not group:
        raise ValueError(
            f"split_clips: `groups` must match each clip's name; {short_repr(pattern.pattern)} "
            f"finds no group in {name!r} ({clip.name}). Give another pattern, or a .csv file."
        )
    return group


def read_column(path: Path, column: str, clips: Sequence[Clip]) -> dict[str, str]:
    """Reads a CSV file with the column `clip` and another one, by the clips' names.

    Args:
        path: the file.
        column: the other column, such as "group".
        clips: all clips. The file may list a video without its ending.
    """
    rows = {name: value for name, (value,) in _read_rows(path, ("clip", column)).items()}
    names = {clip.name: (_key(clip.name), _key(_short_name(clip))) for clip in clips}
    keys = {name: full if full in rows else short for name, (full, short) in names.items()}
    if missing := [name for name, key in keys.items() if key not in rows]:
        raise ValueError(
            f"{path}: expected a {column} for each clip; {_some(missing)} missing. Add a line "
            f"clip,{column} for each."
        )
    if unknown := sorted(rows.keys() - set(keys.values())):
        raise ValueError(
            f"{path}: expected names of clips, such as {clips[0].name!r}; {_some(unknown)} unknown."
            " Correct or remove these lines."
        )
    return {name: rows[key] for name, key in keys.items()}


def _short_name(clip):
    return clip.name.removesuffix(clip.path.suffix) if clip.is_video else clip.name


def _read_rows(path, columns) -> dict[str, tuple[str, ...]]:
    """The other columns of a CSV file, by the first one."""
    header, lines, _ = read_table(path, "a CSV file", raw=True)
    spelled = {str(name).strip().casefold(): name for name in header}
    rows: dict[str, tuple[str, ...]] = {}
    for number, line in lines:
        if isinstance(line, str):
            raise ValueError(f"{path}: expected a CSV file; row {number} {line}.")
        first, *others = (str(line.get(spelled.get(name)) or "").strip() for name in columns)
        if not first or not all(others):
            raise ValueError(
                f"{path}: expected columns {','.join(columns)}, all of them filled in; row "
                f"{number} is {short_repr(','.join(map(str, line.values())))}."
            )
        first = _key(first)
        if first in rows:
            raise ValueError(
                f"{path}: expected one line for each clip; {short_repr(first)} has two."
            )
        rows[first] = tuple(others)
    if not rows:
        raise ValueError(f"{path}: expected columns {','.join(columns)}; there are no lines.")
    return rows


def _key(name):
    """The name of a clip as it is looked up: tables have no spaces around it, and UTF-8."""
    return as_name(name).strip()


def _check_rows(path, rows):
    """Refuses a file in which the column split is wrong, or a group is in two parts."""
    part_of: dict[str, str] = {}
    for name, (group, part) in rows.items():
        if part not in PARTS:
            raise ValueError(
                f"{path}: expected {', '.join(PARTS)} in column split; {short_repr(name)} has "
                f"{short_repr(part)}."
            )
        if part_of.setdefault(group, part) != part:
            raise ValueError(
                f"{path}: expected each group in one part; {short_repr(group)} is in "
                f"{part_of[group]} and in {part}. Move all its clips to one."
            )


def _some(names: Sequence[str]) -> str:
    """The first names, and how many there are."""
    shown = ", ".join(map(short_repr, names[:5])) + (", ..." if len(names) > 5 else "")
    return f"{shown} ({len(names)})"


TRAIN, VALIDATION, TEST = range(3)

_SEEDS = 10  # divisions from which the best one is taken
_STARTS = 200  # the same for folds, as long as there is none with each class in each fold
_EVERY = 8  # up to this many folds every assignment of folds to parts is tried
_DRAWS = 1000  # beyond it, this many random ones
_NEAR = 1e-4  # deviation for each class at which no other seed is tried: shares off by 1 %
_ABSENT = np.array([[1e6], [1e3], [1e6]])  # deviation of a class that a part lacks


def _stratify(counts, shares, seed) -> tuple[np.ndarray, np.ndarray]:
    """`TRAIN`, `VALIDATION` or `TEST` for each group `(G,)`, with `(G, K)` clips of each class.

    And a mask of the classes that training or test lacks.
    """
    parts, lacking = np.zeros(len(counts), int), np.zeros(counts.shape[1], bool)
    for members in _unrelated(counts):
        own = counts[members].any(axis=0)  # the classes of these groups
        parts[members], lacking[own] = _divide(counts[members][:, own], shares, seed)
    return parts, lacking


def _spread(table, folds, seed) -> np.ndarray:
    """The fold of each group, `(G,)`; each class is in each fold."""
    groups = (table.sizes > 0).sum(axis=0)
    if (groups < folds).any():
        fewest = groups.argmin()
        most = groups[fewest]
        remedy = f"take {most} folds at most" if most > 1 else "record more, or leave it out"
        raise ValueError(
            f"fold_splits: `folds` must be at most the number of groups of each class; received "
            f"{folds}, and class {table.classes[fewest]!r} has {most}: {remedy}."
        )
    fold_of, sizes = np.zeros(len(table.sizes), int), np.zeros(folds)
    for members in _unrelated(table.sizes):
        counts = table.sizes[members]
        own = counts.any(axis=0)
        found, lacking = _spread_related(counts[:, own], folds, seed)
        if lacking.any():
            classes = itertools.compress(itertools.compress(table.classes, own), lacking)
            raise ValueError(
                f"fold_splits: `folds` must be fewer, so that each class is in each fold; received "
                f"{folds}, over which no way was found to spread {_some(list(classes))}."
            )
        size = np.bincount(found, counts.sum(axis=1), folds)
        number = np.zeros(folds, int)  # the fullest of these becomes the one that has least so far
        number[np.argsort(-size, kind="stable")] = np.argsort(sizes, kind="stable")
        fold_of[members] = number[found]
        sizes[number] += size
    return fold_of


def _spread_related(counts, folds, seed) -> tuple[np.ndarray, np.ndarray]:
    """The best fold of each group found, `(G,)`, and a mask of the classes that a fold lacks."""
    portions = counts / counts.sum(axis=0)

    def deviation(found):  # portions in each fold (..., F, K) -> (...)
        return ((found - 1 / folds) ** 2 + _ABSENT[TRAIN, 0] * (found < 1e-9)).sum(axis=(-2, -1))

    best, fold_of = np.inf, np.zeros(len(counts), int)
    for number in range(_STARTS):
        rng = np.random.default_rng([seed, number])
        random = number >= _SEEDS  # as long as a fold lacks a class
        start = rng.permutation(len(counts)) % folds if random else _folds(counts, folds, rng)
        found = np.zeros((folds, counts.shape[1]))
        np.add.at(found, start, portions)
        least = deviation(found)
        if least > _ABSENT[TRAIN, 0]:
            least, start = _settle(start, portions, np.arange(folds), deviation, folds)
        best, fold_of = min((best, fold_of), (least, start), key=lambda pair: pair[0])
        if best < _NEAR * counts.shape[1] or (number >= _SEEDS - 1 and best < _ABSENT[TRAIN, 0]):
            break
    present = [counts[fold_of == fold].any(axis=0) for fold in range(folds)]
    return fold_of, ~np.logical_and.reduce(present)


def _unrelated(counts) -> list[np.ndarray]:
    """Masks of groups `(G,)` that are divided separately: they have no class in common."""
    from scipy.sparse.csgraph import connected_components

    number, of_class = connected_components(counts.T @ counts, directed=False)
    return [of_class[counts.argmax(axis=1)] == i for i in range(number)]


def _divide(counts, shares, seed) -> tuple[np.ndarray, np.ndarray]:
    """Divides groups with `(G, K)` clips of each class.

    Returns:
        The parts of the groups, `(G,)`, and a mask of the classes that training or test lacks.
    """
    portions, shares = counts / counts.sum(axis=0), np.asarray(shares) / np.sum(shares)
    used = shares > 0
    expected = np.tile(used[:, None], counts.shape[1])  # which classes each part should have
    expected[VALIDATION] &= (counts > 0).sum(axis=0) >= used.sum()

    def deviation(found):  # portions in each part (..., 3, K) -> (...)
        absent = expected & (found < 1e-9)
        return ((found - shares[:, None]) ** 2 + _ABSENT * absent).sum(axis=(-2, -1))

    best, parts = np.inf, np.zeros(len(counts), int)
    for number in range(_SEEDS):
        rng = np.random.default_rng([seed, number])
        fold_of = _folds(counts, round(3 / shares[used].min()), rng)
        assigned = _assignments(fold_of.max() + 1, shares, rng)
        by_fold = np.zeros((assigned.shape[1], counts.shape[1]))
        np.add.at(by_fold, fold_of, portions)
        found = np.stack([(assigned == part) @ by_fold for part in range(3)], axis=1)  # (A, 3, K)
        start = assigned[deviation(found).argmin()][fold_of]
        settled = _settle(start, portions, np.flatnonzero(used), deviation)
        best, parts = min((best, parts), settled, key=lambda pair: pair[0])
        if best < _NEAR * counts.shape[1]:
            break
    present = [counts[parts == part].any(axis=0) for part in (TRAIN, TEST)]
    return parts, ~np.logical_and(*present)


def _folds(counts, folds, rng) -> np.ndarray:
    """A fold for each group, `(G,)`; as many as there are groups at most."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = min(len(counts), folds)
    if folds == len(counts):
        return np.arange(folds)
    if (counts == counts[0]).all():  # clips without groups, of which there may be many
        return rng.permutation(len(counts)) % folds
    rows, columns = np.nonzero(counts)
    groups, classes = (np.repeat(x, counts[rows, columns]) for x in (rows, columns))  # of clips
    folds = min(folds, counts.sum(axis=0).max())
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=int(rng.integers(2**31)))
    fold_of = np.zeros(len(counts), int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class may have fewer clips than folds
        for fold, (_, clips) in enumerate(splitter.split(classes, classes, groups)):
            fold_of[groups[clips]] = fold
    return fold_of


def _assignments(folds, shares, rng) -> np.ndarray:
    """Assignments of folds to parts, `(A, F)`."""
    if folds > _EVERY:
        return rng.choice(3, (_DRAWS, folds), p=shares)
    return rng.permutation(list(itertools.product(np.flatnonzero(shares), repeat=folds)))


def _settle(parts, portions, used, deviation, number=3) -> tuple[float, np.ndarray]:
    """Moves one group at a time to a used part; the least deviation, and the parts `(G,)`."""
    least, rows, columns = np.inf, range(len(parts)), range(len(used))
    while True:
        found = np.stack([portions[parts == part].sum(axis=0) for part in range(number)])  # (P, K)
        moved = np.tile(found, (len(rows), len(columns), 1, 1))  # (G, U, P, K), after each move
        moved[rows, :, parts] -= portions[:, None]
        moved[:, columns, used] += portions[:, None]
        deviations = deviation(moved)
        group, column = np.unravel_index(deviations.argmin(), deviations.shape)
        if deviations[group, column] > least - 1e-9:
            return least, parts
        least, parts[group] = deviations[group, column], used[column]


def _refuse(classes, mask, found):
    if mask.any():
        names = list(itertools.compress(classes, mask))
        raise ValueError(
            "split_clips: each class must have two groups or more, for training and for test; "
            f"received {found}: {_some(names)}. Record more, give finer groups, or leave a class "
            "out."
        )


def _check_shares(shares):
    values = as_array("split_clips: `shares`", shares)
    if (
        values.dtype.kind not in "iuf"
        or values.shape != (3,)
        or not (values >= 0).all()
        or values[TRAIN] * values[TEST] == 0
        or abs(values.sum() - 1) > 1e-6
    ):
        raise ValueError(
            "split_clips: `shares` must be three numbers for training, validation and test that "
            "sum to 1; only that of validation may be 0; received "
            f"{short_repr(shares)}."
        )
