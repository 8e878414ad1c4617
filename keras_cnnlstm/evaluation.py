"""How good a model is: its answers to unseen test data against the truth."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cnnlstm.calibration import (
    UNSURE_BELOW,
    Calibration,
    calibration_facts,
    fit_temperature,
    softmax_head,
)
from keras_cnnlstm.files import write_text
from keras_cnnlstm.runs import Run, load_model, load_run
from keras_cnnlstm.scanners import read_text
from keras_cnnlstm.scores import number_scores, scores, step_scores, text_scores
from keras_cnnlstm.sources import open_source
from keras_cnnlstm.tasks import Digits, RunningSum, Task, Text


def score(
    model: keras.Model, tests: Mapping[str, tf.data.Dataset], task: Task
) -> dict[str, dict[str, Any]]:
    """Scores a model on test data.

    Args:
        model: built for the task.
        tests: finite batches of `(inputs, target)` by the name of the score, such as `natural`;
            with a weight `(B, T)` at the end if sequences are of unequal length and there is a
            target at each step. `sources` makes them.
        task: the task that the model was trained for.

    Returns:
        For each name the entries of `scores`, `number_scores` (`RunningSum`) or `text_scores`
        (`Text`). For `Digits` those of `scores` for the steps, `num_steps` of them, and
        `sequence_accuracy`, the share of sequences without a mistake, with its interval
        `sequence_accuracy_95`.
    """
    return {name: _score(model, sequences, task) for name, sequences in tests.items()}


def _score(model, sequences, task):
    if isinstance(task, Text):
        targets, logits, _ = answers_of(model, sequences)
        return text_scores(targets - 1, keras.ops.convert_to_numpy(read_text(logits)))
    if isinstance(task, RunningSum):
        targets, values, counts = answers_of(model, sequences)
        return number_scores(targets[..., 0], values[..., 0], counts)
    if type(task) is Digits:
        return step_scores(*answers_of(model, sequences), task.class_names)
    targets, probabilities, _ = answers_of(model, sequences)
    return scores(targets, probabilities, task.class_names)


def answers_of(
    model: keras.Model, sequences: tf.data.Dataset
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Runs a model over test data.

    Args:
        model: the model.
        sequences: finite batches, as `score` takes them.

    Returns:
        The targets `(N, ...)`, the answers `(N, ...)`, and which steps count, `(N, T)` boolean, or
        `None` if all do.
    """
    parts = [keras.utils.unpack_x_y_sample_weight(batch)[1:] for batch in sequences]
    targets = np.concatenate([np.asarray(target) for target, _ in parts])
    weights = [np.asarray(weight) for _, weight in parts if weight is not None]
    answers = model.predict(sequences.map(lambda frames, *rest: frames), verbose=0)
    return targets, answers, np.concatenate(weights) > 0 if weights else None


def calibrate(run: Run, *, unsure_below: float = UNSURE_BELOW) -> Run:
    """Makes a classifier's probabilities mean what they say, by temperature scaling.

    Divides the logits by one number, fitted to the validation data, and writes it to
    `calibration.json`; `load_run`, and with it predictions, streams and exports, apply it. No
    answer changes, only how sure it is. Calibrating again begins from the model as it was trained.

    Args:
        run: a run whose model answers with the softmax of one Dense layer; see
            `calibration.softmax_head`.
        unsure_below: from now on answers with less probability are told as unsure, 0 to 1.

    Returns:
        The calibrated run.

    Raises:
        ValueError: if an argument is wrong.
        FileNotFoundError: if a clip of the run is no longer there.
        ConnectionError: if its data set cannot be had.
    """
    Calibration(1.0, unsure_below)  # refuses it before the work
    model = load_model(run.path / "model.keras")
    if softmax_head(model) is None:
        raise ValueError(
            f"calibrate: expected a run whose model answers with the softmax of one Dense layer; "
            f"{run.path} holds {run.config.model} for the task {run.config.task}, which has no "
            "temperature."
        )
    source = open_source(run.config, run.path)
    targets, probabilities, counts = answers_of(model, source.validation())
    chosen = np.ones(targets.shape, bool) if counts is None else counts
    targets, probabilities = targets[chosen], probabilities[chosen]  # (N,), (N, num_classes)
    temperature = fit_temperature(targets, probabilities)
    facts = calibration_facts(targets, probabilities, temperature, unsure_below)
    calibration = Calibration(temperature, unsure_below, facts)
    write_text(run.path / "calibration.json", calibration.to_json())
    return dataclasses.replace(load_run(run.path), metrics=run.metrics)
