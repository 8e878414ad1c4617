"""Frame by frame: a model of whole sequences as a step, its LSTM state carried by the caller.

A live stream has no end, and re-reading its last T frames for every new one runs the CNN T times
a frame. A step runs it once: it takes one frame and the states of the LSTMs, and returns the
answer so far and the next states. The state belongs to the caller, as in the streaming models of
Kondratyuk et al., "MoViNets: Mobile Video Networks for Efficient Video Recognition", CVPR 2021,
section 3.2; so one model serves any number of streams, and any of them can be stored or restarted.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

State = dict[str, np.ndarray]  # "lstm1_h", "lstm1_c", "lstm2_h", ...: (B, units) float32

# Layers that treat each frame alike, with or without the time axis before the features.
_FRAMEWISE = (layers.Rescaling, layers.Dropout, layers.Activation, layers.Dense)


def step_model(model: keras.Model) -> keras.Model:
    """The model that reads one frame at a time, made of the same layers as `model`.

    Nothing is copied: each layer, and each LSTM's cell, is used by both models, so training one
    or setting its weights shows in the other. After every frame the step's answer is that of the
    whole-sequence model for the frames so far; or, where that model answers at each step (its
    last LSTM returns sequences), its answer at this step.

    Args:
        model: a model from `frames (B, T, H, W, C)`, T fixed or not, whose layers form a chain
            with one LSTM or more, none of which needs the future. `models.cnn_lstm` builds such.

    Returns:
        A model from the dict `{"frame": (B, H, W, C) uint8, "lstm1_h": (B, units) float32,
        "lstm1_c": (B, units) float32, "lstm2_h": ...}`, a pair for each LSTM under its name, to
        the dict `{"probabilities": (B, num_classes) float32, "lstm1_h": ...}`: the answer under
        the name of the model's output, and the next states. A stream begins with zeros. States
        are float32 under every precision policy.

    Raises:
        ValueError: if the model cannot be streamed; the message says which layer and why.
    """
    whole = model.inputs[0]
    frame = keras.Input(whole.shape[2:], dtype=whole.dtype, name="frame")
    inputs, states = {"frame": frame}, {}
    x, over_time = frame, True  # whether the whole model's tensor has its T axis here
    for layer in _chain(model):
        if not over_time:
            x = layer(x)
        elif isinstance(layer, layers.LSTM):
            before = _state_inputs(layer)
            x, after = _cell_step(layer, x, before)
            inputs |= before
            states |= after
            over_time = layer.return_sequences
        else:
            x = _frame_layer(layer)(x)
    if not states:
        raise _refusal(
            model.name, "it has no LSTM, so there is no state to carry", "Stream a cnn_lstm."
        )
    outputs = {model.output_names[0]: x, **states}
    return keras.Model(inputs, outputs, name=f"{model.name}_step")


def _chain(model):
    """The layers from the input to the output, without the input layer."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise _branches(model.name, f"{len(model.inputs)} inputs and {len(model.outputs)} outputs")
    chain, tensor = [], model.outputs[0]
    while True:
        layer, node_index, _ = tensor._keras_history
        node = layer._inbound_nodes[node_index]
        if node.is_input:
            return chain[::-1]
        if len(node.input_tensors) != 1:
            raise _branches(layer.name, f"{len(node.input_tensors)} inputs")
        chain.append(layer)
        tensor = node.input_tensors[0]


def _state_inputs(lstm):
    return {
        f"{lstm.name}_{part}": keras.Input((lstm.units,), dtype="float32", name=f"{lstm.name}_{part}")
        for part in "hc"
    }


def _cell_step(lstm, x, states):
    """One step of the LSTM's own cell: its output `(B, units)` and the next states."""
    # The LSTM layer itself does not return its state; a stock RNN around its cell does.
    step = layers.RNN(
        lstm.cell, return_state=True, unroll=True, dtype=lstm.dtype_policy, name=f"{lstm.name}_step"
    )
    x = ops.expand_dims(x, 1)  # (B, 1, features)
    output, *after = step(x, initial_state=list(states.values()))  # (B, units) each
    # Half-precision numbers fit into float32, so carrying them in it changes none.
    return output, {
        name: ops.cast(value, "float32") for name, value in zip(states, after, strict=True)
    }


def _frame_layer(layer):
    """What the layer does to one frame; refuses a layer that may look at several."""
    if isinstance(layer, layers.TimeDistributed):
        return layer.layer
    if isinstance(layer, _FRAMEWISE):
        return layer
    if isinstance(layer, layers.Bidirectional):
        raise _refusal(
            layer.name,
            "Bidirectional reads the frames backwards too, so it needs the future",
            "Build the model with bidirectional=False.",
        )
    raise _refusal(
        layer.name,
        f"{type(layer).__name__} sees all frames at once and may mix them",
        "If it treats each frame by itself, wrap it in TimeDistributed.",
    )


def _branches(name, received):
    return _refusal(name, f"expected a chain with one input and one output; received {received}", "")


def _refusal(name, reason, remedy):
    return ValueError(f"step_model: {name} cannot be streamed: {reason}. {remedy}")
