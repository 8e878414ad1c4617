"""Checkpoints whose checksums are right and whose contents are not, and models full of NaN."""

import json
import os

import keras
import numpy as np
import pytest

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.tasks.trends import Trend
from keras_cnnlstm.training.callbacks import RunWriter
from keras_cnnlstm.training.checkpoints import (
    newest_checkpoint,
    restore_checkpoint,
    save_checkpoint,
)
from keras_cnnlstm.training.objectives import objective_for
from keras_cnnlstm.training.run_directory import load_model

ROW = {"epoch": 1, "loss": 0.5, "val_accuracy": 0.5}
FACTS = {"history": [ROW], "recalls": [[0.5, None]], "seconds": 1.5}


@pytest.fixture(scope="module")
def model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    model.fit(np.ones((4, 2)), np.ones(4), verbose=0)
    return model


def rewritten(path, **changes):
    """Writes other contents to a checkpoint, whole by its checksums."""
    with np.load(path) as file:
        arrays = dict(file)
    head = json.loads(bytes(arrays.pop("head"))) | changes
    np.savez(path, head=np.frombuffer(json.dumps(head).encode(), np.uint8), **arrays)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="of POSIX")
@pytest.mark.timeout(20)
def test_pipes_and_devices_are_passed_over(model, tmp_path):
    save_checkpoint(tmp_path, model, 1, FACTS)
    os.mkfifo(tmp_path / "step-00000002.npz")
    (tmp_path / "step-00000003.npz").symlink_to("/dev/zero")
    with pytest.warns(UserWarning, match=r"step-0000000[23].npz.*no regular file"):
        assert newest_checkpoint(tmp_path).step == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"step": 7},
        {"step": "2"},
        {"facts": []},
        {"facts": {"history": 3}},
        {"facts": {"history": [3]}},
        {"facts": {"history": [{"epoch": "1"}]}},
        {"facts": {"recalls": [["a"]]}},
        {"facts": {"seconds": "long"}},
        {"facts": {"seconds": None}},
    ],
    ids=str,
)
def test_wrong_facts_are_passed_over(model, tmp_path, changes):
    for step in (1, 2):
        save_checkpoint(tmp_path, model, step, FACTS)
    assert newest_checkpoint(tmp_path).step == 2
    rewritten(tmp_path / "step-00000002.npz", **changes)
    with pytest.warns(UserWarning, match=r"step-00000002.npz: this checkpoint is damaged"):
        assert newest_checkpoint(tmp_path).step == 1


@pytest.mark.parametrize("dtype", ["float64", "int32", "bool"])
def test_other_dtypes_are_refused(model, tmp_path, dtype):
    save_checkpoint(tmp_path, model, 1, FACTS)
    found = newest_checkpoint(tmp_path)
    restore_checkpoint(model, found)
    arrays = [found.arrays[0].astype(dtype), *found.arrays[1:]]
    with pytest.raises(ValueError, match=rf"step-00000001.npz: expected the variables.*{dtype}"):
        restore_checkpoint(model, found._replace(arrays=arrays))


def test_a_history_of_another_training_is_refused(model, tmp_path):
    objective = objective_for(Trend(4))
    config = TrainConfig(steps_per_epoch=2, epochs=3).resolved
    save_checkpoint(tmp_path, model, 2, {})
    checkpoint = newest_checkpoint(tmp_path)
    row = {"epoch": 1, f"val_{objective.metric.name}": 0.5}

    def writer(**facts):
        return RunWriter(tmp_path, objective, config, model, checkpoint._replace(facts=facts))

    assert writer(history=[row], recalls=[[0.5]]).best_epoch == 0
    for history, recalls in (
        ([], []), ([row], []), ([row, row], [[0.5], [0.5]]), ([{"epoch": 1}], [[0.5]]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"step-00000002.npz: .*of 1 epochs.*Remove the file"):
            writer(history=history, recalls=recalls)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_named(tmp_path, value):
    model = cnn_lstm((2, 8, 8, 1), 2, lstm_units=(2,))
    kernel = model.get_layer("probabilities").kernel
    kernel.assign(np.full(kernel.shape, value))
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"model.keras: .*probabilities/kernel holds NaN.*lower"):
        load_model(tmp_path / "model.keras")
