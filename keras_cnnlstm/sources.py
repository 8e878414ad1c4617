"""Where the data of a run comes from: digits that are drawn, or clips in a folder.

Both kinds of source answer the same questions: what is asked (`task`), the shape of an image, and
the batches of training, validation and test. So training and evaluation know neither of them.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_cnnlstm.arguments import check_kind
from keras_cnnlstm.captions import caption_task, captioned, clip_sentences
from keras_cnnlstm.clip_batches import clip_sequences
from keras_cnnlstm.clip_cache import fingerprint
from keras_cnnlstm.clip_checks import check_clips
from keras_cnnlstm.clips import Clip, find_clips, read_clip
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.digits import DigitSplits, EncodedImages, LabeledImages, load_digits
from keras_cnnlstm.features import FeatureCache, encode_images, frames_key
from keras_cnnlstm.files import read_text, replacing, write_text
from keras_cnnlstm.leakage import progress_line, shared_frames
from keras_cnnlstm.pipeline import batches, described, distorted_copy
from keras_cnnlstm.runs import Run, read_classes, read_vocabulary
from keras_cnnlstm.sentences import Caption, Captions, Description, Sentence
from keras_cnnlstm.splits import Split, read_split, split_clips, write_split
from keras_cnnlstm.tasks import TASKS, Classes, Digits, Label, Task, Trend
from keras_cnnlstm.trends import TrendSoFar
from keras_cnnlstm.vocabulary import Vocabulary

# Negative, so that no training run draws the same sequences.
_VALIDATION_SEED, _TEST_SEED = -1, -2
_TEST_BATCH = 250
_TOLD = 5  # clips left out, and leaks, that are printed; all are listed in the run directory
_LISTS = {"left out": "left_out.txt", "leak": "leaks.txt"}


class DigitSource:
    """Labelled images, of which sequences are drawn for a task.

    Args:
        config: the options of the run: `dataset`, `task` and its lengths, batches.

    Attributes:
        task: what is asked of a sequence, with as many digits as the images have classes.
        lesson: what is learned: the task, or more than it.
        splits: the images.
        steps_per_epoch: training batches from one validation to the next.

    Raises:
        ValueError: if there is no such data set.
        ConnectionError: if it is not on this machine and cannot be had.
    """

    def __init__(self, config: TrainConfig):
        self.splits: DigitSplits = load_digits(config.dataset, config.data_dir)
        self.task = digit_task(config, self.splits.train)
        self.lesson = self.task
        if config.so_far:
            size = self.task.length, self.task.num_digits
            self.lesson = TrendSoFar(*size, reorder=config.reorder, regroup=config.regroup)
        self.steps_per_epoch = config.steps_per_epoch
        self._config = config
        self._encoded: dict[str, EncodedImages] = {}  # of which parts features are drawn

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of a frame."""
        return self.splits.train.image_shape

    def describe(self) -> str:
        """What there is, on one line."""
        parts = (f"{len(part):,} {name}" for name, part in self.splits._asdict().items())
        return f"{self._config.dataset}: {', '.join(parts)}"

    @property
    def _distortion(self) -> dict[str, Any]:
        config = self._config
        return {
            "augment": config.augment * config.distortion,
            "elastic": config.augment * config.elastic,
            "erasing": config.augment * config.erasing,
            "untouched": config.untouched,
        }

    def encode(self, cache: FeatureCache) -> None:
        """Has the images of training and validation encoded; batches then hold features.

        Those of training in so many distorted copies as the options say; undistorted, once.
        """
        config, progress = self._config, progress_line("copies of the training images")
        train, validation, _ = self.splits
        copies = config.cached_copies if config.augment else 1
        key = f"{frames_key(train.images)} {self._distortion} {config.seed}"

        def features(number):
            def frames():
                return distorted_copy(train, number, seed=config.seed, **self._distortion)

            return cache.features(f"{key} {number}", frames)

        parts = []
        for number in range(copies):
            parts.append(features(number))
            if progress:
                progress(number + 1, copies)
        self._encoded = {
            "train": EncodedImages(np.concatenate(parts), np.tile(train.labels, copies)),
            "validation": EncodedImages(encode_images(cache, validation.images), validation.labels),
        }

    def training(
        self, *, start: int = 0, rows: slice | None = None, lesson: bool = False
    ) -> tf.data.Dataset:
        """Endless training batches, from batch `start` on; of each these rows, by default all.

        With the targets of the task, or of the lesson; of the same frames.
        """
        config = self._config
        encoded = self._encoded.get("train")
        return batches(
            encoded or self.splits.train,
            self.lesson if lesson else self.task,
            batch_size=config.batch_size,
            seed=config.seed,
            balance=config.balance,
            start=start,
            rows=rows,
            **({} if encoded else self._distortion),
        )

    def validation(self, *, rows: slice | None = None, lesson: bool = False) -> tf.data.Dataset:
        """The batches of each validation, whole ones if sequences are drawn; of each these rows.

        With the targets of the task, or of the lesson.
        """
        size = self._config.batch_size or 1
        images = self._encoded.get("validation") or self.splits.validation
        count = len(images) if isinstance(self.task, Label) else self._config.validation_sequences
        return batches(
            images,
            self.lesson if lesson else self.task,
            batch_size=size,
            seed=_VALIDATION_SEED,
            balance=0.0,
            num_sequences=math.ceil(count / size) * size,
            rows=rows,
        )

    def tests(self, num_sequences: int | None = None) -> dict[str, tf.data.Dataset]:
        """The test batches of each score; see `digit_tests`."""
        count = num_sequences or self._config.test_sequences
        return digit_tests(self.splits.test, self.task, num_sequences=count)

    def save(self, path: Path) -> None:
        """Writes `example/`, a test sequence or image, into a run directory; and the vocabulary."""
        _save_vocabulary(path, self.task)
        balance = 1.0 if isinstance(self.task, Trend) else 0.0
        data = batches(
            self.splits.test, self.task, batch_size=1, seed=0, balance=balance, num_sequences=1
        )
        for frames, *_ in data.take(1):
            if isinstance(frames, dict):  # of unequal length, or beside words
                length = int(frames["lengths"][0]) if "lengths" in frames else None
                frames = frames["frames"][:, :length]
            frames = np.asarray(frames)[0]  # (T, H, W, C), or one image (H, W, C)
            write_example(path / "example", frames if frames.ndim == 4 else frames[None])


