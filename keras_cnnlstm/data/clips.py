"""Clips: image sequences on disk, a folder of frames or a video each, in a folder for each class.

    ROOT/rising/clip 1/000.png ...   a clip of the class "rising"
    ROOT/rising/clip 2.mp4           another
    ROOT/falling/...
    ROOT/train/rising/clip 1/...     the same with a prescribed split, in train, validation and test

This module finds them and reads their frames. `splits` decides which of them train and which test,
`clip_batches` makes batches. Imports no TensorFlow.
"""

import errno
import itertools
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_cnnlstm.data.frames import (
    DepthRange,
    Fit,
    check_channels,
    check_depth_range,
    check_fit,
    check_indices,
    checked_size,
    fit_image,
    frame_files,
    is_hidden,
    is_image,
    load_frames,
    natural_order,
    read_image,
    signature,
    upright_image,
)
from keras_cnnlstm.data.videos import (
    VIDEO_SUFFIXES,
    ClipInfo,
    Observe,
    probe_video,
    read_video,
    video_frames,
)
from keras_cnnlstm.utils.validation import (
    as_path,
    check_choice,
    check_instance,
    check_integer,
    is_number,
    short_repr,
)

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

SAMPLINGS = ("uniform", "segments", "window", "first")
"""Ways to choose some frames of a clip, as `sample_indices` explains them."""

PART_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Names of the parts of a prescribed split, and the part that each means."""

_MOST = 10_000_000  # frames of a clip: four days of video


class Segment(NamedTuple):
    """A stretch of a clip and its class: from `start` to before `end`."""

    start: float
    end: float
    class_name: str


@dataclass(frozen=True)
class Label:
    """What a table of labels, or a folder of the name of a part, says of a clip.

    Attributes:
        classes: its class, or its labels, in the order of the table.
        values: its numbers with their names, in the order of the table's columns.
        segments: its segments, in the order of time; they do not overlap.
        in_frames: whether the segments count frames; else they count seconds.
        split: "train", "validation" or "test", if the table prescribes the split.
        group: what the clip was cut from, if the table says so.
        weight: how much the clip counts in training.
    """

    classes: tuple[str, ...] = ()
    values: tuple[tuple[str, float], ...] = ()
    segments: tuple[Segment, ...] = ()
    in_frames: bool = False
    split: str | None = None
    group: str | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Clip:
    """One image sequence on disk.

    Attributes:
        path: the folder of frames, or the video file.
        class_name: what the sequence shows; of clips with other labels, what a split balances.
        name: "class/clip", relative to the root, with `/` on every system; unique in it. Both names
            are as `as_name` makes them, in whichever encoding the system has them.
        label: what else is said of it; `None` if nothing is.
    """

    path: Path
    class_name: str
    name: str
    label: Label | None = None

    @property
    def is_video(self) -> bool:
        """Whether it is a video, not a folder of frames."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES and not self.path.is_dir()


@dataclass(frozen=True)
class Problem:
    """Something wrong in a folder of clips.

    Attributes:
        place: the clip's name, or the path of the file or folder, relative to the root, with `/`.
        clip: name of the clip that has it; `None` if it is in none.
        type: "label", "unreadable", "empty", "link", "name", "stray", "one frame", "sizes",
            "large", "depth", "duplicate" or "split".
        reason: what is wrong, in a sentence.
        fatal: whether the clip, or the folder, cannot be used as it is.
        files: names of the files that are left out, of type "stray".
    """

    place: str
    clip: str | None
    type: str
    reason: str
    fatal: bool
    files: list[str] = field(default_factory=list)


def find_clips(root: str | Path) -> list[Clip]:
    """All clips under a folder.

    Each folder in `root` is a class, each folder in a class is a clip of frames, and each video
    in a class is a clip. Files of other types are left out, and hidden files and folders and those
    that systems leave (`__MACOSX`, `@eaDir`, `Thumbs.db`, `desktop.ini`). Symbolic
    links are not followed: a link that stays inside `root` is left out, since its target is there
    anyway, and a link that leads out of it is refused. The content of the clips is not read.

    Folders `train`, `validation` and `test` over the classes prescribe a split: each clip then has
    a `label` with its part.

    Args:
        root: the folder over the classes, which may itself be a symbolic link.

    Returns:
        The clips, class by class, in the natural order of the names: clip 2 before clip 10.

    Raises:
        FileNotFoundError: if there is no such folder, or no class folder in it.
        ValueError: if a class has no clips or cannot be read, or a link leads out of `root`.
    """
    root = as_path("find_clips: `root`", root)
    clips, problems = scan_clips(root)
    for problem in problems:
        if problem.fatal:
            error = FileNotFoundError if problem.place == "." else ValueError
            raise error(f"{root / problem.place}: {problem.reason}.")
    return clips


