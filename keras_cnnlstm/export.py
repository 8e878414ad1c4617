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
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import keras

from keras_cnnlstm import endpoints
from keras_cnnlstm.arguments import told
from keras_cnnlstm.artefacts import is_version, required
from keras_cnnlstm.converters import WRITERS, Source, write_json
from keras_cnnlstm.decoding import greedy_model
from keras_cnnlstm.runs import Run, load_run

Format = Literal["saved_model", "litert", "onnx"]

_NEEDS: dict[str, tuple[str, ...]] = {
    "saved_model": (),
    "litert": ("ai_edge_litert.interpreter",),
    "onnx": ("tf2onnx", "onnxruntime"),
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
    format: Format = "saved_model",
    *,
    version: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Exported:
    """Writes a model in a format that runs without this package, and proves it to be the same.

    After writing, a fresh process that can import neither Keras nor this package opens the file
    and answers several batches; the largest difference from the model's own answers goes into
    `parity.json`. If it is over 1e-5 (2e-2 for a model that computes in half precision), the
    export fails and leaves nothing behind. The model is not changed.

    * "saved_model" answers to `serving_default`, `serve_images` (frames of 1 or 3 channels) and,
      if the model can be streamed, `init_states` and `step`; see `endpoints`. It computes in the
      precision of the model; its outputs are float32. It holds no cuDNN operation.
    * "litert" answers to `serving_default` and, if the model can be streamed, `init_states` and
      `step`, for any number of sequences, with LiteRT's own operations alone. LSTMs are
      unrolled, so T must be known.
    * "onnx" has the whole-sequence function only.

    A `describer` is exported as its `greedy_model`: it answers with `words`, their
    `log_probability` and, in a SavedModel, the `sentence`.

    LiteRT and ONNX files compute in float32. A model of half precision is exported with its
    float32 weights; the file is held to 1e-5 against the same model in float32. Against the model
    as it is the median sequence is held to 2e-2, since the rounding of half precision moves a
    rare sequence further: a trained reference model by up to 3e-2.

    Args:
        model_or_run: a model with the input `frames` uint8 `(B, T, ...)` and perhaps `lengths`;
            or a `runs.Run`, or the path of a run directory.
        path: directory to write to, made if need be. For a SavedModel the directory over its
            versions; for the other formats it must be new or empty.
        format: "saved_model", "litert" or "onnx".
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
        ParityError: (a ValueError) if what was written does not answer as the model does.
    """
    if format not in get_args(Format):
        raise ValueError(
            f"export: `format` must be one of {list(get_args(Format))}; received {format!r}."
        )
    for package in _NEEDS[format]:
        required(package)
    source = _source(model_or_run, class_names)
    target = _target(Path(path), format, version)
    with _new_directory(target) as directory:
        parity = WRITERS[format](source, directory)
        write_json(directory / "parity.json", parity)
    return Exported(target, parity)


def _source(model_or_run, class_names) -> Source:
    if isinstance(model_or_run, str | Path):
        model_or_run = load_run(model_or_run)
    model, task = model_or_run, None
    if isinstance(model_or_run, Run):
        run, model = model_or_run, model_or_run.model
        class_names = run.class_names if class_names is None else class_names
        task = run.reading
    names_of = model
    if any(tensor.name == "words" for tensor in getattr(model, "inputs", None) or ()):
        model = greedy_model(model)  # a describer that nobody tells the words
    _check_model(model)
    return Source(model, _checked_names(names_of, class_names), task)


def _check_model(model):
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "export: Keras must run on TensorFlow; it runs on "
            f"{keras.backend.backend()}. Set KERAS_BACKEND=tensorflow and load the model again."
        )
    if not isinstance(model, keras.Model):
        raise ValueError(
            "export: `model_or_run` must be a keras.Model, a Run or the path of a run directory; "
            f"received {type(model).__name__}."
        )
    inputs = {t.name: t for t in getattr(model, "inputs", None) or ()}
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
    if class_names is not None and not isinstance(class_names, list | tuple):
        raise ValueError(
            f"export: `class_names` must be a list or tuple of names; received {told(class_names)}."
        )
    count = _num_classes(model)
    if not count:
        if class_names:
            raise ValueError(
                "export: `class_names` are for models with probabilities or texts; this one "
                f"answers {', '.join(endpoints.output_names(model))}. Leave them out."
            )
        return ()
    names = tuple(map(str, range(count) if class_names is None else class_names))
    if len(names) != count or len(set(names)) != count:
        raise ValueError(
            f"export: `class_names` must be {count} different names, one for each class; "
            f"received {len(names)}: {', '.join(names)}."
        )
    return names


def _num_classes(model) -> int:
    """Classes, or words, with names: of probabilities all, of a text's logits all but the blank."""
    shapes = dict(zip(endpoints.output_names(model), model.outputs, strict=True))
    if "probabilities" in shapes:
        return shapes["probabilities"].shape[-1]
    return shapes["logits"].shape[-1] - 1 if "logits" in shapes else 0


def _target(path: Path, format: Format, version: int | None) -> Path:
    """The directory that the export becomes; refuses to write over anything."""
    if format == "saved_model":
        return path / str(_checked_version(path, version))
    if version is not None:
        raise ValueError(
            f"export: `version` is for the format saved_model; received {version} with {format}. "
            "Leave it out."
        )
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(
            f"export: `path` must be a new or empty directory for the format {format}; {path} is "
            "neither. Give another one, or remove it."
        )
    return path


def _checked_version(path, version):
    if version is None:
        return 1 + max((int(p.name) for p in path.glob("*") if is_version(p)), default=0)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(
            f"export: `version` must be a whole number from 1; received {version!r}. Leave it out "
            "for the next free one."
        )
    if (path / str(version)).exists():
        raise FileExistsError(
            f"export: `version` must be one that does not exist; {path / str(version)} does, and "
            "was left as it is. Leave `version` out for the next free one."
        )
    return version


@contextlib.contextmanager
def _new_directory(target: Path) -> Iterator[Path]:
    """A temporary directory beside `target`, renamed to it at the end.

    When the block fails, or is interrupted, neither it nor a new parent of it is left.

    Raises:
        OSError: if it cannot be written, or there is no room in it.
    """
    new_parents = [p for p in target.parents if not p.exists()]  # innermost first
    building = target.with_name(f".{os.getpid()}-{target.name}")
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
        if "No space left" in str(error):  # TensorFlow says so in an error of its own
            raise OSError(
                f"export: `path` must have room for the model; {target} has not (No space left on "
                "device). Make room, or give another one."
            ) from error
        raise
