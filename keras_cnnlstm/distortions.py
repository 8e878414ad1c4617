"""Augmentation: images as another hand might have written them, for training.

`distorted` moves an image as a whole, by a small rotation, shear, zoom and shift; `bent` bends it
as well; `erased` leaves gaps in it. All are pure functions of random numbers that the caller draws.
"""

import math
import platform
from collections.abc import Callable

import numpy as np
import tensorflow as tf

# Strongest distortion of `augment=True`: less than what turns one digit into another.
_ROTATION = math.radians(12)
_SHEAR = 0.15  # tangent of the angle
_ZOOM = 0.12  # share of the size
_SHIFT = 0.08  # share of the side, about 2 of 28 pixels

_KNOTS = 7  # of an elastic distortion, in each direction: five in the image, two beyond it
_PULL = 0.12  # share of the side

_GAPS = 3  # black rectangles in an image
_GAP = 0.3  # share of the side that one takes at most

_MOVES, _BENDS, _UNTOUCHED, _ERASED = 1, 4, 5, 6  # streams of random numbers


def redrawn(
    images: tf.Tensor,
    draw: Callable[..., tf.Tensor],
    *,
    augment: bool | float,
    elastic: float,
    erasing: float,
    untouched: float,
) -> tf.Tensor:
    """Images, each distorted by itself.

    Args:
        images: `(N, H, W, C)` uint8.
        draw: gives random numbers in [-1, 1), `(N, *shape)` float32, for the number of a stream
            and a shape.
        augment: strength of the affine maps, as in `digit_sequences`.
        elastic: strength of the elastic distortion.
        erasing: strength of the erasing.
        untouched: share of the images that stay as they are.

    Returns:
        `(N, H, W, C)` uint8.
    """
    moves = draw(_MOVES, 6) * float(augment)
    if elastic:
        moved = bent(images, draw(_BENDS, 2, _KNOTS, _KNOTS) * float(elastic), moves)
    else:
        moved = distorted(images, moves)
    if erasing:
        moved = erased(moved, draw(_ERASED, _GAPS, 4), float(erasing))
    if not untouched:
        return moved
    return tf.where(draw(_UNTOUCHED, 1, 1, 1) < 2 * untouched - 1, images, moved)


def distorted(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
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


def bent(images: tf.Tensor, draws: tf.Tensor, moves: tf.Tensor | None = None) -> tf.Tensor:
    """Images, each drawn on rubber that is pulled about: an elastic distortion.

    As Simard et al., "Best Practices for Convolutional Neural Networks Applied to Visual Document
    Analysis", ICDAR 2003, section 2, distort them; the field of displacements is smooth because it
    is a cubic B-spline over few knots, in place of many random numbers that a Gaussian blurs.

    Args:
        images: `(N, H, W, C)` uint8; black comes in at the edges.
        draws: `(N, 2, K, K)` float32 in [-1, 1): how far each knot of a square lattice is pulled
            down and to the right, in shares of 12 % of the side; pixels by 3.5 % on average
            (root-mean-square) if these are uniform.
        moves: `(N, 6)` of an affine map on top, as `distorted` takes them. Pixels are interpolated
            once for both, since each time blurs.

    Returns:
        `(N, H, W, C)` uint8.
    """
    _, height, width, _ = images.shape
    down, right = _spline(height, draws.shape[-1]), _spline(width, draws.shape[-1])
    pulls = tf.einsum("yk,ndkl,xl->ndyx", down, draws, right) * _PULL  # (N, 2, H, W)
    sides = np.array([height, width], np.float32)[:, None, None]
    maps = _affine_maps(tf.zeros((1, 6)) if moves is None else moves, height, width)
    return _fetched(images, _parts(maps), _parts(pulls * sides))


def erased(images: tf.Tensor, draws: tf.Tensor, strength: float = 1.0) -> tf.Tensor:
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


# A pixel in whole numbers. With these, pixels are the same on every machine, compiled or not; in
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
