"""What the maps of a convolutional layer say for an answer: the inside of Grad-CAM.

Listens to layers wherever they lie in a model, also in a `TimeDistributed` or a pretrained network,
while it answers eagerly. `explanations.grad_cam` is what to call.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_cnnlstm.arguments import told

_CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
_POOLINGS = (
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
)


def shown_layer(model: keras.Model, inputs: Any, name: str | None = None) -> keras.Layer:
    """The layer whose maps are shown.

    Args:
        model: the model.
        inputs: what it takes, one example.
        name: of the layer; by default the last that is convolutional, or keeps the places of one
            before it.

    Raises:
        ValueError: if there is none.
    """
    units = list(_units(model))
    if name is None:
        return _last_maps(model, units, inputs)
    everything = [part for unit in units for part in unit._flatten_layers()]
    for part in everything:
        if isinstance(name, str) and part.name == name:
            return part
    raise ValueError(
        f"grad_cam: `layer` must be one of {', '.join(part.name for part in everything)}; "
        f"received {told(name)}."
    )


def class_maps(
    model: keras.Model, layer: keras.Layer, inputs: Any, weights: np.ndarray, *, output: str
) -> np.ndarray:
    """The maps of a layer, summed with the weights of Grad-CAM's equations 1 and 2.

    Args:
        model: the model.
        layer: the layer, anywhere in it.
        inputs: what the model takes, B examples.
        weights: of the shape of the answers, 1 at the scores in question.
        output: name of the answer, if the model has several.

    Returns:
        `(B, n, h, w)` float32, 0 or more, n maps for each example, in their order; of lines
        `(B, n, l)`.

    Raises:
        ValueError: if the layer has no such maps.
    """
    heard: list[Any] = []
    with tf.GradientTape(watch_accessed_variables=False) as tape:

        def hear(maps):
            tape.watch(maps)
            heard.append(maps)

        with _listening(layer, hear), _without_softmax(model):
            answer = model(inputs, training=False)
        score = tf.reduce_sum((answer[output] if isinstance(answer, dict) else answer) * weights)
    gradient = tape.gradient(score, heard[0]) if len(heard) == 1 else None
    if gradient is None or len(gradient.shape) < 3 or gradient.shape[0] % len(weights):
        raise ValueError(
            "grad_cam: `layer` must be one whose maps (N, h, w, channels) of all frames lead to "
            f"the answer; {layer.name!r} of {model.name!r} is none."
        )
    maps, gradient = tf.cast(heard[0], "float32"), tf.cast(gradient, "float32")
    places = list(range(1, len(maps.shape) - 1))
    alpha = tf.reduce_mean(gradient, places, keepdims=True)  # (N, 1, 1, channels)
    summed = tf.nn.relu(tf.reduce_sum(alpha * maps, axis=-1))  # (N, h, w)
    return summed.numpy().reshape(len(weights), -1, *summed.shape[1:])  # (B, N / B, h, w)


def enlarged(maps: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    """Maps `(B, n, h, w)`, or of lines `(B, n, l)`, at the size of the frames, bilinearly."""
    height, width, *_ = *maps.shape[2:], 1
    images = tf.image.resize(maps.reshape(-1, height, width, 1), (*sides, 1)[:2])
    return images.numpy().reshape(*maps.shape[:2], *sides)


def _last_maps(model, units, inputs):
    """The last convolutional layer, or one after it with the same axes that is no pooling."""
    heard = []
    with contextlib.ExitStack() as stack:
        for unit in units:
            # LSTMs may return tuples, which are no maps.
            stack.enter_context(
                _listening(unit, lambda x, u=unit: heard.append((u, len(getattr(x, "shape", ())))))
            )
        model(inputs, training=False)
    last = max((i for i, (unit, _) in enumerate(heard) if _convolves(unit)), default=None)
    if last is None:
        raise ValueError(
            f"grad_cam: `model` must have convolutions, whose maps are shown; {model.name!r} has "
            "none. For a model of sequences of frames, use occlusion."
        )
    shown, rank = heard[last]
    for unit, axes in heard[last:]:
        if axes != rank:
            break  # vectors from here on
        if not isinstance(unit, _POOLINGS):
            shown = unit
    return shown


def _convolves(unit) -> bool:
    return any(isinstance(part, _CONVOLUTIONS) for part in unit._flatten_layers())


def _units(layer) -> Iterator[keras.Layer]:
    """The layers inside of models and of wrappers over time; a block of several counts as one."""
    if isinstance(layer, keras.Model):
        for part in layer.layers:
            yield from _units(part)
    elif isinstance(layer, layers.Wrapper):
        yield from _units(layer.layer)
    else:
        yield layer


@contextlib.contextmanager
def _listening(layer, hear: Callable[[Any], object]):
    """Within it `hear` is told each output of a layer, wherever in a model that is."""
    call = layer.call

    @functools.wraps(call)  # `TimeDistributed` looks at the arguments
    def told_to(*args, **kwargs):
        output = call(*args, **kwargs)
        hear(output)
        return output

    object.__setattr__(layer, "call", told_to)
    try:
        yield
    finally:
        object.__delattr__(layer, "call")


@contextlib.contextmanager
def _without_softmax(model):
    """Within it the model answers with its scores before the softmax; or their mean over frames."""
    softmax, linear = keras.activations.softmax, keras.activations.linear
    heads = [x for x in model.layers if getattr(x, "activation", None) is softmax]
    for head in heads[-1:]:
        head.activation = linear
    try:
        yield
    finally:
        for head in heads[-1:]:
            head.activation = softmax
