"""What a prune aims at: a budget of macs, params, channels, latency or weights, and how it may be met.

`Target.parse("macs=50%,round=8")` and `Target(macs=0.5, round_to=8)` are the same; `str()` gives the text back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

from prunus.errors import TargetError, nearest
from prunus.rates import kept, parse_rates, render_rates

__all__ = ["KINDS", "Budget", "Seconds", "Target", "kept", "parse_rates", "render_rates"]

KINDS = ("macs", "params", "channels", "latency", "weights")
"""What a budget can be of. `weights` are the nonzero entries left by unstructured pruning."""

AUTO = "auto"
"""`blocks=auto`: residual blocks compete with channels for the budget."""

EAGER = "eager"
"""Where latency is measured if nothing else is said."""

SCOPES = ("global", "local", "isomorphic")

_FIELDS = {"round": "round_to", "min": "min_channels"}  # where the text is shorter than the field
_OPTIONS = ("round", "min", "max_rate", "scope", "blocks", "fill", "on")
_FLOPS = frozenset({"flop", "flops", "mflops", "gflops"})
_NUMBER = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+) ?([%A-Za-z]*)")
_AMOUNTS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
_TIMES = {"us": Fraction(1, 10**6), "ms": Fraction(1, 10**3), "s": Fraction(1)}
_BITS = 200  # of a whole number: 60 digits
_WIDEST = 10**9  # channels
_LONGEST = 400  # characters of one value: enough for any float written out, too short to be slow


@dataclass(frozen=True, order=True)
class Seconds:
    """An absolute latency. Its own type, because 0.008 alone would mean 0.8 % of the dense latency."""

    value: float

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, Real) or not 0 < self.value < math.inf:
            raise TargetError(f"a latency is a finite time above 0 s, not {self.value!r}")
        object.__setattr__(self, "value", float(self.value))

    def __str__(self) -> str:
        shift, unit = (0, "s") if self.value >= 1 else (3, "ms") if self.value >= 1e-3 else (6, "us")
        return _decimal(self.value, shift) + unit


Budget = float | int | Seconds
"""A float in (0, 1]: the fraction of the dense cost that may remain. An int above 1: an amount. `Seconds`: a time."""


@dataclass(frozen=True)
class Target:
    """At least one budget (`blocks` counts as one), and the rules for meeting it. Refuses with TargetError.

    macs, params, channels, weights: a fraction in (0, 1] of the dense cost, or a whole amount above 1.
    latency: a fraction, or `Seconds`.
    round_to: widths are multiples of it. min_channels: the fewest channels of a group. max_rate: the most of any group
    that may go. scope: "global" ranks all channels together, "local" takes the same fraction of every group, and
    "isomorphic" of all groups that are built alike, ranked together. blocks: -2 drops the two
    residual blocks with the lowest scores; "auto" ranks blocks and channels together, each block at the price that
    `prunus.depth` defines, and drops the blocks that go before the budget holds. fill: restore what still fits the
    budget. on: where latency is measured.
    """

    macs: float | int | None = None
    params: float | int | None = None
    channels: float | int | None = None
    latency: float | Seconds | None = None
    weights: float | int | None = None
    round_to: int = 1
    min_channels: int = 1
    max_rate: float = 1.0
    scope: str = "global"
    blocks: int | str = 0
    fill: bool = True
    on: str = EAGER

    def __post_init__(self) -> None:
        for kind in KINDS:
            value = getattr(self, kind)
            if value is not None:
                object.__setattr__(self, kind, _budget(kind, value))
        for name, value in (("round", self.round_to), ("min", self.min_channels)):
            if not _whole(value) or not 1 <= value <= _WIDEST:
                more = f", {_WIDEST} at most" if _whole(value) and value > 1 else ""
                raise TargetError(f"{name}={_shown(value)} is not a whole number of 1 or more{more}")
            object.__setattr__(self, _FIELDS[name], int(value))
        if isinstance(self.max_rate, bool) or not isinstance(self.max_rate, Real) or not 0 < self.max_rate <= 1:
            raise TargetError(f"max_rate={_shown(self.max_rate)} is not above 0 % and at most 100 %")
        object.__setattr__(self, "max_rate", float(self.max_rate))
        if self.scope not in SCOPES:
            raise TargetError(_unknown("scope", self.scope, SCOPES))
        if self.blocks != AUTO and (not _whole(self.blocks) or int(self.blocks) > 0):
            raise TargetError(
                f"blocks={self.blocks} is not a number of blocks to drop; blocks=-2 drops two, blocks=auto all that pay"
            )
        if not isinstance(self.fill, bool):
            raise TargetError(f"fill={self.fill!r} is neither yes nor no")
        if not isinstance(self.on, str) or not re.fullmatch(r"[a-z][a-z0-9_-]*", self.on):
            raise TargetError(f"on={self.on!r} is not the name of a runtime")
        if self.on != EAGER and self.latency is None:
            raise TargetError(f"on={self.on} says where latency= is measured; name one too, as in latency=60%")
        if not self.budgets and self.blocks == AUTO:
            raise TargetError("blocks=auto chooses for a budget; name one too, as in macs=50%,blocks=auto")
        if not self.budgets and self.blocks == 0:
            raise TargetError(f"the target names no budget; one of {', '.join(f'{k}=' for k in KINDS)} is needed")

    @property
    def budgets(self) -> dict[str, Budget]:
        """The budgets that are set, by kind."""
        return {kind: value for kind in KINDS if (value := getattr(self, kind)) is not None}

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read `key=value` pairs joined with commas: "macs=50%,params=1.2M". TargetError names what is wrong."""
        if not isinstance(text, str):
            raise TargetError(f"a target is text such as 'macs=50%', not {type(text).__name__}")
        if not text.strip():
            raise TargetError("the target is empty; write for example macs=50%")
        given: dict[str, object] = {}
        for part in text.split(","):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if key.lower() in _FLOPS:
                raise TargetError(f"{key} is not a budget: use macs= (multiply-accumulates)")
            if not equals or not value:
                raise TargetError(f"{_shown(part)} in the target is not key=value, as in macs=50%")
            if key not in KINDS and key not in _OPTIONS:
                raise TargetError(_unknown("key", key, KINDS + _OPTIONS))
            field = _FIELDS.get(key, key)
            if field in given:
                raise TargetError(f"{key} is given twice in the target")
            given[field] = _READERS[key](key, value)
        return cls(**given)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """The text that `parse` reads back to this target; defaults are left out."""
        parts = [f"{kind}={_text(value)}" for kind, value in self.budgets.items()]
        defaults = {field.name: field.default for field in fields(self)}
        for key in _OPTIONS:
            field = _FIELDS.get(key, key)
            value = getattr(self, field)
            if value != defaults[field]:
                parts.append(f"{key}={_text(value)}" if key == "max_rate" else f"{key}={_option(value)}")
        return ",".join(parts)

    def limits(self, dense: Mapping[str, float]) -> dict[str, float]:
        """The most that may remain of each budgeted kind, given the dense costs (latency in seconds).

        Counts are rounded down to whole ones. An amount above the dense cost is refused, as a percentage above 100 is.
        """
        result: dict[str, float] = {}
        for kind, value in self.budgets.items():
            if kind not in dense:
                raise TargetError(f"a {kind} budget is not available here (known: {', '.join(dense) or 'none'})")
            whole = dense[kind]
            if isinstance(value, float):
                exact = Fraction(repr(value)) * Fraction(whole)
                result[kind] = float(exact) if kind == "latency" else math.floor(exact)
                continue
            amount = value.value if isinstance(value, Seconds) else value
            if amount > whole:
                has = (
                    Seconds(float(f"{whole:.3g}")) if isinstance(value, Seconds) else f"{whole:,.0f}".replace(",", " ")
                )
                raise TargetError(f"{kind}={_text(value)} is above 100 %: the dense model has {has}")
            result[kind] = amount
        return result


