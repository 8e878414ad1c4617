"""`tf.data` pipelines: batches of clips, the image sequences on disk, with their classes.

What stands at place `i` of the row of clips is a pure function of `(seed, i)`: which clip, which
of its frames, and how they are augmented come from counter-based random numbers. So a run resumes
by starting elsewhere. Clips are decoded when their batch is due, a few at a time.
"""

import functools
import hashlib
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_cnnlstm.data.augmentation import affine_transform
from keras_cnnlstm.data.clip_cache import ClipCache, info_of, read_chosen
from keras_cnnlstm.data.clips import (
    Clip,
    check_rate,
    check_sampling,
    checked_clips,
    film_step,
    find_clips,
    sample_indices,
)
from keras_cnnlstm.data.clips import class_names as classes_of
from keras_cnnlstm.data.digit_batches import check_batches
from keras_cnnlstm.data.frames import (
    DepthRange,
    Fit,
    check_channels,
    check_depth_range,
    check_fit,
    checked_size,
)
from keras_cnnlstm.data.splits import PARTS, split_clips
from keras_cnnlstm.utils.environment import num_cores
from keras_cnnlstm.utils.validation import as_path, check_names, check_number, short_repr

_READY = 2  # batches that wait for the model at most
_ORDER, FRAMES, _AFFINE, _COPY, _BALANCE = range(
    5
)  # independent streams of random numbers of one seed

Target = Callable[[Clip, np.ndarray, float | None], np.ndarray]
"""From a clip, the numbers of some of its frames and its frames per second to its target."""


