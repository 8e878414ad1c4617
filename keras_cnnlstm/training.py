"""A training run: from one `TrainConfig` to a directory with model, history, scores and plots.

`runs` says what lies in the directory.
"""

import csv
import json
import math
import os
import platform
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_cnnlstm import evaluation, plots
from keras_cnnlstm.artefacts import required
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.digits import DigitSplits, load_digits
from keras_cnnlstm.objectives import (
    Objective,
    adopt_weights,
    build_model,
    compile_model,
    model_options,
    objective_for,
    task_for,
)
from keras_cnnlstm.pipeline import batches
from keras_cnnlstm.runs import (
    Run,
    load_model,
    load_run,
    new_run_dir,
    replacing,
    save_model,
    write_example,
    write_text,
)
from keras_cnnlstm.runtime import Runtime
from keras_cnnlstm.state_dicts import read_state_dict
from keras_cnnlstm.tasks import Label
from keras_cnnlstm.torch_weights import Report, load_torch

_VALIDATION_SEED = -1  # negative, so that no training run draws the same sequences


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
    source = load_run(config.init_from).model if config.init_from else None
    if config.tensorboard:
        required("tensorboard", extra="tensorboard")
    splits = load_digits(config.dataset, config.data_dir)
    task = task_for(config, splits.train)
    path = new_run_dir(config)
    print(f"data      {config.dataset}: {_sizes(splits)}")
    print(f"runtime   {runtime.describe()}")
    print(f"run       {path}", flush=True)

    keras.utils.set_random_seed(config.seed)
    with runtime.scope():
        objective = objective_for(task)
        model = build_model(config, task, splits.train.image_shape)
        if source:
            print(f"start     from {config.init_from}: {', '.join(adopt_weights(model, source))}")
        compile_model(model, config, objective)
        history, seconds = _fit(model, config, splits, task, objective, path)

    best = load_model(path / "model.keras")  # what is scored is what was saved
    metrics = {
        "test": evaluation.score_digits(
            best, splits.test, task, num_sequences=config.test_sequences
        ),
        "training": _training_facts(config, objective, history, seconds),
        "machine": _machine_facts(runtime),
    }
    write_text(path / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    _write_plots(path, history, objective, metrics["test"]["natural"], task)
    write_example(path / "example", splits.test, task)
    return Run(path, config, best, metrics)


def import_torch(file: str | Path, config: TrainConfig) -> tuple[Run, Report]:
    """Makes a run of a model that PyTorch trained, ready to evaluate, predict, stream and export.

    Args:
        file: the model's `state_dict` as `.safetensors`.
        config: the architecture that the weights belong to. It must scale images as the PyTorch
            model was fed them: to [0, 1], or to [-1, 1] in `scan_lstm` and `renet`.

    Returns:
        The run without scores, and what went where.

    Raises:
        ValueError: if the file cannot be read, or its weights do not fit the model.
        FileNotFoundError: if there is no such file.
        FileExistsError: if the run directory exists.
        ConnectionError: if the data set, which says how large images are, cannot be had.
    """
    state_dict = read_state_dict(file)
    splits = load_digits(config.dataset, config.data_dir)
    task = task_for(config, splits.train)
    with Runtime("float32", "one-device").scope():
        model = build_model(config, task, splits.train.image_shape)
    report = load_torch(model, state_dict)
    path = new_run_dir(config)
    save_model(model, path / "model.keras")
    write_example(path / "example", splits.test, task)
    return Run(path, config, model, {}), report


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
        save_model(self.model, self.path / "checkpoints" / "last.keras")
        if self.objective.better(row[self.metric], self.best):
            self.best = row[self.metric]
            # A second model of the same layers has no optimizer: a third of the file's size.
            bare = keras.Model(self.model.inputs, self.model.outputs, name=self.model.name)
            save_model(bare, self.path / "model.keras")


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


def _sizes(splits: DigitSplits) -> str:
    return ", ".join(f"{len(part):,} {name}" for name, part in splits._asdict().items())
