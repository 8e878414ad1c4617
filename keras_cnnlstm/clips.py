"""Clips: image sequences on disk, a folder of frames or a video each, in a folder for each class.

    ROOT/rising/clip 1/000.png ...   a clip of the class "rising"
    ROOT/rising/clip 2.mp4           another
    ROOT/falling/...

Finds them, looks at them and reads their frames. Which of them train and which test is decided in
`splits`, batches are made in `clip_batches`. Imports no TensorFlow.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_cnnlstm.arguments import as_path, check_kind, check_whole, told
from keras_cnnlstm.frames import (
    check_channels,
    check_indices,
    checked_size,
    fit_image,
    frame_files,
    image_shape,
    is_image,
    load_frames,
    natural_order,
)
from keras_cnnlstm.videos import VIDEO_SUFFIXES, probe_video, read_video, video_images

SAMPLINGS = ("uniform", "segments", "window", "first")
"""Ways to choose some frames of a clip, as `sample_indices` explains them."""

_MOST = 10_000_000  # frames of a clip: four days of video


@dataclass(frozen=True)
class Clip:
    """One image sequence on disk.

    Attributes:
        path: the folder of frames, or the video file.
        class_name: what the sequence shows.
        name: "class/clip", relative to the root, with `/` on every system; unique in it.
    """

    path: Path
    class_name: str
    name: str

    @property
    def is_video(self) -> bool:
        """Whether it is a video, not a folder of frames."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES and not self.path.is_dir()


class ClipInfo(NamedTuple):
    """What can be said about a clip without decoding it."""

    frames: int
    """How many there are."""

    height: int
    """Of the first frame as it is shown, in pixels."""

    width: int
    """Of the first frame as it is shown, in pixels."""

    rate: float | None
    """Frames a second; `None` for a folder of frames, or if the video does not say."""


def find_clips(root: str | Path) -> list[Clip]:
    """All clips under a folder.

    Each folder in `root` is a class, each folder in a class is a clip of frames, and each video
    in a class is a clip. Hidden files and folders and files of other kinds are left out. Symbolic
    links are not followed: one that stays inside `root` is left out, as what it leads to is there
    anyway, and one that leads out of it is refused. What the clips hold is not looked at.

    Args:
        root: the folder over the classes, which may itself be a symbolic link.

    Returns:
        The clips, class by class, in the natural order of the names: clip 2 before clip 10.

    Raises:
        FileNotFoundError: if there is no such folder, or no class folder in it.
        ValueError: if a class has no clips, or a link leads out of `root`.
    """
    root = as_path("find_clips: `root`", root)
    classes = [path for path in _entries(root, root) if path.is_dir()] if root.is_dir() else []
    if not classes:
        found = "none in it" if root.is_dir() else "no such folder"
        raise FileNotFoundError(
            f"{root}: expected a folder with a folder for each class, and clips in these; found "
            f"{found}."
        )
    return [
        Clip(path, folder.name, f"{folder.name}/{path.name}")
        for folder in classes
        for path in _clip_paths(folder, root)
    ]


def checked_clips(function: str, clips: Iterable[Clip]) -> list[Clip]:
    """The clips that someone gives to a function, as a list.

    Raises:
        ValueError: if they are none.
    """
    try:
        found: list = list(clips)
    except TypeError:
        found = [clips]
    wrong = [clip for clip in found if not isinstance(clip, Clip)]
    if wrong:
        raise ValueError(
            f"{function}: `clips` must be clips, as find_clips returns them; received "
            f"{told(wrong[0])}."
        )
    return found


def _check_clip(function, clip) -> None:
    check_kind(f"{function}: `clip`", clip, Clip, "a clip, as find_clips returns them")


def probe(clip: Clip) -> ClipInfo:
    """Looks at a clip without decoding it: at the files' names and headers, a video's packets.

    Raises:
        FileNotFoundError: if it is not there, or a folder without frames.
        ValueError: if the first frame's header, or the video, cannot be read.
    """
    _check_clip("probe", clip)
    if clip.is_video:
        return ClipInfo(*probe_video(clip.path))
    files = frame_files(clip.path)
    return ClipInfo(len(files), *image_shape(files[0]), None)


def read_clip(
    clip: Clip,
    indices: Sequence[int] | np.ndarray | None = None,
    *,
    image_size: tuple[int, int],
    channels: int = 1,
    invert: bool = False,
) -> np.ndarray:
    """Reads frames of a clip, brought to the model's form as `frames.load_frames` does.

    Args:
        clip: the clip.
        indices: which frames, from 0, each larger than the one before it; `None` for all.
        image_size: `(H, W)` in pixels.
        channels: 1 for grey, 3 for colour.
        invert: turn dark on light into light on dark.

    Returns:
        `(n, H, W, C)` uint8. No more frames than these are in memory at any time.

    Raises:
        FileNotFoundError: if the clip is not there, or a folder without frames.
        ValueError: if a frame cannot be read or is not there, or an argument is out of range.
    """
    _check_clip("read_clip", clip)
    options: Any = {"image_size": image_size, "channels": channels, "invert": invert}
    if clip.is_video:
        return read_video(clip.path, indices, **options)
    files = frame_files(clip.path)
    if indices is not None:
        files = _chosen(clip, files, check_indices("read_clip", indices))
    return load_frames(files, **options)


