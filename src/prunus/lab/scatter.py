"""Points in a plane as inline SVG: accuracy against cost, with error bars and the Pareto front, without a script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Point", "Scatter", "draw", "front", "ticks"]

_WIDE, _HIGH, _LEFT, _RIGHT, _TOP, _BELOW = 420, 280, 46, 16, 16, 40
_NUMBERED = 60  # points: beyond that, numbers beside them would hide one another


@dataclass(frozen=True)
class Point:
    """x: the cost; y: the higher the better; low, high: the ends of its error bar. link: where it leads on the page.
    rival: whether it takes part in the front; one that does not is drawn hollow."""

    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    link: str = ""
    rival: bool = True


@dataclass(frozen=True)
class Scatter:
    """Points, numbered in their order. across, up: what x and y are."""

    points: tuple[Point, ...]
    across: str
    up: str


def front(points: Sequence[Point]) -> list[Point]:
    """The rivals that no other beats at the same or a smaller cost, by rising cost."""
    best, found = -math.inf, []
    for point in sorted((p for p in points if p.rival), key=lambda p: (p.x, -p.y)):
        if point.y > best:
            best = point.y
            found.append(point)
    return found


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high: multiples of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= 0.7 * rough)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def draw(scatter: Scatter) -> str:
    """The plot as HTML. Every text is escaped."""
    if not scatter.points:
        return '<p class="legend">nothing to draw yet</p>'
    unit, word = _unit(max(point.x for point in scatter.points))
    left, right = _range([p.x for p in scatter.points], [])
    left = max(0.0, left)
    bars = [(p.high - p.low) / 2 for p in scatter.points if p.low is not None and p.high is not None]
    low, high = _range([p.y for p in scatter.points], bars)

    def x(value: float) -> float:
        return round(_LEFT + (_WIDE - _LEFT - _RIGHT) * (value - left) / (right - left), 1)

    def y(value: float) -> float:
        inside = min(max(value, low), high)
        return round(_HIGH - _BELOW - (_HIGH - _BELOW - _TOP) * (inside - low) / (high - low), 1)

    bottom = _HIGH - _BELOW
    marks = [f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{_WIDE - _RIGHT}"/>']
    for tick in ticks(low, high):
        marks.append(f'<text x="{_LEFT - 5}" y="{y(tick) + 4}" text-anchor="end">{tick:.6g}</text>')
    for tick in ticks(left / unit, right / unit):
        marks.append(f'<text x="{x(tick * unit)}" y="{bottom + 14}" text-anchor="middle">{tick:.6g}</text>')
    marks.append(f'<text x="{_LEFT - 40}" y="{_TOP - 5}">{escape(scatter.up)}</text>')
    across = scatter.across + (f", {word}" if word else "")
    marks.append(f'<text x="{_WIDE - _RIGHT}" y="{_HIGH - 8}" text-anchor="end">{escape(across)}</text>')
    best = front(scatter.points)
    if len(best) > 1:
        steps = "".join(f"H{x(p.x)}V{y(p.y)}" for p in best[1:])
        marks.append(f'<path class="front" d="M{x(best[0].x)} {y(best[0].y)}{steps}"/>')
    numbers = len(scatter.points) <= _NUMBERED
    for number, point in enumerate(scatter.points, start=1):
        marks.append(_mark(number, point, x(point.x), y(point.y), y, numbers))
    told = "; ".join(_told(point) for point in scatter.points)
    svg = f'<svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="{escape(told)}">{"".join(marks)}</svg>'
    names = "".join(f"<li>{_link(point, escape(_told(point)))}</li>" for point in scatter.points)
    return f'<figure class="chart">{svg}</figure>\n<ol class="names">{names}</ol>'


def _mark(number: int, point: Point, x: float, y: float, place: object, numbered: bool) -> str:
    assert callable(place)
    bar = ""
    if point.low is not None and point.high is not None:
        bar = f'<path class="error" d="M{x} {place(point.low)}V{place(point.high)}"/>'
    kind = "" if point.rival else ' class="hollow"'
    dot = f'<circle cx="{x}" cy="{y}" r="4"{kind}><title>{escape(_told(point))}</title></circle>'
    text = f'<text x="{x + 6}" y="{y - 5}">{number}</text>' if numbered else ""
    return _link(point, bar + dot + text)


def _link(point: Point, inner: str) -> str:
    return f'<a href="#{escape(point.link)}">{inner}</a>' if point.link else inner


def _told(point: Point) -> str:
    at = f"{point.x:,.0f}" if abs(point.x) >= 1000 else f"{point.x:.4g}"
    text = f"{point.label}: {point.y:.2f} at {at}"
    if point.low is not None and point.high is not None:
        text += f" ({point.low:.2f} … {point.high:.2f})"
    return text


def _range(values: Sequence[float], halves: Sequence[float]) -> tuple[float, float]:
    """From the smallest to the largest and room around: for error bars, but not so much that they hide the points."""
    low, high = min(values), max(values)
    span = high - low or max(abs(high) * 0.1, 1.0)
    room = max(0.08 * span, min(max(halves, default=0.0) * 1.1, span))
    return low - room, high + room


def _unit(largest: float) -> tuple[float, str]:
    for unit, word in ((1e9, "thousand millions"), (1e6, "millions"), (1e3, "thousands")):
        if largest >= unit:
            return unit, word
    return 1.0, ""
