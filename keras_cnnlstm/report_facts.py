"""What a report tells about a run, as facts: scores beside baselines, mistakes, and the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_cnnlstm.learning_curves import slowest_learned
from keras_cnnlstm.mistakes import Mistake

BLIND = ("Most frequent", "Mean", "Bag")
"""How the titles begin of answers that do not know the order of the frames."""


@dataclass(frozen=True)
class Comparison:
    """What answers the test sequences, and how well.

    Attributes:
        title: a few words.
        how: in a sentence.
        score: as `scores.score_answers` returns it, perhaps with `ceiling`.
    """

    title: str
    how: str
    score: Mapping[str, Any]


@dataclass(frozen=True)
class Findings:
    """What was found out about a run.

    Attributes:
        tests: scores by the name of the test data, the first being that of all else.
        seconds: for a sequence, by the batch size as text.
        comparison: the model first, then simpler answers; nothing where there are none.
        calibration: `error`, expected, and `points`; `None` where there are no probabilities.
        by_length: accuracy of sequences of each length, if they are of several.
        history: a row an epoch.
        recalls: for each class the recall in each epoch's validation.
        mistakes: the most confident ones.
        wrong: how many sequences were answered wrongly, and how many each reason explains.
        not_streamed: why there are no answers after each frame, if so.
    """

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
        """All of it that JSON can hold: the frames are left out."""
        shown = [
            {name: getattr(one, name) for name in ("index", "confidence", "truth", "answer",
                                                   "reason", "digits", "read", "clip")}
            for one in self.mistakes
        ]  # fmt: skip
        return {
            "tests": dict(self.tests),
            "does_time_help": [{"title": row.title, **row.score} for row in self.comparison],
            "verdict": verdict(self.comparison) if self.comparison else None,
            "calibration": self.calibration,
            "accuracy_by_length": dict(self.by_length),
            "slowest_learned": slowest_learned(self.recalls),
            "seconds_per_sequence": dict(self.seconds),
            "wrong": dict(self.wrong),
            "mistakes": shown,
        }


def measure(score: Mapping[str, Any]) -> tuple[float, tuple[float, float], str]:
    """The number that matters most in a score, its 95 % interval, and what it is."""
    if "rmse" in score:
        low, high = score["rmse_95"]
        return score["rmse"], (low, high), "root-mean-square error"
    low, high = score["accuracy_95"]
    return (
        score["accuracy"],
        (low, high),
        "accuracy of steps" if "num_steps" in score else "accuracy",
    )


def verdict(comparison: Sequence[Comparison]) -> str:
    """Whether the order of the frames helps, in a sentence or two.

    It does if the model's 95 % interval lies apart from that of the best answer without order.

    Args:
        comparison: the model first; the titles of those that do not know the order begin as
            `BLIND` says.
    """
    model, *others = comparison
    value, interval, unit = measure(model.score)
    blind = [row for row in others if row.title.startswith(BLIND)]
    if not blind:
        return "There is one image and no order of frames to ask for."
    smaller = "rmse" in model.score
    best = (min if smaller else max)(blind, key=lambda row: measure(row.score)[0])
    other, other_interval, _ = measure(best.score)
    apart = interval[1] < other_interval[0] if smaller else interval[0] > other_interval[1]
    text = f"{best.title} comes to {shown(other, unit)}, the model to {shown(value, unit)}. "
    mixed = next((row for row in others if row.title.startswith("Frames shuffled")), None)
    if mixed is None:
        return text + "There is one image and no order of frames to ask for."
    text = ("Yes. " if apart else "There is no sign of it. ") + text
    return text + (
        f"With the same frames in random order the model comes to "
        f"{shown(measure(mixed.score)[0], unit)}."
    )


def comparison_lines(comparison: Sequence[Comparison]) -> list[str]:
    """The comparison as lines of text for a terminal."""
    width = max(len(row.title) for row in comparison)
    lines = []
    for row in comparison:
        value, interval, unit = measure(row.score)
        ceiling = ceiling_of(row.score)
        told = "" if ceiling is None else f"  ceiling {shown(ceiling, unit)}"
        lines.append(
            f"  {row.title:<{width}}  {shown(value, unit):>8}  "
            f"({shown_interval(interval, unit)}){told}"
        )
    return lines


def ceiling_of(score: Mapping[str, Any]) -> float | None:
    """The oracle's ceiling in the unit of `measure`, if there is one."""
    ceiling = score.get("ceiling") or {}
    return ceiling.get("rmse" if "rmse" in score else "accuracy")


def shown(value: float, unit: str) -> str:
    """A number as it is told: an error with three places, a share as a percentage."""
    return f"{value:.3f}" if unit.startswith("root") else f"{value:.2%}"


def shown_interval(interval: Sequence[float], unit: str) -> str:
    """Both ends of an interval, as it is told."""
    low, high = (shown(value, unit) for value in interval)
    return f"{low} to {high}"
