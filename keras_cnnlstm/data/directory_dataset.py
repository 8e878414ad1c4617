"""A folder of clips as a dataset for `model.fit`, in the words of Keras."""

import functools
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from re import Pattern
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from keras_cnnlstm.data.clip_batches import FRAMES, loaded_batches, number_at, random_at
from keras_cnnlstm.data.clip_cache import ClipCache, read_chosen
from keras_cnnlstm.data.clips import Clip, check_rate, check_sampling, find_clips, sample_indices
from keras_cnnlstm.data.clips import class_names as classes_of
from keras_cnnlstm.data.frames import checked_size
from keras_cnnlstm.data.splits import split_clips
from keras_cnnlstm.utils.validation import (
    as_integers,
    as_path,
    check_choice,
    check_instance,
    check_integer,
    check_names,
    check_number,
    short_repr,
)

_NAME = "video_dataset_from_directory"
_CHANNELS = {"rgb": 3, "grayscale": 1}
_SUBSETS = ("training", "validation")
_READ = 8  # clips that are read at a time where none are batched


def video_dataset_from_directory(
    directory: str | Path,
    labels: Literal["inferred"] | Sequence[int] | None = "inferred",
    label_mode: Literal["int", "categorical", "binary"] | None = "int",
    *,
    class_names: Sequence[str] | None = None,
    color_mode: Literal["rgb", "grayscale"] = "rgb",
    batch_size: int | None = 32,
    image_size: tuple[int, int] = (112, 112),
    num_frames: int = 16,
    sampling: str = "uniform",
    stride: int = 1,
    frames_per_second: float | None = None,
    lengths: bool = False,
    shuffle: bool = True,
    seed: int | None = None,
    validation_split: float | None = None,
    subset: Literal["training", "validation", "both"] | None = None,
    groups: str | Path | Pattern | None = None,
    crop_to_aspect_ratio: bool = False,
    pad_to_aspect_ratio: bool = False,
    cache: str | Path | ClipCache | None = None,
    follow_links: bool = False,
    verbose: bool = True,
) -> Any:
    """Batches of the videos and frame folders below a directory, a folder for each class.

    The counterpart of `keras.utils.image_dataset_from_directory` for clips, with its words. What
    differs: frames are raw `uint8`, so a model must rescale them, as those of this package do and
    `keras.layers.Rescaling(1 / 255)` does; whole groups of clips validate; the validation clips
    are never shuffled; names are sorted naturally, clip 2 before clip 10. Batches are prepared
    ahead, in threads: add no `prefetch`.

    Args:
        directory: the folder over the classes, as `find_clips` takes it.
        labels: "inferred" from the class folders; an integer from 0 for each clip, in the order of
            `find_clips`; or `None` for none.
        label_mode: "int" for `sparse_categorical_crossentropy`, "categorical" for
            `categorical_crossentropy`, "binary" (of two classes) for `binary_crossentropy`, `None`
            for no labels.
        class_names: the class folders in the order of their numbers, by default their natural
            order. With a list of `labels` a name for each of its numbers.
        color_mode: "rgb" (C = 3) or "grayscale" (C = 1).
        batch_size: B, clips in a batch; `None` gives single clips without the axis B.
        image_size: `(H, W)` of the frames. The default is that of C3D and its followers, a fifth of
            the pixels of 256x256, since a clip has many frames.
        num_frames: T, frames of a clip.
        sampling: which frames these are, see `sample_indices`; "segments" and "window" are random
            where clips are shuffled.
        stride: step between the frames of a "window".
        frames_per_second: rate of the frames that `sampling` chooses from; `None` for every frame.
        lengths: what is done with clips of fewer frames. `False` repeats their last frame, for any
            model. `True` pads with black and gives `{"frames", "lengths"}`, for a model that leaves
            the padding out, such as `cnn_lstm(..., lengths=True)`.
        shuffle: give the clips in a new order on each pass over the dataset.
        seed: an integer, 0 or more, of the split and of all passes. By default each dataset has an
            order of its own, from NumPy's global generator, and the split is that of seed 0.
        validation_split: share of the clips of each class that validate.
        subset: "training", "validation", or "both" for a pair of datasets. Two calls with the same
            seed, one for each, divide the clips as well.
        groups: which clips belong together, such as those of one recording, and are on one side: a
            pattern or a CSV file, see `split_clips`.
        crop_to_aspect_ratio: fill the frame with the middle of the image. By default height and
            width are scaled differently.
        pad_to_aspect_ratio: show all of the image, between black bars.
        cache: a folder for decoded clips, or a `ClipCache`, as in `clip_sequences`.
        follow_links: must be False.
        verbose: print how many clips there are.

    Returns:
        A finite `tf.data.Dataset`, or two, of `(frames (B, T, H, W, C) uint8, labels)`, each clip
        once; the last batch may be smaller. Labels are `(B,)` int32, "categorical" `(B, K)` and
        "binary" `(B, 1)` float32; without labels there are frames alone. With `lengths` frames are
        `{"frames": (B, T, H, W, C) uint8, "lengths": (B,) int32}`. Its attributes `class_names` and
        `file_paths` are as in Keras: the classes, and the clips in the order without a shuffle. A
        clip that cannot be read ends the iteration with a `tf.errors.InvalidArgumentError` that
        names it.

    Raises:
        FileNotFoundError: if there is no such directory, or no class folder in it.
        ValueError: if an argument is out of range, or the clips cannot be split.
    """
    flags = {
        "crop_to_aspect_ratio": crop_to_aspect_ratio, "pad_to_aspect_ratio": pad_to_aspect_ratio,
        "lengths": lengths, "shuffle": shuffle, "follow_links": follow_links, "verbose": verbose,
    }  # fmt: skip
    _check_flags(flags)
    check_choice(f"{_NAME}: `color_mode`", color_mode, _CHANNELS)
    check_integer(f"{_NAME}: `num_frames`", num_frames, 1, 1_000_000)
    check_sampling(_NAME, num_frames, sampling, stride)
    check_rate(f"{_NAME}: `frames_per_second`", frames_per_second)
    check_integer(f"{_NAME}: `batch_size`", 1 if batch_size is None else batch_size, 1, 1_000_000)
    check_integer(f"{_NAME}: `seed`", 0 if seed is None else seed, 0, 2**63 - 1)
    _check_subset(validation_split, subset, groups)
    image_size, channels = checked_size(_NAME, image_size), _CHANNELS[color_mode]
    fit = "crop" if crop_to_aspect_ratio else "letterbox" if pad_to_aspect_ratio else "stretch"
    form = {"image_size": image_size, "channels": channels, "invert": False, "fit": fit}

    clips = find_clips(as_path(f"{_NAME}: `directory`", directory))
    numbers, names = _labeled(clips, labels, class_names)
    targets = _targets(numbers, len(names), label_mode)
    if labels is None:
        targets = None
    parts = _parts(clips, validation_split, groups, seed or 0)
    choice = {"sampling": sampling, "stride": stride, "frames_per_second": frames_per_second}
    if cache is not None and not isinstance(cache, ClipCache):
        folder = as_path(f"{_NAME}: `cache`", cache)
        folder.mkdir(parents=True, exist_ok=True)
        cache = ClipCache(form, frames_per_second=frames_per_second, folder=folder)
    if verbose:
        print(f"Found {len(clips):,} clips belonging to {len(names):,} classes.")

    def dataset(part):
        chosen, order = parts[part], None
        if verbose and subset:
            print(f"Using {len(chosen):,} clips for {part}.")
        if shuffle and part == "training":
            order = int(np.random.randint(2**31)) if seed is None else int(seed)
        data = _dataset(
            [clips[i] for i in chosen],
            None if targets is None else targets[chosen],
            functools.partial(_read, num_frames, lengths, cache=cache, form=form, **choice),
            shape=(num_frames, *image_size, channels),
            batch_size=batch_size,
            lengths=lengths,
            seed=order,
        )
        data.class_names, data.file_paths = list(names), [str(clips[i].path) for i in chosen]
        return data

    if subset == "both":
        return tuple(map(dataset, _SUBSETS))
    return dataset(subset or "training")