def scan_clips(root: Path) -> tuple[list[Clip], list[Problem]]:
    """The clips under a folder, in the order of `find_clips`, and what is wrong around them."""
    if not root.is_dir():
        found = "something else" if root.exists() else "no such folder"
        raise FileNotFoundError(
            f"{root}: expected a folder with a folder for each class, and clips in these; found "
            f"{found}."
        )
    clips: list[Clip] = []
    problems: list[Problem] = []
    classes, strays = _entries(root, root, problems)
    parts = _prescribed(classes)
    for folder in classes:
        if folder not in parts:
            clips += _class_clips(folder, root, problems)
            continue
        inner, others = _entries(folder, root, problems)
        problems += stray_files(name_of(folder), None, others)
        for inside in inner:
            clips += _class_clips(inside, root, problems, Label(split=parts[folder]))
    problems += stray_files(".", None, strays)
    if not classes:
        reason = "expected a folder for each class, and clips in these; found none"
        problems.append(Problem(".", None, "empty", reason, True))
    return clips, problems


def _prescribed(folders) -> dict[Path, str]:
    """The part of a split that each folder stands for; empty if they are classes.

    They are parts if all have names of parts, training and test are among them, and in none of
    them a clip lies where those of a class would.
    """
    parts = {folder: PART_NAMES.get(folder.name.casefold(), "") for folder in folders}
    if not {"train", "test"} <= set(parts.values()) or "" in parts.values():
        return {}
    for path in itertools.chain.from_iterable(folder.iterdir() for folder in folders):
        of_class = path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()
        if of_class or (path.is_dir() and any(map(is_image, path.iterdir()))):
            return {}
    return parts


def _class_clips(folder, root, problems, label=None) -> list[Clip]:
    """The clips in the folder of a class; adds what is wrong in it to the problems."""
    place = as_name(folder.relative_to(root).as_posix())
    try:
        folders, files = _entries(folder, root, problems)
    except OSError as error:
        problems.append(Problem(place, None, "unreadable", str(error), True))
        return []
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    paths = sorted(folders + videos, key=natural_order)
    others = [path for path in files if path not in set(videos)]
    if not paths:
        reason = f"expected folders of frames or videos ({', '.join(VIDEO_SUFFIXES)})"
        reason += "; found nothing of these"
        if any(map(is_image, others)):
            reason += ", but bare images. Put the frames of each clip into a folder of their own"
        problems.append(Problem(place, None, "empty", reason, True))
    problems += stray_files(place, None, others)
    return [Clip(path, name_of(folder), f"{place}/{name_of(path)}", label) for path in paths]


def search_clips(root: Path, is_video: Callable[[Path], bool]) -> list[Path]:
    """The clips in a folder, and in the class folders in it if there are any.

    Args:
        root: a folder. With image files in it, and no clips, it is a clip itself.
        is_video: whether a file is a clip. In `root` itself no image file is one.

    Returns:
        Videos and folders of image files, in natural order; also each folder in which there is
        neither, since reading it says so.

    Raises:
        ValueError: if image files lie beside clips, or a symbolic link leads out of `root`.
    """
    return _search(root, root, is_video, 2)


def _search(folder, root, is_video, depth) -> list[Path]:
    if not depth:
        return [folder]
    problems: list[Problem] = []
    folders, files = _entries(folder, root, problems)
    for problem in problems:
        if problem.fatal:
            raise ValueError(f"{root / problem.place}: {problem.reason}.")
    images = [path for path in files if is_image(path) and (folder == root or not is_video(path))]
    videos = [path for path in files if is_video(path) and path not in images]
    found: list[Path] = []
    for path in sorted(folders + videos, key=natural_order):
        found += [path] if path in videos else _search(path, root, is_video, depth - 1)
    if not images:
        return found or [folder]
    for path in found:
        if path in videos or any(map(is_image, path.glob("*"))):
            raise ValueError(
                f"{folder}: expected either image files, the frames of one clip, or clips; found "
                f"{images[0].name} beside {path.relative_to(folder)}. Move one of them elsewhere, "
                "or list the clips in a table."
            )
    return [folder]


