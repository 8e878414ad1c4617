"""Pictures: learning curves, confusions, errors, sequences with a model's answer."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

from keras_cnnlstm.arguments import as_array, as_numbers, check_kind, check_names, is_number, told

_DIMMED = 0.5  # opacity of a frame that heat lies over
_MOST = 100  # frames side by side that a picture can show


def plot_history(history: Sequence[Mapping[str, float]], metric: str = "accuracy") -> Figure:
    """Draws loss and a metric of training and validation over the epochs.

    Args:
        history: for each epoch `loss`, `val_loss`, the metric and `val_` and the metric; where the
            training has none of these, only that of the validation is drawn.
        metric: what to draw beside the loss.

    Returns:
        A figure; a notebook shows it, `savefig` writes it.

    Raises:
        ValueError: if there is no epoch, or an epoch lacks what the first one has.
    """
    _check_history(history, metric)
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

    Raises:
        ValueError: if the arguments do not fit together.
    """
    check_names("plot_confusion: `class_names`", class_names)
    counts = as_numbers("plot_confusion: `confusion`", confusion, kinds="iu")
    if not class_names or counts.shape != (len(class_names),) * 2 or counts.min() < 0:
        raise ValueError(
            f"plot_confusion: `confusion` must be counts of shape {(len(class_names),) * 2}, as "
            f"there are `class_names`; received {told(counts)}."
        )
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

    Raises:
        ValueError: if they are no numbers.
    """
    if not isinstance(values, Mapping) or not all(map(is_number, values.values())):
        raise ValueError(
            f"plot_by_length: `values` must be a number for each length; received {told(values)}."
        )
    _check_label("plot_by_length: `ylabel`", ylabel)
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

    Raises:
        ValueError: if the arguments do not fit together.
    """
    frames = _checked_frames(frames, "plot_sequence")
    if probabilities is not None:
        probabilities = _checked_probabilities(probabilities, class_names)
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
        _draw_frame(axes, frames[t])
        axes.set_title(f"step {t + 1}", fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def plot_explanation(
    frames: np.ndarray,
    maps: np.ndarray | None = None,
    changes: np.ndarray | Sequence[float] | None = None,
    *,
    title: str = "",
) -> Figure:
    """Draws where and on which frames an answer hangs: heat over the frames, and bars beneath.

    Args:
        frames: `(T, H, W, C)` uint8, C is 1 or 3.
        maps: `(T, H, W)` in [0, 1], as `explanations.grad_cam` returns them for a sequence.
        changes: `(T,)`, as `explanations.occlusion` returns them for a sequence.
        title: a line above the frames.

    Returns:
        A figure.

    Raises:
        ValueError: if the arguments do not fit together.
    """
    frames = _checked_frames(frames, "plot_explanation")
    maps, changes = _checked_explanation(frames, maps, changes)
    time, rows = len(frames), 1 if changes is None else 2
    figure = Figure(figsize=(max(4.5, 1.4 * time), 1.0 + 1.05 * rows), layout="constrained")
    ratios = (1.4, 0.8)[:rows]
    grid = figure.subplots(rows, time, squeeze=False, sharey="row", height_ratios=ratios)
    for t, axes in enumerate(grid[0]):
        _draw_frame(axes, frames[t])
        axes.set_title(f"step {t + 1}", fontsize=8)
        if maps is not None:
            axes.images[0].set_alpha(_DIMMED)
            heat = colormaps["plasma"](maps[t])  # (H, W, 4)
            heat[..., 3] = np.sqrt(maps[t])  # faint ones too are seen
            axes.imshow(heat)
    if changes is not None:
        _draw_changes(grid[1], changes)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure as PNG (or what the path's ending says)."""
    figure.savefig(path, dpi=110)


def as_pixels(figure: Figure) -> np.ndarray:
    """A figure as an image `(H, W, 4)` uint8: red, green, blue and opacity.

    Raises:
        ValueError: if it is no figure.
    """
    check_kind("as_pixels: `figure`", figure, Figure, "a figure of matplotlib")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def _check_history(history, metric):
    _check_label("plot_history: `metric`", metric)
    rows = history if isinstance(history, list | tuple) else ()
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(
            "plot_history: `history` must be a dict for each epoch, one at least; received "
            f"{told(history)}."
        )
    drawn = [key for name in ("loss", metric) for key in (name, f"val_{name}") if key in rows[0]]
    for row in rows:
        if not all(isinstance(row.get(key), float | int) for key in drawn):
            raise ValueError(
                f"plot_history: `history` must have a number for {', '.join(drawn)} in each epoch; "
                f"received {told(row)}."
            )


def _check_label(what, value):
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{what} must be a line of text; received {told(value)}.")


def _draw_frame(axes, frame):
    axes.imshow(frame.squeeze(-1) if frame.shape[-1] == 1 else frame, cmap="gray")
    axes.set(xticks=[], yticks=[], facecolor="black")
    axes.spines[:].set_visible(False)


def _draw_changes(row, changes):
    """A bar for each step, all of one scale, with its number above or beneath it."""
    low, high = min(0, *changes), max(0, *changes)
    room = 0.35 * max(high - low, 1e-6)
    for axes, change in zip(row, changes, strict=True):
        bar = axes.bar([0], [change], 0.5, color="tab:blue" if change >= 0 else "tab:orange")
        axes.bar_label(bar, [f"{change:+.2f}"], padding=2, fontsize=8)
        axes.axhline(0, color="black", lw=0.8)
        axes.set(xlim=(-0.6, 0.6), ylim=(low - (room if low < 0 else 0), high + room), xticks=[])
        axes.spines[["top", "right", "bottom", "left"]].set_visible(False)
        axes.tick_params(left=False, labelleft=False)
    row[0].set_ylabel("fall when\nblanked", fontsize=8)


def _checked_explanation(frames, maps, changes):
    if maps is not None:
        maps = as_numbers("plot_explanation: `maps`", maps)
        if maps.shape != frames.shape[:3] or maps.min() < 0 or maps.max() > 1:
            raise ValueError(
                f"plot_explanation: `maps` must be of shape {frames.shape[:3]} in [0, 1], as "
                f"`frames` are; received {told(maps)}."
            )
    if changes is not None:
        changes = as_numbers("plot_explanation: `changes`", changes)
        if changes.shape != frames.shape[:1]:
            raise ValueError(
                f"plot_explanation: `changes` must be of shape ({len(frames)},); received "
                f"{changes.shape}."
            )
    return maps, changes


def _checked_frames(frames, function) -> np.ndarray:
    frames = as_array(f"{function}: `frames`", frames)
    fits = frames.ndim == 4 and frames.size and frames.shape[-1] in (1, 3) and len(frames) <= _MOST
    if not fits or frames.dtype != np.uint8:
        raise ValueError(
            f"{function}: `frames` must be uint8 of shape (T, H, W, C), T 1 to {_MOST}, C 1 or "
            f"3; received {frames.dtype} of {frames.shape}."
        )
    return frames


def _checked_probabilities(probabilities, class_names) -> np.ndarray:
    check_names("plot_sequence: `class_names`", class_names)
    probabilities = as_numbers("plot_sequence: `probabilities`", probabilities)
    if not class_names or probabilities.shape != (len(class_names),):
        raise ValueError(
            f"plot_sequence: `probabilities` must have shape ({len(class_names)},), as there are "
            f"`class_names`; received {probabilities.shape}."
        )
    return probabilities
