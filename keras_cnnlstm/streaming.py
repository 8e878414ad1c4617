"""Frame by frame: a model of whole sequences as a step, its LSTM state carried by the caller.

A live stream has no end, and re-reading its last T frames for every new one runs the CNN T times
a frame. A step runs it once: it takes one frame and the states of the LSTMs, and returns the
answer so far and the next states. The state belongs to the caller, as in the streaming models of
Kondratyuk et al., "MoViNets: Mobile Video Networks for Efficient Video Recognition", CVPR 2021,
section 3.2; so one model serves any number of streams, and each can be stored, restarted or moved.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import layers, ops

from keras_cnnlstm.arguments import as_array, check_names, is_whole, told
from keras_cnnlstm.ensembles import LogOfMean
from keras_cnnlstm.layers import LengthMask

_MOST = 1_000_000  # streams side by side

State = dict[str, np.ndarray]  # lstm1_h, lstm1_c, lstm2_h, ...: (B, units) float32

# Layers that do the same to a frame's features whether or not a time axis stands before them.
_FRAMEWISE = (layers.Rescaling, layers.Dropout, layers.Activation, layers.Dense)

_MEANS = (layers.Average, LogOfMean)  # of several models' answers

_CHAIN = "Build the model as a chain of layers."


def step_model(model: keras.Model) -> keras.Model:
    """The model that reads one frame at a time, made of the same layers as `model`.

    Nothing is copied: each layer, and each LSTM's cell, is used by both models, so training one
    or setting its weights shows in the other. After every frame the step's answer is that of the
    whole-sequence model for the frames so far; or, if that model answers at each step (its last
    LSTM returns sequences), its answer at this step.

    Args:
        model: a model from `frames (B, T, H, W, C)`, T fixed or not, whose layers form a chain
            with one LSTM or more, none of which needs the future: `models.cnn_lstm` and its like;
            or the mean of such models, as `ensembles.average_models` makes it. A second input
            `lengths` falls away, since every frame of a stream counts.

    Returns:
        A model from the dict `{"frame": (B, H, W, C) uint8, "lstm1_h": (B, units) float32,
        "lstm1_c": (B, units) float32, "lstm2_h": ...}`, a pair for each LSTM under its name, to
        the dict `{"probabilities": (B, num_classes) float32, "lstm1_h": ...}`: the answer under
        the name of the model's last layer, and the next states. A stream begins with zeros.
        States are float32 under every precision policy. Those of several models bear the members'
        names too: `member1_lstm1_h`, ...

    Raises:
        ValueError: if the model cannot be streamed; the message says which layer and why.
    """
    members, tail = _members_of(model)
    if members:
        return _mean_step(model, members, tail)
    chain = chain_of(model)
    whole = _frames_of(model)
    frame = keras.Input(whole.shape[2:], dtype=whole.dtype, name="frame")
    inputs = {"frame": frame}
    states: dict[str, keras.KerasTensor] = {}
    x, over_time = frame, True  # over_time: whether x has a T axis in the whole model
    for layer in chain:
        if over_time and isinstance(layer, layers.LSTM):
            before = _state_inputs(layer)
            x, after = _cell_step(layer, x, before)
            inputs |= before
            states |= after
            over_time = layer.return_sequences
        else:
            x = (_per_frame(layer) if over_time else layer)(x)
    if not states:
        raise _refusal(model, "has no LSTM, hence no state to carry", "Stream a cnn_lstm.")
    return keras.Model(inputs, {chain[-1].name: x, **states}, name=f"{model.name}_step")


def _mean_step(model, members, tail):
    """The step of several models' mean: theirs side by side, and the layers that average them."""
    steps = [step_model(member) for member in members]
    whole = steps[0].input["frame"]
    frame = keras.Input(whole.shape[1:], dtype=whole.dtype, name="frame")
    inputs, states, answers = {"frame": frame}, {}, []
    for member, step in zip(members, steps, strict=True):
        names = {name: f"{member.name}_{name}" for name in step.input if name != "frame"}
        own = {
            name: keras.Input(step.input[name].shape[1:], dtype="float32", name=given)
            for name, given in names.items()
        }
        outputs = step({"frame": frame, **own})
        inputs |= {names[name]: x for name, x in own.items()}
        states |= {names[name]: outputs[name] for name in own}
        (answer,) = outputs.keys() - own.keys()
        answers.append(outputs[answer])
    x = answers
    for layer in tail:
        x = layer(x)
    return keras.Model(inputs, {tail[-1].name: x, **states}, name=f"{model.name}_step")


