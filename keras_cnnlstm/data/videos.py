"""Video files as arrays of frames: MP4, WebM, AVI and others through PyAV, GIF through Pillow.

Frames get the model's form by `frames.fit_image`, as image files do. This module knows single
files; `clips` knows folders of them. PyAV comes with the extra `video`; GIF does not need it.
"""

import contextlib
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_cnnlstm.data.frames import (
    SIGNATURE,
    Fit,
    check_channels,
    check_fit,
    check_indices,
    check_pixels,
    checked_size,
    fit_image,
    opened_image,
    scaled_size,
    signature,
    what_is_at,
)
from keras_cnnlstm.utils.environment import required
from keras_cnnlstm.utils.files import replacing
from keras_cnnlstm.utils.validation import as_array, as_path, is_number, short_repr

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage


VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm",
    ".wmv",
)  # fmt: skip
"""Endings of the files that count as videos, in lower case."""


class ClipInfo(NamedTuple):
    """The frames of a clip.

    Attributes:
        frames: their number.
        height: of the first frame as it is shown, in pixels.
        width: of the first frame as it is shown, in pixels.
        rate: frames per second on average, of a GIF by its first frame; `None` if not known.
    """

    frames: int
    height: int
    width: int
    rate: float | None


def probe_video(path: str | Path, *, decode: bool = False) -> ClipInfo:
    """Counts the frames of a video and measures the first one.

    Args:
        path: the file.
        decode: decode every frame, and find out whether the file is truncated. Without it only the
            file's packets are counted, which is fast but may miss damage after the first frame.

    Returns:
        Number, size and rate of the frames.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no video, too large, or damaged, or if PyAV is missing.
    """
    path = as_path("probe_video: `path`", path)
    info = (_probe_gif if _is_gif(path) else _probe_packets)(path, decode)
    if decode:
        check_whole(path, info.frames)
    return info


def check_whole(path: Path, frames: int) -> None:
    """Refuses a video whose file ends before its container says; decoders may not notice it.

    Unless as many frames were decoded as the container names: then only what follows is missing.
    """
    if _is_cut_off(path) and not 0 < _named_frames(path) <= frames:
        raise ValueError(
            f"{path}: expected a whole video; the file is truncated. Was it cut off while it was "
            "copied or recorded?"
        )


def read_video(
    path: str | Path,
    indices: Sequence[int] | np.ndarray | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    channels: int = 3,
    invert: bool = False,
    fit: Fit = "letterbox",
) -> np.ndarray:
    """Reads frames of a video, turned upright as the file says.

    The file is decoded from its start to the last frame of `indices`, one frame in memory at a
    time in its own size.

    Args:
        path: the file.
        indices: which frames, from 0, in increasing order; `None` for all.
        image_size: `(H, W)` in pixels; `None` keeps the size of the video.
        channels: 1 for grey, 3 for colour.
        invert: turn dark on light into light on dark.
        fit: how frames of another aspect ratio are brought to `image_size`, as in
            `frames.load_frames`.

    Returns:
        `(n, H, W, C)` uint8.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no video, too large, damaged, or has fewer frames, if an argument is
            out of range, or if PyAV is missing.
    """
    path = as_path("read_video: `path`", path)
    check_channels("read_video", channels)
    check_fit("read_video", fit)
    image_size = None if image_size is None else checked_size("read_video", image_size)
    wanted = None if indices is None else check_indices("read_video", indices)
    options: Any = {"image_size": image_size, "channels": channels, "invert": invert, "fit": fit}
    if wanted is None:
        frames = list(video_frames(path, **options))
    else:  # nothing after the last one is decoded
        some = video_frames(path, set(wanted).__contains__, **options)
        frames = list(itertools.islice(some, len(wanted)))
    if len(frames) < len(wanted or [0]):
        at_least = wanted[-1] + 1 if wanted else 1
        raise ValueError(
            f"{path}: expected a video of {at_least} frames or more; found fewer. Is the file "
            "whole?"
        )
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError(
            f"{path}: expected frames of one size; found several. Give an `image_size`."
        )
    return np.stack(frames)


