"""Trained classifiers of single frames as the encoder of sequences: the LSTM reads what they say.

A task that needs each frame read rightly, such as a sum, gains more from several classifiers that
err at different frames than from one, and ten probabilities say all that it needs of a digit.
"""

from collections.abc import Sequence

import keras
from keras import layers

from keras_cnnlstm.arguments import check_kind, check_model, told
from keras_cnnlstm.features import split_model
from keras_cnnlstm.layers import GeometricMean
from keras_cnnlstm.pretrained import leaf_layers


def mean_reader(models: Sequence[keras.Model], *, name: str = "readers") -> keras.Model:
    """The encoder that gives what classifiers of single frames say, the mean over all of them.

    The mean is the geometric one, normalised: the logarithmic opinion pool of Heskes, "Selecting
    Weighting Factors in Logarithmic Opinion Pools", NIPS 1997, section 2, which one classifier that
    is sure of another class sways less than the arithmetic one does.

    Args:
        models: one or more that answer to sequences of one frame, `(B, 1, H, W, C)` to
            probabilities `(B, 1, classes)`: `models.cnn_lstm((1, H, W, C), classes,
            per_step=True)`. Their layers become those of the encoder, are frozen, and drop nothing
            any more.
        name: the encoder's name.

    Returns:
        A model from frames `(N, H, W, C)` in [0, 1] to probabilities `(N, classes)` float32, to be
        given to `cnn_lstm` as its `encoder`.

    Raises:
        ValueError: if there is no model, or they answer to something else.

    Example:

    >>> from keras_cnnlstm.models import cnn_lstm
    >>> reader = cnn_lstm((1, 28, 28, 1), 10, per_step=True)
    >>> cnn_lstm((4, 28, 28, 1), 7, encoder=mean_reader([reader])).output_shape
    (None, 7)
    """
    check_kind("mean_reader: `models`", models, list | tuple, "a list of models")
    if not models:
        raise ValueError("mean_reader: `models` must be one or more; received none.")
    for model in models:
        _check_reads_one_frame(model, models[0])
    frames = keras.Input(models[0].input_shape[2:], dtype="float32", name="frame")
    answers = [
        _reading(model, f"reader{number}")(frames) for number, model in enumerate(models, start=1)
    ]
    mean = GeometricMean(name="mean")(answers)
    encoder = keras.Model(frames, mean, name=name)
    encoder.trainable = False
    return encoder


def _check_reads_one_frame(model, first):
    check_model("mean_reader: `models`", model)
    one = len(model.inputs) == len(model.outputs) == 1
    frames, answer = (model.input_shape, model.output_shape) if one else ((), ())
    if not (len(frames) == 5 and frames[1] == 1 and len(answer) == 3):
        raise ValueError(
            "mean_reader: `models` must answer to sequences of one frame, (B, 1, H, W, C), with "
            "probabilities (B, 1, classes); received one from "
            f"{told([tuple(x.shape) for x in model.inputs])} to "
            f"{told([tuple(x.shape) for x in model.outputs])}. Train them with --task digits "
            "--length 1."
        )
    if (frames, answer) != (first.input_shape, first.output_shape):
        raise ValueError(
            "mean_reader: `models` must read equal frames and know equal classes; received "
            f"{first.input_shape} -> {first.output_shape} and {frames} -> {answer}."
        )


def _reading(model, name):
    """A model of sequences of one frame as one of frames in [0, 1], of the same layers."""
    parts = split_model(model)
    for layer, _ in leaf_layers(model):
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0  # frozen, it would go on dropping in the training of what comes after
    frames = keras.Input(model.input_shape[2:], dtype="float32", name="frame")
    _, _rescaling, *encoder = parts.frame_encoder.layers  # the model of sequences has its own
    x = frames
    for layer in encoder:
        x = layer(x)
    x = layers.Reshape((1, -1), dtype="float32", name="one_step")(x)  # (N, 1, features)
    (x,) = keras.tree.flatten(parts.sequence_model({"features": x}))  # (N, 1, classes)
    return keras.Model(frames, layers.Flatten(dtype="float32", name="answer")(x), name=name)
