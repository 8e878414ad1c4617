"""What is seen in words: the encoder-decoder of LSTMs that learns to say it.

One LSTM reads what a CNN says of each frame, a second one says a word after the other, beginning
with the state that the first one ended in: Donahue et al., "Long-term Recurrent Convolutional
Networks for Visual Recognition and Description" (LRCN), CVPR 2015, section 5, and, for a single
image, Vinyals et al., "Show and Tell: A Neural Image Caption Generator", CVPR 2015, section 3.

While it learns it is told the right words so far, and says how likely each word is to come next.
`decoding` has it speak by itself.
"""

from collections.abc import Sequence
from typing import NamedTuple

import keras
from keras import layers, ops

from keras_cnnlstm.arguments import check_dropout, check_whole, told
from keras_cnnlstm.blocks import (
    check_weights,
    checked_units,
    frames_input,
    lstm_stack,
    some_dropped,
    state_names,
)
from keras_cnnlstm.framewise import encoded, frame_encoder, sequence_input
from keras_cnnlstm.layers import LSTM, LengthMask
from keras_cnnlstm.vocabulary import END

_WORDS, _LONGEST = 1_000_000, 1000  # in a vocabulary, in a sentence


def describer(
    input_shape: Sequence[int | None] = (4, 28, 28, 1),
    vocabulary_size: int = 20,
    max_words: int = 16,
    *,
    encoder: str | keras.Layer = "conv_pool",
    lstm_units: Sequence[int] = (128,),
    bidirectional: bool = False,
    embedding: int = 64,
    attention: bool = True,
    dropout: float = 0.0,
    lengths: bool = False,
    name: str = "describer",
) -> keras.Model:
    """The model that learns to describe: from frames and the words so far to the next word.

    The layers that read are those of `models.cnn_lstm`, under the same names, so that those of a
    trained classifier can be taken over. With `attention` the decoder looks back at each word: at
    all frames, by what it wants to know (Luong et al., "Effective Approaches to Attention-based
    Neural Machine Translation", EMNLP 2015, section 3.1, with the score "general"). Without, all
    that it knows of the frames is the state that it begins with.

    Args:
        input_shape: `(T, H, W, C)` of a sequence, T possibly `None`; `(H, W, C)` of one image.
        vocabulary_size: V, words that there are, those of `vocabulary.SPECIAL` counted.
        max_words: L, words of the longest sentence, its end counted.
        encoder: frame -> vector, as in `models.cnn_lstm`.
        lstm_units: units of each LSTM layer that reads, first to last. The one that speaks has as
            many as the last of them (twice as many if `bidirectional`), since it takes its state.
        bidirectional: read the frames in both directions.
        embedding: numbers that a word is turned into.
        attention: look back at the frames for each word. Where there is a single one there is
            nothing to choose, and no attention.
        dropout: share of the encoder's vectors and of the LSTMs' outputs dropped in training.
        lengths: sequences of unequal length, as in `models.cnn_lstm`.
        name: the model's name.

    Returns:
        A model from the dict of `frames (B, T, H, W, C) uint8`, or `(B, H, W, C)`, perhaps
        `lengths (B,) int32`, and `words (B, L) int32`, `START` and the right words but the last,
        to the probabilities of the words that come next, `(B, L, V) float32`.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> describer().output_shape
    (None, 16, 20)
    """
    _check(vocabulary_size, max_words, embedding)
    lstm_units = checked_units("describer", lstm_units, "lstm_units")
    check_dropout("describer", dropout)
    encoder = frame_encoder(encoder)
    inputs, x, mask = _read_frames(input_shape, encoder, lengths)
    x = some_dropped(x, dropout)
    x, states = lstm_stack(
        x,
        lstm_units,
        bidirectional=bidirectional,
        dropout=dropout,
        return_sequences=True,
        return_state=True,
        mask=mask,
    )
    seen = layers.Identity(name="seen")(x)  # (B, T, D)
    state = _first_state(states, len(lstm_units), bidirectional)
    inputs["words"] = keras.Input((int(max_words),), dtype="int32", name="words")
    attention = attention and seen.shape[1] != 1
    decoder = _new_decoder(vocabulary_size, embedding, seen.shape[-1], attention, dropout)
    y = decoder.lstm(decoder.embedding(inputs["words"]), initial_state=state)  # (B, L, D)
    return keras.Model(inputs, decoder.next_word(y, seen, mask), name=name)


