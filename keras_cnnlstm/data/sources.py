"""Where the examples of a run come from: digits that are drawn, or clips in a folder.

All sources answer the same questions, so training and evaluation know none of them. A new kind of
source is a class with these members and a line in `open_source`.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.clip_source import ClipSource, folder_tests
from keras_cnnlstm.data.datasets import DigitSplits
from keras_cnnlstm.data.digit_source import DigitSource
from keras_cnnlstm.data.run_files import Encodes
from keras_cnnlstm.tasks.task import Task
from keras_cnnlstm.utils.validation import check_instance, short_repr


class Source(Protocol):
    """Where examples come from.

    Attributes:
        task: what is asked of an example.
        training_task: what is learned: the task, or more than it.
        steps_per_epoch: training batches from one validation to the next.
    """

    task: Any
    training_task: Any
    steps_per_epoch: int | None

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of a frame."""
        ...

    def describe(self) -> str:
        """What there is, as lines of text."""
        ...

    def training(
        self, *, start: int = 0, rows: slice | None = None, training_task: bool = False
    ) -> tf.data.Dataset:
        """Endless training batches from batch `start` on; of each these rows, by default all."""
        ...

    def validation(
        self, *, rows: slice | None = None, training_task: bool = False
    ) -> tf.data.Dataset:
        """The batches of each validation."""
        ...

    def tests(self, num_sequences: int | None = None) -> dict[str, tf.data.Dataset]:
        """The test batches by the name of the score."""
        ...

    def test_names(self, num_sequences: int | None = None) -> list[str] | None:
        """The names of the test sequences, in their order; `None` if they have none."""
        ...

    def test_groups(self, num_sequences: int | None = None) -> list[str] | None:
        """The group of each test sequence, in their order; `None` if they have none."""
        ...

    @property
    def training_sequences(self) -> int:
        """How many sequences the training sees."""
        ...

    @property
    def digit_images(self) -> DigitSplits | None:
        """The images of single digits that sequences are drawn from; `None` for other sources.

        A source that has them also has `DigitSource.test_digits`.
        """
        ...

    @property
    def encodes(self) -> Encodes:
        """When frames are encoded once, before the training."""
        ...

    @property
    def shows_neighbours(self) -> bool:
        """Whether frames that follow each other in a batch do so where they come from."""
        ...

    def encode(self, features: Callable[[str, Any], np.ndarray], *, skip: int = 0) -> None:
        """Has frames encoded once; batches then hold features.

        Args:
            features: from a key and frames, or a function that returns them, to features.
            skip: frames at the start of a sequence for which these have no row.
        """
        ...

    def save(self, path: Path) -> None:
        """Writes the task, an example, and what else belongs to the run into its directory."""
        ...


def open_source(config: TrainConfig, run: Path | None = None) -> DigitSource | ClipSource:
    """The source that a run's options name.

    Args:
        config: the options.
        run: the run directory, if the run has one already: its split of clips is kept.

    Raises:
        ValueError: if the options name no data, or the run is one of folds, which saw all clips.
        FileNotFoundError: if there is no such folder of clips.
        ConnectionError: if the data set cannot be had.
    """
    check_instance(
        "open_source: `config`", config, TrainConfig, "a TrainConfig, as load_config reads it"
    )
    if run and config.folds:
        raise ValueError(
            f"{run}: expected clips that the model has not seen; each of its {config.folds} folds "
            f"saw what others did not. Take a fold, such as {run / 'folds' / '1'}, or evaluate it "
            "on other clips with --data."
        )
    return ClipSource(config, run) if config.reads_clips else DigitSource(config)


def other_tests(
    config: TrainConfig,
    task: Task,
    data: str,
    num_sequences: int | None = None,
    labels: str | None = None,
) -> tuple[dict[str, tf.data.Dataset], Task]:
    """Test batches of other data than a model was trained on, and the task.

    Args:
        config: the options of the run.
        task: that of the run.
        data: the name of a data set, or a folder of clips, as `TrainConfig.data`.
        num_sequences: how many sequences to draw for each score, or clips to take at most; by
            default as in the training, and all clips.
        labels: the table of labels of clips, as `TrainConfig.labels`.
    """
    clips = TrainConfig(data=data).reads_clips
    if clips != config.reads_clips:
        expected = "a folder of clips" if config.reads_clips else "the name of a data set"
        raise ValueError(
            f"data must be {expected}, like that of the training; received {short_repr(data)}."
        )
    if clips:
        return folder_tests(config, task, data, num_sequences, labels)
    source = DigitSource(dataclasses.replace(config, data=data))
    if source.task.output_names != task.output_names:
        raise ValueError(
            f"data must have the classes of the run, {short_repr(task.output_names)}; received "
            f"{data} with {short_repr(source.task.output_names)}."
        )
    return source.tests(num_sequences), source.task