def _entries(folder, root, problems) -> tuple[list[Path], list[Path]]:
    """Folders, and other files, in natural order; adds what is neither to the problems."""
    folders: list[Path] = []
    files: list[Path] = []
    names: set[str] = set()
    top = os.path.realpath(root)
    for path in sorted(folder.iterdir(), key=natural_order):
        place = path.relative_to(root).as_posix()
        if is_hidden(path):
            continue
        if path.is_symlink():
            target = os.path.realpath(path)
            leaves = target != top and not target.startswith(os.path.join(top, ""))
            reason = f"a symbolic link to {link_target(path)}; "
            if leaves:
                reason += f"it leads out of the folder of clips, to {target}. Put the clips into it"
            else:
                reason += "not followed"
            problems.append(Problem(place, None, "link", reason, leaves))
        elif name_of(path) in names:
            reason = "the name of another one, in another encoding (NFC, NFD, Latin-1). Rename it"
            problems.append(Problem(place, None, "name", reason, True))
        elif path.suffix.lower() in VIDEO_SUFFIXES and not (path.is_file() or path.is_dir()):
            reason = "expected a regular file; found a pipe or a device. Remove it"
            problems.append(Problem(place, None, "unreadable", reason, True))
        else:
            (folders if path.is_dir() else files).append(path)
            names.add(name_of(path))
    return folders, files


def name_of(path: Path) -> str:
    """The name of a file or folder as text, by `as_name`."""
    return as_name(path.name)


def as_name(text: str) -> str:
    """Text in the Unicode form NFC, where macOS writes NFD; of bytes not in UTF-8 as Latin-1."""
    text = re.sub("[\udc80-\udcff]", lambda match: chr(ord(match[0]) - 0xDC00), text)
    return unicodedata.normalize("NFC", text)


def class_names(clips: Iterable[Clip]) -> tuple[str, ...]:
    """The classes of clips in natural order."""
    return tuple(sorted({clip.class_name for clip in clips}, key=lambda n: natural_order(Path(n))))


def link_target(path: Path) -> str:
    """Where a symbolic link leads, in words."""
    try:
        path.stat()
    except OSError as error:
        return "itself" if error.errno == errno.ELOOP else "nothing"
    return "something"


