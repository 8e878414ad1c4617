"""Public names of a room, loaded when they are first used.

A room lists its public names once, in `__init__.pyi`: type checkers and editors read that file, and
so does `attach`. So `import keras_cnnlstm.data` loads nothing, and `keras_cnnlstm.data.Clip` loads
one file.
"""

import ast
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """A package in which a public name hides the file of the same name.

    Python sets a file that it imports as an attribute of its package; without this the function
    `models.cnn_lstm` would turn into the file `models/cnn_lstm.py` as soon as any code imports it.
    """

    _homes: dict[str, str]

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in self._homes and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in self._homes:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(self._homes[name]), name)
        super().__setattr__(name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self._homes})


def attach(package: str) -> list[str]:
    """Makes the names that a package's `__init__.pyi` imports available there.

    Args:
        package: the full name of the package, `__name__` in its `__init__.py`.

    Returns:
        The names, sorted, as the package's `__all__`.
    """
    module = sys.modules[package]
    stub = Path(module.__file__ or "").with_suffix(".pyi")
    imports = [
        node
        for node in ast.parse(stub.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom)
    ]
    homes = {alias.name: str(node.module) for node in imports for alias in node.names}
    module.__dict__["_homes"] = homes
    module.__class__ = _Room
    return sorted(homes)
