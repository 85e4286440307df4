"""Temperatures of DCFF by epoch: an expression that is parsed and never evaluated as code, or the paper's curve.

    sum    = term { ("+" | "-") term }
    term   = signed { ("*" | "/") signed }
    signed = ("+" | "-") signed | power
    power  = part [ "**" signed ]
    part   = number | "epoch" | "epochs" | "(" sum ")"

`args.num_epochs`, as the published code calls it, is another name of `epochs`. Epochs count from 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from ..errors import InputError, nearest

__all__ = ["LOGISTIC", "logistic", "temperature", "value_of"]

LOGISTIC = "logistic"

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)|(?P<name>[^\W\d][\w.]*)"
    r"|(?P<sign>\*\*|[-+*/()])|(?P<bad>\S))"
)
_LONGEST = 200  # characters
_DEEPEST = 30  # nested parentheses and signs


def logistic(e: int, epochs: int, ts: float, te: float, k: float) -> float:
    """T(e) = A / (1 + exp(−k·e)) + Ts − A/2, A = 2(Te − Ts)(1 + exp(−k·E)) / (1 − exp(−k·E)): Ts at 0, Te at E."""
    fall = math.exp(-k * epochs)
    a = 2 * (te - ts) * (1 + fall) / (1 - fall)
    return a / (1 + math.exp(-k * e)) + ts - a / 2


def temperature(schedule: str, e: int, epochs: int, ts: float, te: float, k: float) -> float:
    """t of epoch e: 1/T(e) where the schedule is the word "logistic", else the value of the expression. Raises
    InputError where that is not above 0 and finite."""
    if schedule == LOGISTIC:
        return 1 / logistic(e, epochs, ts, te, k)
    t = value_of(schedule, {"epoch": e, "epochs": epochs, "args.num_epochs": epochs})
    if not 0 < t < math.inf:
        raise InputError(f"temperature {schedule!r} is {t:g} in epoch {e} of {epochs}; it must be above 0 and finite")
    return t


def value_of(text: str, names: Mapping[str, float]) -> float:
    """What an expression is worth. Raises InputError, with the character, for everything that is none."""
    reader = _Reader(text, names)
    try:
        value = reader.sum(0)
    except InputError:
        raise
    except (ZeroDivisionError, OverflowError, ValueError):
        raise InputError(f"temperature {reader.shown!r} has no value for {names}") from None
    if reader.token:
        raise reader.expected("an operator or the end")
    return value


class _Reader:
    """Recursive descent, one token ahead."""

    def __init__(self, text: str, names: Mapping[str, float]) -> None:
        self.text, self.names, self.end = text, names, 0
        self.shown = text if len(text) <= 60 else text[:57] + "…"
        if len(text) > _LONGEST:
            raise InputError(f"temperature {self.shown!r} has {len(text)} characters, more than {_LONGEST}")
        self.advance()

    def advance(self) -> None:
        match = _TOKEN.match(self.text, self.end)
        self.kind = match.lastgroup if match else None
        self.token = match[self.kind] if match and self.kind else ""
        self.start = match.start(self.kind) if match and self.kind else len(self.text)
        self.end = match.end() if match else len(self.text)

    def sum(self, depth: int) -> float:
        value = self.term(depth)
        while self.token in ("+", "-"):
            minus = self.token == "-"
            self.advance()
            other = self.term(depth)
            value = value - other if minus else value + other
        return value

    def term(self, depth: int) -> float:
        value = self.signed(depth)
        while self.token in ("*", "/"):
            over = self.token == "/"
            self.advance()
            other = self.signed(depth)
            value = value / other if over else value * other
        return value

    def signed(self, depth: int) -> float:
        if depth > _DEEPEST:
            raise self.error(f"more than {_DEEPEST} parentheses and signs inside each other")
        if self.token in ("+", "-"):
            minus = self.token == "-"
            self.advance()
            value = self.signed(depth + 1)
            return -value if minus else value
        base = self.part(depth)
        if self.token == "**":
            self.advance()
            return math.pow(base, self.signed(depth + 1))
        return base

    def part(self, depth: int) -> float:
        token, kind = self.token, self.kind
        if token == "(":
            self.advance()
            value = self.sum(depth + 1)
            if self.token != ")":
                raise self.expected("')'")
            self.advance()
            return value
        if kind == "name" and token not in self.names:
            close = nearest(token, self.names)
            hint = f"; did you mean {close!r}?" if close else ""
            raise self.error(f"unknown name {token!r}{hint} (allowed: {', '.join(self.names)})")
        if kind not in ("number", "name"):
            raise self.expected("a number, 'epoch', 'epochs' or '('")
        self.advance()
        return float(token) if kind == "number" else float(self.names[token])

    def expected(self, what: str) -> InputError:
        return self.error(f"expected {what}, found {repr(self.token[:40]) if self.token else 'the end'}")

    def error(self, message: str) -> InputError:
        return InputError(f"temperature {self.shown!r}: {message} (character {self.start + 1})")
