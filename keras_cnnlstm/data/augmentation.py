"""Augmentation: images as another hand might have written them, for training.

`affine_transform` moves an image as a whole, by a small rotation, shear, zoom and shift;
`elastic_transform` bends it as well; `random_erasing` leaves gaps in it. All are pure functions of
random numbers that the caller draws. An `Augmentation` says how strong each is.
"""

import math
import platform
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from keras_cnnlstm.utils.validation import check_number

# Most of each part of `affine` at strength 1: less than what turns one digit into another.
_ROTATION = math.radians(12)
_SHEAR = 0.15  # tangent of the angle
_ZOOM = 0.12  # share of the size
_SHIFT = 0.08  # share of the side, about 2 of 28 pixels
_KNOTS = 7  # of an elastic transform, in each direction: five in the image, two beyond it
_PULL = 0.12  # share of the side
_GAPS = 3  # black rectangles in an image
_GAP = 0.3  # share of the side that one takes at most
_AFFINE, _ELASTIC, _PROBABILITY, _ERASING = 1, 4, 5, 6  # streams of random numbers


@dataclass(frozen=True)
class Augmentation:
    """How strongly training frames are transformed, each in its own way; nothing by default.

    Attributes:
        affine: strength, 0 to 3, of a small random rotation, shear, zoom and shift of each frame:
            at 1 up to 12 degrees and 8 % of the side.
        elastic: strength, 0 to 3, of an elastic transform on top, as of an unsteady hand; see
            `augmentation.elastic_transform`.
        erasing: strength, 0 to 3, of random erasing after both, as of a pen that leaves gaps; see
            `augmentation.random_erasing`.
        probability: share of the frames, 0 to 1, that is transformed; the rest stays as sharp as in
            the test.

    Raises:
        ValueError: if a number is out of range.
    """

    affine: float = 0.0
    elastic: float = 0.0
    erasing: float = 0.0
    probability: float = 1.0

    def __post_init__(self):
        strengths = {"affine": self.affine, "elastic": self.elastic, "erasing": self.erasing}
        check_strengths("Augmentation", **strengths)
        check_number("Augmentation: `probability`", self.probability, 0, 1)

    def __bool__(self) -> bool:
        """Whether there is any strength."""
        return bool(self.affine or self.elastic or self.erasing)

    def apply(self, images: tf.Tensor, draw: Callable[..., tf.Tensor]) -> tf.Tensor:
        """Images, each transformed in its own way.

        Args:
            images: `(N, H, W, C)` uint8.
            draw: gives random numbers in [-1, 1), `(N, *shape)` float32, for the number of a
                stream and a shape.

        Returns:
            `(N, H, W, C)` uint8.
        """
        moves = draw(_AFFINE, 6) * float(self.affine)
        if self.elastic:
            pulls = draw(_ELASTIC, 2, _KNOTS, _KNOTS) * float(self.elastic)
            found = elastic_transform(images, pulls, moves)
        else:
            found = affine_transform(images, moves)
        if self.erasing:
            found = random_erasing(found, draw(_ERASING, _GAPS, 4), float(self.erasing))
        if self.probability == 1:
            return found
        return tf.where(draw(_PROBABILITY, 1, 1, 1) < 1 - 2 * self.probability, images, found)


def check_strengths(function: str, **strengths: float) -> None:
    """Refuses in the name of a function strengths of transforms that are out of range."""
    for name, strength in strengths.items():
        check_number(f"{function}: `{name}`", strength, 0, 3)


