"""The figures of a report: small, to be read on a telephone too. `plots` has the larger ones."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from keras_cnnlstm.arguments import check_kind, check_names, is_number, told

_SIZE = (5.0, 3.2)  # inches
_DPI = 150
_OPACITY = 0.65  # of a map where it is strongest
_SHOWN = 10  # classes that curves can be told apart of; of more, the slowest


def curve_figure(history: Sequence[Mapping[str, float]], name: str) -> Figure:
    """A number of training and validation over the epochs.

    Args:
        history: for each epoch the number, and `val_` and its name; either may be missing.
        name: of the number.
    """
    figure, axes = _axes("epoch", name.replace("_", " "))
    epochs = range(1, len(history) + 1)
    for key, label in ((name, "training"), (f"val_{name}", "validation")):
        if key in history[0]:
            axes.plot(epochs, [row[key] for row in history], "o-", ms=3, label=label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    return figure


def recall_figure(recalls: Mapping[str, Sequence[float | None]], names: Sequence[str]) -> Figure:
    """The recall of classes in the validation over the epochs, the slowest in colour.

    Args:
        recalls: as `learning_curves.read_recalls` returns them.
        names: the classes, the slowest first; one or more.

    Raises:
        ValueError: if a name has no recalls.
    """
    check_names("recall_figure: `names`", names)
    check_kind("recall_figure: `recalls`", recalls, Mapping, "lists by names of classes")
    if not names or not all(_is_curve(recalls.get(name)) for name in names[:_SHOWN]):
        raise ValueError(
            "recall_figure: `names` must be one or more of `recalls`, whose values are lists of "
            f"numbers or None; received {told(names)} for {told(recalls)}."
        )
    figure, axes = _axes("epoch", "recall in the validation")
    for place, name in enumerate(names[:_SHOWN]):
        values = [np.nan if value is None else value for value in recalls[name]]
        slow = {"lw": 2, "label": name} if place < 3 else {"color": "0.75", "lw": 1, "zorder": 1}
        axes.plot(range(1, len(values) + 1), values, "o-", ms=3, **slow)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(-0.03, 1.03)
    axes.legend(title="learned last", fontsize=8)
    return figure


def calibration_figure(points: Sequence[Mapping[str, float]]) -> Figure:
    """How often answers are right, by how sure the model is.

    Args:
        points: as `calibration.reliability` returns them; the larger the dot the more answers.
    """
    figure, axes = _axes("how sure the model is", "how often it is right")
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
    figure = Figure(figsize=(_SIZE[0], 1.1 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    values = [row["value"] for row in rows]
    ends = np.array([[row["value"] - low, high - row["value"]] for row in rows for low, high in
                     [row["interval"]]]).T  # fmt: skip
    colours = ["tab:blue", *["0.65"] * (len(rows) - 1)]
    axes.barh(places, values, xerr=np.maximum(ends, 0), color=colours, ecolor="0.3", capsize=2)
    for place, row in enumerate(rows):
        if row.get("ceiling") is not None:
            axes.plot([row["ceiling"]] * 2, [place - 0.4, place + 0.4], color="tab:red", lw=2)
    axes.set_yticks(places, [row["title"] for row in rows], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def length_figure(by_length: Mapping[str, Mapping[str, Any]]) -> Figure:
    """The accuracy for sequences of each length, with 95 % intervals.

    Args:
        by_length: as `scores.accuracy_by_length` returns it.
    """
    figure, axes = _axes("frames in the sequence", "accuracy")
    values = np.array([entry["accuracy"] for entry in by_length.values()])
    ends = np.array([entry["accuracy_95"] for entry in by_length.values()])
    errors = np.maximum(np.abs(ends.T - values), 0)
    axes.errorbar([int(n) for n in by_length], values, errors, fmt="o-", ms=4, capsize=2)
    axes.xaxis.get_major_locator().set_params(integer=True)
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
    size = (max(3.0, 1.35 * len(frames)), 1.75 * rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, len(frames), squeeze=False)
    for t, frame in enumerate(frames):
        axes[0, t].imshow(_coloured(frame))
        axes[0, t].set_title(titles[t], fontsize=7)
        if maps is not None:
            axes[1, t].imshow(overlay(frame, maps[t]))
    for one in axes.flat:
        one.axis("off")
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


def figure_png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()


def image_png(image: np.ndarray) -> bytes:
    """An image `(H, W, C)` uint8, C 1 or 3, as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(_coloured(image)).save(file, format="png")
    return file.getvalue()


def data_uri(png: bytes) -> str:
    """A PNG file as an address that holds it, so that a page needs no other file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _is_curve(values):
    listed = isinstance(values, list | tuple)
    return listed and all(value is None or is_number(value, 0, 1) for value in values)


def _axes(xlabel, ylabel):
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure, axes


def _coloured(frame):
    """`(H, W, 3)` of a grey or coloured frame."""
    return np.broadcast_to(frame, (*frame.shape[:2], 3))
