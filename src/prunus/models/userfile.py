"""A model from the user's own file: "path/file.py:factory"."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import cast

from torch import nn

from prunus.errors import InputError, ModelError
from prunus.userfile import beside, first_line, is_file_name, locate, module_of, named

__all__ = ["file_maker", "from_file", "is_file_name", "takes_classes"]


def from_file(name: str, classes: int | None = None) -> nn.Module:
    """Run the file and return what its factory returns.

    `classes` is passed to the factory's argument `classes` or `num_classes`. The file may import what lies beside it.
    Raises InputError, ModelError or UnknownName.
    """
    path, factory = locate(name, "factory")
    with beside(path):
        make = _factory(_imported(path, name), factory, name)
        model = _called(make, name, classes)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name!r} returned {type(model).__name__}; it must return a torch.nn.Module")
    return model


def file_maker(name: str, classes: int | None = None) -> Callable[..., nn.Module]:
    """The file's factory, with `classes` as `from_file` passes it. Raises what `from_file` raises before the call."""
    path, factory = locate(name, "factory")
    with beside(path):
        make = _factory(_imported(path, name), factory, name)
    return cast("Callable[..., nn.Module]", partial(make, **_options(make, name, classes)))


def takes_classes(name: str) -> bool:
    """Whether the file's factory can be told the number of classes. Raises what `from_file` raises before the call."""
    path, factory = locate(name, "factory")
    with beside(path):
        return _classes_argument(_factory(_imported(path, name), factory, name)) is not None


def _imported(path: Path, name: str) -> ModuleType:
    try:
        return module_of(path)
    except Exception as error:  # the user's code may raise anything
        raise ModelError(f"{name!r}: the file cannot be imported: {first_line(error)}") from error


def _factory(module: ModuleType, factory: str, name: str) -> Callable[..., object]:
    make = named(module, factory, "factory")
    if isinstance(make, nn.Module) or not callable(make):
        raise ModelError(
            f"{name!r} is a {type(make).__name__}; it must be a function (or class) that returns the model"
        )
    found: Callable[..., object] = make
    return found


def _called(make: Callable[..., object], name: str, classes: int | None) -> object:
    options = _options(make, name, classes)
    signature = inspect.signature(make)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ModelError(f"{name!r} cannot be called without further arguments: {first_line(error)}") from error
    try:
        return make(**options)
    except Exception as error:  # the user's code may raise anything
        raise ModelError(f"{name!r} failed: {first_line(error)}") from error


def _options(make: Callable[..., object], name: str, classes: int | None) -> dict[str, int]:
    if classes is None:
        return {}
    argument = _classes_argument(make)
    if argument is None:
        raise InputError(f"{name!r} takes neither classes nor num_classes: leave out classes={classes}")
    return {argument: classes}


def _classes_argument(make: Callable[..., object]) -> str | None:
    known = inspect.signature(make).parameters
    return next((key for key in ("classes", "num_classes") if key in known), None)
