"""Figures of classes with odd names, and of many classes."""

import io

import numpy as np
import pytest
from PIL import Image

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
