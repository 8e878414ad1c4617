"""Clips to learn with: a digit that moves over a larger canvas in one of eight motions.

Only the order of the frames tells the motion: each one visits the same places equally often. So
these clips separate models that read time from models that do not. The digits are real, the motion
is made.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from keras_cnnlstm.data.datasets import LabeledImages, check_images
from keras_cnnlstm.data.videos import write_video
from keras_cnnlstm.utils.files import png_bytes
from keras_cnnlstm.utils.validation import as_path, check_choice, check_integer

MOTIONS = (
    "left", "right", "up", "down", "left-right", "right-left", "up-down", "down-up",
)  # fmt: skip
"""The classes. The last four bounce off a side: first one way, then back."""

_LARGEST, _LONGEST = 4096, 10_000  # pixels of a side, frames of a clip


class MovingDigit(NamedTuple):
    """A clip of one moving digit.

    Attributes:
        name: `IMAGE_MOTION`, with the index of the digit's image. The clips of one image are a
            group of a split by the pattern `^(.+?)_`.
        motion: one of `MOTIONS`.
        frames: `(T, canvas, canvas, C)` uint8.
    """

    name: str
    motion: str
    frames: np.ndarray


def moving_digits(
    images: LabeledImages,
    num_images: int,
    *,
    canvas: int = 48,
    min_frames: int = 10,
    max_frames: int = 14,
    seed: int = 0,
) -> Iterator[MovingDigit]:
    """Clips of digits in every kind of motion.

    A digit crosses the whole canvas along its direction, once, or there and back. Across it, its
    place is random.

    Args:
        images: the digits, `(H, W)` smaller than the canvas.
        num_images: number of digits, each in each of the eight motions.
        canvas: side of the frames in pixels.
        min_frames: frames of the shortest clip, 3 or more.
        max_frames: frames of the longest clip; each length is equally likely.
        seed: an integer, 0 or more, for images, places and lengths.

    Yields:
        `8 * num_images` clips.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_images("moving_digits", images)
    height, width, channels = images.image_shape
    check_integer("moving_digits: `num_images`", num_images, 1, len(images))
    check_integer("moving_digits: `canvas`", canvas, max(height, width) + 1, _LARGEST)
    check_integer("moving_digits: `max_frames`", max_frames, 3, _LONGEST)
    check_integer("moving_digits: `min_frames`", min_frames, 3, max_frames)
    check_integer("moving_digits: `seed`", seed, 0, 2**63)
    rng = np.random.default_rng(seed)
    for index in sorted(rng.choice(len(images), num_images, replace=False)):
        for motion in MOTIONS:
            time = int(rng.integers(min_frames, max_frames, endpoint=True))
            frames = np.zeros((time, canvas, canvas, channels), np.uint8)
            across = rng.random()
            for frame, along in zip(frames, _path(motion, time), strict=True):
                x, y = (across, along) if motion[0] in "ud" else (along, across)
                top, left = round(y * (canvas - height)), round(x * (canvas - width))
                frame[top : top + height, left : left + width] = images.images[index]
            yield MovingDigit(f"{index}_{motion}", motion, frames)


def _path(motion: str, time: int) -> np.ndarray:
    """Where along its direction the digit stands at each step, `(time,)` in [0, 1]."""
    first, *back = motion.split("-")
    there = np.linspace(0, 1, time)
    if back:
        there = 1 - np.abs(1 - 2 * there)  # 0 to 1 and back
    return 1 - there if first in ("left", "up") else there


def write_clips(
    root: str | Path,
    clips: Iterable[MovingDigit],
    *,
    form: Literal["folders", "videos"] = "folders",
) -> int:
    """Writes clips as `clips.find_clips` finds them.

    Args:
        root: a new folder.
        clips: the clips.
        form: "folders" of PNG files, or "videos" as MP4 files (needs the extra `video`;
            compression changes the pixels a little).

    Returns:
        The number of clips.

    Raises:
        FileExistsError: if `root` exists.
    """
    root, count = as_path("write_clips: `root`", root), 0
    check_choice("write_clips: `form`", form, ("folders", "videos"))
    root.mkdir(parents=True)
    for clip in clips:
        folder = root / clip.motion
        folder.mkdir(exist_ok=True)
        if form == "videos":
            write_video(folder / f"{clip.name}.mp4", clip.frames)
        else:
            _write_frames(folder / clip.name, clip.frames)
        count += 1
    return count


def _write_frames(folder, frames):
    folder.mkdir()
    for t, frame in enumerate(frames):
        (folder / f"{t:03}.png").write_bytes(png_bytes(frame))
