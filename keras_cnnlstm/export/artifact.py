"""Opens an exported model of any format and answers with it, without Keras."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnnlstm.export.formats import FORMATS, Signature, located, one_line, opened
from keras_cnnlstm.utils.validation import as_integers, as_shaped, short_repr

_LARGEST = 65_536  # frames, pixels of a side or channels


@dataclass(frozen=True)
class Artifact:
    """An exported model, ready to answer.

    Attributes:
        path: the file, or the directory of a SavedModel.
        metadata: its `metadata.json`: class names, task, inputs, outputs, precision, versions.
        signatures: the functions in the file by name; `serving_default` is the model itself.
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
        """`(T, H, W, C)` of a sequence, T `None` for any number; or `(H, W, C)` of one image."""
        return tuple(self.metadata["inputs"]["frames"]["shape"][1:])

    def predict(self, frames: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        """Answers for a batch of sequences in one call.

        Args:
            frames: `(B, T, H, W, C)` uint8, B at least 1.
            lengths: `(B,)` integers, 1 to T, the frames that count in each sequence; only for
                models with that input.

        Returns:
            The model's first output; of a classifier the probabilities, `(B, num_classes)` or
            `(B, T, num_classes)` float32.

        Raises:
            ValueError: if `frames` or `lengths` do not fit the model.
        """
        frames = checked_frames("predict", frames, ("B", *self.input_shape))
        inputs = {"frames": frames}
        if "lengths" in self.metadata["inputs"]:
            lengths = as_integers("predict: `lengths`", lengths, len(frames), 1, frames.shape[1])
            inputs["lengths"] = lengths.astype(np.int32)
        elif lengths is not None:
            raise ValueError(
                "predict: `lengths` must be None for a model without that input; received "
                f"{short_repr(lengths)}."
            )
        try:
            return self.signatures["serving_default"](**inputs)[self.metadata["outputs"][0]]
        except Exception as error:  # each format has errors of its own
            raise ValueError(
                f"{self.path}: expected a model that answers as its metadata.json says, for "
                f"`frames` of shape {frames.shape}; {one_line(error)}"
            ) from error


def checked_frames(function: str, frames: Any, shape: tuple[str | int | None, ...]) -> np.ndarray:
    """The `frames` of a function as an array, if they are uint8, not empty, and of a shape.

    Its first entry is the name of an axis of any size; `None` stands for any number of frames.
    """
    remedy = "Give raw pixels from 0 to 255: the model rescales them itself."
    return as_shaped(f"{function}: `frames`", frames, "uint8", shape, remedy)


def load_artifact(path: str | Path) -> Artifact:
    """Opens a model that `export` wrote, in any format.

    A SavedModel is code: its graph can read and write files with the rights of its user. Open only
    what you or someone you trust exported. `.tflite` and `.onnx` files hold no such operations.

    Args:
        path: the directory of an export, one version of a SavedModel, the directory over its
            versions (the newest is opened), or the `.tflite`, `.onnx` or `saved_model.pb` file.

    Returns:
        The opened artifact.

    Raises:
        FileNotFoundError: if there is no export at `path`.
        ValueError: if it cannot be read, or the package that runs its format is not installed.
    """
    format, directory = located(path)
    metadata = read_metadata(directory, format)
    return Artifact(FORMATS[format].path(directory), metadata, opened(directory, format))


def read_metadata(directory: Path, format: str) -> dict[str, Any]:
    """The `metadata.json` of the export in a directory.

    Raises:
        ValueError: if it cannot be read, or does not describe a model.
    """
    file = FORMATS[format].metadata_file(directory)
    try:
        if not file.is_file():  # opening a pipe would never return
            raise FileNotFoundError("there is no such file")
        metadata = json.loads(file.read_text(encoding="utf-8"))
        _check_metadata(metadata)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{file}: expected what keras-cnnlstm export writes about a model; "
            f"{one_line(error)}. Was {directory} exported by this package?"
        ) from error
    return metadata


def _check_metadata(metadata: Any) -> None:
    """Raises some error unless the JSON, which comes from outside, describes a model."""
    shape, outputs = metadata["inputs"]["frames"]["shape"], metadata["outputs"]
    names = metadata["class_names"]
    sizes = [1 if size is None else size for size in shape]
    fits = all(isinstance(size, int) and 0 < size <= _LARGEST for size in sizes)
    if not isinstance(shape, list) or len(shape) not in (4, 5) or not fits:
        raise ValueError(f"the shape of the frames is {str(shape)[:100]!r}")
    for name, texts in (("outputs", outputs), ("class_names", [] if names is None else names)):
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name} are {str(texts)[:100]!r}, no list of names")
    if not outputs or not isinstance(metadata.get("task") or {}, dict):
        raise ValueError("outputs are empty, or the task is no object")
