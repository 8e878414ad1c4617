"""The part that every model of sequences begins with: an encoder that looks at each frame.

The functions here put it into a functional model that is being built. They know nothing of what is
made of the vectors.
"""

from typing import Any

import keras
from keras import layers

from keras_cnnlstm.arguments import told
from keras_cnnlstm.blocks import frames_input, rescaled
from keras_cnnlstm.encoders import ENCODERS
from keras_cnnlstm.layers import TimeDistributed

_OTHERS = {
    "THWC": "Lines (T, L, C) need an encoder of lines, such as 'conv1d'.",
    "TLC": "Images (T, H, W, C) need an encoder of images, such as 'conv_pool'.",
}


def frame_encoder(encoder: str | keras.Layer) -> keras.Layer:
    """The encoder of this name, or the layer that was given.

    Raises:
        ValueError: if it is neither.
    """
    if isinstance(encoder, keras.Layer):
        return encoder
    if not isinstance(encoder, str) or encoder not in ENCODERS:
        raise ValueError(
            f"`encoder` must be one of {sorted(ENCODERS)} or a Keras layer; received "
            f"{told(encoder)}."
        )
    return ENCODERS[encoder]()


def sequence_input(
    model: str, shape: Any, encoder: keras.Layer, batch_size: int | None = None
) -> keras.KerasTensor:
    """The input that the encoder reads; where it takes planes and lines, what the shape says.

    Args:
        model: name of the model, for the error.
        shape: `(T, H, W, C)`, or `(T, L, C)` of lines; T may be `None`.
        encoder: frame -> vector.
        batch_size: B, if it must be fixed.

    Raises:
        ValueError: if the shape does not fit the encoder.
    """
    rank = _rank(encoder) or (len(shape) if isinstance(shape, list | tuple) else 4)
    axes = "TLC" if rank == 3 else "THWC"
    return frames_input(model, shape, axes, batch_size, remedy=_OTHERS[axes])


def _rank(encoder):
    """How many axes an encoder reads: 3 of lines `(B, L, C)`, 4 of planes; `None` if any."""
    if isinstance(encoder, keras.Sequential) and encoder.layers:
        return _rank(encoder.layers[0])
    spec = next(iter(keras.tree.flatten(getattr(encoder, "input_spec", None))), None)
    rank = spec and (spec.ndim or spec.min_ndim)
    return rank if rank in (3, 4) else None


def floats(frames: keras.KerasTensor) -> keras.KerasTensor:
    """Raw pixels rescaled to [0, 1]; samples as they are."""
    return frames if frames.dtype == "float32" else rescaled(frames)


def encoded(
    frames: keras.KerasTensor,
    encoder: keras.Layer,
    wrap: str = "layer",
    mask: keras.KerasTensor | None = None,
) -> keras.KerasTensor:
    """What the encoder says of each frame.

    Args:
        frames: `(B, T, H, W, C)`, or `(B, T, L, C)` of lines.
        encoder: frame -> vector.
        wrap: "layer" distributes each layer of a `keras.Sequential` over time by itself,
            "encoder" all as one.
        mask: `(B, T)` boolean, `False` at padding.

    Returns:
        `(B, T, features)`.

    Raises:
        ValueError: if the encoder makes no vectors, or its normalisation would count padding.
    """
    x = floats(frames)  # (B, T, H, W, C)
    for layer in _time_distributed(encoder, wrap):
        if mask is not None:
            _check_normalisation(layer.layer)
        x = layer(x, mask=mask)
    _check_features(x)
    return x


def _time_distributed(encoder, wrap):
    """The wrapped layers that apply `encoder` to each frame, in order."""
    if isinstance(encoder, keras.Sequential) and str(wrap) == "layer":
        return [TimeDistributed(layer, name=layer.name) for layer in encoder.layers]
    if isinstance(wrap, str) and wrap in ("layer", "encoder"):
        return [TimeDistributed(encoder, name="encoder")]
    raise ValueError(f"cnn_lstm: `wrap` must be 'layer' or 'encoder'; received {told(wrap)}.")


def _check_normalisation(layer):
    """Refuses batch normalisation that would take padded frames into its statistics."""
    learning = [
        part.name
        for part in layer._flatten_layers()
        if isinstance(part, layers.BatchNormalization) and part.trainable
    ]
    if learning and not layer.supports_masking:
        raise ValueError(
            "cnn_lstm: `encoder` with `lengths` must have its BatchNormalization where a mask "
            f"reaches it, or frozen; received {learning[0]!r} inside of {layer.name!r}, where its "
            "statistics would count the padding. Give a keras.Sequential of layers with "
            "wrap='layer', or set `encoder.trainable = False`."
        )


def _check_features(x):
    if len(x.shape) != 3 or x.shape[-1] is None:
        raise ValueError(
            "cnn_lstm: `encoder` must turn each frame into one vector of known size; received one "
            f"whose outputs have shape {tuple(x.shape[2:])} per frame. End it with a Flatten or a "
            "global pooling layer."
        )
