"""Scores of answers against the truth: arrays in, plain numbers out that JSON can hold.

Knows nothing of models and data sets; `evaluation` brings these to it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_cnnlstm.arguments import as_array, as_numbers, check_names, told
from keras_cnnlstm.tasks import Digits, RunningSum, Task, Text
from keras_cnnlstm.vocabulary import END, UNKNOWN, join, split


def score_answers(
    task: Task, targets: np.ndarray, answers: np.ndarray, counts: np.ndarray | None = None
) -> dict[str, Any]:
    """Scores answers by what the task asks.

    Args:
        task: the task.
        targets: `(N, ...)`, as `task.targets` gives them.
        answers: probabilities or numbers, as a model for the task gives them; of a `Text` the
            characters that were read, then -1.
        counts: `(N, T)` boolean, which steps count, if there is an answer at each step.

    Returns:
        The entries of `text_scores`, `number_scores` (`RunningSum`), `step_scores` (`Digits`) or
        `scores`.

    Raises:
        ValueError: if the arguments do not fit together.
    """
    if isinstance(task, Text):
        return text_scores(targets - 1, answers)
    if isinstance(task, RunningSum):
        return number_scores(targets[..., 0], answers[..., 0], counts)
    if type(task) is Digits:
        return step_scores(targets, answers, counts, task.class_names)
    return scores(targets, answers, task.class_names)


def accuracy_by_length(right: np.ndarray, lengths: np.ndarray) -> dict[str, dict[str, Any]]:
    """How often sequences of each length are answered rightly.

    Args:
        right: `(N,)` boolean.
        lengths: `(N,)` whole numbers.

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
    targets = as_numbers("scores: `targets`", targets, kinds="iu")
    probabilities = as_numbers("scores: `probabilities`", probabilities)
    num_classes = len(class_names)
    if targets.ndim != 1:
        raise ValueError(f"scores: `targets` must have shape (N,); received {targets.shape}.")
    if probabilities.shape != (len(targets), num_classes) or not len(targets):
        raise ValueError(
            f"scores: `probabilities` must have shape (N, {num_classes}), N at least 1 and the "
            f"same as in `targets` {targets.shape}; received {probabilities.shape}."
        )
    if targets.min() < 0 or targets.max() >= num_classes:
        raise ValueError(
            f"scores: `targets` must be 0 to {num_classes - 1}, the indices of `class_names`; "
            f"received {targets.min()} to {targets.max()}."
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


def step_scores(
    targets: np.ndarray,
    probabilities: np.ndarray,
    counts: np.ndarray | None,
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Scores class probabilities at each step.

    Args:
        targets: `(N, T)` integers.
        probabilities: `(N, T, num_classes)`.
        counts: `(N, T)` boolean, `False` at padding; `None` if all steps count.
        class_names: names of the classes, in the order of their indices.

    Returns:
        The entries of `scores` for the steps, `num_steps` of them, and `sequence_accuracy` and
        `sequence_accuracy_95` for the `num_sequences` as wholes.

    Raises:
        ValueError: if the arguments do not fit together.
    """
    targets = as_numbers("step_scores: `targets`", targets, kinds="iu")
    probabilities = as_numbers("step_scores: `probabilities`", probabilities)
    counts = _checked_counts("step_scores", counts, targets)
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
    right = (probabilities.argmax(axis=-1) == targets) | ~counts
    whole = int(right.all(axis=1).sum())
    result = scores(targets[counts], probabilities[counts], class_names)
    return {
        "num_sequences": len(targets),
        "sequence_accuracy": whole / len(targets),
        "sequence_accuracy_95": _wilson(whole, len(targets)),
        "num_steps": result.pop("num_sequences"),
        **result,
    }


def number_scores(
    targets: np.ndarray, values: np.ndarray, counts: np.ndarray | None = None
) -> dict[str, Any]:
    """Scores a number at each step; the last one of a sequence matters most.

    Args:
        targets: `(N, T)` numbers.
        values: `(N, T)` answers.
        counts: `(N, T)` boolean, `False` at the padding after a sequence; `None` if all count.

    Returns:
        `num_sequences`; of the last steps `rmse` (root-mean-square error), `rmse_95` (its interval,
        from the spread of the squares), `mean_absolute_error`, `rounded_accuracy` (the share whose
        nearest whole number is right) and `rmse_by_length`; and `rmse_all_steps`.

    Raises:
        ValueError: if the arguments do not fit together.

    Example:

    >>> number_scores(np.array([[1.0, 3.0]]), np.array([[1.0, 3.5]]))["rmse"]
    0.5
    """
    targets = as_numbers("number_scores: `targets`", targets)
    values = as_numbers("number_scores: `values`", values)
    counts = _checked_counts("number_scores", counts, targets)
    if values.shape != targets.shape:
        raise ValueError(
            f"number_scores: `values` must have the shape of `targets`, {targets.shape}; received "
            f"{values.shape}."
        )
    lengths, rows = counts.sum(axis=1), np.arange(len(targets))
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
        "rmse_all_steps": _root((((values - truth) ** 2)[counts]).mean()),
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
            f"{told(targets)}."
        )
    if characters.ndim != 2 or len(characters) != len(targets):
        raise ValueError(
            f"text_scores: `characters` must have shape ({len(targets)}, any length); received "
            f"{characters.shape}."
        )
    import tensorflow as tf  # here, since its edit distance is all that these scores need of it

    distance = tf.edit_distance(_sparse(characters), _sparse(targets), normalize=False).numpy()
    right = int((distance == 0).sum())
    return {
        "num_sequences": len(targets),
        "accuracy": right / len(targets),
        "accuracy_95": _wilson(right, len(targets)),
        "character_accuracy": 1 - float(distance.sum() / (targets >= 0).sum()),
    }


def sentence_scores(targets: np.ndarray, words: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Scores sentences that describe what is seen.

    Args:
        targets: `(N, L)` integers, the numbers of the right words, as `Vocabulary.encode` has them.
        words: `(N, any length)` integers, what was said, as `decoding.greedy_model` says it.
        names: the names of all numbers, `Vocabulary.names`.

    Returns:
        `num_sequences`, `accuracy` (the share of sentences that are right in every word),
        `accuracy_95` (its Wilson score interval), `word_accuracy` (one less the smallest number of
        insertions, deletions and substitutions a word of the truth; punctuation marks are words)
        and `bleu`, 0 to 100: Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine
        Translation", ACL 2002, of the whole corpus, by sacrebleu with its usual tokens. It goes up
        to four words in a row, or as many as the longest sentence has.

    Raises:
        ValueError: if the arguments do not fit together.

    Example:

    >>> from keras_cnnlstm.vocabulary import SPECIAL
    >>> names = [*SPECIAL, "a", "seven", "six"]
    >>> result = sentence_scores(np.array([[4, 5, 3]]), np.array([[4, 6, 3]]), names)
    >>> result["accuracy"], result["word_accuracy"]
    (0.0, 0.5)
    """
    from sacrebleu.metrics import BLEU

    targets, words = _checked_sentences(targets, words, names)
    spoken = text_scores(*(np.where(_spoken(x), x, -1) for x in (targets, words)))
    truths, answers = ([join(row, names) for row in x] for x in (targets, words))
    longest = max(len(split(truth)) for truth in truths)
    bleu = BLEU(max_ngram_order=min(4, longest)).corpus_score(answers, [truths])
    return {
        "num_sequences": spoken["num_sequences"],
        "accuracy": spoken["accuracy"],
        "accuracy_95": spoken["accuracy_95"],
        "word_accuracy": spoken["character_accuracy"],
        "bleu": bleu.score,
    }


def _checked_sentences(targets, words, names):
    check_names("sentence_scores: `names`", names)
    pair = {"targets": targets, "words": words}
    for name, value in pair.items():
        numbers = pair[name] = as_numbers(f"sentence_scores: `{name}`", value, kinds="iu")
        fits = numbers.ndim == 2 and numbers.size and len(numbers) == len(pair["targets"])
        if not fits or numbers.min() < 0 or numbers.max() >= len(names):
            raise ValueError(
                f"sentence_scores: `{name}` must have shape (N, any length), numbers of `names`, 0 "
                f"to {len(names) - 1}; received {told(value)}."
            )
    if not all(_spoken(pair["targets"]).any(axis=1)):
        raise ValueError(
            f"sentence_scores: `targets` must have a word in each row; received {told(targets)}."
        )
    return pair["targets"], pair["words"]


def _spoken(words):
    """Which numbers stand for words: all but the start, the end and what comes after it."""
    return (words > END) | (words == UNKNOWN)


def summary(result: dict[str, Any]) -> str:
    """The entries of one score as a few lines of text."""
    if "rmse" in result:
        return _number_summary(result)
    low, high = result["accuracy_95"]
    text = f"accuracy {result['accuracy']:.2%} of {{}} (95 % interval {low:.2%} to {high:.2%})"
    sequences = f"{result['num_sequences']:,} sequences"
    if "character_accuracy" in result:
        return f"{text.format(sequences)}, {result['character_accuracy']:.2%} of characters"
    if "bleu" in result:
        words = f"{result['word_accuracy']:.2%} of words, BLEU {result['bleu']:.2f}"
        return f"{text.format(sequences)}, {words}"
    if "num_steps" in result:
        text = text.format(f"{result['num_steps']:,} steps")
        text += f", all steps right in {result['sequence_accuracy']:.2%} of {sequences}"
    lines = [f"{text.format(sequences)}, macro recall {result['macro_recall']:.2%}"]
    width = max(map(len, result["classes"]))
    for name, entry in result["classes"].items():
        recall = "    -  " if entry["recall"] is None else f"{entry['recall']:7.2%}"
        lines.append(f"  {name:<{width}}  recall {recall}  of {entry['count']:5,}")
    return "\n".join(lines)


def _number_summary(result):
    low, high = result["rmse_95"]
    lines = [
        f"root-mean-square error of the last step {result['rmse']:.3f} over "
        f"{result['num_sequences']:,} sequences (95 % interval {low:.3f} to {high:.3f}), "
        f"{result['rounded_accuracy']:.2%} right when rounded; of all steps "
        f"{result['rmse_all_steps']:.3f}"
    ]
    for length, error in result["rmse_by_length"].items():
        lines.append(f"  length {length:>2}  {error:.3f}")
    return "\n".join(lines)


def _checked_counts(function, counts, targets):
    """Which steps count, `(N, T)` boolean."""
    if targets.ndim != 2 or not targets.size:
        raise ValueError(
            f"{function}: `targets` must have shape (N, T), both 1 at least; received "
            f"{targets.shape}."
        )
    counts = as_array(f"{function}: `counts`", True if counts is None else counts)
    if counts.dtype != bool or counts.shape not in ((), targets.shape):
        raise ValueError(
            f"{function}: `counts` must be boolean of shape {targets.shape}; received "
            f"{counts.dtype} of {counts.shape}."
        )
    counts = np.broadcast_to(counts, targets.shape)
    if not counts[:, 0].all() or (counts[:, 1:] > counts[:, :-1]).any():
        raise ValueError(
            f"{function}: `counts` must be True for the first steps of each sequence, one at "
            "least, and False for the rest; received another order."
        )
    return counts


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
