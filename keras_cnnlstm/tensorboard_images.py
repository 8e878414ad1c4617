"""Pictures of a training for TensorBoard: who is taken for whom, and examples with their answers.

After each validation, from the same few of its sequences, so that one can slide through the epochs.
Needs the extra `tensorboard`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cnnlstm import plots
from keras_cnnlstm.answers import read_text
from keras_cnnlstm.arguments import as_path, check_kind, check_names, check_whole

_SEQUENCES = 256  # in the confusion matrix, at most a batch more


class ValidationImages(keras.callbacks.Callback):
    """Writes the confusion matrix and examples with the model's answers, an image of each an epoch.

    It asks the model as it is during the validation, with its averaged weights if there are such
    ones: give it to `fit` before the callback that puts them in place. No random number is drawn
    and nothing of the model changes, so a training is the same with and without it.

    Args:
        directory: where TensorBoard looks; a file of events is added.
        data: batches `(inputs, target)` or `(inputs, target, weight)`, as `fit` takes them for
            validation. The first ones are kept.
        class_names: names of the classes, in the order of their indices; of values none.
        examples: how many sequences are shown.

    Raises:
        ValueError: if there is no batch, or an argument is wrong.
        OSError: if the directory cannot be written.
    """

    def __init__(
        self,
        directory: str | Path,
        data: tf.data.Dataset,
        class_names: Sequence[str],
        *,
        examples: int = 4,
    ):
        super().__init__()
        directory = as_path("ValidationImages: `directory`", directory)
        check_names("ValidationImages: `class_names`", class_names)
        check_whole("ValidationImages: `examples`", examples, 0, 1000)
        check_kind("ValidationImages: `data`", data, tf.data.Dataset, "a tf.data.Dataset")
        self._inputs, self._targets, self._weights, self._batch_size = _first(data)
        self._class_names, self._examples, self._epoch = tuple(class_names), examples, 0
        self._writer = _event_writer(directory)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_test_end(self, logs=None):
        plain = getattr(self.model, "plain", self.model)  # of several replicas
        answers = self._answers(plain)
        output = plain.output_names[0]
        with self._writer.as_default(step=self._epoch):
            if output == "probabilities":
                self._write("confusion", self._confusion(answers))
            for b in range(min(self._examples, len(answers))):
                if (figure := self._example(b, answers[b], output)) is not None:
                    self._write(f"examples/{b + 1}", figure)
        self._writer.flush()

    def _answers(self, model) -> np.ndarray:
        """Batch by batch, as all of them may be too much for the memory."""
        parts = []
        for start in range(0, len(self._targets), self._batch_size):
            rows = slice(start, start + self._batch_size)
            inputs = keras.tree.map_structure(lambda x, rows=rows: x[rows], self._inputs)
            parts.append(keras.ops.convert_to_numpy(model(inputs, training=False)))
        return np.concatenate(parts)

    def _write(self, name, figure):
        tf.summary.image(name, plots.as_pixels(figure)[None])

    def _confusion(self, answers):
        count = len(self._class_names)
        matrix = np.zeros((count, count), np.int64)
        np.add.at(matrix, (self._targets[self._weights], answers.argmax(-1)[self._weights]), 1)
        return plots.plot_confusion(matrix, self._class_names)

    def _example(self, b, answer, output):
        """A sequence with answer and truth; `None` of one whose frames are not here."""
        inputs = self._inputs if isinstance(self._inputs, dict) else {"frames": self._inputs}
        if "frames" not in inputs:
            return None  # an encoder's answers have taken their place
        frames = inputs["frames"][b]
        frames = frames if frames.ndim == 4 else frames[None]  # one image is a sequence of one
        length = int(inputs["lengths"][b]) if "lengths" in inputs else len(frames)
        told, truth = (
            _as_text(x, output, self._class_names, length)
            for x in (answer, _as_answer(self._targets[b], output, len(self._class_names)))
        )
        bars = (answer, self._class_names) if output == "probabilities" and answer.ndim == 1 else ()
        return plots.plot_sequence(frames[:length], *bars, title=f"{told}   (truth: {truth})")


def _event_writer(directory):
    try:
        return tf.summary.create_file_writer(str(directory))
    except tf.errors.OpError as error:
        raise OSError(
            f"ValidationImages: `directory` must be one that can be written; received "
            f"{directory} ({type(error).__name__}). Give another one."
        ) from error


def _first(data) -> tuple[Any, np.ndarray, np.ndarray, int]:
    """Inputs, targets, which of these count, of the first batches; and how large a batch is."""
    inputs, targets, weights, count = [], [], [], 0
    for batch in data:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        inputs.append(keras.tree.map_structure(np.asarray, x))
        targets.append(np.asarray(y))
        weights.append(np.ones(y.shape[:2], bool) if weight is None else np.asarray(weight) > 0)
        count += len(targets[-1])
        if count >= _SEQUENCES:
            break
    if not count:
        raise ValueError("ValidationImages: `data` must hold one batch at least; received none.")
    together = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *inputs)
    return together, np.concatenate(targets), np.concatenate(weights), len(targets[0])


def _as_answer(target, output, num_classes):
    """A target in the form of an answer that is sure of it."""
    if output == "values":
        return target
    if output == "logits":  # between two characters a blank, as they may be equal
        target = np.stack([target, np.zeros_like(target)], axis=-1).reshape(-1)
    return np.eye(num_classes + (output == "logits"))[target]


def _as_text(answer, output, class_names, length) -> str:
    if output == "logits":
        return "".join(class_names[k] for k in read_text(answer)) or "(no text)"
    if output == "values":
        return f"{np.reshape(answer, (-1, answer.shape[-1]))[:length][-1, 0]:.2f}"
    names = [class_names[k] for k in np.atleast_1d(answer.argmax(axis=-1))[:length]]
    return " ".join(names)
