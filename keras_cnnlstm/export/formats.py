"""The formats of an export: how each is written, found and opened. A new one is an entry here.

This file also runs as a program, in the fresh process in which `parity` proves an export. So it
imports neither Keras nor this package, except in the functions that write.
"""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import keras
    import numpy as np

_OPSET = 17  # of ONNX; runtimes since 2022 have it

FormatName = Literal["saved_model", "litert", "onnx"]

Signature = Callable[..., "dict[str, np.ndarray]"]
"""A function of the exported file: named arrays in, named arrays out."""

Written = tuple[Sequence[str], "keras.Model | None"]
"""Names of the functions in the file, and the model as written if it computes in float32 whatever
the source computes in."""


@dataclass(frozen=True)
class Format:
    """How a model is written in one format, and opened.

    Attributes:
        purpose: what the format is for.
        file: the file that makes a directory an export.
        write: writes a model with its class names, and how it fits images to its size, to a path.
        open: the functions of the file by name; `serving_default` is the model itself.
        packages: what writes and runs it, beyond TensorFlow, from the extra "export".
        versioned: whether the export is a whole directory, under a number for model servers.
    """

    purpose: str
    file: str
    write: "Callable[[keras.Model, Sequence[str], dict[str, Any], Path], Written]"
    open: Callable[[Path], dict[str, Signature]]
    packages: tuple[str, ...] = ()
    versioned: bool = False

    def path(self, directory: Path) -> Path:
        """What is written and opened: the directory, or the file in it."""
        return directory if self.versioned else directory / self.file

    def metadata_file(self, directory: Path) -> Path:
        """The `metadata.json` of an export in a directory."""
        return directory / ("assets" if self.versioned else "") / "metadata.json"


def _write_saved_model(model, class_names, form, path):
    from keras_cnnlstm.export import portable, signatures

    twin = portable.portable_copy(model)
    functions = {"serving_default": signatures.serving(twin, class_names)}
    frames = signatures.input_specs(twin)["frames"]
    if frames.shape.rank in (4, 5) and frames.shape[-1] in (1, 3):
        functions["serve_images"] = signatures.image_serving(twin, class_names, **form)
    functions |= signatures.streaming(twin)
    _save(twin, functions, path)
    _check_no_cudnn(path / FORMATS["saved_model"].file)
    return list(functions), None


def _write_litert(model, class_names, form, path):
    import tensorflow as tf

    from keras_cnnlstm.export import portable, signatures

    if signatures.input_specs(model)["frames"].shape[1] is None:
        raise ValueError(
            "export: `format` litert needs a fixed number of frames T, since LiteRT has no loop "
            "for an LSTM; this model takes any. Build the same model with a number in place of "
            "None, give it the weights with set_weights, and export that; or use saved_model or "
            "onnx."
        )
    twin = portable.portable_copy(model, float32=True, unroll=True)
    functions = {
        "serving_default": signatures.serving(twin, checked=False),
        **signatures.streaming(twin, checked=False),
    }
    with tempfile.TemporaryDirectory() as scratch:
        # From a SavedModel: the other ways in lose the weights or the names of the outputs.
        _save(twin, functions, scratch)
        converter = tf.lite.TFLiteConverter.from_saved_model(scratch, list(functions))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        with _refusing("litert"):
            content = converter.convert()
    path.write_bytes(content)
    return list(functions), twin


def _write_onnx(model, class_names, form, path):
    import tensorflow as tf
    import tf2onnx

    from keras_cnnlstm.export import portable, signatures

    # Rolled, an LSTM becomes ONNX's own LSTM; unrolled, hundreds of small operations.
    twin = portable.portable_copy(model, float32=True, unroll=False)
    answer, specs = signatures.serving(twin, checked=False), signatures.input_specs(twin)
    function = tf.function(lambda *values: answer(**dict(zip(specs, values, strict=True))))
    with _refusing("onnx"), _silent("tf2onnx"):  # which warns of each shape it does not know
        proto, _ = tf2onnx.convert.from_function(function, list(specs.values()), opset=_OPSET)
    for value in [*proto.graph.input, *proto.graph.output]:
        sizes = value.type.tensor_type.shape.dim
        for name, size in zip(("batch", "time"), sizes, strict=False):
            if not size.HasField("dim_value"):
                size.dim_param = name  # in place of "unk__298"
    path.write_bytes(proto.SerializeToString())
    return ["serving_default"], twin


def _save(model, functions, directory):
    import tensorflow as tf

    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    tf.saved_model.save(module, str(directory), signatures=functions)


def _check_no_cudnn(file):
    """A graph with cuDNN operations runs on NVIDIA GPUs only."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel.FromString(file.read_bytes())
    graphs = [meta.graph_def for meta in saved.meta_graphs]
    functions = [function.node_def for graph in graphs for function in graph.library.function]
    nodes = [node for part in [*functions, *(graph.node for graph in graphs)] for node in part]
    found = sorted({node.op for node in nodes if "cudnn" in node.op.lower()})
    if found:
        raise ValueError(
            f"export: the saved graph must run on any machine; it has {', '.join(found)}. Build "
            "the layer with use_cudnn=False."
        )


@contextlib.contextmanager
def _refusing(format):
    """Turns what a converter raises, which may be any exception, into one error."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"export: `format` {format} cannot hold this model; its converter says: "
            f"{' '.join(str(error).split())[:500]} Use saved_model, which holds any."
        ) from error


