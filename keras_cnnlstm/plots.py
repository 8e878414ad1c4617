"""Pictures: learning curves, confusions, errors, sequences with a model's answer."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure, SubFigure


def plot_history(history: Sequence[Mapping[str, float]], metric: str = "accuracy") -> Figure:
    """Draws loss and a metric of training and validation over the epochs.

    Args:
        history: for each epoch `loss`, `val_loss`, the metric and `val_` and the metric; where the
            training has none of these, only that of the validation is drawn.
        metric: what to draw beside the loss.

    Returns:
        A figure; a notebook shows it, `savefig` writes it.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    epochs = range(1, len(history) + 1)
    for axes, name in zip(figure.subplots(1, 2), ("loss", metric), strict=True):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in history[0]:
                axes.plot(epochs, [row[key] for row in history], "o-", ms=3, label=label)
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


def plot_by_length(values: Mapping[str, float], ylabel: str) -> Figure:
    """Draws one number for each length of sequences as bars.

    Args:
        values: the numbers, by length.
        ylabel: what they are.

    Returns:
        A figure.
    """
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(list(map(str, values)), list(values.values()))
    axes.bar_label(bars, [f"{value:.2f}" for value in values.values()], fontsize=8)
    axes.set(xlabel="length", ylabel=ylabel)
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
