"""The inside of Grad-CAM: the maps of a convolutional layer, each weighted by its gradient.

The layer may lie anywhere in a model, also in a `TimeDistributed` or a pretrained network. Call
`explanations.grad_cam`.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_cnnlstm.layers.motion import TwoStream
from keras_cnnlstm.models.graph import all_layers, call_with_hook
from keras_cnnlstm.utils.validation import short_repr

_CONVOLUTIONS = (
    layers.Conv1D, layers.Conv2D, layers.DepthwiseConv1D, layers.DepthwiseConv2D,
    layers.SeparableConv1D, layers.SeparableConv2D,
)  # fmt: skip

_POOLINGS = (
    layers.AveragePooling1D, layers.AveragePooling2D, layers.MaxPooling1D, layers.MaxPooling2D,
)  # fmt: skip


def convolves(layer: keras.Layer) -> bool:
    """Whether a layer or a model has convolutions."""
    return any(isinstance(part, _CONVOLUTIONS) for part in all_layers(layer))


def shown_layer(model: keras.Model, inputs: Any, name: str | None = None) -> keras.Layer:
    """The layer of this name; by default the last that is convolutional or keeps its places.

    The model answers to the inputs, one example, to show the order of its layers.

    Raises:
        ValueError: if there is none.
    """
    calls: list[tuple[keras.Layer, int]] = []  # each layer with the rank of its output

    def note(layer, *args, **kwargs):
        output = layer(*args, **kwargs)
        if isinstance(layer, keras.Layer):
            calls.append((layer, len(getattr(output, "shape", ()))))  # a tuple is no map
        return output

    call_with_hook(note, model, _tensors(model, inputs))
    if name is not None:
        for layer, _ in calls:
            if isinstance(name, str) and layer.name == name:
                return layer
        raise ValueError(
            f"grad_cam: `layer` must be one of {', '.join(layer.name for layer, _ in calls)}; "
            f"received {short_repr(name)}."
        )
    last = max((i for i, (layer, _) in enumerate(calls) if convolves(layer)), default=None)
    if last is None:
        raise ValueError(
            f"grad_cam: `model` must have convolutions, whose maps are shown; {model.name!r} has "
            "none. For a model of sequences of frames, use occlusion."
        )
    first = next((x for x, _ in calls if getattr(x, "data_format", "") == "channels_first"), None)
    if first is not None:
        raise ValueError(
            f"grad_cam: `model` must have the channels of its maps last; {first.name!r} has them "
            "first. Build it with data_format='channels_last'."
        )
    shown, rank = calls[last]
    for layer, axes in calls[last:]:
        if axes != rank:
            break  # vectors from here on
        if not isinstance(layer, _POOLINGS):
            shown = layer
    return shown


def heat_maps(
    model: keras.Model, layer: keras.Layer, inputs: Any, weights: np.ndarray, *, output: str
) -> np.ndarray:
    """The maps of a layer, summed with the weights of Grad-CAM's equations 1 and 2.

    Args:
        model: the model.
        layer: the layer, as `shown_layer` returns it.
        inputs: inputs of the model, B examples.
        weights: of the shape of the answers, 1 at the scores in question, else 0.
        output: name of the answer, if the model has several.

    Returns:
        `(B, n, h, w)` float32, 0 or more, n maps of each example; of lines `(B, n, l)`.

    Raises:
        ValueError: if the layer has no such maps.
    """
    heads = [x for x in model.layers if getattr(x, "activation", None) is keras.activations.softmax]
    found: list[Any] = []
    with tf.GradientTape(watch_accessed_variables=False) as tape:

        def watch(part, *args, **kwargs):
            result = (_linear(part) if part in heads[-1:] else part)(*args, **kwargs)
            if part is layer:
                tape.watch(result)
                found.append(result)
            return result

        answer = call_with_hook(watch, model, _tensors(model, inputs))
        score = tf.reduce_sum((answer[output] if isinstance(answer, dict) else answer) * weights)
    gradient = tape.gradient(score, found[0]) if len(found) == 1 else None
    if gradient is None or len(gradient.shape) < 3 or gradient.shape[0] % len(weights):
        raise ValueError(
            "grad_cam: `layer` must be one whose maps (N, h, w, channels) of all frames lead to "
            f"the answer; {layer.name!r} of {model.name!r} is none."
        )
    maps, gradient = tf.cast(found[0], "float32"), tf.cast(gradient, "float32")
    places = list(range(1, len(maps.shape) - 1))
    alpha = tf.reduce_mean(gradient, places, keepdims=True)  # (N, 1, 1, channels)
    summed = tf.nn.relu(tf.reduce_sum(alpha * maps, axis=-1)).numpy()  # (N, h, w)
    if any(isinstance(part, TwoStream) and layer in all_layers(part) for part in all_layers(model)):
        summed = summed[::2] + summed[1::2]  # of a frame and of its difference image
    return summed.reshape(len(weights), -1, *summed.shape[1:])  # (B, N / B, h, w)


def _linear(head):
    """A copy of a layer without its softmax: it answers with the scores before it."""
    copy = type(head).from_config({**head.get_config(), "activation": "linear"})
    copy.build_from_config(head.get_build_config())
    copy.set_weights(head.get_weights())
    return copy


def _tensors(model, inputs):
    """The inputs as tensors of the model's dtypes."""
    return keras.tree.map_structure(
        lambda spec, x: keras.ops.convert_to_tensor(x, spec.dtype), model.input, inputs
    )


def enlarged(maps: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    """Maps `(B, n, h, w)`, or of lines `(B, n, l)`, at the size of the frames, bilinearly."""
    height, width, *_ = *maps.shape[2:], 1
    images = tf.image.resize(maps.reshape(-1, height, width, 1), (*sides, 1)[:2])
    return images.numpy().reshape(*maps.shape[:2], *sides)
