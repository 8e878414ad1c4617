"""Captions from a captioner: greedy decoding and beam search.

The models here continue from their own tokens. They are made of the layers of the `captioner`, so
nothing is copied: training one changes the other.
"""

from typing import NamedTuple

import keras
import numpy as np
from keras import layers, ops

from keras_cnnlstm.layers.frames_model import FramesModel
from keras_cnnlstm.layers.tokens import LEAST, FirstToken, LikeliestToken
from keras_cnnlstm.models.captioner import next_token
from keras_cnnlstm.tasks.vocabulary import END, PADDING, START
from keras_cnnlstm.utils.validation import as_integers, as_shaped, check_integer, short_repr

_WIDEST = 1000  # beams


def answering_model(model: keras.Model) -> keras.Model:
    """The model that answers: of a `captioner` its `greedy_model`, else the model itself."""
    writes = any(tensor.name == "tokens" for tensor in getattr(model, "inputs", None) or ())
    return greedy_model(model) if writes else model


def greedy_model(model: keras.Model) -> keras.Model:
    """The model that answers with the likeliest token at each step.

    Its steps are unrolled to the longest caption, so it is a plain graph of layers that saves,
    exports and predicts as any other.

    Args:
        model: from `captioner`, new or loaded.

    Returns:
        A model from `frames`, or a dict of `frames` and `lengths` if `model` takes them, to a dict:
        `tokens (B, L) int32`, with `END` after the caption and then `PADDING`; and
        `log_probability (B,) float32`, the natural logarithm of the caption's probability.

    Raises:
        ValueError: if `model` is no captioner.

    Example:

    >>> from keras_cnnlstm.models import captioner
    >>> writer = greedy_model(captioner(max_tokens=3))
    >>> writer.predict(np.zeros((2, 4, 28, 28, 1), "uint8"), verbose=0)["tokens"].shape
    (2, 3)
    """
    decoder = _decoder("greedy_model", model)
    seen, between = _encoder_outputs(decoder), _between(decoder)
    state = [seen["h"], seen["c"]]
    token, total, ended = FirstToken(name="first_token")(seen["h"])
    found = []
    for t in range(model.outputs[0].shape[1]):
        probabilities, state = _step(decoder, between, token, state, seen)
        likeliest = LikeliestToken(name=f"token{t + 1}")
        token, total, ended = likeliest([probabilities, total, ended])
        found.append(token)  # (B, 1)
    tokens = layers.Concatenate(axis=1, dtype="int32", name="caption")(found)  # (B, L)
    return FramesModel(
        _inputs(model), {"tokens": tokens, "log_probability": total}, name=f"{model.name}_greedy"
    )


class Beams(NamedTuple):
    """The captions that `beam_search` found, the likeliest first.

    Attributes:
        tokens: `(B, width, L)` int32, with `END` after the caption and then `PADDING`.
        log_probabilities: `(B, width)` float64, natural logarithms; minus infinity where there are
            fewer captions than `width`.
    """

    tokens: np.ndarray
    log_probabilities: np.ndarray


def beam_search(
    model: keras.Model, frames: np.ndarray, width: int = 3, *, lengths: np.ndarray | None = None
) -> Beams:
    """Looks for the likeliest captions, with several beams.

    After each token the `width` likeliest beginnings are kept; those that have ended compete with
    the others by their probability as it is: Vinyals et al., "Show and Tell", CVPR 2015, section
    3.1. A width of 1 gives the caption of `greedy_model`.

    Args:
        model: from `captioner`, new or loaded.
        frames: `(B, T, H, W, C)` uint8, or `(B, H, W, C)` of images.
        width: number of beams.
        lengths: `(B,)` integers, for a model that takes them.

    Returns:
        The captions and their probabilities.

    Raises:
        ValueError: if `model` is no captioner, or another argument does not fit it.
    """
    check_integer("beam_search: `width`", width, 1, _WIDEST)
    encode, step = _two_parts(model)
    given = _checked_inputs(model, frames, lengths)
    seen = {k: ops.convert_to_numpy(v) for k, v in encode.predict_on_batch(given).items()}
    batch = len(seen["h"])
    states = {k: np.repeat(v, width, axis=0) for k, v in seen.items()}  # (B*W, ...)
    tokens = np.zeros((batch, width, model.outputs[0].shape[1]), np.int32)
    totals = np.full((batch, width), -np.inf)
    totals[:, 0] = 0.0  # all beams are equal at first
    last = np.full((batch, width), START, np.int32)
    for t in range(tokens.shape[2]):
        outputs = step.predict_on_batch({"token": last.reshape(-1, 1), **states})
        probabilities = ops.convert_to_numpy(outputs["probabilities"]).reshape(batch, width, -1)
        totals, parents, last = _best(totals, _continued(probabilities, last), width)
        tokens = np.take_along_axis(tokens, parents[:, :, None], axis=1)
        tokens[:, :, t] = last
        kept = (np.arange(batch)[:, None] * width + parents).ravel()
        states |= {k: ops.convert_to_numpy(outputs[f"next_{k}"])[kept] for k in ("h", "c")}
    return Beams(tokens, totals)


