"""Frame by frame: a model of whole sequences as a step, whose LSTM states the caller carries.

To read the last T frames of a stream again for each new one would run the CNN T times per frame. A
step runs it once: it takes one frame and the states of the LSTMs, and returns the answer and the
next states, as the streaming models of Kondratyuk et al., "MoViNets: Mobile Video Networks for
Efficient Video Recognition", CVPR 2021, section 3.2. One model serves any number of streams.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from keras_cnnlstm.layers.averaging import LogOfMean
from keras_cnnlstm.layers.motion import Motion
from keras_cnnlstm.models.graph import call_of, calls_before, chain_of, refusal
from keras_cnnlstm.utils.validation import as_shaped, check_integer, check_names

State = dict[str, np.ndarray]  # lstm1_h, lstm1_c, lstm2_h, ...: (B, units) float32

# Layers that do the same to a frame's features whether or not a time axis stands before them.
_PER_FRAME = (layers.Rescaling, layers.Dropout, layers.Activation, layers.Dense)
_MEANS = (layers.Average, LogOfMean)  # of several models' answers


def step_model(model: keras.Model) -> keras.Model:
    """The model that reads one frame at a time, made of the same layers as `model`.

    Nothing is copied: both models use the same layers and LSTM cells, so training one trains the
    other. After every frame the step's answer is that of `model` for the frames up to here; or, if
    `model` answers at each step (its last LSTM returns sequences), its answer at this step.

    Args:
        model: a model from `frames (B, T, H, W, C)`, T fixed or not, whose layers form a chain
            with one LSTM or more, none of which needs the future: `models.cnn_lstm` and its like;
            or the mean of such models, as `ensembles.average_models` makes it. The step has no
            input `lengths`, since every frame of a stream counts.

    Returns:
        A model from the dict `{"frame": (B, H, W, C) uint8, "lstm1_h": (B, units) float32,
        "lstm1_c": (B, units) float32, "lstm2_h": ...}`, a pair for each LSTM under its name, to
        the dict `{"probabilities": (B, num_classes) float32, "lstm1_h": ...}`: the answer under
        the name of the model's last layer, and the next states. A stream begins with zeros. A
        layer of `Motion` has states too: `motion_frames (B, lag, H, W, C) float32`, the frames it
        compares with, and `motion_count (B, 1) float32`, how many there are. The LSTMs read nothing
        of the first `lag` frames.
        States are float32 under every precision policy. Those of several models carry the members'
        names: `member1_lstm1_h`, ...

    Raises:
        ValueError: if the model cannot be streamed; the message names the layer and the reason.
    """
    members, tail = _members_of(model)
    if members:
        return _mean_step(model, members, tail)
    chain = chain_of(model)
    frames = next(x for x in model.inputs if x.name != "lengths")
    x = keras.Input(frames.shape[2:], dtype=frames.dtype, name="frame")
    inputs, states, over_time = {"frame": x}, dict[str, keras.KerasTensor](), True
    ready = None  # whether the LSTMs see this frame; always, if it is not compared with another
    for layer in chain:  # over_time: whether x has a T axis in the whole model
        if isinstance(layer, Motion):
            x, before, after, ready = _motion_step(layer, x)
            inputs, states = inputs | before, states | after
        elif over_time and isinstance(layer, layers.LSTM):
            x, before, after = _cell_step(layer, x)
            if ready is not None:
                after = {n: ops.where(ready, state, before[n]) for n, state in after.items()}
                x = ops.where(ready, x, ops.cast(before[f"{layer.name}_h"], x.dtype))
            inputs, states = inputs | before, states | after
            over_time = layer.return_sequences
        else:
            x = (_per_frame(layer) if over_time else layer)(x)
    if not any(isinstance(layer, layers.LSTM) for layer in chain):
        raise refusal(model, "has no LSTM, hence no state to carry", "Stream a cnn_lstm.")
    return keras.Model(inputs, {chain[-1].name: x, **states}, name=f"{model.name}_step")


def _members_of(model):
    """The models whose mean a model answers with, and the layers from there on; or none."""
    tail = []
    for call, _ in calls_before(model.outputs[0]) if getattr(model, "outputs", None) else ():
        tail.append(call.operation)
        if isinstance(call.operation, _MEANS):
            members = [call_of(x) for x in call.input_tensors]
            if all(_is_member(member, model) for member in members):
                return [member.operation for member in members], tail[::-1]
        if not isinstance(call.operation, _PER_FRAME):
            break
    return [], []


def _is_member(call, model):
    """Whether it is the call of a model with the inputs of the whole model."""
    inputs = set(map(id, model.inputs))
    return isinstance(call.operation, keras.Model) and inputs >= set(map(id, call.input_tensors))


def _mean_step(model, members, tail):
    """The step of several models' mean: their steps side by side, and the layers of the mean."""
    inputs: dict[str, Any] = {}
    states: dict[str, Any] = {}
    answers: list[Any] = []
    for member in members:
        step = step_model(member)
        given = {}
        for name, x in step.input.items():
            own = name if name == "frame" else f"{member.name}_{name}"
            if own not in inputs:
                inputs[own] = keras.Input(x.shape[1:], dtype=x.dtype, name=own)
            given[name] = inputs[own]
        outputs = step(given)
        (answer,) = outputs.keys() - given.keys()
        answers.append(outputs.pop(answer))
        states |= {f"{member.name}_{name}": state for name, state in outputs.items()}
    answer = functools.reduce(lambda x, layer: layer(x), tail, answers)
    return keras.Model(inputs, {tail[-1].name: answer, **states}, name=f"{model.name}_step")


