"""A copy of a model that runs on any machine, as exports hold it."""

import copy
from collections.abc import Iterator
from typing import Any

import keras

from keras_cnnlstm.models.graph import all_layers

_HALF = ("mixed_bfloat16", "mixed_float16", "bfloat16", "float16")


def portable_copy(
    model: keras.Model, *, float32: bool = False, unroll: bool | None = None
) -> keras.Model:
    """A new model of the same structure and weights, without cuDNN.

    Args:
        model: a functional model; it is left as it is. Its layers may be the caller's own,
            registered or not, and lambdas: they are made again in this process, from no file.
        float32: compute in float32, as the weights of a mixed-precision model are already.
        unroll: whether recurrent layers are unrolled; by default as in the model.
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
    own = {type(layer) for layer in all_layers(model)}
    own = {kind for kind in own if not kind.__module__.startswith("keras.")}
    twin = keras.saving.deserialize_keras_object(
        config,
        custom_objects={keras.saving.get_registered_name(kind): kind for kind in own},
        safe_mode=False,
    )
    twin.set_weights(model.get_weights())
    return twin


def precision(model: keras.Model) -> str:
    """The dtype policy in which the model computes: "float32", "mixed_bfloat16", ..."""
    half = (node["config"]["name"] for node in _nodes(_config(model)) if _is_half(node))
    return next(half, "float32")


def _config(model):
    """The configuration of a functional model of any class."""
    graph = keras.Model(model.input, model.output, name=model.name)
    return keras.saving.serialize_keras_object(graph)


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