def _continued(probabilities, last):
    """Log-probabilities of each next token `(B, W, V)`; after the end there is padding alone."""
    logs = np.log(np.maximum(probabilities.astype(np.float64), LEAST))
    logs[:, :, :END] = -np.inf
    ended = (last == END) | (last == PADDING)
    logs[ended] = -np.inf
    logs[ended, PADDING] = 0.0
    return logs


def _best(totals, logs, width):
    """The likeliest continuations: their totals, the beams they continue, and their last tokens."""
    flat = (totals[:, :, None] + logs).reshape(len(totals), -1)  # (B, W*V)
    best = np.argsort(-flat, axis=1, kind="stable")[:, :width]  # (B, W)
    parents, last = np.divmod(best, logs.shape[2])
    return np.take_along_axis(flat, best, axis=1), parents, last.astype(np.int32)


def _decoder(function, model):
    """The layers of a captioner by name."""
    found = {layer.name: layer for layer in getattr(model, "layers", ())}
    if not {"embedding", "decoder", "next_token"} <= found.keys():
        raise ValueError(
            f"{function}: `model` must be one that captioner built; received "
            f"{short_repr(getattr(model, 'name', model))}, which lacks its layers."
        )
    return found


def _encoder_outputs(decoder):
    """The first state of a captioner's decoder and, with attention, what it looks back at."""
    names = {"h": "first_h", "c": "first_c"}
    if "attention" in decoder:
        names |= {name: name for name in ("seen", "mask") if name in decoder}
    return {key: decoder[name].output for key, name in names.items()}


def _inputs(model):
    """The inputs of a captioner without the tokens."""
    given = {tensor.name: tensor for tensor in model.inputs if tensor.name != "tokens"}
    return given if len(given) > 1 else given["frames"]


def _between(decoder):
    """Reshapes around the cell of the LSTM, for one token in place of a whole caption."""
    # As layers with names: an automatic name of `ops` could exist in a model that was loaded.
    return (
        layers.Reshape((decoder["embedding"].output_dim,), name="one_token"),
        layers.Reshape((1, decoder["decoder"].units), name="one_step"),
    )


def _step(decoder, between, token, state, seen):
    """After a token `(B, 1)`: the probabilities of the next one `(B, 1, V)`, and the state."""
    one_token, one_step = between
    y, state = decoder["decoder"].cell(one_token(decoder["embedding"](token)), state)  # (B, D)
    return next_token(decoder, one_step(y), seen.get("seen"), seen.get("mask")), state


def _two_parts(model):
    """A captioner as two models: frames -> encoder outputs; a token and those -> the next one."""
    decoder = _decoder("beam_search", model)
    seen = _encoder_outputs(decoder)
    encode = keras.Model(_inputs(model), seen, name=f"{model.name}_encoder")
    given = {k: keras.Input(v.shape[1:], dtype=v.dtype, name=k) for k, v in seen.items()}
    token = keras.Input((1,), dtype="int32", name="token")
    state = [given["h"], given["c"]]
    probabilities, after = _step(decoder, _between(decoder), token, state, given)
    outputs = {"probabilities": probabilities}
    for name, value in zip(("next_h", "next_c"), after, strict=True):
        # Under a half policy the cell computes in half; float32 holds its numbers exactly.
        outputs[name] = layers.Identity(dtype="float32", name=name)(value)
    return encode, keras.Model({"token": token, **given}, outputs, name=f"{model.name}_step")


def _checked_inputs(model, frames, lengths):
    """The inputs of the encoder, if they fit the model."""
    inputs = {tensor.name: tensor.shape[1:] for tensor in model.inputs}
    frames = as_shaped("beam_search: `frames`", frames, "uint8", ("B", *inputs["frames"]))
    if ("lengths" in inputs) != (lengths is not None):
        raise ValueError(
            f"beam_search: `lengths` must be {'given' if lengths is None else 'None'}, as the "
            f"model was built; received {short_repr(lengths)}."
        )
    if lengths is None:
        return frames
    lengths = as_integers("beam_search: `lengths`", lengths, len(frames), 1, frames.shape[1])
    return {"frames": frames, "lengths": lengths.astype(np.int32)}