class Decoder(NamedTuple):
    """The layers of a describer that speak; those of attention are `None` without it.

    Attributes:
        embedding: words `(B, L)` -> vectors `(B, L, E)`.
        lstm: vectors and the state so far -> what is to be said `(B, L, D)`.
        query: what is to be said -> what it needs to know of the frames.
        attention: the mean of what was seen, weighted by how well it answers the query.
        joined: puts both side by side.
        attended: both -> what is to be said.
        dropout: in training.
        logits: what is to be said -> a number for each word.
        softmax: numbers -> probabilities.
    """

    embedding: keras.Layer
    lstm: LSTM
    query: keras.Layer | None
    attention: keras.Layer | None
    joined: keras.Layer | None
    attended: keras.Layer | None
    dropout: keras.Layer
    logits: keras.Layer
    softmax: keras.Layer

    def next_word(self, y, seen, mask):
        """Probabilities of the words that come next, from outputs of the LSTM.

        Args:
            y: `(B, L, D)`.
            seen: what was seen at each step, `(B, T, D)`; not read without attention.
            mask: `(B, T)` boolean, `False` at padding; `None` if all steps count.

        Returns:
            `(B, L, V)` float32.
        """
        if self.attention is not None:
            # Of the frames alone: what is said after the end of a sentence nobody reads.
            context = self.attention([self.query(y), seen], mask=[None, mask])  # (B, L, D)
            y = self.attended(self.joined([y, context]))
        return self.softmax(self.logits(self.dropout(y)))


LAYER_NAMES = Decoder(
    *("embedding", "decoder", "query", "attention", "joined", "attended"),  # type: ignore[arg-type]
    *("decoder_dropout", "next_word", "probabilities"),  # type: ignore[arg-type]
)
"""What the layers of a `Decoder` are called in a describer."""


def _new_decoder(vocabulary_size, embedding, width, attention, dropout):
    check_weights("describer", "vocabulary_size", vocabulary_size, max(embedding, width))
    check_weights("describer", "lstm_units", embedding + width, 4 * width)
    names = LAYER_NAMES
    looking_back = (
        layers.Dense(width, use_bias=False, name=names.query),
        layers.Attention(name=names.attention),
        layers.Concatenate(name=names.joined),
        layers.Dense(width, "tanh", name=names.attended),
    )
    return Decoder(
        layers.Embedding(int(vocabulary_size), int(embedding), name=names.embedding),
        LSTM(width, return_sequences=True, name=names.lstm),
        *(looking_back if attention else (None,) * 4),
        layers.Dropout(dropout, name=names.dropout),
        layers.Dense(int(vocabulary_size), dtype="float32", name=names.logits),
        layers.Softmax(dtype="float32", name=names.softmax),
    )


def _read_frames(input_shape, encoder, lengths):
    """Inputs by name, what the encoder says of each frame `(B, T, features)`, and the mask."""
    if isinstance(input_shape, list | tuple) and len(input_shape) == 3:
        frames = frames_input("describer", input_shape, "HWC")
        steps = layers.Reshape((1, *frames.shape[1:]), name="one_frame")(frames)
        if lengths:
            raise ValueError(
                "describer: `lengths` must be off for single images; received True with "
                f"`input_shape` {told(input_shape)}."
            )
    else:
        steps = frames = sequence_input("describer", input_shape, encoder)
    inputs, mask = {"frames": frames}, None
    if lengths:
        inputs["lengths"] = keras.Input((), dtype="int32", name="lengths")
        mask = LengthMask(name="mask")(inputs["lengths"], steps)  # (B, T)
    return inputs, encoded(steps, encoder, mask=mask), mask


def _first_state(states, num_layers, bidirectional):
    """The state `[h, c]` that the decoder begins with: that of the last layer that reads."""
    names, state = state_names(num_layers, bidirectional), []
    for part in "hc":
        parts = [states[name] for name in names if name.endswith(part)]
        joined = ops.concatenate(parts, axis=-1) if bidirectional else parts[0]
        state.append(layers.Identity(dtype="float32", name=f"first_{part}")(joined))  # (B, D)
    return state


def _check(vocabulary_size, max_words, embedding):
    check_whole("describer: `vocabulary_size`", vocabulary_size, END + 2, _WORDS)
    check_whole("describer: `max_words`", max_words, 2, _LONGEST)
    check_whole("describer: `embedding`", embedding, 1, _WORDS)
