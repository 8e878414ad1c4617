"""How good a model is: its answers to unseen test data against the truth."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cnnlstm.scanners import read_text
from keras_cnnlstm.scores import number_scores, scores, step_scores, text_scores
from keras_cnnlstm.tasks import Digits, RunningSum, Task, Text


def score(
    model: keras.Model, tests: Mapping[str, tf.data.Dataset], task: Task
) -> dict[str, dict[str, Any]]:
    """Scores a model on test data.

    Args:
        model: built for the task.
        tests: finite batches of `(inputs, target)` by the name of the score, such as `natural`;
            with a weight `(B, T)` at the end if sequences are of unequal length and there is a
            target at each step. `sources` makes them.
        task: the task that the model was trained for.

    Returns:
        For each name the entries of `scores`, `number_scores` (`RunningSum`) or `text_scores`
        (`Text`). For `Digits` those of `scores` for the steps, `num_steps` of them, and
        `sequence_accuracy`, the share of sequences without a mistake, with its interval
        `sequence_accuracy_95`.
    """
    return {name: _score(model, sequences, task) for name, sequences in tests.items()}


def _score(model, sequences, task):
    if isinstance(task, Text):
        targets, logits, _ = answers_of(model, sequences)
        return text_scores(targets - 1, keras.ops.convert_to_numpy(read_text(logits)))
    if isinstance(task, RunningSum):
        targets, values, counts = answers_of(model, sequences)
        return number_scores(targets[..., 0], values[..., 0], counts)
    if type(task) is Digits:
        return step_scores(*answers_of(model, sequences), task.class_names)
    targets, probabilities, _ = answers_of(model, sequences)
    return scores(targets, probabilities, task.class_names)


def answers_of(
    model: keras.Model, sequences: tf.data.Dataset
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Runs a model over test data.

    Args:
        model: the model.
        sequences: finite batches, as `score` takes them.

    Returns:
        The targets `(N, ...)`, the answers `(N, ...)`, and which steps count, `(N, T)` boolean, or
        `None` if all do.
    """
    parts = [keras.utils.unpack_x_y_sample_weight(batch)[1:] for batch in sequences]
    targets = np.concatenate([np.asarray(target) for target, _ in parts])
    weights = [np.asarray(weight) for _, weight in parts if weight is not None]
    answers = model.predict(sequences.map(lambda frames, *rest: frames), verbose=0)
    return targets, answers, np.concatenate(weights) > 0 if weights else None