def _per_frame(layer):
    """What applies a layer to a single frame; refuses layers that need several."""
    if isinstance(layer, layers.TimeDistributed):
        return layer.layer
    if isinstance(layer, _PER_FRAME):
        return layer
    if isinstance(layer, layers.BatchNormalization):  # which was built for a T axis
        return lambda x: ops.squeeze(layer(ops.expand_dims(x, 1)), 1)
    if isinstance(layer, layers.Bidirectional):
        reason = "reads the frames backwards too, so it needs the future"
        raise refusal(layer, reason, "Build the model with bidirectional=False.")
    raise refusal(
        layer,
        "sees all frames at once and may mix them",
        "If it treats each frame separately, wrap it in TimeDistributed.",
    )


def _cell_step(lstm, x):
    """One step of the LSTM's own cell: its output, its states and the next ones, `(B, units)`."""
    if lstm.go_backwards:
        reason = "reads the frames backwards, so it needs the last one first"
        raise refusal(lstm, reason, "Build it with go_backwards=False.")
    names = [f"{lstm.name}_{part}" for part in "hc"]
    before = {name: keras.Input((lstm.units,), dtype="float32", name=name) for name in names}
    # A stock RNN around the cell, since the LSTM layer does not return its state.
    step = layers.RNN(
        lstm.cell, return_state=True, unroll=True, dtype=lstm.dtype_policy, name=f"{lstm.name}_step"
    )
    output, *after = step(ops.expand_dims(x, 1), initial_state=list(before.values()))
    # Under a half policy the cell computes in half; float32 holds its numbers exactly.
    return output, before, {n: ops.cast(x, "float32") for n, x in zip(names, after, strict=True)}


def _motion_step(motion, frame):
    """The motion of one frame, its states, and whether there was a frame to compare it with.

    The states are the last frames and how many there were, `lag` at most.
    """
    lag, name = motion.lag, motion.name
    frames = keras.Input((lag, *frame.shape[1:]), dtype="float32", name=f"{name}_frames")
    count = keras.Input((1,), dtype="float32", name=f"{name}_count")
    images = motion.compared(frame, ops.cast(frames[:, 0], "uint8"))
    now = ops.cast(frame, "float32")[:, None]  # (B, 1, H, W, C)
    after = {
        frames.name: ops.concatenate([frames[:, 1:], now], axis=1),
        count.name: ops.minimum(count + 1, lag),
    }
    return images, {frames.name: frames, count.name: count}, after, count >= lag


