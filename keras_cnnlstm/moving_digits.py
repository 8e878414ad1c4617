"""Clips to learn with: a digit that moves over a larger canvas, eight kinds of motion.

In no frame and in no set of frames lies the answer, only in their order: each kind of motion
visits the same places equally often. So these clips tell a model that reads time from one that
does not. Real digits, as `digits` loads them; the motion is made.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from keras_cnnlstm.arguments import as_path, is_whole, told
from keras_cnnlstm.digits import LabeledImages, check_images
from keras_cnnlstm.videos import write_video

MOTIONS = (
    "left", "right", "up", "down", "left-right", "right-left", "up-down", "down-up",
)  # fmt: skip
"""The classes. The last four bounce off a side: first one way, then back."""

_LARGEST, _LONGEST = 4096, 10_000  # pixels of a side, frames of a clip


class MovingDigit(NamedTuple):
    """A clip of one moving digit."""

    name: str
    """`IMAGE_MOTION`, where IMAGE is the index of the digit's image: the clips of one image are a
    group, which stands on one side of a split by the pattern `^(.+?)_`."""

    motion: str
    """One of `MOTIONS`."""

    frames: np.ndarray
    """`(T, canvas, canvas, C)` uint8."""


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

    Across its direction a digit stands anywhere; along it, it crosses the whole canvas once, or
    there and back.

    Args:
        images: the digits, `(H, W)` smaller than the canvas.
        num_images: how many of them to take, each once in each of the eight motions.
        canvas: side of the frames in pixels.
        min_frames: of the shortest clip, 3 or more.
        max_frames: of the longest one; each length is equally likely.
        seed: of images, places and lengths.

    Yields:
        `8 * num_images` clips.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_images("moving_digits", images)
    height, width, channels = images.image_shape
    if not is_whole(num_images, 1, len(images)):
        raise ValueError(
            f"moving_digits: `num_images` must be 1 to {len(images)}, the images there are; "
            f"received {told(num_images)}."
        )
    if not is_whole(canvas, max(height, width) + 1, _LARGEST):
        raise ValueError(
            f"moving_digits: `canvas` must be larger than the images, {height}x{width} pixels, "
            f"and at most {_LARGEST}; received {told(canvas)}."
        )
    if not is_whole(max_frames, 3, _LONGEST) or not is_whole(min_frames, 3, max_frames):
        raise ValueError(
            f"moving_digits: `min_frames` must be 3 to `max_frames`, and that {_LONGEST:,} at "
            f"most; received {told(min_frames)} and {told(max_frames)}."
        )
    if not is_whole(seed, 0):
        raise ValueError(
            f"moving_digits: `seed` must be a whole number, 0 or more; received {told(seed)}."
        )
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
        root: the folder to make; must not exist.
        clips: the clips.
        form: "folders" of PNG files, or "videos" as MP4 files (needs the extra `video`; their
            pixels are a little off, as compression has it).

    Returns:
        How many were written.

    Raises:
        FileExistsError: if `root` exists.
    """
    root, count = as_path("write_clips: `root`", root), 0
    if not isinstance(form, str) or form not in ("folders", "videos"):
        raise ValueError(
            f"write_clips: `form` must be 'folders' or 'videos'; received {told(form)}."
        )
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
        image = Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame)
        image.save(folder / f"{t:03}.png")
