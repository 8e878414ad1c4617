"""Reads `.keras` files from unknown sources: checks them first, and only then builds the model.

A `.keras` file is a zip archive of a model's configuration (JSON) and weights (HDF5). Keras builds
the configuration before it looks at the weights, so that a few bytes can ask for all memory. Here
the archive, its checksums and the declared sizes are checked before.
"""

import contextlib
import io
import json
import math
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from keras_cnnlstm.models.graph import all_layers
from keras_cnnlstm.utils.validation import as_numbers

_MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}  # as Keras writes them
_OTHERS = {
    b"\x89HDF": "an HDF5 file (.h5), which can hold code",
    b"\x80": "a pickle, which can hold code",
    b"\x08": "a SavedModel, which can hold code",
}  # formats by their first bytes
_CONFIG = 50_000_000  # bytes of configuration at most; a ResNet has 100,000
_SPARE = 1_000_000  # numbers that a model may have beyond those in its file
_BATCH = 65_536  # sequences in a batch of fixed size at most
_REASON = 300  # characters of Keras's reason


def read_model(path: Path) -> keras.Model:
    """Reads a `.keras` file, with `safe_mode=True`.

    Args:
        path: the file, as `keras.Model.save` writes it.

    Returns:
        The model, not compiled.
    """
    if not path.is_file():
        found = "a directory" if path.is_dir() else "nothing"
        raise FileNotFoundError(f"{path}: expected a model in Keras' format; found {found}.")
    _check_format(path)
    try:
        weights = _checked_archive(path)
        with _within(_SPARE + weights), warnings.catch_warnings():
            warnings.filterwarnings("error", message="Skipping nested container")  # lacks weights
            model = keras.models.load_model(path, safe_mode=True, compile=False)
    except Exception as error:  # a damaged file can fail anywhere
        raise ValueError(
            f"{path}: expected a model in Keras' format; {type(error).__name__}: {_reason(error)} "
            "Is the file whole, and written by this package?"
        ) from error
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"{path}: expected a model in Keras' format; found a {type(model).__name__}."
        )
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.Rescaling):  # Keras looks at them when they are used
            as_numbers(f"{path}: `scale` of {layer.name}", layer.scale)
            as_numbers(f"{path}: `offset` of {layer.name}", layer.offset)
    for weight in model.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
            raise ValueError(
                f"{path}: expected weights that are finite numbers; {weight.path} holds NaN or "
                "infinity. The training diverged: train again, with a lower learning_rate."
            )
    return model


def _check_format(path):
    with path.open("rb") as file:
        start = file.read(4)
    if path.suffix != ".keras" or start != b"PK\3\4":
        others = (other for magic, other in _OTHERS.items() if start.startswith(magic))
        found = next(others, "no zip archive" if start != b"PK\3\4" else "another ending")
        raise ValueError(
            f"{path}: expected a model in Keras' format, a zip archive named .keras; found "
            f"{found}. Save the model with model.save('model.keras')."
        )


def _checked_archive(path) -> int:
    """Refuses an archive that Keras did not write; returns the bytes of its weights."""
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        if infos.keys() != _MEMBERS or len(archive.infolist()) > len(_MEMBERS):
            raise ValueError(
                f"expected {', '.join(sorted(_MEMBERS))} in it; received "
                f"{', '.join(map(repr, sorted(infos)))}."
            )
        for info in infos.values():
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                raise ValueError(f"expected {info.filename} stored as it is; it is packed.")
        if infos["config.json"].file_size > _CONFIG:
            raise ValueError(f"expected config.json of {_CONFIG:,} bytes at most.")
        if damaged := archive.testzip():  # by the checksums
            raise ValueError(f"{damaged} in it is damaged.")
        _check_inputs(json.loads(archive.read("config.json")))
        return _checked_weights(archive.read("model.weights.h5"))


def _checked_weights(content: bytes) -> int:
    """Refuses arrays that are larger than the file that holds them; returns its size."""
    declared = 0

    def count(name, node):
        nonlocal declared
        declared += node.nbytes if isinstance(node, h5py.Dataset) else 0

    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(count)  # follows no links, which Keras refuses
    if declared > len(content):
        raise ValueError(
            f"expected weights as large as their file, {len(content):,} bytes; it declares "
            f"{declared:,}."
        )
    return len(content)


def _check_inputs(config: Any) -> None:
    """Refuses inputs that are larger than anything that is trained."""
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
            _check_shape(part.get("batch_shape"))


def _check_shape(shape: Any) -> None:
    if not isinstance(shape, list) or not shape:
        return
    batch, *sizes = (1 if size is None else size for size in shape)
    known = all(isinstance(size, int) for size in (batch, *sizes))
    if not known or not 0 < batch <= _BATCH or math.prod(sizes) > 2**31:
        raise ValueError(f"expected an input that fits into memory; received shape {shape}.")


@contextlib.contextmanager
def _within(limit: int) -> Iterator[None]:
    """Within the block layers refuse to make weights of more than `limit` numbers in all."""
    left = limit

    def checked(create, initial_value=None, **kwargs):
        nonlocal left
        shape = _shape_of(initial_value)
        left -= math.prod(shape)
        if left < 0:
            raise ValueError(
                "its layers have more weights than the file holds; "
                f"{tf.get_current_name_scope()!r} asks for {shape}."
            )
        return create(initial_value=initial_value, **kwargs)

    with tf.variable_creator_scope(checked):  # of this thread alone
        yield


def _shape_of(value: Any) -> tuple[int, ...]:
    """The shape of a tensor, or of the one that a function would return, which is not computed."""
    if callable(value):
        value = tf.function(value, autograph=False).get_concrete_function().structured_outputs
    return tuple(value.shape)


def _reason(error: Exception) -> str:
    """Keras's reason, without the configurations around it."""
    text = str(error).rpartition("Exception encountered: ")[2].strip()
    text = text.partition(" If you trust")[0]  # what follows explains how to run it all the same
    line = " ".join(text.split())
    return line if len(line) <= _REASON else f"{line[: _REASON - 3]}..."
