"""From a table to a settings dataclass, with every mistake named by its path; and the JSON schema of a recipe."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from prunus.errors import InputError, MissingExtra, nearest
from prunus.lab.extends import KEY

__all__ = ["conform", "described", "json_schema"]

T = TypeVar("T")

_NOT_HERE = {
    "runtime.seed": "the seed of a recipe is at the top: seed = 0, or seeds = [0, 1]",
    "prune.seed": "the seed of a recipe is at the top: seed = 0, or seeds = [0, 1]",
}
"""Settings of the dataclasses that a recipe has in another place."""

_EXTENDS = {
    "type": "string",
    "description": "a recipe in the same folder: its settings, with those of this file on top; tables are merged",
}


def conform(kind: type[T], raw: Mapping[str, Any], where: str = "") -> T:
    """The dataclass `kind` from a table. Raises InputError: an unknown key with the nearest one, a wrong type with
    what is allowed, each with its path; and MissingExtra without pydantic."""
    _check_keys(kind, raw, where)
    adapter = _adapter(kind)
    from pydantic import ValidationError

    try:
        return cast("T", adapter.validate_json(json.dumps([raw], default=str))[0])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path, hint, value = _followed(kind, raw, first["loc"][1:])
        name = ".".join(filter(None, (where, *map(str, path))))
        if first["type"] == "missing":
            raise InputError(f"{name or 'the recipe'}: {first['loc'][-1]!r} is missing") from error
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, InputError):  # a check of the dataclass itself
            raise type(cause)(f"{name}: {cause}" if name else str(cause)) from error
        shown = json.dumps(value, default=str)
        shown = shown if len(shown) <= 60 else shown[:57] + "…"
        raise InputError(f"{name}: {shown} is not allowed; needed: {wanted(hint)}") from error


def json_schema() -> dict[str, Any]:
    """The JSON schema of a recipe, for editors."""
    from prunus.lab.recipe import Recipe

    whole = _adapter(Recipe).json_schema()
    definitions = whole["$defs"]
    for name, definition in definitions.items():
        texts = described(_classes(Recipe)[name])
        definition["description"] = definition["description"].split("\n\n")[0].replace("\n", " ")
        definition["properties"] = {
            key: _without_null(shown) | ({"description": texts[key]} if key in texts else {})
            for key, shown in definition["properties"].items()
        }
    for path in _NOT_HERE:
        section, key = path.split(".")
        owner = next(option for option in _options(get_type_hints(Recipe)[section]) if isinstance(option, type))
        definitions[owner.__name__]["properties"].pop(key)
    top = definitions.pop("Recipe")
    # A file that extends another has the rest of what is needed from there.
    needed = top.pop("required")
    top["properties"] = {KEY: _EXTENDS, **top["properties"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **top,
        "anyOf": [{"required": ["name", KEY]}, {"required": needed}],
        "title": "Prunus recipe",
        "$defs": definitions,
    }


def _without_null(shown: dict[str, Any]) -> dict[str, Any]:
    """A property's schema without titles, and without null, which TOML does not have."""
    rest = {key: value for key, value in shown.items() if key != "title" and (key, value) != ("default", None)}
    options = [option for option in rest.pop("anyOf", ()) if option != {"type": "null"}]
    return rest | (options[0] if len(options) == 1 else {"anyOf": options} if options else {})


def described(kind: type) -> dict[str, str]:
    """What a settings dataclass says about each field in its docstring: `name, other   text` and indented lines."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        names: list[str] = []
        for line in (base.__doc__ or "").splitlines():
            head = re.match(r" {0,4}(\w+(?:, \w+)*) {2,}(\S.*)", line)
            more = re.match(r" {8,}(\S.*)", line)
            if head:
                names = head[1].split(", ")
                found.update(dict.fromkeys(names, head[2]))
            elif more and names:
                found.update({name: f"{found[name]} {more[1]}" for name in names})
            else:
                names = []
    return found


def wanted(hint: Any) -> str:
    """In words, what values a type allows."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(wanted(part) for part in inner if part is not type(None)))
    if origin is Literal:
        return "one of " + ", ".join(json.dumps(value) for value in inner)
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"a list of {len(inner)}, each {wanted(inner[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a table, each entry {wanted(inner[1])}"
    if origin is not None:  # tuple[X, ...], Sequence[X]
        return f"a list, each entry {wanted(inner[0])}"
    plain = {int: "a whole number", float: "a number", str: 'text, as "…"', bool: "true or false"}
    return plain.get(hint, "a table" if is_dataclass(hint) else "a value")


def _adapter(kind: type) -> Any:
    try:
        import pydantic  # noqa: F401
    except ImportError as error:
        raise MissingExtra.of("pydantic", "lab") from error
    return _made(kind)


@cache
def _made(kind: type) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    # In a tuple, because pydantic takes no settings for a bare dataclass that is not its own.
    return TypeAdapter(tuple[kind], config=ConfigDict(extra="forbid", strict=True))  # type: ignore[valid-type]


def _options(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _check_keys(kind: type, raw: Mapping[str, Any], where: str) -> None:
    """Every key is a field, at all depths; and every field without a default is there."""
    hints = get_type_hints(kind)
    for key, value in raw.items():
        path = f"{where}.{key}" if where else key
        if path in _NOT_HERE:
            raise InputError(f"{path}: not here; {_NOT_HERE[path]}")
        if key not in hints:
            close = nearest(key, hints)
            hint = f"did you mean {close!r}?" if close else f"allowed: {', '.join(hints)}"
            raise InputError(f"{path}: unknown; {hint}")
        section = next((option for option in _options(hints[key]) if is_dataclass(option)), None)
        if section is not None and isinstance(value, Mapping):
            _check_keys(cast("type", section), value, path)
    for part in fields(cast("Any", kind)):
        if part.name not in raw and part.default is MISSING and part.default_factory is MISSING:
            raise InputError(f"{where + '.' if where else ''}{part.name}: missing; needed: {wanted(hints[part.name])}")


def _followed(kind: Any, raw: Any, loc: tuple[int | str, ...]) -> tuple[list[int | str], Any, Any]:
    """As much of an error's place as the table has: the path, the type that is wanted there, the value."""
    path: list[int | str] = []
    hint: Any = kind
    for part in loc:
        here = next((option for option in _options(hint) if is_dataclass(option)), None)
        if here is not None and isinstance(raw, Mapping) and part in raw:
            hint, raw = get_type_hints(here)[str(part)], raw[str(part)]
            path.append(part)
    return path, hint, raw


def _classes(kind: Any) -> dict[str, type]:
    """All dataclasses in a dataclass, by name."""
    found = {kind.__name__: kind}
    for hint in get_type_hints(kind).values():
        for option in _options(hint):
            if is_dataclass(option) and cast("type", option).__name__ not in found:
                found |= _classes(option)
    return found
