"""All figures: of runs and sequences for notebooks, and of a report.

Each function returns a `matplotlib.figure.Figure`: a notebook shows it, `save_figure` writes it,
and `data_uri(figure_png(figure))` embeds it in a page. The `plot_` functions check their arguments;
the `_figure` functions draw what a report has found, and trust it.
"""

import base64
import contextlib
import functools
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from matplotlib import colormaps, rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

from keras_cnnlstm.utils.files import png_bytes
from keras_cnnlstm.utils.validation import (
    as_array,
    as_numbers,
    check_instance,
    check_names,
    is_number,
    short_repr,
)

_SIZE = (5.0, 3.3)  # inches of a figure with one pair of axes
_DPI = 150
_SMALL = 8  # points of labels beside or within a drawing
_DIMMED = 0.5  # opacity of a frame under heat
_OPACITY = 0.65  # of a map where it is strongest
_MOST = 100  # frames side by side
_SHOWN = 10  # classes whose curves a reader can distinguish
_COUNTED = 30  # classes up to which a confusion matrix has room for its counts
_TICKS = 60  # names beside a larger one


def plot_history(history: Sequence[Mapping[str, float]], metric: str = "accuracy") -> Figure:
    """Draws loss and a metric of training and validation over the epochs.

    Args:
        history: for each epoch `loss`, the metric, and both with `val_`; those of the training may
            be missing.
        metric: what to draw beside the loss.
    """
    _check_history(history, metric)
    figure = Figure(figsize=(2 * _SIZE[0], _SIZE[1]), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", metric), strict=True):
        _draw_curves(axes, history, name)
    return figure


def curve_figure(history: Sequence[Mapping[str, float]], name: str) -> Figure:
    """A number of training and validation over the epochs.

    Args:
        history: for each epoch the number, and the number with `val_`; either may be missing.
        name: of the number.
    """
    figure, axes = _one_axes("", "")
    _draw_curves(axes, history, name)
    return figure


def plot_confusion(confusion: Sequence[Sequence[int]], class_names: Sequence[str]) -> Figure:
    """Draws a confusion matrix: colour by share of the true class, counts as numbers.

    Of more than 30 classes colours alone are drawn, of more than 60 not each name.

    Args:
        confusion: counts, rows the truth, columns the answer.
        class_names: names of the classes, in the order of their indices.
    """
    check_names("plot_confusion: `class_names`", class_names)
    what, shape = "plot_confusion: `confusion`", (len(class_names),) * 2
    counts = as_numbers(what, confusion, kinds="iu", shape=shape)
    if not class_names or counts.min() < 0:
        raise ValueError(f"{what} must be counts of classes; received {short_repr(counts)}.")
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    side = 2.2 + 0.62 * min(len(class_names), _COUNTED)
    figure, axes = _one_axes("answer", "truth", size=(side, side))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    numbers = np.ndenumerate(counts) if len(counts) <= _COUNTED else ()
    for (row, column), n in numbers:
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, n, ha="center", va="center", color=colour, fontsize=_SMALL)
    ticks = range(0, len(class_names), -(-len(class_names) // _TICKS))
    names, family = _labels({tick: class_names[tick] for tick in ticks})
    font: Any = {"family": family, "fontsize": _SMALL}
    axes.set_xticks(ticks, names, rotation=45, ha="right", **font)
    axes.set_yticks(ticks, names, **font)
    return figure


def plot_by_length(values: Mapping[str, float], ylabel: str) -> Figure:
    """Draws one number for each length of sequences as bars.

    Args:
        values: the numbers, by length.
        ylabel: what they are.
    """
    if not isinstance(values, Mapping) or not all(map(is_number, values.values())):
        raise ValueError(
            "plot_by_length: `values` must be a number for each length; received "
            f"{short_repr(values)}."
        )
    _check_label("plot_by_length: `ylabel`", ylabel)
    figure, axes = _one_axes("length", ylabel)
    bars = axes.bar(list(map(str, values)), list(values.values()))
    axes.bar_label(bars, [f"{value:.2f}" for value in values.values()], fontsize=_SMALL)
    return figure


def plot_scatter(points: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Draws answers against targets, one panel for each number; on the line both are equal.

    Args:
        points: the targets and the answers, `(2, N)`, by the name of the number.
    """
    if not isinstance(points, Mapping) or not points:
        raise ValueError(
            "plot_scatter: `points` must be targets and answers by the name of each number; "
            f"received {short_repr(points)}."
        )
    pairs = {str(name): as_numbers("plot_scatter: `points`", pair) for name, pair in points.items()}
    if any(pair.ndim != 2 or len(pair) != 2 or not pair.size for pair in pairs.values()):
        raise ValueError(
            "plot_scatter: `points` must be two lists of N numbers, N 1 at least; received "
            f"{short_repr(points)}."
        )
    columns = min(len(pairs), 3)
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(4 * columns, 4 * rows), layout="constrained")
    for number, (name, (truth, answers)) in enumerate(pairs.items(), start=1):
        axes = figure.add_subplot(rows, columns, number)
        ends = [min(truth.min(), answers.min()), max(truth.max(), answers.max())]
        axes.plot(ends, ends, color="0.6", linewidth=1)
        axes.scatter(truth, answers, s=8, alpha=0.5)
        axes.set(title=_drawable(name), xlabel="truth", ylabel="answer")
    return figure


def length_figure(by_length: Mapping[str, Mapping[str, Any]]) -> Figure:
    """The accuracy for sequences of each length, with 95 % intervals.

    Args:
        by_length: as `scores.accuracy_by_length` returns it.
    """
    figure, axes = _one_axes("frames in the sequence", "accuracy", grid=True)
    values = np.array([entry["accuracy"] for entry in by_length.values()])
    ends = np.array([entry["accuracy_95"] for entry in by_length.values()])
    errors = np.maximum(np.abs(ends.T - values), 0)
    axes.errorbar([int(n) for n in by_length], values, errors, fmt="o-", ms=4, capsize=2)
    axes.xaxis.get_major_locator().set_params(integer=True)
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
    """
    frames = _checked_frames(frames, "plot_sequence")
    if probabilities is not None:
        check_names("plot_sequence: `class_names`", class_names)
        shape = (len(class_names),)
        probabilities = as_numbers("plot_sequence: `probabilities`", probabilities, shape=shape)
    bars = 0 if probabilities is None else 0.32 * len(class_names)
    figure = Figure(figsize=(max(4.5, 1.4 * len(frames)), 1.9 + bars), layout="constrained")
    _draw_title(figure.suptitle, title, fontsize=10)
    top: Figure | SubFigure = figure
    if probabilities is not None:
        top, bottom = figure.subfigures(2, 1, height_ratios=(1.9, bars), squeeze=False)[:, 0]
        _draw_probabilities(bottom.subplots(), probabilities, class_names)
    _draw_frames(top, frames)
    return figure


def plot_explanation(
    frames: np.ndarray,
    maps: np.ndarray | None = None,
    changes: np.ndarray | Sequence[float] | None = None,
    *,
    title: str = "",
) -> Figure:
    """Draws the evidence for an answer: heat over the frames, and a bar for each frame beneath.

    Args:
        frames: `(T, H, W, C)` uint8, C is 1 or 3.
        maps: `(T, H, W)` in [0, 1], as `explanations.grad_cam` returns them for a sequence.
        changes: `(T,)`, as `explanations.occlusion` returns them for a sequence.
        title: a line above the frames.
    """
    frames = _checked_frames(frames, "plot_explanation")
    if maps is not None:
        what = "plot_explanation: `maps`"
        maps = as_numbers(what, maps, shape=frames.shape[:3])
        if maps.min() < 0 or maps.max() > 1:
            raise ValueError(f"{what} must be in [0, 1]; received {short_repr(maps)}.")
    if changes is not None:
        changes = as_numbers("plot_explanation: `changes`", changes, shape=frames.shape[:1])
    rows = 1 if changes is None else 2
    figure = Figure(figsize=(max(4.5, 1.4 * len(frames)), 1.0 + 1.05 * rows), layout="constrained")
    _draw_title(figure.suptitle, title, fontsize=10)
    grid = _draw_frames(figure, frames, heights=(1.4, 0.8)[:rows])
    if maps is not None:
        for t, axes in enumerate(grid[0]):
            axes.images[0].set_alpha(_DIMMED)
            heat = colormaps["plasma"](maps[t])  # (H, W, 4)
            heat[..., 3] = np.sqrt(maps[t])  # makes faint heat visible
            axes.imshow(heat)
    if changes is not None:
        _draw_changes(grid[1], changes)
    return figure


def mistake_figure(
    frames: np.ndarray, titles: Sequence[str], maps: np.ndarray | None = None
) -> Figure:
    """The frames of a sequence side by side, and beneath them where the evidence is.

    Args:
        frames: `(T, H, W, C)` uint8.
        titles: above each frame.
        maps: `(T, H, W)` in [0, 1].
    """
    rows = 1 if maps is None else 2
    figure = Figure(figsize=(max(3.0, 1.35 * len(frames)), 1.75 * rows), layout="constrained")
    grid = _draw_frames(figure, [_coloured(frame) for frame in frames], titles, heights=(1,) * rows)
    if maps is not None:
        for axes, frame, heat in zip(grid[1], frames, maps, strict=True):
            _draw_frame(axes, overlay(frame, heat))
    return figure


def recall_figure(recalls: Mapping[str, Sequence[float | None]], names: Sequence[str]) -> Figure:
    """The recall of classes in the validation over the epochs, the slowest in colour.

    Args:
        recalls: as `learning_curves.read_recalls` returns them.
        names: the classes, the slowest first; one or more.
    """
    check_names("recall_figure: `names`", names)
    check_instance("recall_figure: `recalls`", recalls, Mapping, "lists by names of classes")
    if not names or not all(_is_curve(recalls.get(name)) for name in names[:_SHOWN]):
        raise ValueError(
            "recall_figure: `names` must be one or more of `recalls`, whose values are lists of "
            f"numbers or None; received {short_repr(names)} for {short_repr(recalls)}."
        )
    figure, axes = _one_axes("epoch", "recall in the validation", grid=True)
    slowest, numbers = names[:3], list(recalls)
    labels, family = _labels({numbers.index(name): name for name in slowest})
    for place, name in enumerate(names[:_SHOWN]):
        values = [np.nan if value is None else value for value in recalls[name]]
        slow = (
            {"lw": 2, "label": labels[place]}
            if place < 3
            else {"color": "0.75", "lw": 1, "zorder": 1}
        )
        axes.plot(range(1, len(values) + 1), values, "o-", ms=3, **slow)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(-0.03, 1.03)
    axes.legend(title="learned last", prop={"family": family, "size": _SMALL})
    return figure


def calibration_figure(points: Sequence[Mapping[str, float]]) -> Figure:
    """The share of right answers by the model's confidence.

    Args:
        points: as `calibration.reliability` returns them; the larger the dot, the more answers.
    """
    figure, axes = _one_axes("how sure the model is", "how often it is right", grid=True)
    axes.plot([0, 1], [0, 1], "--", color="0.6", lw=1, label="as it should be")
    sure, right = ([p[key] for p in points] for key in ("confidence", "accuracy"))
    most = max(p["count"] for p in points)
    axes.plot(sure, right, color="tab:blue", lw=1)
    axes.scatter(sure, right, [15 + 85 * p["count"] / most for p in points], label="the model")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.legend(loc="upper left")
    return figure


def comparison_figure(rows: Sequence[Mapping[str, Any]], unit: str) -> Figure:
    """The model beside simpler answers, with 95 % intervals.

    Args:
        rows: each with `title`, `value`, `interval` (two numbers) and perhaps `ceiling`.
        unit: what the values are.
    """
    figure, axes = _one_axes(unit, "", size=(_SIZE[0], 1.1 + 0.45 * len(rows)))
    places = range(len(rows))
    values = np.array([row["value"] for row in rows])
    ends = np.array([row["interval"] for row in rows]).reshape(-1, 2).T
    errors = np.maximum([values - ends[0], ends[1] - values], 0)
    colours = ["tab:blue", *["0.65"] * (len(rows) - 1)]
    axes.barh(places, values, xerr=errors, color=colours, ecolor="0.3", capsize=2)
    for place, row in enumerate(rows):
        if row.get("ceiling") is not None:
            axes.plot([row["ceiling"]] * 2, [place - 0.4, place + 0.4], color="tab:red", lw=2)
    axes.set_yticks(places, [row["title"] for row in rows], fontsize=9)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def overlay(frame: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A frame with a map laid over it, the warmer the more evidence.

    Args:
        frame: `(H, W, C)` uint8.
        heat: `(H, W)` in [0, 1].

    Returns:
        `(H, W, 3)` uint8.

    Example:

    >>> overlay(np.full((2, 2, 1), 80, np.uint8), np.zeros((2, 2)))[0, 0].tolist()
    [80, 80, 80]
    """
    colours = colormaps["inferno"](heat)[..., :3] * 255
    share = _OPACITY * heat[..., None]
    return np.round(_coloured(frame) * (1 - share) + colours * share).astype(np.uint8)


def save_figure(figure: Figure, file: str | Path | BinaryIO) -> None:
    """Writes a figure as PNG, or in the format of the path's ending."""
    figure.savefig(file, dpi=_DPI)


def figure_png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    file = io.BytesIO()
    save_figure(figure, file)
    return file.getvalue()


def image_png(image: np.ndarray) -> bytes:
    """An image `(H, W, C)` uint8, C 1 or 3, as a PNG file."""
    return png_bytes(_coloured(image))


def data_uri(png: bytes) -> str:
    """A PNG file as an address that contains it, so that a page needs no other file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def as_pixels(figure: Figure) -> np.ndarray:
    """A figure as an image `(H, W, 4)` uint8: red, green, blue and opacity."""
    check_instance("as_pixels: `figure`", figure, Figure, "a figure of matplotlib")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def _drawable(name: str) -> str:
    """The name of a class on one line, none of it a formula, nor bytes that are no text."""
    text = name.encode("utf-8", "replace").decode()
    return " ".join(text.split()).replace("$", r"\$")


def _labels(names: Mapping[int, str]) -> tuple[list[str], list[str]]:
    """Labels of classes by their numbers, and the font families to draw them in.

    A class whose name no installed font can draw is labelled with its number, and logged.
    """
    labels, family, unknown = [], list(rcParams["font.family"]), []
    for number, name in names.items():
        text = _drawable(name)
        found = _family_of(frozenset(text), findfont(FontProperties()))
        if found is None:
            unknown.append(f"{number} is {short_repr(name)}")
            text = f"class {number}"
        family.append(found or family[0])
        labels.append(text)
    if unknown:
        logging.getLogger(__name__).warning(
            "figure: no installed font can draw the names of %d classes, so their numbers are "
            "shown (%s). Install one that can, such as Noto Sans CJK.",
            len(unknown),
            ", ".join(unknown[:_SHOWN]),
        )
    return labels, list(dict.fromkeys(family))


@functools.lru_cache(maxsize=10_000)
def _family_of(characters: frozenset[str], usual: str) -> str | None:
    """An installed family with the characters that the usual font lacks; "" if it lacks none."""
    missing = characters - _characters(usual)
    if not missing:
        return ""
    for font in fontManager.ttflist:
        if not font.name.startswith("Last Resort") and missing <= _characters(font.fname):
            return font.name
    return None


@functools.lru_cache(maxsize=1000)
def _characters(path: str) -> frozenset[str]:
    """What a font can draw; nothing if its file cannot be read."""
    with contextlib.suppress(OSError, RuntimeError):
        return frozenset(map(chr, get_font(path).get_charmap()))
    return frozenset()


def _draw_title(draw, title, **font):
    """Draws a line above something; a question mark stands for what no installed font can draw."""
    text, usual = _drawable(title), findfont(FontProperties())
    found = {character: _family_of(frozenset(character), usual) for character in set(text)}
    text = "".join("?" if found[character] is None else character for character in text)
    if text:
        draw(text, family=[*rcParams["font.family"], *filter(None, found.values())], **font)


def _one_axes(xlabel, ylabel, *, size=_SIZE, grid=False):
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if grid:
        axes.grid(alpha=0.3)
    return figure, axes


def _draw_curves(axes, history, name):
    """A number of training and validation, as far as the history has them."""
    for key, label in ((name, "training"), (f"val_{name}", "validation")):
        if key in history[0]:
            values = [row[key] for row in history]
            axes.plot(range(1, len(history) + 1), values, "o-", ms=3, label=label)
    axes.set(xlabel="epoch", ylabel=name.replace("_", " "))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_frames(figure, frames, titles=None, heights=(1,)):
    """Draws frames in the first row of a grid, by default titled by their step; the grid."""
    titles = titles or [f"step {t + 1}" for t in range(len(frames))]
    shape = len(heights), len(frames)
    grid = figure.subplots(*shape, squeeze=False, sharey="row", height_ratios=heights)
    for axes, frame, title in zip(grid[0], frames, titles, strict=True):
        _draw_frame(axes, frame, title)
    return grid


def _draw_frame(axes, frame, title=""):
    axes.imshow(frame.squeeze(-1) if frame.shape[-1] == 1 else frame, cmap="gray")
    axes.set(xticks=[], yticks=[], facecolor="black")
    axes.spines[:].set_visible(False)
    _draw_title(axes.set_title, title, fontsize=_SMALL)


def _draw_probabilities(axes, probabilities, class_names):
    """A bar for each class, the largest in colour."""
    best = int(np.argmax(probabilities))
    colours = ["tab:blue" if i == best else "lightgray" for i in range(len(class_names))]
    places = range(len(class_names))
    bars = axes.barh(places, probabilities, color=colours)
    labels, family = _labels(dict(enumerate(class_names)))
    axes.set_yticks(places, labels, family=family)
    axes.bar_label(bars, [f"{p:.1%}" for p in probabilities], padding=3, fontsize=_SMALL)
    axes.set(xlim=(0, 1.15), xticks=[])
    axes.tick_params(axis="y", labelsize=_SMALL)
    axes.invert_yaxis()
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _draw_changes(row, changes):
    """A bar for each step, all of one scale, with its number above or beneath it."""
    low, high = min(0, *changes), max(0, *changes)
    room = 0.35 * max(high - low, 1e-6)
    for axes, change in zip(row, changes, strict=True):
        bar = axes.bar([0], [change], 0.5, color="tab:blue" if change >= 0 else "tab:orange")
        axes.bar_label(bar, [f"{change:+.2f}"], padding=2, fontsize=_SMALL)
        axes.axhline(0, color="black", lw=0.8)
        axes.set(xlim=(-0.6, 0.6), ylim=(low - (room if low < 0 else 0), high + room), xticks=[])
        axes.spines[:].set_visible(False)
        axes.tick_params(left=False, labelleft=False)
    row[0].set_ylabel("fall when\nblanked", fontsize=_SMALL)


def _coloured(frame):
    """`(H, W, 3)` of a grey or coloured frame."""
    return np.broadcast_to(frame, (*frame.shape[:2], 3))


def _check_history(history, metric):
    _check_label("plot_history: `metric`", metric)
    rows = history if isinstance(history, list | tuple) else ()
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(
            "plot_history: `history` must be a dict for each epoch, one at least; received "
            f"{short_repr(history)}."
        )
    drawn = [key for name in ("loss", metric) for key in (name, f"val_{name}") if key in rows[0]]
    for row in rows:
        if not all(isinstance(row.get(key), float | int) for key in drawn):
            raise ValueError(
                f"plot_history: `history` must have a number for {', '.join(drawn)} in each epoch; "
                f"received {short_repr(row)}."
            )


def _check_label(what, value):
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{what} must be a line of text; received {short_repr(value)}.")


def _checked_frames(frames, function) -> np.ndarray:
    frames = as_array(f"{function}: `frames`", frames)
    fits = frames.ndim == 4 and frames.size and frames.shape[-1] in (1, 3) and len(frames) <= _MOST
    if not fits or frames.dtype != np.uint8:
        raise ValueError(
            f"{function}: `frames` must be uint8 of shape (T, H, W, C), T 1 to {_MOST}, C 1 or "
            f"3; received {frames.dtype} of {frames.shape}."
        )
    return frames


def _is_curve(values):
    listed = isinstance(values, list | tuple)
    return listed and all(value is None or is_number(value, 0, 1) for value in values)
