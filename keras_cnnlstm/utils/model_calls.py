"""Follows the calls in a model's graph on shapes alone, by Keras's public functions."""

from collections.abc import Callable
from typing import Any

import keras


def follow_calls(model: keras.Model, call: Callable[..., Any], inputs: Any = None) -> keras.Model:
    """Runs through the graph of a model with `call(layer, *args, **kwargs)` in place of each layer.

    The layers are left as they are. A model inside of the model counts as one layer.

    Args:
        model: a functional or Sequential model, built.
        call: returns new symbolic tensors, as `layer.compute_output_spec(*args, **kwargs)` does.
        inputs: tensors whose shapes replace those of `model.inputs`, nested as they may be.

    Returns:
        The copy of the graph, with the `inputs` and `outputs` of the run.
    """
    shapes = model.inputs if inputs is None else keras.tree.flatten(inputs)
    graph = keras.Model(model.inputs, model.outputs)  # functional, and not compiled
    given = [
        keras.Input(batch_shape=x.shape, dtype=x.dtype, name=own.name)
        for x, own in zip(shapes, model.inputs, strict=True)
    ]
    return keras.models.clone_model(graph, given, clone_function=lambda x: _StandIn(x, call))


class _StandIn(keras.Operation):
    """Takes the place of a layer in the copy of a graph."""

    def __init__(self, layer, call):
        super().__init__(name=layer.name)
        self.layer, self.call_layer = layer, call

    def compute_output_spec(self, *args, **kwargs):
        return self.call_layer(self.layer, *args, **kwargs)
