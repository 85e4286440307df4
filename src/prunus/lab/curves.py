"""Curves over the epochs of a run as inline SVG: one line a seed, the stages side by side, without a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from prunus.lab.scatter import ticks

__all__ = ["Chart", "Charts", "Curve", "draw"]

_WIDE, _HIGH, _LEFT, _RIGHT, _TOP, _BELOW = 300, 170, 42, 10, 10, 34
_MOST = 200  # points that are drawn of a curve


@dataclass(frozen=True)
class Curve:
    """(epoch, value) in rising order."""

    label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """Curves on one scale. stages: (the last epoch before it, name) of each stage. level: a dashed line, such as a
    budget, and what it is."""

    title: str
    curves: tuple[Curve, ...]
    stages: tuple[tuple[int, str], ...] = ()
    level: float | None = None
    level_text: str = ""


@dataclass(frozen=True)
class Charts:
    """Side by side."""

    charts: tuple[Chart, ...]


def draw(charts: Charts) -> str:
    """The charts as HTML. Every text is escaped."""
    return '<div class="plots wide">\n' + "\n".join(_chart(chart) for chart in charts.charts) + "\n</div>"


def _chart(chart: Chart) -> str:
    values = [y for curve in chart.curves for _, y in curve.points]
    values += [] if chart.level is None else [chart.level]
    epochs = [x for curve in chart.curves for x, _ in curve.points]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
    first, last = min(epochs, default=0.0), max(epochs, default=1.0)
    last = last if last > first else first + 1

    def x(value: float) -> float:
        return round(_LEFT + (_WIDE - _LEFT - _RIGHT) * (value - first) / (last - first), 1)

    def y(value: float) -> float:
        return round(_HIGH - _BELOW - (_HIGH - _BELOW - _TOP) * (value - low) / (high - low), 1)

    bottom = _HIGH - _BELOW
    marks = [f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{_WIDE - _RIGHT}"/>']
    for tick in ticks(low, high, 4):
        marks.append(f'<text x="{_LEFT - 4}" y="{y(tick) + 4}" text-anchor="end">{tick:.4g}</text>')
    for tick in ticks(first, last, 4):
        if tick == int(tick):
            marks.append(f'<text x="{x(tick)}" y="{bottom + 13}" text-anchor="middle">{tick:.0f}</text>')
    for before, name in chart.stages:
        at = x(max(first, before + 0.5))
        if before:
            marks.append(f'<path class="axis" d="M{at} {_TOP}V{bottom}"/>')
        after = min((x(other + 0.5) for other, _ in chart.stages if other > before), default=float(_WIDE))
        if after - at > 6 * len(name):  # pixels: else the names would run into one another
            marks.append(f'<text x="{at + 3}" y="{_HIGH - 5}">{escape(name)}</text>')
    if chart.level is not None:
        title = f"<title>{escape(chart.level_text)}</title>"
        marks.append(f'<path class="level" d="M{_LEFT} {y(chart.level)}H{_WIDE - _RIGHT}">{title}</path>')
    for curve in chart.curves:
        points = thinned(curve.points)
        title = f"<title>{escape(curve.label)}</title>"
        if len(points) == 1:
            marks.append(f'<circle cx="{x(points[0][0])}" cy="{y(points[0][1])}" r="2.5">{title}</circle>')
        elif points:
            path = "L".join(f"{x(a)} {y(b)}" for a, b in points)
            marks.append(f'<path class="curve thin" d="M{path}">{title}</path>')
    text = chart.title + (f" (dashed: {chart.level_text})" if chart.level is not None else "")
    ends = "; ".join(f"{curve.label}: {curve.points[-1][1]:.4g}" for curve in chart.curves if curve.points)
    label = escape(f"{text}. At the end: {ends}")
    svg = f'<svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="{label}">{"".join(marks)}</svg>'
    return f"<figure><figcaption>{escape(text)}</figcaption>{svg}</figure>"


def thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most _MOST of them, evenly, with the first and the last."""
    if len(points) <= _MOST:
        return points
    return [points[round(k * (len(points) - 1) / (_MOST - 1))] for k in range(_MOST)]
