"""Layers, blocks, models and tasks speak `keras.ops` alone: their tests pass on JAX too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

ALL = [
    ["models/test_contract", "models/test_encoders", "tasks/test_digits", "tasks/test_trends"],
    ["models/test_blocks", "models/test_scanning", "models/test_streaming", "runtime/test_memory",
     "training/test_feature_cache", "models/test_encoder_from"],
    ["models/test_captioner", "tasks/test_captions", "tasks/test_vocabulary",
     "models/test_every_step_model", "models/test_ensembles", "models/test_test_time_augmentation",
     "layers/test_cnn_layers"],
]  # fmt: skip


def run_on_jax(*jobs):
    """Runs test files on JAX, each job in a process of its own, side by side."""
    pytest.importorskip("jax")
    # Most of the time goes into compiling what runs once, on one core each.
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options,
             *(str(HERE / f"{name}.py") for name in names)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            cwd=HERE.parent,
        )
        for names, *options in jobs
    ]  # fmt: skip
    try:
        outputs = [run.communicate()[0] for run in runs]  # all of them, whether or not one fails
    finally:
        for run in runs:
            run.kill()
    for run, output in zip(runs, outputs, strict=True):
        assert run.returncode == 0, output[-3000:]
        assert " passed" in output


@pytest.mark.slow  # these two compile hundreds of functions for one call each
def test_every_model_answers_on_jax():
    run_on_jax(
        (["models/test_contract"], "-k", "TestContract and answers and not float16"),
        (
            [
                "layers/test_layers",
                "layers/test_cnn_layers",
                "layers/test_motion",
                "layers/test_frames_model",
            ],
        ),
    )


@pytest.mark.slow
@pytest.mark.timeout(4800)
def test_all_tests_of_what_speaks_keras_alone_pass_on_jax():
    run_on_jax(*([names] for names in ALL))
