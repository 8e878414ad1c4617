"""Images of a training for TensorBoard: a confusion matrix, and examples with their answers.

They show the same validation sequences after each epoch. Needs the extra `tensorboard`.
"""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cnnlstm import plots
from keras_cnnlstm.tasks.answers import plain_text
from keras_cnnlstm.tasks.task import Task
from keras_cnnlstm.utils.validation import as_path, check_instance, check_integer

_SEQUENCES = 256  # in the confusion matrix; at most one batch more


class ValidationImages(keras.callbacks.Callback):
    """Writes the confusion matrix and examples with the model's answers after each epoch.

    It asks the model as it is during the validation, with averaged weights if there are any: give
    it to `fit` before the callback that exchanges them. It draws no random number and does not
    change the model, so that a training is the same with and without it.

    Args:
        directory: where TensorBoard looks; a file of events is added.
        data: batches `(inputs, target)` or `(inputs, target, weight)`, as `fit` takes them for
            validation. The first ones are kept.
        task: what is asked, of which the targets of `data` are.
        examples: number of sequences shown.

    Raises:
        ValueError: if there is no batch, or an argument is wrong.
        OSError: if the directory cannot be written.
    """

    def __init__(
        self,
        directory: str | Path,
        data: tf.data.Dataset,
        task: Task,
        *,
        examples: int = 4,
    ):
        super().__init__()
        directory = as_path("ValidationImages: `directory`", directory)
        check_instance("ValidationImages: `task`", task, Task, "a task, such as Trend(4)")
        check_integer("ValidationImages: `examples`", examples, 0, 1000)
        check_instance("ValidationImages: `data`", data, tf.data.Dataset, "a tf.data.Dataset")
        self._inputs, self._targets, self._weights, self._batch_size = _first(data)
        self._task, self._examples, self._epoch = task, examples, 0
        self._writer = _event_writer(directory)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_test_end(self, logs=None):
        plain: Any = getattr(self.model, "plain", self.model)  # of several replicas
        answers = self._answers(plain)
        with self._writer.as_default(step=self._epoch):
            if self._task.classifies:
                self._write("confusion", self._confusion(answers))
            for b in range(min(self._examples, len(answers))):
                if (figure := self._example(b, answers[b])) is not None:
                    self._write(f"examples/{b + 1}", figure)
        self._writer.flush()

    def _answers(self, model) -> np.ndarray:
        """Batch by batch, since all of them may be too much for the memory."""
        parts = []
        for start in range(0, len(self._targets), self._batch_size):
            rows = slice(start, start + self._batch_size)
            inputs = keras.tree.map_structure(lambda x, rows=rows: x[rows], self._inputs)
            parts.append(keras.ops.convert_to_numpy(model(inputs, training=False)))
        return np.concatenate(parts)

    def _write(self, name, figure):
        tf.summary.image(name, plots.as_pixels(figure)[None])

    def _confusion(self, answers):
        names = self._task.class_names
        matrix = np.zeros((len(names),) * 2, np.int64)
        np.add.at(matrix, (self._targets[self._weights], answers.argmax(-1)[self._weights]), 1)
        return plots.plot_confusion(matrix.tolist(), names)

    def _example(self, b, answer):
        """A sequence with answer and truth; `None` if its frames are not here."""
        inputs = self._inputs if isinstance(self._inputs, dict) else {"frames": self._inputs}
        if "frames" not in inputs:
            return None  # a frozen encoder's answers have replaced them
        frames = inputs["frames"][b]
        frames = frames if frames.ndim == 4 else frames[None]  # one image is a sequence of one
        length = int(inputs["lengths"][b]) if "lengths" in inputs else len(frames)
        target, task = self._targets[b], self._task
        if answer.ndim > 1 and task.arrangement == "sequence":  # an answer at each step
            answer, target = answer[:length], target[:length]
        text, truth = plain_text(task.answer(answer)), plain_text(task.target_answer(target))
        bars = (answer, task.class_names) if task.classifies and answer.ndim == 1 else ()
        return plots.plot_sequence(frames[:length], *bars, title=f"{text}   (truth: {truth})")


def _event_writer(directory):
    try:
        return tf.summary.create_file_writer(str(directory))
    except tf.errors.OpError as error:
        raise OSError(
            f"ValidationImages: `directory` must be one that can be written; received "
            f"{directory} ({type(error).__name__}). Give another one."
        ) from error


def _first(data) -> tuple[Any, np.ndarray, np.ndarray, int]:
    """Inputs, targets and boolean weights of the first batches, and the size of a batch."""
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
