"""Puts an encoder of single frames at the beginning of a functional model of sequences."""

from typing import Any

import keras
from keras import layers

from keras_cnnlstm.layers.motion import Motion, TwoStream
from keras_cnnlstm.layers.time_distributed import TimeDistributed
from keras_cnnlstm.models.blocks import frames_input, rescaled
from keras_cnnlstm.models.encoders import ENCODERS
from keras_cnnlstm.models.graph import all_layers
from keras_cnnlstm.utils.validation import check_choice, check_integer, short_repr

MOTIONS = ("none", "difference", "both")
"""What an encoder reads: the frames, how they change, or both."""

_OTHERS = {
    "THWC": "Lines (T, L, C) need an encoder of lines, such as 'conv1d'.",
    "TLC": "Images (T, H, W, C) need an encoder of images, such as 'conv_pool'.",
}


def frame_encoder(encoder: str | keras.Layer) -> keras.Layer:
    """The encoder of this name, or the given layer."""
    if isinstance(encoder, keras.Layer):
        return encoder
    if not isinstance(encoder, str) or encoder not in ENCODERS:
        raise ValueError(
            f"`encoder` must be one of {sorted(ENCODERS)} or a Keras layer; received "
            f"{short_repr(encoder)}."
        )
    return ENCODERS[encoder]()


def sequence_input(
    model: str, shape: Any, encoder: keras.Layer, batch_size: int | None = None
) -> keras.KerasTensor:
    """The input that fits the encoder; if it takes images and lines, the shape decides.

    Args:
        model: name of the model, for the error.
        shape: `(T, H, W, C)`, or `(T, L, C)` of lines; T may be `None`.
        encoder: frame -> vector.
        batch_size: B, if it must be fixed.
    """
    rank = _rank(encoder) or (len(shape) if isinstance(shape, list | tuple) else 4)
    axes = "TLC" if rank == 3 else "THWC"
    return frames_input(model, shape, axes, batch_size, remedy=_OTHERS[axes])


def _rank(encoder):
    """The rank of an encoder's input: 3 of lines `(B, L, C)`, 4 of images; `None` if any."""
    if isinstance(encoder, keras.Sequential) and encoder.layers:
        return _rank(encoder.layers[0])
    spec = next(iter(keras.tree.flatten(getattr(encoder, "input_spec", None))), None)
    rank = spec and (spec.ndim or spec.min_ndim)
    return rank if rank in (3, 4) else None


def with_motion(
    frames: keras.KerasTensor, encoder: keras.Layer, motion: str, lag: int
) -> tuple[keras.KerasTensor, keras.Layer, int]:
    """What the encoder reads of frames, the encoder of that, and how many frames have no step.

    Args:
        frames: `(B, T, H, W, C)` uint8.
        encoder: frame -> vector.
        motion: "none", "difference" or "both", see `cnn_lstm`.
        lag: steps between the frames that are compared.

    Returns:
        The frames, or the images of `Motion`. Of "both" an encoder that is already built for C
        channels reads frames and differences one after the other (`TwoStream`); one that is not
        reads them as 2C channels.
    """
    check_choice("cnn_lstm: `motion`", motion, MOTIONS)
    check_integer("cnn_lstm: `motion_lag`", lag, 1, 10_000)
    if motion == "none":
        return frames, encoder, 0
    if frames.dtype != "uint8":
        raise ValueError(
            'cnn_lstm: `motion` must be "none" with frames that are lines (T, L, C); received '
            f'"{motion}".'
        )
    if frames.shape[1] is not None and frames.shape[1] <= lag:
        raise ValueError(
            f"cnn_lstm: `motion_lag` must be smaller than the number of frames; received {lag} for "
            f"{frames.shape[1]} frames. Give longer sequences, or compare nearer frames."
        )
    both = motion == "both"
    if both and encoder.built:
        encoder = TwoStream(encoder, name="two_stream", dtype=encoder.dtype_policy)
    return Motion(lag, both, name="motion")(frames), encoder, lag


def floats(frames: keras.KerasTensor) -> keras.KerasTensor:
    """Raw pixels rescaled to [0, 1]; samples as they are."""
    return frames if frames.dtype == "float32" else rescaled(frames)


def encoded(
    frames: keras.KerasTensor,
    encoder: keras.Layer,
    wrap: str = "layer",
    mask: keras.KerasTensor | None = None,
) -> keras.KerasTensor:
    """The encoder's vector of each frame.

    Args:
        frames: `(B, T, H, W, C)`, or `(B, T, L, C)` of lines.
        encoder: frame -> vector.
        wrap: "layer" wraps each layer of a `keras.Sequential` in `TimeDistributed`, "encoder" the
            encoder as a whole.
        mask: `(B, T)` boolean, `False` at padding.

    Returns:
        `(B, T, features)`.
    """
    x = floats(frames)  # (B, T, H, W, C)
    for layer in _time_distributed(encoder, wrap):
        if mask is not None:
            _check_normalisation(layer.layer)
        x = _one_output(layer(x, mask=mask))
    _check_features(x)
    return x


def encoded_image(image: keras.KerasTensor, encoder: keras.Layer) -> keras.KerasTensor:
    """The encoder's vector `(B, features)` of an image `(B, H, W, C)`."""
    return _one_output(encoder(image))


def _one_output(x):
    if keras.tree.is_nested(x):
        raise ValueError(
            "cnn_lstm: `encoder` must turn each frame into one vector; received one with "
            f"{len(x)} outputs. Choose one: keras.Model(encoder.inputs, encoder.outputs[0])."
        )
    return x


def _time_distributed(encoder, wrap):
    """The wrapped layers that apply `encoder` to each frame, in order."""
    if isinstance(encoder, keras.Sequential) and str(wrap) == "layer":
        return [TimeDistributed(layer, name=layer.name) for layer in encoder.layers]
    if isinstance(wrap, str) and wrap in ("layer", "encoder"):
        return [TimeDistributed(encoder, name="encoder")]
    raise ValueError(f"cnn_lstm: `wrap` must be 'layer' or 'encoder'; received {short_repr(wrap)}.")


def _check_normalisation(layer):
    """Refuses batch normalisation whose statistics would count padded frames."""
    if layer.supports_masking:
        return
    for part in all_layers(layer):
        if isinstance(part, layers.BatchNormalization) and part.trainable:
            raise ValueError(
                "cnn_lstm: `encoder` with `lengths` must have its BatchNormalization where a mask "
                f"reaches it, or frozen; received {part.name!r} inside of {layer.name!r}, where "
                "its statistics would count the padding. Give a keras.Sequential of layers with "
                "wrap='layer', or set `encoder.trainable = False`."
            )


def _check_features(x):
    if len(x.shape) != 3 or x.shape[-1] is None:
        raise ValueError(
            "cnn_lstm: `encoder` must turn each frame into one vector of known size; received one "
            f"whose outputs have shape {tuple(x.shape[2:])} per frame. End it with a Flatten or a "
            "global pooling layer."
        )
