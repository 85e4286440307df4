"""Widths that a user states: per-group rates as a list or by name, exact widths by layer."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from numbers import Integral, Real

import numpy as np
from torch import nn

from .errors import TargetError, UnknownName
from .graph.coupling import Coupling, layer
from .models.rates import rate_order
from .rates import kept, parse_rates

Rates = str | Sequence[float] | Mapping[str, float]
LAYOUTS = ("published", "forward")


def groups_by_layer(coupling: Coupling) -> dict[str, list[int]]:
    """For each layer (and each group name), the groups that its output channels belong to."""
    found: dict[str, list[int]] = {}
    for g, group in enumerate(coupling.groups):
        for name in dict.fromkeys([group.name, *map(layer, group.producers())]):
            found.setdefault(name, []).append(g)
    return found


def only(name: str, known: Mapping[str, Sequence[int]], coupling: Coupling) -> int:
    """The one group that a layer stands for."""
    if name not in known:
        raise absent(name, known, coupling)
    names = [coupling.groups[g].name for g in known[name]]
    if len(names) > 1:
        raise TargetError(f"the output of {name} spans {len(names)} groups; name one of them: {', '.join(names)}")
    return known[name][0]


def absent(name: str, known: Mapping[str, Sequence[int]], coupling: Coupling) -> TargetError | UnknownName:
    """Why a name stands for no group: its layer is pinned, or there is none of it."""
    pinned = next((p for p in coupling.pinned if p.name.startswith(f"{name} ")), None)
    return (
        TargetError(f"{name} is pinned: {pinned.reason}") if pinned else UnknownName.of("layer or group", name, known)
    )


def from_widths(coupling: Coupling, widths: Mapping[str, int]) -> list[int]:
    """The width of every group: as stated by layer or group name, dense where nothing is said."""
    if not isinstance(widths, Mapping):
        raise TargetError(f"widths is a dict of layer names and widths, not {type(widths).__name__}")
    known, found = groups_by_layer(coupling), dict[int, int]()
    for name, width in widths.items():
        g = only(name, known, coupling)
        if isinstance(width, bool) or not isinstance(width, Integral):
            raise TargetError(f"widths: {name} must be a whole number, not {width!r}")
        width = int(width)
        if found.setdefault(g, width) != width:
            raise TargetError(f"widths: {name} shares a group with a layer that was given {found[g]}, not {width}")
    return [found.get(g, group.width) for g, group in enumerate(coupling.groups)]


def order_of(model: nn.Module, coupling: Coupling, count: int, layout: str) -> list[list[int]]:
    """Which groups each entry of a list of rates means. A list of the wrong length is refused, with the names."""
    if layout not in LAYOUTS:
        raise UnknownName.of("rates_layout", layout, LAYOUTS)
    forward = [[g] for g in range(len(coupling.groups))]
    published = (rate_order(model) or {}) if layout == "published" else {}
    if not published:
        if count != len(forward):
            names = ", ".join(f"{g}: {group.name}" for g, group in enumerate(coupling.groups))
            raise TargetError(f"{count} rates for a net with {len(forward)} groups ({names})")
        return forward
    if count not in published:
        longest = published[max(published)]
        names = ", ".join(f"{k}: {entry[0]}" for k, entry in enumerate(longest))
        raise TargetError(
            f"{count} rates for a net whose published lists have {' or '.join(map(str, sorted(published)))} ({names})"
        )
    known = groups_by_layer(coupling)
    return [sorted({g for name in entry for g in known.get(name, [])}) for entry in published[count]]


def from_rates(
    model: nn.Module, coupling: Coupling, rates: Rates, layout: str, rule: str
) -> tuple[list[int], tuple[str, ...]]:
    """The width of every group under rates (fractions removed), as a list, as text, or by name or glob; and notes on
    entries that found nothing to prune. A name counts before all globs, and of two globs the later one."""
    widths = [group.width for group in coupling.groups]
    notes = []

    def left(width: int, rate: float) -> int:
        if isinstance(rate, bool) or not isinstance(rate, Real):
            raise TargetError(f"a rate is a number from 0 to below 1, not {rate!r}")
        return kept(width, rate, rule)

    def set_rate(g: int, rate: float) -> None:
        group = coupling.groups[g]
        widths[g] = max(group.floor, left(group.width, rate) // group.step * group.step)

    if isinstance(rates, Mapping):
        known, named = groups_by_layer(coupling), dict[int, tuple[str, float]]()
        for pattern, rate in rates.items():
            if not isinstance(pattern, str):
                raise TargetError(f"rates by layer have names as keys, not {pattern!r}")
            hit = {g for name, groups in known.items() if fnmatch.fnmatch(name, pattern) for g in groups}
            if not hit:
                raise absent(pattern, known, coupling)
            left(1, rate)
            for g in known.get(pattern, ()):
                first, before = named.setdefault(g, (pattern, rate))
                if before != rate:
                    raise TargetError(
                        f"rates: {pattern} shares a group with {first}, which was given {before}, not {rate}"
                    )
            for g in hit if pattern in known else hit - named.keys():
                set_rate(g, rate)
        return widths, ()
    if isinstance(rates, np.ndarray):
        rates = rates.tolist()
    if not isinstance(rates, (str, Sequence)):
        raise TargetError(f"rates are a list, its text or a dict by layer, not {type(rates).__name__}")
    values = parse_rates(rates) if isinstance(rates, str) else tuple(rates)
    for k, (entry, rate) in enumerate(zip(order_of(model, coupling, len(values), layout), values, strict=True)):
        if left(1, rate) and not entry and rate:  # what is pinned has a rate too
            notes.append(f"rate {k} ({rate:g}) found nothing to prune: its layers are pinned")
        for g in entry:
            set_rate(g, rate)
    return widths, tuple(notes)
