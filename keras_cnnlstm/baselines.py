"""Does time help? What simpler answers score on the same test sequences as the model.

The most frequent class; a bag of the frames, whose order is lost; the model itself on shuffled
frames; and for digits the oracle: a reader of single digits and the exact rule. What a model has
over the second and third it owes to the order of the frames; what it lacks to the last, to reading
or to the rule.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_cnnlstm.arguments import check_kind
from keras_cnnlstm.digit_reader import (
    Progress,
    ceiling,
    check_reader,
    confusion_of,
    digits_behind,
    train_reader,
)
from keras_cnnlstm.digits import load_digits
from keras_cnnlstm.features import split_model
from keras_cnnlstm.runs import Run, load_model, save_model
from keras_cnnlstm.runtime import Runtime
from keras_cnnlstm.scores import score_answers
from keras_cnnlstm.sources import ClipSource, DigitSource, digit_tests
from keras_cnnlstm.tasks import Digits, Label, RunningSum, Text, Trend

Scores = dict[str, Any]

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # of the bag's softmax regression: C of scikit-learn
_FITTED = 4000  # training sequences that the bag is fitted to
_HELD_OUT = 5  # every so many-th training sequence chooses among them


class Batch(NamedTuple):
    """Sequences of a test or training batch, as NumPy arrays."""

    frames: np.ndarray
    """`(B, T, H, W, C)`, or `(B, H, W, C)` of single images."""

    targets: np.ndarray
    counts: np.ndarray
    """`(B, T)` boolean, which frames count; `(B, 1)` of single images."""


def read_batches(sequences: tf.data.Dataset) -> Iterator[Batch]:
    """The batches of a data set that `sources` made."""
    for element in sequences:
        inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(element)
        frames = np.asarray(inputs["frames"] if isinstance(inputs, dict) else inputs)
        time = frames.shape[1] if frames.ndim == 5 else 1
        lengths = np.asarray(inputs["lengths"]) if isinstance(inputs, dict) else [time]
        counts = np.arange(time) < np.asarray(lengths)[:, None]
        yield Batch(frames, np.asarray(targets), np.broadcast_to(counts, (len(frames), time)))


def digit_reader(
    run: Run, *, steps: int | None = None, progress: Progress | None = None
) -> keras.Model:
    """The reader of single digits that belongs to a run on digits.

    It is trained on the run's training images when it is first asked for, in about a minute on two
    cores, and kept in the run directory as `digit_reader.keras`.

    Args:
        run: a run on digits, not on clips.
        steps: as in `digit_reader.train_reader`, if it is to be trained.
        progress: as there.

    Returns:
        A model from `(N, H, W, C) uint8` to `(N, num_digits) float32` probabilities.

    Raises:
        ValueError: if the run is one on clips, or the reader's file cannot be read.
        ConnectionError: if the run's data set cannot be had.
    """
    check_kind("digit_reader: `run`", run, Run, "a Run, as load_run reads it")
    if run.config.data is not None:
        raise ValueError(
            f"digit_reader: `run` must be one on digits; {run.path} was trained on the clips of "
            f"{run.config.data}. There is nothing to read in its frames."
        )
    path = run.path / "digit_reader.keras"
    if path.exists():
        return load_model(path)
    images = load_digits(run.config.dataset, run.config.data_dir).train
    with Runtime(run.config.precision, "one-device").scope():
        reader = train_reader(images, seed=run.config.seed, steps=steps, progress=progress)
    save_model(reader, path)
    return reader


class Readings(NamedTuple):
    """What a reader of digits reads in test sequences."""

    truth: np.ndarray
    """`(N, T)`, the digits behind the frames."""

    read: np.ndarray
    """`(N, T)`, what the reader reads."""

    counts: np.ndarray
    """`(N, T)` boolean, which frames count."""

    def answers(self, task: Trend | Digits) -> np.ndarray:
        """What the exact rule answers to the digits as they were read.

        As `score_answers` takes it: `(N, num_classes)` of 0 and 1, or `(N, T, num_classes)`, or
        `(N, T, 1)` numbers, or `(N, T)` characters.
        """
        if isinstance(task, Text):
            return np.where(self.counts, self.read, -1)
        told = task.targets(self.read)
        if isinstance(task, RunningSum):
            return told
        return np.eye(task.num_classes)[told[:, 0] if isinstance(task, Label) else told]


def readings(
    source: DigitSource, reader: keras.Model, *, name: str, num_sequences: int
) -> Readings:
    """Has the frames of test sequences read one by one.

    Args:
        source: of the run.
        reader: as `digit_reader` returns it.
        name: of the test data, such as `natural`.
        num_sequences: as the test data was made with.

    Raises:
        ValueError: if it reads other images.
    """
    images, task = source.splits.test, source.task
    check_reader("readings", reader, images)
    if isinstance(task, Label):  # single images, each once, in their order
        read = reader.predict(images.images, batch_size=256, verbose=0).argmax(axis=1)
        return Readings(images.labels[:, None], read[:, None], np.ones((len(read), 1), bool))
    data = digit_tests(images, digits_behind(task), num_sequences=num_sequences)[name]
    parts = []
    for frames, truth, counts in read_batches(data):
        flat = frames.reshape(-1, *frames.shape[2:])  # (B*T, H, W, C)
        read = reader.predict_on_batch(flat).argmax(axis=1).reshape(truth.shape)
        parts.append((truth, np.where(counts, read, 0), counts))
    return Readings(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def oracle(
    source: DigitSource, reader: keras.Model, found: Readings, targets: np.ndarray
) -> Scores:
    """The score of reader and rule, and with it `ceiling` and the reader's `digit_accuracy`."""
    task = source.task
    confusion = confusion_of(reader, source.splits.test)
    counts = found.counts if isinstance(task, RunningSum) or type(task) is Digits else None
    return {
        **score_answers(task, targets, found.answers(task), counts),
        "digit_accuracy": float(confusion.diagonal().sum() / confusion.sum()),
        # A single image is read or it is not: nothing to compute beside the measured.
        "ceiling": None if isinstance(task, Label) else ceiling(task, confusion),
    }


