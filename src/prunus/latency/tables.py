"""Seconds of a layer over (in width, out width), from a few points.

    t(i, o) = B(i', o') · f_in(i) · f_out(o),    w' = w + λ (⌈w / 16⌉ · 16 − w)

B is linear between knots, in both widths: an eighth, a quarter, a half, three quarters and all of the dense width, each
rounded to a multiple of 16 where the width is 64 or more, of 8 where it is 32 or more. λ and f say what a width costs
that vectors do not fill, on each side: with λ = 1 it costs what the next multiple of 16 does, with λ = 0 no more than
its share; f is what is left, by the largest power of two up to 16 that divides the width (a slower kernel for odd
widths). They are measured beside the middle of the grid, 1, 2, 4, 8 and 15 below a multiple of 16: the widths of 1 and
15 are both odd, so that their difference is λ. Where the width is below 64, or a group of a grouped convolution would
have to be split, λ = 0 and f = 1. A side that cannot change has one knot. Below the lowest knot the line goes on, down
to a tenth of the least that was measured.

Full grids have 25 points and 10 beside them. A depthwise convolution has one width, so 5 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .settings import DEPTHWISE, Layer, Setting

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Point = tuple[int, int]
Lookup = Callable[[Setting, int, int], float]

FRACTIONS = (0.125, 0.25, 0.5, 0.75)
VECTOR = 16
BESIDE = (1, 2, 4, 8, 15)
"""How far below a multiple of 16: odd, even, of 4, of 8; and the first width above the multiple before."""
KNOTS = len(FRACTIONS) + 1
CLASSES = 5


@dataclass(frozen=True)
class Side:
    """The widths of one side that are timed: `knots`, and those `beside` the one nearest to the half."""

    knots: tuple[int, ...]
    middle: int
    beside: tuple[int, ...]


def side(width: int, free: bool, quantum: int = 1) -> Side:
    """The widths for a dense width of which `quantum` go together."""
    if not free:
        return Side((width,), width, ())
    unit = math.lcm(quantum, VECTOR if width >= 64 else 8 if width >= 32 else 1)
    found = {min(width, max(unit, round(width * f / unit) * unit)) for f in FRACTIONS} | {width}
    knots = tuple(sorted(found))
    middle = min(knots, key=lambda knot: (abs(knot - width / 2), knot))
    fine = quantum == 1 and width >= 64
    return Side(knots, middle, tuple(middle - d for d in BESIDE) if fine else ())


def sides(layer: Layer) -> tuple[Side, Side]:
    """The in and the out widths of a layer."""
    called = layer.called
    groups = called.setting.groups
    if groups == DEPTHWISE:
        times = called.outer // called.inner
        return Side((called.inner,), called.inner, ()), side(called.outer, bool(layer.outer.terms), times)
    return (
        side(called.inner, bool(layer.inner.terms), groups),
        side(called.outer, bool(layer.outer.terms), groups),
    )


def point(layer: Layer, inner: int, outer: int) -> Point:
    """The widths that are timed: a depthwise layer reads as much as it makes."""
    called = layer.called
    if called.setting.groups == DEPTHWISE:
        return outer * called.inner // called.outer, outer
    return inner, outer


def points_of(layer: Layer) -> list[Point]:
    """All widths that the table of a layer needs."""
    one, two = sides(layer)
    wanted = [(i, o) for i in one.knots for o in two.knots]
    wanted += [(i, two.middle) for i in one.beside] + [(one.middle, o) for o in two.beside]
    return list(dict.fromkeys(point(layer, i, o) for i, o in wanted))


def vector_class(widths: Ints) -> Ints:
    """0 for odd widths, 1, 2, 3 where 2, 4, 8 divides them, 4 where 16 does."""
    low = np.minimum(widths & -widths, VECTOR)
    found: Ints = np.log2(np.maximum(low, 1)).astype(np.int64)
    return found


@dataclass(frozen=True, eq=False)
class Tables:
    """The tables of all layers, stacked. Axis 0 of knots, factors and padding: in and out."""

    knots: Floats  # (2, layers, KNOTS), ascending
    seconds: Floats  # (layers, KNOTS, KNOTS): B
    factors: Floats  # (2, layers, CLASSES): f
    padding: Floats  # (2, layers): λ
    lowest: Floats  # (layers,)

    def __call__(self, inner: Ints, outer: Ints) -> Floats:
        """Seconds of each layer at the widths of many cuts: (cuts, layers) each."""
        at = np.arange(self.seconds.shape[0])
        (i, s), (o, t) = (self._place(k, widths) for k, widths in enumerate((inner, outer)))
        low = (1 - t) * self.seconds[at, i, o] + t * self.seconds[at, i, o + 1]
        high = (1 - t) * self.seconds[at, i + 1, o] + t * self.seconds[at, i + 1, o + 1]
        found = np.maximum((1 - s) * low + s * high, 0.1 * self.lowest)
        a, b = vector_class(inner), vector_class(outer)
        timed: Floats = found * self.factors[0][at, a] * self.factors[1][at, b]
        return timed

    def _place(self, k: int, widths: Ints) -> tuple[Ints, Floats]:
        """The knot at or below each width, and how far it is to the next one."""
        knots = self.knots[k]
        at = np.arange(knots.shape[0])
        n = np.clip((widths[..., None] >= knots[:, 1:]).sum(axis=-1), 0, KNOTS - 2)
        low, high = knots[at, n], knots[at, n + 1]
        full = widths + self.padding[k] * (-widths % VECTOR)
        return n, np.minimum((full - low) / (high - low), 1.0)  # a dense width was measured as it is


def tables_of(layers: Sequence[Layer], seconds: Lookup) -> Tables:
    """The tables from what was timed."""
    knots = np.zeros((2, len(layers), KNOTS))
    grids = np.zeros((len(layers), KNOTS, KNOTS))
    factors, padding = np.ones((2, len(layers), CLASSES)), np.zeros((2, len(layers)))
    known: dict[tuple[object, ...], tuple[tuple[Floats, Floats], Floats, Floats, Floats]] = {}
    for n, layer in enumerate(layers):
        one, two = sides(layer)
        key = (layer.called.setting, layer.called.inner, layer.called.outer, one, two)
        if key not in known:
            known[key] = table_of(layer, one, two, seconds)
        (knots[0, n], knots[1, n]), grids[n], factors[:, n], padding[:, n] = known[key]
    return Tables(knots, grids, factors, padding, grids.min(axis=(1, 2), initial=np.inf))


def table_of(
    layer: Layer, one: Side, two: Side, seconds: Lookup
) -> tuple[tuple[Floats, Floats], Floats, Floats, Floats]:
    """Knots, B, f and λ of one layer."""
    setting = layer.called.setting

    def timed(i: int, o: int) -> float:
        return seconds(setting, *point(layer, i, o))

    grid = np.array([[timed(i, o) for o in two.knots] for i in one.knots])
    factors, padding = np.ones((2, CLASSES)), np.zeros(2)
    lines = (grid[:, two.knots.index(two.middle)], grid[one.knots.index(one.middle)])
    for k, (its, line) in enumerate(zip((one, two), lines, strict=True)):
        if its.beside:
            found = np.array([timed(w, two.middle) if k == 0 else timed(one.middle, w) for w in its.beside])
            padding[k] = padded(found, its, line)
            full = np.array(its.beside) + padding[k] * np.array(BESIDE)
            factors[k, vector_class(np.array(its.beside[:-1]))] = (found / np.interp(full, its.knots, line))[:-1]
    grid = grid / factors[0][vector_class(np.array(one.knots))][:, None] / factors[1][vector_class(np.array(two.knots))]
    spread = KNOTS - len(one.knots), KNOTS - len(two.knots)
    whole = np.pad(grid, [(0, spread[0]), (0, spread[1])], mode="edge")
    return (longer(one.knots), longer(two.knots)), whole, factors, padding


def padded(found: Floats, its: Side, line: Floats) -> float:
    """λ, from t₁ and t₁₅, 1 and 15 below a multiple of 16 where B is b₀: t₁₅ / t₁ = b'₁₅ / b'₁, b'_w linear in λ."""
    one, most = found[0], found[-1]
    b0, b1, b15 = np.interp([its.middle, its.beside[0], its.beside[-1]], its.knots, line)
    under = most * (b0 - b1) - one * (b0 - b15)
    return float(np.clip((one * b15 - most * b1) / under, 0.0, 1.0)) if under else 0.0


def longer(knots: tuple[int, ...]) -> Floats:
    """Ascending to the full number: what is beyond the dense width is never asked for."""
    return np.array([*knots, *(knots[-1] + 1 + np.arange(KNOTS - len(knots)))], np.float64)


def wanted(layers: Sequence[Layer]) -> Mapping[Setting, list[Point]]:
    """Every setting once, with every point that a layer of it needs."""
    found: dict[Setting, dict[Point, None]] = {}
    for layer in layers:
        found.setdefault(layer.called.setting, {}).update(dict.fromkeys(points_of(layer)))
    return {setting: list(points) for setting, points in found.items()}