def affine_transform(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Images, each moved by a small affine map about its centre; black comes in at the edges.

    Args:
        images: `(N, H, W, C)` uint8.
        draws: `(N, 6)` float32 in [-1, 1): rotation, shear, the two zooms and the two shifts, each
            as a share of its strongest; or `(1, 6)`, the same for all images.

    Returns:
        `(N, H, W, C)` uint8, interpolated between four pixels.
    """
    _, height, width, _ = images.shape
    return _fetched(images, _parts(_affine_maps(draws, height, width)), _NO_PULLS)


def elastic_transform(
    images: tf.Tensor, draws: tf.Tensor, moves: tf.Tensor | None = None
) -> tf.Tensor:
    """Images, each drawn on rubber that is pulled about.

    As Simard et al., "Best Practices for Convolutional Neural Networks Applied to Visual Document
    Analysis", ICDAR 2003, section 2, transform them; the field of displacements is smooth because
    it is a cubic B-spline over few knots, in place of many random numbers that a Gaussian blurs.

    Args:
        images: `(N, H, W, C)` uint8; black comes in at the edges.
        draws: `(N, 2, K, K)` float32 in [-1, 1): how far each knot of a square lattice is pulled
            down and to the right, in shares of 12 % of the side; pixels by 3.5 % on average
            (root-mean-square) if these are uniform.
        moves: `(N, 6)` of an affine map on top, as `affine_transform` takes them. Pixels are
            interpolated once for both, since each time blurs.

    Returns:
        `(N, H, W, C)` uint8.
    """
    _, height, width, _ = images.shape
    down, right = _spline(height, draws.shape[-1]), _spline(width, draws.shape[-1])
    pulls = tf.einsum("yk,ndkl,xl->ndyx", down, draws, right) * _PULL  # (N, 2, H, W)
    sides = np.array([height, width], np.float32)[:, None, None]
    maps = _affine_maps(tf.zeros((1, 6)) if moves is None else moves, height, width)
    return _fetched(images, _parts(maps), _parts(pulls * sides))


def random_erasing(images: tf.Tensor, draws: tf.Tensor, strength: float = 1.0) -> tf.Tensor:
    """Images with black rectangles, as where a pen did not write or a scan was too light.

    After Zhong et al., "Random Erasing Data Augmentation", AAAI 2020, section 3, with the value 0
    and several small rectangles in place of one.

    Args:
        images: `(N, H, W, C)`.
        draws: `(N, K, 4)` float32 in [-1, 1): of each of K rectangles the height, the width, and
            where its centre is, down and to the right.
        strength: up to which share of the image's sides theirs are, times 0.3.

    Returns:
        `(N, H, W, C)` of the same type. A pixel is black if its centre is in a rectangle.
    """
    _, height, width, _ = images.shape
    shares = (draws + 1) / 2  # (N, K, 4) in [0, 1)

    def within(side, share, place):  # (N, K, side)
        centre = tf.range(side, dtype=tf.float32) + 0.5
        return (
            tf.abs(centre - side * place[..., None]) < side * _GAP * strength / 2 * share[..., None]
        )

    rows = within(height, shares[..., 0], shares[..., 2])
    columns = within(width, shares[..., 1], shares[..., 3])
    gaps = tf.reduce_any(rows[..., None] & columns[..., None, :], axis=1)  # (N, H, W)
    return tf.where(gaps[..., None], tf.zeros_like(images), images)


# A pixel in integers. With these, pixels are the same on every machine, compiled or not; in
# floating point they depend on which multiplications and additions a compiler joins.
_ONE = 1 << 16
_NO_PULLS = np.zeros((1, 2, 1, 1), np.int32)


def _parts(pixels):
    return tf.cast(tf.round(pixels * _ONE), tf.int32)


def _fetched(images, maps, pulls):
    """Images whose pixels are fetched from elsewhere, between four pixels, `(N, H, W, C)` uint8.

    From where affine maps, `(N, 6)` or `(1, 6)`, and then displacements down and to the right,
    `(N, 2, H, W)`, lead, both int32 in 65536ths of a pixel.
    """
    return tf.ensure_shape(_interpolated(images, maps, pulls), images.shape)


# XLA makes one loop of it, in an eighth of the time; TensorFlow has it for the processors of Linux.
@tf.function(jit_compile=platform.system() == "Linux", reduce_retracing=True)
def _interpolated(images, maps, pulls):
    count, height, width, channels = tf.unstack(tf.shape(images))
    a, b, c, d, e, f = (part[:, None, None] for part in tf.unstack(maps, axis=1))  # (N, 1, 1)
    row, column = tf.range(height)[:, None], tf.range(width)
    y, x = d * column + e * row + f + pulls[:, 0], a * column + b * row + c + pulls[:, 1]
    # Beyond the border of black pixels all is black.
    y = tf.clip_by_value(tf.broadcast_to(y, (count, height, width)), -_ONE, height * _ONE) + _ONE
    x = tf.clip_by_value(tf.broadcast_to(x, (count, height, width)), -_ONE, width * _ONE) + _ONE
    padded = tf.pad(images, ((0, 0), (1, 2), (1, 2), (0, 0)))
    flat = tf.reshape(padded, (count, (height + 3) * (width + 3), channels))
    corner = y // _ONE * (width + 3) + x // _ONE  # (N, H, W)

    def at(offset):
        return tf.cast(tf.gather(flat, corner + offset, batch_dims=1), tf.int32)

    # Weights of 11 bits, the finest with which 255 of each fit into 31.
    below, beside = (y % _ONE // 32)[..., None], (x % _ONE // 32)[..., None]
    upper = at(0) * (2048 - beside) + at(1) * beside
    lower = at(width + 3) * (2048 - beside) + at(width + 4) * beside
    half = 1 << 21
    return tf.cast((upper * (2048 - below) + lower * below + half) // (1 << 22), tf.uint8)


def _spline(size, knots):
    """Weights of each knot at each pixel, `(size, knots)`: uniform cubic B-splines."""
    place = np.linspace(1, knots - 2, size)[:, None]  # the outermost knots lie outside
    away = np.abs(place - np.arange(knots))
    near = 2 / 3 - away**2 + away**3 / 2
    far = np.maximum(2 - away, 0) ** 3 / 6
    return np.where(away < 1, near, far).astype(np.float32)


def _affine_maps(draws, height, width):
    """Small maps from output to input pixels, x' = a x + b y + c and y' = d x + e y + f.

    `draws` is `(N, 6)` in [-1, 1): rotation, shear, the two zooms and the two shifts, each as a
    share of its strongest. Returns `(N, 6)`: a to f.
    """
    angle, shear, zoom_x, zoom_y, shift_x, shift_y = tf.unstack(draws, axis=1)
    angle, shear = _ROTATION * angle, _SHEAR * shear
    zoom_x, zoom_y = 1 + _ZOOM * zoom_x, 1 + _ZOOM * zoom_y
    cos, sin = tf.cos(angle), tf.sin(angle)
    a, b = zoom_x * cos, zoom_x * (shear * cos - sin)
    d, e = zoom_y * sin, zoom_y * (shear * sin + cos)
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    c = centre_x * (1 - a) - centre_y * b + _SHIFT * width * shift_x
    f = centre_y * (1 - e) - centre_x * d + _SHIFT * height * shift_y
    return tf.stack([a, b, c, d, e, f], axis=1)
