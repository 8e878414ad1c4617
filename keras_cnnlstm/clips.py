"""Image sequences on disk: files of frames brought to the shape a model takes."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_MAX_PIXELS = 64_000_000  # of one image file, checked before it is decoded


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
    if channels not in (1, 3):
        raise ValueError(f"load_frames: `channels` must be 1 or 3; received {channels}.")
    frames = [_load_frame(Path(p), image_size, channels, invert) for p in paths]
    if not frames:
        raise ValueError("load_frames: `paths` must name one file for each frame; received none.")
    return np.stack(frames)


_IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


def frame_files(folder: str | Path) -> list[Path]:
    """The image files of a folder, in the natural order of their names: 2.png before 10.png.

    Args:
        folder: where the frames of one sequence lie. Other files in it are left out.

    Returns:
        Their paths, one at least.

    Raises:
        FileNotFoundError: if there is no such folder, or no image file in it.
    """
    folder = Path(folder)
    files = [p for p in folder.glob("*") if p.suffix.lower() in _IMAGE_SUFFIXES and p.is_file()]
    if not files:
        found = "none in it" if folder.is_dir() else "no such folder"
        raise FileNotFoundError(
            f"{folder}: expected a folder of image files ({', '.join(_IMAGE_SUFFIXES)}); found "
            f"{found}."
        )
    return sorted(files, key=_natural_order)


def _natural_order(path):
    parts = re.split(r"(\d+)", path.name.lower())
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts], path.name


def _load_frame(path, image_size, channels, invert):
    from PIL import Image, ImageOps

    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected an image file; found {_what_is(path)}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # own limit below
            file = Image.open(path)
        with file:
            _check_pixels(path, *file.size)
            image = _flatten(
                ImageOps.exif_transpose(file), background="white" if invert else "black"
            )
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path}: expected an image that can be read; {type(error).__name__}: {error}. Is the "
            "file whole, and really an image?"
        ) from error
    image = image.convert("L" if channels == 1 else "RGB")
    if invert:
        image = ImageOps.invert(image)
    height, width = image_size
    frame = ImageOps.pad(image, (width, height), Image.Resampling.BOX, color=_border(image))
    return np.asarray(frame, np.uint8).reshape(height, width, channels)


def _check_pixels(path, width, height):
    if width * height > _MAX_PIXELS:
        raise ValueError(
            f"{path}: expected at most {_MAX_PIXELS:,} pixels; received {width}x{height}. Scale "
            "the image down first."
        )


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
