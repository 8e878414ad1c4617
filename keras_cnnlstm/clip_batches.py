"""`tf.data` pipelines: batches of clips, the image sequences on disk, with their classes.

What stands at place `i` of the row of clips is a pure function of `(seed, i)`: which clip, which
of its frames, and how they are distorted come from counter-based random numbers. So a run resumes
by starting elsewhere. Clips are decoded when their batch is due, a few at a time.
"""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_cnnlstm.arguments import as_path, told
from keras_cnnlstm.clip_cache import read_chosen
from keras_cnnlstm.clips import Clip, check_sampling, checked_clips, find_clips, sample_indices
from keras_cnnlstm.distortions import distorted
from keras_cnnlstm.frames import check_channels, checked_size, natural_order
from keras_cnnlstm.pipeline import check_batches
from keras_cnnlstm.read_ahead import ReadAhead

_READY = 2  # batches that wait for the model at most
_ORDER, _FRAMES, _DISTORTION = range(3)  # independent streams of random numbers of one seed


def clip_sequences(
    clips: str | Path | Sequence[Clip],
    *,
    image_size: tuple[int, int],
    length: int | None,
    batch_size: int,
    sampling: str = "uniform",
    stride: int = 1,
    channels: int = 1,
    invert: bool = False,
    split: str | None = None,
    seed: int | None = None,
    class_names: Sequence[str] | None = None,
    augment: bool | float = False,
    flip: bool = False,
    cache: str | Path | None = None,
    features: Callable[[Clip], np.ndarray] | None = None,
    start: int = 0,
    rows: slice | None = None,
) -> tf.data.Dataset:
    """Batches of clips with their classes.

    Args:
        clips: the clips, or the folder to find them in, by `clips.find_clips`.
        image_size: `(H, W)` in pixels that frames are brought to, as `frames.load_frames` does.
        length: T, frames of a clip that are shown at most; `None` shows all of them.
        batch_size: B, clips in a batch.
        sampling: which frames those are, as `clips.sample_indices` explains; random only with a
            seed.
        stride: step between the frames of a "window".
        channels: 1 for grey, 3 for colour.
        invert: turn dark on light into light on dark.
        split: "train", "validation" or "test" takes these clips of a folder, as
            `splits.split_clips` splits them by itself; `None` takes all of them.
        seed: any integer; the clips then come for ever, each once before any comes again, in a
            new order each time. `None` gives each clip once, in the order they have.
        class_names: the classes in the order of their numbers; by default those of `clips`, of a
            folder before it is split, in natural order. Give them with a sequence that may lack
            one.
        augment: distort each clip by a small random rotation, shear, zoom and shift, all its
            frames alike; as strong as in `pipeline.digit_sequences`.
        flip: mirror every other clip, by chance, left to right. Not where a class is a direction.
        cache: a folder to keep decoded clips in, a file of `n * H * W * C` bytes each. A clip
            whose files change is decoded again; what lies there can be deleted at any time.
        features: from a clip to what an encoder says of all of its frames, `(n, F)` float32, as
            `features.FeatureCache` keeps it. The frames are then not read, and what is chosen of
            these rows takes their place.
        start: index of the first batch, to resume where a run stopped.
        rows: which rows of each batch to make, as one of several workers; by default all of them.

    Returns:
        A dataset of `({"frames": (B, T, H, W, C) uint8, "lengths": (B,) int32}, target (B,)
        int64)`; of `"features": (B, T, F) float32` in place of frames where these are given.
        Frames after a clip's length are black; if `length` is `None`, T is that of the batch's
        longest clip. Without a seed the last batch may be smaller. A clip that cannot be
        read ends the iteration with a `tf.errors.InvalidArgumentError` that names it.

    Raises:
        FileNotFoundError: if there is no such folder, or nothing in it.
        ValueError: if an argument is out of range.
    """
    found, names = _found(clips, split, class_names)
    check_batches(
        "clip_sequences",
        batch_size=batch_size,
        start=start,
        seed=0 if seed is None else seed,
        augment=augment,
    )
    _check_classes(found, names)
    _check_moves(bool(augment or flip), seed, features)
    check_channels("clip_sequences", channels)
    image_size = checked_size("clip_sequences", image_size)
    check_sampling("clip_sequences", length, sampling, stride)
    form = {"image_size": image_size, "channels": channels, "invert": invert}
    read = functools.partial(read_chosen, cache=_folder(cache), form=form)
    labels = [names.index(clip.class_name) for clip in found]

    def load(place):
        """The frames (n, H, W, C) of the clip at a place, or its features (n, F), and its label."""
        number = _number(place, len(found), seed)
        choose = functools.partial(
            sample_indices,
            length=length,
            sampling=sampling,
            stride=stride,
            rng=_random(seed, _FRAMES, place),
        )
        if features is not None:
            rows = features(found[number])
            return np.asarray(rows[choose(len(rows))]), labels[number]
        frames = read(found[number], choose)
        return _moved(frames, _draws(seed, place), float(augment), flip), labels[number]

    count = len(found) if seed is None else None
    rows = rows or slice(0, batch_size)
    batch = rows.stop - rows.start if count is None else None
    if features is None:
        spec = tf.TensorSpec((batch, length, *image_size, channels), tf.uint8, "frames")
    else:
        width = features(found[0]).shape[1]
        spec = tf.TensorSpec((batch, length, width), tf.float32, "features")

    def places(number):
        """The elements of a batch that this worker makes; perhaps none of the last one."""
        first = number * batch_size
        end = first + rows.stop
        return range(first + rows.start, end if count is None else min(end, count))

    numbers = tf.data.Dataset.counter(start)
    if count is not None:
        numbers = tf.data.Dataset.range(start, max(start, math.ceil(count / batch_size)))
    return _batches(numbers, load, places, spec)


