"""Image files as frames of a model: upright, of one size, grey or colour.

This module knows single images and folders of them; `videos` uses it for the frames of videos.
Imports no TensorFlow.
"""

import contextlib
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from keras_cnnlstm.utils.files import natural_order
from keras_cnnlstm.utils.validation import (
    as_array,
    as_path,
    check_choice,
    is_integer,
    is_number,
    short_repr,
)

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage


_MAX_PIXELS = 64_000_000  # of an image, checked before it is decoded
_MAX_SIDE = 65_535  # pixels; a row of pointers for each line takes more memory than the pixels
_MAX_FRAME = 64_000_000  # pixels of a frame
# Pillow looks at the content, not at the name, and would start other programs for some formats.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

Fit = Literal["crop", "letterbox", "stretch"]
"""Ways to bring an image of another aspect ratio to a size, as `load_frames` explains them."""

DepthRange = tuple[float, float]
"""Values that become 0 and 255, as `load_frames` explains them."""

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
"""Endings of the files that count as frames in a folder, in lower case."""


def load_frames(
    paths: Sequence[str | Path],
    *,
    image_size: tuple[int, int],
    channels: int = 1,
    invert: bool = False,
    fit: Fit = "letterbox",
    depth_range: DepthRange | None = None,
) -> np.ndarray:
    """Reads image files as the frames of one sequence.

    An image may have any size and mode. It is turned upright by its EXIF orientation, put on black
    where it is transparent, converted to grey or colour, and scaled with anti-aliasing. Where its
    aspect ratio is another than the model's, `fit` decides:

    - "letterbox": the whole image is shown, between black bars. The bars are black whatever the
      image shows, since a model can learn from their colour.
    - "crop": its middle fills the frame, and what stands out on two sides is cut off.
    - "stretch": the whole image fills the frame, its height and width scaled differently.

    Args:
        paths: one file for each frame, in order: BMP, GIF, JPEG, PNG, PPM, TIFF or WebP, whatever
            their names.
        image_size: `(H, W)` in pixels.
        channels: 1 for grey, 3 for colour.
        invert: turn dark strokes on light paper into light strokes on dark, as in digit data sets.
            Transparent parts then count as white.
        fit: one of the three.
        depth_range: the values of images of 16 bits or more that become 0 and 255, such as
            `(500, 4500)` of a depth camera in mm; what lies outside becomes one of the two. By
            default 0 and 65,535.

    Returns:
        `(T, H, W, C)` uint8.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if an argument is out of range, or a file is no readable image, or too large.
    """
    check_channels("load_frames", channels)
    check_fit("load_frames", fit)
    check_depth_range("load_frames", depth_range)
    image_size = checked_size("load_frames", image_size)
    listed = isinstance(paths, Sequence) and not isinstance(paths, str | bytes)
    if not listed or not paths:
        found = "none" if listed else short_repr(paths)
        raise ValueError(
            f"load_frames: `paths` must name one file for each frame; received {found}."
        )
    files = [as_path("load_frames: `paths`", path) for path in paths]
    form: Any = {"image_size": image_size, "channels": channels, "invert": invert, "fit": fit}
    form["depth_range"] = depth_range
    return np.stack([read_image(file, **form) for file in files])


def read_image(
    path: Path,
    *,
    image_size: tuple[int, int] | None = None,
    channels: int = 3,
    invert: bool = False,
    fit: Fit = "letterbox",
    depth_range: DepthRange | None = None,
) -> np.ndarray:
    """Reads an image file as a frame `(H, W, C)` uint8, as `load_frames` does.

    `image_size` may be `None`: the frame then has the size of the upright image.
    """
    form: Any = {"image_size": image_size, "channels": channels, "invert": invert, "fit": fit}
    return fit_image(upright_image(path), **form, depth_range=depth_range)