def video_images(
    path: str | Path, chosen: Callable[[int], bool] = lambda number: True
) -> Iterator["PillowImage"]:
    """Frames of a video as upright images of their own size, one at a time.

    Args:
        path: the file.
        chosen: from the number of a frame, from 0, to whether it is wanted. The others are
            decoded, but not converted.

    Yields:
        The wanted frames in order.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no video, too large or damaged, or if PyAV is missing.
    """
    path = as_path("video_images: `path`", path)
    return (_gif_images if _is_gif(path) else _images)(path, chosen)


Observe = Callable[[tuple[int, int], np.ndarray, np.ndarray | None], None]
"""Called for each frame of a clip with `(H, W)` as it is shown, its `frames.signature`, and of an
image file all pixels."""


def video_frames(
    path: Path,
    chosen: Callable[[int], bool] = lambda number: True,
    *,
    image_size: tuple[int, int] | None,
    channels: int,
    invert: bool,
    fit: Fit,
    observe: Observe | None = None,
) -> Iterator[np.ndarray]:
    """Frames of a video in the model's form, `(H, W, C)` uint8, one at a time.

    The decoder's pictures are scaled down as they are converted to RGB, which takes a tenth of the
    time of a conversion in full size, and differs from it by about one level.

    Args:
        path: the file.
        chosen: as in `video_images`.
        image_size: as in `read_video`, like the next three.
        observe: called for each frame, chosen or not.
    """
    images = (_gif_images if _is_gif(path) else _images)(path, chosen, image_size, fit, observe)
    for image in images:
        yield fit_image(image, image_size=image_size, channels=channels, invert=invert, fit=fit)


