"""The weights of a Keras model, layer by layer, and where PyTorch has each of their numbers.

Follows a model's graph from its inputs to its outputs, into nested models and TimeDistributed, and
keeps track of what the last axis of each tensor holds: PyTorch flattens a map as (C, H, W), Keras
as (H, W, C), so a layer that reads a flattened map needs its rows permuted. Knows nothing of names
in PyTorch; `convert` matches them.
"""

import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from keras_cnnlstm.utils.model_calls import follow_calls


class Slot(NamedTuple):
    """A Keras variable, and the PyTorch entries that it is the sum of.

    Attributes:
        variable: the `keras.Variable`.
        entries: names of the entries in their module: "weight", or "bias_ih" and "bias_hh".
        axes: how PyTorch's array is transposed.
        merged: sizes (..., H, W, C) of the axes that are merged in the variable's first one.
    """

    variable: Any
    entries: tuple[str, ...]
    axes: tuple[int, ...] = (0,)
    merged: tuple[int, ...] = ()

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """Shape of each entry in PyTorch."""
        return tuple(self.variable.shape[axis] for axis in np.argsort(self.axes))

    @property
    def done(self) -> str:
        """The conversion from PyTorch to Keras, in words."""
        done = [f"transposed {self.axes}"] if len(self.axes) > 1 else []
        if self.merged:
            done += [f"rows permuted from {_torch_order(self.merged)} to {self.merged}"]
        done += ["sum of the two"] if len(self.entries) > 1 else []
        return ", ".join(done) or "as it is"

    def to_keras(self, arrays: list[np.ndarray]) -> np.ndarray:
        """The variable's value, made of the entries' float32 arrays."""
        x = np.asarray(np.sum(arrays, axis=0, dtype=np.float64)).transpose(self.axes)
        return (x[_rows(self.merged)] if self.merged else x).astype(np.float32)

    def to_torch(self) -> list[np.ndarray]:
        """The entries' arrays, float32: the variable's value, then zeros."""
        x = keras.ops.convert_to_numpy(self.variable).astype(np.float32)
        x = x[np.argsort(_rows(self.merged))] if self.merged else x
        x = x.transpose(np.argsort(self.axes)).copy()  # in C order, as files need it
        return [x, *(np.zeros_like(x) for _ in self.entries[1:])]


class Unit(NamedTuple):
    """A Keras layer with weights.

    Attributes:
        type: its type in PyTorch: "Conv2d", "Linear", "LSTM" or "BatchNorm".
        name: its name after those of the models around it, joined by dots.
        slots: its variables.
        note: a setting that differs from PyTorch's default, in words.
    """

    type: str
    name: str
    slots: list[Slot]
    note: str = ""

    @property
    def torch_shapes(self) -> dict[str, tuple[int, ...]]:
        """Entries -> their shapes in PyTorch."""
        return {entry: slot.torch_shape for slot in self.slots for entry in slot.entries}


def weighted_layers(model: keras.Model) -> list[Unit]:
    """The layers with weights, in the order in which the model calls them.

    Args:
        model: a built functional or Sequential model, nested or not.

    Example:

    >>> frames = keras.Input((2, 2, 3))
    >>> scores = layers.Dense(7, name="scores")(layers.Flatten()(frames))
    >>> [unit] = weighted_layers(keras.Model(frames, scores))
    >>> unit.name, unit.torch_shapes, unit.slots[0].done
    ('scores', {'weight': (7, 12), 'bias': (7,)}, \
'transposed (1, 0), rows permuted from (3, 2, 2) to (2, 2, 3)')
    """
    if not getattr(model, "outputs", None):
        raise ValueError(
            "model: expected a built functional or Sequential model; received "
            f"{type(model).__name__} {getattr(model, 'name', '')!r} without a graph of layers. "
            "Begin it with keras.Input."
        )
    walk = _Walk()
    walk.through(model, [_raw(x.shape) for x in model.inputs])
    return walk.units


class _Axis(NamedTuple):
    """What the last axis of a tensor holds, if PyTorch may have it in another order."""

    channels: bool = False  # of a map, whose other axes stand before it
    merged: tuple[int, ...] = ()  # channels merged with axes of their map: sizes (..., H, W, C)
    unclear: str = ""  # the layer after which their order in PyTorch is unknown


def _raw(shape):
    """(T, H, W, C) and (H, W, C) have channels; (T, H, W) has none: raw channels are few."""
    return _Axis(channels=len(shape) > 4 or (len(shape) == 4 and (shape[-1] or 5) < 5))


def _torch_order(merged):
    return (*merged[:-3], merged[-1], *merged[-3:-1])


def _rows(merged):
    """For each feature in Keras, channels last, its place in PyTorch, channels first."""
    in_torch = np.arange(math.prod(merged)).reshape(_torch_order(merged))
    return np.moveaxis(in_torch, -min(3, len(merged)), -1).ravel()


