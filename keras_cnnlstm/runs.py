"""A run directory: what belongs to one trained model, on disk.

    RUN/config.json          the options, defaults filled in
    RUN/model.keras          the model at its best validation score, without optimizer
    RUN/checkpoints/         all that a training needs to go on, after each of the last epochs
    RUN/history.csv          loss and metric of training and validation, a line an epoch
    RUN/recall.csv           recall of each class in the validation, a line an epoch (classes)
    RUN/history.png          the same as curves
    RUN/calibration.json     by what the model's logits are divided (softmax of classes)
    RUN/metrics.json         test scores, training time, software and precision
    RUN/confusion.png        the natural test sequences: truth against answer (classes)
    RUN/by_length.png        their error by the length of the sequence (running sum)
    RUN/report.html          what it learned and why it errs, on one page (the command report)
    RUN/report/*.png         the figures of that page
    RUN/digit_reader.keras   a reader of single digits, to compare with (digits)
    RUN/example/1.png ...    one test sequence, frame by frame, or image, to try `predict` on
    RUN/classes.json         names of the classes, in the order of the model's answers (clips)
    RUN/vocabulary.json      the words that a describer knows, in the order of their numbers
    RUN/split.csv            which clip is for training, validation and test (clips)
    RUN/left_out.txt         clips that could not be read, with the reason (clips, if there are any)
    RUN/leaks.txt            frames that two parts of the split share (clips, if there are any)
    RUN/members/1 ...        of an ensemble each member, a run of its own, which has the history

Each file is written under a temporary name and then renamed, so none is ever half there.
"""

import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

import keras_cnnlstm.cnn_layers
import keras_cnnlstm.ensembles
import keras_cnnlstm.layers
import keras_cnnlstm.views  # noqa: F401 - all register what saved models are made of
from keras_cnnlstm.arguments import as_path, told
from keras_cnnlstm.calibration import Calibration, scale_temperature
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.files import read_text, replacing, write_text
from keras_cnnlstm.model_files import read_model
from keras_cnnlstm.tasks import Digits, Trend
from keras_cnnlstm.vocabulary import SPECIAL, Vocabulary


