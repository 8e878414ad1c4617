"""Checkpoints: everything that a training needs to continue as if it had never stopped.

    CHECKPOINTS/step-00001200.npz    every variable after 1,200 batches, and the facts of the run

Holds weights, optimizer, and the states of random layers and of the epoch's metrics. Data needs no
state, since it is a function of the step. A file is a zip archive, so that each array in it has a
checksum; if one is damaged, the checkpoint before it is used.
"""

import json
import math
import os
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_cnnlstm.utils.files import replacing
from keras_cnnlstm.utils.validation import short_repr

_KEPT = 3  # checkpoints, the newest ones


class Checkpoint(NamedTuple):
    """The contents of a checkpoint.

    Attributes:
        path: the file.
        step: batches trained.
        facts: as given to `save_checkpoint`.
        arrays: the variables, in the order of `save_checkpoint`.
        names: of the variables.
    """

    path: Path
    step: int
    facts: dict[str, Any]
    arrays: list[np.ndarray]
    names: list[str]


def save_checkpoint(
    folder: Path,
    model: keras.Model,
    step: int,
    facts: Mapping[str, Any],
    others: Sequence[keras.Variable] = (),
) -> Path:
    """Writes a checkpoint of a model in training, and removes all but the newest three.

    Args:
        folder: the directory of the checkpoints.
        model: compiled, and trained for one batch at least.
        step: batches trained so far.
        facts: `history`, `recalls` and `seconds` of a `RunWriter`, or some of them.
        others: further variables.

    Returns:
        The file.
    """
    variables = _variables(model, others)
    head = json.dumps({"step": step, "names": list(map(_name, variables)), "facts": facts})
    arrays = {f"{i:05}": keras.ops.convert_to_numpy(v) for i, v in enumerate(variables)}
    path = folder / f"step-{step:08}.npz"
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, head=np.frombuffer(head.encode(), np.uint8), **arrays)
        file.flush()
        os.fsync(file.fileno())  # or a power failure could leave the new name without content
    for old in _files(folder)[:-_KEPT]:
        old.unlink()
    return path


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Reads the newest intact checkpoint of a directory, and warns of each damaged one.

    Returns:
        The checkpoint, or `None` if there is none.
    """
    for path in reversed(_files(folder)):
        try:
            return _read(path)
        except Exception as error:  # a damaged file can fail anywhere
            warnings.warn(
                f"{path}: this checkpoint is damaged ({short_repr(error)}); going back to the one "
                "before it.",
                stacklevel=2,
            )
    return None


def restore_checkpoint(
    model: keras.Model, checkpoint: Checkpoint, others: Sequence[keras.Variable] = ()
) -> None:
    """Sets every variable of a model in training to its value in a checkpoint.

    Args:
        model: built and compiled as the saved one, with its optimizer and metrics built.
        checkpoint: the values.
        others: the further variables, as given to `save_checkpoint`.
    """
    variables = _variables(model, others)
    saved = zip(checkpoint.names, checkpoint.arrays, strict=True)
    expected = [(name, array.shape, array.dtype.name) for name, array in saved]
    received = [(_name(v), tuple(v.shape), str(v.dtype)) for v in variables]
    if expected != received:
        differing = sorted(set(map(str, expected)) ^ set(map(str, received)))
        raise ValueError(
            f"{checkpoint.path}: expected the variables of this model; received others "
            f"({', '.join(differing[:4]) or 'in another order'}). Was the run made by another "
            "version?"
        )
    for variable, array in zip(variables, checkpoint.arrays, strict=True):
        variable.assign(array)


def _variables(model, others):
    """Weights and states of random layers, those of the optimizer, and the epoch's metrics."""
    found = [*model.variables, *model.optimizer.variables, *model.metrics_variables, *others]
    return list({id(v): v for v in found}.values())


def _name(variable):
    """A variable's name, without the number that Keras appends to repeated names.

    Its path would be clearer, but depends on the code that builds the optimizer.
    """
    return re.sub(r"_\d+$", "", variable.name)


def _files(folder):
    return sorted(folder.glob("step-*.npz"))


def _read(path):
    if not path.is_file():  # opening a pipe would never return
        raise ValueError("it is no regular file")
    with zipfile.ZipFile(path) as archive:
        head = json.loads(bytes(_array(archive, "head")))
        names = [str(name) for name in head["names"]]
        arrays = [_array(archive, f"{i:05}") for i in range(len(names))]
    if path.name != f"step-{head['step']:08}.npz":
        raise ValueError(f"it is of step {head['step']}")
    _check_facts(head["facts"])
    return Checkpoint(path, head["step"], head["facts"], arrays, names)


def _check_facts(facts):
    """Raises an error unless the JSON, which comes from outside, holds the facts of a run."""
    history, recalls = facts.get("history", []), facts.get("recalls", [])
    numbers = [value for row in history for value in row.values()]
    shares = [value for row in recalls for value in row if value is not None]
    if not all(type(x) in (int, float) for x in [facts.get("seconds", 0.0), *numbers, *shares]):
        raise ValueError("its history, recalls or seconds are no numbers")


def _array(archive, name):
    """An array of the archive, allocated only if the file has as many bytes."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        expected, received = math.prod(shape) * dtype.itemsize, info.file_size - file.tell()
    if info.compress_type != zipfile.ZIP_STORED or expected != received:
        raise ValueError(f"{name}: expected {expected:,} bytes; received {received:,}")
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
