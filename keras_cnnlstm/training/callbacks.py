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

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.layers.frames_model import FramesModel
from keras_cnnlstm.training.checkpoints import Checkpoint, restore_checkpoint, save_checkpoint
from keras_cnnlstm.training.objectives import Objective
from keras_cnnlstm.training.run_directory import save_model
from keras_cnnlstm.utils.files import replacing


class TrainingStopped(KeyboardInterrupt):
    """A training received SIGTERM or Ctrl-C, and has saved its state.

    Args:
        message: how to go on.
        number: of the signal, from which `exit_code` follows.
    """

    def __init__(self, message: str, number: int = signal.SIGINT):
        super().__init__(message)
        self.exit_code = 128 + (number or signal.SIGTERM)  # 0: another worker has received it


_ASKED_EVERY = 10  # batches between questions to all workers
_AVERAGED_EVERY = 8  # batches: the average is as good, and costs an eighth


class RunWriter(keras.callbacks.Callback):
    """Writes the history, the best model and checkpoints, and starts from a checkpoint.

    Args:
        path: the run directory.
        objective: decides which epoch is the best.
        config: the options of the run.
        whole: the model to save: the one that is trained, or one that shares its layers.
        checkpoint: where to continue; by default from the start.
        class_names: names of the classes, in the order of their indices.
        anywhere: whether a flag is set on any worker; all workers ask at the same batches.
        resumed_as: the run that continues a stopped training: for a member the ensemble, by
            default this run.

    Attributes:
        step: batches trained.
        history: a row of numbers for each complete epoch.
        recalls: the recall of each class in each of their validations, if there are classes.
        seconds: time in training, including the time before the checkpoint.
        average: of the weights, if the options ask for one.
        stop_requested: set it to save after this batch and raise `TrainingStopped`.
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
        self.path, self.objective, self.config, self.whole = path, objective, config, whole
        self.class_names = class_names
        self.metric = f"val_{objective.metric.name}"
        facts = checkpoint.facts if checkpoint else {}
        self.step = checkpoint.step if checkpoint else 0
        self.history: list[dict[str, float]] = facts.get("history", [])
        self.recalls: list[list[float | None]] = facts.get("recalls", [])
        if checkpoint:
            self._check_history(checkpoint.path)
        self.seconds: float = facts.get("seconds", 0.0)
        self.average: WeightAverage | None = None
        self.stop_requested, self._stopping = 0, False
        self._checkpoint, self._since = checkpoint, time.perf_counter()
        self._anywhere = anywhere
        self._resumed_as = resumed_as or path

    def _check_history(self, file):
        """Refuses a checkpoint whose facts are those of another training."""
        epochs = self.step // self._epoch_steps
        complete = all(row.get("epoch") and self.metric in row for row in self.history)
        recalls = epochs if self.objective.recall else 0
        if not complete or (len(self.history), len(self.recalls)) != (epochs, recalls):
            raise ValueError(
                f"{file}: expected {self.metric} of {epochs} epochs and the recalls of {recalls}, "
                f"which {self.step:,} batches are; it has {len(self.history)} and "
                f"{len(self.recalls)}. Remove the file, to go on from the one before it."
            )

    @property
    def best_epoch(self) -> int | None:
        """Index of the best epoch so far, from 0; the first of equal ones."""
        best = None
        for epoch, row in enumerate(self.history):
            value = None if best is None else self.history[best][self.metric]
            if self.objective.better(row[self.metric], value):
                best = epoch
        return best

    @property
    def kept_epoch(self) -> int | None:
        """Index of the epoch so far whose weights are the model."""
        last = len(self.history) - 1 if self.history else None
        return last if self.config.keep == "last" else self.best_epoch

    @property
    def ended(self) -> bool:
        """Whether no epoch was better for longer than the patience."""
        best, patience = self.best_epoch, self.config.patience
        if patience is None or best is None:
            return False
        return len(self.history) - 1 - best >= patience

    @property
    def _epoch_steps(self) -> int:
        """Batches of an epoch; decided when the training data was counted."""
        return self.config.steps_per_epoch or 1

    def on_epoch_begin(self, epoch, logs=None):
        # Not before, since Keras sets the metrics to zero when an epoch begins.
        if self.config.ema and self.average is None:
            self.average = WeightAverage(self.model, self.config.ema)
        if self._checkpoint:
            restore_checkpoint(self.model, self._checkpoint, self._averages)
            self._checkpoint = None
            if self.step % self._epoch_steps == 0:
                self.model.reset_metrics()  # those of the epoch before

    @property
    def _averages(self):
        return self.average.variables if self.average else []

    def on_test_begin(self, logs=None):
        if self.average:
            self.average.exchange()

    on_test_end = on_test_begin

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.average:
            self.average.update(self.step)
        if not math.isfinite(float((logs or {}).get("loss", 0.0))):
            raise self._not_a_number("the loss")
        if self.step % self._epoch_steps == 0:
            return  # saved after the validation
        every = self.config.checkpoint_steps
        self._ask()
        if self._stopping or (every and self.step % every == 0):
            self._check_weights()
            self._save()

    def _check_weights(self):
        """Refuses to save weights that no training can continue from."""
        weights = map(keras.ops.convert_to_numpy, self.model.weights)
        if not all(np.isfinite(weight).all() for weight in weights):
            raise self._not_a_number("a weight")

    def _not_a_number(self, what):
        return FloatingPointError(
            f"train: {what} is no longer a number at batch {self.step}, in epoch "
            f"{1 + (self.step - 1) // self._epoch_steps}. Lower learning_rate, now "
            f"{self.config.learning_rate:g}, or use precision float32. The last checkpoint "
            f"is kept in {self.path}."
        )

    def _ask(self, now=False):
        """Decides whether to stop; several workers decide together."""
        if self._anywhere is None:
            self._stopping = bool(self.stop_requested)
        elif now or self.step % _ASKED_EVERY == 0:
            self._stopping = self._anywhere(bool(self.stop_requested))

    def on_epoch_end(self, epoch, logs=None):
        self._check_weights()
        row = {"epoch": epoch + 1, **{name: float(value) for name, value in (logs or {}).items()}}
        self.history.append(row)
        _write_csv(self.path / "history.csv", row.keys(), map(dict.values, self.history))
        if self.objective.recall:
            self.recalls.append(self.objective.recall.by_class())  # of this epoch's validation
            rows = ([epoch, *recalls] for epoch, recalls in enumerate(self.recalls, start=1))
            _write_csv(self.path / "recall.csv", ["epoch", *self.class_names], rows)
        if self.kept_epoch == len(self.history) - 1:
            # A second model of the same layers has no optimizer: a third of the file's size.
            bare = FramesModel(self.whole.inputs, self.whole.outputs, name=self.whole.name)
            with self.average.in_place() if self.average else contextlib.nullcontext():
                save_model(bare, self.path / "model.keras")
        self.model.stop_training = self.ended
        self._ask(now=True)
        self._save()  # last, so that all files of a checkpoint's epochs exist

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
                f"keras-cnnlstm train --resume {self._resumed_as}",
                self.stop_requested,
            )


def _write_csv(path: Path, names: Iterable[str], rows: Iterable[Iterable]) -> None:
    """Writes rows of numbers; `None` becomes an empty cell."""
    with replacing(path) as file, file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(names)
        writer.writerows(rows)


@contextlib.contextmanager
def stopping(writer: RunWriter) -> Iterator[None]:
    """Within the block SIGTERM and Ctrl-C make the writer save after the current batch, and stop.

    A second Ctrl-C stops at once; then the last checkpoint counts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    numbers = (signal.SIGTERM, signal.SIGINT)

    def request(number, _):
        writer.stop_requested = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = [signal.signal(number, request) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class WeightAverage:
    """An exponential average of a model's weights over the batches of a training.

    Unlike `use_ema` of Keras's optimizers it includes the statistics of batch normalisation, which
    belong to the averaged weights, exchanges weights without rounding, and does not write the
    average into the model at the end of each `fit`.

    Args:
        model: the model in training.
        momentum: share of the old average in the new one, for each batch; 0 to below 1. It grows
            to that from 0.1 at the start, so that the first weights are soon forgotten.

    Attributes:
        variables: the averages, in the order of the model's weights.
    """

    def __init__(self, model: keras.Model, momentum: float):
        self.momentum = momentum
        self._weights = [w for w in model.weights if keras.backend.is_float_dtype(w.dtype)]
        self.variables = [
            keras.Variable(w, dtype=w.dtype, trainable=False, name=f"average_{i}")
            for i, w in enumerate(self._weights)
        ]

    def update(self, step: int) -> None:
        """Updates the average after batch number `step`, counted from 1."""
        if step % _AVERAGED_EVERY:
            return
        momentum = min(self.momentum, (1 + step) / (10 + step)) ** _AVERAGED_EVERY
        for average, weight in zip(self.variables, self._weights, strict=True):
            average.assign(average + (1 - momentum) * (weight - average))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model's weights are the average."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def exchange(self) -> None:
        """Swaps the averages and the model's weights."""
        for average, weight in zip(self.variables, self._weights, strict=True):
            before = np.array(keras.ops.convert_to_numpy(weight))
            weight.assign(average)
            average.assign(before)
