"""The order of the rooms, and what the package shows to the outside."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import keras_cnnlstm

PACKAGE = Path(keras_cnnlstm.__file__).parent
GROUND_UP = [  # a room imports from its own floor and from those below; one group is one floor
    ["utils"],
    ["config", "layers", "tasks", "runtime", "torch_weights", "plots"],
    ["recipes"],
    ["models", "data"],
    ["training"],
    ["evaluation", "export"],
    ["demo", "benchmark"],
    ["cli"],
    ["__init__", "__main__"],
]
APART = ["models", "data", "demo", "benchmark"]  # import nothing of their own floor
FLOOR = {room: floor for floor, rooms in enumerate(GROUND_UP) for room in rooms}
NO_TENSORFLOW = [
    "utils",
    "config",
    "recipes",
    "plots",
    "tasks",
    "layers",
    "models",
    "torch_weights",
]
EXCEPT_IN = ["layers/batch_normalization.py", "layers/conv2d.py", "tasks/scores.py"]


@functools.cache
def files():
    return {
        path.relative_to(PACKAGE): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")
    }


def room_of(path):
    return path.parts[0] if len(path.parts) > 1 else path.stem


def imports(tree):
    """Full names of all modules that a module imports, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_rooms_import_downwards_only():
    for path, tree in files().items():
        here = room_of(path)
        for full in imports(tree):
            there = full.split(".")[1] if full.startswith("keras_cnnlstm.") else here
            if there == here or there not in FLOOR:
                continue
            assert FLOOR[there] <= FLOOR[here], f"{path} imports {full}"
            assert FLOOR[there] < FLOOR[here] or here not in APART, f"{path} imports {full}"


def test_tensorflow_only_where_it_must_be():
    for path, tree in files().items():
        direct = any(full.split(".")[0] == "tensorflow" for full in imports(tree))
        allowed = room_of(path) not in NO_TENSORFLOW or str(path) in EXCEPT_IN
        assert not direct or allowed, f"{path} imports tensorflow"


ROOMS = [
    "keras_cnnlstm",
    *(f"keras_cnnlstm.{p.parent.name}" for p in PACKAGE.glob("*/__init__.pyi")),
]
PUBLIC_NAMES = """
import importlib, sys, types
rooms = [importlib.import_module(name) for name in sys.argv[1:]]
assert not {"keras", "numpy", "tensorflow"} & {*sys.modules}
for room in rooms:
    assert room.__all__ == sorted(room.__all__)
    assert {*room.__all__} <= {*dir(room)}
    for name in room.__all__:
        assert not isinstance(getattr(room, name), types.ModuleType), name
"""


def test_rooms_load_nothing_before_a_name_is_used_and_have_every_name():
    subprocess.run([sys.executable, "-c", PUBLIC_NAMES, *ROOMS], check=True)


def test_a_saved_model_opens_in_a_process_that_has_imported_nothing_else():
    """Each class that a saved model may be made of is known after the package and Keras."""
    ours = {
        f"keras_cnnlstm>{node.name}"
        for path, tree in files().items()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any("register_keras_serializable" in ast.unparse(d) for d in node.decorator_list)
    }
    assert {"keras_cnnlstm>LSTM", "keras_cnnlstm>Adam", "keras_cnnlstm>FirstToken"} <= ours
    for first, then in (("keras_cnnlstm", "keras"), ("keras", "keras_cnnlstm")):
        program = f"import {first}, {then}; print(*keras.saving.get_custom_objects())"
        command = [sys.executable, "-c", program]
        known = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert ours <= set(known.split())


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = keras_cnnlstm.nothing
    with pytest.raises(ImportError, match="nothing"):
        from keras_cnnlstm.data import nothing  # noqa: F401


def test_every_module_and_public_object_is_documented():
    for path, tree in files().items():
        assert ast.get_docstring(tree), path
        for node in tree.body:
            public = not getattr(node, "name", "_").startswith("_")
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and public:
                assert ast.get_docstring(node), f"{path}: {node.name}"
