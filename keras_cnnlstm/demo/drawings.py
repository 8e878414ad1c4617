"""Digits drawn by hand or photographed, brought to the look of the digits of a data set.

`draw_strokes` makes an image of a pen's path; `as_digit` cuts a digit out of any image and sets it
as the makers of the data set did. Needs neither Keras nor TensorFlow.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from keras_cnnlstm.utils.validation import (
    as_numbers,
    check_choice,
    check_instance,
    check_number,
    is_integer,
    short_repr,
)

Look = Literal["mnist", "scan"]
"""How digits lie in their frame: as in MNIST, or as in the digits that scikit-learn brings."""

PENS: dict[Look, float] = {"mnist": 0.14, "scan": 0.17}
"""Width of the pen as a share of the digit's longer side: as much ink as the data set's average."""

GLYPHS: tuple[tuple[tuple[tuple[float, float], ...], ...], ...] = (
    (((0.5, 0.1), (0.32, 0.18), (0.25, 0.42), (0.26, 0.66), (0.36, 0.86), (0.52, 0.9), (0.68, 0.82),
      (0.75, 0.58), (0.74, 0.34), (0.66, 0.16), (0.5, 0.1)),),
    (((0.4, 0.26), (0.54, 0.1), (0.5, 0.9)),),
    (((0.26, 0.3), (0.32, 0.16), (0.48, 0.1), (0.66, 0.17), (0.7, 0.34), (0.58, 0.54), (0.4, 0.72),
      (0.26, 0.88), (0.5, 0.86), (0.76, 0.88)),),
    (((0.3, 0.16), (0.48, 0.1), (0.66, 0.16), (0.7, 0.3), (0.6, 0.43), (0.46, 0.48), (0.64, 0.53),
      (0.73, 0.68), (0.66, 0.84), (0.48, 0.9), (0.28, 0.84)),),
    (((0.52, 0.1), (0.38, 0.36), (0.25, 0.62), (0.5, 0.63), (0.75, 0.6)),
     ((0.6, 0.4), (0.57, 0.65), (0.54, 0.9))),
    (((0.7, 0.12), (0.36, 0.13), (0.32, 0.44), (0.48, 0.4), (0.66, 0.48), (0.72, 0.64),
      (0.66, 0.82), (0.48, 0.9), (0.28, 0.84)),),
    (((0.64, 0.1), (0.46, 0.24), (0.34, 0.46), (0.3, 0.68), (0.38, 0.86), (0.54, 0.9), (0.7, 0.8),
      (0.7, 0.64), (0.58, 0.55), (0.42, 0.58), (0.32, 0.7)),),
    (((0.26, 0.14), (0.5, 0.13), (0.74, 0.12), (0.62, 0.4), (0.52, 0.66), (0.44, 0.9)),
     ((0.42, 0.5), (0.58, 0.49), (0.72, 0.48))),
    (((0.66, 0.2), (0.5, 0.1), (0.34, 0.18), (0.34, 0.34), (0.5, 0.47), (0.66, 0.62), (0.68, 0.8),
      (0.5, 0.9), (0.32, 0.8), (0.34, 0.62), (0.5, 0.47), (0.66, 0.34), (0.66, 0.2)),),
    (((0.68, 0.3), (0.58, 0.14), (0.42, 0.12), (0.31, 0.26), (0.36, 0.44), (0.52, 0.48),
      (0.67, 0.36), (0.68, 0.3), (0.66, 0.6), (0.58, 0.9)),),
)  # fmt: skip
"""Strokes that write each digit, 0 to 9, as `draw_strokes` takes them: examples."""

_SIDE = 240  # pixels of the drawn digit's longer side, many times those of a frame
_MOST_POINTS = 20_000
_FAINTEST = 24  # of 255: the least that ink must differ from paper
_PAPER = 0.15  # share of the darkest ink below which it counts as paper: shadows, grain
_BOX = 20 / 28  # share of the frame that the longer side of an MNIST digit fills
_SCAN, _BLOCKS = 32, 8  # pixels and blocks of pixels of a side of a bundled scan
_WIDEST = 24 / 32  # share of its height that a bundled digit's width rarely exceeds


def look_of(dataset: str) -> Look:
    """How the digits of a data set lie in their frames.

    Example:

    >>> look_of("digits"), look_of("emnist/digits")
    ('scan', 'mnist')
    """
    check_instance("look_of: `dataset`", dataset, str, "the name of a data set")
    return "scan" if dataset == "digits" else "mnist"


def draw_strokes(
    strokes: Sequence[Sequence[tuple[float, float]]], *, pen: float = PENS["mnist"]
) -> np.ndarray:
    """The image of a pen's path, light on black, as large as the path is.

    Args:
        strokes: for each stroke its points `(x, y)`, y downwards, in any unit; one makes a dot.
        pen: its width as a share of the longer side of the drawing, 0.01 to 1.

    Returns:
        `(H, W)` uint8, 0 and 255 only.

    Raises:
        ValueError: if there is no point, something else than points, or too many.

    Example:

    >>> draw_strokes([[(0, 0), (0, 1)]], pen=0.1).any(axis=0).sum()  # a vertical line's width
    np.int64(25)
    """
    check_number("draw_strokes: `pen`", pen, 0.01, 1)
    paths = _checked_strokes(strokes)
    points = np.concatenate(paths)  # (points, 2)
    low, size = points.min(axis=0), np.ptp(points, axis=0)
    scale = _SIDE / (size.max() or 1.0)
    radius = pen * _SIDE / 2
    margin = int(np.ceil(radius)) + 1
    width, height = np.ceil(size * scale).astype(int) + 2 * margin + 1
    image = Image.new("L", (int(width), int(height)))
    draw = ImageDraw.Draw(image)
    for path in paths:
        nodes = [tuple(node) for node in ((path - low) * scale + margin).tolist()]
        draw.line(nodes, fill=255, width=round(2 * radius))
        for x, y in nodes:  # round ends and joints
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return np.asarray(image)


def as_digit(
    image: np.ndarray, image_size: tuple[int, int] = (28, 28), *, look: Look = "mnist"
) -> np.ndarray:
    """Cuts a digit out of an image and sets it as the digits of a data set are set.

    Dark on light is turned light on dark, as the border of the image says. For "mnist" the digit
    is scaled, anti-aliased, until its longer side is 20 of 28 pixels, and its centre of mass put
    into the middle of the frame (LeCun et al., "Gradient-Based Learning Applied to Document
    Recognition", 1998, section III.A). For "scan" it is brought to a bitmap of 32x32 pixels that
    it fills from top to bottom, whose blocks of 4x4 pixels are counted (Alpaydin and Kaynak,
    "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998) and
    enlarged, as `digits.load_digits` enlarges them.

    Args:
        image: `(H, W)` or `(H, W, C)` uint8, of any size; one digit and nothing else.
        image_size: `(H, W)` of the frame in pixels.
        look: "mnist" or "scan".

    Returns:
        `(H, W)` uint8, light on black.

    Raises:
        ValueError: if the image is of one colour, or no image.

    Example:

    >>> as_digit(draw_strokes(GLYPHS[7])).shape
    (28, 28)
    """
    check_choice("as_digit: `look`", look, PENS)
    image_size = _checked_size("as_digit", image_size, 4096)
    ink = _cut_out(_ink(image))
    return (_as_mnist if look == "mnist" else _as_scan)(ink, image_size)


def as_strip(image: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Cuts a row of digits out of an image and sets it at the start of a strip.

    Args:
        image: `(H, W)` or `(H, W, C)` uint8, of any size; one row of digits and nothing else.
        image_size: `(H, W)` of the strip in pixels.

    Returns:
        `(H, W)` uint8, light on black: the row as high as MNIST digits are, unless it would be
        wider than the strip then.

    Raises:
        ValueError: if the image is of one colour, or no image.

    Example:

    >>> row = np.hstack([np.pad(draw_strokes(GLYPHS[d]), 60)[:300, :300] for d in (7, 1)])
    >>> as_strip(row, (28, 112)).any(axis=0).nonzero()[0][[0, -1]]
    array([ 4, 35])
    """
    height, width = image_size = _checked_size("as_strip", image_size, 65_536)
    ink = _cut_out(_ink(image))
    margin = round(height * (1 - _BOX) / 2)
    scale = min(height * _BOX / ink.shape[0], (width - 2 * margin) / ink.shape[1])
    row = _scaled(ink, scale)
    return _placed(row, image_size, (height - row.shape[0]) // 2, margin)


def _checked_size(function, image_size, most):
    pair = isinstance(image_size, tuple | list) and len(image_size) == 2
    if not pair or not all(is_integer(side, 4, most) for side in image_size):
        raise ValueError(
            f"{function}: `image_size` must be height and width in pixels, 4 to {most:,}; received "
            f"{short_repr(image_size)}."
        )
    return tuple(map(int, image_size))


def _checked_strokes(strokes):
    """Each stroke as `(points, 2)` float64."""
    listed = isinstance(strokes, Sequence) and not isinstance(strokes, str | bytes) and strokes
    if not listed or not all(isinstance(stroke, Sequence) and len(stroke) for stroke in strokes):
        raise ValueError(
            "draw_strokes: `strokes` must be lists of points (x, y), none of them empty; received "
            f"{short_repr(strokes)}."
        )
    count = sum(map(len, strokes))
    if count > _MOST_POINTS:
        raise ValueError(
            f"draw_strokes: `strokes` must have {_MOST_POINTS:,} points at most; received "
            f"{count:,}. Leave some out."
        )
    paths = [as_numbers("draw_strokes: `strokes`", s).astype(np.float64) for s in strokes]
    for path in paths:
        if path.ndim != 2 or path.shape[1] != 2 or np.abs(path).max() > 1e6:
            raise ValueError(
                "draw_strokes: `strokes` must be of points (x, y), each number a million at most; "
                f"received a stroke of shape {path.shape}: {short_repr(path.tolist())}."
            )
    return paths


def _ink(image):
    """How much ink there is at each pixel, `(H, W)` float64 from 0 to 1."""
    pixels = as_numbers("as_digit: `image`", image, kinds="u")
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ValueError(
            "as_digit: `image` must be uint8 of shape (H, W) or (H, W, C); received "
            f"{pixels.dtype} of shape {pixels.shape}."
        )
    grey = np.atleast_3d(pixels).astype(np.float64).mean(axis=-1)
    low, high = grey.min(), grey.max()
    if high - low < _FAINTEST:
        raise ValueError(
            "as_digit: `image` must show a digit on an empty ground; received an image of one "
            f"colour, {low:.0f} to {high:.0f}. Draw with more contrast."
        )
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    paper = np.median(border)
    ink = paper - grey if paper > (low + high) / 2 else grey - paper
    ink = ink.clip(0) / ink.max()
    return np.where(ink < _PAPER, 0.0, ink)


def _cut_out(ink):
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _resized(ink, height, width):
    """Scaled with anti-aliasing, the most ink as light as before, `(height, width)` in [0, 1]."""
    image = Image.fromarray(ink.astype(np.float32))
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    values = np.asarray(image, np.float64).clip(0, 1)
    return values / values.max()


def _scaled(ink, scale):
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    return np.round(255 * _resized(ink, height, width)).astype(np.uint8)


def _as_mnist(ink, image_size):
    digit = _scaled(ink, _BOX * min(image_size) / max(ink.shape))
    # Pixel 14 of 0 to 27, half a pixel beyond the middle: so it is in MNIST's own files.
    centre = ndimage.center_of_mass(digit)
    starts = [round(side / 2 - c) for side, c in zip(image_size, centre, strict=True)]
    return _placed(digit, image_size, *starts)


def _as_scan(ink, image_size):
    width = round(_SCAN * min(ink.shape[1] / ink.shape[0], _WIDEST))
    flat = ink.shape[0] * 4 < ink.shape[1]  # a dash would become a block if it filled the height
    height = max(1, round(_SCAN * _WIDEST * ink.shape[0] / ink.shape[1])) if flat else _SCAN
    black = _resized(ink, height, max(1, width)) > 0.5
    bitmap = _placed(black, (_SCAN, _SCAN), *((_SCAN - size) // 2 for size in black.shape))
    side = _SCAN // _BLOCKS
    counts = bitmap.reshape(_BLOCKS, side, _BLOCKS, side).sum(axis=(1, 3))  # (8, 8), 0 to 16
    scan = Image.fromarray(np.round(counts * (255 / side**2)).astype(np.uint8))
    return np.asarray(scan.resize(image_size[::-1], Image.Resampling.BICUBIC))


def _placed(part, shape, *starts):
    """A part in a black image, moved inwards where it would be cut off."""
    padding = []
    for start, size, side in zip(starts, part.shape, shape, strict=True):
        before = int(np.clip(start, 0, side - size))
        padding.append((before, side - size - before))
    return np.pad(part, padding)
