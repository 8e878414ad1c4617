"""Public names of a room, loaded when they are first used; modules, loaded after Keras.

A room lists its public names once, in `__init__.pyi`: type checkers and editors read that file, and
so does `attach`. So `import keras_cnnlstm.data` loads nothing, and `keras_cnnlstm.data.Clip` loads
one file.
"""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
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


def import_after(package: str, modules: Sequence[str]) -> None:
    """Imports modules as soon as a package is imported: at once, if it has been.

    So what they register there is known to it, and nothing is loaded without it.
    """
    if package in sys.modules:
        _import_all(modules)
    else:
        sys.meta_path.insert(0, _After(package, modules))


class _After(MetaPathFinder):
    """Finds one package as others do, and imports modules after it."""

    def __init__(self, package: str, modules: Sequence[str]) -> None:
        self.package, self.modules, self._asks = package, modules, False

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self.package or self._asks:
            return None
        self._asks = True  # the other finders
        spec = importlib.util.find_spec(name)
        self._asks = False
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_import(module: ModuleType) -> None:
                run(module)
                sys.meta_path.remove(self)
                _import_all(self.modules)

            spec.loader.exec_module = run_and_import  # type: ignore[method-assign]
        return spec


def _import_all(modules):
    for module in modules:
        importlib.import_module(module)
