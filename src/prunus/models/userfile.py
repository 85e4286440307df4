"""A model from the user's own file: "path/file.py:factory"."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from torch import nn

from prunus.errors import InputError, ModelError, UnknownName

__all__ = ["from_file", "is_file_name"]


def is_file_name(name: str) -> bool:
    """Whether a model name means a Python file."""
    return name.endswith(".py") or ".py:" in name


def from_file(name: str, classes: int | None = None) -> nn.Module:
    """Run the file and return what its factory returns.

    `classes` is passed to the factory's argument `classes` or `num_classes`. The file may import what lies beside it.
    Raises InputError, ModelError or UnknownName.
    """
    file, colon, factory = name.rpartition(":")
    if not colon or not factory or not file.endswith(".py"):
        raise InputError(f"{name!r} names no factory; write path/file.py:factory")
    path = Path(file).expanduser()
    if not path.is_file():
        raise InputError(f"{name!r}: there is no file {file}")
    make = _factory(_imported(path, name), factory, name)
    model = _called(make, name, classes)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name!r} returned {type(model).__name__}; it must return a torch.nn.Module")
    return model


def _imported(path: Path, name: str) -> ModuleType:
    """The file as a module. It stays in sys.modules, where dataclasses and torch.export look their module up."""
    path = path.resolve()
    key = f"prunus_user_file_{path.stem}_{abs(hash(path)):x}"
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None and spec.loader is not None, path  # a .py file always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        del sys.modules[key]
        raise ModelError(f"{name!r}: the file cannot be imported: {_first_line(error)}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _factory(module: ModuleType, factory: str, name: str) -> Callable[..., object]:
    make = getattr(module, factory, None)
    if make is None:
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise UnknownName.of(f"factory in {name.rpartition(':')[0]}", factory, own)
    if isinstance(make, nn.Module) or not callable(make):
        raise ModelError(
            f"{name!r} is a {type(make).__name__}; it must be a function (or class) that returns the model"
        )
    found: Callable[..., object] = make
    return found


def _called(make: Callable[..., object], name: str, classes: int | None) -> object:
    options: dict[str, int] = {}
    signature = inspect.signature(make)
    if classes is not None:
        argument = next((key for key in ("classes", "num_classes") if key in signature.parameters), None)
        if argument is None:
            raise InputError(f"{name!r} takes neither classes nor num_classes: leave out classes={classes}")
        options[argument] = classes
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ModelError(f"{name!r} cannot be called without further arguments: {_first_line(error)}") from error
    try:
        return make(**options)
    except Exception as error:  # the user's code may raise anything
        raise ModelError(f"{name!r} failed: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
