"""What a training writes while it runs: history, best model, checkpoints; and how it is stopped."""

import contextlib
import csv
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
from keras.ops import convert_to_numpy

from keras_cnnlstm.averaging import WeightAverage
from keras_cnnlstm.checkpoints import Checkpoint, restore_checkpoint, save_checkpoint
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.files import replacing
from keras_cnnlstm.objectives import Objective
from keras_cnnlstm.runs import save_model


class TrainingStopped(KeyboardInterrupt):
    """A training was told to stop by SIGTERM, and has saved where it stood."""


_ASKED_EVERY = 10  # batches, between questions to all workers


class RunWriter(keras.callbacks.Callback):
    """Writes the history, the best model and checkpoints, and starts from a checkpoint.

    Args:
        path: the run directory.
        objective: says which epoch is the best.
        config: the options of the run.
        whole: the model to save: the one that is trained, or one that shares its layers.
        checkpoint: where to go on from; by default from the start.
        class_names: names of the classes, in the order of their indices.
        anywhere: whether a flag is set on any of the workers that train together, each of which
            asks at the same batches.
        resumed_as: what a stopped training is told to go on with; by default this run. Of a member
            it is the ensemble.

    Attributes:
        step: batches trained.
        history: a row of numbers for each whole epoch.
        recalls: for each of them the recall of each class in the validation, if there are classes.
        seconds: spent in training, before the checkpoint too.
        average: of the weights, if the options ask for one.
        told_to_stop: set it to save after this batch and raise `TrainingStopped`.
    """

    def __init__(
        self,
        path: Path,
        objective: Objective,
        config: TrainConfig,
        whole: keras.Model,
        checkpoint: Checkpoint | None = None,
        *,
        class_names: Sequence[str] = (),
        anywhere: Callable[[bool], bool] | None = None,
        resumed_as: Path | None = None,
    ):
        super().__init__()
        self.path = path
        self.objective = objective
        self.config = config
        self.whole = whole
        self.class_names = class_names
        self.metric = f"val_{objective.metric.name}"
        self.history: list[dict[str, float]] = []
        self.recalls: list[list[float | None]] = []
        self.step, self.seconds = 0, 0.0
        self.average: WeightAverage | None = None
        self._checkpoint, self._since = checkpoint, time.perf_counter()
        if checkpoint:
            self.step = checkpoint.step
            self.history = checkpoint.facts["history"]
            self.recalls = checkpoint.facts["recalls"]
            self.seconds = checkpoint.facts["seconds"]
        self.told_to_stop = self._stopping = False
        self._anywhere = anywhere
        self._resumed_as = resumed_as or path

    @property
    def best_epoch(self) -> int | None:
        """Index of the best epoch so far, from 0; the first of equal ones."""
        best = None
        for epoch, row in enumerate(self.history):
            if self.objective.better(
                row[self.metric], None if best is None else self.history[best][self.metric]
            ):
                best = epoch
        return best

    @property
    def kept_epoch(self) -> int | None:
        """Index of the epoch so far whose weights are the model."""
        last = len(self.history) - 1 if self.history else None
        return last if self.config.keep == "last" else self.best_epoch

    @property
    def ended(self) -> bool:
        """Whether there was no better epoch for too long."""
        best, patience = self.best_epoch, self.config.patience
        if patience is None or best is None:
            return False
        return len(self.history) - 1 - best >= patience

    def on_epoch_begin(self, epoch, logs=None):
        # Not before, since Keras sets the metrics to zero when an epoch begins.
        if self.config.ema and self.average is None:
            self.average = WeightAverage(self.model, self.config.ema)
        if self._checkpoint:
            restore_checkpoint(self.model, self._checkpoint, self._averages)
            self._checkpoint = None
            if self.step % self.config.steps_per_epoch == 0:
                self.model.reset_metrics()  # those of the epoch before

    @property
    def _averages(self):
        return self.average.variables if self.average else []

    def on_test_begin(self, logs=None):
        if self.average:
            self.average.exchange()

    def on_test_end(self, logs=None):
        if self.average:
            self.average.exchange()

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.average:
            self.average.update(self.step)
        if not math.isfinite(float((logs or {}).get("loss", 0.0))):
            raise self._no_number("the loss")
        if self.step % self.config.steps_per_epoch == 0:
            return  # saved after the validation
        every = self.config.checkpoint_steps
        self._ask()
        if self._stopping or (every and self.step % every == 0):
            self._check_weights()
            self._save()

    def _check_weights(self):
        """Refuses to save what no training can go on from, and would push out what one can."""
        if not all(np.isfinite(convert_to_numpy(v)).all() for v in self.model.weights):
            raise self._no_number("a weight")

    def _no_number(self, what):
        return FloatingPointError(
            f"train: {what} is no longer a number at batch {self.step}, in epoch "
            f"{1 + (self.step - 1) // self.config.steps_per_epoch}. Lower learning_rate, now "
            f"{self.config.learning_rate:g}, or use precision float32. The last checkpoint "
            f"is kept in {self.path}."
        )

    def _ask(self, now=False):
        """Sets whether to stop: where workers train together, when all of them have been asked."""
        if self._anywhere is None:
            self._stopping = self.told_to_stop
        elif now or self.step % _ASKED_EVERY == 0:
            self._stopping = self._anywhere(self.told_to_stop)

    def on_epoch_end(self, epoch, logs=None):
        self._check_weights()
        row = {"epoch": epoch + 1, **{name: float(value) for name, value in (logs or {}).items()}}
        self.history.append(row)
        _write_csv(self.path / "history.csv", row.keys(), map(dict.values, self.history))
        if self.objective.recall:
            self.recalls.append(self.objective.recall.by_class())  # of the validation just done
            rows = ([epoch, *recalls] for epoch, recalls in enumerate(self.recalls, start=1))
            _write_csv(self.path / "recall.csv", ["epoch", *self.class_names], rows)
        if self.kept_epoch == len(self.history) - 1:
            # A second model of the same layers has no optimizer: a third of the file's size.
            bare = keras.Model(self.whole.inputs, self.whole.outputs, name=self.whole.name)
            with self.average.in_place() if self.average else contextlib.nullcontext():
                save_model(bare, self.path / "model.keras")
        self.model.stop_training = self.ended
        self._ask(now=True)
        self._save()  # last, so that what a checkpoint tells of is there

    def _save(self):
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now
        facts = {"history": self.history, "recalls": self.recalls, "seconds": self.seconds}
        folder = self.path / "checkpoints"
        save_checkpoint(folder, self.model, self.step, facts, self._averages)
        if self._stopping:
            raise TrainingStopped(
                f"stopped after batch {self.step:,} of {self.config.num_steps:,}; go on with: "
                f"keras-cnnlstm train --resume {self._resumed_as}"
            )


def _write_csv(path: Path, names: Iterable[str], rows: Iterable[Iterable]) -> None:
    """Writes rows of numbers; what is `None` is left empty."""
    with replacing(path) as file, file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(names)
        writer.writerows(rows)


@contextlib.contextmanager
def stopping(writer: RunWriter) -> Iterator[None]:
    """Within it SIGTERM makes the writer save after the batch that is being trained, and stop."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python gives signals to the main thread alone
        return
    before = signal.signal(signal.SIGTERM, lambda *_: setattr(writer, "told_to_stop", True))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
