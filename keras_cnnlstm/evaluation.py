"""How good a model is: its answers to unseen test data against the truth."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cnnlstm.arguments import check_kind, check_model, check_whole
from keras_cnnlstm.calibration import (
    UNSURE_BELOW,
    Calibration,
    calibration_facts,
    fit_temperature,
    scale_temperature,
    softmax_head,
)
from keras_cnnlstm.decoding import greedy_model
from keras_cnnlstm.files import write_text
from keras_cnnlstm.findings import (
    Answered,
    Say,
    accuracy_by_lengths,
    calibration_of,
    compare,
    find_mistakes,
    reading_of,
)
from keras_cnnlstm.learning_curves import read_history, read_recalls
from keras_cnnlstm.report import write_report
from keras_cnnlstm.report_facts import Findings
from keras_cnnlstm.runs import Run, load_model
from keras_cnnlstm.scanners import read_text
from keras_cnnlstm.scores import (
    score_answers,
    sentence_scores,
)
from keras_cnnlstm.sentences import Description
from keras_cnnlstm.sources import open_source
from keras_cnnlstm.tasks import RunningSum, Task, Text
from keras_cnnlstm.timings import seconds_per_sequence


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
        For each name the entries of `scores`, `number_scores` (`RunningSum`), `text_scores`
        (`Text`) or `sentence_scores` (tasks of `sentences`). For `Digits` those of `scores` for the
        steps, `num_steps` of them, and `sequence_accuracy`, the share of sequences without a
        mistake, with its interval `sequence_accuracy_95`.

    Raises:
        ValueError: if the tests are no data sets by name, or the task is none.
    """
    check_model("score: `model`", model)
    check_kind("score: `task`", task, Task, "the task of the model, such as Trend(4)")
    check_kind("score: `tests`", tests, Mapping, "data sets by name, as digit_tests makes them")
    for sequences in tests.values():
        check_kind(
            "score: `tests`", sequences, tf.data.Dataset, "of data sets, each a tf.data.Dataset"
        )
    if isinstance(task, Description):
        model = greedy_model(model)  # nobody tells it the words
    return {name: _score(model, sequences, task) for name, sequences in tests.items()}


def _score(model, sequences, task):
    if isinstance(task, Description):
        targets, said, _ = answers_of(model, sequences.map(_without_words))
        return sentence_scores(targets, said["words"], task.vocabulary.names)
    return _answered("", model, sequences, task).score


def _answered(name, model, sequences, task) -> Answered:
    """The model's answers, and their score."""
    targets, answers, counts = answers_of(model, sequences)
    if isinstance(task, Text):
        answers = keras.ops.convert_to_numpy(read_text(answers))
    score = score_answers(task, targets, answers, counts)
    return Answered(name, sequences, targets, answers, counts, score)


def _without_words(inputs, words):
    """An example of a describer as one that nobody tells the words."""
    inputs = {name: value for name, value in inputs.items() if name != "words"}
    return inputs if len(inputs) > 1 else inputs["frames"], words


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

    Raises:
        ValueError: if it is no model, or no data.
    """
    check_model("answers_of: `model`", model)
    check_kind("answers_of: `sequences`", sequences, tf.data.Dataset, "a tf.data.Dataset")
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
    check_kind("calibrate: `run`", run, Run, "a Run, as load_run reads it")
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
    scale_temperature(model, temperature)
    return dataclasses.replace(run, model=model, calibration=calibration)


def evaluate(
    run: Run,
    *,
    num_sequences: int | None = None,
    num_mistakes: int = 12,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Scores a run on its test data, finds out why, and writes the report.

    Writes `metrics.json` (the entry `report`), `report.html`, one file that opens offline, and its
    figures as PNG files in `report/`. For a run on digits a reader of single digits is trained at
    the first time, and kept; see `baselines.digit_reader`.

    Args:
        run: the run.
        num_sequences: test sequences to draw, or clips to take at most; by default as in the
            training, and all clips.
        num_mistakes: how many of the most confident mistakes are shown.
        say: told what is being done, a line each time; `print` shows it.

    Returns:
        What `metrics.json` then holds.

    Raises:
        ValueError: if an argument is out of range, or a file of the run cannot be read.
        FileNotFoundError: if a clip of the run is no longer there.
        ConnectionError: if its data set cannot be had.
    """
    check_kind("evaluate: `run`", run, Run, "a Run, as load_run reads it")
    check_whole("evaluate: `num_mistakes`", num_mistakes, 0, 1000)
    if num_sequences is not None:
        check_whole("evaluate: `num_sequences`", num_sequences, 1, 10**9)
    source = open_source(run.config, run.path)
    findings = _findings(run, source, num_sequences, num_mistakes, say)
    metrics = {**run.metrics, "report": findings.to_json()}
    write_text(run.path / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    say("the page is written")
    write_report(run, findings)
    return metrics


def _findings(run, source, num_sequences, num_mistakes, say) -> Findings:
    tests, task = source.tests(num_sequences), source.task
    say("the model answers the test sequences")
    seconds = _seconds(run.model, next(iter(tests.values())))
    learned = Findings({}, seconds, history=read_history(run.path), recalls=read_recalls(run.path))
    if isinstance(task, Description):
        return dataclasses.replace(learned, tests=score(run.model, tests, task))
    answered = [_answered(name, run.model, data, task) for name, data in tests.items()]
    scored = {one.name: one.score for one in answered}
    first, drawn = answered[0], num_sequences or run.config.test_sequences
    reader, found = reading_of(run, source, first.name, drawn, say)
    comparison = compare(run, source, first, reader, found, say)
    compared = dataclasses.replace(learned, tests=scored, comparison=comparison)
    if isinstance(task, RunningSum | Text):
        return compared
    say("the most confident mistakes are explained")
    mistakes, wrong, not_streamed = find_mistakes(run, source, first, found, num_mistakes)
    return dataclasses.replace(
        compared,
        calibration=calibration_of(first, run.calibration.temperature if run.calibration else 1.0),
        by_length=accuracy_by_lengths(first),
        mistakes=mistakes,
        wrong=wrong,
        not_streamed=not_streamed,
    )


def _seconds(model, sequences):
    """The time for a sequence, measured on some of the test sequences."""
    inputs, *_ = next(iter(sequences))
    if not isinstance(inputs, dict):
        return seconds_per_sequence(model, np.asarray(inputs))
    return seconds_per_sequence(model, {name: np.asarray(x) for name, x in inputs.items()})
