"""What the architectures are made of: the raw input, the stack of LSTMs, the head.

The functions here add ordinary Keras layers, under the names that `summary()` shows, to a
functional model. They know nothing of encoders, tasks or data.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
from keras import layers, ops

from keras_cnnlstm.layers.lstm import LSTM
from keras_cnnlstm.utils.validation import (
    check_choice,
    check_dropout,
    check_integer,
    is_integer,
    is_number,
    short_repr,
)

Shape = tuple[int | None, int, int, int] | tuple[int | None, int, int]  # (T, H, W, C), (T, L, C)
Head = Literal["probabilities", "multi_label", "regression"]
HEADS: dict[Head, str] = {
    "probabilities": "probabilities",
    "multi_label": "label_probabilities",
    "regression": "values",
}
"""Names of the output, by head."""

Numbers = float | Sequence[float]  # one for all numbers of an answer, or one for each

States = dict[str, keras.KerasTensor]

_MOST = 2**31  # numbers in a weight, or in the frames of an example
_CHANNELS = 65_536
_WIDEST = 1_000_000  # units of a layer, classes of an answer
_SHORT = 8  # steps up to which an unrolled loop is faster, and cuDNN gains little


def lstm_stack(
    x: keras.KerasTensor,
    units: Sequence[int],
    *,
    bidirectional: bool = False,
    dropout: float = 0.0,
    return_sequences: bool = False,
    return_state: bool = False,
    initial_state: Mapping[str, keras.KerasTensor] | None = None,
    stateful: bool = False,
    mask: keras.KerasTensor | None = None,
) -> Any:
    """Several LSTM layers on top of each other: `torch.nn.LSTM` in Keras.

    | `torch.nn.LSTM`                     | here                                              |
    |-------------------------------------|---------------------------------------------------|
    | `input_size=F`                      | taken from `x`                                    |
    | `hidden_size=H, num_layers=L`       | `units=(H,) * L`; sizes may differ                |
    | `bidirectional=True`                | `bidirectional=True`                              |
    | `dropout=p`, between the layers     | `dropout=p`, after the last layer too             |
    | `batch_first=True`                  | always                                            |
    | `output` `(B, T, D*H)`              | `return_sequences=True`: `(B, T, D*H)`            |
    | `output[:, -1]`                     | `return_sequences=False`, one direction           |
    | `torch.cat([h_n[-2], h_n[-1]], 1)`  | `return_sequences=False`, two directions          |
    | `(h_0, c_0)`, each `(L*D, B, H)`    | `initial_state`, a dict of L*D*2 `(B, H)`         |
    | `(h_n, c_n)`, each `(L*D, B, H)`    | `return_state=True`, a dict of L*D*2 `(B, H)`     |
    | `(h_n, c_n)` given to the next call | the same; or `stateful=True`, kept in the layers  |
    | `pack_padded_sequence(x, lengths)`  | `mask`, from `layers.LengthMask`                  |
    | `weight_ih_l0` `(4*H, F)`           | `lstm1` kernel `(F, 4*H)`                         |
    | `weight_hh_l0` `(4*H, H)`           | `lstm1` recurrent kernel `(H, 4*H)`               |
    | `bias_ih_l0 + bias_hh_l0` `(4*H,)`  | `lstm1` bias `(4*H,)`                             |
    | `weight_ih_l0_reverse`, ...         | the backward layer of `bidirectional1`            |

    D is the number of directions, 1 or 2. From the second layer on F is D*H of the one below. Both
    pack the four gates in the order input, forget, cell, output: gate k has the columns `k*H` to
    `(k+1)*H` of a kernel. `proj_size` has no counterpart. In `output[:, -1]` of a bidirectional
    PyTorch LSTM the backward half has read one step; here both halves have read all.

    The layers are named `lstm1`, `lstm2`, ...; `bidirectional1`, ... around them, `dropout1`, ...
    after them. The states of layer 1 are `lstm1_h` and `lstm1_c`, in two directions also
    `lstm1_backward_h` and `lstm1_backward_c`. Layers over a known T of 8 or less are unrolled.

    Args:
        x: `(B, T, F)`.
        units: H of each layer, first to last.
        bidirectional: read in both directions and join the outputs.
        dropout: share of each layer's outputs dropped in training, 0 to below 1.
        return_sequences: outputs of all steps, not of the last one only.
        return_state: also return the final states.
        initial_state: the first states by name, `(B, H)` each; by default zeros.
        stateful: sequence b starts from the final state of sequence b of the batch before. B must
            be known; `reset_states` sets the states to zero.
        mask: `(B, T)` boolean, `False` at the padding after each sequence.

    Returns:
        `(B, D*H)`, or `(B, T, D*H)` with `return_sequences`; with `return_state` a pair of that
        and the dict of final states.

    Raises:
        ValueError: if the arguments do not fit together.

    Example:

    >>> steps = keras.Input((28, 28))
    >>> x, states = lstm_stack(steps, (100, 50), bidirectional=True, return_state=True)
    >>> x.shape, sorted(states)[:4], states["lstm2_h"].shape
    ((None, 100), ['lstm1_backward_c', 'lstm1_backward_h', 'lstm1_c', 'lstm1_h'], (None, 50))
    """
    units = checked_units("lstm_stack", units)
    check_dropout("lstm_stack", dropout)
    _check_states(x, units, bidirectional, stateful, return_state, initial_state)
    states: States = {}
    for i, width in enumerate(units, start=1):  # x: (B, T, features)
        check_weights("lstm_stack", "units", x.shape[-1] + width, 4 * width)
        layer = LSTM(
            width,
            return_sequences=return_sequences or i < len(units),
            return_state=return_state,
            stateful=stateful,
            unroll=x.shape[1] is not None and x.shape[1] <= _SHORT,
            name=f"lstm{i}",
        )
        names = state_names(i, bidirectional)
        given = [initial_state[name] for name in names] if initial_state else None
        wrapped = layers.Bidirectional(layer, name=f"bidirectional{i}") if bidirectional else layer
        outputs = wrapped(x, mask=mask, initial_state=given)
        if return_state:
            x, *after = outputs
            # Under a half policy the cell computes in half; float32 holds its numbers exactly.
            states |= {n: ops.cast(s, "float32") for n, s in zip(names, after, strict=True)}
        else:
            x = outputs
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout{i}")(x)
    return (x, states) if return_state else x


def state_names(layer: int, bidirectional: bool = False) -> list[str]:
    """Names of the states of a layer, numbered from 1, in Keras's order."""
    directions = ("", "_backward") if bidirectional else ("",)
    return [f"lstm{layer}{direction}_{part}" for direction in directions for part in "hc"]


