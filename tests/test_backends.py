"""Layers, blocks, models and tasks speak `keras.ops` alone: their tests pass on JAX too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def run_on_jax(*jobs):
    """Runs test files on JAX, each job in a process of its own, side by side."""
    pytest.importorskip("jax")
    # Most of the time goes into compiling what runs once, on one core each.
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options,
             *(str(HERE / f"test_{name}.py") for name in names)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            cwd=HERE.parent,
        )
        for names, options in jobs
    ]  # fmt: skip
    for run in runs:
        output, _ = run.communicate()
        assert run.returncode == 0, output[-3000:]
        assert " passed" in output


@pytest.mark.slow  # these two compile hundreds of functions for one call each
def test_every_model_answers_on_jax():
    run_on_jax(
        (["models"], ["-k", "TestContract and answers and not float16"]),
        (["layers", "cnn_layers"], []),
    )


@pytest.mark.slow
def test_all_tests_of_what_speaks_keras_alone_pass_on_jax():
    run_on_jax(
        (["models", "encoders", "tasks", "trends"], []),
        (["blocks", "scanners", "streaming", "memory", "features", "readers"], []),
        (
            [
                "describer",
                "sentences",
                "vocabulary",
                "prefixes",
                "ensembles",
                "views",
                "cnn_layers",
            ],
            [],
        ),
    )