def _read(num_frames, lengths, clip, rng, *, cache, form, **choice) -> np.ndarray:
    """The frames of a clip, of which the last one is repeated if lengths are of no interest."""

    def choose(info):
        return sample_indices(info.frames, num_frames, rate=info.rate, rng=rng, **choice)

    frames = read_chosen(clip, choose, cache=cache, form=form)
    return frames if lengths else frames[np.arange(num_frames).clip(max=len(frames) - 1)]


def _dataset(clips, targets, read, *, shape, batch_size, lengths, seed):
    """Batches of each clip once, in a new order on each pass if there is a seed."""
    count, size = len(clips), batch_size or _READ
    steps = math.ceil(count / size)
    passes = itertools.count()

    def load(place):
        number = number_at(place, count, seed)
        return read(clips[number], random_at(seed, FRAMES, place)), number, 1.0

    def places(batch):
        """The elements of a batch. Those of each pass follow those of the one before."""
        number, step = divmod(batch, steps)
        if number and seed is None:  # nothing is read beyond the only pass
            return range(0)
        return range(number * count + step * size, number * count + min((step + 1) * size, count))

    def batches_of_pass(_):
        number = tf.numpy_function(lambda: np.int64(next(passes)), [], tf.int64)
        number = tf.ensure_shape(number, ()) * steps
        return tf.data.Dataset.range(number, number + steps)

    def element(inputs, numbers):
        frames = inputs if lengths else inputs["frames"]
        return frames if targets is None else (frames, tf.gather(targets, numbers))

    numbers = tf.data.Dataset.range(steps)
    if seed is not None:
        numbers = tf.data.Dataset.range(1).flat_map(batches_of_pass)
    data = loaded_batches(numbers, load, places, tf.TensorSpec((None, *shape), tf.uint8, "frames"))
    data = data.map(element)
    if batch_size is None:
        data, steps = data.unbatch(), count
    return data.apply(tf.data.experimental.assert_cardinality(steps))


