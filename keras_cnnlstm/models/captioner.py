"""Captions: an encoder-decoder of LSTMs that learns to describe frames, token by token.

One LSTM reads the vectors of the frames, a second one writes the caption, starting from the final
state of the first: Donahue et al., "Long-term Recurrent Convolutional Networks for Visual
Recognition and Description" (LRCN), CVPR 2015, section 5, and, for a single image, Vinyals et al.,
"Show and Tell: A Neural Image Caption Generator", CVPR 2015, section 3.

In training the decoder reads the right tokens before each step and predicts the next one (teacher
forcing). `decoding` makes models that continue from their own tokens.
"""

from collections.abc import Mapping, Sequence

import keras
from keras import layers, ops

from keras_cnnlstm.layers.frames_model import FramesModel
from keras_cnnlstm.layers.length_mask import LengthMask
from keras_cnnlstm.layers.lstm import LSTM
from keras_cnnlstm.models import blocks
from keras_cnnlstm.models.frame_encoder import encoded, frame_encoder, sequence_input
from keras_cnnlstm.tasks.vocabulary import END
from keras_cnnlstm.utils.validation import check_dropout, check_integer, short_repr

_TOKENS, _LONGEST = 1_000_000, 1000  # in a vocabulary, in a caption


def captioner(
    input_shape: Sequence[int | None] = (4, 28, 28, 1),
    vocabulary_size: int = 20,
    max_tokens: int = 16,
    *,
    encoder: str | keras.Layer = "conv_pool",
    lstm_units: Sequence[int] = (128,),
    bidirectional: bool = False,
    embedding: int = 64,
    attention: bool = True,
    dropout: float = 0.0,
    lengths: bool = False,
    name: str = "captioner",
) -> keras.Model:
    """The model that learns captions: from frames and the tokens before to the next token.

    The layers that read are those of `models.cnn_lstm`, under the same names, so that the weights
    of a trained classifier can be taken over. With `attention` the decoder looks back at all frames
    for each token (Luong et al., "Effective Approaches to Attention-based Neural Machine
    Translation", EMNLP 2015, section 3.1, with the score "general"). Without, it knows of the
    frames only the state that it starts from.

    Args:
        input_shape: `(T, H, W, C)` of a sequence, T possibly `None`; `(H, W, C)` of one image.
        vocabulary_size: V, tokens in the vocabulary, with those of `vocabulary.SPECIAL`.
        max_tokens: L, tokens of the longest caption, with its end.
        encoder: frame -> vector, as in `models.cnn_lstm`.
        lstm_units: units of each LSTM layer that reads, first to last. The decoder has as many as
            the last of them (twice as many if `bidirectional`), since it takes its state.
        bidirectional: read the frames in both directions.
        embedding: E, size of the vector of a token.
        attention: look back at the frames for each token; without effect on a single frame.
        dropout: share of the encoder's vectors and of the LSTMs' outputs dropped in training.
        lengths: sequences of unequal length, as in `models.cnn_lstm`.
        name: the model's name.

    Returns:
        A model from the dict of `frames (B, T, H, W, C) uint8`, or `(B, H, W, C)`, perhaps
        `lengths (B,) int32`, and `tokens (B, L) int32`, `START` and the right tokens but the last,
        to the probabilities of the next tokens, `(B, L, V) float32`.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> captioner().output_shape
    (None, 16, 20)
    """
    check_integer("captioner: `vocabulary_size`", vocabulary_size, END + 2, _TOKENS)
    check_integer("captioner: `max_tokens`", max_tokens, 2, _LONGEST)
    check_integer("captioner: `embedding`", embedding, 1, _TOKENS)
    lstm_units = blocks.checked_units("captioner", lstm_units, "lstm_units")
    check_dropout("captioner", dropout)
    inputs, x, mask = _read_frames(input_shape, frame_encoder(encoder), lengths)
    x, states = blocks.lstm_stack(
        blocks.some_dropped(x, dropout),
        lstm_units,
        bidirectional=bidirectional,
        dropout=dropout,
        return_sequences=True,
        return_state=True,
        mask=mask,
    )
    seen = layers.Identity(name="seen")(x)  # (B, T, D)
    state = _first_state(states, len(lstm_units), bidirectional)
    inputs["tokens"] = keras.Input((int(max_tokens),), dtype="int32", name="tokens")
    attention = attention and seen.shape[1] != 1
    decoder = _new_decoder(vocabulary_size, embedding, seen.shape[-1], attention, dropout)
    y = decoder["embedding"](inputs["tokens"])  # (B, L, E)
    y = decoder["decoder"](y, initial_state=state)  # (B, L, D)
    return FramesModel(inputs, next_token(decoder, y, seen, mask), name=name)


