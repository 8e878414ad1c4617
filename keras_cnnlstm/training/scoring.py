"""Scores a model on test data, and calibrates a trained classifier on its validation data."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_cnnlstm.data.sources import open_source, other_tests
from keras_cnnlstm.models.calibration import (
    CONFIDENCE_THRESHOLD,
    Calibration,
    calibration_facts,
    fit_temperature,
    scale_temperature,
    softmax_head,
)
from keras_cnnlstm.models.decoding import answering_model
from keras_cnnlstm.models.graph import split_model
from keras_cnnlstm.tasks.label_scores import bootstrap_interval
from keras_cnnlstm.tasks.scores import grouped_interval
from keras_cnnlstm.tasks.task import Task
from keras_cnnlstm.training.run_directory import Run, load_model
from keras_cnnlstm.utils.files import write_text
from keras_cnnlstm.utils.validation import check_instance, check_integer, check_model


class Answers(NamedTuple):
    """What a model answers to test data, sequence by sequence.

    Attributes:
        targets: `(N, ...)`.
        answers: `(N, ...)`, as the model gives them.
        mask: `(N, T)` boolean, the steps that count; `None` if all do.
    """

    targets: np.ndarray
    answers: np.ndarray
    mask: np.ndarray | None


def score(
    model: keras.Model,
    tests: Mapping[str, tf.data.Dataset],
    task: Task,
    groups: Sequence[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Scores a model on test data.

    Args:
        model: built for the task.
        tests: finite batches of `(inputs, target)` by the name of the score, such as `natural`;
            with a weight `(B, T)` at the end if sequences are of unequal length and there is a
            target at each step. `sources` makes them.
        task: the task that the model was trained for.
        groups: the group of each test sequence, if some of them belong together. The interval of
            the measure is then that of `grouped_score`.

    Returns:
        For each name what `task.score` returns.

    Raises:
        ValueError: if the tests are no data sets by name, or the task is none.
    """
    check_model("score: `model`", model)
    check_instance("score: `task`", task, Task, "the task of the model, such as Trend(4)")
    check_instance("score: `tests`", tests, Mapping, "data sets by name, as digit_tests makes them")
    for sequences in tests.values():
        check_instance(
            "score: `tests`", sequences, tf.data.Dataset, "of data sets, each a tf.data.Dataset"
        )
    asked = answering_model(model)
    answered = {name: answers_of(asked, data) for name, data in tests.items()}
    return {name: grouped_score(task, answers, groups) for name, answers in answered.items()}


def grouped_score(task: Task, answers: Answers, groups: Sequence[str] | None) -> dict[str, Any]:
    """The score of answers; its interval by bootstrap over groups, where some are larger than one.

    Sequences of one group, such as clips of one film, are often right or wrong together, so an
    interval that takes each for itself is too narrow.

    Args:
        task: the task.
        answers: to N sequences.
        groups: the group of each, or `None`.

    Returns:
        What `task.score` returns; with groups also `num_groups`.
    """
    found = task.score(*answers)
    single = groups is not None and len(set(groups)) == len(groups)
    if groups is None or (single and task.measure_is_mean):
        return found
    interval = measure_interval(task, answers, groups)
    found["num_groups"] = len(set(groups))
    # Where all answers are right no draw differs; then the interval of the score itself stands.
    return found if interval[0] == interval[1] else {**found, f"{task.measure}_95": interval}


def measure_interval(task: Task, answers: Answers, groups: Sequence[str]) -> list[float]:
    """The 95 % interval of the task's measure by bootstrap over groups of sequences."""
    if task.measure_is_mean and answers.mask is None:
        measures = measures_of(task, answers)
        if task.measure == "rmse":  # of a mean of squares
            return [end**0.5 for end in grouped_interval(measures**2, groups)]
        return grouped_interval(measures, groups)

    return bootstrap_interval(lambda rows: task.measured(*_chosen(answers, rows)), groups)


def measures_of(task: Task, answers: Answers) -> np.ndarray:
    """The task's measure of each sequence alone, `(N,)`: of accuracy 1 or 0."""
    targets, found, _ = answers
    if task.measure == "accuracy" and task.classifies and found.ndim == 2:
        return (found.argmax(axis=1) == targets).astype(float)
    rows = [np.array([k]) for k in range(len(targets))]
    return np.array([task.measured(*_chosen(answers, row)) for row in rows])


def _chosen(answers, rows) -> Answers:
    """Some rows of answers."""
    targets, found, mask = answers
    return Answers(targets[rows], found[rows], None if mask is None else mask[rows])


def answers_of(model: keras.Model, sequences: tf.data.Dataset) -> Answers:
    """Runs a model over test data, each batch of which is drawn once.

    Args:
        model: the model; if it has several outputs, the first one answers.
        sequences: finite batches, as `score` takes them.

    Raises:
        ValueError: if it is no model, or no data.
    """
    check_model("answers_of: `model`", model)
    check_instance("answers_of: `sequences`", sequences, tf.data.Dataset, "a tf.data.Dataset")
    return joined(answers for _, answers in answered_batches(model, sequences))


