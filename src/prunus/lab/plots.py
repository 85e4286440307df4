"""Line plots as inline SVG: small multiples on one scale, without a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Line", "Plots", "draw"]

_WIDE, _HIGH, _LEFT, _BELOW, _TOP = 220, 130, 40, 22, 8  # pixels: the drawing, and room for its labels


@dataclass(frozen=True)
class Line:
    """One small plot: `points` (x, y) in rising x, under a title."""

    title: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Plots:
    """Small plots on one scale. across: what x is, in percent from 0 to 100; up: what y is; level: a dashed line."""

    lines: tuple[Line, ...]
    across: str
    up: str
    level: float | None = None


def draw(plots: Plots) -> str:
    """The plots as HTML. Every text is escaped."""
    values = [y for line in plots.lines for _, y in line.points]
    values += [] if plots.level is None else [plots.level]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
    figures = "\n".join(_figure(line, plots, low, high) for line in plots.lines)
    legend = f'<p class="legend">across: {escape(plots.across)}; up: {escape(plots.up)}</p>'
    return f'{legend}\n<div class="plots">\n{figures}\n</div>'


def _figure(line: Line, plots: Plots, low: float, high: float) -> str:
    def x(value: float) -> float:
        return round(_LEFT + (_WIDE - _LEFT - 14) * value / 100, 1)

    def y(value: float) -> float:
        return round(_HIGH - _BELOW - (_HIGH - _BELOW - _TOP) * (value - low) / (high - low), 1)

    bottom, right = y(low), x(100)
    marks = [f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>']
    if plots.level is not None:
        marks.append(f'<path class="level" d="M{_LEFT} {y(plots.level)}H{right}"/>')
    path = "L".join(f"{x(a)} {y(b)}" for a, b in line.points)
    marks.append(f'<path class="curve" d="M{path}"/>')
    marks += [
        f'<circle cx="{x(a)}" cy="{y(b)}" r="3"><title>{a:.0f} %: {b:.4g}</title></circle>' for a, b in line.points
    ]
    marks += [f'<text x="{_LEFT - 4}" y="{y(v) + 4}" text-anchor="end">{v:.4g}</text>' for v in _ends(low, high)]
    marks += [f'<text x="{x(v)}" y="{_HIGH - 6}" text-anchor="middle">{v}</text>' for v in (0, 50, 100)]
    told = "; ".join(f"{a:.0f} %: {b:.4g}" for a, b in line.points)
    label = escape(f"{line.title}: {told}")
    svg = f'<svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="{label}">{"".join(marks)}</svg>'
    return f"<figure><figcaption>{escape(line.title)}</figcaption>{svg}</figure>"


def _ends(low: float, high: float) -> Sequence[float]:
    return (low, high)
