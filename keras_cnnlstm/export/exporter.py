"""Takes a model out of this package: SavedModel, LiteRT, ONNX, each proven equal to the model.

    DIR/VERSION/saved_model.pb ...         format "saved_model", as model servers want it
    DIR/VERSION/assets/metadata.json       class names, task, inputs, precision, versions
    DIR/VERSION/parity.json                how far its answers are from the model's

    DIR/model.tflite or DIR/model.onnx     formats "litert" and "onnx"
    DIR/metadata.json, DIR/parity.json

An export is built in a temporary directory beside its place, proven there, and then renamed, so
it is either whole and right or not there.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_cnnlstm import __version__
from keras_cnnlstm.export.artifact import read_metadata
from keras_cnnlstm.export.formats import FORMATS, FormatName, is_version
from keras_cnnlstm.export.parity import BOUNDS, Reference, prove
from keras_cnnlstm.export.portable import precision
from keras_cnnlstm.export.signatures import input_specs, output_names
from keras_cnnlstm.models.decoding import answering_model
from keras_cnnlstm.models.graph import as_functional
from keras_cnnlstm.training.run_directory import Run, load_run
from keras_cnnlstm.utils.environment import required
from keras_cnnlstm.utils.files import temporary_beside
from keras_cnnlstm.utils.validation import (
    as_path,
    check_choice,
    check_instance,
    check_integer,
    check_names,
    short_repr,
)


@dataclass(frozen=True)
class Source:
    """A model to export, with what belongs to it.

    Attributes:
        model: the model, with the input `frames` and perhaps `lengths`.
        class_names: one for each probability; none for a model without.
        task: the `task_metadata` of a run; `None` for a model alone.
    """

    model: keras.Model
    class_names: tuple[str, ...]
    task: dict[str, Any] | None

    def metadata(self) -> dict[str, Any]:
        """The part of the `metadata.json` of an export that does not depend on the format."""
        inputs = {
            name: {"shape": list(spec.shape), "dtype": spec.dtype.name}
            for name, spec in input_specs(self.model).items()
        }
        inputs["frames"] |= {"range": [0, 255]}
        return {
            "model": self.model.name,
            "task": self.task,
            "class_names": list(self.class_names),
            "inputs": inputs,
            "outputs": output_names(self.model),
            "keras_cnnlstm": __version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
        }


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        path: the new directory; of a SavedModel that of the version.
        parity: what its `parity.json` says.
    """

    path: Path
    parity: dict[str, Any]


def export(
    model_or_run: keras.Model | Run | str | Path,
    path: str | Path,
    format: FormatName = "saved_model",
    *,
    version: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Exported:
    """Writes a model in a format that runs without this package, and proves it to be the same.

    A fresh process that can import neither Keras nor this package opens the export and answers
    several batches; the largest difference from the model's own answers goes into `parity.json`.
    If it is over 1e-5 (2e-2 for a model that computes in half precision), the export fails and
    leaves nothing behind. The model is not changed.

    A `captioner` is exported as its `greedy_model`: it answers with `tokens`, their
    `log_probability` and, in a SavedModel, the `caption`.

    LiteRT and ONNX files compute in float32. A model of half precision is held to 1e-5 against
    the same weights in float32; against the model as it is the median sequence is held to 2e-2,
    since the rounding moves a rare sequence further: a trained reference model by up to 3e-2.

    Args:
        model_or_run: a model with the input `frames` uint8 `(B, T, ...)` and perhaps `lengths`;
            or a `Run`, or the path of a run directory.
        path: directory to write to, made if need be. For a SavedModel the directory over its
            versions; for the other formats it must be new or empty.
        format: "saved_model", "litert" or "onnx"; `formats.FORMATS` says what each holds.
        version: of a SavedModel, 1 or more; by default one more than the newest there.
        class_names: one for each probability; by default those of the run, else "0", "1", ...

    Returns:
        Where it was written, and how far its answers are from the model's.

    Raises:
        FileExistsError: if the version, or the directory, is already there.
        FileNotFoundError: if `model_or_run` is a path without a run.
        OSError: if the directory cannot be written.
        ValueError: if an argument is wrong, the format cannot hold the model, or the package
            that writes or runs the format is not installed.
        ParityError: (a ValueError) if the export does not answer as the model does.
    """
    check_choice("export: `format`", format, FORMATS)
    for package in FORMATS[format].packages:
        required(package)
    source = _source(model_or_run, class_names)
    target = _target(as_path("export: `path`", path), format, version)
    with _new_directory(target) as directory:
        parity = write_model(source, format, directory)
        _write_json(directory / "parity.json", parity)
    return Exported(target, parity)


def _source(model_or_run, class_names) -> Source:
    if isinstance(model_or_run, str | Path):
        model_or_run = load_run(model_or_run)
    model, task = model_or_run, None
    if isinstance(model_or_run, Run):
        model, task = model_or_run.model, model_or_run.task_metadata
        class_names = model_or_run.class_names if class_names is None else class_names
    expected = "a keras.Model, a Run or the path of a run directory"
    check_instance("export: `model_or_run`", model, keras.Model, expected)
    model = as_functional("export: `model_or_run`", model)
    answering = answering_model(model)
    _check_model(answering)
    return Source(answering, _checked_names(model, class_names), task)


def _check_model(model):
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "export: Keras must run on TensorFlow; it runs on "
            f"{keras.backend.backend()}. Set KERAS_BACKEND=tensorflow and load the model again."
        )
    inputs = {t.name: t for t in model.inputs}
    frames = inputs.get("frames")
    if frames is None or frames.dtype != "uint8" or set(inputs) - {"frames", "lengths"}:
        received = ", ".join(f"{t.name} {t.dtype}" for t in inputs.values()) or "none"
        raise ValueError(
            "export: `model_or_run` must have the input `frames`, uint8, and perhaps `lengths`; "
            f"received {received}. Build a functional model that rescales the pixels itself, as "
            "those of `models` do."
        )
    if len(frames.shape) < 3 or frames.shape[0] is not None or None in frames.shape[2:]:
        raise ValueError(
            "export: `model_or_run` must take frames (B, T, H, W, C) of any B, with known sizes "
            f"after T; received {tuple(frames.shape)}."
        )