def _budget(kind: str, value: Any) -> Budget:
    """A budget value, checked and in its one form."""
    if _whole(value) and int(value).bit_length() > _BITS:
        raise TargetError(f"{kind}={_shown(value)} is out of range")
    if isinstance(value, Seconds):
        if kind != "latency":
            raise TargetError(f"{kind}={value} is a time; only latency takes one")
        return value
    if not _whole(value) and (isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value)):
        raise TargetError(f"{kind}={_shown(value)} is neither a fraction of the dense cost, as 0.5, nor an amount")
    if value <= 0:
        raise TargetError(f"{kind}={value} leaves nothing; a budget is above 0")
    if value <= 1 and not isinstance(value, Integral):
        return float(value)
    if kind == "latency":
        raise TargetError(f"latency={value} needs a unit (us, ms, s), or a percentage up to 100 %")
    if value == 1:
        raise TargetError(f"{kind}=1 could mean one or all of it; write 100% or an amount above 1")
    if value != int(value):
        raise TargetError(f"{kind}={value} is above 100 %, and no whole number of {kind}")
    return int(value)


def _read_budget(key: str, text: str) -> Budget:
    match = _NUMBER.fullmatch(text) if len(text) <= _LONGEST else None
    units = _TIMES if key == "latency" else _AMOUNTS
    if match is None or (match[2] != "%" and match[2] and match[2] not in units):
        forms = "a percentage (60%) or a time (8ms)" if key == "latency" else "a percentage (50%) or an amount (1.2M)"
        raise TargetError(f"{key}={_shown(text)} is not {forms}, above 0")
    number, unit = Fraction(match[1]), match[2]
    if number == 0:
        raise TargetError(f"{key}={text} leaves nothing; a budget is above 0")
    if unit == "%":
        if number > 100:
            raise TargetError(f"{key}={text} is above 100 % of the dense network")
        return _nonzero(key, text, number / 100)
    if not unit and number <= 1 and "." in match[1]:
        return _nonzero(key, text, number)
    if key == "latency":
        if not unit:
            raise TargetError(f"latency={text} needs a unit (us, ms, s), or a percentage up to 100 %")
        return Seconds(_nonzero(key, text, number * _TIMES[unit]))
    amount = number * _AMOUNTS[unit]
    if amount.denominator != 1:
        above = "above 100 %, and " if not unit else ""
        raise TargetError(f"{key}={text} is {above}no whole number of {key}")
    return int(amount)


