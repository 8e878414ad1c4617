"""A run directory: everything that belongs to one trained model, on disk.

    RUN/config.json          the options, with all open ones decided
    RUN/model.keras          the model at its best validation score, without optimizer
    RUN/checkpoints/         all that a training needs to continue, after each of the last epochs
    RUN/history.csv          loss and metric of training and validation, a line an epoch
    RUN/recall.csv           recall of each class in the validation, a line an epoch (classes)
    RUN/history.png          the same as curves
    RUN/calibration.json     the temperature of the model's logits (softmax of classes)
    RUN/metrics.json         test scores, training time, software and precision
    RUN/confusion.png        truth and answers of the natural test sequences (classes)
    RUN/by_length.png        their error by the length of the sequence (running sum)
    RUN/report.html          what it learned and why it errs, on one page (the command report)
    RUN/report/*.png         the figures of that page
    RUN/digit_reader.keras   a reader of single digits, to compare with (digits)
    RUN/example/1.png ...    one test sequence, frame by frame, or image, to try `predict` on
    RUN/task.json            the task of the model: name, classes, vocabulary, lengths
    RUN/split.csv            the part of each clip: training, validation or test (clips)
    RUN/left_out.txt         clips that could not be read, with the reason (clips, if any)
    RUN/leaks.txt            frames that two parts of the split share (clips, if any)
    RUN/members/1 ...        the members of an ensemble, runs of their own, with the history
    RUN/folds/1 ...          the folds of a cross-validation, runs of their own
    RUN/out_of_fold.csv      what the folds answer to the clips that they have not seen (folds)

Each file is written under a temporary name and then renamed, so that none is incomplete.
"""

import dataclasses
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras

from keras_cnnlstm.config import TrainConfig, load_config
from keras_cnnlstm.data.run_files import read_task
from keras_cnnlstm.models.calibration import Calibration, scale_temperature
from keras_cnnlstm.tasks.task import Task
from keras_cnnlstm.training.safe_load import read_model
from keras_cnnlstm.utils.files import (
    check_run_file,
    naming_in_errors,
    read_json,
    read_text,
    replacing,
    write_text,
)
from keras_cnnlstm.utils.validation import as_path, check_instance


