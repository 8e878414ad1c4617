"""Scores of answers against the truth, and each of them as text.

Arrays in, plain numbers out that JSON can hold. Knows no model, no data set and no task.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_cnnlstm.tasks.vocabulary import END, UNKNOWN, join, split
from keras_cnnlstm.utils.validation import (
    as_array,
    as_numbers,
    check_instance,
    check_integer,
    check_names,
    short_repr,
)


def accuracy_by_length(right: np.ndarray, lengths: np.ndarray) -> dict[str, dict[str, Any]]:
    """How often sequences of each length are answered rightly.

    Args:
        right: `(N,)` boolean.
        lengths: `(N,)` integers.

    Returns:
        For each length, from short to long, `accuracy`, `accuracy_95` (its Wilson score interval)
        and `count`.

    Raises:
        ValueError: if the arguments do not fit together.

    Example:

    >>> accuracy_by_length(np.array([True, False, True]), np.array([9, 9, 10]))["9"]["accuracy"]
    0.5
    """
    right = as_array("accuracy_by_length: `right`", right)
    lengths = as_numbers("accuracy_by_length: `lengths`", lengths, kinds="iu")
    if right.dtype != bool or right.ndim != 1 or lengths.shape != right.shape:
        raise ValueError(
            "accuracy_by_length: `right` must be boolean of shape (N,), and `lengths` of the same "
            f"shape; received {right.dtype} of {right.shape}, and {lengths.shape}."
        )
    found = {}
    for length in np.unique(lengths):
        hits, count = int(right[lengths == length].sum()), int((lengths == length).sum())
        accuracy = {"accuracy": hits / count, "accuracy_95": _wilson(hits, count), "count": count}
        found[str(length)] = accuracy
    return found


_AT_ONCE = 1_000_000  # groups that are drawn at a time


def grouped_interval(
    values: np.ndarray, groups: Sequence[str], *, resamples: int = 10_000, seed: int = 0
) -> list[float]:
    """The 95 % interval of a mean over examples that come in groups, by bootstrap over the groups.

    Whole groups are drawn with replacement, as many as there are; the interval goes from the 2.5th
    to the 97.5th percentile of the means. Examples of one group, such as clips of one person, are
    often right or wrong together; an interval that draws single examples is then too narrow. See
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and 13.

    Args:
        values: `(N,)` numbers, such as 1 for a right answer and 0 for a wrong one.
        groups: `(N,)` names of the groups.
        resamples: how often groups are drawn.
        seed: of the random numbers.

    Returns:
        The low and the high end.

    Raises:
        ValueError: if the arguments do not fit together.

    Example:

    >>> grouped_interval(np.array([1, 1, 0, 0]), ["anna", "anna", "ben", "ben"])
    [0.0, 1.0]
    """
    values = as_numbers("grouped_interval: `values`", values)
    if values.ndim != 1 or not len(values):
        raise ValueError(
            f"grouped_interval: `values` must have shape (N,), N at least 1; received "
            f"{values.shape}."
        )
    check_instance("grouped_interval: `groups`", groups, list | tuple, "a list of names")
    if len(groups) != len(values) or not all(isinstance(group, str) for group in groups):
        raise ValueError(
            f"grouped_interval: `groups` must be {len(values)} names, one for each of `values`; "
            f"received {short_repr(groups)}."
        )
    check_integer("grouped_interval: `resamples`", resamples, 1, 1_000_000)
    check_integer("grouped_interval: `seed`", seed, 0, 2**63)
    _, of_value = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(of_value, values), np.bincount(of_value)  # (G,)
    rng, means = np.random.default_rng(seed), np.empty(resamples)
    for chosen in np.array_split(means, -(-resamples * len(sums) // _AT_ONCE)):  # views
        drawn = rng.integers(len(sums), size=(len(chosen), len(sums)))
        chosen[:] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return [float(end) for end in np.percentile(means, [2.5, 97.5])]


def scores(
    targets: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """Scores class probabilities against the true classes.

    Args:
        targets: `(N,)` integers.
        probabilities: `(N, num_classes)`; the largest of a row is the answer.
        class_names: names of the classes, in the order of their indices.

    Returns:
        A dict that JSON can hold: `num_sequences`, `accuracy`, `accuracy_95` (its Wilson score
        interval), `macro_recall` and `macro_precision` (unweighted means over the classes that
        occur, 0 to 1), `classes` (name -> `recall`, `precision`, `count`; `None` where there is
        nothing to divide by) and `confusion` (rows: truth, columns: answer).

    Raises:
        ValueError: if the arguments do not fit together.

    Example:

    >>> scores(np.array([0, 0, 1]), np.array([[.9, .1], [.2, .8], [.3, .7]]), ["no", "yes"])[
    ...     "macro_recall"
    ... ]
    0.75
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    check_names("scores: `class_names`", class_names)
    targets, probabilities = checked_answers("scores", targets, probabilities)
    num_classes = len(class_names)
    if probabilities.shape[1] != num_classes:
        raise ValueError(
            f"scores: `class_names` must be {probabilities.shape[1]}, one for each of "
            f"`probabilities`; received {num_classes}."
        )
    answers, classes = probabilities.argmax(axis=1), np.arange(num_classes)
    precision, recall, _, count = precision_recall_fscore_support(
        targets, answers, labels=classes, zero_division=np.nan
    )
    right = int((answers == targets).sum())
    return {
        "num_sequences": len(targets),
        "accuracy": right / len(targets),
        "accuracy_95": _wilson(right, len(targets)),
        "macro_recall": float(np.nanmean(recall)),
        "macro_precision": float(np.nanmean(precision)),
        "classes": {
            name: {"recall": _number(r), "precision": _number(p), "count": int(n)}
            for name, r, p, n in zip(class_names, recall, precision, count, strict=True)
        },
        "confusion": confusion_matrix(targets, answers, labels=classes).tolist(),
    }