def next_token(
    decoder: Mapping[str, keras.Layer],
    y: keras.KerasTensor,
    seen: keras.KerasTensor | None,
    mask: keras.KerasTensor | None,
) -> keras.KerasTensor:
    """Probabilities of the next tokens, `(B, L, V)` float32.

    From outputs of the LSTM `(B, L, D)` and, for attention, the vectors of the frames `(B, T, D)`
    and their mask `(B, T)`, or `None`. `decoder` has the layers of a captioner by name.
    """
    if "attention" in decoder:
        # No mask of the captions: nothing reads the outputs after their ends.
        context = decoder["attention"]([decoder["query"](y), seen], mask=[None, mask])  # (B, L, D)
        y = decoder["attended"](decoder["joined"]([y, context]))
    logits = decoder["next_token"](decoder["decoder_dropout"](y))
    return decoder["probabilities"](logits)


def _new_decoder(vocabulary_size, embedding, width, attention, dropout):
    """The layers that write, by name."""
    blocks.check_weights("captioner", "vocabulary_size", vocabulary_size, max(embedding, width))
    blocks.check_weights("captioner", "lstm_units", embedding + width, 4 * width)
    looking_back = [
        layers.Dense(width, use_bias=False, name="query"),
        layers.Attention(name="attention"),
        layers.Concatenate(name="joined"),
        layers.Dense(width, "tanh", name="attended"),
    ]
    decoder = [
        layers.Embedding(int(vocabulary_size), int(embedding), name="embedding"),
        LSTM(width, return_sequences=True, name="decoder"),
        *(looking_back if attention else ()),
        layers.Dropout(dropout, name="decoder_dropout"),
        layers.Dense(int(vocabulary_size), dtype="float32", name="next_token"),
        layers.Softmax(dtype="float32", name="probabilities"),
    ]
    return {layer.name: layer for layer in decoder}


def _read_frames(input_shape, encoder, lengths):
    """Inputs by name, the vectors of the frames `(B, T, features)`, and the mask."""
    if isinstance(input_shape, list | tuple) and len(input_shape) == 3:
        frames = blocks.frames_input("captioner", input_shape, "HWC")
        steps = layers.Reshape((1, *frames.shape[1:]), name="one_frame")(frames)
        if lengths:
            raise ValueError(
                "captioner: `lengths` must be off for single images; received True with "
                f"`input_shape` {short_repr(input_shape)}."
            )
    else:
        steps = frames = sequence_input("captioner", input_shape, encoder)
    inputs, mask = {"frames": frames}, None
    if lengths:
        inputs["lengths"] = keras.Input((), dtype="int32", name="lengths")
        mask = LengthMask(name="mask")(inputs["lengths"], steps)  # (B, T)
    return inputs, encoded(steps, encoder, mask=mask), mask


def _first_state(states, num_layers, bidirectional):
    """The state `[h, c]` that the decoder starts from: the final one of the last layer."""
    names, state = blocks.state_names(num_layers, bidirectional), []
    for part in "hc":
        parts = [states[name] for name in names if name.endswith(part)]
        joined = ops.concatenate(parts, axis=-1) if bidirectional else parts[0]
        state.append(layers.Identity(dtype="float32", name=f"first_{part}")(joined))  # (B, D)
    return state
