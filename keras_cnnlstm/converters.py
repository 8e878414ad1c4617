"""A model in the form that each format wants, written, and proven where it was written.

Knows the three formats, but not where exports are kept, nor of runs: that is `export`'s.
"""

import contextlib
import copy
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from keras_cnnlstm import __version__, endpoints
from keras_cnnlstm.artefacts import MODEL_FILES
from keras_cnnlstm.parity import BOUNDS, Reference, prove
from keras_cnnlstm.streaming import step_model

_OPSET = 17  # of ONNX; runtimes since 2022 have it
_HALF = ("mixed_bfloat16", "mixed_float16", "bfloat16", "float16")


@dataclass(frozen=True)
class Source:
    """A model to export, with what belongs to it.

    Attributes:
        model: the model, with the input `frames` and perhaps `lengths`.
        class_names: one for each probability; none for a model without.
        task: what the model was trained for, if that is known.
    """

    model: keras.Model
    class_names: tuple[str, ...]
    task: dict[str, Any] | None

    def metadata(self, format: str, signatures: Sequence[str]) -> dict[str, Any]:
        """What travels with an export, for its users."""
        inputs = {
            name: {"shape": list(spec.shape), "dtype": spec.dtype.name}
            for name, spec in endpoints.input_specs(self.model).items()
        }
        inputs["frames"] |= {"range": [0, 255]}
        own = precision(self.model)
        return {
            "format": format,
            "model": self.model.name,
            "task": self.task,
            "class_names": list(self.class_names),
            "inputs": inputs,
            "outputs": endpoints.output_names(self.model),
            "signatures": list(signatures),
            "precision": own if format == "saved_model" else "float32",
            "trained_precision": own,
            "keras_cnnlstm": __version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
        }


def portable_copy(
    model: keras.Model, *, float32: bool = False, unroll: bool | None = None
) -> keras.Model:
    """Copies a model, without what ties it to the machine that trained it.

    Args:
        model: a functional or sequential model; it is left as it is.
        float32: compute in float32, whatever the model computes in. The weights of a
            mixed-precision model are float32 already.
        unroll: whether recurrent layers write each step into the graph; by default as in the
            model.

    Returns:
        A new model of the same structure and weights, none of whose LSTMs uses cuDNN.
    """
    config = copy.deepcopy(_config(model))
    for node in _nodes(config):
        if node.get("class_name") in ("LSTM", "GRU"):
            # Not part of what Keras saves: "auto" would decide by the GPUs of this machine.
            node["config"]["use_cudnn"] = False
        if unroll is not None and "unroll" in node:
            node["unroll"] = unroll
        if float32 and _is_half(node):
            node["config"]["name"] = "float32"
    twin = keras.Model.from_config(config)
    twin.set_weights(model.get_weights())
    return twin


def precision(model: keras.Model) -> str:
    """The dtype policy in which the model computes: "float32", "mixed_bfloat16", ..."""
    half = (node["config"]["name"] for node in _nodes(_config(model)) if _is_half(node))
    return next(half, "float32")


def write_saved_model(source: Source, directory: Path) -> dict[str, Any]:
    """Writes a SavedModel into an empty directory, and proves it.

    Returns:
        What `parity.prove` found, and the precision of the model. So do the other writers.

    Raises:
        ValueError: if its graph would run on some machines only.
        ParityError: if it does not answer as the model does.
    """
    twin = portable_copy(source.model)
    functions = {"serving_default": endpoints.serving(twin, source.class_names)}
    frames = endpoints.input_specs(twin)["frames"]
    if frames.shape.rank in (4, 5) and frames.shape[-1] in (1, 3):
        functions["serve_images"] = endpoints.image_serving(twin, source.class_names)
    for step in _steps(twin):
        functions |= endpoints.streaming(step)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "metadata.json"  # the asset keeps this name
        write_json(file, source.metadata("saved_model", list(functions)))
        _save(twin, functions, directory, metadata=tf.saved_model.Asset(str(file)))
    _check_no_cudnn(directory)
    return _prove(source, directory, functions)


def write_litert(source: Source, directory: Path) -> dict[str, Any]:
    """Writes a LiteRT file into an empty directory, and proves it.

    Raises:
        ValueError: if LiteRT cannot hold the model.
        ParityError: if the file does not answer as the model does.
    """
    if endpoints.input_specs(source.model)["frames"].shape[1] is None:
        raise ValueError(
            "export: `format` litert holds models of a known number of frames T, since LiteRT has "
            "no loop for an LSTM; this one takes any. Build the same model with a number in place "
            "of None, give it the weights with set_weights, and export that; or use saved_model "
            "or onnx."
        )
    twin = portable_copy(source.model, float32=True, unroll=True)
    functions = {"serving_default": endpoints.serving(twin, checked=False)}
    for step in _steps(twin):
        functions |= endpoints.streaming(step, checked=False)
    (directory / MODEL_FILES["litert"]).write_bytes(_to_litert(twin, functions))
    write_json(directory / "metadata.json", source.metadata("litert", list(functions)))
    return _prove(source, directory, functions, twin)