def digit_task(config: TrainConfig, images: LabeledImages) -> Trend | Digits:
    """The task of a run, with as many digits as the images have classes."""
    if config.task == "sentence":
        kind = Caption if config.length == 1 else Sentence
        return kind(config.length or 1, images.num_classes)
    options = {} if config.task in ("trend", "label") else {"min_length": config.min_length}
    return TASKS[config.task or "trend"](config.length, images.num_classes, **options)


def digit_tests(
    images: LabeledImages, task: Trend | Digits, *, num_sequences: int = 10_000
) -> dict[str, tf.data.Dataset]:
    """Test batches of digits, always the same sequences of them.

    Args:
        images: the test digits.
        task: what is asked of a sequence of them.
        num_sequences: how many sequences to draw for each score. Single images (`Label`) are not
            drawn: each comes once.

    Returns:
        For a `Trend` two scores' batches, `natural`, where each digit is uniform, and `balanced`,
        where each class is; for other tasks `natural` alone.
    """
    kinds = {"natural": 0.0, "balanced": 1.0} if isinstance(task, Trend) else {"natural": 0.0}
    options: dict[str, Any] = {"batch_size": _TEST_BATCH, "seed": _TEST_SEED}
    return {
        name: batches(images, task, balance=balance, num_sequences=num_sequences, **options)
        for name, balance in kinds.items()
    }


