"""How a training goes, told in a terminal or a log: where it stands, how fast, and what slows it.

A callback in place of Keras's progress bar; give `fit` `verbose=0`.
"""

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Self, TextIO

import keras
import tensorflow as tf

from keras_cnnlstm.arguments import check_whole

_MOST = 2**63 - 1  # of steps, epochs or sequences
_EVERY = 0.1  # seconds between two states of a live line
_HALF = 0.5  # of the time: who takes more of it is the bottleneck


class Progress(keras.callbacks.Callback):
    """Tells epoch, step, loss, metrics, sequences a second, the bottleneck and the time left.

    On a terminal one line that is kept up to date, in a log one line for each epoch.

    "Input waits 3 %" is the share of the time in which the training stood still because its next
    batch was not there yet. Keras asks for a batch within the compiled training step, where no
    callback sees how long that takes; so this one asks for it and hands it over, and measures the
    time in between. The pipeline makes batches while the model computes: if it is fast enough they
    are waiting, and only the handing over is left, a tenth of a millisecond or so. On a CPU both
    share the cores, so a pipeline can slow the step down without any wait; `benchmark` times them
    apart. On a GPU the steps before have ended when a batch is asked for, as long as something
    reads the loss of each (`run_writer.RunWriter` does): the wait is then one of the GPU too.
    Otherwise it computes meanwhile, and the wait says how long the program stood still.
    No wait is told where it would change what is measured: with several devices or several steps
    in one execution, whose batches TensorFlow takes by itself, and where the shape of a batch is
    not known before, since the step would be compiled for each shape, and round otherwise.

    The first step of a `fit` is left out of all times, since it compiles the model. The time left
    reckons with whole epochs, though patience may end the training before, and knows of validation
    and of what is written after it once that has happened.

    Args:
        epochs: of the whole training.
        steps_per_epoch: batches in a whole epoch.
        batch_size: sequences in a batch, on all devices together.
        step: batches trained before, by a training that this one goes on with.
        stream: where to write; by default standard output.
        clock: tells seconds.

    Raises:
        ValueError: if a number is out of range.

    Attributes:
        step: batches trained.
        input_share: of the time of this epoch that was spent in waiting for input, 0 to 1; `None`
            before the second step, and where it cannot be known.

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
        for name, value in [("epochs", epochs), ("steps_per_epoch", steps_per_epoch)]:
            check_whole(f"Progress: `{name}`", value, 1, _MOST)
        check_whole("Progress: `batch_size`", batch_size, 1, _MOST)
        check_whole("Progress: `step`", step, 0, _MOST)
        self.step = step
        self._epochs, self._steps_per_epoch, self._batch_size = epochs, steps_per_epoch, batch_size
        self._stream, self._clock = stream or sys.stdout, clock
        self._live = self._stream.isatty()
        self._shown, self._shown_at = 0, -_EVERY  # length of the live line, and when it was written
        self._compiled = False  # whether this fit has had its first step
        # Of this epoch: when its times begin, steps and seconds of waiting since.
        self._since, self._steps, self._waited = 0.0, 0, 0.0
        self._seconds_a_step: float | None = None
        self._last_step_ended: float | None = None
        self._between_epochs = 0.0  # seconds from the last step of an epoch to the next epoch
        self._measures = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Leaves a live line behind, so that what is written next has its own."""
        if self._shown:
            self._stream.write("\n")
            self._stream.flush()
            self._shown = 0

    @property
    def input_share(self) -> float | None:
        seconds = self._seconds
        return self._waited / seconds if self._measures and seconds else None

    @property
    def _seconds(self) -> float:
        """Of this epoch's steps; 0 before the second one of a fit."""
        return self._last_step_ended - self._since if self._steps and self._last_step_ended else 0.0

    def on_train_begin(self, logs=None):
        self._compiled, self._last_step_ended = False, None
        self._usual = self.model.train_function
        self.model.train_function = self._timed

    def on_train_end(self, logs=None):
        self.model.train_function = self._usual

    def _timed(self, iterator):
        """A training step on the next batch, which is asked for apart."""
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
            self._show(f"step {self._place:,}/{self._steps_per_epoch:,}", self._left(), logs)

    def on_test_begin(self, logs=None):
        if self._live:
            self._show("validation", self._left(), None)

    def on_epoch_end(self, epoch, logs=None):
        if self._last_step_ended is not None:
            self._between_epochs = self._clock() - self._last_step_ended
        text = "  ".join([self._head, *_numbers(logs), *self._speed(), *self._left()])
        self._stream.write(f"{self._over(text)}\n")
        self._stream.flush()
        self._shown = 0

    @property
    def _place(self) -> int:
        """Of the last step within its epoch, from 1."""
        return (self.step - 1) % self._steps_per_epoch + 1

    @property
    def _epoch(self) -> int:
        """Of the last step, from 1."""
        return (self.step - 1) // self._steps_per_epoch + 1

    @property
    def _head(self) -> str:
        return f"Epoch {self._epoch}/{self._epochs}"

    def _show(self, state, left, logs):
        """Writes the live line anew, as much of it as a line of the terminal holds."""
        text = "  ".join([self._head, state, *left, *self._speed(), *_numbers(logs)])
        text = text[: shutil.get_terminal_size().columns - 1]
        self._stream.write(self._over(text))
        self._stream.flush()
        self._shown = len(text)

    def _over(self, text):
        """The text so that it covers the live line, if there is one."""
        return f"\r{text:<{self._shown}}" if self._live else text

    def _speed(self) -> list[str]:
        if not self._seconds:
            return []
        told = [f"{self._steps * self._batch_size / self._seconds:,.0f} sequences/s"]
        if self.input_share is not None:
            bound = "input" if self.input_share > _HALF else "compute"
            told.append(f"{bound}-bound (input waits {self.input_share:.0%})".replace("%", " %"))
        return told

    def _left(self) -> list[str]:
        steps = self._epochs * self._steps_per_epoch - self.step
        if self._seconds_a_step is None or not steps:
            return []
        # Nothing is left to do after the epochs that have ended.
        epochs = self._epochs - self._epoch
        seconds = steps * self._seconds_a_step + epochs * self._between_epochs
        return [f"{_as_time(seconds)} left"]


def _has_fixed_shapes(iterator) -> bool:
    """Whether this is an iterator of `tf.data`, all whose batches are known to be of one shape."""
    if not isinstance(iterator, tf.data.Iterator):
        return False
    specs = tf.nest.flatten(iterator.element_spec)
    return all(spec.shape.is_fully_defined() for spec in specs)


def _numbers(logs: Mapping[str, Any] | None) -> list[str]:
    return [f"{name} {float(value):.4f}" for name, value in (logs or {}).items()]


def _as_time(seconds: float) -> str:
    """Hours, minutes and seconds: `1:02:03`, or without hours `2:03`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