@dataclass(frozen=True)
class Run:
    """A trained model and its files, as `train` returns and `load_run` reads it.

    Attributes:
        path: the run directory.
        config: the options it was trained with.
        model: the model at its best validation score, calibrated if the run is.
        metrics: the contents of `metrics.json`; empty if the training did not end.
        calibration: the contents of `calibration.json`; `None` for a model that has none.
    """

    path: Path
    config: TrainConfig
    model: keras.Model
    metrics: dict[str, Any]
    calibration: Calibration | None = None

    @property
    def task_metadata(self) -> dict[str, Any]:
        """What the model was trained for, how its frames were read, and when it is unsure."""
        calibrated = self.calibration
        sure = {"confidence_threshold": calibrated.confidence_threshold} if calibrated else {}
        return {**self.config.task_metadata, "config": self.task.get_config(), **sure}

    @cached_property
    def task(self) -> Task:
        """What the model was trained for.

        Raises:
            FileNotFoundError: if there is no `task.json`.
            ValueError: if it cannot be read, or the model has other outputs.
        """
        task = read_task(self.path)
        expected = self.model.output_shape[-1] - (task.output == "logits")  # the blank of CTC
        if task.num_outputs != expected:
            raise ValueError(
                f"{self.path / 'task.json'}: expected a task with {expected} outputs, as the model "
                f"has; received one with {task.num_outputs}."
            )
        return task

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, or tokens, in the order of the outputs; none for numbers."""
        return self.task.output_names


def load_run(path: str | Path) -> Run:
    """Reads a run directory that `train` wrote; its model is ready to predict.

    Raises:
        FileNotFoundError: if there is no such directory, or a file of it is missing.
        ValueError: if a file of it cannot be read.
    """
    path = as_path("load_run: `path`", path)
    config = load_config(path)
    if config.folds and not config.ensemble_folds:
        raise FileNotFoundError(
            f"{path}: expected a run with a model; this one has {config.folds} folds, each with a "
            f"model. Open one, such as {path / 'folds' / '1'}, or train with --ensemble-folds."
        )
    check_run_file(path, "model.keras")
    model = load_model(path / "model.keras")
    _check_model(path / "model.keras", model)
    calibration, file = None, path / "calibration.json"
    if file.is_file():
        text = read_text(file)
        with naming_in_errors(file):
            calibration = Calibration.from_json(text)
            scale_temperature(model, calibration.temperature)
    return Run(path, config, model, _load_metrics(path / "metrics.json"), calibration)


def _check_model(file, model):
    """Refuses a model that reads neither sequences nor images."""
    inputs = {x.name: len(x.shape) for x in model.inputs or ()}
    frames = inputs.pop("frames", 0)
    outputs = model.outputs or ()
    known = [len(x.shape) in (2, 3) and isinstance(x.shape[-1], int) for x in outputs]
    if frames not in (4, 5) or inputs.keys() - {"lengths", "tokens"} or known != [True]:
        raise ValueError(
            f"{file}: expected a model from `frames`, and perhaps `lengths`, to one answer, as "
            f"keras-cnnlstm train writes it; found one from {[x.name for x in model.inputs or ()]} "
            f"to {[x.name for x in outputs]}."
        )


def _load_metrics(file) -> dict[str, Any]:
    metrics = read_json(file) if file.is_file() else {}
    if not isinstance(metrics, dict):
        raise ValueError(f"{file}: expected a JSON object; received {type(metrics).__name__}.")
    return metrics


def new_run_dir(config: TrainConfig) -> Path:
    """Makes the directory of a new run, and `config.json` in it."""
    path = as_path("run_dir:", config.run_dir) if config.run_dir else config.default_run_dir
    try:
        path.mkdir(parents=True)
        try:
            (path / "checkpoints").mkdir()
            write_text(path / "config.json", config.to_json())
        except OSError:
            shutil.rmtree(path)
            raise
    except FileExistsError as error:
        raise FileExistsError(
            f"run_dir: expected a path that does not exist; {path} does. Give another one, or "
            "remove it."
        ) from error
    except OSError as error:
        raise OSError(
            f"run_dir: expected a directory that can be made and written; {path} cannot "
            f"({error.strerror}). Give another one, or make room."
        ) from error
    return path


def save_model(model: keras.Model, path: Path) -> None:
    """Writes a model, with its optimizer if it is compiled, in Keras's format."""
    with replacing(path) as temporary:
        model.save(temporary)


def load_model(path: Path) -> keras.Model:
    """Reads a `.keras` file, which may come from anywhere, with `safe_mode=True`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or is not safe to open.
    """
    return read_model(as_path("load_model: `path`", path))


def resumed_config(config: TrainConfig) -> TrainConfig:
    """The options of the run in `config.run_dir`, with the epochs of `config`.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if another option differs, or there would be fewer epochs.
    """
    check_instance("resumed_config: `config`", config, TrainConfig, "a TrainConfig")
    if config.run_dir is None:
        raise ValueError("run_dir: expected the run to resume; received None.")
    stored, given = load_config(config.run_dir), config.resolved
    differing = [
        f"{field.name} is {getattr(stored, field.name)!r}, not {getattr(given, field.name)!r}"
        for field in dataclasses.fields(config)
        if field.name not in ("run_dir", "epochs")
        and getattr(config, field.name) is not None
        and getattr(given, field.name) != getattr(stored, field.name)
    ]
    epochs = config.epochs or stored.epochs or 0
    if epochs < (stored.epochs or 0):
        differing.append(f"epochs is {stored.epochs}, more than {epochs}")
    if differing:
        raise ValueError(
            f"resume: expected the options of {config.run_dir}, of which only epochs may grow; "
            f"{'; '.join(differing)}. Leave them out, or train a new run."
        )
    return dataclasses.replace(stored, epochs=epochs, run_dir=config.run_dir)
