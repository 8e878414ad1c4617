"""Layers, blocks, models and tasks speak `keras.ops` alone: their tests pass on JAX too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_the_tests_of_layers_models_and_streaming_pass_on_jax():
    pytest.importorskip("jax")
    names = ("tasks", "layers", "blocks", "models", "scanners", "streaming")
    files = [HERE / f"test_{name}.py" for name in names]
    # Most of the time goes into compiling what runs once.
    environment = {"KERAS_BACKEND": "jax", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, files)],
        env=os.environ | environment, capture_output=True, text=True, cwd=HERE.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
