"""A describer speaks: the likeliest word after each other, or the likeliest sentence that is found.

`describer` builds models that are told the right words so far. The ones here go on from their own
words, and are made of the same layers, so that nothing is copied: training one shows in the other.
"""

from typing import NamedTuple

import keras
import numpy as np
from keras import layers, ops

from keras_cnnlstm.arguments import as_array, check_whole, told
from keras_cnnlstm.describer import LAYER_NAMES, Decoder
from keras_cnnlstm.vocabulary import END, PADDING, START

_WIDEST = 1000  # beginnings of sentences side by side
_LEAST = 1e-30  # probability; the logarithm of 0 is no number


def greedy_model(model: keras.Model) -> keras.Model:
    """The model that says the likeliest word after each other.

    Its steps are written out, one for each word of the longest sentence, so that it is a plain
    graph of layers that saves, exports and predicts as any other.

    Args:
        model: as `describer` builds it, or as it was saved.

    Returns:
        A model from `frames`, or a dict of `frames` and `lengths` where `model` takes them, to a
        dict: `words (B, L) int32`, `END` after the last word and then `PADDING`; and
        `log_probability (B,) float32`, the natural logarithm of how likely just these words are.

    Raises:
        ValueError: if `model` is no describer.

    Example:

    >>> from keras_cnnlstm.describer import describer
    >>> speaker = greedy_model(describer(max_words=3))
    >>> speaker.predict(np.zeros((2, 4, 28, 28, 1), "uint8"), verbose=0)["words"].shape
    (2, 3)
    """
    decoder, seen = _decoder("greedy_model", model), _encoder_outputs(model)
    step = _step_layers(decoder)
    state = [seen["h"], seen["c"]]
    word, total, ended = FirstWord(name="first_word")(seen["h"])
    said = []
    for t in range(model.outputs[0].shape[1]):
        chances, state = _step(decoder, step, word, state, seen)
        word, total, ended = LikeliestWord(name=f"word{t + 1}")([chances, total, ended])
        said.append(word)  # (B, 1)
    words = layers.Concatenate(axis=1, dtype="int32", name="said")(said)  # (B, L)
    return keras.Model(
        _inputs(model), {"words": words, "log_probability": total}, name=f"{model.name}_greedy"
    )


class Beams(NamedTuple):
    """What `beam_search` found, the likeliest sentence first.

    Attributes:
        words: `(B, width, L)` int32, `END` after the last word and then `PADDING`.
        log_probabilities: `(B, width)` float64, natural logarithms; minus infinity where there are
            fewer sentences than asked for.
    """

    words: np.ndarray
    log_probabilities: np.ndarray


def beam_search(
    model: keras.Model, frames: np.ndarray, width: int = 3, *, lengths: np.ndarray | None = None
) -> Beams:
    """Looks for the likeliest sentences, several beginnings side by side.

    After each word the `width` likeliest beginnings are kept; those that have ended compete with
    the others by their probability as it is: Vinyals et al., "Show and Tell", CVPR 2015, section
    3.1. With a width of 1 that is what `greedy_model` says.

    Args:
        model: as `describer` builds it, or as it was saved.
        frames: `(B, T, H, W, C)` uint8, or `(B, H, W, C)` of images.
        width: how many to keep.
        lengths: `(B,)` integers, for a model that takes them.

    Returns:
        The sentences, and how likely they are.

    Raises:
        ValueError: if `model` is no describer, or another argument does not fit it.
    """
    check_whole("beam_search: `width`", width, 1, _WIDEST)
    encode, step = _two_parts(model)
    given = _checked_inputs(model, frames, lengths)
    seen = {k: ops.convert_to_numpy(v) for k, v in encode.predict_on_batch(given).items()}
    batch = len(seen["h"])
    states = {k: np.repeat(v, width, axis=0) for k, v in seen.items()}  # (B*W, ...)
    words = np.zeros((batch, width, model.outputs[0].shape[1]), np.int32)
    totals = np.full((batch, width), -np.inf)
    totals[:, 0] = 0.0  # all beams are the same at first
    word = np.full((batch * width, 1), START, np.int32)
    for t in range(words.shape[2]):
        outputs = step.predict_on_batch({"word": word, **states})
        chances = ops.convert_to_numpy(outputs["chances"]).reshape(batch, width, -1)
        totals, parents, last = _best(totals, _continued(chances, words, t), width)
        words = np.take_along_axis(words, parents[:, :, None], axis=1)
        words[:, :, t] = last
        kept = (np.arange(batch)[:, None] * width + parents).ravel()
        states |= {k: ops.convert_to_numpy(outputs[f"next_{k}"])[kept] for k in ("h", "c")}
        word = last.reshape(-1, 1)
    return Beams(words, totals)


def _continued(chances, words, t):
    """Log-probabilities of each next word `(B, W, V)`; after the end there is padding alone."""
    logs = np.log(np.maximum(chances.astype(np.float64), _LEAST))
    logs[:, :, :END] = -np.inf
    if t:
        ended = (words[:, :, t - 1] == END) | (words[:, :, t - 1] == PADDING)
        logs[ended] = -np.inf
        logs[ended, PADDING] = 0.0
    return logs