class _Walk:
    """Collects the layers with weights, and the order of the features that each reads."""

    def __init__(self):
        self.units = []
        self._merged = {}  # of each collected layer, by id

    def through(self, model, axes, path=""):
        """Walks a model whose inputs' last axes are `axes`; returns those of its outputs."""
        made_by: dict[int, Any] = {}  # id of a tensor -> the call that made it

        def note(layer, *args, **kwargs):
            outputs = layer.compute_output_spec(*args, **kwargs)
            call = _Call(layer, args, kwargs, keras.tree.flatten(outputs))
            made_by.update((id(x), call) for x in call.outputs)
            return outputs

        def axis_of(tensor):  # one branch after the other, as PyTorch lists its layers
            if id(tensor) not in known:
                call = made_by[id(tensor)]
                for x in call.tensors:
                    axis_of(x)
                results = self._after(call, [known[id(x)] for x in call.inputs], path)
                known.update(zip(map(id, call.outputs), results, strict=True))
            return known[id(tensor)]

        graph = follow_calls(model, note)
        known = dict(zip(map(id, graph.inputs), axes, strict=False))
        return [axis_of(x) for x in graph.outputs]

    def _after(self, call, axes, path):
        """What the last axes of a call's outputs hold, given those of its inputs."""
        layer, before, after = _per_frame(call)
        name = path + call.layer.name
        if isinstance(layer, keras.Model) and getattr(layer, "outputs", None):
            return self.through(layer, axes, f"{name}.")
        if getattr(layer, "weights", ()):
            return [self._collect(layer, name, axes[0])] * len(call.outputs)
        return [_without_weights(layer, axes, before, after)] * len(call.outputs)

    def _collect(self, layer, name, axis):
        kind, slots_of, after = next(
            (found for cls, found in _KINDS.items() if isinstance(layer, cls)), (None, None, None)
        )
        if kind is None:
            raise _refusal(layer, "has no counterpart here", "Build the model without it.")
        if axis.unclear:
            reason = f"reads features that {axis.unclear!r} may order otherwise than PyTorch"
            raise _refusal(layer, reason, "Put only Activation and Dropout layers between.")
        if id(layer) not in self._merged:
            self.units.append(Unit(kind, name, _slots(layer, slots_of, axis.merged), _note(layer)))
        if self._merged.setdefault(id(layer), axis.merged) != axis.merged:
            raise _refusal(layer, "is called with features in two orders", "Use two layers.")
        return axis if after is None else after


class _Call(NamedTuple):
    """A call of a layer on symbolic tensors."""

    layer: Any
    args: Any
    kwargs: Any
    outputs: list[Any]

    @property
    def tensors(self):
        """All that the layer reads."""
        return _symbolic((self.args, self.kwargs))

    @property
    def inputs(self):
        """The same without masks and states, which are named or come later."""
        args = self.args[:1] if isinstance(self.layer, keras.Layer) else self.args
        return _symbolic(args) or self.tensors


def _symbolic(values):
    return [x for x in keras.tree.flatten(values) if isinstance(x, keras.KerasTensor)]


def _per_frame(call):
    """The layer inside of TimeDistributed, and the shapes before and after it, of one example."""
    layer, leading = call.layer, 1
    while isinstance(layer, layers.TimeDistributed):
        layer, leading = layer.layer, leading + 1
    return layer, call.inputs[0].shape[leading:], call.outputs[0].shape[leading:]


_ELEMENTWISE = (
    layers.Activation, layers.Dropout, layers.ELU, layers.GaussianNoise, layers.Identity,
    layers.LeakyReLU, layers.Masking, layers.ReLU, layers.Rescaling,
)  # fmt: skip


def _without_weights(layer, axes, before, after):
    """What the last axis holds after a layer without weights."""
    same = before[-1:] == after[-1:] and not (
        isinstance(layer, layers.Permute) and layer.dims[-1] != len(layer.dims)
    )
    pending = next((axis for axis in axes if axis.merged or axis.unclear), None)
    if pending:
        regroups = isinstance(layer, layers.Flatten | layers.Permute | layers.Reshape)
        kept = isinstance(layer, _ELEMENTWISE) or (regroups and same)
        return pending if kept else _Axis(unclear=pending.unclear or layer.name)
    channels = any(axis.channels for axis in axes)
    if same or len(axes) > 1:
        return _Axis(channels=channels and len(after) > 1)
    if isinstance(layer, layers.Permute):  # the channels are no longer last, as in PyTorch
        return _Axis()
    return _regrouped(layer, channels, before, after)