def _to_litert(model, functions) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        # From a SavedModel: the other ways in lose the weights or the names of the outputs.
        _save(model, functions, scratch)
        converter = tf.lite.TFLiteConverter.from_saved_model(scratch, list(functions))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            return converter.convert()
        except Exception as error:  # the converter's own class has no public name
            raise _refused("litert", error) from error


def write_onnx(source: Source, directory: Path) -> dict[str, Any]:
    """Writes an ONNX file into an empty directory, and proves it.

    Raises:
        ValueError: if ONNX cannot hold the model.
        ParityError: if the file does not answer as the model does.
    """
    import tf2onnx

    # Rolled, an LSTM becomes ONNX's own LSTM; unrolled, hundreds of small operations.
    twin = portable_copy(source.model, float32=True, unroll=False)
    serving = endpoints.serving(twin, checked=False)
    specs = endpoints.input_specs(twin)
    function = tf.function(lambda *values: serving(**dict(zip(specs, values, strict=True))))
    try:
        with _quiet("tf2onnx"):  # which warns of each shape it does not know
            proto, _ = tf2onnx.convert.from_function(function, list(specs.values()), opset=_OPSET)
    except Exception as error:  # it raises what its many rewriters happen to
        raise _refused("onnx", error) from error
    for value in [*proto.graph.input, *proto.graph.output]:
        for name, dimension in zip(
            ("batch", "time"), value.type.tensor_type.shape.dim, strict=False
        ):
            if not dimension.HasField("dim_value"):
                dimension.dim_param = name  # in place of "unk__298"
    (directory / MODEL_FILES["onnx"]).write_bytes(proto.SerializeToString())
    write_json(directory / "metadata.json", source.metadata("onnx", ["serving_default"]))
    return _prove(source, directory, ["serving_default"], twin)


WRITERS: dict[str, Callable[[Source, Path], dict[str, Any]]] = {
    "saved_model": write_saved_model,
    "litert": write_litert,
    "onnx": write_onnx,
}


def _steps(model) -> list[keras.Model]:
    """The step of a model that can be streamed, its answer named as the model's; else nothing."""
    try:
        step = step_model(model)
    except ValueError:
        return []
    (name,) = endpoints.output_names(model)
    states = {tensor.name for tensor in step.inputs}
    outputs = {key if key in states else name: value for key, value in step.output.items()}
    return [keras.Model(step.input, outputs, name=step.name)]


def _save(model, functions, directory, **tracked):
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    for name, value in tracked.items():
        setattr(module, name, value)
    tf.saved_model.save(module, str(directory), signatures=functions)


def _check_no_cudnn(directory):
    """A graph with cuDNN operations runs on NVIDIA GPUs only."""
    saved = SavedModel.FromString((directory / MODEL_FILES["saved_model"]).read_bytes())
    graphs = [meta.graph_def for meta in saved.meta_graphs]
    functions = [function.node_def for graph in graphs for function in graph.library.function]
    nodes = [node for part in [*functions, *(graph.node for graph in graphs)] for node in part]
    found = sorted({node.op for node in nodes if "cudnn" in node.op.lower()})
    if found:
        raise ValueError(
            f"export: the saved graph must run on any machine; it has {', '.join(found)}. Build "
            "the layer with use_cudnn=False."
        )


def _prove(source, directory, signatures, float32_twin=None):
    own = precision(source.model)
    half = own != "float32"
    references = {
        "model": _reference(source.model, BOUNDS["half" if half else "float32"])._replace(
            rounds=half and float32_twin is not None
        )
    }
    if half and float32_twin is not None:
        references["float32"] = _reference(float32_twin, BOUNDS["float32"])
    asked = [name for name in signatures if name != "init_states"]  # asked for with each stream
    return prove(directory, references, asked, source.class_names) | {"precision": own}


def _reference(model, bound):
    return Reference(model, next(iter(_steps(model)), None), bound)


def _refused(format, error):
    reason = " ".join(str(error).split())[:500]
    return ValueError(
        f"export: `format` {format} cannot hold this model; its converter says: {reason} Use "
        "saved_model, which holds any."
    )


@contextlib.contextmanager
def _quiet(name):
    """Silences a logger: what it says of a failure also comes as an error."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def write_json(file: Path, content: Any) -> None:
    """Writes JSON as people read it."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _config(model):
    """The functional configuration of any model that has inputs and outputs."""
    return keras.Model(model.input, model.output, name=model.name).get_config()


def _nodes(config: Any) -> Iterator[dict[str, Any]]:
    """Every dict in a configuration, those of wrapped layers and nested models included."""
    if isinstance(config, dict):
        yield config
        config = list(config.values())
    if isinstance(config, list | tuple):
        for part in config:
            yield from _nodes(part)


def _is_half(node):
    return node.get("class_name") == "DTypePolicy" and node["config"]["name"] in _HALF
