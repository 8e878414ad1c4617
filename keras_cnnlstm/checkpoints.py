"""Checkpoints: all that a training needs to go on as if it had never stopped.

    CHECKPOINTS/step-00001200.npz    every variable after 1,200 batches, and where the run stood

Weights, optimizer, the states of random layers and of the epoch's metrics; data needs none, being
a function of the step. A file appears whole or not at all. It is a zip archive, hence each array
in it has a checksum: a damaged one is found out, and the one before it is taken.
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

from keras_cnnlstm.arguments import told
from keras_cnnlstm.files import replacing

_KEPT = 3  # the newest ones; the others are removed


class Checkpoint(NamedTuple):
    """What was read from a checkpoint."""

    path: Path
    step: int  # batches trained
    facts: dict[str, Any]  # what the caller gave to `save`
    arrays: list[np.ndarray]  # in the order of `_variables`
    names: list[str]


def save_checkpoint(
    folder: Path,
    model: keras.Model,
    step: int,
    facts: Mapping[str, Any],
    others: Sequence[keras.Variable] = (),
) -> Path:
    """Writes a checkpoint of a model in training, and removes the oldest over three.

    Args:
        folder: where checkpoints lie.
        model: compiled and trained for a batch at least.
        step: batches trained so far.
        facts: what else to keep, as JSON can hold it.
        others: further variables to keep.

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
    """Reads the newest checkpoint that is whole; warns of each that is not.

    Args:
        folder: where checkpoints lie.

    Returns:
        It, or `None` if there is none.
    """
    for path in reversed(_files(folder)):
        try:
            return _read(path)
        except Exception as error:  # a damaged file can fail anywhere in the reading of it
            warnings.warn(
                f"{path}: this checkpoint is damaged ({told(error)}); going back to the one before "
                "it.",
                stacklevel=2,
            )
    return None


def restore_checkpoint(
    model: keras.Model, checkpoint: Checkpoint, others: Sequence[keras.Variable] = ()
) -> None:
    """Sets every variable of a model in training to what it was.

    Args:
        model: built and compiled as the one that was saved, optimizer and metrics built too.
        checkpoint: what to set.
        others: the further variables, as they were given to `save_checkpoint`.

    Raises:
        ValueError: if the variables are not those of the checkpoint.
    """
    variables = _variables(model, others)
    saved = zip(checkpoint.names, checkpoint.arrays, strict=True)
    expected = [(name, array.shape) for name, array in saved]
    received = [(_name(v), tuple(v.shape)) for v in variables]
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
    """A variable's name, without what Keras appends to names that occur twice in a process.

    Its path would tell more, but depends on who builds the optimizer.
    """
    return re.sub(r"_\d+$", "", variable.name)


def _files(folder):
    return sorted(folder.glob("step-*.npz"))


def _read(path):
    with zipfile.ZipFile(path) as archive:
        head = json.loads(bytes(_array(archive, "head")))
        names = [str(name) for name in head["names"]]
        arrays = [_array(archive, f"{i:05}") for i in range(len(names))]
    return Checkpoint(path, int(head["step"]), dict(head["facts"]), arrays, names)


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
