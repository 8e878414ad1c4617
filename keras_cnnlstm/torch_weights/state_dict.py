"""PyTorch's `state_dict`: its files, its arrays, its modules.

Files are `.safetensors`, which hold arrays and no code, so neither PyTorch nor pickle is needed.
Knows nothing of Keras; `convert` moves the arrays into a Keras model and back.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_cnnlstm.utils.environment import required
from keras_cnnlstm.utils.files import replacing
from keras_cnnlstm.utils.validation import as_path, short_repr

StateDict = dict[str, np.ndarray]
"""Names -> arrays, as PyTorch's `model.state_dict()`."""


class Module(NamedTuple):
    """A PyTorch module with weights, or one layer of an LSTM module.

    Attributes:
        type: "Conv2d", "Linear", "LSTM" or "BatchNorm".
        label: the module's name, followed by l0, l1, ... for the layers of an LSTM.
        names: entries, such as "weight" or "bias_ih_reverse" -> their names in the `state_dict`.
        shapes: entries -> their shapes.
    """

    type: str
    label: str
    names: dict[str, str]
    shapes: dict[str, tuple[int, ...]]


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
    safetensors = required("safetensors", extra="safetensors")
    if not file.is_file():
        found = "a directory" if file.is_dir() else "nothing there"
        raise FileNotFoundError(f"path: expected a .safetensors file; received {path}: {found}.")
    try:
        entries = dict(safetensors.deserialize(file.read_bytes()))
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"path: expected a whole .safetensors file; received {path}, which cannot be read "
            f"({short_repr(str(error))[1:-1]}). Copy it or write it again."
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
    safetensors = required("safetensors.numpy", extra="safetensors")
    arrays = checked_arrays("state_dict", state_dict)
    with replacing(file) as temporary:
        safetensors.save_file(arrays, temporary, metadata={"format": "pt"})


def checked_arrays(
    argument: str, state_dict: Mapping[str, Any], ignore: str | Sequence[str] = ()
) -> StateDict:
    """The entries as float32 arrays in C order, in their order; counters as they are.

    Those whose whole names match one of the regular expressions are left out.
    """
    if not isinstance(state_dict, Mapping) or not all(isinstance(n, str) for n in state_dict):
        raise ValueError(
            f"{argument}: expected a mapping from names to arrays; received "
            f"{type(state_dict).__name__}. Give the model.state_dict() of a PyTorch model."
        )
    patterns = _patterns(ignore)
    kept = [name for name in state_dict if not any(x.fullmatch(name) for x in patterns)]
    return {name: _checked_array(argument, name, state_dict[name]) for name in kept}


def torch_modules(argument: str, state_dict: StateDict) -> list[Module]:
    """The modules of a `state_dict`, in its order, without counters of batches.

    Example:

    >>> [module] = torch_modules("state_dict", {"fc.weight": np.zeros((7, 128), "float32")})
    >>> module.type, module.label, module.names
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
    # As text, since a file could have more digits than Python converts to a number.
    return [part.zfill(20) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


_DTYPES = {
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2", "BOOL": "?",
    "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "U8": "<u1", "U16": "<u2", "U32": "<u4", "U64": "<u8",
}  # fmt: skip

_FOR_LSTM = {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}
_ENTRIES = {
    "Conv2d": {"weight", "bias"},
    "Linear": {"weight", "bias"},
    "LSTM": _FOR_LSTM | {f"{entry}_reverse" for entry in _FOR_LSTM},
    "BatchNorm": {"weight", "bias", "running_mean", "running_var"},
}


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
            f"path: expected numbers of 16 bits or more; received {short_repr(name)[1:-1]} of type "
            f"{dtype}. Write it as float32."
        )
    x = np.frombuffer(data, _DTYPES[dtype]).reshape(shape)
    if dtype == "BF16":  # the upper half of a float32
        x = (x.astype("<u4") << 16).view("<f4")
    return x.astype(np.float32 if x.dtype.kind == "f" else x.dtype)


def _patterns(ignore):
    """The regular expressions, compiled."""
    try:
        patterns = [re.compile(x) for x in ([ignore] if isinstance(ignore, str) else ignore)]
        for pattern in patterns:
            pattern.fullmatch("")  # a pattern of bytes compiles too
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"ignore: expected regular expressions; received {short_repr(ignore)} ({error}). "
            "Give 'fc.*' for all entries of the module fc."
        ) from error
    return patterns


def _checked_array(argument, name, value):
    try:
        x = np.asarray(value)
    except (TypeError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{argument}: expected {name} to be an array; received {type(value).__name__} that "
            f"NumPy cannot read ({error}). Give tensor.detach().cpu().float() of a tensor."
        ) from error
    if is_counter(name):
        return x.copy()
    if x.dtype.kind != "f" and x.dtype.name != "bfloat16":
        raise ValueError(
            f"{argument}: expected {name} to be of floating point; received {x.dtype} of shape "
            f"{x.shape}. Ignore it if it is no weight."
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
                "else. Ignore it if the Keras model has no such layer."
            )
    return Module(kind, label, names, shapes)


def _kind(shapes):
    if "weight_ih" in shapes:
        hidden = shapes.get("weight_hh", (4, 1))  # the matching refuses one without
        return "LSTM" if len(hidden) == 2 and hidden[0] == 4 * hidden[1] else "GRU or RNN"
    if "running_mean" in shapes:
        return "BatchNorm"
    return {4: "Conv2d", 2: "Linear"}.get(len(shapes.get("weight", ())), "")
