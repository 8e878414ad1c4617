"""Finds out about a run what its report says: baselines, calibration, lengths, mistakes, speed.

Works on answers that `evaluation` has collected; `report` says what was found.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cnnlstm import baselines
from keras_cnnlstm.baselines import Batch, Readings, digit_reader, read_batches
from keras_cnnlstm.calibration import expected_calibration_error, reliability, scaled
from keras_cnnlstm.mistakes import (
    MODEL,
    ORDER,
    Mistake,
    answers_so_far,
    evidence,
    explain,
    reasons,
    stream_of,
    wrong_sequences,
)
from keras_cnnlstm.report_facts import Comparison
from keras_cnnlstm.runs import Run
from keras_cnnlstm.scores import accuracy_by_length
from keras_cnnlstm.sources import ClipSource, DigitSource
from keras_cnnlstm.tasks import Digits, Label, RunningSum, Text, Trend

Say = Callable[[str], None]


@dataclass(frozen=True)
class Answered:
    """Test sequences and what a model answered.

    Attributes:
        name: of the test data, such as `natural`.
        sequences: the data.
        targets: `(N, ...)`.
        answers: `(N, ...)`, as the model gave them; of a `Text` the characters.
        counts: `(N, T)` boolean, which steps count, if there is an answer at each step.
        score: as `scores.score_answers` returns it.
    """

    name: str
    sequences: tf.data.Dataset
    targets: np.ndarray
    answers: np.ndarray
    counts: np.ndarray | None
    score: dict[str, Any]


def compare(
    run: Run,
    source: DigitSource | ClipSource,
    answered: Answered,
    reader: keras.Model | None,
    found: Readings | None,
    say: Say,
) -> list[Comparison]:
    """The model beside simpler answers to the same test sequences; see `baselines`.

    Args:
        run: the run.
        source: its data.
        answered: its answers.
        reader: of single digits, for tasks on digits.
        found: what that reads in the test sequences.
        say: told what is being done.
    """
    task, targets, counts = source.task, answered.targets, answered.counts
    rows = [Comparison("The model", "The frames in their order.", answered.score)]
    if not isinstance(task, Text):
        title, how = "Most frequent class", "The same answer to every sequence."
        if isinstance(task, RunningSum):
            title, how = "Mean number", "The mean of each step, whatever is shown."
        rows.append(Comparison(title, how, baselines.majority(task, targets, counts)))
    if not isinstance(task, Label | Text):
        say("a bag of frames, fitted to training sequences")
        bag = baselines.bag_of_frames(run, source, answered.sequences)
        how = "A regression on the mean of what the encoder says of the frames: no order."
        rows.append(Comparison("Bag of frames", how, bag))
        say("the frames shuffled")
        mixed = baselines.shuffled(run.model, answered.sequences, task)
        how = "The model, the frames of each sequence in random order."
        rows.append(Comparison("Frames shuffled", how, mixed))
    if reader is not None and found is not None and isinstance(source, DigitSource):
        score = baselines.oracle(source, reader, found, targets)
        rows.append(_oracle_row(task, score))
    return rows


def _oracle_row(task, score):
    how = (
        "A CNN trained on the same images reads single digits "
        f"({score['digit_accuracy']:.2%} of the test images rightly)"
    )
    if type(task) in (Digits, Label):  # what is read is the answer
        return Comparison("Oracle: reader", f"{how}.", score)
    return Comparison("Oracle: reader + exact rule", f"{how}; the rule is exact.", score)


def reading_of(
    run: Run, source: DigitSource | ClipSource, name: str, num_sequences: int, say: Say
) -> tuple[keras.Model | None, Readings | None]:
    """The reader of single digits, and what it reads in the test sequences; of clips nothing."""
    if not isinstance(source, DigitSource):
        return None, None
    if not (run.path / "digit_reader.keras").exists():
        say("a reader of single digits is trained, once")

    def progress(done, total):
        if done % max(1, total // 10) == 0:
            say(f"  {done:,} of {total:,} batches")

    reader = digit_reader(run, progress=progress)
    say("the reader reads the test sequences")
    found = baselines.readings(source, reader, name=name, num_sequences=num_sequences)
    return reader, found


def calibration_of(answered: Answered, temperature: float = 1.0) -> dict[str, Any]:
    """Whether probabilities mean what they say.

    Args:
        answered: the answers.
        temperature: what their logits have been divided by.

    Returns:
        The expected calibration `error`, that of the logits `as_trained`, and the `points` of the
        curve.
    """
    targets, probabilities = answered.targets, answered.answers
    if answered.counts is not None:
        targets, probabilities = targets[answered.counts], probabilities[answered.counts]
    flat = targets.reshape(-1), probabilities.reshape(-1, probabilities.shape[-1])
    return {
        "error": expected_calibration_error(*flat),
        "as_trained": expected_calibration_error(flat[0], scaled(flat[1], 1 / temperature)),
        "points": reliability(*flat),
    }


def accuracy_by_lengths(answered: Answered) -> dict[str, dict[str, Any]]:
    """The accuracy of sequences of each length; nothing where all have the same."""
    counts = np.concatenate([batch.counts for batch in read_batches(answered.sequences)])
    lengths = counts.sum(axis=1)
    right = answered.answers.argmax(axis=-1) == answered.targets
    if right.ndim == 2:
        right = (right | ~counts).all(axis=1)
    return accuracy_by_length(right, lengths) if len(np.unique(lengths)) > 1 else {}


def find_mistakes(
    run: Run,
    source: DigitSource | ClipSource,
    answered: Answered,
    found: Readings | None,
    count: int,
) -> tuple[list[Mistake], dict[str, int], str]:
    """The most confident mistakes, with what explains them.

    Args:
        run: the run.
        source: its data.
        answered: its answers: probabilities.
        found: what a reader of single digits reads.
        count: how many to show at most.

    Returns:
        The mistakes; how many `sequences` were answered wrongly, and how many each reason explains;
        and why there are no answers after each frame, if so.
    """
    indices, sure = wrong_sequences(answered.targets, answered.answers, answered.counts)
    wrong = {"sequences": len(indices)}
    kinds: list[str] = []
    if found is not None and len(indices):
        kinds = _kinds(source.task, answered, found, indices)
        wrong |= reasons(kinds)
    indices, sure, kinds = indices[:count], sure[:count], kinds[:count]
    if not len(indices):
        return [], wrong, ""
    shown = frames_of(answered.sequences, indices)
    clips = source.test_clips(len(answered.targets)) if isinstance(source, ClipSource) else None
    kept = evidence(run.model, shown.frames, shown.counts)
    live, not_streamed = None, ""
    if shown.frames.ndim == 5:
        live, not_streamed = stream_of(run.model, run.class_names)
    mistakes = []
    for k, index in enumerate(indices):
        mistake = _mistake(run, answered, found, shown, kept, live, k, int(index))
        clip = None if clips is None else clips[index].name
        told: dict[str, Any] = {
            "confidence": float(sure[k]),
            "clip": clip,
            "reason": kinds[k] if kinds else None,
        }
        mistakes.append(Mistake(**mistake, **told))
    return mistakes, wrong, not_streamed


def frames_of(sequences: tf.data.Dataset, indices: Sequence[int] | np.ndarray) -> Batch:
    """The sequences at some places of a data set, in the order of `indices`."""
    wanted, rows, first = set(map(int, indices)), {}, 0
    for batch in read_batches(sequences):
        for row in range(len(batch.frames)):
            if first + row in wanted:
                rows[first + row] = [column[row] for column in batch]
        first += len(batch.frames)
    columns = zip(*(rows[int(index)] for index in indices), strict=True)
    return Batch(*(np.stack(column) for column in columns))


def _kinds(task, answered, found, indices):
    """What explains each of these mistakes on digits."""
    answers = answered.answers.argmax(axis=-1)[indices]
    told = found.answers(task).argmax(axis=-1)[indices]
    if answered.counts is not None:
        counts = answered.counts[indices]
        answers, told = np.where(counts, answers, 0), np.where(counts, told, 0)
    legible = ORDER if isinstance(task, Trend) else MODEL
    truth, read = found.truth[indices], found.read[indices]
    return explain(answers, told, truth, read, legible=legible)


def _mistake(run, answered, found, shown, kept, live, k, index):
    """What there is to tell of the k-th mistake."""
    length = int(shown.counts[k].sum())
    frames = shown.frames[k][:length] if shown.frames.ndim == 5 else shown.frames[k][None]
    return {
        "index": index,
        "truth": _named(run, answered.targets[index], length),
        "answer": _named(run, answered.answers[index].argmax(axis=-1), length),
        "digits": found and " ".join(map(str, found.truth[index][:length])),
        "read": found and " ".join(map(str, found.read[index][:length])),
        "frames": frames,
        "so_far": answers_so_far(live, frames) if live else (),
        **{name: None if rows is None else rows[k][:length] for name, rows in kept.items()},
    }


def _named(run, classes, length):
    """The name of a class, or the names of those of all steps."""
    names = [run.class_names[int(c)] for c in np.atleast_1d(classes)[:length]]
    return " ".join(names)
