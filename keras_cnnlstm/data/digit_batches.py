"""`tf.data` pipelines: batches of image sequences from labelled images and a task.

Batch `i` is a pure function of `(seed, i)`: stateless random numbers, drawn for the whole
batch at once, choose digits and images, and the images are gathered from one uint8 tensor. So
any batch can be made without the ones before it, and a run resumes by starting elsewhere.

Small batches are made several at a time, since the start of each operation costs more than what it
does to them: batches `i` to `i + K - 1` are the rows of one, whose random numbers are drawn batch
by batch.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow.experimental.numpy as tnp

from keras_cnnlstm.data.augmentation import Augmentation, check_strengths
from keras_cnnlstm.data.datasets import EncodedImages, LabeledImages, check_images
from keras_cnnlstm.tasks.captions import shifted
from keras_cnnlstm.tasks.digit_task import DigitTask
from keras_cnnlstm.utils.validation import (
    check_instance,
    check_integer,
    check_number,
    is_integer,
    short_repr,
)

_BLOCK = 1000  # images to augment at a time
_TOGETHER, _BYTES = 8, 16 * 2**20  # batches to make at a time, and bytes of their frames, at most
_NONE = Augmentation()
_BALANCE = 0.5  # of trends in training: the rare ones need more examples than nature gives


def digit_sequences(
    images: LabeledImages | EncodedImages,
    task: DigitTask,
    *,
    batch_size: int,
    seed: int,
    balance: float | None = None,
    num_sequences: int | None = None,
    augmentation: Augmentation = _NONE,
    start: int = 0,
    rows: slice | None = None,
) -> tf.data.Dataset:
    """Batches of digit sequences with their targets.

    Args:
        images: the images to draw from, or what an encoder says of them; each digit of `task`
            needs at least one. Given digits, each image of a digit is equally likely.
        task: says how long sequences are, which digits they are made of, and the target.
        batch_size: B, sequences in a batch.
        seed: any integer of 64 bits; other seeds give other sequences.
        balance: for `Trend`: share of the sequences, 0 to 1, whose class is drawn uniformly; in
            the rest each digit is uniform, so that classes have their natural frequency. Half of
            them by default.
        num_sequences: how many sequences there are, the last batch being smaller if they do
            not divide; `None` means that they never end.
        augmentation: how frames are transformed, each on its own; not at all by default.
        start: index of the first batch, to resume where a run stopped.
        rows: which rows of each batch to make, as one of several workers; by default all of them.

    Returns:
        A dataset of `(frames (B, T, H, W, C) uint8, target)`, the target as `task.targets` gives
        it. If sequences are of unequal length, of `({"frames": frames, "lengths": (B,) int32},
        target, weight (B, T) float32)`: frames after a sequence's end are black, targets 0, and
        the weight, by which losses and metrics leave these steps out, is 0 there and 1 before.
        Of encoded images `frames` is `{"features": (B, T, F) float32}`, perhaps beside `lengths`.

    Raises:
        ValueError: if an argument is out of range, a digit has no image, or encoded images are to
            be augmented.

    Example:

    >>> from keras_cnnlstm.data import load_digits
    >>> from keras_cnnlstm.tasks import Trend
    >>> data = digit_sequences(load_digits().train, Trend(4), batch_size=3, seed=0)
    >>> frames, target = next(iter(data))
    >>> frames.shape, target.shape
    (TensorShape([3, 4, 28, 28, 1]), TensorShape([3]))
    """
    expected = "a Trend, Digits or another task on digits"
    check_instance("digit_sequences: `task`", task, DigitTask, expected)
    if balance is None:
        balance = _BALANCE if task.can_balance else 0.0
    check_batches(
        "digit_sequences",
        batch_size=batch_size,
        start=start,
        seed=seed,
        augmentation=augmentation,
    )
    batch_size, start = int(batch_size), int(start)  # of NumPy, they would be of another width
    _check_sequences(images, task, balance, num_sequences)
    encoded = isinstance(images, EncodedImages)
    if encoded and augmentation:
        raise ValueError(
            "digit_sequences: `augmentation` must have no strength for EncodedImages; received "
            f"{augmentation}. Augment the images before they are encoded."
        )
    given = images.features if isinstance(images, EncodedImages) else images.images
    gather = _image_gatherer(given, images.labels, task.num_digits)

    rows = rows or slice(0, batch_size)
    augment = _augmenting(seed, augmentation)

    def block(steps):
        uniforms = _uniforms(seed, 0, steps, (batch_size, 2 * task.length + 2), rows)  # (N, 2T + 2)
        digits = task.draw(uniforms[:, : task.length + 2], balance=balance, xp=tnp)  # (N, T)
        frames = gather(digits, uniforms[:, task.length + 2 :])  # (N, T, H, W, C)
        frames = augment(frames, steps, batch_size, rows)
        target = task.targets(digits, xp=tnp)
        if task.min_length == task.length:
            return ({"features": frames} if encoded else frames), target
        lengths = _lengths(task, seed, steps, batch_size, rows)
        return _padded("features" if encoded else "frames", frames, target, lengths)

    together = _together((rows.stop - rows.start) * task.length * given[0].nbytes)
    return _batches(block, batch_size, rows, num_sequences, start, together)


def digit_strips(images: LabeledImages, task: DigitTask, **options) -> tf.data.Dataset:
    """Batches of texts: the digits of a sequence side by side in one wide image.

    Args:
        images: the images to draw from.
        task: says how many digits a text has.
        **options: as in `digit_sequences`.

    Returns:
        A dataset of `(strips (B, H, T*W, C) uint8, target (B, T) int64)`. Shorter texts have black
        at the end, and 0 in the target.

    Raises:
        ValueError: as `digit_sequences`.
    """

    def strip(frames, target, weight=None):
        if weight is not None:
            frames = frames["frames"]
        _, time, height, width, channels = frames.shape
        wide = tf.transpose(frames, (0, 2, 1, 3, 4))  # (B, H, T, W, C)
        return tf.reshape(wide, (-1, height, time * width, channels)), target

    return digit_sequences(images, task, **options).map(strip, num_parallel_calls=1)


def labeled_images(
    images: LabeledImages,
    *,
    batch_size: int,
    seed: int | None = None,
    augmentation: Augmentation = _NONE,
    start: int = 0,
    rows: slice | None = None,
) -> tf.data.Dataset:
    """Batches of single images with their classes.

    Args:
        images: the images.
        batch_size: B, images in a batch.
        seed: any integer; the images never end, each once before any comes again, in a
            new order each time. `None` gives each image once, in the order it has.
        augmentation: as in `digit_sequences`.
        start: index of the first batch, to resume where a run stopped.
        rows: which rows of each batch to make, as one of several workers; by default all of them.

    Returns:
        A dataset of `(frames (B, H, W, C) uint8, target (B,) int64)`; without a seed the last
        batch may be smaller.

    Raises:
        ValueError: if an argument is out of range, or images are to be augmented without a seed.
    """
    check_images("labeled_images", images)
    check_batches(
        "labeled_images",
        batch_size=batch_size,
        start=start,
        seed=0 if seed is None else seed,
        augmentation=augmentation,
    )
    if augmentation and seed is None:
        raise ValueError("labeled_images: `augmentation` needs a `seed`; received None.")
    batch_size, start = int(batch_size), int(start)
    count = len(images)
    pixels, labels = _constant(images.images), _constant(images.labels)

    rows = rows or slice(0, batch_size)
    augment = _augmenting(seed, augmentation)

    def block(steps):
        row = tf.range(rows.start, rows.stop, dtype=tf.int64)
        place = tf.reshape(steps[:, None] * batch_size + row, [-1])  # (N,)
        if seed is None:
            place = tf.minimum(place, count - 1)  # of the last batch; `_batches` cuts it
            return tf.gather(pixels, place), tf.gather(labels, place)
        place = _shuffled(place, count, seed)
        frames = tf.gather(pixels, place)  # (N, H, W, C)
        frames = augment(frames[:, None], steps, batch_size, rows)[:, 0]
        return frames, tf.gather(labels, place)

    examples = count if seed is None else None
    together = _together((rows.stop - rows.start) * images.images[0].nbytes)
    return _batches(block, batch_size, rows, examples, start, together)


def augmented_copy(
    images: LabeledImages,
    number: int,
    *,
    seed: int,
    augmentation: Augmentation,
) -> np.ndarray:
    """All images once, in their order, each augmented: the copy with this number.

    Args:
        images: the images.
        number: 0 or more; each has its own random numbers.
        seed: as in `digit_sequences`, as is `augmentation`.

    Returns:
        `(N, H, W, C)` uint8.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_images("augmented_copy", images)
    check_integer("augmented_copy: `number`", number, 0, 10**12)
    options: dict[str, Any] = {"batch_size": _BLOCK, "start": number, "augmentation": augmentation}
    check_batches("augmented_copy", seed=seed, **options)
    augment = _augmenting(seed, augmentation)
    blocks = math.ceil(len(images) / _BLOCK)
    copies = []
    for block in range(blocks):
        frames = _constant(images.images[block * _BLOCK : (block + 1) * _BLOCK, None])
        steps = tf.constant([int(number) * blocks + block])
        copies.append(augment(frames, steps, _BLOCK, slice(0, len(frames))).numpy()[:, 0])
    return np.concatenate(copies)


