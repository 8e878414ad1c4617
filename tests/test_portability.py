"""The package where POSIX is missing: imports, training, resuming, predicting, exporting."""

import subprocess
import sys

CODE = """
import importlib, os, pkgutil, signal, sys
from pathlib import Path

import psutil  # before they are hidden: it brings a way of its own for each system

for name in ("fcntl", "grp", "pwd", "resource"):
    sys.modules[name] = None
for module, names in (
    (os, ("fork", "forkpty", "getuid", "sched_getaffinity")),
    (signal, ("SIGALRM", "SIGHUP", "SIGKILL", "setitimer")),
):
    for name in names:
        delattr(module, name)

import keras_cnnlstm
from keras_cnnlstm import TrainConfig, load_run, train
from keras_cnnlstm.export import export, open_predictor

for module in pkgutil.walk_packages(keras_cnnlstm.__path__, "keras_cnnlstm."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

folder = Path(sys.argv[1])
options = {
    "run_dir": str(folder / "run"), "length": 2, "encoder_filters": (2,), "lstm_units": (2,),
    "batch_size": 4, "steps_per_epoch": 2, "validation_sequences": 4, "test_sequences": 4,
}
train(TrainConfig(epochs=1, **options))
train(TrainConfig(epochs=2, **options), resume=True)
run = load_run(folder / "run")
assert run.metrics["training"]["epochs"] == 2
files = sorted((run.path / "example").iterdir())
exported = export(run, folder / "exported").path
answers = [open_predictor(path).answer_images(files) for path in (run.path, exported)]
assert answers[0]["label"] == answers[1]["label"], answers
assert sys.modules["fcntl"] is None
"""


def test_without_posix(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
