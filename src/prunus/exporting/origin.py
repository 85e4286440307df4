"""How the whole network is made, in words that another Python file can repeat: an import and a call."""

from __future__ import annotations

import functools
import importlib
import inspect
import keyword
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import InputError
from ..userfile import beside, first_line, is_file_name, locate, module_of, named

Build = str | Callable[..., nn.Module]

OWN_FILE = "prunus_user_file_"  # what `module_of` calls a module that came from a path
HOW = (
    "build= takes a function or class at the top of a module, functools.partial of one with plain arguments, "
    "'path/file.py:factory' or 'package.module:factory'"
)


@dataclass(frozen=True, eq=False)
class Origin:
    """`from module import name`, called with these arguments, each a literal. `folder` is where a module that is no
    part of an installed package lies."""

    module: str
    name: str
    positional: tuple[object, ...]
    options: tuple[tuple[str, object], ...]
    folder: Path | None
    make: Callable[[], nn.Module]

    @property
    def call(self) -> str:
        """The arguments as code."""
        given = [literal(value) for value in self.positional]
        given += [f"{name}={literal(value)}" for name, value in self.options]
        return ", ".join(given)

    def built(self) -> nn.Module:
        """The whole network. Raises InputError where it cannot be made."""
        try:
            found = self.make()
        except Exception as error:  # the user's code may raise anything
            raise InputError(f"{self.module}.{self.name}({self.call}) failed: {first_line(error)}") from error
        if not isinstance(found, nn.Module):
            raise InputError(f"{self.module}.{self.name} returned {type(found).__name__}, not a torch.nn.Module")
        return found


def origin(build: Build | None, model: nn.Module) -> Origin:
    """The origin that `build` names; without it the model's own class, where that takes no arguments.

    Raises InputError for what another file could not import or could not write down.
    """
    folder = None
    if isinstance(build, str):
        build, folder = from_name(build)
    if build is None:
        build = type(model)
        if not takes_nothing(build):
            raise InputError(
                f"a Python file makes the whole network first, and {build.__name__} alone does not say how; {HOW}"
            )
    target, positional, options = build, tuple[object, ...](), dict[str, object]()
    while isinstance(target, functools.partial):
        positional, options = (*target.args, *positional), {**target.keywords, **options}
        target = target.func
    for value in (*positional, *options.values()):
        literal(value)
    module, name = importable(target)
    if module.startswith(OWN_FILE):
        path = Path(str(sys.modules[module].__file__))
        module, folder = path.stem, path.parent
    if not all(part.isidentifier() and not keyword.iskeyword(part) for part in (*module.split("."), *options)):
        raise InputError(f"{module!r} cannot be imported by its name; rename the file")
    return Origin(module, name, positional, tuple(options.items()), folder, build)


def from_name(name: str) -> tuple[Callable[..., nn.Module], Path | None]:
    """What a name with a colon means, and the folder of the file it names."""
    if is_file_name(name):
        path, wanted = locate(name, "factory")
        with beside(path):
            module = module_of(path)
        return named(module, wanted, "factory"), path.parent
    module_name, colon, wanted = name.partition(":")
    if not colon:
        raise InputError(f"build={name!r}: {HOW}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(f"build={name!r}: {first_line(error)}") from error
    return named(module, wanted, "factory"), None


def takes_nothing(cls: Callable[..., Any]) -> bool:
    if cls.__module__.startswith("torch.nn"):  # an empty container, or a layer
        return False
    try:
        inspect.signature(cls).bind()
    except (TypeError, ValueError):
        return False
    return True


def importable(target: Any) -> tuple[str, str]:
    """The module and the name under which another file finds it. Raises InputError."""
    module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    told = name or type(target).__name__
    if module is None or name is None or isinstance(target, nn.Module) or not callable(target):
        raise InputError(f"build= cannot be {told}: {HOW}")
    if module == "__main__":
        raise InputError(
            f"{told} is of the program that runs, which no file can import; put it into a module of its own"
        )
    if not name.isidentifier() or not callable(getattr(sys.modules.get(module), name, None)):
        raise InputError(f"{told} cannot be imported from {module}; it must stand at the top of the module")
    return module, name


def literal(value: object) -> str:
    """A number, text, None, or a tuple, list or dict of these, as code: text escaped, in ASCII. Raises InputError."""
    if value is None or type(value) in (bool, int):
        return repr(value)
    if type(value) is str:
        plain = value.isascii() and value.isprintable() and not set(value) & set('"\\')
        return f'"{value}"' if plain else ascii(value)
    if isinstance(value, float) and type(value) is float:
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if isinstance(value, tuple) and type(value).__repr__ is tuple.__repr__:
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    if type(value) is list:
        return f"[{', '.join(map(literal, value))}]"
    if type(value) is dict:
        return f"{{{', '.join(f'{literal(key)}: {literal(one)}' for key, one in value.items())}}}"
    raise InputError(
        f"{type(value).__name__} cannot be written into a Python file; arguments must be numbers, text, None, or "
        "tuples, lists or dicts of these"
    )
