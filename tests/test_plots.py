"""Figures of classes with odd names, and of many classes."""

import io
import logging

import numpy as np
import pytest
from matplotlib.font_manager import FontProperties, findfont, fontManager
from PIL import Image

from keras_cnnlstm import plots
from keras_cnnlstm.plots import figure_png, plot_confusion, plot_sequence, recall_figure

ODD = ["$\\frac{$", "costs $5 or $6", "caf\udce9", "two\nlines", "tab\there", "_hidden", "a%s"]
SHOWN = ["$\\frac{$", "costs $5 or $6", "caf?", "two lines", "tab here", "_hidden", "a%s"]


def labels(axis):
    return [label.get_text().replace(r"\$", "$") for label in axis.get_ticklabels()]


def picture(figure):
    return np.asarray(Image.open(io.BytesIO(figure_png(figure))).convert("L"))


def test_names_that_are_no_formulas():
    confusion = plot_confusion(np.eye(len(ODD), dtype=int), ODD)
    frames = np.zeros((2, 8, 8, 1), np.uint8)
    sequence = plot_sequence(frames, np.full(len(ODD), 1 / len(ODD)), ODD)
    recalls = recall_figure({name: [0.1, 0.2] for name in ODD}, ODD)
    for figure in (confusion, sequence, recalls):
        assert picture(figure).min() < 100
    (axes,) = confusion.axes
    assert labels(axes.xaxis) == labels(axes.yaxis) == SHOWN


@pytest.mark.parametrize("count", [2, 30, 31, 101, 400])
def test_a_confusion_of_many_classes(count):
    names = [f"class {number}" for number in range(count)]
    figure = plot_confusion(np.eye(count, dtype=int), names)
    (axes,) = figure.axes
    assert len(axes.texts) == (count**2 if count <= 30 else 0)  # the counts
    shown = labels(axes.xaxis)
    assert len(shown) <= 60
    assert shown[:2] == [names[0], names[-(-count // 60)]]
    assert max(picture(figure).shape) < 3500


FRAMES = np.zeros((2, 8, 8, 1), np.uint8)
CHINESE = ["fall", "\u8dcc\u5012", "\u8d70"]  # which the fonts of matplotlib lack


def figures_of(names):
    """All that shows names of classes, and the labels of the classes in it."""
    shares = np.full(len(names), 1 / len(names))
    confusion = plot_confusion(np.eye(len(names), dtype=int), names)
    bars = plot_sequence(FRAMES, shares, names, title=f"{names[1]} $")
    recalls = recall_figure({name: [0.1, 0.2] for name in names}, names)
    (legend,) = (axes.get_legend() for axes in recalls.axes)
    shown = [labels(confusion.axes[0].xaxis), labels(bars.axes[0].yaxis)]
    return [confusion, bars, recalls], [*shown, [text.get_text() for text in legend.get_texts()]]


def test_names_that_no_font_can_draw_are_numbers(caplog, monkeypatch):
    usual = [font for font in fontManager.ttflist if "DejaVu" in font.name or "STIX" in font.name]
    monkeypatch.setattr(fontManager, "ttflist", usual)
    plots._family_of.cache_clear()
    with caplog.at_level(logging.WARNING, "keras_cnnlstm"):
        figures, shown = figures_of(CHINESE)
    assert shown == [["fall", "class 1", "class 2"]] * 3
    assert figures[1].get_suptitle() == r"?? \$"
    assert len(caplog.messages) == 3
    assert "1 is '\u8dcc\u5012', 2 is '\u8d70'" in caplog.messages[0]
    assert "Install" in caplog.messages[0]
    for figure in figures:
        picture(figure)
    plots._family_of.cache_clear()


def test_names_are_drawn_in_a_font_that_has_their_characters(caplog):
    usual = plots._characters(findfont(FontProperties()))
    (path,) = (f.fname for f in fontManager.ttflist if f.fname.endswith("/STIXGeneral.ttf"))
    rare = next(c for c in sorted(plots._characters(path) - usual) if c.isalpha())
    names = ["fall", f"fall {rare}", rare * 2]
    figures, shown = figures_of(names)
    assert shown == [names] * 3
    assert not caplog.messages
    (axes,) = figures[0].axes
    assert "STIXGeneral" in axes.get_xticklabels()[1].get_fontfamily()
    for figure in figures:
        picture(figure)  # which warns of a character that it draws as a box


def test_answers_against_targets():
    truth, answers = np.arange(5.0), np.arange(5.0) + 0.5
    figure = plots.plot_scatter({"speed": [truth, answers], "mass": [answers, truth]})
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("speed", "mass")
    np.testing.assert_array_equal(first.collections[0].get_offsets(), np.stack([truth, answers], 1))
    np.testing.assert_array_equal(first.lines[0].get_xdata(), [0, 4.5])
    with pytest.raises(ValueError, match="points"):
        plots.plot_scatter({"speed": [[1.0, 2.0], [1.0]]})