def _labeled(clips: Sequence[Clip], labels, class_names) -> tuple[np.ndarray, list[str]]:
    """The number of each clip's class `(N,)`, and the names of the classes."""
    if class_names is not None:
        check_names(f"{_NAME}: `class_names`", class_names)
    if isinstance(labels, str | None):
        if labels is not None:
            check_choice(f"{_NAME}: `labels`, where it is no list,", labels, ["inferred"])
        folders = {clip.class_name for clip in clips}
        names = class_names
        if names is None:
            names = list(classes_of(clips))
        if sorted(names) != sorted(folders):
            raise ValueError(
                f"{_NAME}: `class_names` must be the names of the class folders, "
                f"{short_repr(sorted(folders))}; received {short_repr(class_names)}."
            )
        return np.array([names.index(clip.class_name) for clip in clips]), list(names)
    most = 1_000_000 if class_names is None else len(class_names) - 1
    numbers = as_integers(f"{_NAME}: `labels`", labels, len(clips), 0, most)
    return numbers, list(class_names or map(str, range(numbers.max() + 1)))


def _targets(numbers, count, label_mode) -> np.ndarray | None:
    """What a model is to answer, in the form of Keras."""
    if label_mode is None:
        return None
    check_choice(f"{_NAME}: `label_mode`", label_mode, ("int", "categorical", "binary"))
    if label_mode == "categorical":
        return (numbers[:, None] == np.arange(count)).astype(np.float32)  # (N, K)
    if label_mode == "int":
        return numbers.astype(np.int32)
    if count != 2:
        raise ValueError(
            f'{_NAME}: `label_mode` must be "int" or "categorical" unless there are two classes; '
            f'received "binary" for {count}.'
        )
    return numbers.astype(np.float32)[:, None]


def _parts(clips, share, groups, seed) -> dict[str, list[int]]:
    """The numbers of the clips that train and of those that validate, each in their order."""
    if share is None:
        return {"training": list(range(len(clips)))}
    split = split_clips(clips, shares=(1 - share, 0.0, share), groups=groups, seed=seed)
    number = {clip.name: i for i, clip in enumerate(clips)}
    parts = zip(_SUBSETS, (split.train, split.test), strict=True)
    return {name: sorted(number[clip.name] for clip in part) for name, part in parts}


def _check_flags(flags) -> None:
    for name, flag in flags.items():
        check_instance(f"{_NAME}: `{name}`", flag, bool, "True or False")
    if flags["follow_links"]:
        raise ValueError(
            f"{_NAME}: `follow_links` must be False, since a link can show a clip twice, on both "
            "sides of a split; received True. Move or copy the clips into the directory."
        )
    if flags["crop_to_aspect_ratio"] and flags["pad_to_aspect_ratio"]:
        raise ValueError(
            f"{_NAME}: only one of `crop_to_aspect_ratio` and `pad_to_aspect_ratio` may be True; "
            "received both."
        )


def _check_subset(validation_split, subset, groups) -> None:
    if validation_split is not None:
        check_number(f"{_NAME}: `validation_split`", validation_split, 0.001, 0.999)
    if subset is not None:
        check_choice(f"{_NAME}: `subset`", subset, (*_SUBSETS, "both"))
    if (validation_split is None) != (subset is None):
        raise ValueError(
            f"{_NAME}: `validation_split` and `subset` must be given together; received "
            f"{validation_split} and {subset}."
        )
    if groups is not None and subset is None:
        raise ValueError(
            f"{_NAME}: `groups` must be None without `validation_split`, since nothing is divided; "
            f"received {short_repr(groups)}."
        )
