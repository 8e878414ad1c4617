"""Reads an exported model of any format, and answers with it.

Knows nothing of Keras and imports nothing of this package, so that an answer from here is an
answer of the exported file alone. `parity` runs this very file by itself, in a fresh process, to
prove an export; `load_artefact` gives the same to users.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Signature = Callable[..., dict[str, np.ndarray]]
"""A function of the exported file: named arrays in, named arrays out."""

MODEL_FILES = {"litert": "model.tflite", "onnx": "model.onnx", "saved_model": "saved_model.pb"}
"""The file that makes a directory an export, by format."""


@dataclass(frozen=True)
class Artefact:
    """An exported model, ready to answer.

    Attributes:
        path: the file, or the directory of a SavedModel.
        metadata: what travels with it: class names, task, inputs, outputs, precision, versions.
        signatures: the functions in the file by name, `serving_default` being the model itself.
    """

    path: Path
    metadata: Mapping[str, Any]
    signatures: Mapping[str, Signature]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the model's outputs; empty if it has none."""
        return tuple(self.metadata["class_names"] or ())

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """`(T, H, W, C)` of a sequence; T is `None` if any number of frames will do."""
        return tuple(self.metadata["inputs"]["frames"]["shape"][1:])

    def predict(self, frames: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        """Answers for a batch of sequences, all of them at once.

        Args:
            frames: `(B, T, H, W, C)` uint8, B at least 1.
            lengths: `(B,)` whole numbers, frames that count in each sequence, 1 to T; only for
                models that take them.

        Returns:
            The model's first output; of a classifier the probabilities, `(B, num_classes)` (or
            `(B, T, num_classes)`) float32.

        Raises:
            ValueError: if `frames` or `lengths` do not fit the model.
        """
        inputs = {"frames": self._checked(_array("frames", frames))}
        if ("lengths" in self.metadata["inputs"]) != (lengths is not None):
            expected = "none" if lengths is not None else "one number for each sequence"
            raise ValueError(
                f"predict: `lengths`: expected {expected}, as the model was built; received "
                f"{'none' if lengths is None else 'some'}."
            )
        if lengths is not None:
            lengths = _array("lengths", lengths)
            inputs["lengths"] = _checked_lengths(lengths, inputs["frames"])
        try:
            return self.signatures["serving_default"](**inputs)[self.metadata["outputs"][0]]
        except Exception as error:  # each format has errors of its own
            raise ValueError(
                f"{self.path}: expected a model that answers as its metadata.json says, for "
                f"`frames` of shape {inputs['frames'].shape}; {_told(error)}"
            ) from error

    def _checked(self, frames):
        shape = ("B", *("T" if size is None else size for size in self.input_shape))
        wanted = f"({', '.join(map(str, shape))})"
        if frames.ndim != len(shape) or any(
            isinstance(size, int) and size != received
            for size, received in zip(shape, frames.shape, strict=True)
        ):
            raise ValueError(
                f"predict: `frames`: expected shape {wanted}; received {frames.shape}."
            )
        if frames.dtype != np.uint8:
            raise ValueError(
                f"predict: `frames`: expected raw pixels, uint8 from 0 to 255; received "
                f"{frames.dtype}. The model rescales them itself."
            )
        if not frames.size:
            raise ValueError(
                f"predict: `frames`: expected one sequence of one frame at least; received shape "
                f"{frames.shape}."
            )
        return frames


def _told(error: Exception) -> str:
    """An error on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def load_artefact(path: str | Path) -> Artefact:
    """Opens a model that `export` wrote, in any of the three formats.

    A SavedModel is code: its graph can read and write files as the user who runs it. Open only
    what you or someone you trust exported. `.tflite` and `.onnx` files hold no such operations.

    Args:
        path: an export's directory, one version of a SavedModel, the directory over its versions
            (the newest is taken), or the `.tflite`, `.onnx` or `saved_model.pb` file itself.

    Returns:
        The opened artefact.

    Raises:
        FileNotFoundError: if there is no export at `path`.
        ValueError: if it cannot be read, or the package that runs its format is missing.
    """
    kind, directory = located(path)
    metadata = _metadata(directory, kind)
    file = directory if kind == "saved_model" else directory / MODEL_FILES[kind]
    required(_PACKAGES[kind])
    try:
        signatures = _OPEN[kind](file)
        if "serving_default" not in signatures:
            raise ValueError("it has no function serving_default")
        return Artefact(file, metadata, signatures)
    except Exception as error:  # a damaged file can fail anywhere in the reading of it
        raise _unreadable(file, error) from error


def required(package: str, *, extra: str = "export") -> Any:
    """Imports an optional package, or says which extra to install.

    Raises:
        ValueError: if the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{package.partition('.')[0]}: expected this package to be installed; it is not. "
            f'Install it with python -m pip install "keras-cnnlstm[{extra}]".'
        ) from error


def located(path: str | Path) -> tuple[str, Path]:
    """The format of the export at `path`, and its directory. Opens nothing.

    Args:
        path: as `load_artefact` takes it.

    Raises:
        FileNotFoundError: if there is no export at `path`.
        ValueError: if that is none.
    """
    if not isinstance(path, str | os.PathLike) or not str(path) or "\0" in str(path):
        given = " ".join(repr(path).split())[:200]
        raise ValueError(f"load_artefact: `path` must be a path; received {given}.")
    path = Path(path)
    for kind, name in MODEL_FILES.items():
        if path.name == name and path.is_file():
            return kind, path.parent
        if (path / name).is_file():
            return kind, path
    versions = {
        int(p.parent.name): p for p in path.glob("*/saved_model.pb") if is_version(p.parent)
    }
    if versions:
        return "saved_model", versions[max(versions)].parent
    found = "such a directory without one" if path.is_dir() else "something else"
    raise FileNotFoundError(
        f"{path}: expected an exported model ({', '.join(MODEL_FILES.values())}); found "
        f"{found if path.exists() else 'nothing'}."
    )