def _best(totals, logs, width):
    """The likeliest continuations: their totals, the beams they continue, and their last words."""
    flat = (totals[:, :, None] + logs).reshape(len(totals), -1)  # (B, W*V)
    best = np.argsort(-flat, axis=1, kind="stable")[:, :width]  # (B, W)
    parents, last = np.divmod(best, logs.shape[2])
    return np.take_along_axis(flat, best, axis=1), parents, last.astype(np.int32)


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class FirstWord(keras.layers.Layer):
    """What comes before anything is said.

    Call arguments:
        state: `(B, D)`, for its B.

    Returns:
        `START` `(B, 1)` int32, the logarithm of its probability, 0, `(B,)` float32, and whether the
        sentence has ended, `(B,)` boolean.
    """

    def call(self, state):
        zeros = ops.zeros_like(state[:, 0], dtype="float32")  # (B,)
        word = ops.cast(zeros, "int32")[:, None] + START
        return word, zeros, ops.cast(zeros, "bool")


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class LikeliestWord(keras.layers.Layer):
    """Chooses the next word of a sentence, `PADDING` if that has ended.

    Call arguments:
        inputs: probabilities `(B, 1, V)`; the logarithm of that of the sentence so far `(B,)`; and
            whether it has ended `(B,)`.

    Returns:
        The word `(B, 1)` int32, and both others after it.
    """

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32"} | kwargs)

    def call(self, inputs):
        chances, total, ended = inputs
        # Nobody says what stands for no word. No argmax, for which phones have no operation.
        chance, place = ops.top_k(chances[:, 0, END:], 1)  # (B, 1) each
        word = ops.cast(place[:, 0], "int32") + END
        logs = ops.log(ops.maximum(chance[:, 0], _LEAST))
        total = total + ops.where(ended, ops.zeros_like(logs), logs)
        word = ops.where(ended, ops.full_like(word, PADDING), word)  # (B,)
        return word[:, None], total, ops.logical_or(ended, ops.equal(word, END))


def _decoder(function, model) -> Decoder:
    """The layers of a describer that speak."""
    have = {layer.name: layer for layer in getattr(model, "layers", ())}
    found = Decoder(*(have.get(name) for name in LAYER_NAMES))  # type: ignore[arg-type]
    if None in (found.embedding, found.lstm, found.logits):
        raise ValueError(
            f"{function}: `model` must be one that describer built; received "
            f"{told(getattr(model, 'name', model))}, which lacks its layers."
        )
    return found


def _encoder_outputs(model):
    """What a describer knows before it speaks: its state, and where it looks back what it saw."""
    names = {"first_h": "h", "first_c": "c", "seen": "seen", "mask": "mask"}
    have = {names[x.name]: x.output for x in model.layers if x.name in names}
    if all(layer.name != LAYER_NAMES.attention for layer in model.layers):
        return {name: have[name] for name in "hc"}
    return have


def _inputs(model):
    """The inputs of a describer that are there when it speaks by itself."""
    given = {tensor.name: tensor for tensor in model.inputs if tensor.name != "words"}
    return given if len(given) > 1 else given["frames"]


def _step_layers(decoder):
    """Between the layers of a describer, where there is one word, not all of a sentence."""
    # As layers with names: what `ops` names by itself may be there in a model that was loaded.
    embedding, width = decoder.embedding.output_dim, decoder.lstm.units
    return (
        layers.Reshape((embedding,), name="out_of_row"),
        layers.Reshape((1, width), name="in_row"),
    )


def _step(decoder, between, word, state, seen):
    """One word said `(B, 1)`: probabilities of the next one `(B, 1, V)`, and the state after it."""
    out_of_row, in_row = between
    y, state = decoder.lstm.cell(out_of_row(decoder.embedding(word)), state)  # (B, D)
    return decoder.next_word(in_row(y), seen.get("seen"), seen.get("mask")), state


def _two_parts(model):
    """A describer as two models: frames -> what it knows then; a word and that -> the next word."""
    decoder, seen = _decoder("beam_search", model), _encoder_outputs(model)
    encode = keras.Model(_inputs(model), seen, name=f"{model.name}_encoder")
    given = {k: keras.Input(v.shape[1:], dtype=v.dtype, name=k) for k, v in seen.items()}
    word = keras.Input((1,), dtype="int32", name="word")
    state = [given["h"], given["c"]]
    chances, after = _step(decoder, _step_layers(decoder), word, state, given)
    outputs = {"chances": chances}
    for name, value in zip(("next_h", "next_c"), after, strict=True):
        # Under a half policy the cell computes in half; float32 holds its numbers exactly.
        outputs[name] = layers.Identity(dtype="float32", name=name)(value)
    return encode, keras.Model({"word": word, **given}, outputs, name=f"{model.name}_step")


def _checked_inputs(model, frames, lengths):
    """What the encoder is given, if it fits the model."""
    wanted = next(t for t in model.inputs if t.name == "frames").shape[1:]
    frames = as_array("beam_search: `frames`", frames)
    fits = frames.ndim == len(wanted) + 1 and all(
        size in (None, given) for size, given in zip(wanted, frames.shape[1:], strict=True)
    )
    if not fits or not len(frames) or frames.dtype != np.uint8:
        raise ValueError(
            f"beam_search: `frames` must be uint8 of shape (B, {str(wanted)[1:]}; received "
            f"{frames.dtype} of {frames.shape}."
        )
    takes = any(tensor.name == "lengths" for tensor in model.inputs)
    if takes != (lengths is not None):
        raise ValueError(
            f"beam_search: `lengths` must be {'given' if takes else 'None'}, as the model was "
            f"built; received {told(lengths)}."
        )
    if not takes:
        return frames
    lengths = as_array("beam_search: `lengths`", lengths)
    whole = lengths.shape == (len(frames),) and lengths.dtype.kind in "iu"
    if not whole or lengths.min() < 1 or lengths.max() > frames.shape[1]:
        raise ValueError(
            f"beam_search: `lengths` must be whole numbers of shape ({len(frames)},), 1 to "
            f"{frames.shape[1]}; received {told(lengths)}."
        )
    return {"frames": frames, "lengths": lengths.astype(np.int32)}