def majority(task: Any, targets: np.ndarray, counts: np.ndarray | None = None) -> Scores:
    """The score of the same answer each time: the most frequent class, or the mean number."""
    if isinstance(task, RunningSum):
        chosen = np.ones(targets.shape[:2], bool) if counts is None else counts
        mean = [targets[chosen[:, t], t, 0].mean() for t in range(targets.shape[1])]
        return score_answers(task, targets, np.broadcast_to(mean, chosen.shape)[..., None], counts)
    told = targets if counts is None else targets[counts]
    best = np.bincount(told, minlength=task.num_classes).argmax() if told.ndim == 1 else 0
    answers = np.broadcast_to(np.eye(task.num_classes)[best], (*targets.shape, task.num_classes))
    return score_answers(task, targets, answers, counts)


def shuffled(model: keras.Model, sequences: tf.data.Dataset, task: Any, *, seed: int = 0) -> Scores:
    """The score of the model on the test sequences, the frames of each in random order.

    Args:
        model: the model.
        sequences: as `evaluation.score` takes them.
        task: the task that the model was trained for.
        seed: of the orders; those that leave all frames in place are among them.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for frames, targets, counts in read_batches(sequences):
        keys = np.where(counts, rng.random(counts.shape), 1 + np.arange(counts.shape[1]))
        order = keys.argsort(axis=1)  # padding stays where it is
        mixed = np.take_along_axis(frames, order.reshape(*order.shape, 1, 1, 1), axis=1)
        inputs = {"frames": mixed, "lengths": counts.sum(axis=1).astype(np.int32)}
        answers = model.predict_on_batch(inputs if len(model.inputs) > 1 else mixed)
        parts.append((targets, answers, counts))
    targets, answers, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    return score_answers(task, targets, answers, counts if targets.ndim > 1 else None)


def bag_of_frames(
    run: Run,
    source: DigitSource | ClipSource,
    sequences: tf.data.Dataset,
    *,
    training_sequences: int | None = None,
) -> Scores:
    """The score of a regression on the mean of what the run's encoder says of the frames.

    Order is destroyed by the averaging. Softmax regression for classes (at each step, where each
    has one), linear regression for numbers; fitted on training sequences as the run's training
    drew them, the strength of its regularisation chosen on every fifth of them.

    Args:
        run: the run. Where its model has no encoder of single frames, their pixels are averaged.
        source: of the run.
        sequences: the test sequences.
        training_sequences: how many sequences to fit to; by default 4,000, but no more than the
            training has seen, and each clip once.
    """
    vectors = _frame_vectors(run.model)
    size = run.config.batch_size or 1
    if training_sequences is None:
        if isinstance(source, ClipSource):
            seen = len(source.split.train)
        else:
            seen = run.config.num_steps * size
        training_sequences = min(_FITTED, seen)
    batches = -(-training_sequences // size)
    x, y, counts = _bags(vectors, source.training().take(batches))
    x_test, targets, counts_test = _bags(vectors, sequences)
    if isinstance(source.task, RunningSum):
        values = _linear(x * counts.sum(axis=1)[:, None], y[..., 0], x_test, counts_test)
        return score_answers(source.task, targets, values[..., None], counts_test)
    if y.ndim == 1:
        answers = _softmax(x, y, x_test, source.task.num_classes)
        return score_answers(source.task, targets, answers, None)
    rows = np.nonzero(counts)[0]
    answers = _softmax(x[rows], y[counts], x_test, source.task.num_classes)
    answers = np.broadcast_to(answers[:, None], (*targets.shape, answers.shape[-1]))
    return score_answers(source.task, targets, answers, counts_test)


def _frame_vectors(model) -> Callable[[np.ndarray], np.ndarray]:
    """From frames `(N, H, W, C)` to vectors `(N, F)`."""
    if any(isinstance(layer, keras.layers.TimeDistributed) for layer in model.layers):
        return split_model(model).frame_encoder.predict_on_batch
    return lambda frames: frames.reshape(len(frames), -1) / np.float32(255)


def _bags(vectors, sequences):
    """The mean vector of each sequence `(N, F)`, targets, and which frames count `(N, T)`."""
    parts = []
    for frames, targets, counts in read_batches(sequences):
        each = vectors(frames.reshape(-1, *frames.shape[2:])).reshape(*counts.shape, -1)
        mean = (each * counts[..., None]).sum(axis=1) / counts.sum(axis=1)[:, None]
        parts.append((mean, targets, counts))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _softmax(x, y, x_test, num_classes):
    """Class probabilities of a softmax regression, its strength chosen on held-out rows."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fitted(strength, rows):
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=100))
        with warnings.catch_warnings():
            # A fit that stops early is a smoother one, and held-out rows choose among them.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return pipeline.fit(x[rows], y[rows])

    def answers(fit, rows):
        told = np.zeros((len(rows), num_classes))
        told[:, fit.classes_] = fit.predict_proba(rows)
        return told

    held_out = np.arange(len(x)) % _HELD_OUT == 0

    def likelihood(strength):
        told = answers(fitted(strength, ~held_out), x[held_out])
        return np.log(told[np.arange(len(told)), y[held_out]] + 1e-9).mean()

    return answers(fitted(max(_STRENGTHS, key=likelihood), slice(None)), x_test)


def _linear(x, y, x_test, counts_test):
    """Numbers at each step by ridge regression; `y` `(N, T)`, of which the padding is 0."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 7)))
    return pipeline.fit(x, y).predict(x_test * counts_test.sum(axis=1)[:, None])
