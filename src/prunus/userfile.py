"""Run a Python file of the user's, or see what it imports. "path/file.py:name" says what is wanted of it: a model,
data, a task."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from prunus.errors import InputError, UnknownName

__all__ = ["beside", "first_line", "imported", "is_file_name", "locate", "module_of", "named"]


def is_file_name(name: str) -> bool:
    """Whether a name means a Python file."""
    return name.endswith(".py") or ".py:" in name


def locate(name: str, what: str) -> tuple[Path, str]:
    """The absolute path, and the name after the colon, of `what` ("factory"). Raises InputError."""
    file, colon, wanted = name.rpartition(":")
    if not colon or not wanted or not file.endswith(".py"):
        raise InputError(f"{name!r} names no {what}; write path/file.py:{what}")
    path = Path(file).expanduser()
    if not path.is_file():
        raise InputError(f"{name!r}: there is no file {file}")
    return path.resolve(), wanted


@contextmanager
def beside(path: Path) -> Iterator[None]:
    """Inside, the file may import what lies beside it. Raises InputError where its code ends the program."""
    folder = str(path.parent)
    sys.path.insert(0, folder)
    try:
        yield
    except SystemExit as error:
        raise InputError(
            f"{path.name} ends the program (sys.exit, {error.code!r}) where it should only define what is asked of it; "
            'put what runs it below `if __name__ == "__main__":`'
        ) from error
    finally:
        sys.path.remove(folder)


def module_of(path: Path) -> ModuleType:
    """The file as a module; call it inside `beside`. Raises whatever the file raises.

    It is run once for each of its contents, so that a model, its data and its task share their classes. It stays in
    sys.modules, where dataclasses, torch.export and worker processes look the module up.
    """
    mark = hashlib.sha256(str(path).encode() + b"\0" + path.read_bytes()).hexdigest()[:16]
    key = f"prunus_user_file_{path.stem}_{mark}"
    if key in sys.modules:
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None and spec.loader is not None, path  # a .py file always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[key]
        raise
    return module


def imported(path: Path) -> list[Path]:
    """The file, and the files in its folder's tree that it imports, at any depth. They are read, not run."""
    found: list[Path] = []
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.append(file)
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):  # running it will say so
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                waiting += [place for alias in node.names for place in _files_of(path.parent, alias.name)]
            elif isinstance(node, ast.ImportFrom):
                base = file.parents[node.level - 1] if 0 < node.level <= len(file.parents) else path.parent
                names = (".".join(filter(None, (node.module, alias.name))) for alias in node.names)
                waiting += [place for name in names for place in _files_of(base, name)]
    return [file for file in found if file.is_relative_to(path.parent)]


def _files_of(base: Path, name: str) -> list[Path]:
    """The files that importing a dotted name from a folder runs, as far as they are there."""
    parts = name.split(".")
    places = [base.joinpath(*parts[: k + 1]) for k in range(len(parts))]
    files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    return [file for file in files if file.is_file()]


def named(module: ModuleType, wanted: str, what: str) -> Any:
    """What the file calls `wanted`. Raises UnknownName with the nearest name that the file itself defines."""
    found = getattr(module, wanted, None)
    if found is None:
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        file = Path(module.__file__ or module.__name__).name
        raise UnknownName.of(f"{what} in {file}", wanted, [key for key in own if not key.startswith("_")])
    return found


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of its text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
