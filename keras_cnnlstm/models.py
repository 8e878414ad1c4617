"""The architectures: one function each, all of them plain `keras.Model`s.

Every model takes raw `uint8` frames in an input named `frames` and rescales them inside, so
that training, serving and a browser cannot disagree about the range. Heads are float32 under
every precision policy. `MODELS` maps the names that configurations use to the functions.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import keras
from keras import layers

from keras_cnnlstm.encoders import ENCODERS
from keras_cnnlstm.layers import LSTM, TimeDistributed

Shape = tuple[int | None, int, int, int]  # (T, H, W, C)


def cnn_lstm(
    input_shape: Shape = (4, 28, 28, 1),
    num_classes: int = 7,
    *,
    encoder: str | keras.Layer = "conv_pool",
    lstm_units: Sequence[int] = (128,),
    bidirectional: bool = False,
    dropout: float = 0.0,
    wrap: Literal["layer", "encoder"] = "layer",
    name: str = "cnn_lstm",
) -> keras.Model:
    """A CNN that looks at each frame, and LSTMs that read the frames in order.

    With the defaults, the reference architecture: Conv 3x3x32, max-pool 2, Conv 3x3x64,
    max-pool 2, Flatten, LSTM 128, last step, Dense; 1,691,399 parameters. The family is that
    of Donahue et al., "Long-term Recurrent Convolutional Networks for Visual Recognition and
    Description", CVPR 2015, section 3.

    Args:
        input_shape: `(T, H, W, C)` of a sequence; T may be `None` for any number of frames.
        num_classes: size of the answer.
        encoder: frame -> vector, a name in `encoders.ENCODERS` or any Keras layer or model
            that takes `(B, H, W, C)` floats in [0, 1].
        lstm_units: units of each LSTM layer, first to last.
        bidirectional: read the frames in both directions (doubles an LSTM layer's outputs).
        dropout: share of the outputs of each LSTM layer that is dropped in training, 0 to 1.
        wrap: where time is distributed. "layer" wraps each layer of a `keras.Sequential`
            encoder by itself, so that all of them show in `summary()`; "encoder" wraps the
            encoder as one. Weights and answers are the same, and `set_weights` moves them
            from one spelling to the other.
        name: the model's name.

    Returns:
        A model from `frames (B, T, H, W, C) uint8` to class probabilities
        `(B, num_classes) float32`.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> cnn_lstm().count_params()
    1691399
    """
    lstm_units = _checked_units("cnn_lstm", lstm_units)
    _check_dropout("cnn_lstm", dropout)
    frames, x = _inputs("cnn_lstm", input_shape, num_classes)  # (B, T, H, W, C)
    for layer in _time_distributed(encoder, wrap):
        x = layer(x)
    if len(x.shape) != 3 or x.shape[-1] is None:
        raise ValueError(
            "cnn_lstm: `encoder` must turn each frame into one vector of known size; received one "
            f"whose outputs have shape {tuple(x.shape[2:])} per frame. End it with a Flatten or "
            "GlobalAveragePooling2D layer."
        )
    for i, units in enumerate(lstm_units, start=1):  # x: (B, T, features)
        last = i == len(lstm_units)
        lstm = LSTM(
            units, return_sequences=not last, unroll=_is_short(input_shape), name=f"lstm{i}"
        )
        x = (layers.Bidirectional(lstm, name=f"bidirectional{i}") if bidirectional else lstm)(x)
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout{i}")(x)
    return keras.Model(frames, _probabilities(x, num_classes), name=name)


def flat_mlp(
    input_shape: Shape = (4, 28, 28, 1),
    num_classes: int = 7,
    *,
    units: Sequence[int] = (512, 128),
    dropout: float = 0.0,
    name: str = "flat_mlp",
) -> keras.Model:
    """The baseline that knows neither time nor space: all pixels as one vector.

    Four frames of 28x28 become 3,136 numbers, read by fully connected layers. With the
    defaults about as many parameters as the reference `cnn_lstm`.

    Args:
        input_shape: `(T, H, W, C)` of a sequence; T must be known.
        num_classes: size of the answer.
        units: width of each hidden layer (ReLU).
        dropout: share of each hidden layer's outputs dropped in training, 0 to 1.
        name: the model's name.

    Returns:
        A model from `frames (B, T, H, W, C) uint8` to class probabilities
        `(B, num_classes) float32`.

    Raises:
        ValueError: if an argument is out of range.
    """
    _fixed_length("flat_mlp", input_shape)
    _check_dropout("flat_mlp", dropout)
    frames, x = _inputs("flat_mlp", input_shape, num_classes)
    x = layers.Flatten(name="flatten")(x)  # (B, T*H*W*C)
    x = _dense_stack(x, _checked_units("flat_mlp", units), dropout)
    return keras.Model(frames, _probabilities(x, num_classes), name=name)


def channel_cnn(
    input_shape: Shape = (4, 28, 28, 1),
    num_classes: int = 7,
    *,
    encoder: str | keras.Layer = "conv_pool",
    units: Sequence[int] = (512,),
    dropout: float = 0.0,
    name: str = "channel_cnn",
) -> keras.Model:
    """The baseline that knows space but not time: the frames as channels of one image.

    The same CNN as the reference `cnn_lstm`, but its first convolution sees all frames at
    once, `(H, W, T*C)`, and fully connected layers take the LSTM's place. With the defaults about
    as many parameters.

    Args:
        input_shape: `(T, H, W, C)` of a sequence; T must be known.
        num_classes: size of the answer.
        encoder: image -> vector, as in `cnn_lstm`; it must take `T*C` channels.
        units: width of each hidden layer (ReLU).
        dropout: share of each hidden layer's outputs dropped in training, 0 to 1.
        name: the model's name.

    Returns:
        A model from `frames (B, T, H, W, C) uint8` to class probabilities
        `(B, num_classes) float32`.

    Raises:
        ValueError: if an argument is out of range.
    """
    time = _fixed_length("channel_cnn", input_shape)
    _check_dropout("channel_cnn", dropout)
    frames, x = _inputs("channel_cnn", input_shape, num_classes)
    height, width, channels = input_shape[1:]
    x = layers.Permute((2, 3, 1, 4), name="time_to_channels")(x)  # (B, H, W, T, C)
    x = layers.Reshape((height, width, time * channels), name="merge_channels")(x)
    x = _encoder(encoder)(x)  # (B, features)
    x = _dense_stack(x, _checked_units("channel_cnn", units), dropout)
    return keras.Model(frames, _probabilities(x, num_classes), name=name)


MODELS: dict[str, Callable[..., keras.Model]] = {
    "cnn_lstm": cnn_lstm,
    "flat_mlp": flat_mlp,
    "channel_cnn": channel_cnn,
}
"""Architectures by name, as `TrainConfig.model` and `--model` take them."""


def _inputs(model, input_shape, num_classes):
    """The raw input, and the same frames as floats in [0, 1]."""
    sizes = tuple(input_shape)
    if len(sizes) != 4 or any(s is not None and s < 1 for s in sizes) or None in sizes[1:]:
        raise ValueError(
            f"{model}: `input_shape` must be (T, H, W, C), positive, only T possibly None; "
            f"received {sizes}. Grey frames need their channel axis: (4, 28, 28) is "
            "(4, 28, 28, 1)."
        )
    if num_classes < 2:
        raise ValueError(f"{model}: `num_classes` must be 2 or more; received {num_classes}.")
    frames = keras.Input(sizes, dtype="uint8", name="frames")
    # float32 by hand: under a half policy the layer would turn the pixels into half too.
    return frames, layers.Rescaling(1 / 255, dtype="float32", name="rescale")(frames)


def _encoder(encoder):
    if not isinstance(encoder, str):
        return encoder
    if encoder not in ENCODERS:
        raise ValueError(
            f"`encoder` must be one of {sorted(ENCODERS)} or a Keras layer; received {encoder!r}."
        )
    return ENCODERS[encoder]()


def _time_distributed(encoder, wrap):
    """The wrapped layers that apply `encoder` to each frame, in order."""
    encoder = _encoder(encoder)
    if wrap == "layer" and isinstance(encoder, keras.Sequential):
        return [TimeDistributed(layer, name=layer.name) for layer in encoder.layers]
    if wrap in ("layer", "encoder"):
        return [TimeDistributed(encoder, name="encoder")]
    raise ValueError(f"cnn_lstm: `wrap` must be 'layer' or 'encoder'; received {wrap!r}.")


def _is_short(input_shape):
    """Whether LSTM steps are unrolled, which pays as long as they are few.

    It needs a known T, and switches cuDNN off, which gains little on so few steps.
    """
    return input_shape[0] is not None and input_shape[0] <= 8


def _dense_stack(x, units, dropout):
    for i, width in enumerate(units, start=1):
        x = layers.Dense(width, activation="relu", name=f"dense{i}")(x)
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout{i}")(x)
    return x


def _probabilities(x, num_classes):
    return layers.Dense(num_classes, "softmax", dtype="float32", name="probabilities")(x)


def _checked_units(model, units):
    units = tuple(units)
    if not units or any(u < 1 for u in units):
        raise ValueError(
            f"{model}: units must be one or more positive numbers, one for each layer; received "
            f"{units}."
        )
    return units


def _check_dropout(model, dropout):
    if not 0 <= dropout < 1:
        raise ValueError(f"{model}: `dropout` must be in [0, 1); received {dropout}.")


def _fixed_length(model, input_shape):
    if input_shape[0] is None:
        raise ValueError(
            f"{model}: `input_shape` must have a known T, since the layers after it have a weight "
            f"for each frame; received {tuple(input_shape)}. Use cnn_lstm for any length."
        )
    return input_shape[0]