class Stream:
    """Streams through one model, any number side by side, their state in the caller's hands.

    The step is compiled at the first call; nothing of a stream is kept from call to call.

    Args:
        model: a whole-sequence model, as `step_model` takes it.

    Attributes:
        model: the single-step model, which shares `model`'s layers.
        frame_shape: `(H, W, C)` of a frame.
        state_shapes: `(units,)` of each state, by name.

    Raises:
        ValueError: if the model cannot be streamed.

    Example:

    >>> from keras_cnnlstm.models import cnn_lstm
    >>> stream = Stream(cnn_lstm((None, 28, 28, 1)))
    >>> state = stream.initial_state(batch=2)
    >>> outputs, state = stream.step(np.zeros((2, 28, 28, 1), "uint8"), state)
    >>> outputs["probabilities"].shape, sorted(state)
    ((2, 7), ['lstm1_c', 'lstm1_h'])
    """

    def __init__(self, model: keras.Model):
        self.model = step_model(model)
        shapes = {name: tuple(x.shape[1:]) for name, x in self.model.input.items()}
        self.frame_shape = shapes.pop("frame")
        self.state_shapes = shapes
        self._frame_dtype = self.model.input["frame"].dtype

    def initial_state(self, batch: int = 1) -> State:
        """The state before the first frame: zeros, `(batch, units)` float32 for each name.

        Args:
            batch: B, streams side by side; 1 or more.

        Returns:
            The state, for `step`.

        Raises:
            ValueError: if `batch` is no positive integer.
        """
        if not is_whole(batch, 1, _MOST):
            raise ValueError(
                "Stream.initial_state: `batch` must be the number of streams, 1 or more; received "
                f"{told(batch)}."
            )
        return {n: np.zeros((batch, *shape), "float32") for n, shape in self.state_shapes.items()}

    def step(
        self, frame: np.ndarray, state: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], State]:
        """Reads one more frame of each stream.

        Args:
            frame: `(B, H, W, C)` uint8, the next frame of each of B streams.
            state: what `initial_state`, the last `step` or `reset` returned. It is not changed.

        Returns:
            The answers by name, such as `probabilities (B, num_classes) float32`, and the state
            to give with the next frame.

        Raises:
            ValueError: if `frame` or `state` has another shape, dtype or names, or B differs.
        """
        frame = self._checked_frame("Stream.step", frame, leading=("B",))
        state = self._checked_state("Stream.step", state, batch=len(frame), like="frame")
        # Called plainly the model would run op by op, on TensorFlow several times slower.
        outputs = self.model.predict_on_batch({"frame": frame, **state})
        state = {name: outputs.pop(name) for name in self.state_shapes}
        return outputs, state

    def reset(self, state: Mapping[str, np.ndarray], where: np.ndarray) -> State:
        """Starts some streams afresh and leaves the others as they are.

        Args:
            state: the state of B streams. It is not changed.
            where: `(B,)` boolean, `True` for the streams to start afresh.

        Returns:
            The new state.

        Raises:
            ValueError: if `state` is not one of this stream's, or `where` does not fit it.
        """
        where = as_array("Stream.reset: `where`", where)
        if where.ndim != 1 or where.dtype != bool:
            raise ValueError(
                "Stream.reset: `where` must be boolean of shape (B,), one for each stream; "
                f"received {where.dtype} of shape {where.shape}. Make one from the streams' "
                "indices with np.isin(np.arange(B), indices)."
            )
        state = self._checked_state("Stream.reset", state, batch=len(where), like="where")
        return {n: np.where(where[:, None], np.float32(0), value) for n, value in state.items()}

    def _checked_frame(self, caller, frame, leading=()):
        frame = as_array(f"{caller}: `frame`", frame)
        expected = (*leading, *self.frame_shape)
        fits = frame.ndim == len(expected) and all(
            size in ("B", None, received)
            for size, received in zip(expected, frame.shape, strict=True)
        )
        if not fits or frame.dtype != self._frame_dtype:
            raise ValueError(
                f"{caller}: `frame` must be {self._frame_dtype} of shape "
                f"({', '.join(map(str, expected))}); received {frame.dtype} of shape "
                f"{frame.shape}. Give raw frames of the model's size: it rescales their values "
                "itself."
            )
        return frame

    def _checked_state(self, caller, state, *, batch, like):
        """The state as arrays, with a row for each of the `batch` streams of argument `like`."""
        received = list(state) if isinstance(state, Mapping) else type(state).__name__
        if not isinstance(state, Mapping) or set(state) != set(self.state_shapes):
            raise ValueError(
                f"{caller}: `state` must be a dict with the entries {list(self.state_shapes)}; "
                f"received {received}. Begin with initial_state({batch})."
            )
        arrays = {n: as_array(f"{caller}: `state[{n!r}]`", state[n]) for n in self.state_shapes}
        for name, x in arrays.items():
            expected = (batch, *self.state_shapes[name])
            if x.shape != expected or x.dtype != np.float32:
                raise ValueError(
                    f"{caller}: `state[{name!r}]` must be float32 of shape {expected}, a row for "
                    f"each stream of `{like}`; received {x.dtype} of shape {x.shape}. Begin with "
                    f"initial_state({batch})."
                )
        return arrays


