"""What a PyTorch `state_dict` holds: its files, its arrays, its modules.

Files are `.safetensors`, which hold arrays and no code, so neither PyTorch nor pickle is needed.
Knows nothing of Keras; `torch_weights` moves the arrays into a Keras model and back.
"""

import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_cnnlstm.arguments import as_path, told

StateDict = dict[str, np.ndarray]
"""Names -> arrays, as PyTorch's `model.state_dict()`."""


class Module(NamedTuple):
    """A PyTorch module with weights, or one layer of an LSTM module."""

    kind: str
    """"Conv2d", "Linear", "LSTM" or "BatchNorm"."""

    label: str
    """The module's name; of an LSTM layer followed by l0, l1, ..."""

    names: dict[str, str]
    """Entries, such as "weight" or "bias_ih_reverse" -> their names in the `state_dict`."""

    shapes: dict[str, tuple[int, ...]]
    """Entries -> their shapes."""


def read_state_dict(path: str | Path) -> StateDict:
    """Reads a `.safetensors` file.

    Args:
        path: the file, written in PyTorch by
            `safetensors.torch.save_file(model.state_dict(), path)`.

    Returns:
        Names -> arrays, in natural order of the names (2 before 10). Floats of 16 bits (bfloat16
        too) and 64 bits become float32; other numbers stay as they are.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no whole `.safetensors` file, or the package `safetensors` is missing.
    """
    file = _checked_ending(path)
    safetensors = _required("safetensors")
    if not file.is_file():
        found = "a directory" if file.is_dir() else "nothing there"
        raise FileNotFoundError(f"path: expected a .safetensors file; received {path}: {found}.")
    try:
        entries = dict(safetensors.deserialize(file.read_bytes()))
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"path: expected a whole .safetensors file; received {path}, which cannot be read "
            f"({told(str(error))[1:-1]}). Copy it or write it again."
        ) from error
    return {name: _decoded(name, **entries[name]) for name in sorted(entries, key=natural)}


def write_state_dict(path: str | Path, state_dict: Mapping[str, Any]) -> None:
    """Writes a `.safetensors` file, under a temporary name first.

    Args:
        path: the file to write; one that is there is replaced.
        state_dict: names -> floating-point arrays; they are written as float32.

    Raises:
        ValueError: if `path` ends otherwise, an entry is no floating-point array or not finite,
            or the package `safetensors` is missing.
    """
    file = _checked_ending(path)
    safetensors = _required("safetensors.numpy")
    arrays = checked_arrays("state_dict", state_dict)
    temporary = file.with_name(f".{os.getpid()}-{file.name}")
    try:
        safetensors.save_file(arrays, temporary, metadata={"format": "pt"})
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def checked_arrays(argument: str, state_dict: Mapping[str, Any]) -> StateDict:
    """The entries as float32 arrays in C order, in their order; counters as they are.

    Args:
        argument: name of the caller's argument, for the error.
        state_dict: names -> floating-point arrays, or what `np.asarray` takes.

    Raises:
        ValueError: if it is no such mapping, or an entry is not finite.
    """
    if not isinstance(state_dict, Mapping) or not all(isinstance(n, str) for n in state_dict):
        raise ValueError(
            f"{argument}: expected a mapping from names to arrays; received "
            f"{type(state_dict).__name__}. Of a PyTorch model, give model.state_dict()."
        )
    return {name: _checked_array(argument, name, value) for name, value in state_dict.items()}


def torch_modules(argument: str, state_dict: StateDict) -> list[Module]:
    """The modules of a `state_dict`, in its order. Counters of batches are no weights.

    Args:
        argument: name of the caller's argument, for the error.
        state_dict: as `checked_arrays` returns it.

    Raises:
        ValueError: if an entry belongs to a module of another kind.

    Example:

    >>> [module] = torch_modules("state_dict", {"fc.weight": np.zeros((7, 128), "float32")})
    >>> module.kind, module.label, module.names
    ('Linear', 'fc', {'weight': 'fc.weight'})
    """
    groups: dict[str, dict[str, str]] = {}
    for name in state_dict:
        label, _, entry = name.rpartition(".")
        if of_lstm := re.fullmatch(r"(.+)_l(\d+)(|_reverse)", entry):
            label, entry = f"{label}.l{of_lstm[2]}", of_lstm[1] + of_lstm[3]
        if not is_counter(name):
            groups.setdefault(label, {})[entry] = name
    return [_module(argument, label, names, state_dict) for label, names in groups.items()]


