"""The space that a search looks through: ranges of numbers, and choices.

`train.lr=0.001..1:log` is a range; with whole numbers at both ends (`finetune.epochs=2..10`) so are its values. Text
may stand around the numbers: `prune.target=macs=30%..70%`. A choice is written as an axis of a grid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunus.errors import InputError
from prunus.lab.grid import Axis, axes, named, once

__all__ = ["Range", "Space"]

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_LOW = re.compile(rf"(|.*[^\d.eE+-])({_NUMBER})([^\d.]*)")
_HIGH = re.compile(rf"({_NUMBER})([^\d.:]*)(:log)?")


@dataclass(frozen=True)
class Range:
    """Settings that take the same number from low to high, both included. whole: a whole number. before, after: text
    around the number."""

    names: tuple[str, ...]
    low: float
    high: float
    log: bool = False
    whole: bool = False
    before: str = ""
    after: str = ""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InputError(f"--range {self.name}: {self.low:g} must be below {self.high:g}")
        if self.log and self.low <= 0:
            raise InputError(f"--range {self.name}: log needs numbers above 0")

    @property
    def name(self) -> str:
        """As it was written."""
        return "+".join(self.names)

    @property
    def text(self) -> str:
        """What stands behind the sign of equality."""
        return f"{self.before}{self._written(self.low)}..{self._written(self.high)}{self.after}" + (
            ":log" if self.log else ""
        )

    def value(self, number: float) -> Any:
        """What the settings get."""
        plain = int(number) if self.whole else float(number)
        return f"{self.before}{self._written(plain)}{self.after}" if self.before or self.after else plain

    def _written(self, number: float) -> str:
        return str(int(number)) if self.whole else f"{number:.6g}"

    @classmethod
    def read(cls, text: str) -> Range:
        """`NAME=LOW..HIGH`, with `:log` behind it or not. Raises InputError."""
        name, _, rest = text.partition("=")
        first, _, second = rest.partition("..")
        low, high = _LOW.fullmatch(first.strip()), _HIGH.fullmatch(second.strip())
        if low is None or high is None or (low[3] and low[3] != high[2]):
            raise InputError(
                f"--range {text!r} is no NAME=LOW..HIGH or NAME=LOW..HIGH:log, such as train.lr=0.01..1:log"
            )
        whole = all(re.fullmatch(r"[+-]?\d+", number) for number in (low[2], high[1]))
        names = named("--range", name)
        return cls(names, float(low[2]), float(high[1]), bool(high[3]), whole, low[1], high[2])


@dataclass(frozen=True)
class Space:
    """What a search may set."""

    ranges: tuple[Range, ...]
    choices: tuple[Axis, ...]

    @classmethod
    def of(
        cls,
        ranges: Mapping[str, str | Sequence[Any]] | Iterable[str],
        choices: Mapping[str, Sequence[Any]] | Iterable[str],
    ) -> Space:
        """From texts, or from tables: {"train.lr": "0.01..1:log"} or (0.01, 1, "log"), and of lists. Raises InputError,
        where there is nothing too."""
        found = []
        if isinstance(ranges, Mapping):
            for name, given in ranges.items():
                text = given if isinstance(given, str) else "..".join(map(repr, given[:2])) + ":".join(("", *given[2:]))
                found.append(Range.read(f"{name}={text}"))
        else:
            found = [Range.read(text) for text in ranges]
        space = cls(tuple(found), axes(choices, "--choice"))
        once((*space.ranges, *space.choices), "--range")
        if not space.ranges and not space.choices:
            raise InputError("a search needs --range or --choice, such as --range train.lr=0.01..1:log")
        return space

    def distributions(self, package: Any) -> dict[str, Any]:
        """For Optuna. A choice is known by its JSON text."""
        kinds = package.distributions
        found: dict[str, Any] = {}
        for one in self.ranges:
            kind = kinds.IntDistribution if one.whole else kinds.FloatDistribution
            low, high = (int(one.low), int(one.high)) if one.whole else (one.low, one.high)
            found[one.name] = kind(low, high, log=one.log)
        for axis in self.choices:
            found[axis.name] = kinds.CategoricalDistribution([json.dumps(value) for value in axis.values])
        return found

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What a trial sets, from what Optuna drew."""
        found = {one.name: one.value(params[one.name]) for one in self.ranges}
        return found | {axis.name: json.loads(params[axis.name]) for axis in self.choices}

    def corners(self) -> list[dict[str, Any]]:
        """Few points that together hold both ends of every range and every choice, to be checked beforehand."""
        longest = max((len(axis.values) for axis in self.choices), default=0)
        found = []
        for k in range(max(longest, 2)):
            ends = {one.name: one.value(one.high if k % 2 else one.low) for one in self.ranges}
            found.append(ends | {axis.name: axis.values[k % len(axis.values)] for axis in self.choices})
        return found
