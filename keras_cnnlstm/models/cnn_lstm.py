"""The reference architecture: a CNN for each frame, LSTMs over the frames.

Like every model it takes raw `uint8` frames in an input named `frames` and rescales them inside, so
that training, serving and a browser cannot disagree about the range. Frames that are lines, not
planes, are float32 and taken as they are. Heads are float32 under every precision policy.
"""

from collections.abc import Sequence
from typing import Literal

import keras

from keras_cnnlstm.layers.batch_normalization import BatchNormalization
from keras_cnnlstm.layers.frames_model import FramesModel
from keras_cnnlstm.layers.length_mask import LengthMask
from keras_cnnlstm.models import blocks
from keras_cnnlstm.models.frame_encoder import encoded, frame_encoder, sequence_input, with_motion
from keras_cnnlstm.utils.validation import check_dropout


def cnn_lstm(
    input_shape: blocks.Shape = (4, 28, 28, 1),
    num_classes: int = 7,
    *,
    encoder: str | keras.Layer = "conv_pool",
    lstm_units: Sequence[int] = (128,),
    bidirectional: bool = False,
    dropout: float = 0.0,
    wrap: Literal["layer", "encoder"] = "layer",
    motion: Literal["none", "difference", "both"] = "none",
    motion_lag: int = 1,
    normalize: bool = False,
    per_step: bool = False,
    head: blocks.Head = "probabilities",
    scale: blocks.Numbers = 1.0,
    offset: blocks.Numbers = 0.0,
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

    Sequences of lines, such as windows of a signal, of audio, or of embedded text, need an encoder
    of lines: `cnn_lstm((T, L, C), encoder="conv1d")`. Their frames are float32 numbers which no
    layer rescales; give small ones, as in [-1, 1].

    Args:
        input_shape: `(T, H, W, C)` of a sequence; T may be `None` for any number of frames.
            `(T, L, C)` for lines of L samples.
        num_classes: size of the answer: classes, or numbers of a regression.
        encoder: frame -> vector, a name in `encoders.ENCODERS` or any Keras layer or model
            that takes `(B, H, W, C)` floats in [0, 1], or lines `(B, L, C)`.
        lstm_units: units of each LSTM layer, first to last.
        bidirectional: read the frames in both directions (doubles an LSTM layer's outputs).
        dropout: share of the encoder's vectors and of the outputs of each LSTM layer dropped in
            training, 0 to below 1.
        wrap: "layer" puts each layer of a `keras.Sequential` encoder into its own
            `TimeDistributed`, so that all of them show in `summary()`; "encoder" puts the encoder
            into one. Weights and answers are the same, and `set_weights` moves them from one form
            to the other. With `lengths`, batch normalisation must leave out the padding: inside an
            encoder wrapped as one, or a model in it, it must be frozen (`trainable=False`).
        motion: what the encoder reads: "none", the frames; "difference", how each differs from the
            one `motion_lag` steps before it, as an image (`layers.Motion`); "both", an encoder that
            is built already, such as a pretrained one, one after the other, another one as twice
            the channels. The first `motion_lag` frames have no difference, so there are T -
            motion_lag steps.
        motion_lag: steps between the frames that are compared. The change between two frames means
            little without the time between them: show all sequences at one rate.
        normalize: put the encoder's vectors through batch normalisation, which those of a frozen
            network need: their features have scales of their own.
        per_step: answer at each step, from the frames so far (with `bidirectional`, from all),
            instead of once at the end.
        head: "probabilities" of classes, of which one is right; "multi_label" for labels, of which
            any number may be right; or "regression" for any numbers.
        scale: a factor for the numbers of a regression, one for all or one for each. Training is
            faster if it is about as large as they are, such as their standard deviation.
        offset: added to the numbers of a regression, such as their mean.
        lengths: sequences of unequal length, padded at the end, with a second input
            `lengths (B,) int32`, 1 to T. The padding changes no answer; answers of steps after the
            end mean nothing.
        initial_state: further inputs `lstm1_h`, `lstm1_c`, ... `(B, units)` float32, the first
            states of the LSTMs; see `blocks.lstm_stack` for the names in several layers.
        return_state: answer with a dict, the states after the last frame beside the answer.
        stateful: keep the states from batch to batch; `blocks.reset_states` clears them.
        batch_size: B, if it must be fixed; `stateful` needs it.
        name: the model's name.

    Returns:
        A model from `frames (B, T, H, W, C) uint8`, or `(B, T, L, C) float32`, to
        `probabilities (B, num_classes) float32`, or `(B, T, num_classes)` with `per_step`; for
        labels to `label_probabilities`, for a regression to `values`. It takes a dict by name where
        it has several inputs.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> cnn_lstm().count_params()
    1691399
    """
    blocks.check_classes("cnn_lstm", num_classes, head)
    check_dropout("cnn_lstm", dropout)
    blocks.check_scale("cnn_lstm", "scale", scale, num_classes)
    blocks.check_scale("cnn_lstm", "offset", offset, num_classes)
    lstm_units = blocks.checked_units("cnn_lstm", lstm_units, "lstm_units")
    encoder = frame_encoder(encoder)
    frames = sequence_input("cnn_lstm", input_shape, encoder, batch_size)
    inputs = {"frames": frames}
    images, encoder, skip = with_motion(frames, encoder, motion, motion_lag)
    mask = None
    if lengths:
        inputs["lengths"] = keras.Input((), batch_size, dtype="int32", name="lengths")
        mask = LengthMask(skip, name="mask")(inputs["lengths"], images)  # (B, T)
    x = encoded(images, encoder, wrap, mask)  # (B, T, features)
    if normalize:
        x = BatchNormalization(name="features_norm")(x, mask=mask)
    x = blocks.some_dropped(x, dropout)
    before = None
    if initial_state:
        before = blocks.state_inputs(lstm_units, bidirectional=bidirectional, batch_size=batch_size)
        inputs |= before
    x = blocks.lstm_stack(
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
    x = blocks.answer(x, num_classes, head, scale=scale, offset=offset)
    outputs = {blocks.HEADS[head]: x, **states} if return_state else x
    return FramesModel(inputs if len(inputs) > 1 else frames, outputs, name=name)
