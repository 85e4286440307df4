"""Rates per group by measured sensitivity, after Li et al. 2017 (arXiv:1608.08710), section 3.2 and figure 2.

The paper removes channels from one layer at a time, at several rates, measures the network each time, and chooses a
rate for each layer by eye: sensitive layers keep more. `curves` is that measurement, on groups in place of layers.

`Sensitivity` replaces the eye. In group g let v_g(w) be the measured value at width w, made monotone and linear between
the widths that were measured. The channel whose removal leads from width w to w - 1 then scores

    s = (v_g(w) - v_g(w - 1)) / (MACs that one channel of g costs in the dense network),

and the usual selection takes the channels of least loss per multiply-accumulate until the budget holds. This is the
greedy choice of the next width, group by group, at steps as small as the network allows. Scores within a group rise
with every removal, as the loss per channel that is yet to come; which channel goes first is said by `base`.

Groups do not know of each other: that losses add up is an assumption, and the fine-tuning is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any, ClassVar, cast

import numpy as np
from torch import nn

from ..asked import names, the_model
from ..cutting import trace
from ..errors import InputError
from ..graph.assemble import nothing
from ..graph.coupling import Coupling
from ..plan import plan_for
from ..select import Costs, followed, to_widths
from ..state import as_found, copied
from ..surgery import apply
from .score import NEEDS, Floats, Given, Method, Search, base_of, label, scores_of, searches, worth

RATES = (0.1, 0.3, 0.5, 0.7, 0.9)
TIE = 1e-9
"""Of the largest loss for a multiply-accumulate: how far apart the base's ranking may put what loses the same."""


@dataclass(frozen=True)
class Curve:
    """What a network is worth when one group is narrowed and all others are whole. widths fall; values[k] belongs to
    widths[k], and widths[0] is the dense width."""

    group: str
    widths: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def rates(self) -> tuple[float, ...]:
        """The fractions that were removed."""
        return tuple(1 - width / self.widths[0] for width in self.widths)

    def near(self, rate: float) -> float:
        """The value measured at the rate nearest to this one."""
        return min(zip(self.rates, self.values, strict=True), key=lambda point: abs(point[0] - rate))[1]


@dataclass(frozen=True)
class Curves:
    """One curve a group, in the order of the network. dense: the value of the whole network."""

    dense: float
    curves: tuple[Curve, ...]

    def __str__(self) -> str:
        lines = [f"whole: {self.dense:.4g}"]
        for curve in self.curves:
            points = ", ".join(f"{w} {v:.4g}" for w, v in zip(curve.widths[1:], curve.values[1:], strict=True))
            lines.append(f"{curve.group}  {curve.widths[0]}: {points}")
        return "\n".join(lines)


def fractions(rates: Any) -> tuple[float, ...]:
    """Rates as numbers, whatever holds them. Raises InputError."""
    held = rates.tolist() if hasattr(rates, "tolist") else rates
    found = tuple(held) if isinstance(held, Iterable) and not isinstance(held, str) else ()
    if not found or not all(isinstance(rate, Real) and 0 < rate < 1 for rate in found):  # type: ignore[operator]
        raise InputError(f"rates={rates} are several fractions between 0 and 1, as in (0.25, 0.5)")
    return tuple(map(float, found))


