"""Image files brought to the shape of a model's frames.

Knows single images and folders of them; `videos` brings the frames of videos to shape in the same
way. Imports no TensorFlow.
"""

import contextlib
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_cnnlstm.arguments import as_array, as_path, is_whole, told

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

_MAX_PIXELS = 64_000_000  # of one image, checked before it is decoded
_MAX_FRAME = 64_000_000  # of what it is brought to

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
"""Endings of the files that count as frames in a folder, in lower case."""


def load_frames(
    paths: Sequence[str | Path],
    *,
    image_size: tuple[int, int],
    channels: int = 1,
    invert: bool = False,
) -> np.ndarray:
    """Reads image files as the frames of one sequence.

    An image of any size and mode is turned upright as its camera says, put on black where it
    is transparent, brought to grey or colour, padded to the model's aspect ratio with the
    colour of its border, and scaled with anti-aliasing.

    Args:
        paths: one file for each frame, in order; any format that Pillow reads.
        image_size: `(H, W)` in pixels.
        channels: 1 for grey, 3 for colour.
        invert: turn dark strokes on light paper into light on dark, as digit data sets have
            them. Transparent parts then count as white.

    Returns:
        `(T, H, W, C)` uint8.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is no readable image, or too large.
    """
    check_channels("load_frames", channels)
    image_size = checked_size("load_frames", image_size)
    listed = isinstance(paths, Sequence) and not isinstance(paths, str | bytes)
    if not listed or not paths:
        found = "none" if listed else told(paths)
        raise ValueError(
            f"load_frames: `paths` must name one file for each frame; received {found}."
        )
    files = [as_path("load_frames: `paths`", path) for path in paths]
    return np.stack([_load_frame(file, image_size, channels, invert) for file in files])


def frame_files(folder: str | Path) -> list[Path]:
    """The image files of a folder, in the natural order of their names: 2.png before 10.png.

    Args:
        folder: where the frames of one sequence lie. Other files in it are left out, and hidden
            ones, whose names begin with a dot.

    Returns:
        Their paths, one at least.

    Raises:
        FileNotFoundError: if there is no such folder, or no image file in it.
    """
    folder = as_path("frame_files: `folder`", folder)
    files = [p for p in folder.glob("*") if is_image(p)]
    if not files:
        found = "none in it" if folder.is_dir() else "no such folder"
        raise FileNotFoundError(
            f"{folder}: expected a folder of image files ({', '.join(IMAGE_SUFFIXES)}); found "
            f"{found}."
        )
    return sorted(files, key=natural_order)