@contextlib.contextmanager
def _silent(name):
    """Silences a logger: a failure also comes as an error."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def _open_saved_model(path):
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


def _open_litert(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    # A runner brings the tensors to the size of each call's inputs.
    return {
        name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()
    }


def _open_onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return {
        "serving_default": lambda **inputs: dict(zip(names, session.run(None, inputs), strict=True))
    }


FORMATS: dict[str, Format] = {
    "saved_model": Format(
        "for TensorFlow Serving",
        "saved_model.pb",
        _write_saved_model,
        _open_saved_model,
        versioned=True,
    ),
    "litert": Format(
        "for phones and small devices",
        "model.tflite",
        _write_litert,
        _open_litert,
        ("ai_edge_litert.interpreter",),
    ),
    "onnx": Format(
        "for ONNX Runtime and browsers",
        "model.onnx",
        _write_onnx,
        _open_onnx,
        ("tf2onnx", "onnxruntime"),
    ),
}
"""The formats by name.

* "saved_model" has the functions `serving_default`, `serve_images` (frames of 1 or 3 channels)
  and, if the model can be streamed, `init_states` and `step`; see `signatures`. It computes in the
  precision of the model, answers in float32, and needs no cuDNN.
* "litert" has `serving_default`, `init_states` and `step`, with LiteRT's own operations alone.
  LSTMs are unrolled, so T must be known.
* "onnx" has `serving_default` only.
"""


def located(path: str | Path) -> tuple[str, Path]:
    """The format of the export at `path`, and its directory. Opens nothing.

    Args:
        path: as `load_artifact` takes it.

    Raises:
        FileNotFoundError: if there is no export at `path`.
        ValueError: if `path` is not a path.
    """
    if not isinstance(path, str | os.PathLike) or not str(path) or "\0" in str(path):
        received = " ".join(repr(path).split())[:200]
        raise ValueError(f"load_artifact: `path` must be a path; received {received}.")
    path = Path(path)
    for name, format in FORMATS.items():
        if path.name == format.file and path.is_file():
            return name, path.parent
        if (path / format.file).is_file():
            return name, path
        versions = [p.parent for p in path.glob(f"*/{format.file}") if is_version(p.parent)]
        if format.versioned and versions:
            return name, max(versions, key=lambda version: int(version.name))
    found = "such a directory without one" if path.is_dir() else "something else"
    raise FileNotFoundError(
        f"{path}: expected an exported model "
        f"({', '.join(format.file for format in FORMATS.values())}); found "
        f"{found if path.exists() else 'nothing'}."
    )


def is_version(path: Path) -> bool:
    """Whether a model server takes the directory for a version: its name is an integer (int64)."""
    return path.name.isascii() and path.name.isdigit() and len(path.name) <= 18


def opened(path: Path, format: str) -> dict[str, Signature]:
    """The functions of the model in a directory, by name.

    Raises:
        ValueError: if it cannot be read, or the package that runs its format is not installed.
    """
    file = FORMATS[format].path(path)
    try:
        signatures = FORMATS[format].open(file)
        if "serving_default" not in signatures:
            raise ValueError("it has no function serving_default")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{file}: expected the package {error.name} to be installed; it is not. Install it "
            'with python -m pip install "keras-cnnlstm[export]".'
        ) from error
    except Exception as error:  # a damaged file can fail anywhere
        raise ValueError(
            f"{file}: expected a model that can be opened; {one_line(error)}. Is the file whole?"
        ) from error
    return signatures


def one_line(error: Exception) -> str:
    """What an error says, shortened."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def answer(path: str, questions: str, answers: str) -> None:
    """Answers the questions that `parity` wrote to a file.

    Args:
        path: the export.
        questions: an `.npz` file of arrays named `QUESTION/SIGNATURE/INPUT`.
        answers: the `.npz` file to write, of arrays named `QUESTION/SIGNATURE/OUTPUT`.
    """
    import numpy as np

    format, directory = located(path)
    signatures = opened(directory, format)
    asked: dict[str, dict[str, Any]] = {}
    with np.load(questions, allow_pickle=False) as file:
        for key in file.files:
            question, _, name = key.rpartition("/")
            asked.setdefault(question, {})[name] = file[key]
    answered = {}
    for question, inputs in asked.items():
        signature = question.partition("/")[2]
        if signature == "step":
            outputs = stream(signatures, inputs["frames"])
        else:
            outputs = signatures[signature](**inputs)
        for name, value in outputs.items():
            # TensorFlow gives texts as objects, which files without pickle cannot hold.
            answered[f"{question}/{name}"] = value.astype("S") if value.dtype == object else value
    np.savez(answers, **answered)  # type: ignore[arg-type]


def stream(signatures: Mapping[str, Signature], frames: "np.ndarray") -> "dict[str, np.ndarray]":
    """Frames `(B, T, H, W, C)` one by one: the outputs but the states, `(B, T, ...)`."""
    import numpy as np

    states = signatures["init_states"](batch=np.int32(len(frames)))
    steps = []
    for t in range(frames.shape[1]):
        outputs = signatures["step"](frame=frames[:, t], **states)
        states = {name: outputs.pop(name) for name in states}
        steps.append(outputs)
    return {name: np.stack([step[name] for step in steps], axis=1) for name in steps[0]}


if __name__ == "__main__":
    for package in ("keras", "tf_keras", "keras_cnnlstm"):
        sys.modules[package] = None  # type: ignore[assignment]  # to import it is an error now
    answer(*sys.argv[1:])
