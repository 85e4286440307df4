"""Numbers that modules remember as attributes, seen where a forward says a width by one of them.

While a model is traced its integer attributes are integers that know their place. A split, a slice or a view that is
given one shows which attribute states which width, and so does code that holds one against the size of an axis
(`assert x.shape[1] == self.channels`); what arithmetic makes of them are plain integers. Numbers in an object of
settings that a module keeps are attributes named `config.heads`; while it runs, the module has a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn

from ..configs import changed, entries, is_config
from ..state import modules_of

CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Told(int):
    """An integer attribute of a module: its path, its name, and the place in it where it is a tuple or a list. An entry
    of its settings is named after them: `config.heads`."""

    path: str
    name: str
    place: int

    def __eq__(self, other: object) -> bool:
        same = int.__eq__(self, other)  # NotImplemented for a float, which then compares
        if same is True and type(other) is int and (heard := HEARD.get()) is not None:
            heard(self)
        return same

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__


HEARD: ContextVar[Callable[[Told], None] | None] = ContextVar("HEARD", default=None)
"""What is called with an attribute that was compared with a number and found equal."""


@contextmanager
def telling(model: nn.Module) -> Iterator[None]:
    """The integers above one that modules of the user's own remember are `Told`; torch's own have rules."""
    modules = [(path, module) for path, module in modules_of(model) if not of_torch(type(module))]
    was: list[tuple[dict[str, Any], str, Any, Any]] = []
    for path, module in modules:
        for name, value in list(vars(module).items()):
            given = told(value, path, name)
            if given is not value:
                was.append((vars(module), name, value, given))
                vars(module)[name] = given
    try:
        yield
    finally:
        for held, name, value, given in was:
            if held.get(name) is given:
                held[name] = value
        for _, module in modules:  # what a forward kept elsewhere
            vars(module).update({name: plain(value) for name, value in vars(module).items() if holds(value)})


def of_torch(kind: type) -> bool:
    return any(base.__module__.startswith("torch.") and base not in CONTAINERS for base in kind.__mro__)


def told(value: Any, path: str, name: str) -> Any:
    """The value, its integers `Told`; the value itself where there is none."""
    if name.startswith("_"):
        return value
    if is_config(name, value):
        known = {key: number(item, path, f"{name}.{key}") for key, item in entries(value).items()}
        known = {key: item for key, item in known.items() if holds(item)}
        return changed(value, known) if known else value
    return number(value, path, name)


def number(value: Any, path: str, name: str) -> Any:
    """The same, but for settings."""
    if type(value) is int and value > 1:
        return one(value, path, name, 0)
    if type(value) in (tuple, list) and value and all(type(item) is int for item in value):
        return type(value)(one(item, path, name, place) for place, item in enumerate(value))
    return value


def one(value: int, path: str, name: str, place: int) -> Told:
    found = Told(value)
    found.path, found.name, found.place = path, name, place
    return found


def holds(value: Any) -> bool:
    return type(value) is Told or (type(value) in (tuple, list) and any(type(item) is Told for item in value))


def plain(value: Any) -> Any:
    if type(value) is Told:
        return int(value)
    return type(value)(plain(item) for item in value) if holds(value) else value