def state_inputs(
    units: Sequence[int], *, bidirectional: bool = False, batch_size: int | None = None
) -> States:
    """An input `(B, H)` float32 for each state of a stack, by name."""
    return {
        name: keras.Input((width,), batch_size, dtype="float32", name=name)
        for i, width in enumerate(units, start=1)
        for name in state_names(i, bidirectional)
    }


def reset_states(model: keras.Model) -> None:
    """Sets the states of a model built with `stateful=True` to zero."""
    stateful = [layer for layer in model.layers if getattr(layer, "stateful", False)]
    if not stateful:
        raise ValueError(
            f"reset_states: `model` must have stateful layers; {model.name!r} has none. Build it "
            "with stateful=True."
        )
    for layer in stateful:
        layer.reset_states()


def frames_input(
    model: str,
    shape: Sequence[int | None],
    axes: str,
    batch_size: int | None = None,
    *,
    remedy: str = "",
) -> keras.KerasTensor:
    """The raw input of every model, named `frames`.

    `axes` names the sizes of `shape`: "THWC" for a sequence of images, of which T may be `None`,
    and "HWC" for one image, both uint8; "TLC" for a sequence of lines (windows of a signal,
    embedded text), float32. `model` and `remedy` are for the error.
    """
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            f"{model}: frames have their channels last, and so must Keras's layers; "
            "image_data_format is channels_first. Call "
            'keras.config.set_image_data_format("channels_last").'
        )
    sizes = tuple(shape) if isinstance(shape, list | tuple) else ()
    sequence = axes.startswith("T")
    known = sizes[1:] if sequence and sizes[:1] == (None,) else sizes
    if len(sizes) != len(axes) or not all(is_integer(size, 1) for size in known):
        example = "Grey images need their channel axis: (28, 28) is (28, 28, 1)."
        if axes == "TLC":
            example = "A line of one channel needs its axis: (400,) is (400, 1)."
        raise ValueError(
            f"{model}: `input_shape` must be ({', '.join(axes)}), positive, "
            f"{'only T possibly None' if sequence else 'all known'}; received "
            f"{short_repr(shape)}. {example} {remedy}".rstrip()
        )
    if math.prod(map(int, known)) > _MOST or known[-1] > _CHANNELS:
        raise ValueError(
            f"{model}: `input_shape` must be of {_MOST:,} numbers and {_CHANNELS:,} channels at "
            f"most; received {short_repr(shape)}."
        )
    if batch_size is not None:
        check_integer(f"{model}: `batch_size`", batch_size, 1, 1_000_000)
    dtype = "float32" if axes == "TLC" else "uint8"
    sizes = tuple(size if size is None else int(size) for size in sizes)
    return keras.Input(sizes, batch_size, dtype=dtype, name="frames")


def rescaled(frames: keras.KerasTensor, low: float = 0.0, high: float = 1.0) -> keras.KerasTensor:
    """Raw pixels, 0 to 255, as float32 numbers from `low` to `high`, under every policy."""
    return layers.Rescaling((high - low) / 255, low, dtype="float32", name="rescale")(frames)