def legal_widths(coupling: Coupling, g: int, rates: Sequence[float]) -> list[int]:
    """The widths of group g at these rates, rounded down to what the group allows, widest first and each once."""
    group = coupling.groups[g]
    asked = (math.floor(group.width * (1 - rate) + 1e-9) // group.step * group.step for rate in rates)
    return sorted({max(group.floor, width) for width in asked} - {group.width}, reverse=True)


def curves(
    model: nn.Module,
    coupling: Coupling,
    scores: Sequence[Floats],
    evaluate: Callable[[nn.Module], float],
    rates: Sequence[float] = RATES,
) -> Curves:
    """Cut one group at a time, lowest scores first, and measure. Linked groups are cut together. Raises InputError
    where `evaluate` gives no finite number."""

    def value(small: nn.Module) -> float:
        found = worth(evaluate, small)
        if not math.isfinite(found):
            raise InputError(f"evaluate gave {found}, which is no finite number")
        return found

    dense = value(copied(model))  # it may train what it is given
    found = []
    known: dict[tuple[int, ...], float] = {}
    for g, group in enumerate(coupling.groups):
        widths, values = [group.width], [dense]
        for width in legal_widths(coupling, g, rates):
            wanted = followed(coupling, [width if k == g else w for k, w in enumerate(coupling.widths)])
            key = tuple(wanted)
            if key not in known:
                known[key] = value(apply(model, plan_for(coupling, to_widths(coupling, scores, wanted), ())))
            widths.append(width)
            values.append(known[key])
        found.append(Curve(group.name, tuple(widths), tuple(values)))
    return Curves(dense, tuple(found))


def losses(curve: Curve) -> Floats:
    """Loss of value with each removed channel, first removed first: (width - 1,), at least 0.

    The curve is made monotone from the dense end on, and linear between its points; beyond the last one it goes on
    with the last slope.
    """
    lost = np.maximum.accumulate(np.maximum(0.0, curve.values[0] - np.array(curve.values)))
    slopes = [
        np.full(a - b, (y - x) / (a - b))
        for (a, b), (x, y) in zip(pairwise(curve.widths), pairwise(lost.tolist()), strict=True)
    ]
    slopes.append(np.full(curve.widths[-1] - 1, slopes[-1][-1] if slopes else 0.0))
    return np.concatenate(slopes)


def channel_macs(coupling: Coupling) -> Floats:
    """What the dense network saves in MACs with one channel fewer in each group: (groups,)."""
    cost = Costs.of(coupling)
    dense = np.array(coupling.widths, np.int64)
    whole = cost(dense)["macs"]
    steps = [group.step for group in coupling.groups]
    saved = [whole - cost(dense - step * (np.arange(dense.size) == g))["macs"] for g, step in enumerate(steps)]
    return np.maximum(1.0, np.array(saved, np.float64)) / np.array(steps, np.float64)


@dataclass(frozen=True)
class Sensitivity:
    """Greedy rates per group from measured curves.

    base   what ranks the channels of one group: the name of a method that needs weights alone
    rates  the removed fractions at which each group is measured
    """

    base: str = "magnitude"
    rates: tuple[float, ...] = RATES
    scope: str | None = "global"
    needs: ClassVar[frozenset[str]] = frozenset({"evaluate"})

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", fractions(self.rates))

    def score(
        self, model: nn.Module, coupling: Coupling, *, evaluate: Callable[[nn.Module], float], seed: int = 0
    ) -> tuple[Floats, ...]:
        ranks = scores_of(base_of(self.base, "sensitivity"), model, coupling, seed)
        measured = curves(model, coupling, ranks, evaluate, self.rates)
        macs = channel_macs(coupling)
        rising = [np.maximum.accumulate(losses(c) / m) for c, m in zip(measured.curves, macs, strict=True)]
        # Between two measured widths all channels lose the same: a difference too small for anything else ranks them.
        least = TIE * (max((rise[-1] for rise in rising if rise.size), default=0.0) or 1.0)
        scores = []
        for rise, rank in zip(rising, ranks, strict=True):
            score = np.empty(rank.size)
            place = np.arange(rank.size) / rank.size
            score[np.argsort(rank, kind="stable")] = np.append(rise, rise[-1] if rise.size else 0.0) + least * place
            scores.append(score)
        return tuple(scores)


def sensitivity(
    model: nn.Module,
    example: Any,
    evaluate: Callable[[nn.Module], float],
    *,
    method: str | Method | Search = "magnitude",
    rates: Sequence[float] = RATES,
    pin: str | nn.Module | Sequence[str | nn.Module] = (),
    attention: str = "heads",
    seed: int = 0,
    data: Any = None,
    loss: Any = None,
) -> Curves:
    """Measure how much each group can lose: `evaluate(small_model)`, higher is better, with one group cut at a time.

    rates: the fractions of a group that are removed in turn. method: what ranks its channels; data and loss are for
    methods that need them. Takes about groups × rates evaluations. Nothing is changed. Raises what `prune` raises.
    """
    from . import method_of

    measured = fractions(rates)
    if not callable(evaluate):
        raise InputError(f"evaluate is {NEEDS['evaluate']}, not {type(evaluate).__name__}")
    dense, chosen = the_model(model), method_of(method)
    if searches(chosen):
        raise InputError(f"{label(chosen)} looks for channels and ranks none; sensitivity needs a ranking")
    coupling = trace(dense, example, pin=names(pin), attention=attention)
    if not coupling.groups:
        raise nothing(coupling)
    scores = scores_of(cast("Method", chosen), dense, coupling, seed, Given(data, loss, evaluate, example))
    with as_found(dense):
        return curves(dense, coupling, scores, evaluate, measured)
