"""Video files as arrays of frames: MP4, WebM, AVI, MOV and MKV through PyAV, GIF through Pillow.

Frames are brought to shape as those of image files are, by `frames.fit_image`. Knows single files
only; `clips` knows folders of them. PyAV comes with the extra `video`, and is not needed for GIF.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_cnnlstm.arguments import as_array, as_path, is_number, told
from keras_cnnlstm.artefacts import required
from keras_cnnlstm.containers import promised_size
from keras_cnnlstm.files import replacing
from keras_cnnlstm.frames import (
    check_channels,
    check_indices,
    check_pixels,
    checked_size,
    fit_image,
    opened_image,
)

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

VIDEO_SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
"""Endings of the files that count as videos, in lower case."""


class VideoInfo(NamedTuple):
    """What a video holds."""

    frames: int
    """How many there are."""

    height: int
    """Of the first frame as it is shown, in pixels."""

    width: int
    """Of the first frame as it is shown, in pixels."""

    rate: float | None
    """Frames a second on average, of a GIF by its first frame; `None` if the file does not say."""


def probe_video(path: str | Path, *, decode: bool = False) -> VideoInfo:
    """Counts the frames of a video and measures the first one.

    Args:
        path: the file.
        decode: decode every frame, and find out whether the file ends early. Without it the
            file's packets are counted, which is fast; damage after the first frame may then go
            unseen.

    Returns:
        What the video holds.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no video, too large, or damaged, or if PyAV is missing.
    """
    path = as_path("probe_video: `path`", path)
    info = (_probe_gif if _is_gif(path) else _probe_packets)(path, decode)
    if decode and path.stat().st_size < promised_size(path):
        raise _ends_early(path)
    return info


def read_video(
    path: str | Path,
    indices: Sequence[int] | np.ndarray | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    channels: int = 3,
    invert: bool = False,
) -> np.ndarray:
    """Reads frames of a video, turned upright as the file says.

    The file is decoded from its start to the last frame asked for. Each frame is brought to its
    size before the next one is decoded.

    Args:
        path: the file.
        indices: which frames, from 0, each larger than the one before it; `None` for all.
        image_size: `(H, W)` in pixels; `None` leaves the size as it is.
        channels: 1 for grey, 3 for colour.
        invert: turn dark on light into light on dark.

    Returns:
        `(n, H, W, C)` uint8.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no video, too large, damaged, or has fewer frames, if an argument is
            out of range, or if PyAV is missing.
    """
    path = as_path("read_video: `path`", path)
    check_channels("read_video", channels)
    image_size = None if image_size is None else checked_size("read_video", image_size)
    wanted = None if indices is None else check_indices("read_video", indices)
    if wanted is None:
        images = video_images(path)
    else:  # nothing after the last one is decoded
        images = itertools.islice(video_images(path, set(wanted).__contains__), len(wanted))
    frames = [
        fit_image(image, image_size=image_size, channels=channels, invert=invert)
        for image in images
    ]
    if len(frames) < len(wanted or [0]):
        at_least = wanted[-1] + 1 if wanted else 1
        raise ValueError(
            f"{path}: expected a video of {at_least} frames or more; found fewer. Is the file "
            "whole?"
        )
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError(
            f"{path}: expected frames of one size; found several. Give the size to bring them to "
            "as `image_size`."
        )
    return np.stack(frames)


def video_images(
    path: str | Path, chosen: Callable[[int], bool] = lambda number: True
) -> Iterator["PillowImage"]:
    """Frames of a video as upright images of their own size, one at a time.

    Args:
        path: the file.
        chosen: says of each frame, by its number from 0, whether it is wanted. The others are
            decoded, but not converted.

    Yields:
        The wanted frames in order.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no video, too large or damaged, or if PyAV is missing.
    """
    path = as_path("video_images: `path`", path)
    return (_gif_images if _is_gif(path) else _images)(path, chosen)


def write_video(path: str | Path, frames: np.ndarray, *, rate: float = 10) -> None:
    """Writes frames as a video.

    Args:
        path: the file. Its ending decides how: `.avi` keeps every pixel as it is (FFV1); `.mp4`,
            `.mov` and `.mkv` (H.264) and `.webm` (VP9) lose a little, and colours more than grey.
            These also need even sizes: to an odd one its last row or column is added again.
        frames: `(T, H, W, C)` uint8, T at least 1, C 1 or 3.
        rate: frames a second.

    Raises:
        FileNotFoundError: if there is no such folder to write into.
        ValueError: if an argument is out of range, or if PyAV is missing.
    """
    path = as_path("write_video: `path`", path)
    frames = as_array("write_video: `frames`", frames)
    _check_writable(path, frames, rate)
    codec, pixel_format, options = _ENCODERS[path.suffix.lower()]
    if pixel_format == "yuv420p":
        odd = [(0, size % 2) for size in frames.shape[1:3]]
        frames = np.pad(frames, [(0, 0), *odd, (0, 0)], mode="edge")
    frames = np.broadcast_to(frames, (*frames.shape[:3], 3))
    with replacing(path) as temporary:
        _encode(temporary, frames, rate, codec, pixel_format, options)


_ENCODERS = {  # by ending: codec, pixel format, options
    ".avi": ("ffv1", "bgr0", {}),
    ".mkv": ("libx264", "yuv420p", {"crf": "18"}),
    ".mov": ("libx264", "yuv420p", {"crf": "18"}),
    ".mp4": ("libx264", "yuv420p", {"crf": "18"}),
    ".webm": ("libvpx-vp9", "yuv420p", {"crf": "20", "b": "0"}),
}


def _is_gif(path):
    return path.suffix.lower() == ".gif"


def _gif_images(path: Path, chosen: Callable[[int], bool]) -> Iterator["PillowImage"]:
    with opened_image(path) as file:
        for number in itertools.count():
            if not _seek(file, number):
                return
            check_pixels(path, *file.size)  # a GIF may grow
            if chosen(number):
                yield file.copy()


def _seek(file, number):
    try:
        file.seek(number)
    except EOFError:
        return False
    return True


def _probe_gif(path, decode):
    with opened_image(path) as file:
        width, height = file.size
        milliseconds = file.info.get("duration")
        count = getattr(file, "n_frames", 1)
        for number in range(count if decode else 1):
            file.seek(number)
            file.load()
    return VideoInfo(count, height, width, 1000 / milliseconds if milliseconds else None)


# What a file is shows in its content, not in its name; a playlist in disguise is refused, as it
# would open other files.
_FORMATS = "avi,matroska,webm,mov,mp4"


@contextlib.contextmanager
def _opened_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """An open container and its video stream; damage becomes one `ValueError`."""
    av = required("av", extra="video")
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise FileNotFoundError(f"{path}: expected a video file; found {found}.")
    try:
        # An absolute path, as "a:b.mp4" would be read as a protocol and an address.
        with av.open(
            os.path.abspath(path), metadata_errors="replace", options={"format_whitelist": _FORMATS}
        ) as container:
            yield container, _video_stream(path, container)
    except av.FFmpegError as error:
        raise _damaged(path, f"{type(error).__name__}: {error.strerror}") from error


def _video_stream(path, container):
    if not container.streams.video:
        raise ValueError(f"{path}: expected a video; found a file without pictures.")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise _damaged(path, "nothing is known to decode it")
    check_pixels(path, stream.codec_context.width, stream.codec_context.height)
    stream.codec_context.thread_count = 1  # many clips are decoded at once
    return stream


def _images(path: Path, chosen: Callable[[int], bool]) -> Iterator["PillowImage"]:
    with _opened_video(path) as (container, stream):
        for number, frame in enumerate(_frames(path, container, stream)):
            if chosen(number):
                yield _upright(frame)


def _frames(path, container, stream):
    """All frames in order; an error at the end if some of them could not be decoded."""
    packets = frames = 0
    for packet in container.demux(stream):
        packets += _holds_frame(path, packet)
        for frame in _decoded(path, packet):
            frames += 1
            yield frame
    if frames < packets and not _has_hidden_frames(stream):
        raise _damaged(path, f"{packets - frames} of its {packets} frames cannot be decoded")


def _holds_frame(path, packet):
    if packet.is_corrupt:
        raise _damaged(path, "the end of a frame is missing")
    return packet.size > 0 and not packet.is_discard  # the last packet is always an empty one


def _has_hidden_frames(stream):
    """Whether some packets may hold what is never shown, so that only decoding counts frames."""
    return stream.codec_context.name == "vp8"


def _decoded(path, packet):
    """The frames that a packet completes."""
    for frame in packet.decode():
        if frame.is_corrupt:
            raise _damaged(path, "a frame of it is damaged")
        yield frame


def _upright(frame):
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation % 360 else image


def _probe_packets(path, decode):
    with _opened_video(path) as (container, stream):
        if decode or _has_hidden_frames(stream):
            first, count = _count_frames(path, container, stream)
        else:
            first, count = _count_packets(path, container, stream)
        rate = stream.average_rate or stream.guessed_rate
    if first is None:
        raise ValueError(f"{path}: expected a video with frames; found none.")
    width, height = _upright(first).size
    return VideoInfo(count, height, width, float(rate) if rate else None)


def _count_frames(path, container, stream):
    first, count = None, 0
    for frame in _frames(path, container, stream):
        first, count = first or frame, count + 1
    return first, count


def _count_packets(path, container, stream):
    first, count = None, 0
    for packet in container.demux(stream):
        count += _holds_frame(path, packet)
        if first is None:
            first = next(_decoded(path, packet), None)
    return first, count


def _damaged(path, reason):
    return ValueError(
        f"{path}: expected a video that can be read; {reason}. Is the file whole, and really a "
        "video?"
    )


def _ends_early(path):
    return ValueError(
        f"{path}: expected a whole video; it ends before its time. Was it cut off while it was "
        "copied or recorded?"
    )


def _check_writable(path, frames, rate):
    if path.suffix.lower() not in _ENCODERS:
        raise ValueError(
            f"write_video: `path` must end in one of {', '.join(_ENCODERS)}; received {path}."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"write_video: `path` must lie in a folder that is there; received {path}."
        )
    if frames.ndim != 4 or frames.dtype != np.uint8 or 0 in frames.shape[:3]:
        raise ValueError(
            f"write_video: `frames` must be (T, H, W, C) uint8, T 1 or more; received shape "
            f"{frames.shape}, {frames.dtype}."
        )
    check_channels("write_video", frames.shape[-1])
    if not is_number(rate, 1e-3, 1000):
        raise ValueError(
            f"write_video: `rate` must be larger than 0; received {told(rate)}. 1000 is the most."
        )


def _encode(path, frames, rate, codec, pixel_format, options):
    av = required("av", extra="video")
    with av.open(str(path.absolute()), "w") as container:
        stream = container.add_stream(
            codec, rate=Fraction(rate).limit_denominator(1001), options=options
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
