"""A running average of a model's weights, which answers better than the weights themselves.

Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018; as
an exponential average Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017.
"""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np

_EVERY = 8  # batches from one update to the next: nothing is lost, and seven in eight cost nothing


class WeightAverage:
    """An exponential average over the batches of a training.

    Unlike `use_ema` of Keras's optimizers it averages the statistics of batch normalisation too,
    which belong to the averaged weights, exchanges weights without rounding, and does not write
    the average into the model at the end of each `fit`.

    Args:
        model: the model in training.
        momentum: share of the old average in the new one, for each batch; 0 to below 1. It grows
            to that from 0.1 at the start, so that the first weights are soon forgotten.

    Attributes:
        variables: the averages, in the order of the model's weights.
    """

    def __init__(self, model: keras.Model, momentum: float):
        self.momentum = momentum
        self._weights = [w for w in model.weights if keras.backend.is_float_dtype(w.dtype)]
        self.variables = [
            keras.Variable(w, dtype=w.dtype, trainable=False, name=f"average_{i}")
            for i, w in enumerate(self._weights)
        ]

    def update(self, step: int) -> None:
        """Takes in the weights after a batch.

        Args:
            step: batches trained so far, this one included.
        """
        if step % _EVERY:
            return
        momentum = min(self.momentum, (1 + step) / (10 + step)) ** _EVERY
        for average, weight in zip(self.variables, self._weights, strict=True):
            average.assign(average + (1 - momentum) * (weight - average))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the model's weights are the average."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def exchange(self) -> None:
        """Puts the averages into the model, and its weights into their place; again, back."""
        for average, weight in zip(self.variables, self._weights, strict=True):
            before = np.array(keras.ops.convert_to_numpy(weight))
            weight.assign(average)
            average.assign(before)
