"""Trainings that break off in the middle of a batch's work, for tests of how they continue."""

from pathlib import Path

import pytest

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.training.callbacks import RunWriter, TrainingStopped
from keras_cnnlstm.training.trainer import train


class PowerCutError(Exception):
    """No part of the training handles this."""


def break_off(
    config: TrainConfig,
    batches: int,
    *,
    member: int | None = None,
    stop: bool = False,
    resume: bool = False,
) -> str:
    """Trains until the power fails after some batches.

    Args:
        config: of the run.
        batches: of the run, or of its member; those of earlier starts count.
        member: number of the member in question, if the run is an ensemble.
        stop: request a stop instead, which the training answers in its own way.
        resume: go on with the run, whose directory exists.

    Returns:
        The message of the error that ended it.
    """
    original = RunWriter.on_train_batch_end
    name = Path(config.run_dir).name if member is None else str(member)

    def on_train_batch_end(self, batch, logs=None):
        here = self.path.name == name and self.step + 1 == batches
        self.stop_requested |= here and stop
        original(self, batch, logs)
        if here and not stop:
            raise PowerCutError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunWriter, "on_train_batch_end", on_train_batch_end)
        with pytest.raises(TrainingStopped if stop else PowerCutError) as error:
            train(config, resume=resume)
    return str(error.value)