class Answer(NamedTuple):
    """What `FrameStream` says after a frame."""

    step: int
    """Frames read since the start or the last reset, this one included."""

    label: str
    """Name of the likeliest class; its index as text where no names were given. The values as text,
    of a model that answers with these."""

    class_id: int | None
    """Index of the likeliest class; `None` for values."""

    probabilities: np.ndarray | None
    """`(num_classes,)` float32; `None` for values."""

    values: np.ndarray | None = None
    """`(num_values,)` float32; `None` for classes."""


class FrameStream:
    """One live stream of frames, its state kept for you.

    Args:
        model: a whole-sequence model, as `step_model` takes it; or a `Stream` of one, which
            several live streams may share.
        class_names: names of the classes in the order of the model's outputs.

    Raises:
        ValueError: if the model cannot be streamed, or has another number of classes.

    Example:

    >>> from keras_cnnlstm.models import cnn_lstm
    >>> live = FrameStream(cnn_lstm((None, 28, 28, 1), 2), ["calm", "storm"])
    >>> frames = np.zeros((3, 28, 28, 1), "uint8")
    >>> [answer.step for answer in live.answers(frames)]
    [1, 2, 3]
    """

    def __init__(self, model: keras.Model | Stream, class_names: Sequence[str] = ()):
        self.stream = model if isinstance(model, Stream) else Stream(model)
        outputs = self.stream.model.output
        (self._output,) = outputs.keys() - self.stream.state_shapes.keys()
        num_classes = 0 if self._output == "values" else outputs[self._output].shape[-1]
        check_names("FrameStream: `class_names`", class_names)
        self.class_names = tuple(class_names) or tuple(map(str, range(num_classes)))
        if len(self.class_names) != num_classes:
            raise ValueError(
                f"FrameStream: `class_names` must have {num_classes} names, one for each of the "
                f"model's classes; received {len(self.class_names)}. Leave it out to get indices."
            )
        self._state: State = {}
        self._step = 0
        self.reset()

    def push(self, frame: np.ndarray) -> Answer:
        """Reads the next frame.

        Args:
            frame: `(H, W, C)` uint8.

        Returns:
            The answer for all frames since the start or the last reset.

        Raises:
            ValueError: if `frame` has another shape or dtype; the stream stays where it was.
        """
        frame = self.stream._checked_frame("FrameStream.push", frame)
        outputs, self._state = self.stream.step(frame[None], self._state)
        self._step += 1
        if self._output == "values":
            values = outputs["values"][0]
            return Answer(self._step, ", ".join(f"{v:.2f}" for v in values), None, None, values)
        probabilities = outputs[self._output][0]
        best = int(probabilities.argmax())
        return Answer(self._step, self.class_names[best], best, probabilities)

    def answers(self, frames: Iterable[np.ndarray]) -> Iterator[Answer]:
        """The answer after each of `frames`, `(H, W, C)` uint8 each, read as they are needed."""
        return map(self.push, frames)

    def reset(self) -> None:
        """Forgets all frames: the next one is the first."""
        self._state = self.stream.initial_state()
        self._step = 0