def answered_batches(
    model: keras.Model, sequences: tf.data.Dataset
) -> Iterator[tuple[Any, Answers]]:
    """The inputs of each batch, as NumPy arrays, and what a model answers to them.

    Features of frames that are encoded already go to the layers behind the model's encoder.
    """
    names = [tensor.name for tensor in getattr(model, "inputs", None) or ()]
    given = sequences.element_spec[0]
    if isinstance(given, dict) and "features" in given and "frames" in names:
        model = split_model(model).sequence_model
        names = [tensor.name for tensor in model.inputs]
    for batch in sequences:
        inputs, targets, weights = keras.utils.unpack_x_y_sample_weight(batch)
        asked = inputs = keras.tree.map_structure(np.asarray, inputs)
        if isinstance(inputs, dict) and names:
            chosen = {name: inputs[name] for name in names}
            asked = chosen if len(names) > 1 else chosen[names[0]]
        answers = model.predict_on_batch(asked)
        if isinstance(answers, dict):
            answers = answers[next(iter(model.output))]
        targets = np.asarray(targets)
        answers = answers[: len(targets)]  # of a model on several devices, each answers all
        mask = None if weights is None else np.asarray(weights) > 0
        yield inputs, Answers(targets, answers, mask)


def joined(parts: Iterable[Answers]) -> Answers:
    """The answers to several batches as one."""
    parts = list(parts)
    if not parts:
        raise ValueError("answers_of: `sequences` must be one batch or more; received none.")
    targets, answers, masks = zip(*parts, strict=True)
    mask = None if masks[0] is None else np.concatenate(masks)
    return Answers(np.concatenate(targets), np.concatenate(answers), mask)


def calibrate(
    run: Run, *, confidence_threshold: float = CONFIDENCE_THRESHOLD, source: Any = None
) -> Run:
    """Makes a classifier's probabilities mean what they say, by temperature scaling.

    Divides the logits by one number, fitted to the validation data, and writes it to
    `calibration.json`; `load_run`, and with it predictions, streams and exports, apply it. No
    answer changes, only how sure it is. Calibrating again begins from the model as it was trained.

    Args:
        run: a run whose model answers with the softmax of one Dense layer; see
            `calibration.softmax_head`.
        confidence_threshold: answers of less probability, 0 to 1, are marked as unsure.
        source: of the run, if it is open already.

    Returns:
        The calibrated run.

    Raises:
        ValueError: if an argument is wrong.
        FileNotFoundError: if a clip of the run is no longer there.
        ConnectionError: if its data set cannot be had.
    """
    check_instance("calibrate: `run`", run, Run, "a Run, as load_run reads it")
    Calibration(1.0, confidence_threshold)  # refuses it before the work
    model = load_model(run.path / "model.keras")
    if softmax_head(model) is None:
        raise ValueError(
            f"calibrate: expected a run whose model answers with the softmax of one Dense layer; "
            f"{run.path} holds {run.config.model} for the task {run.config.task}, which has no "
            "temperature."
        )
    source = source or open_source(run.config, run.path)
    targets, probabilities, mask = answers_of(model, source.validation())
    chosen = np.ones(targets.shape, bool) if mask is None else mask
    targets, probabilities = targets[chosen], probabilities[chosen]  # (N,), (N, num_classes)
    temperature = fit_temperature(targets, probabilities)
    facts = calibration_facts(targets, probabilities, temperature, confidence_threshold)
    calibration = Calibration(temperature, confidence_threshold, facts)
    write_text(run.path / "calibration.json", calibration.to_json())
    scale_temperature(model, temperature)
    return dataclasses.replace(run, model=model, calibration=calibration)


def batches_to_score(
    run: Run,
    *,
    data: str | None = None,
    num_sequences: int | None = None,
    labels: str | None = None,
) -> tuple[dict[str, tf.data.Dataset], Task, list[str] | None]:
    """The test data of a run, or other data that its model is to be tested on.

    Args:
        run: the run.
        data: test digits of this data set, or all clips of this folder; by default the test part of
            the data that it was trained on.
        num_sequences: how many sequences to draw for each score, or clips to take at most; by
            default as in the training, and all clips.
        labels: the table of labels of the clips in `data`, as `TrainConfig.labels`.

    Returns:
        Batches by the name of the score, the task, and the group of each test sequence, if it has
        one: what `score` takes after the model.

    Raises:
        ValueError: if `num_sequences` is out of range, or the data do not fit the model.
    """
    if num_sequences is not None:
        check_integer("batches_to_score: `num_sequences`", num_sequences, 1, 10**9)
    if data is not None:
        return *other_tests(run.config, run.task, data, num_sequences, labels), None
    if labels is not None:
        raise ValueError(
            f"labels must come with data, the clips that they are of; received {labels} alone."
        )
    source = open_source(run.config, run.path)
    return source.tests(num_sequences), source.task, source.test_groups(num_sequences)
