"""A run directory: what belongs to one trained model, on disk.

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
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

import keras_cnnlstm.layers  # noqa: F401 - registers the classes that saved models are made of
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.digits import LabeledImages
from keras_cnnlstm.pipeline import batches
from keras_cnnlstm.tasks import Digits, Trend


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
    return Run(path, config, load_model(path / "model.keras"), _load_metrics(path / "metrics.json"))


def new_run_dir(config: TrainConfig) -> Path:
    """Makes the directory of a new run, and `config.json` in it.

    Raises:
        FileExistsError: if it exists.
    """
    path = Path(config.run_dir) if config.run_dir else config.default_run_dir
    try:
        (path / "checkpoints").mkdir(parents=True)
    except FileExistsError as error:
        raise FileExistsError(
            f"run_dir: expected a path that does not exist; {path} does. Give another one, or "
            "remove it."
        ) from error
    write_text(path / "config.json", config.to_json())
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to `path` when the block ends without an error."""
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_model(model: keras.Model, path: Path) -> None:
    """Writes a model, with its optimizer if it is compiled, in Keras's format."""
    with replacing(path) as temporary:
        model.save(temporary)


def write_example(path: Path, images: LabeledImages, task: Trend | Digits) -> None:
    """Writes one sequence of these images, or one image, as PNG files into a new directory."""
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


def write_text(path: Path, text: str) -> None:
    """Writes a text file."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def load_model(path: Path) -> keras.Model:
    """Reads a `.keras` file that may come from anywhere, hence `safe_mode=True`.

    Raises:
        ValueError: if it cannot be read.
    """
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


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text; {error}.") from error