def stray_files(place: str, clip: str | None, paths: Sequence[Path]) -> Iterator[Problem]:
    """The problem of files that are left out, if there are any."""
    if paths:
        names = ", ".join(path.name for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
        reason = f"no frame and no clip, so left out: {names} ({len(paths)})"
        files = [path.name for path in paths]
        yield Problem(place, clip, "stray", reason, False, files)


def checked_clips(function: str, clips: Iterable[Clip]) -> list[Clip]:
    """Clips as a list; `function` is named in the error."""
    try:
        found: list = list(clips)
    except TypeError:
        found = [clips]
    wrong = [clip for clip in found if not isinstance(clip, Clip)]
    if wrong:
        raise ValueError(
            f"{function}: `clips` must be clips, as find_clips returns them; received "
            f"{short_repr(wrong[0])}."
        )
    return found


def _check_clip(function, clip) -> None:
    check_instance(f"{function}: `clip`", clip, Clip, "a clip, as find_clips returns them")


def probe(clip: Clip) -> ClipInfo:
    """Number, size and rate of the frames of a clip; decodes the first frame only.

    Raises:
        FileNotFoundError: if the clip is not there, or a folder without frames.
        ValueError: if the first frame, or the video, cannot be read.
    """
    _check_clip("probe", clip)
    if clip.is_video:
        return ClipInfo(*probe_video(clip.path))
    files = frame_files(clip.path)
    height, width = read_image(files[0]).shape[:2]
    return ClipInfo(len(files), height, width, None)


def read_clip(
    clip: Clip,
    indices: Sequence[int] | np.ndarray | None = None,
    *,
    image_size: tuple[int, int],
    channels: int = 1,
    invert: bool = False,
    fit: Fit = "letterbox",
    depth_range: DepthRange | None = None,
) -> np.ndarray:
    """Reads frames of a clip, as `frames.load_frames` does.

    Args:
        clip: the clip.
        indices: which frames, from 0, in increasing order; `None` for all.
        image_size: `(H, W)` in pixels.
        channels: 1 for grey, 3 for colour.
        invert: turn dark on light into light on dark.
        fit: how frames of another aspect ratio are brought to `image_size`.
        depth_range: of images of 16 bits, as in `frames.load_frames`.

    Returns:
        `(n, H, W, C)` uint8. No more frames than these are in memory at any time.

    Raises:
        FileNotFoundError: if the clip is not there, or a folder without frames.
        ValueError: if a frame cannot be read or is not there, or an argument is out of range.
    """
    _check_clip("read_clip", clip)
    check_fit("read_clip", fit)
    options: Any = {"image_size": image_size, "channels": channels, "invert": invert, "fit": fit}
    if clip.is_video:
        return read_video(clip.path, indices, **options)
    files = frame_files(clip.path)
    if indices is not None:
        indices = check_indices("read_clip", indices)
        if indices[-1] >= len(files):
            raise ValueError(
                f"{clip.path}: expected {indices[-1] + 1} frames or more; found {len(files)}."
            )
        files = [files[i] for i in indices]
    return load_frames(files, **options, depth_range=depth_range)


def clip_frames(
    clip: Clip,
    *,
    image_size: tuple[int, int] | None = None,
    channels: int = 3,
    invert: bool = False,
    fit: Fit = "letterbox",
    depth_range: DepthRange | None = None,
    step: float = 1.0,
    observe: Observe | None = None,
) -> Iterator[np.ndarray]:
    """Frames of a clip one by one, `(H, W, C)` uint8; `image_size=None` keeps their own sizes.

    `step` is that from one frame to the next, as `steps` takes it. `observe` is called for each
    frame that is decoded, which of a video are all.
    """
    form: Any = {"image_size": image_size, "channels": channels, "invert": invert, "fit": fit}
    if clip.is_video:
        yield from video_frames(clip.path, _among(steps(step)), **form, observe=observe)
    else:
        files = frame_files(clip.path)
        for number in itertools.takewhile(len(files).__gt__, steps(step)):
            image = upright_image(files[number])
            if observe:
                observe_image(image, observe)
            yield fit_image(image, **form, depth_range=depth_range)


def observe_image(image: "PillowImage", observe: Observe) -> None:
    """Has the frame in an image file observed."""
    pixels = fit_image(image, image_size=None, channels=3, invert=False)
    observe((image.height, image.width), signature(image), pixels)


def steps(step: float) -> Iterator[int]:
    """The numbers of frames that lie a real number of frames, 1 or more, apart: 0, 2, 5, 7 by 2.5.

    The i-th is `i * step`, rounded half up.
    """
    return (math.floor(i * step + 0.5) for i in itertools.count())


def _among(numbers):
    """Whether a number is among increasing ones, asked in increasing order."""
    numbers = iter(numbers)
    due = next(numbers)

    def wanted(number):
        nonlocal due
        found = number == due
        if found:
            due = next(numbers)
        return found

    return wanted


def film_step(rate: float | None, frames_per_second: float | None) -> float:
    """Frames of a clip from one to the next at a number of frames per second.

    It is 1 where every frame is to be taken: without `frames_per_second`, of a clip of images,
    which have no time, and of a film of fewer frames per second.
    """
    return max(1.0, rate / frames_per_second) if rate and frames_per_second else 1.0


def iterate_frames(
    source: str | Path,
    *,
    image_size: tuple[int, int],
    channels: int = 1,
    invert: bool = False,
    fit: Fit = "letterbox",
    depth_range: DepthRange | None = None,
    every: int = 1,
    frames_per_second: float | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Frames of a folder or a video one by one, with their names.

    Args:
        source: the folder of frames, or the video file.
        image_size: `(H, W)` in pixels.
        channels: 1 for grey, 3 for colour.
        invert: turn dark on light into light on dark.
        fit: how frames of another aspect ratio are brought to `image_size`.
        depth_range: as in `read_clip`.
        every: step from one frame to the next; 2 leaves out every second frame.
        frames_per_second: the frames of a video at this rate, of which `every` takes some; `None`
            for all. A folder of images has no time, nor has a GIF without durations: each of its
            frames counts.

    Yields:
        The frame's name, which is the path of its file, or the path of the video and the frame's
        number from 0 after a colon; and the frame, `(H, W, C)` uint8.

    Raises:
        FileNotFoundError: if there is no such source, or no frame in it.
        ValueError: if a frame cannot be read, or an argument is out of range.
    """
    check_channels("iterate_frames", channels)
    source = as_path("iterate_frames: `source`", source)
    image_size = checked_size("iterate_frames", image_size)
    check_fit("iterate_frames", fit)
    check_depth_range("iterate_frames", depth_range)
    check_integer("iterate_frames: `every`", every, 1, _MOST)
    check_rate("iterate_frames: `frames_per_second`", frames_per_second)
    clip = Clip(source, "", "")
    rate = probe(clip).rate if clip.is_video and frames_per_second else None
    step = every * film_step(rate, frames_per_second)
    names: Iterator[str] = (f"{source}:{number}" for number in steps(step))
    if not clip.is_video:
        names = map(str, frame_files(source)[::every])
    form: Any = {"image_size": image_size, "channels": channels, "invert": invert, "fit": fit}
    form["depth_range"] = depth_range
    yield from zip(names, clip_frames(clip, step=step, **form), strict=False)


def sample_indices(
    num_frames: int,
    length: int | None,
    sampling: str,
    *,
    stride: int = 1,
    rng: np.random.Generator | None = None,
    rate: float | None = None,
    frames_per_second: float | None = None,
) -> np.ndarray:
    """Chooses which frames of a clip a model is shown.

    - "uniform": evenly spaced from the first frame to the last; the middle one if `length` is 1.
    - "segments": one frame from each of `length` equal parts of the clip, a random one with
      `rng` and the middle one without. After Wang et al., Temporal Segment Networks, ECCV 2016,
      section 3.1.
    - "window": every `stride`-th frame from a random start with `rng`, or of the middle of the
      clip without.
    - "first": those at the start of the clip.

    A clip of fewer frames gives all it has: none is repeated, and no clip dropped.

    With `frames_per_second` these choose among the frames that lie `rate / frames_per_second`
    frames apart, from the first one on, each rounded to a whole frame; so what a model sees has
    the same speed whatever the rate of the film. A film of fewer frames per second gives each of
    its frames once at most, and so does a clip without a rate, such as a folder of images.

    Args:
        num_frames: how many the clip has, 1 at least.
        length: how many are wanted at most, 1 at least; `None` for no limit.
        sampling: one of the four.
        stride: step from one frame to the next in a "window", 1 at least; 1 elsewhere.
        rng: source of random numbers.
        rate: frames per second of the clip, as `ClipInfo.rate`; `None` if it has none.
        frames_per_second: of the frames to choose from; `None` for every frame.

    Returns:
        `(n,)` int64, each larger than the one before it, n being `length`, or what there is:
        `num_frames`, at a lower rate fewer, in a window the `stride`-th part, rounded up.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_sampling("sample_indices", length, sampling, stride)
    check_integer("sample_indices: `num_frames`", num_frames, 1, _MOST)
    if not isinstance(rng, np.random.Generator | None):
        raise ValueError(
            "sample_indices: `rng` must be a numpy.random.Generator or None; received "
            f"{short_repr(rng)}."
        )
    check_rate("sample_indices: `rate`", rate)
    check_rate("sample_indices: `frames_per_second`", frames_per_second)
    step = film_step(rate, frames_per_second)
    if step > 1:
        known = frames_at(num_frames, step)
        return known[sample_indices(len(known), length, sampling, stride=stride, rng=rng)]
    num_frames, stride = int(num_frames), int(stride)  # of NumPy they could overflow
    available = -(-num_frames // stride)
    n = available if length is None else min(length, available)
    if sampling == "first":
        return np.arange(n)
    if sampling == "window":
        last_start = num_frames - 1 - (n - 1) * stride
        start = last_start // 2 if rng is None else rng.integers(last_start + 1)
        return start + stride * np.arange(n)
    if sampling == "uniform":
        return _evenly(num_frames, n)
    edges = np.arange(n + 1) * num_frames // n
    first, last = edges[:-1], edges[1:] - 1
    return (first + last) // 2 if rng is None else rng.integers(first, last, endpoint=True)


def frames_at(num_frames: int, step: float) -> np.ndarray:
    """The numbers of the frames of a clip that lie `step` frames apart, as `steps` counts them."""
    count = math.ceil((num_frames - 0.5) / step)
    return np.floor(np.arange(count) * step + 0.5).astype(np.int64)


def check_rate(what: str, value: float | None) -> None:
    """Refuses what is no number of frames per second, and not `None`; `what` names it."""
    if value is not None and not is_number(value, 1e-3, 1e6):
        raise ValueError(
            f"{what} must be a number from 0.001 to 1,000,000, or None; received "
            f"{short_repr(value)}."
        )


def check_sampling(function: str, length: int | None, sampling: str, stride: int) -> None:
    """Refuses in the name of a function what `sample_indices` could not do."""
    check_choice(f"{function}: `sampling`", sampling, SAMPLINGS)
    for name, value in (("length", 1 if length is None else length), ("stride", stride)):
        check_integer(f"{function}: `{name}`", value, 1, _MOST)
    if stride > 1 and sampling != "window":
        raise ValueError(
            f'{function}: `stride` must be 1 unless `sampling` is "window"; received {stride} with '
            f'"{sampling}".'
        )


def _evenly(num_frames, n):
    """`i (num_frames - 1) / (n - 1)`, rounded half up, in integers."""
    if n == 1:
        return np.array([(num_frames - 1) // 2])
    return (2 * np.arange(n) * (num_frames - 1) + n - 1) // (2 * (n - 1))
