"""A run that was stopped continues as if it had not been: exactly, from any moment."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from oracles import assert_all_equal
from power_cut import break_off

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.training.checkpoints import newest_checkpoint, save_checkpoint
from keras_cnnlstm.training.run_directory import load_run
from keras_cnnlstm.training.trainer import train
from keras_cnnlstm.utils.files import locked

# Dropout and the average of the weights have states of their own; the model that is trained is
# another than the one that is saved.
OPTIONS = {
    "length": 2, "encoder": "small_cnn", "lstm_units": (8,), "dropout": 0.3, "ema": 0.9,
    "epochs": 3, "steps_per_epoch": 6, "batch_size": 8, "checkpoint_steps": 4,
    "validation_sequences": 16, "test_sequences": 50, "precision": "float32",
    "supervision": "permuted", "augmentation": {"affine": 1.0, "elastic": 0.5},
}  # fmt: skip


def config(path, **changes):
    return TrainConfig(**(OPTIONS | {"run_dir": str(path)} | changes))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped."""
    return train(config(tmp_path_factory.mktemp("whole") / "run"))


def assert_same(run, whole):
    """Weights, history, scores and the last checkpoint are equal bit for bit."""
    for name in ("history.csv", "recall.csv"):
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert run.metrics["test"] == whole.metrics["test"]
    assert run.metrics["training"]["best_epoch"] == whole.metrics["training"]["best_epoch"]
    assert_all_equal(run.model.get_weights(), whole.model.get_weights())
    last, expected = (newest_checkpoint(r.path / "checkpoints") for r in (run, whole))
    assert (last.step, last.names) == (expected.step, expected.names)
    assert "seed_generator_state" in last.names
    assert_all_equal(last.arrays, expected.arrays)


KILLS = 20
SLOW = pytest.mark.slow


@pytest.mark.parametrize("batches", [*(pytest.param(n, marks=SLOW) for n in (1, 5, 9, 18)), 7])
def test_a_run_that_broke_off_ends_as_if_it_had_not(batches, whole, tmp_path):
    # Before the first checkpoint, after one in mid-epoch or between two, at the end of the run.
    break_off(config(tmp_path / "run"), batches)
    stood = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert (stood.step if stood else 0) == {1: 0, 5: 4, 7: 6, 9: 8, 18: 16}[batches]
    assert_same(train(config(tmp_path / "run"), resume=True), whole)


def test_a_finished_run_is_scored_again_and_stays_the_same(whole):
    before = json.loads((whole.path / "metrics.json").read_text())
    assert_same(train(config(whole.path), resume=True), whole)
    after = json.loads((whole.path / "metrics.json").read_text())
    assert after["training"]["epochs"] == before["training"]["epochs"]


@SLOW
def test_a_run_can_grow(tmp_path):
    constant = {"optimizer": "adadelta", "lstm_units": (4,)}  # a cosine would end later
    long = train(config(tmp_path / "long", **constant))
    train(config(tmp_path / "short", epochs=1, **constant))
    assert_same(train(config(tmp_path / "short", **constant), resume=True), long)


@SLOW
def test_half_precision_resumes_exactly_too(tmp_path):
    half = {"precision": "mixed_float16", "epochs": 2, "test_sequences": 10}
    whole = train(config(tmp_path / "whole", **half))
    break_off(config(tmp_path / "run", **half), 9)
    assert_same(train(config(tmp_path / "run", **half), resume=True), whole)