def write_video(path: str | Path, frames: np.ndarray, *, rate: float = 10) -> None:
    """Writes frames as a video.

    Args:
        path: the file. Its ending decides the codec: `.avi` keeps every pixel (FFV1); `.mp4`,
            `.mov` and `.mkv` (H.264) and `.webm` (VP9) lose a little, and more of colours than of
            grey. These also need even sizes: the last row or column of an odd size is repeated.
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


_MOST_OF_GIF = 2_000_000_000  # pixels of all frames; a file of 1 kB may ask for any number


def _gif_images(
    path, chosen, image_size=None, fit="stretch", observe=None
) -> Iterator["PillowImage"]:
    from PIL import ImageSequence

    with opened_image(path) as file:
        _count_gif(path, file)  # refuses what would take minutes
        for number, image in enumerate(ImageSequence.Iterator(file)):
            check_pixels(path, *image.size)  # a GIF may grow
            if observe:
                observe((image.height, image.width), signature(image.copy()), None)
            if chosen(number):
                yield image.copy()


def _count_gif(path, file) -> int:
    """The number of frames; refuses a GIF that would take minutes to decode."""
    width, height = file.size
    count = getattr(file, "n_frames", 1)
    if count * width * height > _MOST_OF_GIF:
        raise ValueError(
            f"{path}: expected a GIF of at most {_MOST_OF_GIF:,} pixels in all its frames; "
            f"received {count} of {width}x{height}. Save it as a video."
        )
    return count


def _probe_gif(path, decode):
    with opened_image(path) as file:
        count = _count_gif(path, file)
        width, height = file.size
        milliseconds = file.info.get("duration")
        for number in range(count if decode else 1):
            file.seek(number)
            file.load()
    return ClipInfo(count, height, width, 1000 / milliseconds if milliseconds else None)


# The content decides, not the name. A playlist in disguise is refused: it would open other files.
_FORMATS = "asf,avi,flv,matroska,mov,mp4,mpeg,mpegts,webm"


@contextlib.contextmanager
def _opened_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """An open container and its video stream; every sign of damage becomes a `ValueError`."""
    av = required("av", extra="video")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a video file; found {what_is_at(path)}.")
    try:
        # Absolute, because "a:b.mp4" would be read as a protocol and an address.
        with av.open(
            os.path.abspath(path), metadata_errors="replace", options={"format_whitelist": _FORMATS}
        ) as container:
            yield container, _video_stream(av, path, container)
    except av.FFmpegError as error:
        raise _damaged(path, f"{type(error).__name__}: {error.strerror}") from error


def _video_stream(av, path, container):
    cover = av.stream.Disposition.attached_pic  # of a piece of music
    streams = [one for one in container.streams.video if not one.disposition & cover]
    if not streams:
        raise ValueError(f"{path}: expected a video; found a file without moving pictures.")
    stream = streams[0]
    if stream.codec_context is None:
        raise _damaged(path, "no decoder is known for it")
    check_pixels(path, stream.codec_context.width, stream.codec_context.height)
    stream.codec_context.thread_count = 1  # many clips are decoded at once
    return stream


def _images(path, chosen, image_size=None, fit="stretch", observe=None) -> Iterator["PillowImage"]:
    """Chosen frames as images, not much larger than `fit_image` needs them."""
    with _opened_video(path) as (container, stream):
        scale, reduce = _scaler(image_size, fit), _scaler(SIGNATURE, "stretch")
        for number, frame in enumerate(_frames(path, container, stream)):
            wanted = chosen(number)
            if not observe and not wanted:
                continue
            shown = _Shown(frame, stream)
            if observe:
                observe(shown.size, signature(reduce(shown)), None)
            if wanted:
                yield scale(shown)


def _frames(path, container, stream):
    """All frames in order; an error at the end if some of them were not decoded."""
    packets = frames = 0
    decode = _decoder(stream)
    for packet in container.demux(stream):
        packets += _holds_frame(path, packet) and packet.size > _hidden(stream)
        for frame in _decoded(path, packet, decode):
            frames += 1
            yield frame
    if frames < packets:
        raise _damaged(path, f"{packets - frames} of its {packets} frames cannot be decoded")


def _holds_frame(path, packet):
    if packet.is_corrupt:
        raise _damaged(path, "the end of a frame is missing")
    return packet.size > 0 and not packet.is_discard  # the last packet is always an empty one


def _hidden(stream):
    """Bytes up to which a packet may hold no frame to show, so that only decoding counts them.

    VP8 has frames that only others refer to, of any size; MPEG-4 pictures that are "not coded".
    """
    return {"vp8": math.inf, "mpeg4": 19}.get(stream.codec_context.name, 0)


def _decoder(stream):
    """A function from a packet to frames; the usual decoders of WebM leave out transparency."""
    name = stream.codec_context.name
    if stream.metadata.get("alpha_mode") != "1" or name not in ("vp8", "vp9"):
        return stream.codec_context.decode
    from av import CodecContext

    return CodecContext.create("libvpx" if name == "vp8" else "libvpx-vp9", "r").decode


def _decoded(path, packet, decode):
    """The frames that a packet completes."""
    for frame in decode(packet):
        if frame.is_corrupt:
            raise _damaged(path, "a frame of it is damaged")
        check_pixels(path, frame.width, frame.height)  # a film may grow
        yield frame


# How Pillow does what a matrix (a, b, c, d) says, which takes a pixel from (x, y) to
# (a x + c y, b x + d y).
_TURNS: dict[tuple[float, ...], str | None] = {
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): "FLIP_LEFT_RIGHT",
    (1, 0, 0, -1): "FLIP_TOP_BOTTOM",
    (-1, 0, 0, -1): "ROTATE_180",
    (0, 1, 1, 0): "TRANSPOSE",
    (0, -1, -1, 0): "TRANSVERSE",
    (0, -1, 1, 0): "ROTATE_90",
    (0, 1, -1, 0): "ROTATE_270",
}


class _Shown:
    """A frame as it is shown: turned or mirrored, with pixels that need not be square.

    Args:
        frame: as it is decoded.
        stream: that it comes from.
    """

    def __init__(self, frame, stream):
        aspect = float(stream.sample_aspect_ratio or 1)  # width of a pixel by its height
        width = round(frame.width * aspect) if 0.1 <= aspect <= 10 else frame.width
        self._frame, self._matrix = frame, _matrix(frame)
        self._stretched = frame.height, max(1, width)
        self._straight = self._matrix in _TURNS  # by a multiple of 90 degrees
        pixels = frame.format
        self._transparent = pixels.has_palette or any(part.is_alpha for part in pixels.components)

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)`."""
        return self._swapped(self._stretched) if self._straight else self.upright().size[::-1]

    def upright(self) -> "PillowImage":
        """In its own size, but for pixels that are not square."""
        (height, width), frame = self._stretched, self._frame
        image = _with_alpha(frame) if self._transparent else frame.to_image()
        if image.size != (width, height):
            image = image.resize((width, height))
        return self._turned(image)

    def scaled(self, convert, image_size, fit) -> "PillowImage":
        """Scaled by `convert` where that makes it smaller; else in its own size."""
        from PIL import Image

        frame, size = self._frame, self._swapped(scaled_size(self.size, image_size, fit))
        smaller = size[0] < frame.height and size[1] < frame.width
        if self._transparent or not self._straight or not smaller:
            return self.upright()  # Pillow scales it
        rgb = convert(frame, height=size[0], width=size[1]).to_ndarray()
        return self._turned(Image.fromarray(rgb))

    def _swapped(self, size):
        return size[::-1] if self._matrix[0] == 0 else size

    def _turned(self, image):
        from PIL.Image import Transpose

        if not self._straight:
            return image.rotate(self._frame.rotation, expand=True)
        turn = _TURNS[self._matrix]
        return image if turn is None else image.transpose(Transpose[turn])


