"""Shows the progress of a training: its position, its speed, and what limits the speed.

A callback in place of Keras's progress bar; give `fit` `verbose=0`.
"""

import shutil
import sys
import time
from collections.abc import Callable
from typing import Self, TextIO

import keras
import tensorflow as tf

from keras_cnnlstm.utils.validation import check_integer

_MOST = 2**63 - 1  # steps, epochs or sequences
_EVERY = 0.1  # seconds between two states of a live line
_HALF = 0.5  # the share of the time that makes input the bottleneck


class Progress(keras.callbacks.Callback):
    """Writes epoch, step, loss, metrics, sequences a second, the bottleneck and the time left.

    A terminal has one line that is kept up to date; a log has one line for each epoch.

    "Input waits 3 %" is the share of the time in which the training waited for its next batch.
    Keras fetches a batch within the compiled step, where no callback can measure it; so this one
    fetches the batch and hands it over. A fast pipeline costs only the handing over, about a tenth
    of a millisecond. On a CPU a pipeline shares the model's cores, and can slow the step down
    without any wait; `benchmark` times both separately. On a GPU the wait is one of the GPU if
    something reads the loss of each step, as `callbacks.RunWriter` does; otherwise only the program
    waits.

    No wait is shown where measuring it would change the training: with several devices or several
    steps in one execution, where TensorFlow fetches the batches, and for batches of unknown shape,
    for which the step would be compiled once per shape, and round differently.

    The first step of a `fit` counts in no time, since it compiles the model. The time left assumes
    that no epoch is cut short by patience, and includes validation after the first epoch.

    Args:
        epochs: of the whole training.
        steps_per_epoch: batches in a whole epoch.
        batch_size: sequences in a batch, on all devices together.
        step: batches trained before this training continued.
        stream: where to write; by default standard output.
        clock: returns the time in seconds.

    Raises:
        ValueError: if a number is out of range.

    Attributes:
        step: batches trained.
        input_share: the share of this epoch's time spent waiting for input, 0 to 1; `None` before
            the second step, and where it cannot be measured.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> data = tf.data.Dataset.from_tensors((tf.zeros((8, 2)), tf.zeros(8))).repeat()
    >>> with Progress(1, 3, 8) as progress:  # doctest: +ELLIPSIS
    ...     _ = model.fit(data, steps_per_epoch=3, callbacks=[progress], shuffle=False, verbose=0)
    Epoch 1/1  loss 0.0000  ... sequences/s  ...-bound (input waits ... %)
    """

    def __init__(
        self,
        epochs: int,
        steps_per_epoch: int,
        batch_size: int,
        *,
        step: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        super().__init__()
        check_integer("Progress: `epochs`", epochs, 1, _MOST)
        check_integer("Progress: `steps_per_epoch`", steps_per_epoch, 1, _MOST)
        check_integer("Progress: `batch_size`", batch_size, 1, _MOST)
        check_integer("Progress: `step`", step, 0, _MOST)
        self.step = step
        self._epochs, self._steps_per_epoch, self._batch_size = epochs, steps_per_epoch, batch_size
        self._stream, self._clock = stream or sys.stdout, clock
        self._live = self._stream.isatty()
        self._shown, self._shown_at = 0, -_EVERY  # length and time of the live line
        self._compiled = False  # whether this fit has had its first step
        # In this epoch: the start of its times, and the steps and seconds of waiting since then.
        self._since, self._steps, self._waited = 0.0, 0, 0.0
        self._seconds_a_step: float | None = None
        self._last_step_ended: float | None = None
        self._between_epochs = 0.0  # seconds from the last step of an epoch to the next epoch
        self._measures = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Ends a live line, so that the next text has a line of its own."""
        if self._shown:
            self._write("\n", shown=0)

    @property
    def input_share(self) -> float | None:
        seconds = self._seconds
        return self._waited / seconds if self._measures and seconds else None

    @property
    def _seconds(self) -> float:
        """The time of this epoch's steps; 0 before the second one of a fit."""
        return self._last_step_ended - self._since if self._steps and self._last_step_ended else 0.0

    def on_train_begin(self, logs=None):
        self._compiled, self._last_step_ended = False, None
        self._usual = self.model.train_function
        self.model.train_function = self._timed

    def on_train_end(self, logs=None):
        self.model.train_function = self._usual

    def _timed(self, iterator):
        """A training step on the next batch, which is fetched separately."""
        single = self.model.steps_per_execution == 1
        self._measures = single and _has_fixed_shapes(iterator)
        if not self._measures:
            return self._usual(iterator)
        begin = self._clock()
        batch = next(iterator)
        self._waited += self._clock() - begin
        return self._usual(iter([batch]))

    def on_epoch_begin(self, epoch, logs=None):
        now = self._clock()
        if self._last_step_ended is not None:
            self._between_epochs = now - self._last_step_ended
        self._since, self._steps, self._waited = now, 0, 0.0

    def on_train_batch_end(self, batch, logs=None):
        now, steps = self._clock(), self.model.steps_per_execution
        self.step += steps
        self._last_step_ended = now
        if not self._compiled:
            self._compiled = True
            self._since, self._waited = now, 0.0
        else:
            self._steps += steps
            self._seconds_a_step = (now - self._since) / self._steps
        if self._live and now - self._shown_at >= _EVERY:
            self._shown_at = now
            place = (self.step - 1) % self._steps_per_epoch + 1
            self._show(f"step {place:,}/{self._steps_per_epoch:,}", logs)

    def on_test_begin(self, logs=None):
        if self._live:
            self._show("validation", None)

    def on_epoch_end(self, epoch, logs=None):
        if self._last_step_ended is not None:
            self._between_epochs = self._clock() - self._last_step_ended
        text = "  ".join([self._head, *_numbers(logs), *self._speed(), *self._left()])
        self._write(f"{self._over(text)}\n", shown=0)

    @property
    def _epoch(self) -> int:
        """The epoch of the last step, from 1."""
        return (self.step - 1) // self._steps_per_epoch + 1

    @property
    def _head(self) -> str:
        return f"Epoch {self._epoch}/{self._epochs}"

    def _show(self, state, logs):
        """Updates the live line, cut to the width of the terminal."""
        text = "  ".join([self._head, state, *self._left(), *self._speed(), *_numbers(logs)])
        text = text[: shutil.get_terminal_size().columns - 1]
        self._write(self._over(text), shown=len(text))

    def _over(self, text):
        """The text so that it covers the live line, if there is one."""
        return f"\r{text:<{self._shown}}" if self._live else text

    def _write(self, text, *, shown):
        self._stream.write(text)
        self._stream.flush()
        self._shown = shown

    def _speed(self) -> list[str]:
        if not self._seconds:
            return []
        parts = [f"{self._steps * self._batch_size / self._seconds:,.0f} sequences/s"]
        if self.input_share is not None:
            bound = "input" if self.input_share > _HALF else "compute"
            parts.append(f"{bound}-bound (input waits {self.input_share:.0%})".replace("%", " %"))
        return parts

    def _left(self) -> list[str]:
        steps = self._epochs * self._steps_per_epoch - self.step
        if self._seconds_a_step is None or not steps:
            return []
        epochs = self._epochs - self._epoch  # nothing is left to do after those that have ended
        seconds = steps * self._seconds_a_step + epochs * self._between_epochs
        return [f"{_as_time(seconds)} left"]


def _has_fixed_shapes(iterator) -> bool:
    """Whether this is an iterator of `tf.data` whose batches all have one known shape."""
    if not isinstance(iterator, tf.data.Iterator):
        return False
    specs = tf.nest.flatten(iterator.element_spec)
    return all(spec.shape.is_fully_defined() for spec in specs)


def _numbers(logs) -> list[str]:
    return [f"{name} {float(value):.4f}" for name, value in (logs or {}).items()]


def _as_time(seconds: float) -> str:
    """Hours, minutes and seconds: `1:02:03`, or without hours `2:03`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