def some_dropped(features: keras.KerasTensor, dropout: float) -> keras.KerasTensor:
    """The vectors of an encoder, with a Dropout layer if `dropout` is not 0."""
    return layers.Dropout(dropout, name="features_dropout")(features) if dropout else features


def dense_stack(
    x: keras.KerasTensor, units: Sequence[int], dropout: float, *, option: str = "units"
) -> keras.KerasTensor:
    """Fully connected layers with ReLU, `dense1`, `dense2`, ..., each with its dropout.

    `option` is the name of the caller's argument for the units, for errors.
    """
    for i, width in enumerate(units, start=1):
        check_weights("dense_stack", option, x.shape[-1], width)
        x = layers.Dense(width, activation="relu", name=f"dense{i}")(x)
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout{i}")(x)
    return x


def answer(
    x: keras.KerasTensor,
    num_classes: int,
    head: Head = "probabilities",
    *,
    scale: Numbers = 1.0,
    offset: Numbers = 0.0,
) -> keras.KerasTensor:
    """From `(..., features)` to the answer `(..., num_classes)`, float32 under every policy.

    The last layer is named as `HEADS` says. The numbers of a regression are multiplied by `scale`,
    and `offset` is added: a number for all of them, or one for each.
    """
    if head != "regression":
        activation = "softmax" if head == "probabilities" else "sigmoid"
        return dense_float32(x, num_classes, activation, name=HEADS[head])
    if (scale, offset) == (1.0, 0.0):
        return dense_float32(x, num_classes, name=HEADS[head])
    x = dense_float32(x, num_classes, name="unscaled")
    if not isinstance(scale, int | float):
        scale = list(scale)
    if not isinstance(offset, int | float):
        offset = list(offset)
    return layers.Rescaling(scale, offset, dtype="float32", name=HEADS[head])(x)


def check_scale(model: str, argument: str, value: Any, num_classes: int) -> None:
    """Refuses what is neither a finite number nor a list of one for each number of the answer."""
    several = isinstance(value, list | tuple)
    fits = len(value) == num_classes if several else True
    if not fits or not all(is_number(one, -1e30, 1e30) for one in (value if several else [value])):
        raise ValueError(
            f"{model}: `{argument}` must be a finite number, or {num_classes} of them; received "
            f"{short_repr(value)}."
        )


def dense_float32(
    x: keras.KerasTensor, num_classes: int, activation: str | None = None, *, name: str
) -> keras.KerasTensor:
    """A fully connected layer for an answer, float32 under every precision policy."""
    check_weights("answer", "num_classes", x.shape[-1], num_classes)
    return layers.Dense(int(num_classes), activation, dtype="float32", name=name)(x)


def check_classes(model: str, num_classes: int, head: Head = "probabilities") -> None:
    """Refuses a head that there is not, and a size that it cannot have."""
    check_choice(f"{model}: `head`", head, HEADS)
    least = 2 if head == "probabilities" else 1
    check_integer(f"{model}: `num_classes`", num_classes, least, _WIDEST)


def check_weights(function: str, argument: str, rows: int, columns: int) -> None:
    """Refuses a weight of more numbers than any machine here could train, before it is made."""
    if rows * columns > _MOST:
        raise ValueError(
            f"{function}: `{argument}` must give a layer {_MOST:,} weights at most; received "
            f"{rows} x {columns} of them. Take fewer, or smaller frames."
        )


def checked_units(model: str, units: Sequence[int], argument: str = "units") -> tuple[int, ...]:
    """The widths of layers as a tuple; refuses none, and widths out of range."""
    given = units if isinstance(units, list | tuple) else ()
    if not given or not all(is_integer(width, 1, _WIDEST) for width in given):
        raise ValueError(
            f"{model}: units must be one or more positive numbers, one for each layer of "
            f"`{argument}`, {_WIDEST:,} at most; received {short_repr(units)}."
        )
    return tuple(map(int, given))


def _check_states(x, units, bidirectional, stateful, return_state, initial_state):
    if stateful and x.shape[0] is None:
        raise ValueError(
            "lstm_stack: `stateful` needs a known batch size, since a state is kept for each "
            f"sequence; received `x` of shape {tuple(x.shape)}. Give the input a `batch_size`."
        )
    if stateful and initial_state:
        raise ValueError(
            "lstm_stack: `stateful` keeps the states and `initial_state` gives them; received "
            "both. Choose one."
        )
    if stateful and return_state and bidirectional:
        raise ValueError(
            "lstm_stack: `stateful` with `return_state` in two directions fails in Keras 3.15; "
            "received all three. Use return_state with initial_state, or one direction."
        )
    names = [n for i in range(1, len(units) + 1) for n in state_names(i, bidirectional)]
    if initial_state is None:
        return
    if not isinstance(initial_state, Mapping) or set(initial_state) != set(names):
        received = list(initial_state) if isinstance(initial_state, Mapping) else initial_state
        raise ValueError(
            f"lstm_stack: `initial_state` must be a dict with the entries {names}; received "
            f"{short_repr(received)}."
        )
