"""Trainings that break off in the midst of a batch's work, for tests of how they go on."""

from pathlib import Path

import pytest

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.run_writer import RunWriter, TrainingStopped
from keras_cnnlstm.training import train


class PowerCutError(Exception):
    """No part of the training knows how to end on this."""


def break_off(
    config: TrainConfig, batches: int, *, member: int | None = None, told: bool = False
) -> str:
    """Trains until the power fails after so many batches.

    Args:
        config: of the run.
        batches: of the run, or of its member; those of earlier starts count.
        member: number of the member in question, if the run is an ensemble.
        told: the training is told to stop instead, and does so in its own way.

    Returns:
        What it stopped with.
    """
    original = RunWriter.on_train_batch_end
    name = Path(config.run_dir).name if member is None else str(member)

    def on_train_batch_end(self, batch, logs=None):
        here = self.path.name == name and self.step + 1 == batches
        self.told_to_stop |= here and told
        original(self, batch, logs)
        if here and not told:
            raise PowerCutError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunWriter, "on_train_batch_end", on_train_batch_end)
        with pytest.raises(TrainingStopped if told else PowerCutError) as stop:
            train(config)
    return str(stop.value)
