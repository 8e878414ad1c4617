"""Layers that `keras.RematScope` can recompute in the backward pass, to save memory."""

import functools


class Recomputed:
    """Mixed into a layer whose `call` takes `training`, which TensorFlow refuses to recompute.

    `tf.recompute_grad` takes no arguments by name in a graph, so Keras 3.15.1 fails with its own
    layers that have any, and around a whole model (`mode="full"`). Name the layers to recompute:
    `keras.RematScope("list_of_layers", layer_names=["conv1"])`.
    """

    def rematerialized_call(self, layer_call, *args, **kwargs):
        """As that of `keras.Layer`, with the arguments by name filled in."""
        filled_in = functools.partial(layer_call, **kwargs)
        recomputed = super().rematerialized_call(filled_in, *args)  # type: ignore[misc]
        return lambda *given, **same: recomputed(*given)