def clip_sequences(
    clips: str | Path | Sequence[Clip],
    *,
    image_size: tuple[int, int],
    length: int | None,
    batch_size: int,
    sampling: str = "uniform",
    stride: int = 1,
    frames_per_second: float | None = None,
    channels: int = 1,
    invert: bool = False,
    fit: Fit = "letterbox",
    depth_range: DepthRange | None = None,
    split: str | None = None,
    seed: int | None = None,
    class_names: Sequence[str] | None = None,
    affine: float = 0.0,
    flip: bool = False,
    cache: str | Path | ClipCache | None = None,
    features: Callable[[Clip], np.ndarray] | None = None,
    features_skip: int = 0,
    target: Target | None = None,
    target_skip: int | None = None,
    weight: Callable[[Clip], float] | None = None,
    balance: float = 0.0,
    start: int = 0,
    rows: slice | None = None,
) -> tf.data.Dataset:
    """Batches of clips with their classes.

    Args:
        clips: the clips, or the folder in which `clips.find_clips` finds them.
        image_size: `(H, W)` of the frames in pixels, as in `frames.load_frames`.
        length: T, the most frames of a clip that are used; `None` for all of them.
        batch_size: B, clips in a batch.
        sampling: which frames these are, see `clips.sample_indices`; random only with a seed.
        stride: step between the frames of a "window".
        frames_per_second: of the frames that `sampling` chooses from, as in
            `clips.sample_indices`; `None` for every frame.
        channels: 1 for grey, 3 for colour.
        invert: turn dark on light into light on dark.
        fit: how frames of another aspect ratio are brought to `image_size`, as in
            `frames.load_frames`.
        depth_range: of images of 16 bits, as in `frames.load_frames`.
        split: "train", "validation" or "test" takes this part of a folder, by the defaults of
            `splits.split_clips`; `None` takes all clips.
        seed: any integer; the dataset is then endless, in a new order on each pass over the clips.
            `None` gives each clip once, in order.
        class_names: the classes in the order of their numbers; by default the classes of `clips`
            (of the whole folder with `split`), in natural order. Give them if `clips` may lack
            one.
        affine: strength, 0 to 3, of a small random rotation, shear, zoom and shift of each clip,
            all its frames alike; as in `digit_sequences`.
        flip: mirror every other clip, by chance, left to right. Not where a class is a direction.
        cache: a folder for decoded clips, a file of `n * H * W * C` bytes each, or a `ClipCache`
            of such frames. A clip whose files change is decoded again. The folder can be deleted at
            any time.
        features: from a clip to an encoder's features of all of its frames, or of those at
            `frames_per_second`, `(n, F)` float32, as from a `FeatureCache`; or of several copies of
            the clip, `(K, n, F)`, of which with a seed one is drawn. The frames are then not read;
            rows of the features take their place.
        features_skip: frames at the start of a clip for which `features` has no rows, as of a model
            that reads motion; nor has a batch then, `(B, T - features_skip, F)`.
        target: from a clip, the numbers of its frames that are used `(n,)`, and its frames per
            second (`None` of images) to its target, as `Task.clip_target`; in place of the number
            of its class.
        target_skip: for a target of one entry for each frame: the frames at the start of a clip
            that the model has no answer to, as one that reads motion. `None`: there is one target
            for a whole clip.
        weight: from a clip to how much it counts; the batches then have a third part.
        balance: share of the places, 0 to 1, for which a class is drawn first, each equally likely,
            and then a clip of it. Needs a seed.
        start: index of the first batch, to resume a run.
        rows: rows of each batch to make, for one of several workers; by default all of them.

    Returns:
        A dataset of `({"frames": (B, T, H, W, C) uint8, "lengths": (B,) int32}, target (B,)
        int64)`; of `"features": (B, T, F) float32` in place of frames where these are given. With
        `weight` the weights `(B,)` float32 follow; with `target_skip` the target is `(B, T -
        target_skip)` and weights `(B, T - target_skip)` follow that are 0 at padding.
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
        affine=affine,
    )
    _check_moves(bool(affine or flip), seed, features)
    check_channels("clip_sequences", channels)
    image_size = checked_size("clip_sequences", image_size)
    check_fit("clip_sequences", fit)
    check_depth_range("clip_sequences", depth_range)
    check_sampling("clip_sequences", length, sampling, stride)
    check_rate("clip_sequences: `frames_per_second`", frames_per_second)
    form = {"image_size": image_size, "channels": channels, "invert": invert, "fit": fit}
    form["depth_range"] = depth_range
    kept = cache if isinstance(cache, ClipCache) else _cache(cache, form, frames_per_second)
    read = functools.partial(read_chosen, cache=kept, form=form)
    check_number("clip_sequences: `balance`", balance, 0, 1 if seed is not None else 0)
    strata = _strata(found) if balance else []

    def asked(clip, chosen, rate):
        """The target of a clip, and what it counts, of the frames that are chosen."""
        answer = target(clip, chosen, rate) if target else names.index(clip.class_name)
        if target_skip:  # one step always has an answer
            answer = answer[min(target_skip, len(answer) - 1) :]
        return answer, weight(clip) if weight else 1.0

    def load(place):
        """The frames (n, H, W, C) of a clip, or its features (n, F), its target and its weight."""
        clip = found[number_at(place, len(found), seed, strata, balance)]
        options = {"stride": stride, "rng": random_at(seed, FRAMES, place)}
        drawn: list = []

        def choose(info):
            by_time = {"rate": info.rate, "frames_per_second": frames_per_second}
            drawn[:] = (
                sample_indices(info.frames, length, sampling, **options, **by_time),
                info.rate,
            )
            return drawn[0]

        if features is not None:
            copies = features(clip)
            rows = copies if copies.ndim == 2 else copies[_copy(seed, place, len(copies))]
            chosen = sample_indices(len(rows) + features_skip, length, sampling, **options)
            rate = info_of(clip).rate if target else None
            of_film = chosen * film_step(rate, frames_per_second)
            numbers = np.floor(of_film + 0.5).astype(int)
            vectors = np.asarray(rows[chosen[features_skip:] - features_skip])
            return vectors, *asked(clip, numbers, rate)
        frames = read(clip, choose)
        return _moved(frames, _draws(seed, place), float(affine), flip), *asked(clip, *drawn)

    count = len(found) if seed is None else None
    rows = rows or slice(0, batch_size)
    batch = rows.stop - rows.start if count is None else None
    if features is None:
        spec = tf.TensorSpec((batch, length, *image_size, channels), tf.uint8, "frames")
    else:
        width = features(found[0]).shape[-1]
        steps = None if length is None else length - features_skip
        spec = tf.TensorSpec((batch, steps, width), tf.float32, "features")

    def places(number):
        """The elements of a batch that this worker makes; perhaps none of the last one."""
        first = number * batch_size
        end = first + rows.stop
        return range(first + rows.start, end if count is None else min(end, count))

    numbers = tf.data.Dataset.counter(start)
    if count is not None:
        numbers = tf.data.Dataset.range(start, max(start, math.ceil(count / batch_size)))
    if target_skip is not None:
        steps = None if length is None else max(1, length - target_skip)
        asked_spec = tf.TensorSpec((batch, steps), tf.int64)
    elif target is not None:
        example = target(found[0], np.zeros(1, int), 1.0)
        asked_spec = tf.TensorSpec((batch, *example.shape), example.dtype)
    else:
        asked_spec = tf.TensorSpec((batch,), tf.int64)
    weighs = weight is not None or target_skip is not None
    return loaded_batches(
        numbers, load, places, spec, asked_spec, weighs=weighs, skip=features_skip
    )


def loaded_batches(
    numbers: tf.data.Dataset,
    load: Callable[[int], tuple[np.ndarray, Any, float]],
    places: Callable[[int], range],
    spec: tf.TensorSpec,
    asked: tf.TensorSpec | None = None,
    *,
    weighs: bool = False,
    skip: int = 0,
) -> tf.data.Dataset:
    """A dataset of the batches with these numbers, loaded a few elements at a time.

    Args:
        numbers: of the batches.
        load: from a place to frames or features `(n, ...)`, the target and the weight.
        places: from the number of a batch to the places of its elements.
        spec: of the frames or features of a batch `(B, T, ...)`.
        asked: of the targets; by default one integer each.
        weighs: whether weights follow the targets.
        skip: what is added to the lengths.
    """
    asked = asked or tf.TensorSpec(spec.shape[:1], tf.int64)
    prefetch = _Prefetch(load, places)

    def batch(number):
        elements = prefetch.batch(int(number))
        frames, lengths = _padded([frames for frames, _, _ in elements], spec)
        targets, weights = _targets(elements, asked)
        return frames, lengths + np.int32(skip), targets, weights

    def element(number):
        types = (spec.dtype, tf.int32, asked.dtype, tf.float32)
        frames, lengths, targets, weights = tf.numpy_function(batch, [number], types)
        frames = tf.ensure_shape(frames, spec.shape)
        lengths = tf.ensure_shape(lengths, spec.shape[:1])
        inputs = {spec.name: frames, "lengths": lengths}
        targets = tf.ensure_shape(targets, asked.shape)
        if not weighs:
            return inputs, targets
        per_step = asked.shape.rank == 2 and asked.dtype == tf.int64
        return inputs, targets, tf.ensure_shape(weights, asked.shape[: 2 if per_step else 1])

    # A parallel map or prefetch of tf.data around a Python function can deadlock when its iterator
    # is dropped before the end. None is used, and tf.data must not add one.
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.map_parallelization = False
    options.experimental_optimization.inject_prefetch = False
    data = numbers.map(element).with_options(options)
    weakref.finalize(data, prefetch.close)  # TensorFlow never lets go of `batch`
    return data


def _padded(sequences, spec):
    """Sequences of unequal length as one array, zeros (black) at the end, with their lengths."""
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    time = spec.shape[1] or lengths.max(initial=1)
    padded = np.zeros((len(sequences), time, *spec.shape[2:]), spec.dtype.as_numpy_dtype)
    for place, sequence in zip(padded, sequences, strict=True):
        place[: len(sequence)] = sequence
    return padded, lengths


def _targets(elements, asked):
    """The targets of a batch, and their weights; targets of each step are padded, with weight 0."""
    weights = np.array([weight for _, _, weight in elements], np.float32)
    targets = [target for _, target, _ in elements]
    if asked.shape.rank == 2 and asked.dtype == tf.int64:
        padded, lengths = _padded(targets, asked)
        mask = np.arange(padded.shape[1]) < lengths[:, None]
        return padded, mask * weights[:, None]
    shape = (len(targets), *asked.shape[1:])
    return np.array(targets, asked.dtype.as_numpy_dtype).reshape(shape), weights


def _moved(frames, draws, strength, flip):
    """All frames of a clip mirrored, or not, and transformed alike."""
    if flip and draws[6] < 0:
        frames = frames[:, :, ::-1]
    if strength:
        with tf.device("CPU:0"):
            frames = affine_transform(tf.constant(frames), draws[None, :6] * strength).numpy()
    return frames


def _found(clips, split, class_names):
    """The clips, and the names of the classes."""
    in_folder = isinstance(clips, str | Path)
    if split is not None and not (in_folder and str(split) in PARTS):
        raise ValueError(
            f"clip_sequences: `split` must be one of {', '.join(PARTS)} with a folder, and None "
            f"with a sequence of clips; received {short_repr(split)}."
        )
    found = find_clips(clips) if in_folder else checked_clips("clip_sequences", clips)
    class_names = classes_of(found) if class_names is None else class_names
    check_names("clip_sequences: `class_names`", class_names)
    found = split_clips(found)[split] if split else found
    if not found:
        raise ValueError("clip_sequences: `clips` must hold one clip at least; received none.")
    if unknown := sorted({clip.class_name for clip in found}.difference(class_names)):
        raise ValueError(
            f"clip_sequences: `class_names` must hold the class of each clip; received none of "
            f"{unknown}."
        )
    return found, list(class_names)


def _strata(clips) -> list[list[int]]:
    """The numbers of the clips of each class."""
    of_class: dict[str, list[int]] = {}
    for number, clip in enumerate(clips):
        of_class.setdefault(clip.class_name, []).append(number)
    return list(of_class.values())


def number_at(
    place: int,
    count: int,
    seed: int | None,
    strata: Sequence[Any] = (),
    balance: float = 0.0,
) -> int:
    """Which clip stands at a place: the next one, or the next of a shuffled pass.

    With a balance sometimes any clip of any class, each class equally likely.
    """
    if balance:
        rng = random_at(seed, _BALANCE, place)
        if rng.random() < balance:
            numbers = strata[rng.integers(len(strata))]
            return numbers[rng.integers(len(numbers))]
    return place if seed is None else int(_order(seed, place // count, count)[place % count])


@functools.lru_cache(maxsize=4)
def _order(seed, number, count):
    return random_at(seed, _ORDER, number).permutation(count)


def random_at(seed: int | None, stream: int, number: int) -> Any:
    """Random numbers of their own for each stream and number of a seed."""
    if seed is None:
        return None
    key = np.array([int(seed) % 2**64, number], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, stream]))


def _copy(seed, place, count):
    """Which copy of a clip stands at a place; the first one without a seed."""
    return 0 if seed is None else int(random_at(seed, _COPY, place).integers(count))


def clip_copy(
    frames: np.ndarray, number: int, name: str, *, affine: float, flip: bool
) -> np.ndarray:
    """A copy of a clip that is transformed as a whole, always in the same way.

    Args:
        frames: `(n, H, W, C)` uint8.
        number: of the copy; 0 is the clip as it is. With `flip` the odd ones are mirrored.
        name: of the clip, each of which is transformed in its own way.
        affine: strength of the affine transform, as in `clip_sequences`.
        flip: mirror half of the copies left to right.
    """
    if number == 0:
        return frames
    draws = _draws(
        int.from_bytes(hashlib.sha256(name.encode(errors="replace")).digest()[:4]), number
    )
    draws[6] = -1 if number % 2 else 1
    return _moved(frames, draws, affine, flip)


def _draws(seed, place):
    """Six numbers for the affine transform, one for the flip, `(7,)` float32 in [-1, 1)."""
    if seed is None:
        return np.zeros(7, np.float32)
    return 2 * random_at(seed, _AFFINE, place).random(7, np.float32) - 1


def _cache(folder, form, frames_per_second):
    if folder is None:
        return None
    folder = as_path("clip_sequences: `cache`", folder)
    folder.mkdir(parents=True, exist_ok=True)
    return ClipCache(form, frames_per_second=frames_per_second, folder=folder)


def _check_moves(moved, seed, features):
    if moved and features is not None:
        raise ValueError(
            "clip_sequences: `affine` and `flip` must be off with `features`, whose frames were "
            "encoded as they are."
        )
    if moved and seed is None:
        raise ValueError(
            "clip_sequences: `affine` and `flip` need a `seed`; received None. They are for "
            "training."
        )


class _Prefetch:
    """Loads the elements of a batch in threads and, while it is in use, those of the next ones.

    Args:
        load: makes the element at a place; called in several threads at once.
        places: from the number of a batch to the places in it; empty after the last one.
    """

    def __init__(self, load, places):
        self._load, self._places, self._lock = load, places, threading.RLock()
        self._pool: ThreadPoolExecutor | None = None
        self._due: dict[int, list[Future]] = {}  # by the number of the batch

    def batch(self, number: int) -> list:
        """The elements of a batch; raises the errors of `load`."""
        wanted = range(number, number + 1 + _READY)
        with self._lock:
            self._pool = self._pool or ThreadPoolExecutor(min(8, num_cores()))
            for other in self._due.keys() - set(wanted):  # of an iterator that was dropped
                for future in self._due.pop(other):
                    future.cancel()
            for k in wanted:
                if k not in self._due:
                    self._due[k] = [self._pool.submit(self._load, p) for p in self._places(k)]
            futures = self._due.pop(number)
        return [future.result() for future in futures]

    def close(self) -> None:
        """Ends the threads and drops the batches that are ready; `batch` would start them again."""
        with self._lock:
            if self._pool:
                self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool, self._due = None, {}
