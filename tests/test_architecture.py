"""The house's plan: which file may import which, and what the package shows to the outside."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import keras_cnnlstm

PACKAGE = Path(keras_cnnlstm.__file__).parent
RANKS = {
    "arguments": 0, "processor": 0, "annotations": 1,
    "task_arguments": 1, "trends": 2, "tasks": 3,
    "digits": 1, "layers": 1, "cnn_layers": 1, "config": 2, "files": 1, "artefacts": 1,
    "answers": 2,
    "plots": 1, "state_dicts": 1, "layer_weights": 1, "frames": 1, "stratification": 1,
    "calibration": 1, "averaging": 1, "read_ahead": 1, "vocabulary": 1, "containers": 1,
    "workers": 1, "scores": 4,
    "class_maps": 1, "progress": 1, "explanations": 2, "tensorboard_images": 3,
    "videos": 2, "distortions": 2, "pipeline": 5, "encoders": 2, "blocks": 2,
    "torch_weights": 2, "pretrained": 2,
    "checkpoints": 2, "report_figures": 2, "learning_curves": 2, "timings": 2, "model_files": 1,
    "replicas": 2,
    "runtime": 3, "sentences": 4, "clips": 3, "scanners": 3, "framewise": 3, "moving_digits": 3,
    "splits": 4, "leakage": 4, "clip_report": 4, "clip_cache": 4, "models": 4, "endpoints": 4,
    "describer": 4, "decoding": 5, "captions": 5, "runs": 5, "parity": 5, "streaming": 5,
    "objectives": 7, "memory": 5, "prefixes": 6, "recipes": 2, "views": 4, "optimizers": 2,
    "readers": 6, "ensembles": 3, "clip_batches": 6, "clip_checks": 5, "features": 5,
    "run_writer": 8, "sources": 7, "predictors": 6, "converters": 6,
    "digit_reader": 6, "baselines": 8, "mistakes": 7, "report_facts": 8, "report_page": 9,
    "findings": 9, "report": 10,
    "evaluation": 11,
    "training": 12,
    "export": 13,
    "benchmark_machine": 5, "benchmark_models": 6, "benchmark_torch": 7, "benchmark": 15,
    "benchmark_pipeline": 7, "benchmark_scale": 7, "benchmark_exports": 14,
    "drawings": 1, "demo_pad": 1, "demo_page": 3, "demo_answers": 7, "demo": 10,
    "commands": 3, "cli": 16,
}  # fmt: skip
WITH_TENSORFLOW = {
    "distortions", "cnn_layers", "optimizers", "tensorboard_images", "progress", "pipeline",
    "clip_batches", "sources", "workers",
    "replicas", "runtime", "scores",
    "class_maps", "baselines", "findings", "evaluation", "training", "cli", "artefacts",
    "endpoints", "parity", "converters", "export",
    "benchmark_machine", "benchmark_models", "benchmark_pipeline", "benchmark_exports",
}  # fmt: skip


@functools.cache
def modules():
    return {path.stem: ast.parse(path.read_text()) for path in PACKAGE.glob("*.py")}


def imports(tree):
    """Full names of all modules that a module imports, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_file_has_a_rank_and_there_are_no_sub_packages():
    assert modules().keys() == RANKS.keys() | {"__init__"}
    assert not [p for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"]


def test_files_import_from_lower_ranks_only():
    for name, tree in modules().items():
        used = {full.split(".")[1] for full in imports(tree) if full.startswith("keras_cnnlstm.")}
        for other in used & RANKS.keys():
            assert RANKS[other] < RANKS[name], f"{name} imports {other}"


def test_tensorflow_only_where_it_must_be():
    for name, tree in modules().items():
        direct = any(full.split(".")[0] == "tensorflow" for full in imports(tree))
        assert not direct or name in WITH_TENSORFLOW, f"{name} imports tensorflow"


def test_public_names():
    assert keras_cnnlstm.__all__ == sorted(keras_cnnlstm.__all__)
    for name in keras_cnnlstm.__all__:
        assert getattr(keras_cnnlstm, name) is not None
    assert dir(keras_cnnlstm) == keras_cnnlstm.__all__


def test_who_opens_a_run_knows_every_layer_that_it_may_be_made_of():
    """In a process that has imported nothing else, as a command after the training."""
    ours = {
        f"keras_cnnlstm>{node.name}"
        for name, tree in modules().items()
        for node in tree.body
        if name != "decoding"  # its layers are made for an export, and saved in no run
        and isinstance(node, ast.ClassDef)
        and any("register_keras_serializable" in ast.unparse(d) for d in node.decorator_list)
        and any("layers." in ast.unparse(base) for base in node.bases)
    }
    assert {"keras_cnnlstm>LSTM", "keras_cnnlstm>Views", "keras_cnnlstm>LogOfMean"} <= ours
    program = "import keras, keras_cnnlstm.runs; print(*keras.saving.get_custom_objects())"
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert ours <= set(told.split())


def test_unknown_names_are_attribute_errors():
    import pytest

    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = keras_cnnlstm.nothing


def test_every_module_and_public_object_is_documented():
    for name, tree in modules().items():
        assert ast.get_docstring(tree), name
        for node in tree.body:
            public = not getattr(node, "name", "_").startswith("_")
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and public:
                assert ast.get_docstring(node), f"{name}.{node.name}"