def upright_image(path: Path) -> "PillowImage":
    """An image file decoded, and turned upright by its EXIF orientation."""
    from PIL import ImageOps

    with opened_image(path) as file:
        return ImageOps.exif_transpose(file)


def frame_files(folder: str | Path) -> list[Path]:
    """The image files of a folder, in the natural order of their names: 2.png before 10.png.

    Args:
        folder: the frames of one sequence. Other files are left out, and hidden ones, whose names
            begin with a dot.

    Returns:
        Their paths, at least one.

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
    """Whether a path is a frame: a file with the ending of an image that is not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path) and path.is_file()


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is hidden, or one that systems leave in folders of pictures."""
    return path.name.startswith(".") or path.name.lower() in _LEFT_BY_SYSTEMS


_LEFT_BY_SYSTEMS = {"__macosx", "@eadir", "desktop.ini", "thumbs.db"}


def what_is_at(path: Path) -> str:
    """What is at a path where there is no regular file, for an error."""
    return "a folder" if path.is_dir() else "no regular file" if path.exists() else "nothing"


@contextlib.contextmanager
def opened_image(path: Path) -> Iterator["PillowImage"]:
    """An open image file. Every sign of damage, also in the block, becomes a `ValueError`."""
    from PIL import Image

    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected an image file; found {what_is_at(path)}.")
    with _one_error(path):
        file = Image.open(path, formats=_FORMATS)
    with file:
        check_pixels(path, *file.size)
        with _one_error(path):
            yield file


@contextlib.contextmanager
def _one_error(path):
    from PIL.Image import DecompressionBombError, DecompressionBombWarning

    try:
        yield
    # The warning is an error where warnings are; silencing it would not be safe among threads.
    except (*_DAMAGE, DecompressionBombError, DecompressionBombWarning) as error:
        raise ValueError(
            f"{path}: expected an image that can be read; {type(error).__name__}: {error}. Is the "
            "file whole, and really an image?"
        ) from error


# What Pillow raises for damaged files, besides its own error.
_DAMAGE = (OSError, SyntaxError, EOFError, IndexError, ValueError, struct.error)


def check_channels(function: str, channels: int) -> None:
    """Refuses `channels` other than 1 and 3; `function` is named in the error."""
    if not is_integer(channels) or channels not in (1, 3):
        raise ValueError(f"{function}: `channels` must be 1 or 3; received {short_repr(channels)}.")


def check_fit(function: str, fit: str) -> None:
    """Refuses a `fit` that there is not; `function` is named in the error."""
    check_choice(f"{function}: `fit`", fit, get_args(Fit))


def check_depth_range(function: str, depth_range: DepthRange | None) -> None:
    """Refuses what is no pair of increasing numbers; `function` is named in the error."""
    pair = isinstance(depth_range, tuple | list) and len(depth_range) == 2
    fits = pair and all(is_number(value, -1e9, 1e9) for value in depth_range or ())
    if depth_range is not None and not (fits and depth_range[0] < depth_range[1]):
        raise ValueError(
            f"{function}: `depth_range` must be None, or two numbers, of which the first is the "
            f"smaller; received {short_repr(depth_range)}."
        )


def checked_size(function: str, image_size: Sequence[int]) -> tuple[int, int]:
    """The size of frames as a tuple; `function` is named in errors."""
    pair = isinstance(image_size, tuple | list) and len(image_size) == 2
    if not pair or not all(is_integer(side, 1, _MAX_FRAME) for side in image_size):
        raise ValueError(
            f"{function}: `image_size` must be height and width in pixels, 1 or more; received "
            f"{short_repr(image_size)}."
        )
    height, width = map(int, image_size)
    if height * width > _MAX_FRAME:
        raise ValueError(
            f"{function}: `image_size` must be at most {_MAX_FRAME:,} pixels; received "
            f"{height}x{width}."
        )
    return height, width


def check_indices(function: str, indices: Sequence[int] | np.ndarray) -> list[int]:
    """The numbers of frames as a list; `function` is named in errors."""
    array = as_array(f"{function}: `indices`", indices)
    fits = array.ndim == 1 and array.size and array.dtype.kind in "iu"
    if not fits or array[0] < 0 or not (array[1:] > array[:-1]).all():
        raise ValueError(
            f"{function}: `indices` must be integers from 0, each larger than the one before "
            f"it; received {short_repr(array.tolist())}."
        )
    return array.tolist()


def check_pixels(path: Path, width: int, height: int) -> None:
    """Refuses an image that is too large to decode."""
    if width * height > _MAX_PIXELS:
        raise ValueError(
            f"{path}: expected at most {_MAX_PIXELS:,} pixels; received {width}x{height}. Scale "
            "the image down first."
        )
    if max(width, height) > _MAX_SIDE:
        raise ValueError(
            f"{path}: expected sides of at most {_MAX_SIDE:,} pixels; received {width}x{height}. "
            "Cut the image into pieces first."
        )


def fit_image(
    image: "PillowImage",
    *,
    image_size: tuple[int, int] | None,
    channels: int,
    invert: bool,
    fit: Fit = "letterbox",
    depth_range: DepthRange | None = None,
) -> np.ndarray:
    """An upright image as a frame: on a background, grey or colour, scaled to fit.

    Args:
        image: of any size and mode.
        image_size: `(H, W)` in pixels; `None` leaves the size as it is.
        channels: as in `load_frames`.
        invert: as in `load_frames`.
        fit: as in `load_frames`.
        depth_range: as in `load_frames`.

    Returns:
        `(H, W, C)` uint8.
    """
    from PIL import Image, ImageOps

    image = _flatten(image, depth_range, background="white" if invert else "black")
    image = image.convert("L" if channels == 1 else "RGB")
    if invert:
        image = ImageOps.invert(image)
    if image_size is not None and image_size != (image.height, image.width):
        size, box = image_size[::-1], Image.Resampling.BOX
        if fit == "stretch":
            image = image.resize(size, box)
        elif fit == "crop":
            image = ImageOps.fit(image, size, box)
        else:
            height, width = scaled_size((image.height, image.width), image_size, fit)
            bars = Image.new(image.mode, size)  # black
            place = round((size[0] - width) / 2), round((size[1] - height) / 2)
            bars.paste(image.resize((width, height), box), place)
            image = bars
    return np.asarray(image, np.uint8).reshape(image.height, image.width, channels)


def scaled_size(size: tuple[int, int], image_size: tuple[int, int], fit: Fit) -> tuple[int, int]:
    """`(H, W)` that an image of a size is scaled to, before bars are added or sides cut off."""
    if fit == "stretch":
        return image_size
    (height, width), room = size, image_size
    wide = width * room[0] > height * room[1]  # wider than the room
    if wide == (fit == "letterbox"):
        return max(1, round(height / width * room[1])), room[1]
    return room[0], max(1, round(width / height * room[0]))


def signature(image: "PillowImage") -> np.ndarray:
    """A small grey copy of an image, `(16, 16)` uint8, that a new encoding hardly changes."""
    grey = fit_image(image, image_size=SIGNATURE, channels=1, invert=False, fit="stretch")
    return grey[..., 0].copy()  # or the whole image is kept with it: 3.6 kB


SIGNATURE = (16, 16)
"""`(H, W)` of what `signature` makes of an image."""


def _flatten(image, depth_range, *, background):
    """Converts 16-bit and float pixels to 8 bits, and puts transparent ones on a background."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float64)
        top = 65535 if image.mode != "F" or values.max() > 1 else 1.0
        low, high = depth_range or (0, top)
        values = (values.clip(low, high) - low) * (255 / (high - low))
        return Image.fromarray(values.round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, background)
        return Image.alpha_composite(canvas, image).convert("RGB")
    if image.mode == "LAB":  # from which Pillow has no way to grey
        return image.convert("RGB")
    return image