def _with_alpha(frame) -> "PillowImage":
    from PIL import Image

    # FFmpeg's way from yuva420p to rgba leaves alpha unset at the end of rows of some widths.
    return Image.fromarray(frame.to_ndarray(format="gbrap"))


def _scaler(image_size, fit) -> Callable[[_Shown], "PillowImage"]:
    """A function from the frames of a film to upright images, scaled down in the conversion."""
    if image_size is None:
        return _Shown.upright
    from av.video.reformatter import Interpolation, VideoReformatter

    area = Interpolation.AREA | Interpolation.FULL_CHR_H_INT
    convert = functools.partial(
        VideoReformatter().reformat, format="rgb24", interpolation=area, threads=1
    )
    return lambda shown: shown.scaled(convert, image_size, fit)


def _matrix(frame) -> tuple[float, ...]:
    """The four numbers by which a frame is turned and mirrored."""
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return (1, 0, 0, 1)
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32) / 65536
    return tuple(round(float(value), 3) for value in (a, b, c, d))


def _probe_packets(path, decode):
    with _opened_video(path) as (container, stream):
        if decode or _hidden(stream):
            first, count = _count_frames(path, container, stream)
        else:
            first, count = _count_packets(path, container, stream)
        if first is None:
            raise ValueError(f"{path}: expected a video with frames; found none.")
        rate, size = stream.average_rate or stream.guessed_rate, _Shown(first, stream).size
    return ClipInfo(count, *size, float(rate) if rate else None)


def _count_frames(path, container, stream):
    first, count = None, 0
    for frame in _frames(path, container, stream):
        first, count = first or frame, count + 1
    return first, count


def _count_packets(path, container, stream):
    first, count, decode = None, 0, _decoder(stream)
    for packet in container.demux(stream):
        count += _holds_frame(path, packet)
        if first is None:
            first = next(_decoded(path, packet, decode), None)
    return first, count