def _checked_names(model, class_names) -> tuple[str, ...]:
    """A name for each probability, or, without the blank, for each entry of a text's logits.

    Numbers need no names; if they have some, each has one.
    """
    shapes = dict(zip(output_names(model), (x.shape for x in model.outputs), strict=True))
    named: list[str] = [
        name for name in ("probabilities", "label_probabilities", "logits") if name in shapes
    ]
    if "values" in shapes and class_names:
        named = ["values"]
    count = shapes[named[0]][-1] - (named[0] == "logits") if named else 0
    if class_names is None:
        class_names = tuple(map(str, range(count)))
    check_names("export: `class_names`", class_names)
    if len(class_names) != count or len(set(class_names)) != count:
        raise ValueError(
            f"export: `class_names` must be {count} different names for a model that answers with "
            f"{', '.join(shapes)}; received {len(class_names)}: {', '.join(class_names)}."
        )
    return tuple(class_names)


def write_model(source: Source, format: str, directory: Path) -> dict[str, Any]:
    """Writes a model and its `metadata.json` into an empty directory, and proves it.

    Returns:
        The content of `parity.json`: what `parity.prove` found, and the model's precision.
    """
    kind, model, class_names = FORMATS[format], source.model, source.class_names
    form = {name: (source.task or {}).get(name) for name in ("fit", "depth_range")}
    signatures, float32_twin = kind.write(model, class_names, form, kind.path(directory))
    own = precision(model)
    half = own != "float32"
    rounds = half and float32_twin is not None
    precisions = {"precision": "float32" if rounds else own, "trained_precision": own}
    metadata = {"format": format, **source.metadata(), "signatures": list(signatures)} | precisions
    _write_json(kind.metadata_file(directory), metadata)
    read_metadata(directory, format)  # refuses what could not be loaded
    references = {"model": Reference(model, BOUNDS["half" if half else "float32"], rounds)}
    if rounds and float32_twin:
        references["float32"] = Reference(float32_twin, BOUNDS["float32"])
    proven = [name for name in signatures if name != "init_states"]  # proven with `step`
    return prove(directory, references, proven, class_names) | {"precision": own}


def _write_json(file, content):
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _target(path: Path, format: FormatName, version: int | None) -> Path:
    """The directory that the export becomes; refuses to write over anything."""
    if not FORMATS[format].versioned:
        if version is not None:
            raise ValueError(
                f"export: `version` is for the format saved_model; received "
                f"{short_repr(version)} with {format}. Leave it out."
            )
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise FileExistsError(
                f"export: `path` must be a new or empty directory for the format {format}; {path} "
                "is neither. Give another one, or remove it."
            )
        return path
    if version is None:
        version = 1 + max((int(p.name) for p in path.glob("*") if is_version(p)), default=0)
    check_integer("export: `version`", version, 1, 10**18 - 1)
    if (path / str(version)).exists():
        raise FileExistsError(
            f"export: `version` must be one that does not exist; {path / str(version)} does, and "
            "was left as it is. Leave `version` out for the next free one."
        )
    return path / str(version)


@contextlib.contextmanager
def _new_directory(target: Path) -> Iterator[Path]:
    """A temporary directory beside `target`, renamed to it at the end.

    When the block fails, or is interrupted, neither it nor a new parent of it is left.
    """
    new_parents = [p for p in target.parents if not p.exists()]  # innermost first
    building = temporary_beside(target)
    try:
        try:
            building.mkdir(parents=True)
        except OSError as error:
            raise OSError(
                f"export: `path` must be a directory that can be made and written; {error}. Give "
                "another one."
            ) from error
        yield building
        building.rename(target)  # fails if another export was faster and is there now
    except BaseException as error:
        shutil.rmtree(building, ignore_errors=True)
        for parent in new_parents:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if "No space left" in str(error):  # TensorFlow has an error of its own for it
            raise OSError(
                f"export: `path` must have room for the model; {target} has not (No space left on "
                "device). Make room, or give another one."
            ) from error
        raise
