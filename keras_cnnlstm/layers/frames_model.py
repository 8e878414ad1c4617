"""A model that refuses what Keras would cast to its inputs without a word."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_cnnlstm.utils.validation import as_integers


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class FramesModel(keras.Model):
    """A functional `keras.Model` that reads raw frames, and refuses any others.

    Keras casts what a model is given to the dtype of its inputs: frames that were divided by 255
    become black ones, and -5 becomes 251. Made, saved and used as `keras.Model(inputs, outputs)`.

    Raises:
        ValueError: when called, fitted, or asked to evaluate or predict with floats or booleans
            for an input of uint8; with NumPy arrays, whose values can be seen, also if integers
            are not 0 to 255, if `lengths` are not integers from 1 to T, or if there is no
            sequence. A `tf.data` pipeline must see to its values; `layers.LengthMask` says what
            it makes of other lengths.

    Example:

    >>> frames = keras.Input((2, 2, 1), dtype="uint8", name="frames")
    >>> model = FramesModel(frames, keras.layers.Flatten(dtype="uint8")(frames), name="pixels")
    >>> model(np.ones((3, 2, 2, 1), "uint8")).shape
    TensorShape([3, 4])
    """

    def __call__(self, inputs, *args, **kwargs):
        _check_inputs(self, inputs)
        return super().__call__(inputs, *args, **kwargs)

    def stateless_call(self, trainable_variables, non_trainable_variables, inputs, *args, **kwargs):
        """As `keras.Model.stateless_call`; JAX trains by it."""
        _check_inputs(self, inputs)
        variables = trainable_variables, non_trainable_variables
        return super().stateless_call(*variables, inputs, *args, **kwargs)

    # In these Keras calls the model with tensors that have no values yet.

    def fit(self, x=None, *args, **kwargs):
        """As `keras.Model.fit`."""
        _check_inputs(self, x)
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        """As `keras.Model.evaluate`."""
        _check_inputs(self, x)
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        """As `keras.Model.predict`."""
        _check_inputs(self, x)
        return super().predict(x, *args, **kwargs)

    def predict_on_batch(self, x):
        """As `keras.Model.predict_on_batch`."""
        _check_inputs(self, x)
        return super().predict_on_batch(x)


def _check_inputs(model, given):
    """Looks at the dtypes of tensors and data sets, and at the values of NumPy arrays."""
    if hasattr(given, "element_spec"):  # a tf.data.Dataset of inputs, or of inputs and targets
        spec = given.element_spec
        given = spec[0] if isinstance(spec, tuple) else spec
    if isinstance(given, Mapping):
        values = {x.name: given.get(x.name) for x in model.inputs}
    else:
        names = [x.name for x in model.inputs]
        values = dict(zip(names, keras.tree.flatten(given), strict=False))
    for own in model.inputs:
        _check_frames(f"{model.name}: `{own.name}`", own, values.get(own.name))
    frames, lengths = values.get("frames"), values.get("lengths")
    if isinstance(frames, np.ndarray) and isinstance(lengths, np.ndarray):
        as_integers(f"{model.name}: `lengths`", lengths, len(frames), 1, frames.shape[1])


def _check_frames(what: str, own: keras.KerasTensor, value: Any) -> None:
    array = value if isinstance(value, np.ndarray) else None
    if array is not None and not array.size:
        raise ValueError(f"{what} must be one sequence or more; received shape {array.shape}.")
    if own.dtype != "uint8" or not hasattr(value, "dtype"):
        return
    received = getattr(value.dtype, "name", str(value.dtype))
    if "int" in received:
        if array is None or array.dtype == np.uint8 or (array.min() >= 0 and array.max() <= 255):
            return
        received += f" from {array.min()} to {array.max()}"
    raise ValueError(
        f"{what} must be uint8 from 0 to 255, since the model rescales the pixels itself; received "
        f"{received}. If they were divided by 255, multiply by 255 and cast to uint8."
    )