class ClipSource:
    """Clips in a folder, split by their groups.

    Args:
        config: the options of the run: `data`, how frames are read and clips are split.
        run: a run directory whose split is kept; by default the clips are checked, each frame of
            each, and split anew.

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
        assert config.data is not None  # hence a source of clips
        self._config = config
        self._features: Callable[[Clip], np.ndarray] | None = None
        self.left_out: list[str] = []
        self.leaks: list[str] = []
        if run is None:
            usable = self._checked(config)
            names = dict.fromkeys(clip.class_name for clip in usable)
            self.split: Split = split_clips(usable, groups=config.groups)
            self.leaks = [
                f"{shared.clip.name} frame {shared.frame} ({shared.part}) is "
                f"{shared.other.name} frame {shared.other_frame} ({shared.other_part})"
                for shared in shared_frames(self.split, progress=progress_line())
            ]
        else:
            self.left_out = _left_out(run)
            broken = {line.split(": ", 1)[0] for line in self.left_out}
            clips = [clip for clip in find_clips(config.data) if clip.name not in broken]
            self.split = read_split(run / "split.csv", clips)
            names = {} if config.task == "sentence" else dict.fromkeys(read_classes(run))
        self._sentences = clip_sentences(config.data) if config.task == "sentence" else None
        self.task: Task = self._task(names, run)
        self.lesson = self.task
        self.steps_per_epoch = config.steps_per_epoch or math.ceil(
            len(self.split.train) / (config.batch_size or 1)
        )

    def _task(self, names, run) -> Task:
        if self._sentences is None:
            return Classes(tuple(names), self._config.length or 16)
        train = [self._sentences[clip.name] for clip in self.split.train]
        known = run and (run / "vocabulary.json").exists()
        vocabulary = read_vocabulary(run) if known else Vocabulary.of(train)
        clips = captioned((c for part in self.split.values() for c in part), self._sentences)
        return caption_task(clips, length=self._config.length or 16, vocabulary=vocabulary)

    def _checked(self, config) -> list[Clip]:
        """The clips that can be read; refuses the others, or lists them."""
        report = check_clips(config.data, progress=progress_line())
        self.left_out = [f"{p.clip or p.place}: {p.reason}" for p in report.failures]
        if self.left_out and not config.skip_broken:
            first = "; ".join(self.left_out[:3])
            raise ValueError(
                f"data: {len(self.left_out)} of the clips in {config.data} cannot be read ({first}"
                f"{'; ...' if len(self.left_out) > 3 else ''}). See keras-cnnlstm validate "
                f"{config.data}; mend or remove them, or leave them out with --skip-broken."
            )
        return report.usable

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` that frames are brought to."""
        assert self._config.image_size is not None  # filled in for clips
        return (*self._config.image_size, self._config.channels or 3)

    def describe(self) -> str:
        """What there is, on one line, and a line for each clip left out and each leak."""
        parts = (f"{len(clips):,} {name}" for name, clips in self.split.items())
        text = f"{self._config.data}: {self.task.num_classes} classes, clips: {', '.join(parts)}"
        for what, found in (("left out", self.left_out), ("leak", self.leaks)):
            text += "".join(f"\n{what:9} {line}" for line in found[:_TOLD])
            if len(found) > _TOLD:
                text += f"\n{what:9} and {len(found) - _TOLD:,} more, in {_LISTS[what]}"
        return text

    def encode(self, cache: FeatureCache) -> None:
        """Has the frames of training and validation encoded once; batches then hold features."""
        config, progress = self._config, progress_line()
        form: dict[str, Any] = {"image_size": config.image_size, "channels": config.channels}
        form["invert"] = config.invert
        clips = [*self.split.train, *self.split.validation]

        def features(clip):
            return cache.features(fingerprint(clip, form), lambda: read_clip(clip, **form))

        for done, clip in enumerate(clips, start=1):
            features(clip)
            if progress:
                progress(done, len(clips))
        self._features = features

    def training(
        self, *, start: int = 0, rows: slice | None = None, lesson: bool = False
    ) -> tf.data.Dataset:
        """Endless training batches, from batch `start` on; of each these rows, by default all."""
        config = self._config
        return self._batches(
            self.split.train,
            features=self._features,
            seed=config.seed,
            augment=config.augment * config.distortion,
            flip=config.flip,
            start=start,
            rows=rows,
        )

    def validation(self, *, rows: slice | None = None, lesson: bool = False) -> tf.data.Dataset:
        """The batches of each validation, each clip once; of each batch these rows."""
        return self._batches(self.split.validation, features=self._features, rows=rows)

    def tests(self, num_sequences: int | None = None) -> dict[str, tf.data.Dataset]:
        """The test clips, each once: `{"clips": batches}`."""
        return {"clips": self._batches(_spread(self.split.test, num_sequences))}

    def test_clips(self, num_sequences: int | None = None) -> list[Clip]:
        """The clips of `tests`, in their order."""
        return list(_spread(self.split.test, num_sequences))

    def _batches(self, clips, **options):
        if self._sentences is not None:
            clips = captioned(clips, self._sentences)
        return _clip_batches(self._config, self.task, clips, **options)

    def save(self, path: Path) -> None:
        """Writes `split.csv`, `classes.json` and `example/`, a test clip, into a run directory.

        Of clips that are described `vocabulary.json` in place of the classes.

        And what was left out, and leaks, if there are any.
        """
        write_split(path / "split.csv", self.split)
        if isinstance(self.task, Captions):
            _save_vocabulary(path, self.task)
        else:
            write_text(path / "classes.json", json.dumps(self.task.class_names) + "\n")
        for what, found in (("left out", self.left_out), ("leak", self.leaks)):
            if found:
                write_text(path / _LISTS[what], "".join(f"{line}\n" for line in found))
        height, width, channels = self.image_shape
        frames = read_clip(self.split.test[0], image_size=(height, width), channels=channels)
        write_example(path / "example", frames)


def _spread(clips, count):
    """At most so many of the clips, from all over their row, since it goes class by class."""
    return clips if count is None else clips[:: math.ceil(len(clips) / count)]