def _batches(numbers, load, places, spec):
    """A dataset of the batches with these numbers."""

    ahead = ReadAhead(load, places, ahead=_READY)

    def batch(number):
        return _padded(ahead.batch(int(number)), spec)

    def element(number):
        types = (spec.dtype, tf.int32, tf.int64)
        frames, lengths, labels = tf.numpy_function(batch, [number], types)
        frames = tf.ensure_shape(frames, spec.shape)
        lengths, labels = (tf.ensure_shape(x, spec.shape[:1]) for x in (lengths, labels))
        return {spec.name: frames, "lengths": lengths}, labels

    # No parallel map and no prefetch, and none added by tf.data itself: `read_ahead` says why.
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.map_parallelization = False
    options.experimental_optimization.inject_prefetch = False
    return numbers.map(element).with_options(options)


def _padded(elements, spec):
    """Elements of unequal length as one array, zeros (black) at the end, with their lengths."""
    lengths = np.array([len(frames) for frames, _ in elements], np.int32)
    time = spec.shape[1] or lengths.max(initial=1)
    padded = np.zeros((len(elements), time, *spec.shape[2:]), spec.dtype.as_numpy_dtype)
    for place, (frames, _) in zip(padded, elements, strict=True):
        place[: len(frames)] = frames
    return padded, lengths, np.array([label for _, label in elements], np.int64)


def _moved(frames, draws, strength, flip):
    """All frames of a clip mirrored, or not, and distorted alike."""
    if flip and draws[6] < 0:
        frames = frames[:, :, ::-1]
    if strength:
        with tf.device("CPU:0"):
            frames = distorted(tf.constant(frames), draws[None, :6] * strength).numpy()
    return frames


def _found(clips, split, class_names):
    """The clips, and the names of the classes."""
    if not isinstance(clips, str | Path):
        if split is not None:
            raise ValueError(
                "clip_sequences: `split` must be None with a sequence of clips; received "
                f"{told(split)}. Give the clips of that part."
            )
        clips = checked_clips("clip_sequences", clips)
        return clips, _class_names(clips, class_names)
    clips = find_clips(clips)
    class_names = _class_names(clips, class_names)
    return clips if split is None else _part(clips, split), class_names


def _class_names(clips, class_names):
    if class_names is not None:
        if not isinstance(class_names, list | tuple):
            raise ValueError(
                "clip_sequences: `class_names` must be names in the order of their numbers; "
                f"received {told(class_names)}."
            )
        return list(class_names)
    return sorted({c.class_name for c in clips}, key=lambda name: natural_order(Path(name)))


def _part(clips, split):
    from keras_cnnlstm.splits import PARTS, split_clips

    if str(split) not in PARTS:
        raise ValueError(
            f"clip_sequences: `split` must be one of {', '.join(PARTS)}, or None; received "
            f"{told(split)}."
        )
    return split_clips(clips)[split]


def _number(place, count, seed):
    """Which clip stands at a place: the next one, or the next of a shuffled pass."""
    return place if seed is None else int(_order(seed, place // count, count)[place % count])


@functools.lru_cache(maxsize=4)
def _order(seed, number, count):
    return _random(seed, _ORDER, number).permutation(count)


def _random(seed, stream, number):
    """Random numbers that begin anew for each stream and number of a seed."""
    if seed is None:
        return None
    key = np.array([int(seed) % 2**64, number], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, stream]))


def _draws(seed, place):
    """Six numbers for the distortion, one for the flip, `(7,)` float32 in [-1, 1)."""
    if seed is None:
        return np.zeros(7, np.float32)
    return 2 * _random(seed, _DISTORTION, place).random(7, np.float32) - 1


def _folder(cache):
    if cache is None:
        return None
    folder = as_path("clip_sequences: `cache`", cache)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _check_moves(moved, seed, features):
    if moved and features is not None:
        raise ValueError(
            "clip_sequences: `augment` and `flip` must be off with `features`, whose frames were "
            "encoded as they are."
        )
    if moved and seed is None:
        raise ValueError(
            "clip_sequences: `augment` and `flip` need a `seed`; received None. They are for "
            "training."
        )


def _check_classes(clips, class_names):
    if not clips:
        raise ValueError("clip_sequences: `clips` must hold one clip at least; received none.")
    unknown = sorted({clip.class_name for clip in clips if clip.class_name not in class_names})
    if unknown:
        raise ValueError(
            f"clip_sequences: `class_names` must hold the class of each clip; received none of "
            f"{unknown}."
        )
