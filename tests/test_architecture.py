"""The house's plan: which file may import which, and what the package shows to the outside."""

import ast
from pathlib import Path

import keras_cnnlstm

PACKAGE = Path(keras_cnnlstm.__file__).parent
RANKS = {
    "tasks": 0, "digits": 0, "layers": 0, "config": 0, "files": 0, "artefacts": 0, "answers": 0,
    "plots": 0, "state_dicts": 0, "layer_weights": 0, "frames": 0, "stratification": 0,
    "averaging": 0, "read_ahead": 0, "containers": 0, "workers": 0,
    "videos": 1, "pipeline": 1, "encoders": 1, "blocks": 1, "torch_weights": 1, "pretrained": 1,
    "checkpoints": 1, "replicas": 1,
    "runtime": 2, "clips": 2, "scanners": 2, "moving_digits": 2,
    "splits": 3, "leakage": 3, "clip_report": 3, "clip_cache": 3, "models": 3, "endpoints": 3,
    "runs": 4, "parity": 4, "evaluation": 4, "streaming": 4, "objectives": 4, "memory": 4,
    "clip_batches": 4, "clip_checks": 4, "features": 4,
    "run_writer": 5, "sources": 5, "predictors": 5, "converters": 5,
    "training": 6,
    "export": 7, "benchmark": 7,
    "cli": 8,
}  # fmt: skip
WITH_TENSORFLOW = {
    "pipeline", "clip_batches", "sources", "workers", "replicas", "runtime", "evaluation",
    "training", "cli", "artefacts", "endpoints", "parity", "converters", "export",
}  # fmt: skip


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
