"""The data source of clips in a folder."""

import copy
import dataclasses
import functools
import math
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import tensorflow as tf

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.captions import caption_task, captioned, clip_captions
from keras_cnnlstm.data.clip_batches import clip_copy, clip_sequences
from keras_cnnlstm.data.clip_cache import ClipCache, read_chosen
from keras_cnnlstm.data.clip_checks import report_of, shared_signatures, survey
from keras_cnnlstm.data.clip_report import printable
from keras_cnnlstm.data.clips import Clip, Problem, find_clips, read_clip, scan_clips
from keras_cnnlstm.data.digit_batches import described
from keras_cnnlstm.data.labels import (
    TASK_OF,
    labelled_clips,
    read_labels,
    read_stored,
    write_labels,
)
from keras_cnnlstm.data.run_files import (
    LISTS,
    Encodes,
    read_left_out,
    read_task,
    save_task,
    write_example,
)
from keras_cnnlstm.data.splits import (
    Split,
    groups_of,
    read_split,
    training_splits,
    write_split,
)
from keras_cnnlstm.runtime.memory import available_memory
from keras_cnnlstm.tasks.registry import task_class
from keras_cnnlstm.tasks.task import Task
from keras_cnnlstm.tasks.vocabulary import Vocabulary
from keras_cnnlstm.utils.environment import progress_line, user_cache
from keras_cnnlstm.utils.files import write_text

_LABELS = "labels.jsonl"  # in a run directory, so that the table may change
_COPIES = 4  # of each training clip that are encoded, if it is augmented or mirrored
_HELD = 4096  # clips whose features are in memory
_CHOOSES, _CALIBRATES = 0.15, 0.07  # shares of the validation
_SHORT = 0.5  # seconds of work of which nothing is said
_MOST_DISK = 20_000_000_000  # bytes of decoded clips in the user's cache folder
_UNEQUAL = 3  # times as many clips of one class as of another are noted
_TOLD = 5  # clips left out, and leaks, that are printed; all are listed in the run directory


