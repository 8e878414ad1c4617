"""Frames that are in two parts of a split, where a test score would rest on what was learnt.

Compares decoded pixels at their own size, so that neither the format nor the name of a file hides
a copy. Scaled, cropped or compressed copies are not found.
"""

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from keras_cnnlstm.arguments import check_kind
from keras_cnnlstm.clips import Clip, checked_clips
from keras_cnnlstm.frames import fit_image, frame_files, opened_image
from keras_cnnlstm.videos import video_images

Progress = Callable[[int, int], None]
"""Called with how many clips are done, and how many there are."""


def progress_line(what: str = "clips", terminal: TextIO | None = None) -> Progress | None:
    """A callback that counts what is done on one line of a terminal, by default standard error.

    Args:
        what: what is counted.
        terminal: where to write.

    Returns:
        The callback; `None` if it is no terminal, but a file or a pipe.
    """
    stream = terminal or sys.stderr
    if not stream.isatty():
        return None

    def show(done, total):
        stream.write(f"\r{done:,} of {total:,} {what}" + "\n" * (done == total))
        stream.flush()

    return show


class SharedFrame(NamedTuple):
    """A frame of one part that an earlier part has too."""

    part: str
    clip: Clip
    frame: int
    """Which frame of `clip`, from 0."""

    other_part: str
    other: Clip
    other_frame: int
    """Which frame of `other`, the first place in the split where these pixels are."""


def shared_frames(
    split: Mapping[str, Iterable[Clip]], *, progress: Progress | None = None
) -> list[SharedFrame]:
    """Finds frames whose pixels are in an earlier part of the split too.

    Frames of one colour all over are left out, as every recording may begin with black. One frame
    is in memory at a time, and about 200 bytes for each different one.

    Args:
        split: clips by the name of their part, as `split_clips` gives it.
        progress: called after each clip.

    Returns:
        Each such frame once, with the first place where it was seen, in the order of `split`.

    Raises:
        FileNotFoundError: if a clip is not there.
        ValueError: if a frame cannot be read.
    """
    expected = "clips by the name of their part, as split_clips gives it"
    check_kind("shared_frames: `split`", split, Mapping, expected)
    clips = [
        (part, clip)
        for part, members in split.items()
        for clip in checked_clips("shared_frames", members)
    ]
    first: dict[bytes, tuple[str, Clip, int]] = {}
    shared = []
    for done, (part, clip) in enumerate(clips, start=1):
        for number, pixels in enumerate(native_frames(clip)):
            if is_blank(pixels):
                continue
            seen = first.setdefault(pixel_digest(pixels), (part, clip, number))
            if seen[0] != part:
                shared.append(SharedFrame(part, clip, number, *seen))
        if progress:
            progress(done, len(clips))
    return shared


def native_frames(clip: Clip) -> Iterator[np.ndarray]:
    """The frames of a clip one by one, each `(H, W, 3)` uint8 in its own size.

    Raises:
        FileNotFoundError: if the clip is not there.
        ValueError: if a frame cannot be read.
    """
    if clip.is_video:
        yield from map(_pixels, video_images(clip.path))
    else:
        yield from map(image_pixels, frame_files(clip.path))


def image_pixels(path: Path) -> np.ndarray:
    """An image file as `(H, W, 3)` uint8 in its own size, upright, on black where transparent.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it is no readable image, or too large.
    """
    from PIL import ImageOps

    with opened_image(path) as file:
        return _pixels(ImageOps.exif_transpose(file))


def _pixels(image):
    return fit_image(image, image_size=None, channels=3, invert=False)


def is_blank(pixels: np.ndarray) -> bool:
    """Whether all pixels of a frame `(H, W, C)` have the same colour."""
    return bool((pixels == pixels[0, 0]).all())


def pixel_digest(pixels: np.ndarray) -> bytes:
    """16 bytes that two frames share if, and practically only if, shape and pixels are equal."""
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()