def batches(images: LabeledImages | EncodedImages, task: DigitTask, **options) -> tf.data.Dataset:
    """The batches of any task: `labeled_images`, `digit_strips` or `digit_sequences`.

    For a task that asks for captions, those of `described`.

    Args:
        images: the images to draw from; for `digit_sequences` encoded ones, too.
        task: says which of the three, and what they are about.
        **options: as the function takes them; `labeled_images` takes all images without
            `num_sequences`, and in the order they have if that is given.
    """
    if isinstance(images, EncodedImages) or task.arrangement == "sequence":
        data = digit_sequences(images, task, **options)
    elif task.arrangement == "strip":
        data = digit_strips(images, task, **options)
    else:
        if options.pop("num_sequences", None) is not None:
            options["seed"] = None
        options.pop("balance", None)
        data = labeled_images(images, **options)
    return described(data, task) if task.output == "tokens" else data


def described(data: tf.data.Dataset, task: Any) -> tf.data.Dataset:
    """Examples as a `captioner` learns from them: it reads the right tokens so far.

    Args:
        data: batches of `(frames, target)`, or with a dict of `frames` and `lengths`, of single
            images, of sequences of digits or of clips.
        task: what is said of them.

    Returns:
        A dataset of `({"frames": ..., "tokens": (B, L) int32}, words (B, L) int32)`: `START` and
        the words but the last, and the words. Padding is 0, a class that the loss has to ignore.
    """

    def element(frames, target):
        inputs = frames if isinstance(frames, dict) else {"frames": frames}
        words = task.tokens(target, xp=tnp)  # (B, L)
        return {**inputs, "tokens": shifted(words, xp=tnp)}, words

    return data.map(element, num_parallel_calls=1)