class ClipSource:
    """Clips in a folder, split by their groups.

    Args:
        config: the options of the run: `data`, how frames are read and clips are split.
        run: a run directory whose split is kept; by default the clips are checked, each frame of
            each, and a new split is made.

    Attributes:
        task: which class a clip belongs to, or what is said of it.
        split: the clips of training, validation and test.
        left_out: clips that cannot be read, with the reason, where `skip_broken` allows that.
        leaks: frames of a part that another part has too, pixel for pixel.
        steps_per_epoch: training batches from one validation to the next: all clips once, unless
            the options say otherwise.

    Raises:
        ValueError: if a clip cannot be read, or the clips cannot be split.
        FileNotFoundError: if there is no such folder, or a clip of the run's is no longer there.
    """

    def __init__(self, config: TrainConfig, run: Path | None = None):
        self._config = config = config.resolved
        self._features: Callable[[Clip], np.ndarray] | None = None
        self._skip = 0  # frames of each clip that have no features
        self._cache = decoded_clips(config)
        clips, problems = folder_clips(config, run)
        speaks = task_class(config.task or "clip", clips=True).output == "tokens"
        self._captions = clip_captions(config.data, clips) if speaks else None
        self._strays: list[str] = []
        self._dark: list[str] = []
        self.left_out: list[str] = []
        self.leaks: list[str] = []
        self._folds: list[Split] = []
        if run is None:
            self._survey(clips, problems)
        else:
            self.left_out = read_left_out(run)
            broken = tuple(self.left_out)
            clips = [c for c in clips if not any(x.startswith(_left_out(c.name)) for x in broken)]
            self._decide(read_split(run / "split.csv", clips), read_task(run))

    def _decide(self, split: Split, known: Any = None) -> None:
        """Sets the split and the task, by the classes of the clips or those of a known task."""
        self.split, config = split, self._config
        self.steps_per_epoch = config.steps_per_epoch or math.ceil(
            len(split.train) / (config.batch_size or 1)
        )
        self.training_task = self.task = self._task(known)

    def _apart(self) -> Mapping[str, list[Clip]]:
        """What should have no frame in common: the parts of the split, or the folds."""
        tests = {f"fold {k}": fold.test for k, fold in enumerate(self._folds, start=1)}
        return tests or self.split

    def folds(self) -> list[Self]:
        """The sources of the folds, each with its split and with what is fitted to its clips.

        They share the check of the clips. None where the options ask for no folds.
        """
        return [self._of_fold(split) for split in self._folds]

    def _of_fold(self, split):
        source = copy.copy(self)
        source._config = dataclasses.replace(self._config, folds=None, ensemble_folds=False)
        source._folds, source.leaks = [], []
        source._decide(split)
        return source

    def _task(self, known) -> Any:
        config, split = self._config, self.split
        length, clips = config.length or 16, [clip for part in split.values() for clip in part]
        if self._captions is None:
            named: Any = task_class(config.task or "clip", clips=True)
            return known or named.for_clips(clips, split.train, length=length)
        train = [self._captions[clip.name] for clip in split.train]
        vocabulary = known.vocabulary if known else Vocabulary.of(train)
        return caption_task(captioned(clips, self._captions), length=length, vocabulary=vocabulary)

    def _survey(self, clips, problems) -> None:
        """Decodes all clips once: refuses or leaves out broken ones, and looks for leaks.

        What can be said without decoding is said before.
        """
        config, root = self._config, Path(self._config.data)
        self._leave_out(problems)
        groups = groups_of(clips, config.groups)
        if not config.skip_broken:
            self._decide(self._divided(clips, groups))
        progress = progress_line(doing="clips")
        found = survey(root, clips, cache=self._cache, progress=progress)
        report = report_of(root, clips, problems, found)
        self._leave_out(report.problems)
        if config.skip_broken:
            self._decide(self._divided(report.usable, groups))
        self._dark = [f"{p.place}: {p.reason}" for p in report.problems if p.type == "depth"]
        for problem in report.problems:
            place = "" if problem.place == "." else f"{problem.place}/"
            self._strays += [f"{place}{name}" for name in problem.files]
        signatures = {clip: each.signatures for clip, each in zip(clips, found, strict=True)}
        self.leaks = [
            f"{shared.clip.name} frame {shared.frame} ({shared.part}) is "
            f"{shared.other.name} frame {shared.other_frame} ({shared.other_part})"
            for shared in shared_signatures(self._apart(), signatures)
        ]

    def _divided(self, clips, groups) -> Split:
        """The split of the clips; of folds the first one.

        Fewer clips validate where that chooses no epoch, and only calibrates.
        """
        config = self._config
        if config.folds and any(clip.label and clip.label.split for clip in clips):
            raise ValueError(
                f"folds must be left out where {config.labels or config.data} prescribes the "
                f"split; received {config.folds}."
            )
        share = _CHOOSES if config.keep == "best" or config.patience else _CALIBRATES
        options: dict[str, Any] = {"groups": groups, "validation": share}
        splits = training_splits(clips, folds=config.folds, seed=config.seed, **options)
        self._folds = splits if config.folds else []
        return splits[0]

    def _leave_out(self, problems) -> None:
        """Refuses clips that cannot be read, or lists them."""
        config = self._config
        reasons: dict[str, list[str]] = {}
        for problem in problems:
            if problem.fatal:
                reasons.setdefault(problem.clip or problem.place, []).append(problem.reason)
        self.left_out = [
            _left_out(name, first, *(f"and {len(others)} more" for _ in others[:1]))
            for name, (first, *others) in reasons.items()
        ]
        if self.left_out and not config.skip_broken:
            first = "; ".join(self.left_out[:3])
            raise ValueError(
                f"data: {len(self.left_out)} of the clips in {config.data} cannot be read ({first}"
                f"{'; ...' if len(self.left_out) > 3 else ''}). See keras-cnnlstm validate "
                f"{config.data}; mend or remove them, or leave them out with --skip-broken."
            )

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` that frames are brought to."""
        assert self._config.image_size is not None  # filled in for clips
        return (*self._config.image_size, self._config.channels)

    def describe(self) -> str:
        """What there is, on one line, and a line for each clip left out and each leak.

        Also a note if the classes are of very different size.
        """
        parts = (f"{len(clips):,} {name}" for name, clips in self._apart().items())
        count, of = len(self.task.output_names), self.task.outputs_name
        text = f"{self._config.data}: {count} {of}, clips: {', '.join(parts)}"
        if strays := self._strays:
            names = ", ".join(strays[:_TOLD]) + (", ..." if len(strays) > _TOLD else "")
            text += f"; left out: {len(strays):,} other files ({printable(names)})"
        counts = Counter(clip.class_name for part in self.split.values() for clip in part)
        (most, many), (least, few) = (counts.most_common()[place] for place in (0, -1))
        if many >= _UNEQUAL * few and self.task.classifies and not self.task.per_step:
            text += (
                f"\nnote      {many:,} clips of {most}, but {few:,} of {least}: look at the recall "
                "of each class, since accuracy says little"
            )
        if self._dark and not self._config.depth_range:
            text += f"\nnote      {self._dark[0]}"
        for what, found in (("left out", self.left_out), ("leak", self.leaks)):
            text += "".join(f"\n{what:9} {line}" for line in found[:_TOLD])
            if len(found) > _TOLD:
                text += f"\n{what:9} and {len(found) - _TOLD:,} more, in {LISTS[what]}"
        return text

    @property
    def encodes(self) -> Encodes:
        """Where the encoder is frozen, unless nothing is to be kept."""
        return "if_frozen" if self._cache else "never"

    @property
    def shows_neighbours(self) -> bool:
        """Where a clip is not read in parts or steps."""
        return self._config.sampling in ("window", "first") and self._config.stride == 1

    def encode(self, features: Callable[[str, Any], np.ndarray], *, skip: int = 0) -> None:
        """Has the frames of all clips encoded once; batches then hold features.

        Training clips that are augmented or mirrored are encoded in several copies.
        """
        cache, config = self._cache, self._config
        assert cache is not None  # or nothing would be encoded
        affine, flip = config.transforms["affine"], config.flip
        number = _COPIES if affine or flip else 1
        training = {clip.name for clip in self.split.train}

        def of_copy(clip, copy):
            def frames():
                kept = read_chosen(clip, cache.chosen, cache=cache, form=cache.form)
                return clip_copy(kept, copy, clip.name, affine=affine, flip=flip)

            transform = f" copy {copy} of affine {affine} flip {flip}" if copy else ""
            return features(cache.name(clip) + transform, frames)

        @functools.lru_cache(maxsize=_HELD)
        def of_clip(clip):
            copies = number if clip.name in training else 1
            return np.stack([of_copy(clip, copy) for copy in range(copies)])

        clips = [clip for part in self.split.values() for clip in part]
        progress, begun = progress_line(doing="encoding"), time.monotonic()
        for done, clip in enumerate(clips, start=1):
            of_clip(clip)
            if time.monotonic() - begun > _SHORT:  # else all are there from a run before
                progress(done, len(clips))
        self._features, self._skip = of_clip, skip

    def training(
        self, *, start: int = 0, rows: slice | None = None, training_task: bool = False
    ) -> tf.data.Dataset:
        """Endless training batches, from batch `start` on; of each these rows, by default all."""
        config = self._config
        options: dict[str, Any] = {"affine": config.transforms["affine"], "flip": config.flip}
        if self._features:  # whose copies were moved before they were encoded
            options = {"features": self._features}
        weights = self._weights()
        if weights:
            options["weight"] = lambda clip: weights[clip.name]
        options |= {"balance": config.balance or 0.0, "seed": config.seed}
        return self._batches(self.split.train, start=start, rows=rows, **options)

    def _weights(self) -> dict[str, float]:
        """How much each training clip counts, by its name; none if all count 1."""
        train = self.split.train
        weights = {clip.name: clip.label.weight if clip.label else 1.0 for clip in train}
        if self._config.class_weight == "balanced":
            sums: dict[str, float] = defaultdict(float)
            for clip in train:
                sums[clip.class_name] += weights[clip.name]
            share = sum(sums.values()) / len(sums)
            weights = {c.name: weights[c.name] * share / sums[c.class_name] for c in train}
        return weights if set(weights.values()) - {1.0} else {}

    def validation(
        self, *, rows: slice | None = None, training_task: bool = False
    ) -> tf.data.Dataset:
        """The batches of each validation, each clip once; of each batch these rows."""
        return self._batches(self.split.validation, features=self._features, rows=rows)

    def tests(self, num_sequences: int | None = None) -> dict[str, tf.data.Dataset]:
        """The test clips, each once: `{"clips": batches}`."""
        clips = spread(self.split.test, num_sequences)
        return {"clips": self._batches(clips, features=self._features)}

    @property
    def training_sequences(self) -> int:
        """How many clips the training sees."""
        return len(self.split.train)

    @property
    def digit_images(self) -> None:
        """None: clips are not drawn from images of single digits."""
        return None

    def test_names(self, num_sequences: int | None = None) -> list[str]:
        """The names of the clips of `tests`, in their order."""
        return [clip.name for clip in spread(self.split.test, num_sequences)]

    def test_groups(self, num_sequences: int | None = None) -> list[str]:
        """The groups of the clips of `tests`, in their order."""
        return [self.split.groups[name] for name in self.test_names(num_sequences)]

    def _batches(self, clips, **options):
        if self._captions is not None:
            clips = captioned(clips, self._captions)
        options |= {"cache": self._cache, "features_skip": self._skip}
        return clip_batches(self._config, self.task, clips, **options)

    def save(self, path: Path) -> None:
        """Writes `split.csv`, `task.json` and `example/`, a test clip, into a run directory.

        Also the labels of a table, the clips that were left out and the leaks, if there are any.
        """
        write_split(path / "split.csv", self.split)
        if self._config.labels:
            clips = (clip for part in self.split.values() for clip in part)
            write_labels(path / _LABELS, clips, Path(self._config.data))
        save_task(path, self._config, self.task)
        self.save_lists(path)
        height, width, channels = self.frame_shape
        size, fit = (height, width), self._config.fit
        form: dict[str, Any] = {"image_size": size, "channels": channels, "fit": fit}
        frames = read_clip(self.split.test[0], **form, depth_range=self._config.depth_range)
        write_example(path / "example", frames)

    def save_lists(self, path: Path) -> None:
        """Writes which clips were left out, and the leaks, if there are any."""
        for what, found in (("left out", self.left_out), ("leak", self.leaks)):
            if found:
                write_text(path / LISTS[what], "".join(f"{line}\n" for line in found))


def folder_clips(config: TrainConfig, run: Path | None = None) -> tuple[list[Clip], list[Problem]]:
    """The clips that the options name, by folder or by table, and what is wrong around them.

    Of a run that has labels these, since the table may have changed.

    Raises:
        FileNotFoundError: if there is no such folder or table.
        ValueError: if the table is wrong, or labels clips in another way than the task asks.
    """
    root = Path(config.data)
    if config.labels is None:
        return scan_clips(root)
    if run is not None:
        return read_stored(run / _LABELS, root), []
    table = read_labels(config.labels, root, frame_numbers=config.frame_numbers)
    table.check()
    asked = config.task or "clip"
    if TASK_OF[table.type] != asked:
        raise ValueError(
            f"task must be {TASK_OF[table.type]} with the columns of {config.labels}; received "
            f"{asked}."
        )
    return labelled_clips(table, root)


def _left_out(name, *reasons) -> str:
    """The line of a clip, or a folder, that is left out."""
    return printable(f"{name}: {'; '.join(reasons)}")


def folder_tests(
    config: TrainConfig,
    task: Any,
    root: str,
    num_sequences: int | None = None,
    labels: str | None = None,
) -> tuple[dict[str, tf.data.Dataset], Task]:
    """All clips of a folder as test data for a model that was trained on others.

    Args:
        config: the options of the run, which say how frames are read.
        task: that of the run.
        root: the folder.
        num_sequences: clips to take at most; by default all.
        labels: the table of their labels, as `TrainConfig.labels`; by default the class of a clip
            is the folder that it lies in.

    Returns:
        The batches, by the name `folder`, and the task: of captions one with those of the folder.
    """
    if labels is None and task.needs_labels:
        raise ValueError(
            f"labels must be a table of the {task.outputs_name} of the clips in {root}; received "
            "None."
        )
    if labels is None:
        clips = find_clips(root)
    else:
        clips, _ = folder_clips(dataclasses.replace(config, data=root, labels=labels))
    if task.output == "tokens":
        clips = captioned(clips, clip_captions(root))
        task = caption_task(clips, length=task.length, vocabulary=task.vocabulary)
    elif unknown := task.names_in(clips) - set(task.output_names):
        raise ValueError(
            f"data: expected clips of the {task.outputs_name} {', '.join(task.output_names)}; "
            f"{root} also has {', '.join(sorted(unknown))}."
        )
    cache = decoded_clips(config)
    return {"folder": clip_batches(config, task, spread(clips, num_sequences), cache=cache)}, task


def decoded_clips(config: TrainConfig) -> ClipCache | None:
    """The cache of decoded clips that a run's options ask for."""
    if config.cache == "none":
        return None
    form: dict[str, Any] = {"image_size": config.image_size, "channels": config.channels}
    form |= {"invert": config.invert, "fit": config.fit, "depth_range": config.depth_range}
    options: dict[str, Any] = {"frames_per_second": config.frames_per_second or None}
    if config.cache:
        folder = Path(config.cache)
        folder.mkdir(parents=True, exist_ok=True)
        return ClipCache(form, folder=folder, **options)
    options["memory"] = available_memory() // 4
    try:
        folder = user_cache()
        folder.mkdir(parents=True, exist_ok=True)
        disk = min(_MOST_DISK, shutil.disk_usage(folder).free // 3)
    except (OSError, RuntimeError):  # there is no such place, or no home
        return ClipCache(form, **options)
    return ClipCache(form, folder=folder, disk=disk, **options)


def spread(clips, count):
    """At most `count` of the clips, from all over the list, which goes class by class."""
    return clips if count is None else clips[:: math.ceil(len(clips) / count)]


def clip_batches(config, task, clips, **options):
    """Batches of clips, read as a run with these options reads them."""
    data = clip_sequences(
        clips,
        image_size=config.image_size,
        channels=config.channels,
        length=task.length,
        sampling=config.sampling,
        stride=config.stride,
        frames_per_second=config.frames_per_second or None,
        invert=config.invert,
        fit=config.fit,
        depth_range=config.depth_range,
        batch_size=config.batch_size,
        **_asked(config, task),
        **options,
    )
    return described(data, task) if task.output == "tokens" else data


def _asked(config, task) -> dict[str, Any]:
    """The options of `clip_sequences` that say what the target of a clip is."""
    if task.output == "tokens":  # a caption is a class here
        return {"class_names": task.class_names}
    skip = config.motion_lag if config.motion != "none" else 0
    return {"target": task.clip_target, "target_skip": skip if task.per_step else None}
