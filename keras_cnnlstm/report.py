"""The report of a run as one page that opens anywhere, and its figures as PNG files.

    RUN/report.html       the page: no other file, no network, light and dark, wide and narrow
    RUN/report/*.png      its figures

`findings` finds out what it says, `report_page` puts it into words.
"""

from pathlib import Path

from matplotlib.figure import Figure

from keras_cnnlstm.files import replacing, write_text
from keras_cnnlstm.learning_curves import slowest_learned
from keras_cnnlstm.plots import plot_by_length, plot_confusion
from keras_cnnlstm.report_facts import Findings, ceiling_of, measure
from keras_cnnlstm.report_figures import (
    calibration_figure,
    comparison_figure,
    curve_figure,
    data_uri,
    figure_png,
    length_figure,
    mistake_figure,
    recall_figure,
)
from keras_cnnlstm.report_page import after, page_context
from keras_cnnlstm.runs import Run


def write_report(run: Run, findings: Findings) -> Path:
    """Writes `report.html` and the figures in `report/` into a run directory.

    Returns:
        The page.
    """
    from jinja2 import Environment

    figures = _figures(findings)
    folder = run.path / "report"
    folder.mkdir(exist_ok=True)
    charts = {}
    for name, (figure, alt) in figures.items():
        png = figure_png(figure)
        with replacing(folder / f"{name}.png") as temporary:
            temporary.write_bytes(png)
        charts[name] = {"uri": data_uri(png), "alt": alt}
    for old in folder.glob("mistake-*.png"):
        if old.stem not in figures:
            old.unlink()
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    write_text(
        run.path / "report.html",
        page.render(charts=charts, **page_context(run, findings, _learning_figures(findings))),
    )
    return run.path / "report.html"


def _figures(findings) -> dict[str, tuple[Figure, str]]:
    """The figures by name, each with a description for those who do not see it."""
    figures: dict[str, tuple[Figure, str]] = {}
    if findings.comparison:
        rows, unit = [], ""
        for row in findings.comparison:
            value, interval, unit = measure(row.score)
            told = {"title": row.title, "value": value, "interval": interval}
            rows.append(told | {"ceiling": ceiling_of(row.score)})
        figures["comparison"] = comparison_figure(rows, unit), "The model beside simpler answers"
    for name, score in findings.tests.items():
        if "confusion" in score:
            figure = plot_confusion(score["confusion"], list(score["classes"]))
            figures[f"confusion-{name}"] = figure, "Confusion matrix"
        if "rmse_by_length" in score and len(score["rmse_by_length"]) > 1:
            figure = plot_by_length(score["rmse_by_length"], "root-mean-square error")
            figures["by_length"] = figure, "Error by length"
    if findings.calibration:
        points = findings.calibration["points"]
        figures["calibration"] = calibration_figure(points), "Calibration curve"
    if findings.by_length:
        figures["by_length"] = length_figure(findings.by_length), "Accuracy by length"
    return figures | _learning_figures(findings) | _mistake_figures(findings)


def _learning_figures(findings):
    figures = {}
    names = _measured(findings.history)
    for name in names:
        figure = curve_figure(findings.history, name)
        figures[f"curve-{name}"] = figure, f"{name} of training and validation over the epochs"
    slowest = [row["name"] for row in slowest_learned(findings.recalls)]
    if slowest:
        figure = recall_figure(findings.recalls, slowest)
        figures["curve-recall"] = figure, "Recall of each class over the epochs"
    return figures


def _mistake_figures(findings):
    figures = {}
    for place, one in enumerate(findings.mistakes, start=1):
        titles = [after(one, t) for t in range(len(one.frames))]
        figure = mistake_figure(one.frames, titles, one.maps)
        figures[f"mistake-{place:02}"] = figure, f"{one.answer}, in truth {one.truth}"
    return figures


def _measured(history):
    """Loss and metric of a history: what has a value in training or validation."""
    names = dict.fromkeys(
        name.removeprefix("val_") for name in (history[0] if history else ()) if name != "epoch"
    )
    return [name for name in ("loss", "accuracy", "rmse") if name in names]
