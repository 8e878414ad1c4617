"""Models without an LSTM, to compare a CNN-LSTM with."""

from collections.abc import Sequence
from typing import Literal

import keras
from keras import layers

from keras_cnnlstm.layers.frames_model import FramesModel
from keras_cnnlstm.layers.length_mask import LengthMask
from keras_cnnlstm.models import blocks
from keras_cnnlstm.models.frame_encoder import (
    encoded,
    encoded_image,
    floats,
    frame_encoder,
    sequence_input,
    with_motion,
)
from keras_cnnlstm.utils.validation import check_dropout


def bag_of_frames(
    input_shape: blocks.Shape = (4, 28, 28, 1),
    num_classes: int = 7,
    *,
    encoder: str | keras.Layer = "conv_pool",
    motion: Literal["none", "difference", "both"] = "none",
    motion_lag: int = 1,
    dropout: float = 0.0,
    lengths: bool = False,
    name: str = "bag_of_frames",
) -> keras.Model:
    """The baseline that sees all frames, but not their order.

    The CNN of `cnn_lstm` and a classifier for each frame, whose probabilities are averaged: the
    single-frame model of Donahue et al., CVPR 2015, section 4.

    Args:
        input_shape: `(T, H, W, C)` of a sequence, or `(T, L, C)` of lines; T may be `None`.
        num_classes: size of the answer.
        encoder: frame -> vector, as in `cnn_lstm`.
        motion: what the encoder reads, as in `cnn_lstm`.
        motion_lag: steps between the frames that are compared.
        dropout: share of the encoder's vectors dropped in training, 0 to below 1.
        lengths: sequences of unequal length, as in `cnn_lstm`; padding is left out of the mean.
        name: the model's name.

    Returns:
        A model from `frames (B, T, H, W, C) uint8`, or `(B, T, L, C) float32`, and perhaps
        `lengths (B,) int32`, to class probabilities `(B, num_classes) float32`.

    Raises:
        ValueError: if an argument is out of range.
    """
    blocks.check_classes("bag_of_frames", num_classes)
    check_dropout("bag_of_frames", dropout)
    encoder = frame_encoder(encoder)
    frames = sequence_input("bag_of_frames", input_shape, encoder)
    inputs = {"frames": frames}
    images, encoder, skip = with_motion(frames, encoder, motion, motion_lag)
    mask = None
    if lengths:
        inputs["lengths"] = keras.Input((), dtype="int32", name="lengths")
        mask = LengthMask(skip, name="mask")(inputs["lengths"], images)  # (B, T)
    x = encoded(images, encoder, "layer", mask)  # (B, T, features)
    x = blocks.some_dropped(x, dropout)
    x = blocks.dense_float32(x, num_classes, "softmax", name="each_frame")
    x = layers.GlobalAveragePooling1D(dtype="float32", name="probabilities")(x, mask=mask)
    return FramesModel(inputs if lengths else frames, x, name=name)


def flat_mlp(
    input_shape: blocks.Shape = (4, 28, 28, 1),
    num_classes: int = 7,
    *,
    units: Sequence[int] = (512, 128),
    dropout: float = 0.0,
    name: str = "flat_mlp",
) -> keras.Model:
    """The baseline that knows neither time nor space: all pixels as one vector.

    Fully connected layers; with the defaults about as many parameters as `cnn_lstm`.

    Args:
        input_shape: `(T, H, W, C)` of a sequence; T must be known.
        num_classes: size of the answer.
        units: width of each hidden layer (ReLU).
        dropout: share of each hidden layer's outputs dropped in training, 0 to below 1.
        name: the model's name.

    Returns:
        A model from `frames (B, T, H, W, C) uint8` to class probabilities
        `(B, num_classes) float32`.

    Raises:
        ValueError: if an argument is out of range.
    """
    frames = _all_frames("flat_mlp", input_shape, num_classes, dropout)
    x = layers.Flatten(name="flatten")(blocks.rescaled(frames))  # (B, T*H*W*C)
    x = blocks.dense_stack(x, blocks.checked_units("flat_mlp", units), dropout)
    return FramesModel(frames, blocks.answer(x, num_classes), name=name)


