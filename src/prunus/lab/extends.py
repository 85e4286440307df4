"""Recipes that are another with changes: `extends = "cifar10-vgg16-dcff.toml"` at the top of a file.

The settings of the other recipe come first and those of the file on top: tables are merged, anything else is replaced.
The other lies in the same folder, so that a recipe reads no file elsewhere; it may extend a third. Every recipe has a
name of its own. What is merged is a recipe like any other: what is run or written names no second file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prunus.errors import InputError

__all__ = ["KEY", "merged", "whole"]

KEY = "extends"
_DEEPEST = 8


def whole(path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """The table of a recipe's file on top of those that it extends. read: one file's own table.

    Raises InputError for a name that is no file of the same folder, a circle, a chain of more than 8, and a recipe
    that extends another and has no name.
    """
    own, seen, parts = read(path), [path.name], []
    place = path
    while KEY in own:
        other = own[KEY]
        if not isinstance(other, str) or Path(other).name != other or Path(other).suffix != ".toml":
            raise InputError(
                f"{place.name}: {KEY} = {other!r} is not allowed; needed: the name of a .toml file beside it"
            )
        if "name" not in own:
            raise InputError(f"{place.name}: name: missing; a recipe that extends another needs one of its own")
        if other in seen or len(seen) == _DEEPEST:
            what = "in a circle" if other in seen else f"more than {_DEEPEST} deep"
            raise InputError(f"{path.name}: {KEY} goes {what}: {' -> '.join((*seen, other))}")
        parts.append({key: value for key, value in own.items() if key != KEY})
        seen.append(other)
        place = path.parent / other
        own = read(place)
    for part in reversed(parts):
        own = merged(own, part)
    return own


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """One table on top of another, at all depths."""
    found = dict(below)
    for key, value in above.items():
        under = found.get(key)
        found[key] = merged(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return found