def is_counter(name: str) -> bool:
    """Whether an entry is BatchNorm's `num_batches_tracked`, which no answer depends on."""
    return name.rpartition(".")[2] == "num_batches_tracked"


def natural(name: str) -> list[str]:
    """A key that sorts 2 before 10."""
    # As text, since a file could name more digits than Python makes a number of.
    return [part.zfill(20) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


_DTYPES = {
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2", "BOOL": "?",
    "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "U8": "<u1", "U16": "<u2", "U32": "<u4", "U64": "<u8",
}  # fmt: skip

_FOR_BATCH_NORM = {"weight", "bias", "running_mean", "running_var"}
_FOR_LSTM = {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}
_ENTRIES = {
    "Conv2d": {"weight", "bias"},
    "Linear": {"weight", "bias"},
    "LSTM": _FOR_LSTM | {f"{entry}_reverse" for entry in _FOR_LSTM},
    "BatchNorm": _FOR_BATCH_NORM,
}


def _required(module):
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            "safetensors: expected this package to be installed; it is not. Install it with "
            'python -m pip install "keras-cnnlstm[safetensors]".'
        ) from error


def _checked_ending(path: str | Path) -> Path:
    path = as_path("path:", path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"path: expected a .safetensors file; received {path}. PyTorch's own files (.pt, .pth, "
            ".bin, .pkl) are pickles, which can run any code when they are read. In PyTorch, write "
            'one with safetensors.torch.save_file(model.state_dict(), "model.safetensors").'
        )
    return path


def _decoded(name, dtype, shape, data):
    if dtype not in _DTYPES:
        raise ValueError(
            f"path: expected numbers of 16 bits or more; received {told(name)[1:-1]} of type "
            f"{dtype}. Write it as float32."
        )
    x = np.frombuffer(data, _DTYPES[dtype]).reshape(shape)
    if dtype == "BF16":  # the upper half of a float32
        x = (x.astype("<u4") << 16).view("<f4")
    return x.astype(np.float32 if x.dtype.kind == "f" else x.dtype)


def _checked_array(argument, name, value):
    try:
        x = np.asarray(value)
    except (TypeError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{argument}: expected {name} to be an array; received {type(value).__name__} that "
            f"NumPy cannot read ({error}). Of a tensor, give tensor.detach().cpu().float()."
        ) from error
    if is_counter(name):
        return x.copy()
    if x.dtype.kind != "f" and x.dtype.name != "bfloat16":
        raise ValueError(
            f"{argument}: expected {name} to be of floating point; received {x.dtype} of shape "
            f"{x.shape}. Remove it if it is no weight."
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
        x = x.astype(np.float32, order="C")
    if not np.isfinite(x).all():
        raise ValueError(
            f"{argument}: expected finite numbers; received NaN or infinity in {name} of shape "
            f"{x.shape}. Take weights from before the training diverged."
        )
    return x


def _module(argument, label, names, state_dict):
    shapes = {entry: state_dict[name].shape for entry, name in names.items()}
    kind = _kind(shapes)
    for entry, name in names.items():
        if entry not in _ENTRIES.get(kind, ()):
            raise ValueError(
                f"{argument}: expected entries of Conv2d, Linear, LSTM (without proj_size) and "
                f"BatchNorm modules; received {name} of shape {shapes[entry]}, part of something "
                "else. Remove it if the Keras model does without."
            )
    return Module(kind, label, names, shapes)


def _kind(shapes):
    if "weight_ih" in shapes:
        hidden = shapes.get("weight_hh", (4, 1))  # one that misses is told by the matching
        return "LSTM" if len(hidden) == 2 and hidden[0] == 4 * hidden[1] else "GRU or RNN"
    if "running_mean" in shapes:
        return "BatchNorm"
    return {4: "Conv2d", 2: "Linear"}.get(len(shapes.get("weight", ())), "")
