"""Reads `.keras` files that may come from anyone: looked at first, and only then built.

A `.keras` file is a zip archive of the model's configuration (JSON) and weights (HDF5). Keras
builds what the first says before it looks at the second, so a few bytes can ask for all memory
there is. Here the archive, its checksums and the sizes that it declares are checked before. Knows
nothing of run directories.
"""

import contextlib
import io
import json
import math
import threading
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import keras

_MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}  # of what Keras writes

_OTHERS = {
    b"\x89HDF": "an HDF5 file (.h5), which can hold code",
    b"\x80": "a pickle, which can hold code",
    b"\x08": "a SavedModel, which can hold code",
}
"""What a file is that begins so, and why it is refused."""

_CONFIG = 50_000_000  # bytes of configuration at most; a ResNet has 100,000
_SPARE = 1_000_000  # numbers that a model may have beyond what its file holds
_BATCH = 65_536  # sequences that a model may be fixed to
_REASON = 300  # characters of what Keras says


def read_model(path: Path) -> keras.Model:
    """Reads a `.keras` file, with `safe_mode=True`.

    Args:
        path: the file, as `keras.Model.save` writes it.

    Returns:
        The model, not compiled.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is of another format, damaged, not safe to open, or larger built than
            what it holds.
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
    except Exception as error:  # a damaged file can fail anywhere in the reading of it
        raise ValueError(
            f"{path}: expected a model in Keras' format; {type(error).__name__}: {_reason(error)} "
            "Is the file whole, and written by this package?"
        ) from error
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"{path}: expected a model in Keras' format; found a {type(model).__name__}."
        )
    return model


def _check_format(path):
    with path.open("rb") as file:
        start = file.read(4)
    if path.suffix != ".keras" or start != b"PK\3\4":
        kinds = (kind for magic, kind in _OTHERS.items() if start.startswith(magic))
        found = next(kinds, "no zip archive" if start != b"PK\3\4" else "another ending")
        raise ValueError(
            f"{path}: expected a model in Keras' format, a zip archive named .keras; found "
            f"{found}. Save the model with model.save('model.keras')."
        )


def _checked_archive(path) -> int:
    """Refuses an archive that Keras did not write so; returns the bytes of its weights."""
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
        _check_config(json.loads(archive.read("config.json")))
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


def _check_config(config: Any) -> None:
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
    """Refuses a weight of a layer, before it is made, that goes beyond `limit` numbers in all."""
    add_weight, mine, left = keras.Layer.add_weight, threading.get_ident(), limit

    def checked(self, shape=None, *args, **kwargs):
        nonlocal left
        if threading.get_ident() == mine:  # other threads may build models of their own
            left -= math.prod(shape or ())
            if left < 0:
                raise ValueError(
                    f"its layers have more weights than the file holds; {self.name!r} asks for "
                    f"{tuple(shape)}."
                )
        return add_weight(self, shape, *args, **kwargs)

    with patch.object(keras.Layer, "add_weight", checked):
        yield


def _reason(error: Exception) -> str:
    """What Keras has to say, without the configurations that it puts around it."""
    text = str(error).rpartition("Exception encountered: ")[2].strip()
    text = text.partition(" If you trust")[0]  # what follows is how to run it all the same
    line = " ".join(text.split())
    return line if len(line) <= _REASON else f"{line[: _REASON - 3]}..."
