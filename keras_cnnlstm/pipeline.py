"""`tf.data` pipelines: batches of image sequences from labelled images and a task.

Batch `i` is a pure function of `(seed, i)`: stateless random numbers, drawn for the whole
batch at once, choose digits and images, and the images are gathered from one uint8 tensor. So
any batch can be made without the ones before it, and a run resumes by starting elsewhere.
"""

import math

import numpy as np
import tensorflow as tf
import tensorflow.experimental.numpy as tnp

from keras_cnnlstm.digits import LabeledImages
from keras_cnnlstm.tasks import Trend

# Strongest distortion of `augment=True`: less than what turns one digit into another.
_ROTATION = math.radians(12)
_SHEAR = 0.15  # tangent of the angle
_ZOOM = 0.12  # share of the size
_SHIFT = 0.08  # share of the side, about 2 of 28 pixels


def digit_sequences(
    images: LabeledImages,
    task: Trend,
    *,
    batch_size: int,
    seed: int,
    balance: float = 0.5,
    num_sequences: int | None = None,
    augment: bool = False,
    start: int = 0,
) -> tf.data.Dataset:
    """Batches of digit sequences with their targets.

    Args:
        images: the images to draw from; each digit of `task` needs at least one. Given digits,
            each image of a digit is equally likely.
        task: says how long sequences are, which digits they are made of, and the target.
        batch_size: B, sequences in a batch.
        seed: any integer; other seeds give other sequences.
        balance: share of the sequences, 0 to 1, whose class is drawn uniformly; in the rest
            each digit is uniform, so that classes have their natural frequency.
        num_sequences: how many sequences there are, the last batch being smaller if they do
            not divide; `None` goes on for ever.
        augment: distort each frame by a small random rotation, shear, zoom and shift.
        start: index of the first batch, to resume where a run stopped.

    Returns:
        A dataset of `(frames (B, T, H, W, C) uint8, target (B,) int64)`.

    Raises:
        ValueError: if an argument is out of range, or a digit has no image.

    Example:

    >>> from keras_cnnlstm.digits import load_digits
    >>> data = digit_sequences(load_digits().train, Trend(4), batch_size=3, seed=0)
    >>> frames, target = next(iter(data))
    >>> frames.shape, target.shape
    (TensorShape([3, 4, 28, 28, 1]), TensorShape([3]))
    """
    _check_arguments(images, task, batch_size, balance, num_sequences, start)
    gather = _image_gatherer(images, task)

    def batch(step):
        uniforms = _uniforms(seed, step, (batch_size, 2 * task.length + 2))  # (B, 2T + 2)
        labels = _labels(task, uniforms[:, 0], uniforms[:, 1], balance)  # (B,)
        digits = task.digits_for(labels, uniforms[:, 2 : 2 + task.length], xp=tnp)  # (B, T)
        frames = gather(digits, uniforms[:, 2 + task.length :])  # (B, T, H, W, C)
        if augment:
            frames = _distort(frames, seed, step)
        target = task.targets(digits, xp=tnp)
        if num_sequences is None:
            return frames, target
        rest = num_sequences - step * batch_size  # the last batch may be smaller
        return frames[:rest], target[:rest]

    if num_sequences is None:
        steps = tf.data.Dataset.counter(start)
    else:
        steps = tf.data.Dataset.range(start, math.ceil(num_sequences / batch_size))
    return steps.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(
        tf.data.AUTOTUNE
    )


def _uniforms(seed, step, shape, dtype=tf.float64):
    key = tf.random.fold_in(tf.constant([seed, 0], tf.int64), step)
    return tf.random.stateless_uniform(shape, key, dtype=dtype)


def _labels(task, choose, which, balance):
    """A uniform class where `choose < balance`, else the label that stands for "any digits"."""
    uniform_class = tf.cast(which * task.num_classes, tf.int64)
    return tf.where(choose < balance, uniform_class, task.num_classes)


def _image_gatherer(images, task):
    """A function from digits and uniform numbers, both `(B, T)`, to frames `(B, T, H, W, C)`."""
    order = np.argsort(images.labels, kind="stable")
    count = np.bincount(images.labels, minlength=task.num_digits)[: task.num_digits]
    first = np.cumsum(count) - count
    with tf.device("CPU:0"):  # an eager tensor is captured by reference, not copied into the graph
        pixels = tf.constant(images.images[order])

    def gather(digits, uniforms):
        size = tf.gather(count, digits)
        chosen = tf.cast(uniforms * tf.cast(size, uniforms.dtype), tf.int64)
        return tf.gather(pixels, tf.gather(first, digits) + tf.minimum(chosen, size - 1))

    return gather


def _distort(frames, seed, step):
    """Moves each frame by a random affine map about its centre; black comes in at the edges."""
    batch, time, height, width, channels = frames.shape
    key = tf.random.fold_in(tf.constant([seed, 1], tf.int64), step)
    draws = tf.random.stateless_uniform((batch * time, 6), key, minval=-1.0)
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        # float32 takes 0.6 of the time that uint8 takes here, and can be rounded.
        images=tf.cast(tf.reshape(frames, (batch * time, height, width, channels)), tf.float32),
        transforms=_affine_maps(draws, height, width),
        output_shape=(height, width),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    return tf.reshape(tf.cast(tf.round(moved), tf.uint8), frames.shape)


def _affine_maps(draws, height, width):
    """Small maps from output to input pixels, x' = a x + b y + c and y' = d x + e y + f.

    `draws` is `(N, 6)` in [-1, 1): rotation, shear, the two zooms and the two shifts, each as a
    share of its strongest. Returns `(N, 8)`: a to f, then two zeros (no perspective).
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
    zero = tf.zeros_like(a)
    return tf.stack([a, b, c, d, e, f, zero, zero], axis=1)


def _check_arguments(images, task, batch_size, balance, num_sequences, start):
    if batch_size < 1:
        raise ValueError(f"digit_sequences: `batch_size` must be 1 or more; received {batch_size}.")
    if not 0 <= balance <= 1:
        raise ValueError(f"digit_sequences: `balance` must be 0 to 1; received {balance}.")
    if num_sequences is not None and num_sequences < 1:
        raise ValueError(
            f"digit_sequences: `num_sequences` must be 1 or more, or None; received "
            f"{num_sequences}."
        )
    if start < 0:
        raise ValueError(f"digit_sequences: `start` must be 0 or more; received {start}.")
    lacking = sorted(set(range(task.num_digits)) - set(images.labels.tolist()))
    if lacking:
        raise ValueError(
            f"digit_sequences: `images` must hold each digit from 0 to {task.num_digits - 1}; "
            f"received none of {lacking}."
        )
