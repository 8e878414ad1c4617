"""A training run: from one `TrainConfig` to a directory with model, history, scores and plots.

    RUN/config.json          the options, defaults filled in
    RUN/model.keras          the model at its best validation score, without optimizer
    RUN/checkpoints/last.keras   the model and its optimizer after the last epoch
    RUN/history.csv          loss and metric of training and validation, a line an epoch
    RUN/history.png          the same as curves
    RUN/metrics.json         test scores, training time, software and precision
    RUN/confusion.png        the natural test sequences: truth against answer (classes)
    RUN/by_length.png        their error by the length of the sequence (running sum)
    RUN/example/1.png ...    one test sequence, frame by frame, or image, to try `predict` on

Each file is written under a temporary name and then renamed, so none is ever half there.
"""

import contextlib
import csv
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from keras_cnnlstm import evaluation, plots
from keras_cnnlstm.artefacts import required
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.digits import DigitSplits, load_digits
from keras_cnnlstm.objectives import (
    Objective,
    build_model,
    compile_model,
    model_options,
    objective_for,
    task_for,
)
from keras_cnnlstm.pipeline import batches
from keras_cnnlstm.runtime import Runtime
from keras_cnnlstm.tasks import Digits, Label, Trend

_VALIDATION_SEED = -1  # negative, so that no training run draws the same sequences


