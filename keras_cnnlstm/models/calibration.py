"""Calibration of probabilities, and temperature scaling, which improves it.

Answers with a probability of 90 % should be right nine times in ten. Knows neither data nor
training: `training.calibrate` fits a temperature to the validation data of a run, and stores it.
"""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import keras
import numpy as np

from keras_cnnlstm.tasks.scores import checked_answers
from keras_cnnlstm.utils.validation import (
    as_numbers,
    check_integer,
    check_model,
    is_number,
    short_repr,
)

CONFIDENCE_THRESHOLD = 0.5
"""Where a calibrated answer is as likely wrong as right."""

_RANGE = 0.05, 20.0  # of temperatures
_SPREAD = 0.5  # of the logarithm of temperatures, before any data
_MOST = 1.01  # of a probability, as half precision rounds it
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Calibration:
    """How the probabilities of a run were corrected, as in `calibration.json`.

    Attributes:
        temperature: divisor of the logits; over 1 if the model was overconfident.
        confidence_threshold: an answer with less probability is marked as unsure; 0 to 1.
        validation: the `calibration_facts` of the data that it was fitted to.
    """

    temperature: float
    confidence_threshold: float = CONFIDENCE_THRESHOLD
    validation: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        facts = self.validation
        numbers = isinstance(facts, Mapping) and all(map(is_number, facts.values()))
        for name, fits, rule in (
            ("temperature", is_number(self.temperature, *_RANGE), "{:g} to {:g}".format(*_RANGE)),
            ("confidence_threshold", is_number(self.confidence_threshold, 0, 1), "0 to 1"),
            ("validation", numbers, "numbers by name"),
        ):
            if not fits:
                raise ValueError(
                    f"calibration: `{name}` must be {rule}; received "
                    f"{short_repr(getattr(self, name))}."
                )

    def to_json(self) -> str:
        """As text for a file."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: if it is something else.
        """
        try:
            values = json.loads(text)
        except (TypeError, RecursionError, ValueError):
            values = None
        if not isinstance(values, dict) or values.keys() - cls.__dataclass_fields__.keys():
            raise ValueError(
                f"calibration: expected a JSON object of {list(cls.__dataclass_fields__)}; "
                f"received {short_repr(text)}. Calibrate the run again."
            )
        return cls(**{"temperature": math.nan, **values})


def fit_temperature(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature T for which `softmax(logits / T)` fits the targets best.

    That of least negative log-likelihood, after Guo et al., "On Calibration of Modern Neural
    Networks", ICML 2017, section 4.2; with a log-normal prior around 1, since a few answers, all of
    them right, would drive T to 0.

    Args:
        targets: `(N,)` integers, of data that the model was not trained on.
        probabilities: `(N, num_classes)`, the model's own.

    Returns:
        T, 0.05 to 20; over 1 if the model is overconfident.

    Raises:
        ValueError: if the arguments do not fit together.

    Example:

    >>> sure = np.array([[0.99, 0.01]] * 10_000)  # and right in 8,000
    >>> round(fit_temperature(np.repeat([0, 1], [8_000, 2_000]), sure), 1)
    3.3
    """
    from scipy.optimize import minimize_scalar

    targets, probabilities = _checked("fit_temperature", targets, probabilities)

    def misfit(log_temperature):
        loss = negative_log_likelihood(targets, scaled(probabilities, np.exp(log_temperature)))
        return len(targets) * loss + (log_temperature / _SPREAD) ** 2 / 2

    bounds = np.log(_RANGE)
    # So that answers equal to 1e-7 have temperatures equal to 1e-6.
    fine = {"xatol": 1e-8}
    return float(np.exp(minimize_scalar(misfit, bounds=bounds, method="bounded", options=fine).x))


def scaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """`softmax(logits / temperature)` from `softmax(logits)`.

    Args:
        probabilities: `(..., num_classes)`.
        temperature: over 0.

    Returns:
        Probabilities `(..., num_classes)` float64.

    Raises:
        ValueError: if there are no probabilities, or the temperature is out of range.

    Example:

    >>> scaled(np.array([0.9, 0.1]), 2).round(3).tolist()
    [0.75, 0.25]
    """
    _check_temperature("scaled", temperature)
    probabilities = as_numbers("scaled: `probabilities`", probabilities).astype(float)
    if not probabilities.size:
        raise ValueError(
            f"scaled: `probabilities` must be one or more; received shape {probabilities.shape}."
        )
    logits = np.log(np.maximum(probabilities, _TINY))
    powers = np.exp((logits - logits.max(axis=-1, keepdims=True)) / float(temperature))
    return powers / powers.sum(axis=-1, keepdims=True)


def negative_log_likelihood(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean of `-log(probability of the target)`, in nats, of `(N,)` and `(N, num_classes)`."""
    targets, probabilities = _checked("negative_log_likelihood", targets, probabilities)
    truth = probabilities[np.arange(len(targets)), targets]
    return float(-np.log(np.maximum(truth, _TINY)).mean())


def reliability(
    targets: np.ndarray, probabilities: np.ndarray, bins: int = 15
) -> list[dict[str, float]]:
    """The points of a calibration curve: how often answers are right, by their confidence.

    Args:
        targets: `(N,)` integers.
        probabilities: `(N, num_classes)`; the largest of a row is the answer's confidence.
        bins: equal parts of 0 to 1 that answers are sorted into.

    Returns:
        For each bin with answers, by confidence: the mean `confidence`, the `accuracy`, and the
        `count`.

    Raises:
        ValueError: if the arguments do not fit together.

    Example:

    >>> reliability(np.array([0, 1]), np.array([[0.9, 0.1], [0.9, 0.1]]))
    [{'confidence': 0.9, 'accuracy': 0.5, 'count': 2}]
    """
    targets, probabilities = _checked("reliability", targets, probabilities)
    check_integer("reliability: `bins`", bins, 1, 1000)
    sure = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    places = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)  # ends belong to their bin
    return [
        {
            "confidence": float(sure[places == place].mean()),
            "accuracy": float(right[places == place].mean()),
            "count": int((places == place).sum()),
        }
        for place in np.unique(places)
    ]