def chain_of(model):
    """The layers of a model from its input to its output; refuses a graph that is no chain."""
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise _refusal(model, "has no graph of layers to follow", "Build a functional model.")
    given = [tensor for tensor in inputs if tensor.name != "lengths"]
    if len(given) != 1 or len(outputs) != 1:
        received = f"has {len(given)} inputs and {len(outputs)} outputs, not one of each"
        raise _refusal(model, received, _CHAIN)
    chain, tensor = [], outputs[0]
    while True:
        layer, node = _made_by(tensor)
        if node.is_input:
            return chain[::-1]
        _check_link(layer, node, tensor._keras_history.tensor_index)
        chain.append(layer)
        tensor = node.input_tensors[0]


def _members_of(model):
    """The models whose mean a model answers with, and the layers from there on; or none."""
    tail, tensor = [], next(iter(getattr(model, "outputs", None) or ()), None)
    while tensor is not None:
        layer, node = _made_by(tensor)
        tail.append(layer)
        if isinstance(layer, _MEANS):
            made = [_made_by(answer) for answer in node.input_tensors]
            whole = all(
                isinstance(member, keras.Model)
                and all(any(given is x for x in model.inputs) for given in call.input_tensors)
                for member, call in made
            )
            return ([member for member, _ in made], tail[::-1]) if whole else ([], [])
        tensor = node.input_tensors[0] if isinstance(layer, _FRAMEWISE) else None
    return [], []


def _made_by(tensor):
    """The layer that a tensor comes from, and the node of its call."""
    layer, node_index, _ = tensor._keras_history
    return layer, layer._inbound_nodes[node_index]


def _frames_of(model):
    """The input that is a sequence of frames."""
    return next(tensor for tensor in model.inputs if tensor.name != "lengths")


def _check_link(layer, node, tensor_index):
    """Refuses what a step could not repeat by calling the layer with its one input."""
    mask = node.arguments.kwargs.get("mask")
    masked = mask is not None and isinstance(mask._keras_history.operation, LengthMask)
    if len(node.input_tensors) != 1 + masked or tensor_index != 0:
        raise _refusal(layer, "has several inputs or outputs in use", _CHAIN)
    if not isinstance(layer, keras.Layer):
        raise _refusal(layer, "is an operation outside of a layer", "Put it into a layer.")
    if node.arguments.kwargs.get("training"):
        raise _refusal(
            layer, "is called with training=True, so its answers are random", "Leave that out."
        )


def _per_frame(layer):
    """What a layer over all frames does to a single one; refuses those that need several."""
    if isinstance(layer, layers.TimeDistributed):
        return layer.layer
    if isinstance(layer, _FRAMEWISE):
        return layer
    if isinstance(layer, layers.Bidirectional):
        reason = "reads the frames backwards too, so it needs the future"
        raise _refusal(layer, reason, "Build the model with bidirectional=False.")
    raise _refusal(
        layer,
        "sees all frames at once and may mix them",
        "If it treats each frame by itself, wrap it in TimeDistributed.",
    )


def _state_inputs(lstm):
    names = [f"{lstm.name}_{part}" for part in "hc"]
    return {name: keras.Input((lstm.units,), dtype="float32", name=name) for name in names}


def _cell_step(lstm, x, states):
    """One step of the LSTM's own cell: its output `(B, units)`, and the next states by name."""
    if lstm.go_backwards:
        reason = "reads the frames backwards, so it needs the last one first"
        raise _refusal(lstm, reason, "Build it with go_backwards=False.")
    # A stock RNN around the cell, since the LSTM layer is set up not to return its state.
    step = layers.RNN(
        lstm.cell, return_state=True, unroll=True, dtype=lstm.dtype_policy, name=f"{lstm.name}_step"
    )
    x = ops.expand_dims(x, 1)  # (B, 1, features)
    output, *after = step(x, initial_state=list(states.values()))  # (B, units) each
    # Under a half policy the cell computes in half; float32 holds its numbers exactly.
    after = [ops.cast(value, "float32") for value in after]
    return output, dict(zip(states, after, strict=True))


def _refusal(layer, reason, remedy):
    return ValueError(
        "step_model: `model` must read its frames in order and each only once; "
        f"{type(layer).__name__} {getattr(layer, 'name', '')!r} {reason}. {remedy}"
    )
