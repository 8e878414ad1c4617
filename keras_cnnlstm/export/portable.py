"""A copy of a model that runs on any machine, as exports hold it."""

import copy
from collections.abc import Iterator
from typing import Any

import keras

_HALF = ("mixed_bfloat16", "mixed_float16", "bfloat16", "float16")


def portable_copy(
    model: keras.Model, *, float32: bool = False, unroll: bool | None = None
) -> keras.Model:
    """A new model of the same structure and weights, without cuDNN.

    Args:
        model: a functional or sequential model; it is left as it is.
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
    twin = keras.Model.from_config(config)
    twin.set_weights(model.get_weights())
    return twin


def precision(model: keras.Model) -> str:
    """The dtype policy in which the model computes: "float32", "mixed_bfloat16", ..."""
    half = (node["config"]["name"] for node in _nodes(_config(model)) if _is_half(node))
    return next(half, "float32")


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