def _damaged(path, reason):
    return ValueError(
        f"{path}: expected a video that can be read; {reason}. Is the file whole, and really a "
        "video?"
    )


def _check_writable(path, frames, rate):
    if path.suffix.lower() not in _ENCODERS:
        raise ValueError(
            f"write_video: `path` must end in one of {', '.join(_ENCODERS)}; received {path}."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"write_video: `path` must lie in an existing folder; received {path}."
        )
    if frames.ndim != 4 or frames.dtype != np.uint8 or 0 in frames.shape[:3]:
        raise ValueError(
            f"write_video: `frames` must be (T, H, W, C) uint8, T 1 or more; received shape "
            f"{frames.shape}, {frames.dtype}."
        )
    check_channels("write_video", frames.shape[-1])
    if not is_number(rate, 1e-3, 1000):
        raise ValueError(
            f"write_video: `rate` must be larger than 0, at most 1000; received {short_repr(rate)}."
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


def _named_frames(path) -> int:
    """How many frames a container says it has; 0 if it does not say so."""
    if _is_gif(path):
        return 0
    with _opened_video(path) as (_, stream):
        return stream.frames


def _is_cut_off(path: Path) -> bool:
    """Whether a file ends before its container says; decoders do not always notice it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start.startswith(b"GIF8"):
            end = _end_of_gif(file)
        elif start.startswith(b"RIFF"):  # AVI
            end = 8 + int.from_bytes(start[4:], "little")
        elif start.startswith(b"\x1aE\xdf\xa3"):  # Matroska and WebM
            end = _end_of_segment(file, size)
        else:
            end = _end_of_boxes(file, size)
    return size < end


def _end_of_gif(file):
    """Where the last block of a GIF ends; the mark of the end after it may be missing."""
    file.seek(10)
    file.seek(13 + _colours(file.read(1)))
    while block := file.read(1):
        if block == b",":  # a frame: place, size, colours, and the depth of its codes
            file.seek(_colours(file.read(9)[8:]) + 1, 1)
        elif block == b"!":  # an extension: its type
            file.seek(1, 1)
        else:  # the mark of the end
            break
        while (length := file.read(1)) > b"\0":
            file.seek(length[0], 1)
        file.seek(not length, 1)  # past the end of a file that is cut off
    return file.tell()


def _colours(flags):
    """Bytes of the table of colours that these flags tell of."""
    return 3 << 1 + (flags[0] & 7) if flags and flags[0] & 128 else 0


def _end_of_segment(file, size):
    """Where a Matroska file ends: after a header and a segment, each with a name of 4 bytes."""
    file.seek(4)
    header = _variable_int(file) or 0
    file.seek(min(file.tell() + header + 4, size))
    segment = _variable_int(file)
    return 0 if segment is None else file.tell() + segment


def _variable_int(file):
    """A size in Matroska; `None` if it was not known to the writer, as of a live recording."""
    first = int.from_bytes(file.read(1), "big")
    more = 8 - first.bit_length()  # bytes that follow: the number of leading zeros
    value = int.from_bytes(bytes([first & 0x7F >> more]) + file.read(more), "big")
    return None if value == (1 << 7 * (more + 1)) - 1 else value


def _end_of_boxes(file, size):
    """Where an MP4 or MOV file ends, a row of boxes: 4 bytes of size, 4 of name, the content.

    0 where there is none: other containers do not say where they end. What follows the last box
    is no part of the film.
    """
    end = 0
    while end < size:
        file.seek(end)
        box, name = int.from_bytes(file.read(4), "big"), file.read(4)
        if not name.isalnum():
            break
        if box == 1:  # a larger size follows
            box = int.from_bytes(file.read(8), "big")
        if box < 8:  # 0: to the end of the file
            break
        end += box
    return end
