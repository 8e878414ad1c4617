"""Architectures that read one image as a sequence: by rows, columns or patches, or as text.

Like all models they take raw `uint8` pixels in an input named `frames`, here one image for each
example, `(B, H, W, C)`.
"""

from collections.abc import Sequence
from typing import Literal

import keras
from keras import layers

from keras_cnnlstm.layers.frames_model import FramesModel
from keras_cnnlstm.layers.image_to_sequence import ImageToSequence
from keras_cnnlstm.layers.lstm import LSTM
from keras_cnnlstm.layers.time_distributed import TimeDistributed
from keras_cnnlstm.models import blocks
from keras_cnnlstm.models.encoders import conv_pool_maps
from keras_cnnlstm.utils.validation import check_dropout, short_repr

ImageShape = tuple[int, int, int]  # (H, W, C)

BLANK = 0
"""Class 0 of a `crnn`: no character here. Character k of the alphabet is class k + 1."""


def scan_lstm(
    input_shape: ImageShape = (28, 28, 1),
    num_classes: int = 10,
    *,
    by: Literal["rows", "columns", "patches"] = "columns",
    size: int | tuple[int, int] = 1,
    lstm_units: Sequence[int] = (100, 100),
    bidirectional: bool = False,
    dropout: float = 0.0,
    read: Literal["last", "all"] = "last",
    per_step: bool = False,
    initial_state: bool = False,
    return_state: bool = False,
    stateful: bool = False,
    batch_size: int | None = None,
    name: str = "scan_lstm",
) -> keras.Model:
    """LSTMs that read one image as a sequence of its columns, rows or patches; no convolution.

    With the defaults, the two-layer column scanner: 28 steps of 28 pixels scaled to [-1, 1], two
    LSTMs of 100 units, the last step's output, Dense; 133,010 parameters.

    Args:
        input_shape: `(H, W, C)` of an image.
        num_classes: size of the answer.
        by: what a step is: a row, a column or a patch of the image.
        size: rows or columns in a step, or the side of a patch, in pixels; a pair (height, width)
            for patches of another shape.
        lstm_units: units of each LSTM layer, first to last.
        bidirectional: scan in both directions.
        dropout: share of the outputs of each LSTM layer dropped in training, 0 to below 1.
        read: the input of the head: the outputs of the "last" step, or of "all" steps side by side.
        per_step: answer at each step. With `bidirectional` the backward half has read the steps
            from the end to this one, so the last answer differs from that of the same weights
            without `per_step`.
        initial_state, return_state, stateful, batch_size: as in `models.cnn_lstm`.
        name: the model's name.

    Returns:
        A model from `frames (B, H, W, C) uint8` to `probabilities (B, num_classes) float32`, or
        `(B, T, num_classes)` with `per_step`.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> scan_lstm().count_params()
    133010
    """
    blocks.check_classes("scan_lstm", num_classes)
    lstm_units = blocks.checked_units("scan_lstm", lstm_units, "lstm_units")
    check_dropout("scan_lstm", dropout)
    if str(read) not in ("last", "all") or (read == "all" and per_step):
        raise ValueError(
            "scan_lstm: `read` must be 'last' or 'all', and 'last' with per_step; received "
            f"{short_repr(read)} with per_step={short_repr(per_step)}."
        )
    frames = blocks.frames_input("scan_lstm", input_shape, "HWC", batch_size)
    steps = ImageToSequence(by, size, name="steps")
    steps.compute_output_shape(frames.shape)  # its error is one line; Keras would add many
    x = steps(blocks.rescaled(frames, -1, 1))  # (B, T, features)
    before = {}
    if initial_state:
        before = blocks.state_inputs(lstm_units, bidirectional=bidirectional, batch_size=batch_size)
    x = blocks.lstm_stack(
        x,
        lstm_units,
        bidirectional=bidirectional,
        dropout=dropout,
        return_sequences=per_step or read == "all",
        return_state=return_state,
        initial_state=before or None,
        stateful=stateful,
    )
    x, after = x if return_state else (x, {})
    if read == "all":
        x = layers.Flatten(name="all_steps")(x)  # (B, T*units)
    x = blocks.answer(x, num_classes)
    return FramesModel(
        {"frames": frames, **before} if before else frames,
        {"probabilities": x, **after} if return_state else x,
        name=name,
    )


