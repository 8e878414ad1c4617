"""Follows, cuts and rebuilds the graph of a Keras model.

The only file of the models, and of all that uses them, in which Keras's private names stand;
`tests/models/test_keras_internals.py` says what is expected of each.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from keras_cnnlstm.layers.frames_model import FramesModel
from keras_cnnlstm.layers.length_mask import LengthMask
from keras_cnnlstm.layers.motion import Motion, TwoStream
from keras_cnnlstm.layers.time_distributed import TimeDistributed
from keras_cnnlstm.utils.validation import as_numbers, check_model


def every_step_model(model: keras.Model, orders: np.ndarray | None = None) -> keras.Model:
    """The model that answers after each step, made of the same layers as `model`.

    Nothing is copied: training one trains the other. Given several orders, it answers to the
    frames in each of them, while the encoder, which costs most, reads each frame once. The frames
    may come from several sequences of a batch.

    Args:
        model: a model from `frames (B, T, H, W, C)` whose layers form a chain with one LSTM or
            more, the last of which returns its last output: `models.cnn_lstm` and its like, not
            bidirectional.
        orders: `(K, T)`, the orders in which the LSTM reads the frames: permutations of 0 to
            T - 1. Or `(G, K, T)`: the frames that replace those of each of G sequences, numbered
            0 to G*T - 1, as `orders` of `TrendAtEveryStep` do; B must then be a multiple of G.
            Without `orders` any T fits.

    Returns:
        A model from the same frames to `(B, K*T, num_classes)`, order by order. Without `orders`,
        or if the last order is the sequence itself, its last answer is that of `model`.

    Raises:
        ValueError: if the layers of `model` form no such chain, or `orders` do not fit it.

    Example:

    >>> from keras_cnnlstm.models import cnn_lstm
    >>> every_step_model(cnn_lstm()).output_shape
    (None, 4, 7)
    >>> every_step_model(cnn_lstm(), [[3, 2, 1, 0], [0, 1, 2, 3]]).output_shape
    (None, 8, 7)
    """
    chain = chain_of(model)
    recurrent = [layer for layer in chain if isinstance(layer, layers.LSTM)]
    if not recurrent or recurrent[-1].return_sequences or recurrent[-1].go_backwards:
        raise ValueError(
            "every_step_model: `model` must read its frames in order by LSTMs, the last of which "
            f"returns its last output; {model.name!r} does not. Build a cnn_lstm with "
            "bidirectional=False."
        )
    time = model.inputs[0].shape[1]
    if orders is not None:
        orders = _checked_orders(orders, time)
    x = model.inputs[0]
    for layer in chain:
        if layer is recurrent[0] and orders is not None:
            x = ops.reshape(x, (-1, len(orders) * time, x.shape[-1]))  # (B/G, G*T, F)
            x = ops.take(x, orders.reshape(-1), axis=1)  # (B/G, G*K*T, F)
            x = ops.reshape(x, (-1, time, x.shape[-1]))  # (B*K, T, F)
        x = (_all_outputs(layer) if layer is recurrent[-1] else layer)(x)
    if orders is not None:
        x = ops.reshape(x, (-1, orders[0].size, x.shape[-1]))  # (B, K*T, num_classes)
    return FramesModel(model.inputs[0], x, name=f"{model.name}_every_step")


def _checked_orders(orders, time) -> np.ndarray:
    """The orders as `(G, K, T)`."""
    orders = as_numbers("every_step_model: `orders`", orders, kinds="iu")
    if orders.ndim == 2:
        orders = orders[None]
    fits = orders.ndim == 3 and orders.size and orders.shape[2] == time
    if fits:
        inside = orders.min() >= 0 and orders.max() < len(orders) * time
        fits = inside and (np.diff(np.sort(orders)) > 0).all()  # no frame twice in an order
    if not fits:
        raise ValueError(
            f"every_step_model: `orders` must be (K, {time}) permutations of 0 to T - 1, for a "
            f"model whose number of frames is T = {time}, or (G, K, {time}) frames of G sequences, "
            f"0 to G*T - 1, none twice in an order; received shape {orders.shape}."
        )
    return orders


def _all_outputs(lstm):
    """A new LSTM that shares the cell, and so the weights, of `lstm` and returns all outputs."""
    config = {**lstm.get_config(), "return_sequences": True, "name": f"{lstm.name}_every_step"}
    twin = type(lstm).from_config(config)
    twin.cell = lstm.cell
    return twin


class SplitModel(NamedTuple):
    """The parts of a model of sequences, made of its own layers."""

    frame_encoder: keras.Model
    """From `(N, H, W, C)` raw frames, or the images that `motion` makes of them, to `(N, F)`
    float32."""

    sequence_model: keras.Model
    """From the dict `{"features": (B, T, F) float32}`, and `lengths` or states where the model
    takes them, to the answers of the model."""

    motion: Motion | None = None
    """What the model makes of its frames `(B, T, H, W, C)` before they are encoded."""


def as_functional(what: str, model: keras.Model) -> keras.Model:
    """A model whose graph can be followed: a Sequential one as a functional of the same layers.

    Args:
        what: function and argument, for the error.
        model: a functional model, or a Sequential one that knows its input.

    Raises:
        ValueError: if it is something else, such as a model with a `call` of its own.
    """
    check_model(what, model)
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise ValueError(
            f"{what} must be functional, or Sequential and begin with keras.Input; "
            f"received {type(model).__name__} {model.name!r}, whose layers no graph connects. Give "
            "the functional model inside of it, or make one with keras.Model(inputs, outputs)."
        )
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs, model.outputs, name=model.name)
    return model


def split_model(model: keras.Model) -> SplitModel:
    """Cuts a model between its encoder and the layers that go over time.

    Nothing is copied: the parts consist of the layers of `model`, so training a part trains the
    model. Compile the second part to train it.

    Args:
        model: a model that rescales frames `(B, T, H, W, C)`, or their `Motion`, applies its
            encoder to each in `TimeDistributed` layers, one or several, and goes on with the
            vectors: `models.cnn_lstm`, whatever its options.

    Returns:
        The encoder of single frames, the model from sequences of vectors to the answers, and the
        layer of motion if there is one.

    Raises:
        ValueError: if the model has no such encoder, or reads the frames a second time.

    Example:

    >>> from keras_cnnlstm.models import cnn_lstm
    >>> parts = split_model(cnn_lstm((4, 28, 28, 1), lengths=True))
    >>> parts.frame_encoder.output_shape, sorted(parts.sequence_model.input)
    ((None, 3136), ['features', 'lengths'])
    """
    model = as_functional("split_model: `model`", model)
    calls = _encoder_calls(model)
    (frames, *_), (vectors, *_) = calls[0].input_tensors, calls[-1].output_tensors
    motion = None
    if isinstance(calls[0].operation, Motion):
        motion = calls.pop(0).operation
    images = calls[0].input_tensors[0]
    frame = keras.Input(images.shape[2:], dtype=images.dtype, name="frame")
    x = frame
    for call in calls:
        layer = call.operation
        x = (layer.layer if isinstance(layer, layers.TimeDistributed) else layer)(x)
    x = layers.Identity(dtype="float32", name="features")(x)  # (N, F)
    frame_encoder = FramesModel(frame, x, name=f"{model.name}_frames")
    return SplitModel(frame_encoder, _sequence_model(model, frames, images, vectors), motion)


def _encoder_calls(model):
    """The calls that apply the encoder to the frames, first to last."""
    calls = [call for call, _ in calls_before(model.outputs[0])][::-1]
    kinds = layers.TimeDistributed | layers.Rescaling | Motion
    front = list(itertools.takewhile(lambda call: isinstance(call.operation, kinds), calls))
    while front and not isinstance(front[-1].operation, layers.TimeDistributed):
        front.pop()
    if not front or len(front[-1].output_tensors[0].shape) != 3:
        raise ValueError(
            "split_model: `model` must turn frames into vectors in TimeDistributed layers, after "
            f"nothing but Motion and Rescaling; {model.name!r} begins with "
            f"{', '.join(type(call.operation).__name__ for call in calls[:3])}. Use a cnn_lstm."
        )
    return front


def _sequence_model(model, frames, images, vectors):
    """The rest of `model`, from the vectors on; its inputs other than the frames are kept."""
    features = keras.Input(
        batch_shape=(images.shape[0], *vectors.shape[1:]), dtype="float32", name="features"
    )
    inputs = {x.name: x for x in model.inputs if x is not frames}
    known = {id(vectors): features, **{id(x): x for x in inputs.values()}}
    for mask in [layer for layer in model.layers if isinstance(layer, LengthMask)]:
        lengths, sequences = call_of(mask.output).input_tensors
        if sequences is images:  # for T alone, which the features have as well
            known[id(mask.output)] = mask(lengths, features)
    outputs = keras.tree.map_structure(lambda x: rebuild(x, known), model.output)
    return keras.Model({"features": features, **inputs}, outputs, name=f"{model.name}_sequences")


def rebuild(tensor: keras.KerasTensor, known: dict[int, keras.KerasTensor]) -> keras.KerasTensor:
    """Calls again the layers that lead from the known tensors to this one; returns the new one.

    `known` says by `id` which tensor replaces another. The tensors made on the way are added to it.
    """
    if id(tensor) not in known:
        call = call_of(tensor)
        if call.is_input:
            raise ValueError(
                f"split_model: `model` must read its input {call.operation.name!r} in the encoder "
                "alone; another layer reads it too. Put that layer into the encoder."
            )
        for x in call.input_tensors:
            rebuild(x, known)
        args, kwargs = call.arguments.fill_in(known)
        made = keras.tree.flatten(call.operation(*args, **kwargs))
        known.update(zip(map(id, call.output_tensors), made, strict=True))
    return known[id(tensor)]


def call_of(tensor: keras.KerasTensor) -> Any:
    """The call that made a symbolic tensor, as Keras records it.

    It has the layer as `operation`, the tensors as `input_tensors` and `output_tensors`, the
    `arguments`, and `is_input`: whether the tensor is an input of the model.
    """
    operation, index, _ = tensor._keras_history
    return operation._inbound_nodes[index]


def calls_before(tensor: keras.KerasTensor) -> Iterator[tuple[Any, keras.KerasTensor]]:
    """The calls that lead to a tensor along first inputs, last to first, each with its output."""
    while not (call := call_of(tensor)).is_input:
        yield call, tensor
        tensor = call.input_tensors[0]


def call_with_hook(hook: Callable[..., Any], layer: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a model on tensors, with `hook(layer, *args, **kwargs)` in place of each layer inside.

    It enters models and `TimeDistributed`, at any depth, which fold frames to `(B*T, ...)`. Any
    other layer, such as a residual block, counts as one.
    """
    if isinstance(layer, keras.Sequential):
        return functools.reduce(lambda x, part: call_with_hook(hook, part, x), layer.layers, *args)
    if hasattr(layer, "_run_through_graph"):  # a functional model
        outputs = layer._run_through_graph(
            args[0], lambda inner: functools.partial(call_with_hook, hook, inner)
        )
        return outputs[0] if isinstance(outputs, list) and len(outputs) == 1 else outputs
    if isinstance(layer, layers.TimeDistributed):
        return _HookedTimeDistributed(hook, layer)(*args, **kwargs)
    if isinstance(layer, TwoStream):
        return layer.encoded(args[0], functools.partial(call_with_hook, hook, layer.encoder))
    return hook(layer, *args, **kwargs)