def expected_calibration_error(
    targets: np.ndarray, probabilities: np.ndarray, bins: int = 15
) -> float:
    """The distance of confidence and accuracy of a bin, averaged over all answers; 0 to 1.

    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015,
    section 3; with the answer's probability alone, as Guo et al., ICML 2017, equation 3.

    Args:
        targets: `(N,)` integers.
        probabilities: `(N, num_classes)`.
        bins: as in `reliability`.
    """
    points = reliability(targets, probabilities, bins)
    distance = sum(p["count"] * abs(p["confidence"] - p["accuracy"]) for p in points)
    return distance / sum(p["count"] for p in points)


def calibration_facts(
    targets: np.ndarray, probabilities: np.ndarray, temperature: float, confidence_threshold: float
) -> dict[str, float]:
    """The effect of a temperature and of a confidence threshold on data.

    Args:
        targets: `(N,)` integers.
        probabilities: `(N, num_classes)`, the model's own.
        temperature: over 0.
        confidence_threshold: 0 to 1.

    Returns:
        `num_answers`; `calibration_error_before` and `calibration_error` after;
        `log_likelihood_loss_before` and `log_likelihood_loss`, in nats; `share_sure`, of answers
        that reach the threshold; `accuracy_where_sure`, theirs.

    Raises:
        ValueError: if the arguments do not fit together.
    """
    targets, probabilities = _checked("calibration_facts", targets, probabilities)
    Calibration(1.0, confidence_threshold)  # checks it
    after = scaled(probabilities, temperature)
    sure = after.max(axis=1) >= confidence_threshold
    right = after.argmax(axis=1) == targets
    return {
        "num_answers": len(targets),
        "calibration_error_before": expected_calibration_error(targets, probabilities),
        "calibration_error": expected_calibration_error(targets, after),
        "log_likelihood_loss_before": negative_log_likelihood(targets, probabilities),
        "log_likelihood_loss": negative_log_likelihood(targets, after),
        "share_sure": float(sure.mean()),
        "accuracy_where_sure": float(right[sure].mean()) if sure.any() else 0.0,
    }


def facts_as_text(facts: Mapping[str, Any]) -> str:
    """The `calibration_facts` on one line."""
    return (
        f"calibration error {facts['calibration_error_before']:.2%} before, "
        f"{facts['calibration_error']:.2%} after, {facts['share_sure']:.2%} of answers sure, of "
        f"these {facts['accuracy_where_sure']:.2%} right"
    )


def softmax_head(model: keras.Model) -> keras.layers.Dense | None:
    """The layer whose softmax is a model's answer; `None` if the answer is something else.

    Raises:
        ValueError: if it is no model.
    """
    check_model("softmax_head: `model`", model)
    *_, last = model.layers
    softmax = isinstance(last, keras.layers.Dense) and last.activation is keras.activations.softmax
    return last if softmax and len(model.outputs) == 1 else None


def scale_temperature(model: keras.Model, temperature: float) -> None:
    """Divides a classifier's logits by a temperature, in the weights of its last layer.

    So the calibrated model has the same layers, and is saved, streamed and exported as before. The
    largest logit stays the largest.

    Args:
        model: one with a `softmax_head`.
        temperature: from `fit_temperature`.

    Raises:
        ValueError: if the answer is no softmax of one Dense layer, or an argument is wrong.
    """
    _check_temperature("scale_temperature", temperature)
    head = softmax_head(model)
    if head is None:
        raise ValueError(
            "scale_temperature: `model` must answer with the softmax of a Dense layer; received "
            f"{model.name!r}, whose last layer is {model.layers[-1].name!r}. Numbers, texts and "
            "averages of frames have no temperature."
        )
    head.set_weights([weight / float(temperature) for weight in head.get_weights()])


def _check_temperature(function, temperature):
    if not is_number(temperature, sys.float_info.min, sys.float_info.max):
        raise ValueError(
            f"{function}: `temperature` must be over 0; received {short_repr(temperature)}."
        )


def _checked(function, targets, probabilities) -> tuple[np.ndarray, np.ndarray]:
    targets, probabilities = checked_answers(function, targets, probabilities)
    if probabilities.min() < 0 or probabilities.max() > _MOST:
        raise ValueError(
            f"{function}: `probabilities` must be 0 to 1; received {probabilities.min():g} to "
            f"{probabilities.max():g}. Take the softmax of logits."
        )
    # In float32 the least of a flat loss would be uncertain by a thousandth of T.
    return targets, probabilities.astype(float)
