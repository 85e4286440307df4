"""The axes of a sweep and their cross product.

`prune.target=macs=50%,macs=30%` is an axis with two values. A comma parts values, but not inside quotes or brackets:
`prune.target="macs=50%,round=8",macs=30%` has two as well. A value is TOML or a bare word, as in `--set`. Several names
joined by + get the same value: `sparsity.target+prune.target=macs=50%,macs=30%`.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from prunus.errors import InputError
from prunus.lab.recipe import Recipe, changed, load, value_of
from prunus.lab.stages import digest

__all__ = ["Axis", "Point", "at", "axes", "named", "parted", "points"]

LONGEST = 80
"""Letters of a point's name that come from its values; beyond that a digest stands for them."""


@dataclass(frozen=True)
class Axis:
    """Settings, by dotted names, that take the same one of `values`."""

    names: tuple[str, ...]
    values: tuple[Any, ...]

    @property
    def name(self) -> str:
        """As it was written."""
        return "+".join(self.names)


@dataclass(frozen=True)
class Point:
    """One recipe of a sweep: the name of its folder, the value of each axis, the recipe itself."""

    name: str
    values: Mapping[str, Any]
    recipe: Recipe


def parted(text: str) -> list[str]:
    """The parts between the commas that stand outside quotes and brackets. Raises InputError for what is left open."""
    parts, depth, quote, closing = [""], 0, "", ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign in "[{(":
            depth, closing = depth + 1, sign
        elif sign in "]})":
            depth -= 1
        elif sign == "," and not depth:
            parts.append("")
            continue
        parts[-1] += sign
    if quote or depth:
        raise InputError(f"{text!r}: {quote or closing or 'a bracket'} is left open or closed twice")
    return [part.strip() for part in parts]


def axes(given: Mapping[str, Sequence[Any]] | Iterable[str], what: str = "--grid") -> tuple[Axis, ...]:
    """Axes from a table of values by name, or from texts. Raises InputError."""
    found = []
    if isinstance(given, Mapping):
        for name, values in given.items():
            if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
                raise InputError(f"{what} {name}: a list of values is needed, not {values!r}")
            found.append(Axis(named(what, name), tuple(values)))
    else:
        for text in given:
            name, sign, rest = text.partition("=")
            values = parted(rest)
            if not sign or not all(values):
                raise InputError(f"{what} {text!r} is no NAME=A,B, such as train.lr=0.1,0.05")
            found.append(Axis(named(what, name), tuple(value_of(f"{what} {text!r}", value) for value in values)))
    for axis in found:
        shown = [json.dumps(value, default=str, sort_keys=True) for value in axis.values]
        if not shown or len(set(shown)) < len(shown):
            raise InputError(f"{what} {axis.name}: values must be there, and different ones: {', '.join(shown)}")
    once(found, what)
    return tuple(found)


def once(found: Sequence[Any], what: str) -> None:
    """Raises InputError where two axes set the same setting."""
    names = [name for axis in found for name in axis.names]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{what}: {twice} is given twice")


def named(what: str, text: str) -> tuple[str, ...]:
    """The dotted names before the sign of equality."""
    names = tuple(part.strip() for part in text.split("+"))
    for name in names:
        if not all(part.strip() for part in name.split(".")) or name in ("name", "seed", "seeds"):
            raise InputError(f"{what} {text!r}: {name!r} is no setting that a sweep can vary; seeds are for --repeat")
    return names


def points(base: Recipe, found: Sequence[Axis]) -> tuple[Point, ...]:
    """The cross product, the last axis fastest. Every recipe is checked. Raises InputError with the point's values."""
    short = labels(found)
    made = []
    for values in itertools.product(*(axis.values for axis in found)):
        text = "-".join(f"{name}-{slug(value)}" for name, value in zip(short, values, strict=True))
        made.append((text, {axis.name: value for axis, value in zip(found, values, strict=True)}))
    texts = [text for text, _ in made]
    found_points = []
    for text, settings in made:
        if texts.count(text) > 1 or len(text) > LONGEST:
            text = f"{text[:LONGEST]}-{digest(settings)[:8]}"
        found_points.append(Point(text, settings, at(base, text, settings)))
    return tuple(found_points)


def at(base: Recipe, name: str, values: Mapping[str, Any]) -> Recipe:
    """The recipe with these values in place, named after the base and the point. Raises InputError."""
    from prunus.lab.recipe import plain

    raw: Mapping[str, Any] = plain(base)
    for names, value in values.items():
        for setting in names.split("+"):
            for path in paths(base, setting):
                raw = changed(raw, path, value)
    try:
        return load({**raw, "name": f"{base.name}-{name}"})
    except InputError as error:
        told = ", ".join(f"{key}={value}" for key, value in values.items())
        raise type(error)(f"at {told}: {error}" if told else str(error)) from error


def paths(base: Recipe, name: str) -> tuple[str, ...]:
    """Where a value goes. `prune.alpha_mac`, which is no setting of [prune], is an option of its method; where
    [sparsity] has the same method, in both sections."""
    section, _, key = name.partition(".")
    given = getattr(base, section, None) if section in ("prune", "sparsity") else None
    if given is None or "." in key or key in {part.name for part in fields(given)}:
        return (name,)
    other = getattr(base, "sparsity" if section == "prune" else "prune")
    both = other is not None and other.method == given.method
    known = hasattr(method(given.method), key)
    if not known:
        return (name,)  # and the recipe says what is wrong with it
    return tuple(f"{one}.options.{key}" for one in (("sparsity", "prune") if both else (section,)))


def method(name: str) -> Any:
    """The method of that name, as it is without settings."""
    from prunus.methods import method_of

    return method_of(name)


def labels(found: Sequence[Axis]) -> list[str]:
    """The last part of each axis's first name; all of it where two share that."""
    last = [axis.names[0].rpartition(".")[2] for axis in found]
    return [one if last.count(one) == 1 else axis.names[0] for one, axis in zip(last, found, strict=True)]


def slug(value: Any) -> str:
    """A value as a part of a folder's name."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return re.sub(r"[^\w.]+", "-", text, flags=re.ASCII).strip("-.") or "none"
