"""How good a model is: scores against the truth, and plots of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure, SubFigure

from keras_cnnlstm.digits import LabeledImages
from keras_cnnlstm.pipeline import digit_sequences
from keras_cnnlstm.tasks import Trend

_TEST_SEED = -2  # negative, so that no training run draws the same sequences


def score_digits(
    model: keras.Model, images: LabeledImages, task: Trend, *, num_sequences: int = 10_000
) -> dict[str, dict[str, Any]]:
    """Scores a trend model on sequences of digits it has not seen, always the same ones.

    Args:
        model: from frames to class probabilities `(B, task.num_classes)`.
        images: the test digits.
        task: the task that the model was trained for.
        num_sequences: how many sequences to draw for each of the two scores.

    Returns:
        `natural`, where each digit is uniform, and `balanced`, where each class is; both with
        the entries of `scores`.
    """
    return {
        name: evaluate(
            model,
            digit_sequences(
                images,
                task,
                batch_size=250,
                seed=_TEST_SEED,
                balance=balance,
                num_sequences=num_sequences,
            ),
            task.class_names,
        )
        for name, balance in (("natural", 0.0), ("balanced", 1.0))
    }


def evaluate(
    model: keras.Model, sequences: tf.data.Dataset, class_names: Sequence[str]
) -> dict[str, Any]:
    """Runs a classifier over labelled sequences and scores its answers.

    Args:
        model: from frames to class probabilities `(B, num_classes)`.
        sequences: finite batches of `(frames, target (B,) int)`.
        class_names: names of the classes, in the order of their indices.

    Returns:
        The entries of `scores`.

    Raises:
        ValueError: as `scores`.
    """
    targets = np.concatenate([np.asarray(target) for _, target in sequences])
    probabilities = model.predict(sequences.map(lambda frames, target: frames), verbose=0)
    return scores(targets, probabilities, class_names)


def scores(
    targets: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """Scores class probabilities against the true classes.

    Args:
        targets: `(N,)` integers.
        probabilities: `(N, num_classes)`; the largest of a row is the answer.
        class_names: names of the classes, in the order of their indices.

    Returns:
        A dict that JSON can hold: `num_sequences`, `accuracy`, `accuracy_95` (its Wilson score
        interval), `macro_recall` and `macro_precision` (unweighted means over the classes that
        occur, 0 to 1), `classes` (name -> `recall`, `precision`, `count`; `None` where there is
        nothing to divide by) and `confusion` (rows: truth, columns: answer).

    Raises:
        ValueError: if the arguments do not fit together.

    Example:

    >>> scores(np.array([0, 0, 1]), np.array([[.9, .1], [.2, .8], [.3, .7]]), ["no", "yes"])[
    ...     "macro_recall"
    ... ]
    0.75
    """
    from scipy.stats import binomtest
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    num_classes = len(class_names)
    if probabilities.shape != (len(targets), num_classes) or not len(targets):
        raise ValueError(
            f"scores: `probabilities` must have shape (N, {num_classes}), N at least 1 and the "
            f"same as in `targets` {targets.shape}; received {probabilities.shape}."
        )
    answers, classes = probabilities.argmax(axis=1), np.arange(num_classes)
    precision, recall, _, count = precision_recall_fscore_support(
        targets, answers, labels=classes, zero_division=np.nan
    )
    right = int((answers == targets).sum())
    interval = binomtest(right, len(targets)).proportion_ci(method="wilson")
    return {
        "num_sequences": len(targets),
        "accuracy": right / len(targets),
        "accuracy_95": [float(interval.low), float(interval.high)],
        "macro_recall": float(np.nanmean(recall)),
        "macro_precision": float(np.nanmean(precision)),
        "classes": {
            name: {"recall": _number(r), "precision": _number(p), "count": int(n)}
            for name, r, p, n in zip(class_names, recall, precision, count, strict=True)
        },
        "confusion": confusion_matrix(targets, answers, labels=classes).tolist(),
    }


def summary(result: dict[str, Any]) -> str:
    """The entries of `scores` as a few lines of text."""
    low, high = result["accuracy_95"]
    lines = [
        f"accuracy {result['accuracy']:.2%} of {result['num_sequences']:,} sequences "
        f"(95 % interval {low:.2%} to {high:.2%}), macro recall {result['macro_recall']:.2%}",
    ]
    width = max(map(len, result["classes"]))
    for name, entry in result["classes"].items():
        recall = "    -  " if entry["recall"] is None else f"{entry['recall']:7.2%}"
        lines.append(f"  {name:<{width}}  recall {recall}  of {entry['count']:5,}")
    return "\n".join(lines)


def plot_history(history: Sequence[dict[str, float]]) -> Figure:
    """Draws loss and accuracy of training and validation over the epochs.

    Args:
        history: for each epoch, `loss`, `val_loss`, `accuracy` and `val_accuracy`.

    Returns:
        A figure; a notebook shows it, `savefig` writes it.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    epochs = range(1, len(history) + 1)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.plot(epochs, [row[name] for row in history], "o-", ms=3, label="training")
        axes.plot(epochs, [row[f"val_{name}"] for row in history], "o-", ms=3, label="validation")
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def plot_confusion(confusion: Sequence[Sequence[int]], class_names: Sequence[str]) -> Figure:
    """Draws a confusion matrix: colour by share of the true class, counts as numbers.

    Args:
        confusion: counts, rows the truth, columns the answer.
        class_names: names of the classes, in the order of their indices.

    Returns:
        A figure.
    """
    counts = np.asarray(confusion)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    side = 2.2 + 0.62 * len(class_names)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), n in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, n, ha="center", va="center", color=colour, fontsize=8)
    ticks = range(len(class_names))
    axes.set_xticks(ticks, class_names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(ticks, class_names, fontsize=8)
    axes.set(xlabel="answer", ylabel="truth")
    return figure


def plot_sequence(
    frames: np.ndarray,
    probabilities: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    *,
    title: str = "",
) -> Figure:
    """Draws the frames of a sequence side by side, and beneath them a model's answer.

    Args:
        frames: `(T, H, W, C)` uint8, C is 1 or 3.
        probabilities: `(num_classes,)`; without them only the frames are drawn.
        class_names: names of the classes, in the order of their indices.
        title: a line above the frames.

    Returns:
        A figure.
    """
    time = len(frames)
    bars = 0 if probabilities is None else 0.32 * len(class_names)
    figure = Figure(figsize=(max(4.5, 1.4 * time), 1.9 + bars), layout="constrained")
    top: Figure | SubFigure = figure
    if probabilities is not None:
        top, bottom = figure.subfigures(2, 1, height_ratios=(1.9, bars), squeeze=False)[:, 0]
        axes = bottom.subplots()
        best = int(np.argmax(probabilities))
        colours = ["tab:blue" if i == best else "lightgray" for i in range(len(class_names))]
        axes.barh(class_names, probabilities, color=colours)
        axes.bar_label(
            axes.containers[0], [f"{p:.1%}" for p in probabilities], padding=3, fontsize=8
        )
        axes.set(xlim=(0, 1.15), xticks=[])
        axes.tick_params(axis="y", labelsize=8)
        axes.invert_yaxis()
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    for t, axes in enumerate(np.atleast_1d(top.subplots(1, time))):
        axes.imshow(frames[t].squeeze(-1) if frames.shape[-1] == 1 else frames[t], cmap="gray")
        axes.set_title(f"step {t + 1}", fontsize=8)
        axes.axis("off")
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure as PNG (or what the path's ending says)."""
    figure.savefig(path, dpi=110)


def _number(x: float) -> float | None:
    return None if np.isnan(x) else float(x)