def _together(size):
    """The number of batches of `size` bytes that are best made at a time."""
    return min(max(_BYTES // max(size, 1), 1), _TOGETHER)


def _batches(block, batch_size, rows, num_examples, start, together):
    """A dataset of the batches that `block(steps (K,))` makes, row below row, for K steps.

    If there is an end, the last batch is cut to the examples that are left, of some workers none.
    """
    if num_examples is None:
        first = tf.data.Dataset.counter(start, together)
    else:
        together = 1  # the last batch is of another size
        first = tf.data.Dataset.range(start, math.ceil(num_examples / batch_size))

    def batches(step):
        made = block(step + tf.range(together, dtype=tf.int64))
        if num_examples is not None:
            rest = tf.maximum(num_examples - step * batch_size - rows.start, 0)
            return tf.nest.map_structure(lambda x: x[:rest], made)
        if together == 1:
            return made
        return tf.nest.map_structure(
            lambda x: tf.reshape(x, (together, rows.stop - rows.start, *x.shape[1:])), made
        )

    data = first.map(batches, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return (data.unbatch() if together > 1 else data).prefetch(tf.data.AUTOTUNE)


def _uniforms(seed, stream, steps, shape, rows, *, low=0.0, dtype=tf.float64):
    """Random numbers from `low` to 1 of these steps (K,): of each, rows of a tensor of this shape.

    Returns `(K * rows, ...)`. Other streams of the same seed are independent.
    """
    drawn = [
        tf.random.stateless_uniform(shape, _key(seed, stream, step), low, 1, dtype)[rows]
        for step in tf.unstack(steps)
    ]
    return tf.concat(drawn, axis=0)


def _key(seed, stream, step):
    return tf.random.fold_in(tf.constant([int(seed), stream], tf.int64), step)


def _shuffled(place, count, seed):
    """Where each place of an endless row of permutations of `count` images points to."""
    epoch = place // count
    # The public tf.random.experimental.index_shuffle fails on a seed for each index (TF 2.21).
    keys = tf.constant([int(seed), 3], tf.int64)
    seeds = tf.stack([tf.fill(tf.shape(epoch), key) for key in tf.unstack(keys)], 1)
    seeds = tf.concat([seeds, epoch[:, None]], axis=1)  # (B, 3)
    last = tf.constant(count - 1, tf.int64)
    # With the default of 4 rounds the orders of two epochs of 55,000 correlate at 0.8; from 8
    # rounds on nothing is left of it.
    return tf.raw_ops.RandomIndexShuffle(index=place % count, seed=seeds, max_index=last, rounds=16)


def _lengths(task, seed, steps, batch_size, rows):
    """How long each sequence is, `(N,)` int32, uniform from `min_length` to T."""
    choices = task.length - task.min_length + 1
    uniforms = _uniforms(seed, 2, steps, (batch_size,), rows)
    return task.min_length + tf.cast(uniforms * choices, tf.int32)


def _padded(name, frames, target, lengths):
    """Black frames and targets of 0 after each sequence's end, and weights that say so."""
    counts = tf.sequence_mask(lengths, frames.shape[1])  # (B, T)

    def keep(x):
        mask = tf.reshape(counts, (*counts.shape, *[1] * (x.shape.rank - 2)))
        return x * tf.cast(mask, x.dtype)

    return {name: keep(frames), "lengths": lengths}, keep(target), tf.cast(counts, tf.float32)


def _constant(array):
    """An eager tensor, which is captured by reference, not copied into the graph."""
    with tf.device("CPU:0"):
        return tf.constant(array)


def _image_gatherer(given, labels, num_digits):
    """A function from digits and uniform numbers, both `(B, T)`, to frames `(B, T, H, W, C)`.

    Of encoded images to features `(B, T, F)`.
    """
    order = np.argsort(labels, kind="stable")
    count = np.bincount(labels, minlength=num_digits)[:num_digits]
    first = np.cumsum(count) - count
    pixels = _constant(given[order])

    def gather(digits, uniforms):
        size = tf.gather(count, digits)
        chosen = tf.cast(uniforms * tf.cast(size, uniforms.dtype), tf.int64)
        return tf.gather(pixels, tf.gather(first, digits) + tf.minimum(chosen, size - 1))

    return gather


def _augmenting(seed, augmentation):
    """A function that augments each frame `(N, T, H, W, C)` of these rows of batches."""

    def augment(frames, steps, batch_size, rows):
        time = frames.shape[1]
        images = tf.reshape(frames, (-1, *frames.shape[2:]))

        def draw(stream, *shape):
            whole = (batch_size, time * math.prod(shape))
            drawn = _uniforms(seed, stream, steps, whole, rows, low=-1.0, dtype=tf.float32)
            return tf.reshape(drawn, (-1, *shape))

        return tf.reshape(augmentation.apply(images, draw), frames.shape)

    return augment if augmentation else lambda frames, *steps: frames


def _check_sequences(images, task, balance, num_sequences):
    if not isinstance(images, EncodedImages):
        check_images("digit_sequences", images)
    check_number("digit_sequences: `balance`", balance, 0, 1)
    task.draw(np.zeros((1, task.length + 2)), balance=balance)  # most tasks take no balance
    if not is_integer(1 if num_sequences is None else num_sequences, 1, 10**12):
        raise ValueError(
            f"digit_sequences: `num_sequences` must be 1 or more, or None; received "
            f"{short_repr(num_sequences)}."
        )
    lacking = sorted(set(range(task.num_digits)) - set(images.labels.tolist()))
    if lacking:
        raise ValueError(
            f"digit_sequences: `images` must hold each digit from 0 to {task.num_digits - 1}; "
            f"received none of {lacking}."
        )


def check_batches(
    function: str,
    *,
    batch_size: int,
    start: int,
    seed: int,
    affine: float = 0.0,
    augmentation: Augmentation = _NONE,
) -> None:
    """Refuses in the name of a function what batches cannot be made with."""
    check_integer(f"{function}: `batch_size`", batch_size, 1, 1_000_000)
    check_integer(f"{function}: `start`", start, 0, 10**12)
    if not is_integer(seed, -(2**63), 2**63 - 1):
        raise ValueError(
            f"{function}: `seed` must be an integer of 64 bits; received {short_repr(seed)}."
        )
    check_strengths(function, affine=affine)
    expected = "an Augmentation, such as Augmentation(affine=1.0)"
    check_instance(f"{function}: `augmentation`", augmentation, Augmentation, expected)
