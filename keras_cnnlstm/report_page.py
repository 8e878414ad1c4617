"""A report in words: from facts to all that the page's template, `report.html`, shows."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_cnnlstm.learning_curves import slowest_learned
from keras_cnnlstm.mistakes import MISREAD, MODEL, ORDER, UNCLEAR, Mistake
from keras_cnnlstm.report_facts import (
    Findings,
    ceiling_of,
    measure,
    shown,
    shown_interval,
    verdict,
)
from keras_cnnlstm.report_figures import data_uri, image_png, overlay
from keras_cnnlstm.runs import Run

_TABLE = 10  # classes of a confusion matrix that fit a telephone as a table


_TITLES = {
    "natural": "Natural test sequences",
    "balanced": "Balanced test sequences",
    "clips": "Test clips",
}


_KINDS = {
    "natural": "each digit is equally frequent, so classes are as frequent as they are",
    "balanced": "each class is equally frequent",
    "clips": "none of which the training has seen",
}


_WHY = {
    MISREAD: "A reader of single digits misreads one too, and by the rule answers the same.",
    ORDER: "A reader of single digits reads all of them; so the model misjudged the order, or "
    "read less well than that reader.",
    MODEL: "A reader of single digits reads them: the model misread what is legible.",
    UNCLEAR: "A reader of single digits misreads one too, but by the rule answers otherwise.",
}
_BLAME = {
    MISREAD: "explained by a misread digit",
    ORDER: "by the order, for all digits are legible",
    MODEL: "although all digits are legible",
    UNCLEAR: "unclear",
}


def page_context(run: Run, findings: Findings, curves: Iterable[str]) -> dict[str, Any]:
    """What the page's template needs, as text.

    Args:
        run: the run.
        findings: what was found out about it.
        curves: names of the figures that show its training.
    """
    first = next(iter(findings.tests.values()))
    value, interval, unit = measure(first)
    config = run.config
    data = config.data or config.dataset
    return {
        "title": run.path.resolve().name,
        "subject": f"A {config.model} for the task {config.task}, trained on {data}.",
        "headline": f"{_sentence(unit)} {shown(value, unit)} on {first['num_sequences']:,} test "
        f"sequences (95 % interval {shown_interval(interval, unit)}).",
        "tiles": _tiles(run, findings, first),
        "tests": [_test(name, score) for name, score in findings.tests.items()],
        "calibration": _calibration(run, findings.calibration),
        "by_length": _by_length(findings, first),
        "curves": list(curves),
        "learned": _learned(run, findings),
        "slowest": _slowest(findings.recalls),
        "mistakes": _mistakes(findings),
        "speed": _speed(findings.seconds),
        "made": _made(run),
        "options": list(vars(config).items()),
        **_comparison(findings, unit),
    }


def _comparison(findings, unit):
    if not findings.comparison:
        return {"comparison": ()}
    rows, ceiling = [], None
    for row in findings.comparison:
        value, interval, _ = measure(row.score)
        ceiling = ceiling_of(row.score) if ceiling is None else ceiling
        rows.append(
            {
                "title": row.title,
                "how": row.how,
                "value_text": shown(value, unit),
                "interval_text": shown_interval(interval, unit),
                "second": _percent(row.score.get("macro_recall")),
            }
        )
    told = ceiling is not None
    return {
        "comparison": rows,
        "verdict": verdict(findings.comparison),
        "unit": unit,
        "second_unit": "macro recall",
        "ceiling_text": told
        and f"By its misread digits alone the oracle is expected to come to {shown(ceiling, unit)}"
        ", computed over all digits and readings; what it scored differs by chance.",
    }


def _tiles(run, findings, first):
    tiles = []
    if "sequence_accuracy" in first:
        tiles.append((_percent(first["sequence_accuracy"]), "sequences without a mistake"))
    if "macro_recall" in first:
        tiles.append((_percent(first["macro_recall"]), "macro recall"))
        tiles.append((_percent(first["macro_precision"]), "macro precision"))
    for key, label in (
        ("rounded_accuracy", "right when rounded"),
        ("character_accuracy", "of characters"),
        ("word_accuracy", "of words"),
    ):
        if key in first:
            tiles.append((_percent(first[key]), label))
    if "bleu" in first:
        tiles.append((f"{first['bleu']:.1f}", "BLEU"))
    if findings.calibration:
        tiles.append((_percent(findings.calibration["error"]), "calibration error"))
    tiles.append((_time(findings.seconds["1"]), "for one sequence"))
    tiles.append((f"{run.model.count_params():,}", "parameters"))
    return [{"value": value, "label": label} for value, label in tiles]


def _test(name, score):
    value, interval, unit = measure(score)
    count = f"{score['num_sequences']:,} sequences, {_KINDS.get(name, 'as they are')}"
    text = f"{_sentence(unit)} {shown(value, unit)} ({shown_interval(interval, unit)}) on {count}."
    names = list(score.get("classes", ()))
    classes = [
        {
            "number": place,
            "name": class_name,
            "recall": _percent(entry["recall"]) or "-",
            "precision": _percent(entry["precision"]) or "-",
            "count": f"{entry['count']:,}",
        }
        for place, (class_name, entry) in enumerate(score.get("classes", {}).items(), start=1)
    ]
    small = len(names) <= _TABLE
    return {
        "title": _TITLES.get(name, name),
        "text": text,
        "classes": classes,
        "macro_recall": _percent(score.get("macro_recall")),
        "macro_precision": _percent(score.get("macro_precision")),
        "confusion": _confusion(score["confusion"], names) if names and small else None,
        "confusion_chart": f"confusion-{name}" if names and not small else None,
    }


def _confusion(confusion, names):
    counts = np.array(confusion)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    return [
        {
            "name": name,
            "cells": [
                {"count": int(n), "share": f"{share:.3f}"}
                for n, share in zip(row, row_shares, strict=True)
            ],
        }
        for name, row, row_shares in zip(names, counts, shares, strict=True)
    ]


def _calibration(run, calibration):
    if not calibration:
        return None
    text = (
        "When the model says it is sure by some percentage, it should be right as often. On "
        f"average the two are {_percent(calibration['error'])} apart (expected calibration error, "
        "15 bins)."
    )
    if run.calibration:
        text += (
            f" Its logits are divided by a temperature of {run.calibration.temperature:.2f}, "
            "fitted to validation data; without it they would be "
            f"{_percent(calibration['as_trained'])} apart."
        )
    return text


def _by_length(findings, first):
    if findings.by_length:
        rows = [
            {"length": n, "value": _percent(entry["accuracy"]), "count": f"{entry['count']:,}"}
            for n, entry in findings.by_length.items()
        ]
        caption = "Sequences by how many frames they have, with 95 % intervals."
        return {"chart": "by_length", "caption": caption, "unit": "accuracy", "rows": rows}
    errors = first.get("rmse_by_length", {})
    if len(errors) < 2:
        return None
    rows = [{"length": n, "value": f"{error:.3f}"} for n, error in errors.items()]
    caption = "Sequences by how many frames they have."
    return {"chart": "by_length", "caption": caption, "unit": "error", "rows": rows}


def _learned(run, findings):
    facts = run.metrics.get("training", {})
    text = f"{len(findings.history)} epochs"
    if "members" in facts:
        text = f"{len(facts['members'])} models, whose mean is the answer, one after the other"
    if "sequences" in facts:
        text += f", {facts['sequences']:,} sequences in {facts['seconds']:,.0f} s"
    if "best_epoch" in facts:
        kept = facts.get("kept_epoch", facts["best_epoch"])
        text += f"; the model kept is that of epoch {kept}"
        if kept != facts["best_epoch"]:
            text += f", the last, not of the best ({facts['best_epoch']})"
    slowest = slowest_learned(findings.recalls)
    if len(slowest) > 1:
        text += f". Learned slowest: {', '.join(row['name'] for row in slowest[:3])}"
    return text + "."


def _slowest(recalls):
    return [
        {
            "name": row["name"],
            "learned": row["learned"] or "never",
            "mean_recall": _percent(row["mean_recall"]),
            "last_recall": _percent(row["last_recall"]),
        }
        for row in slowest_learned(recalls)
    ]


def _mistakes(findings):
    if not findings.wrong:
        return None
    wrong = findings.wrong["sequences"]
    text = f"{wrong:,} test sequences were answered wrongly"
    kinds = [
        f"{findings.wrong[kind]:,} {_BLAME[kind]}" for kind in _BLAME if kind in findings.wrong
    ]
    if kinds:
        text += f": {', '.join(kinds)}"
    if not wrong:
        return {"text": f"{text}: there is none to show.", "note": "", "shown": []}
    text += (
        ". The most confident mistakes come first. Beneath a frame: where the evidence for the "
        "answer is (Grad-CAM), and as a bar how far the answer hangs on that frame (occlusion)."
    )
    note = f"No answers after each frame: {findings.not_streamed}" if findings.not_streamed else ""
    shown = [_mistake(one) for one in findings.mistakes]
    return {"text": text, "note": note, "shown": shown}


def _mistake(one):
    title = one.clip or (f"Digits {one.digits}" if one.digits else f"Sequence {one.index + 1}")
    why = _WHY.get(one.reason, "")
    if one.read is not None and one.read != one.digits:
        why += f" It reads {one.read}."
    frames = []
    for t, frame in enumerate(one.frames):
        weight = None if one.occlusion is None else float(np.clip(one.occlusion[t], 0, 1))
        heat = None if one.maps is None else data_uri(image_png(overlay(frame, one.maps[t])))
        frames.append(
            {
                "image": data_uri(image_png(frame)),
                "map": heat,
                "weight": None if weight is None else f"{weight:.3f}",
                "weight_text": None if weight is None else _percent(weight),
                "text": after(one, t),
            }
        )
    return {
        "title": title,
        "answer": one.answer,
        "truth": one.truth,
        "confidence": _percent(one.confidence),
        "reason": one.reason,
        "why": why,
        "frames": frames,
    }


def after(one: Mistake, t: int) -> str:
    """What a model said after frame t, or which frame it is."""
    if not one.so_far:
        return f"frame {t + 1}"
    label, probability = one.so_far[t]
    return f"{label} {probability:.0%}"


def _speed(seconds):
    sizes = [
        f"{_time(value)} a sequence in batches of {size}"
        if size != "1"
        else f"{_time(value)} for one sequence alone"
        for size, value in seconds.items()
    ]
    return f"{', '.join(sizes)} (medians)."


def _made(run):
    machine = run.metrics.get("machine", {})
    facts = [
        f"{name} {machine[name]}" for name in ("tensorflow", "keras", "python") if name in machine
    ]
    if "devices" in machine:
        facts.append(f"trained in {machine['precision']} on {', '.join(machine['devices'])}")
    text = f"keras-cnnlstm report {run.path}"
    return f"{text}. {_sentence(', '.join(facts))}." if facts else f"{text}."


def _percent(value):
    return None if value is None else f"{value:.2%}"


def _time(seconds):
    """Seconds with three digits, in the unit that people say."""
    scale, unit = (1, "s") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "µs")
    number = seconds * scale
    places = max(0, 2 - math.floor(math.log10(max(number, 1e-9))))
    return f"{number:.{places}f} {unit}"


def _sentence(text):
    return text[:1].upper() + text[1:]