def is_version(path: Path) -> bool:
    """Whether a model server takes the directory for a version: its name is a whole number."""
    return path.name.isascii() and path.name.isdigit()


def _metadata(directory: Path, kind: str) -> dict[str, Any]:
    file = directory / ("assets" if kind == "saved_model" else "") / "metadata.json"
    try:
        if not file.is_file():  # to open a pipe would wait for ever
            raise FileNotFoundError("there is no such file")
        metadata = json.loads(file.read_text(encoding="utf-8"))
        _check_metadata(metadata)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{file}: expected what keras-cnnlstm export writes about a model; {_told(error)}. "
            f"Was {directory} exported by this package?"
        ) from error
    return metadata


def _check_metadata(metadata: Any) -> None:
    """Refuses, by some error, what is no description of a model: it is data from outside."""
    shape, outputs = metadata["inputs"]["frames"]["shape"], metadata["outputs"]
    sizes = [1 if size is None else size for size in shape]
    fits = all(isinstance(size, int) and 0 < size <= _LARGEST for size in sizes)
    if not isinstance(shape, list) or len(shape) not in (4, 5) or not fits:
        raise ValueError(f"the shape of the frames is {str(shape)[:100]!r}")
    names = metadata["class_names"]
    for name, texts in (("outputs", outputs), ("class_names", [] if names is None else names)):
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name} are {str(texts)[:100]!r}, no list of names")
    if not outputs or not isinstance(metadata.get("task") or {}, dict):
        raise ValueError("outputs are empty, or the task is no object")


_LARGEST = 65_536  # frames, pixels of a side or channels


def _open_saved_model(path: Path) -> dict[str, Signature]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))

    def signature(name):
        # Looked up in `loaded` at each call: its variables live as long as it does.
        return lambda **inputs: {
            key: value.numpy()
            for key, value in loaded.signatures[name](
                **{key: tf.constant(value) for key, value in inputs.items()}
            ).items()
        }

    return {name: signature(name) for name in loaded.signatures}


def _open_litert(path: Path) -> dict[str, Signature]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    # A runner brings the tensors to the size of each call's inputs.
    return {
        name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()
    }


def _open_onnx(path: Path) -> dict[str, Signature]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return {
        "serving_default": lambda **inputs: dict(zip(names, session.run(None, inputs), strict=True))
    }


_PACKAGES = {
    "saved_model": "tensorflow",
    "litert": "ai_edge_litert.interpreter",
    "onnx": "onnxruntime",
}
_OPEN = {"saved_model": _open_saved_model, "litert": _open_litert, "onnx": _open_onnx}


def _unreadable(file, error):
    return ValueError(
        f"{file}: expected a model that can be opened; {_told(error)}. Is the file whole?"
    )


def _array(argument, value):
    try:
        return np.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"predict: `{argument}`: expected an array; received {str(value)[:100]!r}."
        ) from error


def _checked_lengths(lengths, frames):
    if lengths.shape != frames.shape[:1] or lengths.dtype.kind not in "iu":
        raise ValueError(
            f"predict: `lengths`: expected {len(frames)} whole numbers, one for each sequence; "
            f"received shape {lengths.shape}, {lengths.dtype}."
        )
    if lengths.min() < 1 or lengths.max() > frames.shape[1]:
        raise ValueError(
            f"predict: `lengths`: expected 1 to {frames.shape[1]}, the frames of `frames`; "
            f"received {lengths.min()} to {lengths.max()}."
        )
    return lengths.astype(np.int32)


def answer(path: str, questions: str, answers: str) -> None:
    """Answers the questions that `parity` put into a file, in a process of their own.

    Args:
        path: the artefact.
        questions: an `.npz` file of arrays named `QUESTION/SIGNATURE/INPUT`.
        answers: the `.npz` file to write, arrays named `QUESTION/SIGNATURE/OUTPUT`; for the
            signature `step`, asked with `frames (B, T, ...)`, stacked over time.
    """
    signatures = load_artefact(path).signatures
    asked: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    with np.load(questions, allow_pickle=False) as file:
        for key in file.files:
            question, signature, name = key.split("/")
            asked.setdefault((question, signature), {})[name] = file[key]
    answered: dict[str, Any] = {}
    for (question, signature), inputs in asked.items():
        outputs = (
            _stream(signatures, **inputs)
            if signature == "step"
            else signatures[signature](**inputs)
        )
        for name, value in outputs.items():
            # TensorFlow gives texts as objects, which files without pickle cannot hold.
            value = value.astype("S") if value.dtype == object else value
            answered[f"{question}/{signature}/{name}"] = value
    np.savez(answers, **answered)


def _stream(signatures, frames):
    """Feeds the frames one by one; what is not state is stacked over time, `(B, T, ...)`."""
    states = signatures["init_states"](batch=np.int32(len(frames)))
    names, steps = list(states), []
    for t in range(frames.shape[1]):
        outputs = signatures["step"](frame=frames[:, t], **states)
        states = {name: outputs.pop(name) for name in names}
        steps.append(outputs)
    return {name: np.stack([step[name] for step in steps], axis=1) for name in steps[0]}


if __name__ == "__main__":
    for package in ("keras", "tf_keras", "keras_cnnlstm"):
        sys.modules[package] = None  # type: ignore[assignment]  # to import it is an error now
    answer(*sys.argv[1:])