class _HookedTimeDistributed(TimeDistributed):
    """A `TimeDistributed` over the layer of another one, which it calls with a hook."""

    def __init__(self, hook, other):
        super().__init__(other.layer, name=other.name, dtype=other.dtype_policy)
        self.hook = hook

    def call_layer(self, frames, **kwargs):
        return call_with_hook(self.hook, self.layer, frames, **kwargs)


def all_layers(layer: keras.Layer) -> list[keras.Layer]:
    """A layer and all layers inside of it, at any depth."""
    return layer._flatten_layers()


def leaf_layers(layer: keras.Layer) -> list[tuple[keras.Layer, bool]]:
    """The layers inside of one that hold no further ones, each once, first to last.

    Each comes with whether it is trainable: neither it nor a layer around it is frozen.
    """
    return list(dict(_leaves(layer, True)).items())


def _leaves(layer: keras.Layer, trainable: bool) -> Iterator[tuple[keras.Layer, bool]]:
    trainable = trainable and layer.trainable
    inner = layer.layers if isinstance(layer, keras.Model) else layer._layers
    if not inner:
        yield layer, trainable
    for sublayer in inner:
        yield from _leaves(sublayer, trainable)


_CHAIN = "Build the model as a chain of layers."


def chain_of(model: keras.Model) -> list[keras.Layer]:
    """The layers of a model from its input to its output, but for a mask of `lengths`."""
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise refusal(model, "has no graph of layers to follow", "Build a functional model.")
    given = sum(tensor.name != "lengths" for tensor in inputs)
    if given != 1 or len(outputs) != 1:
        reason = f"has {given} inputs and {len(outputs)} outputs, not one of each"
        raise refusal(model, reason, _CHAIN)
    chain = []
    for call, tensor in calls_before(outputs[0]):
        _check_link(call, tensor)
        chain.append(call.operation)
    return chain[::-1]


def _check_link(call, tensor):
    """Refuses what cannot be repeated by calling the layer with its one input."""
    layer, options = call.operation, call.arguments.kwargs
    mask = options.get("mask")
    masked = mask is not None and isinstance(call_of(mask).operation, LengthMask)
    if len(call.input_tensors) != 1 + masked or tensor is not call.output_tensors[0]:
        raise refusal(layer, "has several inputs or outputs in use", _CHAIN)
    if not isinstance(layer, keras.Layer):
        raise refusal(layer, "is an operation outside of a layer", "Put it into a layer.")
    if options.get("training"):
        reason = "is called with training=True, so its answers are random"
        raise refusal(layer, reason, "Leave that out.")


def refusal(layer: Any, reason: str, remedy: str) -> ValueError:
    """The error that a model cannot be streamed: the layer, the reason, the remedy."""
    return ValueError(
        "step_model: `model` must read its frames in order and each only once; "
        f"{type(layer).__name__} {getattr(layer, 'name', '')!r} {reason}. {remedy}"
    )