def _regrouped(layer, channels, before, after):
    """What the last axis holds after a layer like Flatten or Reshape changed its size."""
    if not channels:
        makes_map = len(after) > max(2, len(before)) and after[-1] > 1
        return _Axis(unclear=layer.name) if makes_map else _Axis()
    if before[-1] == 1 or after == before[:-1]:
        return _Axis()  # there was one channel, or there are none any more
    if len(after) == len(before) and _size(after) != _size(before):
        return _Axis(channels=True)  # some channels, or more
    merged = _merged(before, after) if 2 < len(before) > len(after) else None
    if not merged:
        return _Axis(unclear=layer.name)
    in_order = (np.diff(_rows(merged)) == 1).all()  # the map was a single position
    return _Axis() if in_order else _Axis(merged=merged)


def _merged(before, after):
    """Sizes of the axes that the last one now merges, the channels last."""
    for axes in range(2, len(before) + 1):
        if math.prod(size or 0 for size in before[-axes:]) == after[-1]:
            return before[-axes:]
    if _size(before) == _size(after):
        return (after[-1] // before[-1], before[-1])  # part of a map, such as its columns
    return None


def _size(shape):
    return math.prod(size or 1 for size in shape)


def _slots(layer, slots_of, merged):
    slots = slots_of(layer, merged)
    if {id(slot.variable) for slot in slots} != set(map(id, layer.weights)):
        raise _refusal(layer, "has weights of its own", "Build it of the stock layer.")
    return slots


def _note(layer):
    if not isinstance(layer, layers.BatchNormalization) or layer.epsilon == 1e-5:
        return ""
    return f"{layer.name}: its epsilon is {layer.epsilon:g}; PyTorch's default is 1e-05."


def _conv(layer, merged):
    # No rows: channels of several frames, merged by a Reshape, are in one order in both.
    if layer.data_format != "channels_last":
        raise _refusal(layer, "has its channels first", "Build it with channels_last.")
    depthwise = isinstance(layer, layers.DepthwiseConv2D)
    if depthwise and layer.depth_multiplier > 1:
        raise _refusal(layer, "has several filters a channel", "Build it as Conv2D with groups.")
    axes = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
    return [Slot(layer.kernel, ("weight",), axes), *_bias(layer, "bias")]


def _dense(layer, merged):
    return [Slot(layer.kernel, ("weight",), (1, 0), merged), *_bias(layer, "bias")]


def _lstm(layer, merged, suffix=""):
    cell = layer.cell
    stock = keras.activations.tanh, keras.activations.sigmoid
    if (cell.activation, cell.recurrent_activation) != stock:
        raise _refusal(layer, "has other activations than PyTorch's", "Use tanh and sigmoid.")
    return [
        Slot(cell.kernel, (f"weight_ih{suffix}",), (1, 0), merged),
        Slot(cell.recurrent_kernel, (f"weight_hh{suffix}",), (1, 0)),
        *_bias(cell, f"bias_ih{suffix}", f"bias_hh{suffix}"),
    ]


def _bidirectional(layer, merged):
    both = layer.forward_layer, layer.backward_layer
    if not all(isinstance(part, layers.LSTM) for part in both):
        raise _refusal(layer, "wraps no LSTM", "Build it of LSTMs.")
    return _lstm(both[0], merged) + _lstm(both[1], merged, "_reverse")


def _batch_norm(layer, merged):
    if layer.scale != layer.center or layer.axis not in (-1, layer.input_spec.ndim - 1):
        reason = "has no counterpart in PyTorch"
        raise _refusal(layer, reason, "Give it scale and center, or neither, and axis=-1.")
    affine = {"weight": layer.gamma, "bias": layer.beta} if layer.scale else {}
    averages = {"running_mean": layer.moving_mean, "running_var": layer.moving_variance}
    return [Slot(v, (entry,), merged=merged) for entry, v in (affine | averages).items()]


def _bias(layer, *entries):
    return [Slot(layer.bias, entries)] if layer.use_bias else []


_KINDS = {  # a layer's type in PyTorch, its slots, and what the last axis of its output holds
    layers.Conv2D: ("Conv2d", _conv, _Axis(channels=True)),
    layers.DepthwiseConv2D: ("Conv2d", _conv, _Axis(channels=True)),
    layers.Dense: ("Linear", _dense, _Axis()),
    layers.LSTM: ("LSTM", _lstm, _Axis()),
    layers.Bidirectional: ("LSTM", _bidirectional, _Axis()),
    layers.BatchNormalization: ("BatchNorm", _batch_norm, None),  # None: as they came
}


def _refusal(layer, reason, remedy):
    return ValueError(
        "model: expected weights in Conv2D, DepthwiseConv2D, Dense, LSTM, Bidirectional(LSTM) and "
        f"BatchNormalization layers as PyTorch has them; received {type(layer).__name__} "
        f"{layer.name!r}, which {reason}. {remedy}"
    )