@dataclass(frozen=True)
class Run:
    """A trained model with what belongs to it, as `train` returns and `load_run` reads it.

    Attributes:
        path: the run directory.
        config: the options it was trained with.
        model: the model at its best validation score.
        metrics: what `metrics.json` says; empty if the training did not come to its end.
    """

    path: Path
    config: TrainConfig
    model: keras.Model
    metrics: dict[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the model's outputs; none for numbers."""
        task, answers = self.config.task, self.model.output_shape[-1]
        if task == "trend":
            return Trend((answers + 1) // 2).class_names
        if task == "running_sum":
            return ()
        return Digits(num_digits=answers - 1 if task == "text" else answers).class_names


def train(config: TrainConfig) -> Run:
    """Trains, keeps the best model, scores it on test digits, and writes the run directory.

    Args:
        config: the options of the run.

    Returns:
        The run with its best model, as saved.

    Raises:
        ValueError: if options do not fit together, to the machine or to the data.
        FileExistsError: if the run directory exists.
        ConnectionError: if the data is not on this machine and cannot be had.
        FloatingPointError: if the loss is no longer a number.
    """
    runtime = Runtime(config.precision, config.strategy)
    runtime.check_batch_size(config.batch_size)
    model_options(config)  # refuses before there is a directory
    if config.tensorboard:
        required("tensorboard", extra="tensorboard")
    splits = load_digits(config.dataset, config.data_dir)
    task = task_for(config, splits.train)
    path = _new_run_dir(config)
    _write_text(path / "config.json", config.to_json())
    print(f"data      {config.dataset}: {_sizes(splits)}")
    print(f"runtime   {runtime.describe()}")
    print(f"run       {path}", flush=True)

    keras.utils.set_random_seed(config.seed)
    with runtime.scope():
        objective = objective_for(task)
        model = build_model(config, task, splits.train.image_shape)
        compile_model(model, config, objective)
        history, seconds = _fit(model, config, splits, task, objective, path)

    best = _load_model(path / "model.keras")  # what is scored is what was saved
    metrics = {
        "test": evaluation.score_digits(
            best, splits.test, task, num_sequences=config.test_sequences
        ),
        "training": _training_facts(config, objective, history, seconds),
        "machine": _machine_facts(runtime),
    }
    _write_text(path / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    _write_plots(path, history, objective, metrics["test"]["natural"], task)
    _write_example(path / "example", splits.test, task)
    return Run(path, config, best, metrics)


def load_run(path: str | Path) -> Run:
    """Reads a run directory that `train` wrote.

    Args:
        path: the directory.

    Returns:
        The run, its model ready to predict.

    Raises:
        FileNotFoundError: if there is no such directory, or a file of it is missing.
        ValueError: if a file of it cannot be read.
    """
    path = Path(path)
    for name in ("config.json", "model.keras"):
        if not (path / name).is_file():
            found = "it has no" if path.is_dir() else "there is no such directory, hence no"
            raise FileNotFoundError(
                f"{path}: expected a run directory, as keras-cnnlstm train writes it; "
                f"{found} {name}."
            )
    config = TrainConfig.from_json(_read_text(path / "config.json"))
    return Run(
        path, config, _load_model(path / "model.keras"), _load_metrics(path / "metrics.json")
    )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to `path` when the block ends without an error."""
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _new_run_dir(config: TrainConfig) -> Path:
    path = Path(config.run_dir) if config.run_dir else config.default_run_dir
    try:
        (path / "checkpoints").mkdir(parents=True)
    except FileExistsError as error:
        raise FileExistsError(
            f"run_dir: expected a path that does not exist; {path} does. Give another one, or "
            "remove it."
        ) from error
    return path


def _fit(model, config, splits: DigitSplits, task, objective: Objective, path: Path):
    """Trains; returns the history, a dict an epoch, and the seconds it took."""
    training, validation = _datasets(config, splits, task)
    writer = _RunWriter(path, objective)
    callbacks = [writer, keras.callbacks.TerminateOnNaN()]
    if config.tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(path / "tensorboard"))
    start = time.perf_counter()
    model.fit(
        training,
        validation_data=validation,
        steps_per_epoch=config.steps_per_epoch,
        epochs=config.epochs,
        callbacks=callbacks,
        shuffle=False,
        verbose=1 if sys.stdout.isatty() else 2,
    )
    if not math.isfinite(writer.history[-1]["loss"]):
        raise FloatingPointError(
            f"train: the loss is no longer a number in epoch {len(writer.history)}. Lower "
            f"learning_rate, now {config.learning_rate:g}, or use precision float32."
        )
    return writer.history, time.perf_counter() - start


def _datasets(config, splits, task):
    """Endless training batches, and the validation batches of each epoch."""
    training = batches(
        splits.train,
        task,
        batch_size=config.batch_size,
        seed=config.seed,
        balance=config.balance,
        augment=config.augment,
    )
    count = len(splits.validation) if isinstance(task, Label) else config.validation_sequences
    validation = batches(
        splits.validation,
        task,
        batch_size=config.batch_size,
        seed=_VALIDATION_SEED,
        balance=0.0,
        # Whole batches, for replicas to share; of single images there are only so many.
        num_sequences=math.ceil(count / config.batch_size) * config.batch_size,
    )
    return training, validation


class _RunWriter(keras.callbacks.Callback):
    """After each epoch: the history, the last model, and the best so far."""

    def __init__(self, path: Path, objective: Objective):
        super().__init__()
        self.path = path
        self.objective = objective
        self.metric = f"val_{objective.metric.name}"
        self.best: float | None = None
        self.history: list[dict[str, float]] = []

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}}
        self.history.append(row)
        with replacing(self.path / "history.csv") as file, file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, row.keys())
            writer.writeheader()
            writer.writerows(self.history)
        _save(self.model, self.path / "checkpoints" / "last.keras")
        if self.objective.better(row[self.metric], self.best):
            self.best = row[self.metric]
            # A second model of the same layers has no optimizer: a third of the file's size.
            bare = keras.Model(self.model.inputs, self.model.outputs, name=self.model.name)
            _save(bare, self.path / "model.keras")


def _save(model: keras.Model, path: Path) -> None:
    with replacing(path) as temporary:
        model.save(temporary)


def _load_model(path: Path) -> keras.Model:
    try:
        return keras.models.load_model(path, safe_mode=True, compile=False)
    except Exception as error:  # a damaged file can fail anywhere in the reading of it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ValueError(
            f"{path}: expected a model in Keras' format; {type(error).__name__}: {reason} Is the "
            "file whole, and written by this package?"
        ) from error


def _load_metrics(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(_read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON; {error}.") from error


def _training_facts(config, objective, history, seconds):
    sequences = len(history) * config.steps_per_epoch * config.batch_size
    scores = [row[f"val_{objective.metric.name}"] for row in history]
    best = np.argmin(scores) if objective.smaller_is_better else np.argmax(scores)
    return {
        "epochs": len(history),
        "best_epoch": 1 + int(best),
        "sequences": sequences,
        "seconds": round(seconds, 1),
        "sequences_per_second": round(sequences / seconds, 1),
    }


def _machine_facts(runtime):
    return {
        "precision": runtime.policy,
        "devices": runtime.devices,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


def _write_plots(path, history, objective, scores, task):
    figures = {"history.png": plots.plot_history(history, objective.metric.name)}
    if "confusion" in scores:
        figures["confusion.png"] = plots.plot_confusion(scores["confusion"], task.class_names)
    if "rmse_by_length" in scores:
        figures["by_length.png"] = plots.plot_by_length(
            scores["rmse_by_length"], "root-mean-square error"
        )
    for name, figure in figures.items():
        with replacing(path / name) as temporary:
            plots.save_figure(figure, temporary)


def _write_example(path, images, task):
    path.mkdir()
    balance = 1.0 if isinstance(task, Trend) else 0.0
    data = batches(images, task, batch_size=1, seed=0, balance=balance, num_sequences=1)
    for frames, *_ in data.take(1):
        if isinstance(frames, dict):  # of unequal length
            frames = frames["frames"][:, : int(frames["lengths"][0])]
        frames = np.asarray(frames)[0]  # (T, H, W, C), or one image (H, W, C)
        frames = frames if frames.ndim == 4 else frames[None]
        for t, frame in enumerate(frames, start=1):
            with replacing(path / f"{t:0{len(str(task.length))}}.png") as temporary:
                Image.fromarray(frame.squeeze(-1) if frame.shape[-1] == 1 else frame).save(
                    temporary
                )


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text; {error}.") from error


def _sizes(splits: DigitSplits) -> str:
    return ", ".join(f"{len(part):,} {name}" for name, part in splits._asdict().items())
