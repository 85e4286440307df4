"""The fractions removed per layer, as papers write them: "[0.45]*7+[0.78]*5+[0.0]".

    sum   = term { "+" term }
    term  = part { "*" part }            one list and any number of counts
    part  = list | "(" sum ")" | count
    list  = "[" rate { "," rate } [ "," ] "]"
    rate  = a decimal number in [0, 1)   also "0.", ".5", "1e-3"
    count = a whole number of 1 or more

Read by a small parser, never evaluated.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable
from fractions import Fraction

from prunus.errors import TargetError, UnknownName

__all__ = ["KEEP_RULES", "kept", "parse_rates", "render_rates"]

KEEP_RULES = ("exact", "float-truncate")

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)|(?P<sign>[][()+*,])|(?P<bad>\S))"
)
_MOST = 100_000  # rates in one list, so that "[0.1]*10**9" and its kin cannot fill the memory
_DEEPEST = 50  # nested parentheses
_LONGEST_NUMBER = 40


def parse_rates(text: str) -> tuple[float, ...]:
    """The rates that `text` stands for, each in [0, 1). TargetError says what was found at which character."""
    if not isinstance(text, str):
        raise TargetError(f"rates are text such as '[0.45]*7+[0.0]', not {type(text).__name__}")
    reader = _Reader(text)
    rates = reader.sum(0)
    if reader.token:
        raise reader.expected("'+', '*' or the end")
    return tuple(rates)


def render_rates(rates: Iterable[float]) -> str:
    """The shortest text of runs that `parse_rates` reads back: (0.5, 0.5, 0.0) -> "[0.5]*2+[0.0]"."""
    runs = [(rate, len(list(run))) for rate, run in itertools.groupby(float(rate) + 0.0 for rate in rates)]
    for rate, _ in runs:
        _checked(rate)
    return "+".join(f"[{rate!r}]" if count == 1 else f"[{rate!r}]*{count}" for rate, count in runs)


def kept(width: int, rate: float, rule: str = "exact") -> int:
    """How many of `width` channels stay at this rate: int(width·(1 − rate)), at least 1.

    "exact" computes with the decimal that was written, so that 320 at 0.9 keeps 32. "float-truncate" computes in
    float64, where 320·(1 − 0.9) is 31.999…, and keeps 31, as the reference networks do.
    """
    if width < 1:
        raise TargetError(f"a layer of width {width} has nothing to keep")
    _checked(rate)
    if rule == "exact":
        return max(1, math.floor(width * (1 - Fraction(repr(float(rate))))))
    if rule == "float-truncate":
        return max(1, int(width * (1 - float(rate))))
    raise UnknownName.of("keep rule", rule, KEEP_RULES)


def _checked(rate: float) -> None:
    if not 0 <= rate < 1:
        raise TargetError(f"a rate is the fraction removed, at least 0 and below 1, not {rate!r}")


class _Reader:
    """Recursive descent over the text, one token ahead. `sum` and `part` return the rates they read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.end = 0
        self.advance()

    def advance(self) -> None:
        """Move to the next token; `token` is "" at the end."""
        match = _TOKEN.match(self.text, self.end)
        self.token = match[match.lastgroup or 0] if match else ""
        self.kind = match.lastgroup if match else None
        self.start = match.start(match.lastgroup or 0) if match else len(self.text)
        self.end = match.end() if match else len(self.text)

    def sum(self, depth: int) -> list[float]:
        rates = self.term(depth)
        while self.token == "+":
            self.advance()
            rates += self.term(depth)
            if len(rates) > _MOST:
                raise self.error(f"more than {_MOST} rates")
        return rates

    def term(self, depth: int) -> list[float]:
        rates: list[float] | None = None
        count = 1
        while True:
            if self.kind == "number":
                count *= self.count()
            elif rates is None:
                rates = self.part(depth)
            else:
                raise self.expected("a whole number")
            if count * len(rates or (0,)) > _MOST:
                raise self.error(f"more than {_MOST} rates")
            if self.token != "*":
                break
            self.advance()
        if rates is None:
            raise self.expected("'*' and a list")
        return rates * count

    def part(self, depth: int) -> list[float]:
        if self.token == "(":
            if depth == _DEEPEST:
                raise self.error(f"parentheses more than {_DEEPEST} deep")
            self.advance()
            rates = self.sum(depth + 1)
            self.skip(")", "'+', '*' or ')'")
            return rates
        self.skip("[", "a list such as [0.5], or '('")
        rates = [self.rate()]
        while self.token == ",":
            self.advance()
            if self.token == "]":
                break
            rates.append(self.rate())
        self.skip("]", "',' or ']'")
        return rates

    def rate(self) -> float:
        if self.kind != "number":
            raise self.expected("a rate")
        value = float(self.token)
        if not value < 1:
            raise self.error(f"a rate is the fraction removed, at least 0 and below 1, not {self.shown()}")
        self.advance()
        return value

    def count(self) -> int:
        if not re.fullmatch(r"0*[1-9][0-9]{0,8}", self.token):
            raise self.error(f"a count is a whole number of 1 or more, not {self.shown()}")
        value = int(self.token.lstrip("0"))
        self.advance()
        return value

    def skip(self, token: str, what: str) -> None:
        if self.token != token:
            raise self.expected(what)
        self.advance()

    def shown(self) -> str:
        return self.token if len(self.token) <= _LONGEST_NUMBER else self.token[:_LONGEST_NUMBER] + "…"

    def expected(self, what: str) -> TargetError:
        return self.error(f"expected {what}, found {repr(self.shown()) if self.token else 'the end'}")

    def error(self, message: str) -> TargetError:
        text = self.text if len(self.text) <= 60 else self.text[:57] + "…"
        return TargetError(f"rates {text!r}: {message} (character {self.start + 1})")