def _read_rate(key: str, text: str) -> float:
    match = _NUMBER.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None or match[2] not in ("", "%"):
        raise TargetError(f"{key}={_shown(text)} is not a percentage such as 90%")
    value = Fraction(match[1]) / (100 if match[2] else 1)
    if not 0 < value <= 1:
        raise TargetError(f"{key}={text} is not above 0 % and at most 100 %")
    return _nonzero(key, text, value)


def _read_int(key: str, text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text):
        raise TargetError(f"{key}={_shown(text)} is not a whole number")
    return int(text)


def _read_blocks(key: str, text: str) -> int | str:
    if text != AUTO and not re.fullmatch(r"[+-]?[0-9]{1,9}", text):
        raise TargetError(f"{key}={_shown(text)} is neither a whole number, as -2, nor {AUTO}")
    return text if text == AUTO else int(text)


def _read_yes_no(key: str, text: str) -> bool:
    if text not in ("yes", "no"):
        raise TargetError(f"{key}={_shown(text)} is neither yes nor no")
    return text == "yes"


def _read_name(key: str, text: str) -> str:
    return text


_READERS: dict[str, Callable[[str, str], object]] = {
    **dict.fromkeys(KINDS, _read_budget),
    "round": _read_int,
    "min": _read_int,
    "max_rate": _read_rate,
    "scope": _read_name,
    "blocks": _read_blocks,
    "fill": _read_yes_no,
    "on": _read_name,
}


def _nonzero(key: str, text: str, exact: Fraction) -> float:
    """The float nearest to an exact value above 0, unless none above 0 or below infinity is near."""
    try:
        value = float(exact)
    except OverflowError:
        value = math.inf
    if not 0 < value < math.inf:
        raise TargetError(f"{key}={_shown(text)} is out of range")
    return value


def _decimal(value: float, shift: int) -> str:
    """`value` × 10^shift, written out exactly as its repr has it: 0.57, 2 -> "57"."""
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    text = format(Decimal((sign, digits, int(exponent) + shift)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _text(value: Budget) -> str:
    if isinstance(value, Seconds):
        return str(value)
    if isinstance(value, float):
        return _decimal(value, 2) + "%"
    for power, suffix in ((9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            if value % 10 ** (power - 3):
                break  # more than three decimals: the plain number is easier to read
            return (f"{value // 10**power}.{value % 10**power:0{power}}").rstrip("0").rstrip(".") + suffix
    return str(value)


def _option(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _unknown(what: str, name: object, allowed: tuple[str, ...]) -> str:
    close = nearest(str(name)[:_LONGEST], allowed)
    hint = f"; did you mean {close!r}?" if close else ""
    return f"unknown {what} {_shown(name)} in the target{hint} (allowed: {', '.join(allowed)})"


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > _BITS:
        return "a number of more than 60 digits"  # Python refuses to write out the longest
    text = repr(value.strip() if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "…'"
