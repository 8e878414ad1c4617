"""Layers, blocks, models and tasks speak `keras.ops` alone: their tests pass on JAX too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_the_tests_of_layers_models_and_streaming_pass_on_jax():
    pytest.importorskip("jax")
    # Most of the time goes into compiling what runs once, on one core each.
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
             *(str(HERE / f"test_{name}.py") for name in names)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            cwd=HERE.parent,
        )
        for names in (("models",), ("tasks", "layers", "blocks", "scanners", "streaming"))
    ]  # fmt: skip
    for run in runs:
        output, _ = run.communicate()
        assert run.returncode == 0, output[-3000:]
        assert " passed" in output
