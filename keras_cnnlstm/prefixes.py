"""A model that answers once, made to answer after each step: of the same layers, to train it so.

A label of the whole sequence says little of any one frame. If it is known what the answer would
have been after each step, the loss can ask for all of them ("target replication" in Lipton et al.,
"Learning to Diagnose with LSTM Recurrent Neural Networks", ICLR 2016, there of one and the same
label). The model that is saved stays the one that answers at the end.
"""

import keras
import numpy as np
from keras import layers, ops

from keras_cnnlstm.arguments import as_numbers
from keras_cnnlstm.streaming import chain_of


def every_step_model(model: keras.Model, orders: np.ndarray | None = None) -> keras.Model:
    """The model that answers after each step, made of the same layers as `model`.

    Nothing is copied: training one shows in the other. Given several orders, it answers to the
    frames in each of them, while the encoder, which costs nearly all, reads each frame once. The
    frames may come from several sequences of a batch.

    Args:
        model: a model from `frames (B, T, H, W, C)` whose layers form a chain with one LSTM or
            more, the last of which returns its last output: `models.cnn_lstm` and its like, not
            bidirectional.
        orders: `(K, T)`, in which orders the frames are shown to the LSTM, permutations of 0 to
            T - 1; by default as they are, for any T. `(G, K, T)`: which of the frames of G
            sequences, 0 to G*T - 1, are shown in place of each of the G, as `TrendSoFar.orders`
            says; B must be a multiple of G.

    Returns:
        A model from the same frames to `(B, K*T, num_classes)`, order by order. Without `orders`,
        or if the last of them are a sequence's own frames, its last answer is that of `model`.

    Raises:
        ValueError: if the model's layers form no such chain, or `orders` are none of its frames.

    Example:

    >>> from keras_cnnlstm.models import cnn_lstm
    >>> every_step_model(cnn_lstm()).output_shape
    (None, 4, 7)
    >>> every_step_model(cnn_lstm(), [[3, 2, 1, 0], [0, 1, 2, 3]]).output_shape
    (None, 8, 7)
    """
    chain = chain_of(model)
    recurrent = [layer for layer in chain if isinstance(layer, layers.LSTM)]
    if not recurrent or recurrent[-1].return_sequences or recurrent[-1].go_backwards:
        raise ValueError(
            "every_step_model: `model` must read its frames in order by LSTMs, the last of which "
            f"returns its last output; {model.name!r} does not. Build a cnn_lstm with "
            "bidirectional=False."
        )
    time = model.inputs[0].shape[1]
    if orders is not None:
        orders = _checked_orders(orders, time)
    x = model.inputs[0]
    for layer in chain:
        if layer is recurrent[0] and orders is not None:
            x = ops.reshape(x, (-1, len(orders) * time, x.shape[-1]))  # (B/G, G*T, F)
            x = ops.take(x, orders.reshape(-1), axis=1)  # (B/G, G*K*T, F)
            x = ops.reshape(x, (-1, time, x.shape[-1]))  # (B*K, T, F)
        x = (_all_outputs(layer) if layer is recurrent[-1] else layer)(x)
    if orders is not None:
        x = ops.reshape(x, (-1, orders[0].size, x.shape[-1]))  # (B, K*T, num_classes)
    return keras.Model(model.inputs[0], x, name=f"{model.name}_every_step")


def _checked_orders(orders, time) -> np.ndarray:
    """The orders as `(G, K, T)`."""
    orders = as_numbers("every_step_model: `orders`", orders, kinds="iu")
    if orders.ndim == 2:
        orders = orders[None]
    fits = orders.ndim == 3 and orders.size and orders.shape[2] == time
    if fits:
        inside = orders.min() >= 0 and orders.max() < len(orders) * time
        fits = inside and (np.diff(np.sort(orders)) > 0).all()  # no frame twice in an order
    if not fits:
        raise ValueError(
            f"every_step_model: `orders` must be (K, {time}) permutations of 0 to T - 1, for a "
            f"model whose number of frames is T = {time}, or (G, K, {time}) frames of G sequences, "
            f"0 to G*T - 1, none twice in an order; received shape {orders.shape}."
        )
    return orders


def _all_outputs(lstm):
    """An LSTM with the cell, and so with the weights, of another, that returns all its outputs."""
    config = {**lstm.get_config(), "return_sequences": True, "name": f"{lstm.name}_every_step"}
    twin = type(lstm).from_config(config)
    twin.cell = lstm.cell
    return twin


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
def last_step_accuracy(target, probabilities):
    """Whether the answer at the last step is right: 1 or 0 for each, `(B,)` float32.

    Args:
        target: `(B, T)` integers.
        probabilities: `(B, T, num_classes)`.
    """
    answers = ops.argmax(probabilities[:, -1], axis=-1)
    return ops.cast(ops.equal(ops.cast(target[:, -1], answers.dtype), answers), "float32")
