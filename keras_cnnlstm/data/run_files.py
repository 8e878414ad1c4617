"""What a data source writes into a run directory, and reads back from it."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.tasks.registry import task_from_config
from keras_cnnlstm.tasks.task import Task
from keras_cnnlstm.utils.files import (
    check_run_file,
    naming_in_errors,
    png_bytes,
    read_json,
    read_text,
    replacing,
    write_text,
)
from keras_cnnlstm.utils.validation import as_path, short_repr


def save_task(path: Path, config: TrainConfig, task: Task) -> None:
    """Writes `task.json`: the task's name and its arguments."""
    stored = {"task": config.resolved.task, "config": task.get_config()}
    write_text(path / "task.json", json.dumps(stored, indent=2) + "\n")


def read_task(path: str | Path) -> Any:
    """The task of a run, from its `task.json`.

    Args:
        path: the run directory.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or holds no task.
    """
    path = as_path("read_task: `path`", path)
    check_run_file(path, "task.json")
    stored = read_json(path / "task.json")
    with naming_in_errors(path / "task.json"):
        if not isinstance(stored, dict) or not isinstance(stored.get("config"), dict):
            raise ValueError(
                "task: expected a JSON object with `task` and `config`; received "
                f"{short_repr(stored)}."
            )
        return task_from_config(str(stored.get("task")), stored["config"])


Encodes = Literal["never", "if_frozen", "always"]
"""When frames are encoded once and the LSTM trains on the vectors: never, where the encoder is
frozen, or always, so that the encoder must be frozen."""

LISTS = {"left out": "left_out.txt", "leak": "leaks.txt"}


def read_left_out(run):
    """The clips that the run was trained without, as they could not be read, with the reason."""
    path = run / LISTS["left out"]
    return read_text(path).splitlines() if path.exists() else []


def write_example(path: Path, frames: np.ndarray) -> None:
    """Writes frames `(T, H, W, C)` uint8 as PNG files into a directory."""
    path.mkdir(exist_ok=True)
    digits = len(str(len(frames)))
    for t, frame in enumerate(frames, start=1):
        with replacing(path / f"{t:0{digits}}.png") as temporary:
            temporary.write_bytes(png_bytes(frame))