def _left_out(run):
    """The clips that the run was trained without, as they could not be read, with the reason."""
    path = run / _LISTS["left out"]
    return read_text(path).splitlines() if path.exists() else []


def _clip_batches(config, task, clips, **options):
    """Batches of clips, read as a run with these options reads them."""
    data = clip_sequences(
        clips,
        image_size=config.image_size,
        channels=config.channels,
        length=task.length,
        sampling=config.sampling,
        stride=config.stride,
        invert=config.invert,
        batch_size=config.batch_size,
        class_names=task.class_names,
        cache=config.cache,
        **options,
    )
    return described(data, task) if isinstance(task, Captions) else data


def batches_to_score(
    run: Run,
    *,
    dataset: str | None = None,
    data_dir: str | None = None,
    data: str | None = None,
    num_sequences: int | None = None,
) -> tuple[dict[str, tf.data.Dataset], Task]:
    """The test data of a run, or other data that its model is to be tested on.

    Args:
        run: the run.
        dataset: test digits of this data set; by default the one it was trained on.
        data_dir: folder of TensorFlow Datasets; by default the one it was trained with.
        data: all clips of this folder; by default the test clips of the one it was trained on.
        num_sequences: how many sequences to draw for each score, or clips to take at most; by
            default as in the training, and all clips.

    Returns:
        Batches by the name of the score, for `evaluation.score`, and the task.

    Raises:
        ValueError: if the data does not fit the run.
        FileNotFoundError: if there is no such folder, or a clip is missing.
        ConnectionError: if a data set cannot be had.
    """
    clips = run.config.data is not None
    if (dataset if clips else data) is not None:
        given, other = ("dataset", "data") if clips else ("data", "dataset")
        raise ValueError(
            f"{given}: expected none, since {run.path} was trained on "
            f"{'clips' if clips else 'digits'}; give --{other}."
        )
    if data is not None:
        found, clip_task = _folder_to_score(data, run)
        found = _spread(found, num_sequences)
        return {"folder": _clip_batches(run.config, clip_task, found)}, clip_task
    config = dataclasses.replace(
        run.config,
        dataset=dataset or run.config.dataset,
        data_dir=data_dir or run.config.data_dir,
    )
    source = open_source(config, run.path)
    if isinstance(source.task, Description) and source.task.vocabulary.names != run.class_names:
        raise ValueError(
            f"dataset: expected one that is described in the words of {run.path}, those in its "
            f"vocabulary.json; received {config.dataset}."
        )
    return source.tests(num_sequences), source.task


def _folder_to_score(data, run) -> tuple[list[Clip], Task]:
    """All clips of a folder, and what is asked of them."""
    length = run.config.length or 1
    if run.config.task != "sentence":
        return _clips_of_classes(data, run), Classes(run.class_names, length)
    clips = captioned(find_clips(data), clip_sentences(data))
    return clips, caption_task(clips, length=length, vocabulary=read_vocabulary(run.path))


def _clips_of_classes(data, run):
    """All clips of a folder, whose classes must be those of the run."""
    clips = find_clips(data)
    unknown = {clip.class_name for clip in clips} - set(run.class_names)
    if unknown:
        raise ValueError(
            f"data: expected clips of the classes of {run.path}, {', '.join(run.class_names)}; "
            f"{data} has {', '.join(sorted(unknown))} too."
        )
    return clips


def open_source(config: TrainConfig, run: Path | None = None) -> DigitSource | ClipSource:
    """The source that a run's options name.

    Args:
        config: the options.
        run: the run directory, if the run has one already: its split of clips is kept.

    Raises:
        ValueError: if the options name no data.
        FileNotFoundError: if there is no such folder of clips.
        ConnectionError: if the data set cannot be had.
    """
    check_kind(
        "open_source: `config`", config, TrainConfig, "a TrainConfig, as load_config reads it"
    )
    return ClipSource(config, run) if config.data else DigitSource(config)


def _save_vocabulary(path: Path, task: Task) -> None:
    """Writes the words that a describer is taught, if there are any."""
    if isinstance(task, Description):
        write_text(path / "vocabulary.json", task.vocabulary.to_json())


def write_example(path: Path, frames: np.ndarray) -> None:
    """Writes frames `(T, H, W, C)` uint8 as PNG files into a directory."""
    path.mkdir(exist_ok=True)
    digits = len(str(len(frames)))
    for t, frame in enumerate(frames, start=1):
        with replacing(path / f"{t:0{digits}}.png") as temporary:
            Image.fromarray(frame.squeeze(-1) if frame.shape[-1] == 1 else frame).save(temporary)