def iterate_frames(
    source: str | Path,
    *,
    image_size: tuple[int, int],
    channels: int = 1,
    invert: bool = False,
    every: int = 1,
) -> Iterator[tuple[str, np.ndarray]]:
    """Frames of a folder or a video one after the other, for those who need no whole clip.

    Args:
        source: the folder of frames, or the video file.
        image_size: `(H, W)` in pixels.
        channels: 1 for grey, 3 for colour.
        invert: turn dark on light into light on dark.
        every: 2 leaves out every second frame, and so on.

    Yields:
        The frame's name, its file's path or the video's with the frame's number from 0 after a
        colon, and the frame, `(H, W, C)` uint8.

    Raises:
        FileNotFoundError: if there is no such source, or no frame in it.
        ValueError: if a frame cannot be read, or an argument is out of range.
    """
    check_channels("iterate_frames", channels)
    source = as_path("iterate_frames: `source`", source)
    image_size = checked_size("iterate_frames", image_size)
    check_whole("iterate_frames: `every`", every, 1, _MOST)
    form: Any = {"image_size": image_size, "channels": channels, "invert": invert}
    if Clip(source, "", "").is_video:
        images = video_images(source, lambda number: number % every == 0)
        for i, image in enumerate(images):
            yield f"{source}:{i * every}", fit_image(image, **form)
    else:
        for file in frame_files(source)[::every]:
            yield str(file), load_frames([file], **form)[0]


def sample_indices(
    num_frames: int,
    length: int | None,
    sampling: str,
    *,
    stride: int = 1,
    rng: np.random.Generator | None = None,
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

    Args:
        num_frames: how many the clip has, 1 at least.
        length: how many are wanted at most, 1 at least; `None` for no limit.
        sampling: one of the four.
        stride: step from one frame to the next in a "window", 1 at least; 1 elsewhere.
        rng: source of random numbers.

    Returns:
        `(n,)` int64, each larger than the one before it, n being `length`, or what there is:
        `num_frames`, in a window the `stride`-th part of it, rounded up.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_sampling("sample_indices", length, sampling, stride)
    check_whole("sample_indices: `num_frames`", num_frames, 1, _MOST)
    if not isinstance(rng, np.random.Generator | None):
        raise ValueError(
            f"sample_indices: `rng` must be a numpy.random.Generator or None; received {told(rng)}."
        )
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


def check_sampling(function: str, length: int | None, sampling: str, stride: int) -> None:
    """Refuses in the name of a function what `sample_indices` could not do.

    Raises:
        ValueError: if an argument is out of range.
    """
    if not isinstance(sampling, str) or sampling not in SAMPLINGS:
        raise ValueError(
            f"{function}: `sampling` must be one of {', '.join(SAMPLINGS)}; received "
            f"{told(sampling)}."
        )
    for name, value in (("length", 1 if length is None else length), ("stride", stride)):
        check_whole(f"{function}: `{name}`", value, 1, _MOST)
    if stride > 1 and sampling != "window":
        raise ValueError(
            f'{function}: `stride` must be 1 unless `sampling` is "window"; received {stride} with '
            f'"{sampling}".'
        )


def _evenly(num_frames, n):
    """`i (num_frames - 1) / (n - 1)`, rounded half up, in whole numbers."""
    if n == 1:
        return np.array([(num_frames - 1) // 2])
    return (2 * np.arange(n) * (num_frames - 1) + n - 1) // (2 * (n - 1))


def _entries(folder, root):
    """What lies in a folder in natural order, without hidden things and symbolic links."""
    top = os.path.realpath(root)
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted((path for path in paths if not _is_link(path, top)), key=natural_order)


def _is_link(path, top):
    if not path.is_symlink():
        return False
    target = os.path.realpath(path)
    if target != top and not target.startswith(os.path.join(top, "")):
        raise ValueError(
            f"{path}: expected no symbolic link that leads out of the folder of clips; found one "
            f"to {target}. Put the clips themselves there."
        )
    return True


def _clip_paths(folder, root):
    entries = _entries(folder, root)
    paths = [p for p in entries if p.is_dir() or p.suffix.lower() in VIDEO_SUFFIXES]
    if paths:
        return paths
    found = "nothing of that kind"
    if any(map(is_image, entries)):
        found = "bare images: put the frames of each clip into a folder of their own"
    raise ValueError(
        f"{folder}: expected the clips of a class, folders of frames or videos "
        f"({', '.join(VIDEO_SUFFIXES)}); found {found}."
    )


def _chosen(clip, files, indices):
    if indices[-1] >= len(files):
        raise ValueError(
            f"{clip.path}: expected {indices[-1] + 1} frames or more; found {len(files)}."
        )
    return [files[i] for i in indices]
