"""The report of a run as one page that opens anywhere, and its figures as PNG files.

    RUN/report.html       the page: no other file, no network, light and dark, wide and narrow
    RUN/report/*.png      its figures

`evaluator` finds the facts; the template `report.html` puts them into words.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from keras_cnnlstm.evaluation.comparisons import (
    Comparison,
    ceiling_of,
    interval_text,
    number_text,
    value_text,
    verdict,
)
from keras_cnnlstm.evaluation.learning_curves import slowest_learned
from keras_cnnlstm.evaluation.mistakes import Mistake
from keras_cnnlstm.plots import (
    calibration_figure,
    comparison_figure,
    curve_figure,
    data_uri,
    figure_png,
    image_png,
    length_figure,
    mistake_figure,
    overlay,
    plot_by_length,
    plot_confusion,
    plot_scatter,
    recall_figure,
)
from keras_cnnlstm.tasks.task import Task
from keras_cnnlstm.training.run_directory import Run
from keras_cnnlstm.utils.files import replacing, write_text

_STORED = ("index", "confidence", "truth", "answer", "reason", "digits", "read", "clip")


@dataclass(frozen=True)
class Findings:
    """What was found out about a run.

    Attributes:
        task: what the model was trained for.
        tests: scores by the name of the test data; all else is about the first.
        seconds: for a sequence, by the batch size as text.
        comparison: the model first, then simpler answers; empty where there are none.
        calibration: as `evaluator.calibration_of` returns it; `None` without probabilities.
        by_length: accuracy of sequences of each length, if lengths differ.
        history: a row for each epoch.
        recalls: for each class the recall in each epoch's validation.
        mistakes: the most confident ones.
        wrong: how many sequences were answered wrongly, and how many each reason explains.
        not_streamed: why there are no answers after each frame, if so.
    """

    task: Task
    tests: Mapping[str, Mapping[str, Any]]
    seconds: Mapping[str, float]
    comparison: Sequence[Comparison] = ()
    calibration: Mapping[str, Any] | None = None
    by_length: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    history: Sequence[Mapping[str, float]] = ()
    recalls: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    mistakes: Sequence[Mistake] = ()
    wrong: Mapping[str, int] = field(default_factory=dict)
    not_streamed: str = ""

    def to_json(self) -> dict[str, Any]:
        """All of it that JSON can hold, so without frames."""
        return {
            "tests": dict(self.tests),
            "does_time_help": [{"title": row.title, **row.score} for row in self.comparison],
            "verdict": verdict(self.task, self.comparison) if self.comparison else None,
            "calibration": self.calibration,
            "accuracy_by_length": dict(self.by_length),
            "slowest_learned": slowest_learned(self.recalls),
            "seconds_per_sequence": dict(self.seconds),
            "wrong": dict(self.wrong),
            "mistakes": [{name: getattr(one, name) for name in _STORED} for one in self.mistakes],
        }


def write_report(run: Run, findings: Findings) -> Path:
    """Writes `report.html` and the figures in `report/` into a run directory.

    Returns:
        The page.
    """
    from jinja2 import Environment

    folder = run.path / "report"
    folder.mkdir(exist_ok=True)
    charts = {}
    for name, (figure, alt) in _figures(findings).items():
        png = figure_png(figure)
        with replacing(folder / f"{name}.png") as temporary:
            temporary.write_bytes(png)
        charts[name] = {"uri": data_uri(png), "alt": alt}
    for old in folder.glob("mistake-*.png"):
        if old.stem not in charts:
            old.unlink()
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    text = page.render(charts=charts, run=run, found=findings, **_page_context(findings))
    write_text(run.path / "report.html", text)
    return run.path / "report.html"


def _page_context(findings) -> dict[str, Any]:
    """What the template needs beside the findings: facts that follow, and functions to text."""
    task, rows = findings.task, findings.comparison
    ceilings = [ceiling_of(task, row.score) for row in rows]
    return {
        "task": task,
        "first": next(iter(findings.tests.values())),
        "verdict": verdict(task, rows) if rows else "",
        "ceiling": next((ceiling for ceiling in ceilings if ceiling is not None), None),
        "slowest": slowest_learned(findings.recalls),
        "value": lambda score: value_text(task, score),
        "interval": lambda score: interval_text(task, score),
        "number": lambda value: number_text(task, value),
        "percent": lambda share: "-" if share is None else f"{share:.2%}",
        "count": "{:,}".format,
        "time": _time,
        "after": _after,
        "image": lambda image: data_uri(image_png(image)),
        "overlay": overlay,
    }


def _figures(findings) -> dict[str, tuple[Figure, str]]:
    """The figures by name, each with a description for screen readers."""
    figures: dict[str, tuple[Figure, str]] = {}
    task = findings.task
    if findings.comparison:
        figure = comparison_figure([_bar(task, x) for x in findings.comparison], task.measure_name)
        figures["comparison"] = figure, "The model beside simpler answers"
    for name, score in findings.tests.items():
        if "confusion" in score:
            figure = plot_confusion(score["confusion"], list(score["classes"]))
            figures[f"confusion-{name}"] = figure, "Confusion matrix"
        if "values" in score:
            points = {name: row["points"] for name, row in score["values"].items()}
            figures[f"scatter-{name}"] = plot_scatter(points), "Answers against the truth"
        errors = score.get(f"{task.measure}_by_length", {})
        if len(errors) > 1:
            figures["by_length"] = plot_by_length(errors, task.measure_name), "Error by length"
    if findings.calibration:
        points = findings.calibration["points"]
        figures["calibration"] = calibration_figure(points), "Calibration curve"
    if findings.by_length:
        figures["by_length"] = length_figure(findings.by_length), "Accuracy by length"
    return figures | _learning_figures(findings) | _mistake_figures(findings)


def _bar(task, row):
    interval, ceiling = row.score[f"{task.measure}_95"], ceiling_of(task, row.score)
    value = row.score[task.measure]
    return {"title": row.title, "value": value, "interval": interval, "ceiling": ceiling}


def _learning_figures(findings):
    figures, history = {}, findings.history
    for name in ("loss", findings.task.metrics()[0].name):
        if history and {name, f"val_{name}"} & history[0].keys():
            figure = curve_figure(history, name)
            figures[f"curve-{name}"] = figure, f"{name} of training and validation over the epochs"
    slowest = [row["name"] for row in slowest_learned(findings.recalls)]
    if slowest:
        figure = recall_figure(findings.recalls, slowest)
        figures["curve-recall"] = figure, "Recall of each class over the epochs"
    return figures


def _mistake_figures(findings):
    figures = {}
    for place, one in enumerate(findings.mistakes, start=1):
        titles = [_after(one, t) for t in range(len(one.frames))]
        figure = mistake_figure(one.frames, titles, one.maps)
        figures[f"mistake-{place:02}"] = figure, f"{one.answer}, in truth {one.truth}"
    return figures


def _after(one, t):
    """The model's answer after frame t; without one, the number of the frame."""
    if not one.answers_by_frame:
        return f"frame {t + 1}"
    label, probability = one.answers_by_frame[t]
    return f"{label} {probability:.0%}"


def _time(seconds):
    """Seconds with three digits, in the unit that fits."""
    scale, unit = (1, "s") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "µs")
    number = seconds * scale
    places = max(0, 2 - math.floor(math.log10(max(number, 1e-9))))
    return f"{number:.{places}f} {unit}"
