"""How good a model is, and why: its answers to unseen test data against the truth."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_cnnlstm.data.sources import open_source
from keras_cnnlstm.evaluation.comparisons import (
    BagOfFrames,
    Oracle,
    ShuffledFrames,
    compare,
    frames_of,
)
from keras_cnnlstm.evaluation.learning_curves import read_history, read_recalls
from keras_cnnlstm.evaluation.mistakes import MistakenFrames, explain_mistakes
from keras_cnnlstm.evaluation.reader import digit_reader
from keras_cnnlstm.evaluation.report import Findings, write_report
from keras_cnnlstm.models.calibration import expected_calibration_error, reliability, scaled
from keras_cnnlstm.models.decoding import answering_model
from keras_cnnlstm.tasks.scores import accuracy_by_length
from keras_cnnlstm.training.run_directory import Run
from keras_cnnlstm.training.scoring import Answers, answered_batches, grouped_score, joined, score
from keras_cnnlstm.utils.files import write_text
from keras_cnnlstm.utils.validation import as_array, check_instance, check_integer, short_repr

Log = Callable[[str], None]


def evaluate(
    run: Run,
    *,
    num_sequences: int | None = None,
    num_mistakes: int = 12,
    log: Log = lambda text: None,
) -> dict[str, Any]:
    """Scores a run on its test data, finds out why it errs, and writes the report.

    Writes `metrics.json` (the entry `report`), `report.html`, one file that opens offline, and its
    figures as PNG files in `report/`. For a run on digits a reader of single digits is trained the
    first time, and kept; see `reader.digit_reader`.

    Args:
        run: the run.
        num_sequences: test sequences to draw, or clips to take at most; by default as in the
            training, and all clips.
        num_mistakes: how many of the most confident mistakes are shown.
        log: called with each line of progress, such as `print`.

    Returns:
        What `metrics.json` then holds.

    Raises:
        ValueError: if an argument is out of range, or a file of the run cannot be read.
        FileNotFoundError: if a clip of the run is missing.
        ConnectionError: if its data set cannot be had.
    """
    check_instance("evaluate: `run`", run, Run, "a Run, as load_run reads it")
    check_integer("evaluate: `num_mistakes`", num_mistakes, 0, 1000)
    if num_sequences is not None:
        check_integer("evaluate: `num_sequences`", num_sequences, 1, 10**9)
    findings = _findings(run, num_sequences, num_mistakes, log)
    metrics = {**run.metrics, "report": findings.to_json()}
    write_text(run.path / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    log("the page is written")
    write_report(run, findings)
    return metrics


def _findings(run, num_sequences, num_mistakes, log) -> Findings:
    """All that the report says; the first test data is looked at more closely than the others."""
    source = open_source(run.config, run.path)
    task, tests = run.task, source.tests(num_sequences)
    first, *others = tests
    oracle = _oracle(run, source, first, num_sequences, log) if task.has_baselines else None
    baselines: list[Any] = [oracle] if oracle else []
    if task.arrangement == "sequence" and task.has_baselines:
        baselines = [BagOfFrames(run, source), ShuffledFrames(run.model, task), *baselines]
    shown = MistakenFrames(num_mistakes if task.classifies else 0)
    log("the model answers the test sequences")
    answers, mask, seconds = _one_pass(run.model, tests[first], baselines, shown)
    groups = source.test_groups(num_sequences)
    scores = {first: grouped_score(task, answers, groups)}
    scores |= score(run.model, {name: tests[name] for name in others}, task)
    found: Any = {"tests": scores, "seconds": seconds}
    if task.has_baselines:
        log("the model is compared with simpler answers")
        found["comparison"] = compare(task, answers, baselines, groups, scores[first])
    if task.classifies:
        log("the most confident mistakes are explained")
        names = source.test_names(num_sequences)
        explained = explain_mistakes(task, run.model, answers, shown, oracle=oracle, names=names)
        found |= dict(zip(("mistakes", "wrong", "not_streamed"), explained, strict=True))
        temperature = run.calibration.temperature if run.calibration else 1.0
        found["calibration"] = calibration_of(answers, temperature)
        found["by_length"] = accuracy_by_frames(answers, mask)
    history, recalls = read_history(run.path), read_recalls(run.path)
    return Findings(task, history=history, recalls=recalls, **found)


def _one_pass(model, sequences, baselines, shown):
    """The model's answers, the frames that count `(N, T)`, and seconds for a sequence.

    Each batch is drawn once, for all that look at frames. What they keep of it are numbers; only
    `shown` keeps frames, those of a few sequences.
    """
    parts, masks, seconds = [], [], None
    for inputs, answers in answered_batches(answering_model(model), sequences):
        seconds = seconds or seconds_per_sequence(model, inputs)
        frames, mask = frames_of(inputs)
        for baseline in baselines:
            baseline.add(frames, mask)
        shown.add(frames, mask, answers)
        parts.append(answers)
        masks.append(mask)
    return joined(parts), np.concatenate(masks), seconds


def _oracle(run, source, name, num_sequences, log) -> Oracle | None:
    """The reader of single digits and the exact rule, if sequences are drawn from such images."""
    images = source.digit_images
    if images is None:
        return None
    if not (run.path / "digit_reader.keras").exists():
        log("a reader of single digits is trained, once")

    def progress(done, total):
        if done % max(1, total // 10) == 0:
            log(f"  {done:,} of {total:,} batches")

    reader = digit_reader(run, images=images.train, progress=progress)
    return Oracle(source.task, reader, images.test, source.test_digits(name, num_sequences))


def calibration_of(answers: Answers, temperature: float = 1.0) -> dict[str, Any]:
    """Whether answers of a probability are right as often as it says.

    Args:
        answers: of a classifier.
        temperature: what its logits have been divided by.

    Returns:
        The expected calibration `error`, that of the logits `as_trained`, and the `points` of the
        curve.
    """
    targets, probabilities, mask = answers
    steps = np.ones(targets.shape, bool) if mask is None else mask
    targets, probabilities = targets[steps], probabilities[steps]  # (N,), (N, num_classes)
    as_trained = scaled(probabilities, 1 / temperature)
    return {
        "error": expected_calibration_error(targets, probabilities),
        "as_trained": expected_calibration_error(targets, as_trained),
        "points": reliability(targets, probabilities),
    }


def accuracy_by_frames(answers: Answers, mask: np.ndarray) -> dict[str, dict[str, Any]]:
    """The accuracy for each number of frames; nothing where all sequences have the same.

    Args:
        answers: of a classifier.
        mask: `(N, T)` boolean, the frames that count.
    """
    lengths = mask.sum(axis=1)
    right = answers.answers.argmax(axis=-1) == answers.targets
    if right.ndim == 2:
        right = (right | ~mask).all(axis=1)
    return accuracy_by_length(right, lengths) if len(np.unique(lengths)) > 1 else {}


_ENOUGH = 3.0  # seconds for each batch size, after the first call


def seconds_per_sequence(
    model: keras.Model,
    inputs: np.ndarray | Mapping[str, np.ndarray],
    *,
    batch_sizes: Sequence[int] = (1, 64),
    repeats: int = 30,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """The median time that a model takes for a sequence, one by one and in batches.

    Args:
        model: the model.
        inputs: one sequence or more, as the model takes them; repeated to fill a batch.
        batch_sizes: sequences in a batch.
        repeats: calls of each size, after one that compiles; fewer if they take over 3 seconds.
        clock: returns the time in seconds.

    Returns:
        For each batch size, as text, seconds for one of its sequences.

    Raises:
        ValueError: if a number is out of range.
    """
    if isinstance(model, keras.Model):
        _check_inputs(model, inputs)
    elif not callable(getattr(model, "predict_on_batch", None)):
        raise ValueError(
            f"seconds_per_sequence: `model` must be one; received {short_repr(model)}."
        )
    check_integer("seconds_per_sequence: `repeats`", repeats, 1, 1_000_000)
    check_instance(
        "seconds_per_sequence: `batch_sizes`", batch_sizes, list | tuple, "a list of sizes"
    )
    for size in batch_sizes:
        check_integer("seconds_per_sequence: `batch_sizes`", size, 1, 1_000_000)
    times = {}
    for size in batch_sizes:
        rows = np.arange(size)
        batch = keras.tree.map_structure(lambda x, rows=rows: x[rows % len(x)], inputs)
        model.predict_on_batch(batch)
        taken: list[float] = []
        while len(taken) < repeats and sum(taken) < _ENOUGH:
            start = clock()
            model.predict_on_batch(batch)
            taken.append(clock() - start)
        times[str(size)] = statistics.median(taken) / size
    return times


def _check_inputs(model, inputs):
    """Refuses what a model does not take; Keras would say so in many lines."""
    given = inputs if isinstance(inputs, Mapping) else {model.inputs[0].name: inputs}
    for tensor in model.inputs:
        value = as_array("seconds_per_sequence: `inputs`", given.get(tensor.name))
        fits = len(value.shape) == len(tensor.shape) and all(
            size in (None, have) for size, have in zip(tensor.shape, value.shape, strict=True)
        )
        if not fits or not len(value) or value.dtype.kind not in "biuf":
            raise ValueError(
                f"seconds_per_sequence: `inputs` must be {tensor.dtype} of shape {tensor.shape} "
                f"for {tensor.name!r}; received {value.dtype} of {value.shape}."
            )