def early_fusion_cnn(
    input_shape: blocks.Shape = (4, 28, 28, 1),
    num_classes: int = 7,
    *,
    encoder: str | keras.Layer = "conv_pool",
    units: Sequence[int] = (512,),
    dropout: float = 0.0,
    name: str = "early_fusion_cnn",
) -> keras.Model:
    """The baseline that knows space but not time: the frames as channels of one image.

    The CNN of `cnn_lstm`, but its first convolution sees all frames at once, `(H, W, T*C)`, and
    fully connected layers replace the LSTM. With the defaults about as many parameters.

    Args:
        input_shape: `(T, H, W, C)` of a sequence, or `(T, L, C)` of lines; T must be known.
        num_classes: size of the answer.
        encoder: image -> vector, as in `cnn_lstm`; it must take `T*C` channels.
        units: width of each hidden layer (ReLU).
        dropout: share of each hidden layer's outputs dropped in training, 0 to below 1.
        name: the model's name.

    Returns:
        A model from `frames (B, T, H, W, C) uint8`, or `(B, T, L, C) float32`, to class
        probabilities `(B, num_classes) float32`.

    Raises:
        ValueError: if an argument is out of range.
    """
    encoder = frame_encoder(encoder)
    frames = _all_frames("early_fusion_cnn", input_shape, num_classes, dropout, encoder)
    _, time, *sides, channels = frames.shape
    order = (*range(2, 2 + len(sides)), 1, 2 + len(sides))
    x = layers.Permute(order, name="time_to_channels")(floats(frames))  # (B, H, W, T, C)
    x = layers.Reshape((*sides, time * channels), name="merge_channels")(x)
    x = encoded_image(x, encoder)  # (B, features)
    x = blocks.dense_stack(x, blocks.checked_units("early_fusion_cnn", units), dropout)
    return FramesModel(frames, blocks.answer(x, num_classes), name=name)


def image_cnn(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    *,
    encoder: str | keras.Layer = "conv_pool",
    dropout: float = 0.0,
    name: str = "image_cnn",
) -> keras.Model:
    """The baseline of a scan: a CNN that sees the whole image at once, and no LSTM.

    Trained, it can be the encoder of a model of sequences (`encoder_from`).

    Args:
        input_shape: `(H, W, C)` of an image.
        num_classes: size of the answer.
        encoder: image -> vector, as in `cnn_lstm`.
        dropout: share of the encoder's vectors dropped in training, 0 to below 1.
        name: the model's name.

    Returns:
        A model from `frames (B, H, W, C) uint8` to class probabilities `(B, num_classes) float32`.

    Raises:
        ValueError: if an argument is out of range.
    """
    blocks.check_classes("image_cnn", num_classes)
    check_dropout("image_cnn", dropout)
    frames = blocks.frames_input("image_cnn", input_shape, "HWC")
    x = encoded_image(blocks.rescaled(frames), frame_encoder(encoder))  # (B, features)
    x = blocks.some_dropped(x, dropout)
    return FramesModel(frames, blocks.answer(x, num_classes), name=name)


def _all_frames(model, input_shape, num_classes, dropout, encoder=None):
    """The input of a model that has weights for each frame; of images if there is no encoder."""
    blocks.check_classes(model, num_classes)
    check_dropout(model, dropout)
    if encoder:
        frames = sequence_input(model, input_shape, encoder)
    else:
        frames = blocks.frames_input(model, input_shape, "THWC")
    if frames.shape[1] is None:
        raise ValueError(
            f"{model}: `input_shape` must have a known T, since the model has weights for each "
            f"frame; received {tuple(input_shape)}. Use cnn_lstm for any length."
        )
    return frames
