"""Scores of several labels, of numbers and of segments, and each of them as text.

Arrays in, plain numbers out that JSON can hold. The figures are scikit-learn's where it has them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_cnnlstm.tasks.scores import edit_distances, step_scores, step_summary
from keras_cnnlstm.utils.validation import as_numbers, check_names, short_repr

OVERLAPS = (10, 25, 50)
"""Percent by which an answered segment must overlap a true one, in segmental F1."""

_POINTS = 1000  # of a scatter plot
_RESAMPLES = 1000  # of a bootstrap that scores each time


def label_scores(
    targets: np.ndarray, probabilities: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """Scores probabilities of labels, any number of which a clip may have.

    Args:
        targets: `(N, num_labels)`, 1 for a label that the clip has, else 0.
        probabilities: `(N, num_labels)`; over 0.5 the answer is that it has the label.
        names: of the labels.

    Returns:
        `num_sequences`; means over the labels that occur: `macro_f1`, `macro_f1_95` (its interval
        by bootstrap over the rows), `average_precision` and `roc_auc`; `exact_accuracy`, the share
        of rows in which every label is right; and `labels`, for each name `precision`, `recall`,
        `f1`, `average_precision`, `roc_auc` and `count`, `None` where there is nothing to divide
        by.

    Raises:
        ValueError: if the arguments do not fit together.

    Example:

    >>> label_scores(np.array([[1, 0], [1, 1]]), np.array([[0.9, 0.2], [0.8, 0.4]]), ["a", "b"])[
    ...     "macro_f1"
    ... ]
    0.5
    """
    from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

    check_names("label_scores: `names`", names)
    targets = as_numbers("label_scores: `targets`", targets)
    probabilities = as_numbers("label_scores: `probabilities`", probabilities)
    fits = targets.ndim == 2 and targets.size and targets.shape == probabilities.shape
    if not fits or not np.isin(targets, (0, 1)).all() or len(names) != targets.shape[1]:
        raise ValueError(
            f"label_scores: `targets` and `probabilities` must have shape (N, {len(names)}), N 1 "
            f"at least, and targets be 0 or 1; received {short_repr(targets)} and "
            f"{probabilities.shape}."
        )
    truth, answers = targets.astype(int), (probabilities > 0.5).astype(int)
    rows: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(names):
        y, found, p = truth[:, k], answers[:, k], probabilities[:, k]
        hits, count, said = int((y & found).sum()), int(y.sum()), int(found.sum())
        both = 0 < count < len(y)
        rows[name] = {
            "precision": hits / said if said else None,
            "recall": hits / count if count else None,
            "f1": float(f1_score(y, found)) if count or said else None,
            "average_precision": float(average_precision_score(y, p)) if count else None,
            "roc_auc": float(roc_auc_score(y, p)) if both else None,
            "count": count,
        }
    means = {
        figure: _mean([row[figure] for row in rows.values() if row["count"]])
        for figure in ("f1", "average_precision", "roc_auc")
    }
    interval = bootstrap_interval(
        lambda chosen: macro_f1(truth[chosen], answers[chosen]), np.arange(len(truth))
    )
    return {
        "num_sequences": len(truth),
        "macro_f1": macro_f1(truth, answers),
        "macro_f1_95": interval,
        "average_precision": means["average_precision"],
        "roc_auc": means["roc_auc"],
        "exact_accuracy": float((truth == answers).all(axis=1).mean()),
        "labels": rows,
    }


def macro_f1(truth: np.ndarray, answers: np.ndarray) -> float:
    """The mean F1 of the labels that occur, of `(N, num_labels)` 0 or 1; 0 if none occurs."""
    hits = (truth & answers).sum(axis=0)
    sizes = truth.sum(axis=0) + answers.sum(axis=0)
    occur = truth.any(axis=0)
    return float((2 * hits[occur] / sizes[occur]).mean()) if occur.any() else 0.0


def _mean(values) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def bootstrap_interval(
    measure: Callable[[np.ndarray], float], groups: Sequence[Any] | np.ndarray, *, seed: int = 0
) -> list[float]:
    """The 95 % interval of any measure, by bootstrap over groups of rows.

    Whole groups are drawn with replacement, as many as there are, 1,000 times; see Efron and
    Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and 13. `scores
    .grouped_interval` is faster, for means.

    Args:
        measure: from the numbers of rows, with repetitions, to the measure of these rows.
        groups: `(N,)`, the group of each row.
        seed: of the random numbers.

    Returns:
        The 2.5th and the 97.5th percentile; draws without a measure (NaN) are left out.
    """
    _, of_row = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(of_row == group) for group in range(of_row.max() + 1)]
    rng, found = np.random.default_rng(seed), []
    for _ in range(_RESAMPLES):
        drawn = rng.integers(len(members), size=len(members))
        found.append(measure(np.concatenate([members[group] for group in drawn])))
    known = np.array(found)[~np.isnan(found)]
    if not len(known):
        return [math.nan, math.nan]
    return [float(end) for end in np.percentile(known, [2.5, 97.5])]


def label_summary(score: dict[str, Any]) -> str:
    """The entries of `label_scores` as lines of text."""
    low, high = score["macro_f1_95"]
    precision = _text(score["average_precision"])
    text = (
        f"macro F1 {score['macro_f1']:.3f} over {score['num_sequences']:,} sequences (95 % "
        f"interval {low:.3f} to {high:.3f}), average precision {precision}, ROC-AUC "
        f"{_text(score['roc_auc'])}; all labels right in {score['exact_accuracy']:.2%}"
    )
    width = max(map(len, score["labels"]))
    lines = [
        f"  {name:<{width}}  F1 {_text(row['f1'])}  precision {_text(row['precision'])}  recall "
        f"{_text(row['recall'])}  of {row['count']:5,}"
        for name, row in score["labels"].items()
    ]
    return "\n".join([text, *lines])


def _text(value):
    return "  -  " if value is None else f"{value:.3f}"


def value_scores(
    targets: np.ndarray,
    values: np.ndarray,
    names: Sequence[str],
    unit: Sequence[float] = (1.0,),
) -> dict[str, Any]:
    """Scores numbers.

    Args:
        targets: `(N, K)`.
        values: `(N, K)`, the answers.
        names: of the K numbers.
        unit: what an error is divided by before the mean over the numbers; one, or K.

    Returns:
        `num_sequences`; `mean_absolute_error`, the mean over the numbers, and
        `mean_absolute_error_95` (its interval from the spread of the errors); `r2`, the mean share
        of the variance that is explained; and `values`, for each name `mean_absolute_error`,
        `rmse`, both in its own unit, `r2` (`None` where all targets are equal), and `points`, the
        targets and answers of 1,000 rows at most.

    Raises:
        ValueError: if the arguments do not fit together.

    Example:

    >>> value_scores(np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]]), ["speed"])["r2"]
    0.5
    """
    from sklearn.metrics import r2_score

    check_names("value_scores: `names`", names)
    targets = as_numbers("value_scores: `targets`", targets).astype(np.float64)
    values = as_numbers("value_scores: `values`", values).astype(np.float64)
    fits = targets.ndim == 2 and targets.size and targets.shape == values.shape
    if not fits or targets.shape[1] != len(names):
        raise ValueError(
            f"value_scores: `targets` and `values` must have shape (N, {len(names)}), N 1 at "
            f"least; received {targets.shape} and {values.shape}."
        )
    scale = as_numbers("value_scores: `unit`", unit)
    if scale.shape not in ((1,), (len(names),)) or not (scale > 0).all():
        raise ValueError(
            f"value_scores: `unit` must be one number over 0, or {len(names)}; received "
            f"{short_repr(unit)}."
        )
    errors = np.abs(values - targets)
    of_clip = (errors / scale).mean(axis=1)
    margin = 1.96 * of_clip.std() / math.sqrt(len(of_clip))
    shown = slice(None, None, math.ceil(len(targets) / _POINTS))
    rows = {}
    for k, name in enumerate(names):
        varies = np.ptp(targets[:, k]) > 0
        rows[name] = {
            "mean_absolute_error": float(errors[:, k].mean()),
            "rmse": float(np.sqrt((errors[:, k] ** 2).mean())),
            "r2": float(r2_score(targets[:, k], values[:, k])) if varies else None,
            "points": [targets[shown, k].tolist(), values[shown, k].tolist()],
        }
    return {
        "num_sequences": len(targets),
        "mean_absolute_error": float(of_clip.mean()),
        "mean_absolute_error_95": [
            max(0.0, float(of_clip.mean() - margin)),
            float(of_clip.mean() + margin),
        ],
        "r2": _mean([row["r2"] for row in rows.values()]),
        "values": rows,
    }


def value_summary(score: dict[str, Any]) -> str:
    """The entries of `value_scores` as lines of text."""
    low, high = score["mean_absolute_error_95"]
    several = " in standard deviations" if len(score["values"]) > 1 else ""
    text = (
        f"mean absolute error{several} {score['mean_absolute_error']:.4g} over "
        f"{score['num_sequences']:,} sequences (95 % interval {low:.4g} to {high:.4g}), R2 "
        f"{_text(score['r2'])}"
    )
    width = max(map(len, score["values"]))
    lines = [
        f"  {name:<{width}}  mean absolute error {row['mean_absolute_error']:.4g}  "
        f"root-mean-square error {row['rmse']:.4g}  R2 {_text(row['r2'])}"
        for name, row in score["values"].items()
    ]
    return "\n".join([text, *lines])


def segments_of(classes: np.ndarray) -> list[tuple[int, int, int]]:
    """Stretches of equal classes, `(class, start, end)`, the end not included.

    Example:

    >>> segments_of(np.array([2, 2, 0]))
    [(2, 0, 2), (0, 2, 3)]
    """
    ends = np.flatnonzero(np.diff(classes)) + 1
    starts, stops = np.r_[0, ends], np.r_[ends, len(classes)]
    return [(int(classes[a]), int(a), int(b)) for a, b in zip(starts, stops, strict=True)]


def segment_scores(
    targets: np.ndarray,
    probabilities: np.ndarray,
    mask: np.ndarray | None,
    class_names: Sequence[str],
    background: str = "background",
) -> dict[str, Any]:
    """Scores a class at each step as steps, and as segments.

    An answered segment is right if it overlaps a true one of its class that none before it has
    taken by so much of their union. Lea et al., "Temporal Convolutional Networks for Action
    Segmentation and Detection", CVPR 2017, section 4; the edit score is one less Levenshtein's
    distance between the orders of the segments, in parts of the longer one. Background counts in
    neither.

    Args:
        targets: `(N, T)` integers.
        probabilities: `(N, T, num_classes)`.
        mask: `(N, T)` boolean, `False` at padding; `None` if all steps count.
        class_names: names of the classes, in the order of their indices.
        background: the class of steps outside of all segments.

    Returns:
        The entries of `scores.step_scores`, `segmental_f1` at 10, 25 and 50 % overlap by
        "10", "25" and "50", and `edit_score`, all from 0 to 1.

    Raises:
        ValueError: if the arguments do not fit together.
    """
    found = step_scores(targets, probabilities, mask, class_names)
    counted = np.ones(targets.shape, bool) if mask is None else np.asarray(mask)
    names = list(class_names)
    left_out = names.index(background) if background in names else -1
    pairs = []
    for truth, answer, steps in zip(targets, probabilities.argmax(axis=-1), counted, strict=True):
        pairs.append(
            tuple(
                [one for one in segments_of(x[steps]) if one[0] != left_out]
                for x in (truth, answer)
            )
        )
    overlaps = {str(share): _segmental_f1(pairs, share / 100) for share in OVERLAPS}
    return {**found, "segmental_f1": overlaps, "edit_score": _edit_score(pairs)}


def _segmental_f1(pairs, share) -> float:
    hits = answered = true = 0
    for truth, answer in pairs:
        taken = [False] * len(truth)
        for name, start, end in answer:
            unions = [
                (min(end, other_end) - max(start, other_start))
                / (max(end, other_end) - min(start, other_start))
                if name == other and not used
                else -1.0
                for (other, other_start, other_end), used in zip(truth, taken, strict=True)
            ]
            best = int(np.argmax(unions)) if unions else 0
            if unions and unions[best] >= share:
                taken[best], hits = True, hits + 1
        answered, true = answered + len(answer), true + len(truth)
    return 2 * hits / (answered + true) if answered + true else 1.0


def _edit_score(pairs) -> float:
    orders = [[[name for name, _, _ in segments] for segments in pair] for pair in pairs]
    longest = np.array([max(map(len, pair)) for pair in orders])
    padded = np.full((2, len(pairs), max(1, longest.max())), -1)  # of truth and answer
    for row, pair in enumerate(orders):
        for side, names in zip(padded, pair, strict=True):
            side[row, : len(names)] = names
    return float((1 - edit_distances(padded[1], padded[0]) / np.maximum(longest, 1)).mean())


def segment_summary(score: dict[str, Any]) -> str:
    """The entries of `segment_scores` as lines of text."""
    overlaps = score["segmental_f1"]
    text = ", ".join(f"{100 * overlaps[str(share)]:.1f} at {share} %" for share in OVERLAPS)
    return (
        f"{step_summary(score)}\n  segmental F1 {text} overlap, edit score "
        f"{100 * score['edit_score']:.1f}"
    )