def renet(
    input_shape: ImageShape = (28, 28, 1),
    num_classes: int = 10,
    *,
    lstm_units: Sequence[int] = (64, 64),
    size: int = 2,
    dense_units: Sequence[int] = (256,),
    dropout: float = 0.0,
    name: str = "renet",
) -> keras.Model:
    """LSTMs that sweep over an image in four directions, in place of convolutions.

    Each layer cuts its input into patches, reads every column of patches downwards and upwards,
    and then every row of the results rightwards and leftwards, so that each position has seen the
    whole image: Visin et al., "ReNet: A Recurrent Neural Network Based Alternative to Convolutional
    Networks", 2015, section 2. The paper has 256 units a sweep and 4,096 fully connected ones; the
    defaults are small, for a CPU.

    Args:
        input_shape: `(H, W, C)` of an image; H and W must be multiples of `size` to the power of
            the number of layers.
        num_classes: size of the answer.
        lstm_units: units of each sweep in each layer, first to last.
        size: side of the patches that each layer cuts its input into.
        dense_units: width of each fully connected layer (ReLU) after the sweeps.
        dropout: share of the outputs of the last sweeps and of each fully connected layer dropped
            in training, 0 to below 1.
        name: the model's name.

    Returns:
        A model from `frames (B, H, W, C) uint8` to `probabilities (B, num_classes) float32`.

    Raises:
        ValueError: if an argument is out of range.
    """
    blocks.check_classes("renet", num_classes)
    check_dropout("renet", dropout)
    frames = blocks.frames_input("renet", input_shape, "HWC")
    x = blocks.rescaled(frames, -1, 1)  # (B, H, W, C)
    dense_units = blocks.checked_units("renet", dense_units, "dense_units")
    for i, units in enumerate(blocks.checked_units("renet", lstm_units, "lstm_units"), start=1):
        patches = ImageToSequence("patches", size, name=f"patches{i}")
        patches.compute_output_shape(x.shape)  # its error is one line; Keras would add many
        height, width = x.shape[1] // size, x.shape[2] // size
        x = patches(x)
        x = layers.Reshape((height, width, x.shape[-1]), name=f"grid{i}")(x)
        x = layers.Permute((2, 1, 3), name=f"columns{i}")(x)  # (B, W', H', features)
        blocks.check_weights("renet", "lstm_units", max(x.shape[-1], 2 * units) + units, 4 * units)
        x = _sweep(units, f"vertical{i}")(x)
        x = layers.Permute((2, 1, 3), name=f"rows{i}")(x)  # (B, H', W', 2*units)
        x = _sweep(units, f"horizontal{i}")(x)
    x = layers.Flatten(name="flatten")(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    x = blocks.dense_stack(x, dense_units, dropout, option="dense_units")
    return FramesModel(frames, blocks.answer(x, num_classes), name=name)


def crnn(
    input_shape: ImageShape = (28, 112, 1),
    num_classes: int = 10,
    *,
    filters: Sequence[int] = (16, 32, 64),
    lstm_units: Sequence[int] = (128,),
    dropout: float = 0.0,
    name: str = "crnn",
) -> keras.Model:
    """Reads a wide image as text: a CNN, its columns as steps of bidirectional LSTMs, for CTC.

    After Shi et al., "An End-to-End Trainable Neural Network for Image-Based Sequence Recognition",
    TPAMI 2017, section 2. At each step the answer is a character or a blank. Train it with
    `keras.losses.CTC()` on targets `(B, length)` of classes, character k as k + 1, padded at the
    end with 0; no position of a character is needed. `tasks.read_text` turns the answer into text.

    Args:
        input_shape: `(H, W, C)` of an image. There are W/4 steps; a text needs one for each
            character, and one between equal neighbours.
        num_classes: characters of the alphabet, without the blank.
        filters: output channels of each convolution, each followed by a max-pooling that halves
            the height; the first two halve the width too.
        lstm_units: units of each bidirectional LSTM layer, first to last.
        dropout: share of the outputs of each LSTM layer dropped in training, 0 to below 1.
        name: the model's name.

    Returns:
        A model from `frames (B, H, W, C) uint8` to `logits (B, W/4, num_classes + 1) float32`,
        class `BLANK` first.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> crnn().output_shape
    (None, 28, 11)
    """
    blocks.check_classes("crnn", num_classes)
    check_dropout("crnn", dropout)
    frames = blocks.frames_input("crnn", input_shape, "HWC")
    filters = blocks.checked_units("crnn", filters, "filters")
    lstm_units = blocks.checked_units("crnn", lstm_units, "lstm_units")
    height, width = 2 ** len(filters), 2 ** min(2, len(filters))
    if input_shape[0] < height or input_shape[1] < width:
        raise ValueError(
            f"crnn: `input_shape` must be at least {height} pixels high and {width} wide for "
            f"{len(filters)} poolings; received {tuple(input_shape)}."
        )
    x = blocks.rescaled(frames)
    for layer in conv_pool_maps(filters, narrowing=2):
        x = layer(x)  # (B, H', W/4, channels)
    x = ImageToSequence("columns", name="steps")(x)  # (B, W', H'*channels)
    x = blocks.lstm_stack(x, lstm_units, bidirectional=True, dropout=dropout, return_sequences=True)
    return FramesModel(frames, blocks.dense_float32(x, num_classes + 1, name="logits"), name=name)


def _sweep(units, name):
    """Every line of a grid `(B, lines, steps, features)` read in both directions."""
    lstm = LSTM(units, return_sequences=True)
    return TimeDistributed(layers.Bidirectional(lstm), name=name)