@dataclass(frozen=True)
class Run:
    """A trained model with what belongs to it, as `train` returns and `load_run` reads it.

    Attributes:
        path: the run directory.
        config: the options it was trained with.
        model: the model at its best validation score, calibrated if the run was.
        metrics: what `metrics.json` says; empty if the training did not come to its end.
        calibration: what `calibration.json` says; `None` if the model is as it was trained.
    """

    path: Path
    config: TrainConfig
    model: keras.Model
    metrics: dict[str, Any]
    calibration: Calibration | None = None

    @property
    def reading(self) -> dict[str, Any]:
        """What the model was trained for, how its frames were read, and when it is unsure."""
        calibrated = self.calibration
        sure = {"unsure_below": calibrated.unsure_below} if calibrated else {}
        return {**self.config.reading, **sure}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, or words, in the order of the model's outputs; none for numbers."""
        task, answers = self.config.task, self.model.output_shape[-1]
        if task == "sentence":
            return self._words(answers)
        if task == "clip":
            return self._clip_classes(answers)
        if task == "trend":
            return Trend((answers + 1) // 2).class_names
        if task == "running_sum":
            return ()
        return Digits(num_digits=answers - 1 if task == "text" else answers).class_names

    def _words(self, answers):
        names = read_vocabulary(self.path).names
        if len(names) != answers:
            raise ValueError(
                f"{self.path / 'vocabulary.json'}: expected {answers - len(SPECIAL)} words, as the "
                f"model has answers; received {len(names) - len(SPECIAL)}."
            )
        return names

    def _clip_classes(self, answers):
        names = read_classes(self.path)
        if len(names) != answers:
            raise ValueError(
                f"{self.path / 'classes.json'}: expected {answers} names, as the model has "
                f"answers; received {len(names)}."
            )
        return names


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
    path = as_path("load_run: `path`", path)
    config = load_config(path)
    _check_there(path, "model.keras")
    model = load_model(path / "model.keras")
    _check_model(path / "model.keras", model)
    calibration = _load_calibration(path / "calibration.json")
    if calibration:
        with _named(path / "calibration.json"):
            scale_temperature(model, calibration.temperature)
    return Run(path, config, model, _load_metrics(path / "metrics.json"), calibration)


def load_config(path: Path) -> TrainConfig:
    """Reads the options of a run directory.

    Raises:
        FileNotFoundError: if there is no such directory, or it has no `config.json`.
        ValueError: if that cannot be read.
    """
    path = as_path("load_config: `path`", path)
    _check_there(path, "config.json")
    return TrainConfig.from_json(read_text(path / "config.json"))


def _check_model(file, model):
    """Refuses a model that is none of sequences or images, as no run has."""
    inputs = {x.name: len(x.shape) for x in model.inputs or ()}
    frames = inputs.pop("frames", 0)
    outputs = model.outputs or ()
    known = [len(x.shape) in (2, 3) and isinstance(x.shape[-1], int) for x in outputs]
    if frames not in (4, 5) or inputs.keys() - {"lengths", "words"} or known != [True]:
        raise ValueError(
            f"{file}: expected a model from `frames`, and perhaps `lengths`, to one answer, as "
            f"keras-cnnlstm train writes it; found one from {[x.name for x in model.inputs or ()]} "
            f"to {[x.name for x in outputs]}."
        )


def _load_metrics(file) -> dict[str, Any]:
    metrics = _load_json(file) if file.is_file() else {}
    if not isinstance(metrics, dict):
        raise ValueError(f"{file}: expected a JSON object; received {type(metrics).__name__}.")
    return metrics


def _load_calibration(file) -> Calibration | None:
    if not file.is_file():
        return None
    text = read_text(file)
    with _named(file):
        return Calibration.from_json(text)


@contextlib.contextmanager
def _named(file):
    """Has errors of what was read name the file that it was read from."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _check_there(path, name):
    if not (path / name).is_file():
        found = "it has no" if path.is_dir() else "there is no such directory, hence no"
        raise FileNotFoundError(
            f"{path}: expected a run directory, as keras-cnnlstm train writes it; {found} {name}."
        )


def read_classes(path: Path) -> tuple[str, ...]:
    """The names of the classes of a run on clips, from its `classes.json`.

    Args:
        path: the run directory.

    Returns:
        The names, in the order of the model's answers.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no JSON list of different names.
    """
    path = as_path("read_classes: `path`", path)
    _check_there(path, "classes.json")
    names = _load_json(path / "classes.json")
    if not (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and len(set(names)) == len(names) > 1
    ):
        raise ValueError(
            f"{path / 'classes.json'}: expected a JSON list of different names; received "
            f"{told(names)}."
        )
    return tuple(names)


def read_vocabulary(path: Path) -> Vocabulary:
    """The words that the describer of a run knows, from its `vocabulary.json`.

    Args:
        path: the run directory.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no JSON list of different words.
    """
    _check_there(path, "vocabulary.json")
    with _named(path / "vocabulary.json"):
        return Vocabulary.from_json(read_text(path / "vocabulary.json"))


def new_run_dir(config: TrainConfig) -> Path:
    """Makes the directory of a new run, and `config.json` in it.

    Raises:
        FileExistsError: if it exists.
        OSError: if it cannot be made and written; nothing is left of it.
    """
    path = as_path("run_dir:", config.run_dir) if config.run_dir else config.default_run_dir
    try:
        path.mkdir(parents=True)
    except FileExistsError as error:
        raise FileExistsError(
            f"run_dir: expected a path that does not exist; {path} does. Give another one, or "
            "remove it."
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        (path / "checkpoints").mkdir()
        write_text(path / "config.json", config.to_json())
    except OSError as error:
        shutil.rmtree(path)
        raise _unwritable(path, error) from error
    return path


def _unwritable(path, error):
    return OSError(
        f"run_dir: expected a directory that can be made and written; {path} cannot "
        f"({error.strerror}). Give another one, or make room."
    )


def save_model(model: keras.Model, path: Path) -> None:
    """Writes a model, with its optimizer if it is compiled, in Keras's format."""
    with replacing(path) as temporary:
        model.save(temporary)


def load_model(path: Path) -> keras.Model:
    """Reads a `.keras` file that may come from anywhere, hence `safe_mode=True`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or is not safe to open.
    """
    return read_model(as_path("load_model: `path`", path))


def _load_json(path: Path) -> Any:
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON; {error}.") from error