def checked_answers(
    function: str, targets: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Targets `(N,)` and class probabilities `(N, num_classes)` as arrays, if they fit together."""
    targets = as_numbers(f"{function}: `targets`", targets, kinds="iu")
    probabilities = as_numbers(f"{function}: `probabilities`", probabilities)
    if probabilities.ndim != 2 or targets.shape != probabilities.shape[:1] or not targets.size:
        raise ValueError(
            f"{function}: `targets` (N,) and `probabilities` (N, num_classes) must have the same "
            f"N, 1 at least; received {targets.shape} and {probabilities.shape}."
        )
    if targets.min() < 0 or targets.max() >= probabilities.shape[1]:
        raise ValueError(
            f"{function}: `targets` must be 0 to {probabilities.shape[1] - 1}; received "
            f"{targets.min()} to {targets.max()}."
        )
    return targets, probabilities


def step_scores(
    targets: np.ndarray,
    probabilities: np.ndarray,
    mask: np.ndarray | None,
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Scores class probabilities at each step.

    Args:
        targets: `(N, T)` integers.
        probabilities: `(N, T, num_classes)`.
        mask: `(N, T)` boolean, `False` at padding; `None` if all steps count.
        class_names: names of the classes, in the order of their indices.

    Returns:
        The entries of `scores` for the steps, `num_steps` of them, and `sequence_accuracy` and
        `sequence_accuracy_95` for the `num_sequences` as wholes.

    Raises:
        ValueError: if the arguments do not fit together.
    """
    targets = as_numbers("step_scores: `targets`", targets, kinds="iu")
    probabilities = as_numbers("step_scores: `probabilities`", probabilities)
    mask = _checked_mask("step_scores", mask, targets)
    if probabilities.ndim != 3 or probabilities.shape[:2] != targets.shape:
        raise ValueError(
            "step_scores: `probabilities` must have shape (N, T, num_classes), N and T as in "
            f"`targets` {targets.shape}; received {probabilities.shape}."
        )
    check_names("step_scores: `class_names`", class_names)
    if probabilities.shape[2] != len(class_names):
        raise ValueError(
            f"step_scores: `class_names` must be {probabilities.shape[2]}, one for each of "
            f"`probabilities`; received {len(class_names)}."
        )
    right = (probabilities.argmax(axis=-1) == targets) | ~mask
    whole = int(right.all(axis=1).sum())
    result = scores(targets[mask], probabilities[mask], class_names)
    return {
        "num_sequences": len(targets),
        "sequence_accuracy": whole / len(targets),
        "sequence_accuracy_95": _wilson(whole, len(targets)),
        "num_steps": result.pop("num_sequences"),
        **result,
    }


def number_scores(
    targets: np.ndarray, values: np.ndarray, mask: np.ndarray | None = None
) -> dict[str, Any]:
    """Scores a number at each step; the last one of a sequence matters most.

    Args:
        targets: `(N, T)` numbers.
        values: `(N, T)` answers.
        mask: `(N, T)` boolean, `False` at the padding after a sequence; `None` if all count.

    Returns:
        `num_sequences`; of the last steps `rmse` (root-mean-square error), `rmse_95` (its interval,
        from the spread of the squares), `mean_absolute_error`, `rounded_accuracy` (the share whose
        nearest integer is right) and `rmse_by_length`; and `rmse_all_steps`.

    Raises:
        ValueError: if the arguments do not fit together.

    Example:

    >>> number_scores(np.array([[1.0, 3.0]]), np.array([[1.0, 3.5]]))["rmse"]
    0.5
    """
    targets = as_numbers("number_scores: `targets`", targets)
    values = as_numbers("number_scores: `values`", values)
    mask = _checked_mask("number_scores", mask, targets)
    if values.shape != targets.shape:
        raise ValueError(
            f"number_scores: `values` must have the shape of `targets`, {targets.shape}; received "
            f"{values.shape}."
        )
    lengths, rows = mask.sum(axis=1), np.arange(len(targets))
    truth = targets.astype(np.float64)
    last, answers = truth[rows, lengths - 1], values[rows, lengths - 1]
    square = (answers - last) ** 2
    margin = 1.96 * square.std() / math.sqrt(len(square))
    return {
        "num_sequences": len(targets),
        "rmse": _root(square.mean()),
        "rmse_95": [_root(square.mean() - margin), _root(square.mean() + margin)],
        "mean_absolute_error": float(np.abs(answers - last).mean()),
        "rounded_accuracy": float((np.rint(answers) == last).mean()),
        "rmse_by_length": {str(n): _root(square[lengths == n].mean()) for n in np.unique(lengths)},
        "rmse_all_steps": _root((((values - truth) ** 2)[mask]).mean()),
    }


def text_scores(targets: np.ndarray, characters: np.ndarray) -> dict[str, Any]:
    """Scores texts that were read.

    Args:
        targets: `(N, T)` integers, the right characters, then -1 to the end.
        characters: `(N, any length)` integers, what was read, then -1 to the end.

    Returns:
        `num_sequences`, `accuracy` (the share of texts without a mistake), `accuracy_95` (its
        Wilson score interval) and `character_accuracy`: one less the smallest number of
        insertions, deletions and substitutions (Levenshtein's distance) a character of the truth.

    Raises:
        ValueError: if the arguments do not fit together.

    Example:

    >>> text_scores(np.array([[7, 3, 8, 2]]), np.array([[7, 3, 2, -1]]))["character_accuracy"]
    0.75
    """
    targets = as_numbers("text_scores: `targets`", targets, kinds="iu")
    characters = as_numbers("text_scores: `characters`", characters, kinds="iu")
    if targets.ndim != 2 or not (targets >= 0).any():
        raise ValueError(
            "text_scores: `targets` must have shape (N, T) and one character or more; received "
            f"{short_repr(targets)}."
        )
    if characters.ndim != 2 or len(characters) != len(targets):
        raise ValueError(
            f"text_scores: `characters` must have shape ({len(targets)}, any length); received "
            f"{characters.shape}."
        )
    distance = edit_distances(characters, targets)
    right = int((distance == 0).sum())
    return {
        "num_sequences": len(targets),
        "accuracy": right / len(targets),
        "accuracy_95": _wilson(right, len(targets)),
        "character_accuracy": 1 - float(distance.sum() / (targets >= 0).sum()),
    }


def caption_scores(targets: np.ndarray, tokens: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Scores captions that describe what is seen.

    Args:
        targets: `(N, L)` integers, the numbers of the right tokens, as `Vocabulary.encode` has
            them.
        tokens: `(N, any length)` integers, what was said, as `decoding.greedy_model` says it.
        names: the names of all numbers, `Vocabulary.names`.

    Returns:
        `num_sequences`, `accuracy` (the share of captions that are right in every word),
        `accuracy_95` (its Wilson score interval), `word_accuracy` (one less the smallest number of
        insertions, deletions and substitutions a word of the truth; punctuation marks are tokens)
        and `bleu`, 0 to 100: Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine
        Translation", ACL 2002, of the whole corpus, by sacrebleu with its usual tokens. It goes up
        to four tokens in a row, or as many as the longest caption has.

    Raises:
        ValueError: if the arguments do not fit together.

    Example:

    >>> from keras_cnnlstm.tasks.vocabulary import SPECIAL
    >>> names = [*SPECIAL, "a", "seven", "six"]
    >>> result = caption_scores(np.array([[4, 5, 3]]), np.array([[4, 6, 3]]), names)
    >>> result["accuracy"], result["word_accuracy"]
    (0.0, 0.5)
    """
    from sacrebleu.metrics import BLEU

    targets, tokens = _checked_captions(targets, tokens, names)
    spoken = text_scores(*(np.where(_spoken(x), x, -1) for x in (targets, tokens)))
    truths, answers = ([join(row, names) for row in x] for x in (targets, tokens))
    longest = max(len(split(truth)) for truth in truths)
    bleu = BLEU(max_ngram_order=min(4, longest)).corpus_score(answers, [truths])
    return {
        "num_sequences": spoken["num_sequences"],
        "accuracy": spoken["accuracy"],
        "accuracy_95": spoken["accuracy_95"],
        "word_accuracy": spoken["character_accuracy"],
        "bleu": bleu.score,
    }


def _checked_captions(targets, tokens, names):
    check_names("caption_scores: `names`", names)
    pair = {"targets": targets, "tokens": tokens}
    for name, value in pair.items():
        numbers = pair[name] = as_numbers(f"caption_scores: `{name}`", value, kinds="iu")
        fits = numbers.ndim == 2 and numbers.size and len(numbers) == len(pair["targets"])
        if not fits or numbers.min() < 0 or numbers.max() >= len(names):
            raise ValueError(
                f"caption_scores: `{name}` must have shape (N, any length), numbers of `names`, 0 "
                f"to {len(names) - 1}; received {short_repr(value)}."
            )
    if not all(_spoken(pair["targets"]).any(axis=1)):
        raise ValueError(
            "caption_scores: `targets` must have a word in each row; received "
            f"{short_repr(targets)}."
        )
    return pair["targets"], pair["tokens"]


def _spoken(tokens):
    """Which numbers stand for tokens: all but the start, the end and what comes after it."""
    return (tokens > END) | (tokens == UNKNOWN)


def class_summary(score: dict[str, Any]) -> str:
    """The entries of `scores` as lines of text: accuracy, and the recall of each class."""
    return _with_recalls(_accuracy(score, _sequences(score)), score)


def step_summary(score: dict[str, Any]) -> str:
    """The entries of `step_scores` as lines of text."""
    whole = f"all steps right in {score['sequence_accuracy']:.2%} of {_sequences(score)}"
    steps = f"{score['num_steps']:,} steps"
    return _with_recalls(f"{_accuracy(score, steps)}, {whole}", score)


def text_summary(score: dict[str, Any]) -> str:
    """The entries of `text_scores` as a line of text."""
    characters = f"{score['character_accuracy']:.2%} of characters"
    return f"{_accuracy(score, _sequences(score))}, {characters}"


def caption_summary(score: dict[str, Any]) -> str:
    """The entries of `caption_scores` as a line of text."""
    words = f"{score['word_accuracy']:.2%} of words, BLEU {score['bleu']:.2f}"
    return f"{_accuracy(score, _sequences(score))}, {words}"


def number_summary(score: dict[str, Any]) -> str:
    """The entries of `number_scores` as lines of text."""
    low, high = score["rmse_95"]
    lines = [
        f"root-mean-square error of the last step {score['rmse']:.3f} over {_sequences(score)} "
        f"(95 % interval {low:.3f} to {high:.3f}), {score['rounded_accuracy']:.2%} right when "
        f"rounded; of all steps {score['rmse_all_steps']:.3f}"
    ]
    for length, error in score["rmse_by_length"].items():
        lines.append(f"  length {length:>2}  {error:.3f}")
    return "\n".join(lines)


def _sequences(score):
    return f"{score['num_sequences']:,} sequences"


def _accuracy(score, of):
    low, high = score["accuracy_95"]
    return f"accuracy {score['accuracy']:.2%} of {of} (95 % interval {low:.2%} to {high:.2%})"


def _with_recalls(text, score):
    lines = [f"{text}, macro recall {score['macro_recall']:.2%}"]
    width = max(map(len, score["classes"]))
    for name, entry in score["classes"].items():
        recall = "    -  " if entry["recall"] is None else f"{entry['recall']:7.2%}"
        lines.append(f"  {name:<{width}}  recall {recall}  of {entry['count']:5,}")
    return "\n".join(lines)


def _checked_mask(function, mask, targets):
    """Which steps count, `(N, T)` boolean."""
    if targets.ndim != 2 or not targets.size:
        raise ValueError(
            f"{function}: `targets` must have shape (N, T), both 1 at least; received "
            f"{targets.shape}."
        )
    mask = as_array(f"{function}: `mask`", True if mask is None else mask)
    if mask.dtype != bool or mask.shape not in ((), targets.shape):
        raise ValueError(
            f"{function}: `mask` must be boolean of shape {targets.shape}; received "
            f"{mask.dtype} of {mask.shape}."
        )
    mask = np.broadcast_to(mask, targets.shape)
    if not mask[:, 0].all() or (mask[:, 1:] > mask[:, :-1]).any():
        raise ValueError(
            f"{function}: `mask` must be True for the first steps of each sequence, one at "
            "least, and False for the rest; received another order."
        )
    return mask


def edit_distances(found: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """Levenshtein's distance of each pair of rows, `(N,)` float32.

    Args:
        found: `(N, any length)` integers, then -1 to the end.
        truths: `(N, any length)` integers, then -1 to the end.
    """
    import tensorflow as tf  # here, since its edit distance is all that these scores need of it

    return tf.edit_distance(_sparse(found), _sparse(truths), normalize=False).numpy()


def _sparse(texts):
    """Texts as the sparse tensor that TensorFlow's edit distance takes."""
    import tensorflow as tf

    places = np.argwhere(texts >= 0)
    shape = (len(texts), max(1, texts.shape[1]))
    return tf.SparseTensor(places, texts[texts >= 0].astype(np.int64), shape)


def _wilson(right, count):
    from scipy.stats import binomtest

    interval = binomtest(right, count).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def _root(x) -> float:
    return math.sqrt(max(0.0, float(x)))


def _number(x: float) -> float | None:
    return None if np.isnan(x) else float(x)