class Stream:
    """Streams through one model, any number side by side, whose states the caller keeps.

    Args:
        model: a whole-sequence model, as `step_model` takes it.

    Attributes:
        model: the single-step model, which shares the layers of the argument.
        frame_shape: `(H, W, C)` of a frame.
        state_shapes: `(units,)` of each state of an LSTM, by name.

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

        Raises:
            ValueError: if `batch`, the number of streams, is no integer from 1 to 1,000,000.
        """
        check_integer("Stream.initial_state: `batch`", batch, 1, 1_000_000)
        return {n: np.zeros((batch, *shape), "float32") for n, shape in self.state_shapes.items()}

    def step(
        self, frame: np.ndarray, state: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], State]:
        """Reads one more frame of each stream.

        Args:
            frame: `(B, H, W, C)` uint8, the next frame of each of B streams.
            state: what `initial_state`, `step` or `reset` returned. It is not changed.

        Returns:
            The answers by name, such as `probabilities (B, num_classes) float32`, and the next
            state.

        Raises:
            ValueError: if `frame` or `state` has another shape, dtype or names.
        """
        frame = self._checked_frame("Stream.step: `frame`", frame, leading=("B",))
        state = self._checked_state("Stream.step", state, batch=len(frame), like="frame")
        # Called plainly the model would run op by op, on TensorFlow several times slower.
        outputs = self.model.predict_on_batch({"frame": frame, **state})
        state = {name: outputs.pop(name) for name in self.state_shapes}
        return outputs, state

    def reset(self, state: Mapping[str, np.ndarray], where: np.ndarray) -> State:
        """The state in which some of the streams begin again, and the others go on.

        Args:
            state: the state of B streams. It is not changed.
            where: `(B,)` boolean, `True` for the streams that begin again.

        Raises:
            ValueError: if `state` or `where` does not fit.
        """
        remedy = "Make it from the streams' indices: np.isin(np.arange(B), indices)."
        where = as_shaped("Stream.reset: `where`", where, "bool", ("B",), remedy)
        state = self._checked_state("Stream.reset", state, batch=len(where), like="where")
        again = {n: where.reshape(-1, *[1] * (value.ndim - 1)) for n, value in state.items()}
        return {n: np.where(again[n], np.float32(0), value) for n, value in state.items()}

    def _checked_frame(self, argument, frame, leading=()):
        shape = (*leading, *self.frame_shape)
        remedy = "Give raw frames of the model's size: the model rescales them."
        return as_shaped(argument, frame, self._frame_dtype, shape, remedy)

    def _checked_state(self, caller, state, *, batch, like):
        """The state as arrays, with a row for each of the `batch` streams of argument `like`."""
        received = list(state) if isinstance(state, Mapping) else type(state).__name__
        if not isinstance(state, Mapping) or set(state) != set(self.state_shapes):
            raise ValueError(
                f"{caller}: `state` must be a dict with the entries {list(self.state_shapes)}; "
                f"received {received}. Begin with initial_state({batch})."
            )
        remedy = f"Give a row for each stream of `{like}`; begin with initial_state({batch})."
        return {
            n: as_shaped(f"{caller}: `state[{n!r}]`", state[n], "float32", (batch, *shape), remedy)
            for n, shape in self.state_shapes.items()
        }


class Answer(NamedTuple):
    """The answer of a `FrameStream` after a frame."""

    step: int
    """Frames read since the start or the last reset, this one included."""

    label: str
    """Name of the likeliest class, or its index where no names were given; of a model for several
    labels the names of those over 0.5; the values as text."""

    class_id: int | None
    """Index of the likeliest class; `None` for values and for several labels."""

    probabilities: np.ndarray | None
    """`(num_classes,)` float32; `None` for values."""

    values: np.ndarray | None = None
    """`(num_values,)` float32; `None` for classes."""

    @property
    def row(self) -> np.ndarray:
        """What the model answers, `(N,)` float32: probabilities or values."""
        return next(x for x in (self.probabilities, self.values) if x is not None)


class FrameStream:
    """One live stream of frames, which keeps its state.

    Args:
        model: a whole-sequence model, as `step_model` takes it; or a `Stream` of one, which
            several live streams may share.
        class_names: names of the classes, or labels, in the order of the model's outputs. Names of
            numbers are allowed.

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
        num_classes = outputs[self._output].shape[-1]
        check_names("FrameStream: `class_names`", class_names)
        if self._output == "values" and not class_names:
            num_classes = 0
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
        """Reads the next frame, `(H, W, C)` uint8.

        Returns:
            The answer for all frames since the start or the last reset.

        Raises:
            ValueError: if `frame` has another shape or dtype; the stream stays where it was.
        """
        frame = self.stream._checked_frame("FrameStream.push: `frame`", frame)
        outputs, self._state = self.stream.step(frame[None], self._state)
        self._step += 1
        if self._output == "values":
            values = outputs["values"][0]
            return Answer(self._step, ", ".join(f"{v:.2f}" for v in values), None, None, values)
        probabilities = outputs[self._output][0]
        if self._output == "label_probabilities":
            over = [
                name for name, p in zip(self.class_names, probabilities, strict=True) if p > 0.5
            ]
            return Answer(self._step, ", ".join(over), None, probabilities)
        best = int(probabilities.argmax())
        return Answer(self._step, self.class_names[best], best, probabilities)

    def answers(self, frames: Iterable[np.ndarray]) -> Iterator[Answer]:
        """The answer after each of `frames`, `(H, W, C)` uint8 each, which it reads one by one."""
        return map(self.push, frames)

    def reset(self) -> None:
        """Forgets all frames: the next one is the first."""
        self._state = self.stream.initial_state()
        self._step = 0