def is_image(path: Path) -> bool:
    """Whether a path is a file that counts as a frame: by its ending, and not hidden."""
    return (
        path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def natural_order(path: Path) -> tuple:
    """What to sort paths of one folder by, so that numbers in names come in order of size."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts], path.name


def image_shape(path: str | Path) -> tuple[int, int]:
    """Height and width of an image file in pixels, upright.

    Reads the header alone, but all of a PNG, as what says where up is may stand at its end.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it is no image, or too large.
    """
    with opened_image(as_path("image_shape: `path`", path)) as file:
        width, height = file.size
        turned = file.getexif().get(_ORIENTATION, 1) in _TURNED
    return (width, height) if turned else (height, width)


_ORIENTATION = 0x0112  # tag of EXIF: how the camera was held
_TURNED = (5, 6, 7, 8)  # by a quarter, to the left or right, mirrored or not


@contextlib.contextmanager
def opened_image(path: Path) -> Iterator["PillowImage"]:
    """An open image file. Whatever shows that it is damaged, also in the block, is one error.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it is no readable image, or too large.
    """
    from PIL import Image

    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected an image file; found {_what_is(path)}.")
    with _one_error(path):
        file = Image.open(path)
    with file:
        check_pixels(path, *file.size)
        with _one_error(path):
            yield file


@contextlib.contextmanager
def _one_error(path):
    from PIL.Image import DecompressionBombError, DecompressionBombWarning

    try:
        yield
    # Where warnings are errors, this one is too. To silence it would not be safe among threads.
    except (*_DAMAGE, DecompressionBombError, DecompressionBombWarning) as error:
        raise ValueError(
            f"{path}: expected an image that can be read; {type(error).__name__}: {error}. Is the "
            "file whole, and really an image?"
        ) from error


# What Pillow raises for damaged files, besides its own error.
_DAMAGE = (OSError, SyntaxError, EOFError, IndexError, ValueError, struct.error)


def check_channels(function: str, channels: int) -> None:
    """Refuses what is neither grey nor colour, in the name of a function.

    Raises:
        ValueError: if `channels` is not 1 or 3.
    """
    if not is_whole(channels) or channels not in (1, 3):
        raise ValueError(f"{function}: `channels` must be 1 or 3; received {told(channels)}.")


def checked_size(function: str, image_size: Sequence[int]) -> tuple[int, int]:
    """The size that frames are brought to, as a tuple.

    Raises:
        ValueError: if it is no pair of positive whole numbers, or too large.
    """
    pair = isinstance(image_size, tuple | list) and len(image_size) == 2
    if not pair or not all(is_whole(side, 1, _MAX_FRAME) for side in image_size):
        raise ValueError(
            f"{function}: `image_size` must be height and width in pixels, 1 or more; received "
            f"{told(image_size)}."
        )
    height, width = map(int, image_size)
    if height * width > _MAX_FRAME:
        raise ValueError(
            f"{function}: `image_size` must be at most {_MAX_FRAME:,} pixels; received "
            f"{height}x{width}."
        )
    return height, width


def check_indices(function: str, indices: Sequence[int] | np.ndarray) -> list[int]:
    """The frames that someone asks a function for, as a list.

    Raises:
        ValueError: if they are not whole numbers from 0, each larger than the one before it.
    """
    array = as_array(f"{function}: `indices`", indices)
    fits = array.ndim == 1 and array.size and array.dtype.kind in "iu"
    if not fits or array[0] < 0 or not (array[1:] > array[:-1]).all():
        raise ValueError(
            f"{function}: `indices` must be whole numbers from 0, each larger than the one before "
            f"it; received {told(array.tolist())}."
        )
    return array.tolist()


def check_pixels(path: Path, width: int, height: int) -> None:
    """Refuses what is too large to decode.

    Raises:
        ValueError: if it has more than 64 million pixels.
    """
    if width * height > _MAX_PIXELS:
        raise ValueError(
            f"{path}: expected at most {_MAX_PIXELS:,} pixels; received {width}x{height}. Scale "
            "the image down first."
        )


def fit_image(
    image: "PillowImage", *, image_size: tuple[int, int] | None, channels: int, invert: bool
) -> np.ndarray:
    """An upright image as a frame: on its background, grey or colour, padded and scaled.

    Args:
        image: of any size and mode.
        image_size: `(H, W)` in pixels; `None` leaves the size as it is.
        channels: as in `load_frames`.
        invert: as in `load_frames`.

    Returns:
        `(H, W, C)` uint8.
    """
    from PIL import Image, ImageOps

    image = _flatten(image, background="white" if invert else "black")
    image = image.convert("L" if channels == 1 else "RGB")
    if invert:
        image = ImageOps.invert(image)
    if image_size is not None and image_size != (image.height, image.width):
        height, width = image_size
        image = ImageOps.pad(image, (width, height), Image.Resampling.BOX, color=_border(image))
    return np.asarray(image, np.uint8).reshape(image.height, image.width, channels)


def _load_frame(path, image_size, channels, invert):
    from PIL import ImageOps

    with opened_image(path) as file:
        image = ImageOps.exif_transpose(file)
    return fit_image(image, image_size=image_size, channels=channels, invert=invert)


def _what_is(path):
    return "a folder" if path.is_dir() else "nothing"


def _flatten(image, *, background):
    """Brings 16-bit and float pixels to 8 bits, and transparent ones onto a background."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float64)
        top = 65535 if image.mode != "F" or values.max() > 1 else 1.0
        return Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, background)
        return Image.alpha_composite(canvas, image).convert("RGB")
    return image


def _border(image):
    """The median colour of the outermost pixels: what the paper continues as."""
    pixels = np.asarray(image)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    median = np.median(edge, axis=0).astype(int)
    return int(median) if median.ndim == 0 else tuple(median.tolist())