@pytest.mark.parametrize(
    "damage", ["flipped", *(pytest.param(d, marks=SLOW) for d in ("cut", "emptied"))]
)
def test_a_damaged_checkpoint_is_found_out_and_the_one_before_is_used(damage, whole, tmp_path):
    break_off(config(tmp_path / "run"), 14)
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    assert newest.name == "step-00000012.npz"
    content = bytearray(newest.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1  # one bit of one weight
    newest.write_bytes({"cut": content[:-100], "flipped": content, "emptied": b""}[damage])
    with pytest.warns(UserWarning, match="step-00000012.npz: this checkpoint is damaged"):
        assert newest_checkpoint(newest.parent).step == 8
    with pytest.warns(UserWarning, match="going back to the one before it"):
        run = train(config(tmp_path / "run"), resume=True)
    assert_same(run, whole)


def test_the_last_three_checkpoints_are_kept(whole):
    names = [path.name for path in sorted((whole.path / "checkpoints").iterdir())]
    assert names == ["step-00000012.npz", "step-00000016.npz", "step-00000018.npz"]


def test_a_failed_write_leaves_the_checkpoints_there_were(tmp_path, monkeypatch):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    model.fit(np.ones((4, 2)), np.ones(4), verbose=0)
    save_checkpoint(tmp_path, model, 1, {})

    def full(file, **arrays):
        file.write(b"half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, model, 2, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.npz"]


PATIENT = {"patience": 1, "epochs": 6, "learning_rate": 1e-6, "test_sequences": 10}


def test_no_better_epoch_for_too_long_ends_the_run(tmp_path):
    whole = train(config(tmp_path / "whole", **PATIENT))
    epochs = whole.metrics["training"]["epochs"]
    assert epochs < 6
    assert whole.metrics["training"]["best_epoch"] == epochs - 1


@pytest.mark.slow
def test_and_so_when_resumed(tmp_path):
    whole = train(config(tmp_path / "whole", **PATIENT))
    epochs = whole.metrics["training"]["epochs"]
    break_off(config(tmp_path / "run", **PATIENT), 6 * epochs - 1)
    assert_same(train(config(tmp_path / "run", **PATIENT), resume=True), whole)


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"learning_rate": 0.5, "dropout": 0.1}, r"dropout is 0\.3, .*learning_rate is 0\.001"),
            ({"epochs": 2}, "epochs is 3"),
        ],
    )
    def test_options_that_changed(self, changes, message, whole):
        with pytest.raises(ValueError, match=f"only epochs may grow; {message}"):
            train(config(whole.path, **changes), resume=True)

    def test_no_run(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="expected a run directory"):
            train(config(tmp_path / "none"), resume=True)
        with pytest.raises(ValueError, match="run_dir: expected the run to resume"):
            train(TrainConfig(), resume=True)

    def test_a_run_that_another_process_trains(self, whole):
        code = (
            "import sys; from pathlib import Path; from keras_cnnlstm.utils.files import locked\n"
            "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(whole.path / "lock")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        with process:
            assert process.stdout.readline() == "held\n"
            with pytest.raises(BlockingIOError, match="expected a run that nobody trains"):
                train(config(whole.path), resume=True)
            process.stdin.close()
        with locked(whole.path / "lock"):  # free again, though the file is there
            pass

    def test_another_model(self, whole, tmp_path):
        path = tmp_path / "run"
        path.mkdir()
        options = dataclasses.asdict(whole.config) | {"lstm_units": (16,)}
        (path / "config.json").write_text(json.dumps(options))
        (path / "checkpoints").mkdir()
        newest = newest_checkpoint(whole.path / "checkpoints").path
        (path / "checkpoints" / newest.name).write_bytes(newest.read_bytes())
        with pytest.raises(ValueError, match="expected the variables of this model"):
            train(config(path, lstm_units=(16,), epochs=4), resume=True)


def start(*words):
    command = [sys.executable, "-m", "keras_cnnlstm", "train", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def flags(path):
    strengths = [word for pair in OPTIONS["augmentation"].items() for word in pair]
    options = OPTIONS | {"run_dir": path, "lstm_units": 8, "augmentation": strengths}
    words = []
    for name, value in options.items():
        values = [] if value is True else value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *values]
    return words


def until(process, text):
    """Reads what a process prints up to the line with this text."""
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(process.stderr.read())


@pytest.mark.faults
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_terminated_run_saves_says_how_to_go_on_and_does(number, code, tmp_path):
    process = start(*flags(tmp_path / "run"), "--epochs", 2000)
    with process:
        until(process, "Epoch 2/")
        process.send_signal(number)
        _, complaint = process.communicate()
    assert process.returncode == code
    step = int(re.search(r"stopped after batch ([\d,]+) of 12,000", complaint)[1].replace(",", ""))
    assert f"go on with: keras-cnnlstm train --resume {tmp_path / 'run'}" in complaint
    assert newest_checkpoint(tmp_path / "run" / "checkpoints").step == step >= 6


def killed_and_resumed(path, moments):
    """Trains to the end, killed after each of these seconds in turn; returns how often it was."""
    words, killed = flags(path), 0
    while True:
        with start(*words) as process:
            until(process, "run  ")
            try:
                _, complaint = process.communicate(timeout=next(moments, None))
                assert process.returncode == 0, complaint
                return killed
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
        words = ["--resume", path]


@pytest.mark.faults
@pytest.mark.slow
def test_runs_killed_at_random_moments_end_as_if_they_had_not(tmp_path, record):
    began = time.perf_counter()
    with start(*flags(tmp_path / "undisturbed")) as process:
        until(process, "run  ")
        training = time.perf_counter()
        process.communicate()
        seconds = time.perf_counter() - training
    undisturbed = load_run(tmp_path / "undisturbed")

    def half(seed):
        """Half of the kills, in as many runs as it takes."""
        rng, killed, paths = np.random.default_rng(seed), 0, []
        while killed < KILLS // 2:
            paths.append(tmp_path / f"{seed}-{len(paths)}")
            moments = iter(rng.uniform(0, 0.8 * seconds, KILLS // 2 - killed))
            killed += killed_and_resumed(paths[-1], moments)
        return killed, paths

    with ThreadPoolExecutor(2) as pool:  # side by side, as most of the time is one core's
        (first, paths), (second, others) = pool.map(half, range(2))
    for path in paths + others:
        assert_same(load_run(path), undisturbed)
    minutes, kills = (time.perf_counter() - began) / 60, first + second
    runs = len(paths + others)
    record(f"{kills} kills of {runs} runs, each resumed bit-exact ({minutes:.1f} min)")
    assert kills == KILLS
