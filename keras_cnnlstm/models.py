"""The architectures: one function each, all of them plain `keras.Model`s.

Every model takes raw `uint8` frames in an input named `frames` and rescales them inside, so
that training, serving and a browser cannot disagree about the range. Frames that are lines, not
planes, are float32 and taken as they are. Heads are float32 under every precision policy. `MODELS`
maps the names that configurations use to the functions.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import keras
from keras import layers

from keras_cnnlstm.arguments import check_dropout, is_number, told
from keras_cnnlstm.blocks import (
    Head,
    answer,
    check_classes,
    check_weights,
    checked_units,
    dense_stack,
    frames_input,
    lstm_stack,
    rescaled,
    some_dropped,
    state_inputs,
)
from keras_cnnlstm.framewise import encoded, floats, frame_encoder, sequence_input
from keras_cnnlstm.layers import LengthMask
from keras_cnnlstm.scanners import crnn, renet, scan_lstm

Shape = tuple[int | None, int, int, int] | tuple[int | None, int, int]  # (T, H, W, C), (T, L, C)


def cnn_lstm(
    input_shape: Shape = (4, 28, 28, 1),
    num_classes: int = 7,
    *,
    encoder: str | keras.Layer = "conv_pool",
    lstm_units: Sequence[int] = (128,),
    bidirectional: bool = False,
    dropout: float = 0.0,
    wrap: Literal["layer", "encoder"] = "layer",
    per_step: bool = False,
    head: Head = "probabilities",
    scale: float = 1.0,
    lengths: bool = False,
    initial_state: bool = False,
    return_state: bool = False,
    stateful: bool = False,
    batch_size: int | None = None,
    name: str = "cnn_lstm",
) -> keras.Model:
    """A CNN that looks at each frame, and LSTMs that read the frames in order.

    With the defaults, the reference architecture: Conv 3x3x32, max-pool 2, Conv 3x3x64,
    max-pool 2, Flatten, LSTM 128, last step, Dense; 1,691,399 parameters. The family is that
    of Donahue et al., "Long-term Recurrent Convolutional Networks for Visual Recognition and
    Description", CVPR 2015, section 3.

    Sequences of lines, such as windows of a signal, of audio, or of embedded text, are read by an
    encoder of lines: `cnn_lstm((T, L, C), encoder="conv1d")`. Their frames are float32 numbers
    which no layer rescales; small ones, as in [-1, 1], learn best.

    Args:
        input_shape: `(T, H, W, C)` of a sequence; T may be `None` for any number of frames.
            `(T, L, C)` for lines of L samples.
        num_classes: size of the answer: classes, or values.
        encoder: frame -> vector, a name in `encoders.ENCODERS` or any Keras layer or model
            that takes `(B, H, W, C)` floats in [0, 1], or lines `(B, L, C)`.
        lstm_units: units of each LSTM layer, first to last.
        bidirectional: read the frames in both directions (doubles an LSTM layer's outputs).
        dropout: share of the encoder's vectors and of the outputs of each LSTM layer that is
            dropped in training, 0 to 1.
        wrap: where time is distributed. "layer" wraps each layer of a `keras.Sequential`
            encoder by itself, so that all of them show in `summary()`; "encoder" wraps the
            encoder as one. Weights and answers are the same, and `set_weights` moves them
            from one spelling to the other. With `lengths`, batch normalisation must leave the
            padding out and is told so layer by layer: inside of an encoder wrapped as one, or of
            a model in it, it must be frozen (`trainable=False`), as in a pretrained one.
        per_step: answer at each step, from the frames so far (with `bidirectional`, from all),
            instead of once at the end.
        head: "probabilities" of classes, or "values", for regression.
        scale: what values are multiplied by at the end. About as large as they are, it speeds up
            the learning: the running sum of 8 digits, given as vectors, was off by 0.70 after 2,000
            batches with 1, and by 0.11 with 10 (root-mean-square, training).
        lengths: sequences of unequal length, padded at the end: a second input `lengths (B,)
            int32`, 1 to T, says how many frames of each count. The padding changes no answer;
            answers of steps after the end mean nothing.
        initial_state: further inputs `lstm1_h`, `lstm1_c`, ... `(B, units)` float32, with which
            the LSTMs begin; see `blocks.lstm_stack` for the names in several layers.
        return_state: answer with a dict, the states after the last frame beside the answer.
        stateful: keep the states from batch to batch; `blocks.reset_states` clears them.
        batch_size: B, if it is to be fixed, as `stateful` needs it.
        name: the model's name.

    Returns:
        A model from `frames (B, T, H, W, C) uint8`, or `(B, T, L, C) float32`, to
        `probabilities (B, num_classes) float32`, or `(B, T, num_classes)` with `per_step`; with
        another head to `values`. It takes a dict by name where it has several inputs.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> cnn_lstm().count_params()
    1691399
    """
    check_classes("cnn_lstm", num_classes, head)
    lstm_units = checked_units("cnn_lstm", lstm_units, "lstm_units")
    if not is_number(scale, -1e30, 1e30):
        raise ValueError(f"cnn_lstm: `scale` must be a finite number; received {told(scale)}.")
    check_dropout("cnn_lstm", dropout)
    encoder = frame_encoder(encoder)
    frames = sequence_input("cnn_lstm", input_shape, encoder, batch_size)
    inputs = {"frames": frames}
    mask = None
    if lengths:
        inputs["lengths"] = keras.Input((), batch_size, dtype="int32", name="lengths")
        mask = LengthMask(name="mask")(inputs["lengths"], frames)  # (B, T)
    x = encoded(frames, encoder, wrap, mask)  # (B, T, features)
    x = some_dropped(x, dropout)
    before = None
    if initial_state:
        before = state_inputs(lstm_units, bidirectional=bidirectional, batch_size=batch_size)
        inputs |= before
    x = lstm_stack(
        x,
        lstm_units,
        bidirectional=bidirectional,
        dropout=dropout,
        return_sequences=per_step,
        return_state=return_state,
        initial_state=before,
        stateful=stateful,
        mask=mask,
    )
    x, states = x if return_state else (x, {})
    x = answer(x, num_classes, head, scale=scale)
    return keras.Model(
        inputs if len(inputs) > 1 else frames, {head: x, **states} if return_state else x, name=name
    )


def bag_of_frames(
    input_shape: Shape = (4, 28, 28, 1),
    num_classes: int = 7,
    *,
    encoder: str | keras.Layer = "conv_pool",
    dropout: float = 0.0,
    lengths: bool = False,
    name: str = "bag_of_frames",
) -> keras.Model:
    """The baseline that sees all frames, but not their order: the mean of what each one says.

    The same CNN as in `cnn_lstm` and a classifier for each frame, whose probabilities are
    averaged: the single-frame model of Donahue et al., CVPR 2015, section 4. What it gets right
    needs no model of time.

    Args:
        input_shape: `(T, H, W, C)` of a sequence, or `(T, L, C)` of lines; T may be `None`.
        num_classes: size of the answer.
        encoder: frame -> vector, as in `cnn_lstm`.
        dropout: share of the encoder's vectors dropped in training, 0 to 1.
        lengths: sequences of unequal length, as in `cnn_lstm`; the mean is over those that count.
        name: the model's name.

    Returns:
        A model from `frames (B, T, H, W, C) uint8`, or `(B, T, L, C) float32`, and perhaps
        `lengths (B,) int32`, to class probabilities `(B, num_classes) float32`.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_classes("bag_of_frames", num_classes)
    check_dropout("bag_of_frames", dropout)
    encoder = frame_encoder(encoder)
    frames = sequence_input("bag_of_frames", input_shape, encoder)
    inputs = {"frames": frames}
    mask = None
    if lengths:
        inputs["lengths"] = keras.Input((), dtype="int32", name="lengths")
        mask = LengthMask(name="mask")(inputs["lengths"], frames)  # (B, T)
    x = encoded(frames, encoder, "layer", mask)  # (B, T, features)
    x = some_dropped(x, dropout)
    check_weights("bag_of_frames", "num_classes", x.shape[-1], num_classes)
    x = layers.Dense(int(num_classes), "softmax", dtype="float32", name="each_frame")(x)
    x = layers.GlobalAveragePooling1D(dtype="float32", name="probabilities")(x, mask=mask)
    return keras.Model(inputs if lengths else frames, x, name=name)


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
    frames = _all_frames("flat_mlp", input_shape, num_classes, dropout)
    x = layers.Flatten(name="flatten")(rescaled(frames))  # (B, T*H*W*C)
    x = dense_stack(x, checked_units("flat_mlp", units), dropout)
    return keras.Model(frames, answer(x, num_classes), name=name)


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
        input_shape: `(T, H, W, C)` of a sequence, or `(T, L, C)` of lines; T must be known.
        num_classes: size of the answer.
        encoder: image -> vector, as in `cnn_lstm`; it must take `T*C` channels.
        units: width of each hidden layer (ReLU).
        dropout: share of each hidden layer's outputs dropped in training, 0 to 1.
        name: the model's name.

    Returns:
        A model from `frames (B, T, H, W, C) uint8`, or `(B, T, L, C) float32`, to class
        probabilities `(B, num_classes) float32`.

    Raises:
        ValueError: if an argument is out of range.
    """
    encoder = frame_encoder(encoder)
    frames = _all_frames("channel_cnn", input_shape, num_classes, dropout, encoder)
    _, time, *sides, channels = frames.shape
    order = (*range(2, 2 + len(sides)), 1, 2 + len(sides))
    x = layers.Permute(order, name="time_to_channels")(floats(frames))  # (B, H, W, T, C)
    x = layers.Reshape((*sides, time * channels), name="merge_channels")(x)
    x = encoder(x)  # (B, features)
    x = dense_stack(x, checked_units("channel_cnn", units), dropout)
    return keras.Model(frames, answer(x, num_classes), name=name)


def image_cnn(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    *,
    encoder: str | keras.Layer = "conv_pool",
    dropout: float = 0.0,
    name: str = "image_cnn",
) -> keras.Model:
    """The baseline of a scan: a CNN that sees the whole image at once, and no LSTM.

    The same CNN as in `cnn_lstm` and a classifier; trained, it can read the frames of sequences
    (`readers.mean_reader`).

    Args:
        input_shape: `(H, W, C)` of an image.
        num_classes: size of the answer.
        encoder: image -> vector, as in `cnn_lstm`.
        dropout: share of the encoder's vectors dropped in training, 0 to 1.
        name: the model's name.

    Returns:
        A model from `frames (B, H, W, C) uint8` to class probabilities `(B, num_classes) float32`.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_classes("image_cnn", num_classes)
    check_dropout("image_cnn", dropout)
    frames = frames_input("image_cnn", input_shape, "HWC")
    x = frame_encoder(encoder)(rescaled(frames))  # (B, features)
    x = some_dropped(x, dropout)
    return keras.Model(frames, answer(x, num_classes), name=name)


MODELS: dict[str, Callable[..., keras.Model]] = {
    "cnn_lstm": cnn_lstm,
    "bag_of_frames": bag_of_frames,
    "flat_mlp": flat_mlp,
    "channel_cnn": channel_cnn,
    "image_cnn": image_cnn,
    "scan_lstm": scan_lstm,
    "renet": renet,
    "crnn": crnn,
}
"""Architectures by name, as `TrainConfig.model` and `--model` take them."""


def _all_frames(model, input_shape, num_classes, dropout, encoder=None):
    """The input of a model that has a weight for each frame; of images where it has no encoder."""
    check_classes(model, num_classes)
    check_dropout(model, dropout)
    if encoder is None:
        frames = frames_input(model, input_shape, "THWC")
    else:
        frames = sequence_input(model, input_shape, encoder)
    if frames.shape[1] is None:
        raise ValueError(
            f"{model}: `input_shape` must have a known T, since the layers after it have a weight "
            f"for each frame; received {tuple(input_shape)}. Use cnn_lstm for any length."
        )
    return frames
