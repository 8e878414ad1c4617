"""The command on several workers: as one worker would train, and resumed when one was lost."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from keras_cnnlstm.training.run_directory import load_run

OPTIONS = [
    "--task", "digits", "--length", "3", "--min-length", "1", "--encoder", "small_cnn",
    "--lstm-units", "8", "--ema", "0.9", "--steps-per-epoch", "6", "--batch-size", "8",
    "--validation-sequences", "24", "--test-sequences", "20", "--precision", "float32",
]  # fmt: skip


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(workers, *words):
    """A process for each worker, all with the same command line."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    processes = []
    for index in range(workers):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}
        if workers > 1:
            environment["TF_CONFIG"] = json.dumps(cluster)
        command = [sys.executable, "-m", "keras_cnnlstm", "train", *map(str, words)]
        processes.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    return processes


def finish(processes, codes=None):
    told = [process.communicate(timeout=300) for process in processes]
    for process, (_, complaint), code in zip(
        processes, told, codes or [0] * len(processes), strict=True
    ):
        assert process.returncode == code, complaint
    return told


def rows(path):
    with path.open() as file:  # what is empty is a class that the validation has not got
        return [{k: float(v or -1) for k, v in row.items()} for row in csv.DictReader(file)]


def assert_equal_runs(path, other):
    for name in ("history.csv", "recall.csv"):
        for a, b in zip(rows(path / name), rows(other / name), strict=True):
            assert a == pytest.approx(b, abs=1e-5)
    for a, b in zip(
        load_run(path).model.get_weights(), load_run(other).model.get_weights(), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    path = tmp_path_factory.mktemp("alone") / "run"
    finish(start(1, *OPTIONS, "--epochs", 2, "--run-dir", path))
    return path


@pytest.mark.slow
def test_two_workers_train_as_one_and_the_chief_writes(alone, tmp_path):
    path = tmp_path / "run"
    chief, other = finish(start(2, *OPTIONS, "--epochs", 2, "--run-dir", path))
    assert_equal_runs(path, alone)
    assert sorted(p.name for p in path.rglob("*")) == sorted(p.name for p in alone.rglob("*"))
    assert "natural test sequences" in chief[0]
    assert "this worker is done; the chief writes" in other[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "rate", "bound"), [("sgd", 0.01, 5e-5), ("adam", 1e-3, 1e-2)]
)
def test_how_far_rounding_leads_two_workers_from_one(optimizer, rate, bound, tmp_path, record):
    """Adam divides a gradient that is almost 0 by its own size, and so magnifies its rounding."""
    words = [
        "--encoder", "small_cnn", "--batch-size", 64, "--steps-per-epoch", 50, "--epochs", 1,
        "--precision", "float32", "--validation-sequences", 64, "--test-sequences", 64,
        "--optimizer", optimizer, "--learning-rate", rate, "--run-dir",
    ]  # fmt: skip
    found = []
    for workers in (1, 2):
        finish(start(workers, *words, tmp_path / str(workers)))
        found.append(load_run(tmp_path / str(workers)).model.get_weights())
    apart = max(np.abs(a - b).max() for a, b in zip(*found, strict=True))
    record(f"{optimizer}: weights of two workers {apart:.1e} from those of one after 50 steps")
    assert apart < bound


@pytest.mark.slow
def test_workers_need_a_directory_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = finish(start(2, *OPTIONS, "--epochs", 1), codes=[2, 2])
    for _, complaint in told:
        assert "run_dir: expected a directory that all workers can read" in complaint
    assert not list(tmp_path.iterdir())


@pytest.mark.faults
@pytest.mark.slow
def test_a_lost_worker_stops_all_and_starting_again_resumes_exactly(alone, tmp_path):
    path = tmp_path / "run"
    processes = start(2, *OPTIONS, "--epochs", 2, "--checkpoint-steps", 2, "--run-dir", path)
    for line in processes[0].stdout:
        if "Epoch 1/2" in line:  # has ended
            break
    processes[1].send_signal(signal.SIGKILL)
    _, complaint = processes[0].communicate(timeout=60)
    assert processes[0].returncode == 2
    assert "--resume" in complaint.splitlines()[-1]
    processes[1].communicate()
    finish(start(2, "--resume", path))
    assert_equal_runs(path, alone)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("hangs", [0, 1])
def test_a_worker_that_hangs_is_missed_by_the_others(hangs, tmp_path, record):
    """Stopped, not killed: its connections stay open, and only its heartbeats end."""
    processes = start(2, *OPTIONS, "--epochs", 1000, "--run-dir", tmp_path / "run")
    for line in processes[0].stdout:
        if "Epoch 2/" in line:
            break
    processes[hangs].send_signal(signal.SIGSTOP)
    began = time.perf_counter()
    _, complaint = processes[1 - hangs].communicate(timeout=120)
    seconds = time.perf_counter() - began
    processes[hangs].kill()
    processes[hangs].communicate()
    assert processes[1 - hangs].returncode == 2, complaint
    assert "--resume" in complaint.splitlines()[-1]
    record(f"worker {hangs} hung, and was missed after {seconds:.1f} s")
    assert seconds < 60
