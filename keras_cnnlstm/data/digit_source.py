"""The data source of digits: labelled images, of which sequences are drawn."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.augmentation import Augmentation
from keras_cnnlstm.data.datasets import DigitSplits, EncodedImages, LabeledImages, load_digits
from keras_cnnlstm.data.digit_batches import augmented_copy, batches
from keras_cnnlstm.data.run_files import Encodes, save_task, write_example
from keras_cnnlstm.tasks.digit_task import DigitTask
from keras_cnnlstm.tasks.registry import task_class
from keras_cnnlstm.utils.environment import progress_line
from keras_cnnlstm.utils.files import frames_key
from keras_cnnlstm.utils.validation import check_instance

# Negative, so that no training run draws the same sequences.
_VALIDATION_SEED, _TEST_SEED = -1, -2
_TEST_BATCH = 250
_COPIES = 8  # of each training image that are encoded, each augmented in its own way


class DigitSource:
    """Labelled images, of which sequences are drawn for a task.

    Args:
        config: the options of the run: `data`, `task` and its lengths, batches.

    Attributes:
        task: what is asked of a sequence, with as many digits as the images have classes.
        training_task: what is learned: the task, or more than it.
        splits: the images.
        steps_per_epoch: training batches from one validation to the next.

    Raises:
        ValueError: if there is no such data set.
        ConnectionError: if it is not on this machine and cannot be had.
    """

    def __init__(self, config: TrainConfig):
        config = config.resolved
        self.splits: DigitSplits = load_digits(config.data)
        self.task = digit_task(config, self.splits.train)
        self.training_task = self.task
        if config.supervision != "last":
            permuted = config.supervision == "permuted"
            self.training_task = self.task.at_every_step(permuted=permuted, group=config.group)
        self.steps_per_epoch = config.steps_per_epoch
        self._config = config
        self._encoded: dict[str, EncodedImages] = {}  # of which parts features are drawn

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of a frame."""
        return self.splits.train.image_shape

    def describe(self) -> str:
        """What there is, on one line."""
        parts = (f"{len(part):,} {name}" for name, part in self.splits._asdict().items())
        return f"{self._config.data}: {', '.join(parts)}"

    @property
    def encodes(self) -> Encodes:
        """With a cache always: there is nothing else of drawn digits to keep."""
        return "always" if self._config.cache_folder else "never"

    @property
    def shows_neighbours(self) -> bool:
        """Never: digits are drawn one by one."""
        return False

    def encode(self, features: Callable[[str, Any], np.ndarray], *, skip: int = 0) -> None:
        """Has the images of training and validation encoded; batches then hold features.

        Those of training in eight augmented copies; without augmentation once.
        """
        config, progress = self._config, progress_line("copies of the training images")
        augmentation = Augmentation(**config.transforms)
        train, validation, _ = self.splits
        copies = _COPIES if config.augments else 1
        key = f"{frames_key(train.images)} {config.transforms} {config.seed}"

        def of_copy(number):
            def frames():
                return augmented_copy(train, number, seed=config.seed, augmentation=augmentation)

            return features(f"{key} {number}", frames)

        parts = []
        for number in range(copies):
            parts.append(of_copy(number))
            if progress:
                progress(number + 1, copies)
        self._encoded = {
            "train": EncodedImages(np.concatenate(parts), np.tile(train.labels, copies)),
            "validation": EncodedImages(
                features(frames_key(validation.images), validation.images), validation.labels
            ),
        }

    def training(
        self, *, start: int = 0, rows: slice | None = None, training_task: bool = False
    ) -> tf.data.Dataset:
        """Endless training batches, from batch `start` on; of each these rows, by default all.

        With the targets of the task, or of the training task; of the same frames.
        """
        config = self._config
        encoded = self._encoded.get("train")
        return batches(
            encoded or self.splits.train,
            self.training_task if training_task else self.task,
            batch_size=config.batch_size,
            seed=config.seed,
            balance=config.balance,
            start=start,
            rows=rows,
            **({} if encoded else {"augmentation": Augmentation(**config.transforms)}),
        )

    def validation(
        self, *, rows: slice | None = None, training_task: bool = False
    ) -> tf.data.Dataset:
        """The batches of each validation, whole ones if sequences are drawn; of each these rows.

        With the targets of the task, or of the training task.
        """
        size = self._config.batch_size or 1
        images = self._encoded.get("validation") or self.splits.validation
        drawn = self.task.arrangement != "image"  # single images come once each
        count = self._config.validation_sequences if drawn else len(images)
        return batches(
            images,
            self.training_task if training_task else self.task,
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

    @property
    def training_sequences(self) -> int:
        """How many sequences the training sees."""
        return self._config.num_steps * (self._config.batch_size or 1)

    @property
    def digit_images(self) -> DigitSplits:
        """The images of single digits that sequences are drawn from."""
        return self.splits

    def test_digits(self, name: str, num_sequences: int | None = None) -> np.ndarray:
        """The digits behind the test sequences of a name, drawn without their frames.

        Returns:
            `(N, T)` integers, -1 at padding.
        """
        images, count = self.splits.test, num_sequences or self._config.test_sequences
        if self.task.arrangement == "image":  # each comes once, in the order they have
            return images.labels[:, None]
        no_pixels = EncodedImages(np.zeros((len(images), 1), np.float32), images.labels)
        tests = digit_tests(no_pixels, self.task.reading_task(), num_sequences=count)
        parts = ((np.asarray(digits), *weight) for _, digits, *weight in tests[name])
        return np.concatenate([np.where(w[0], part, -1) if w else part for part, *w in parts])

    def test_names(self, num_sequences: int | None = None) -> None:
        """None: sequences that are drawn have no names."""
        return None

    def test_groups(self, num_sequences: int | None = None) -> None:
        """None: each sequence is drawn for itself."""
        return None

    def save(self, path: Path) -> None:
        """Writes `task.json` and `example/`, a test sequence or image, into a run directory."""
        save_task(path, self._config, self.task)
        balance = 1.0 if self.task.can_balance else 0.0
        data = batches(
            self.splits.test, self.task, batch_size=1, seed=0, balance=balance, num_sequences=1
        )
        for frames, *_ in data.take(1):
            if isinstance(frames, dict):  # of unequal length, or beside words
                length = int(frames["lengths"][0]) if "lengths" in frames else None
                frames = frames["frames"][:, :length]
            frames = np.asarray(frames)[0]  # (T, H, W, C), or one image (H, W, C)
            write_example(path / "example", frames if frames.ndim == 4 else frames[None])


def digit_task(config: TrainConfig, images: LabeledImages) -> Any:
    """The task of a run, with as many digits as the images have classes."""
    config = config.resolved
    named = task_class(config.task or "trend", length=config.length)
    if not issubclass(named, DigitTask):
        raise ValueError(
            f"task: expected a task on digits without clips; received {config.task}. Give the "
            "folder of clips with --data."
        )
    length, shortest = config.length or 1, config.min_length or 1
    return named.for_images(images.num_classes, length=length, min_length=shortest)


def digit_tests(
    images: LabeledImages | EncodedImages, task: DigitTask, *, num_sequences: int = 10_000
) -> dict[str, tf.data.Dataset]:
    """Test batches of digits, always the same sequences of them.

    Args:
        images: the test digits.
        task: what is asked of a sequence of them.
        num_sequences: how many sequences to draw for each score. Single images are not drawn: each
            comes once.

    Returns:
        Batches by name: `natural`, where each digit is uniform, and for tasks whose classes can be
        balanced also `balanced`, where each class is.
    """
    check_instance("digit_tests: `task`", task, DigitTask, "a task on digits, such as Trend(4)")
    kinds = {"natural": 0.0, "balanced": 1.0} if task.can_balance else {"natural": 0.0}
    options: dict[str, Any] = {"batch_size": _TEST_BATCH, "seed": _TEST_SEED}
    return {
        name: batches(images, task, balance=balance, num_sequences=num_sequences, **options)
        for name, balance in kinds.items()
    }
