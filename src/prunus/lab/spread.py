"""Histograms of two moments as inline SVG: what was before as a line, what came after as bars, on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from prunus.lab.scatter import ticks

__all__ = ["Histogram", "Histograms", "draw"]

_WIDE, _HIGH, _LEFT, _RIGHT, _TOP, _BELOW = 300, 150, 12, 12, 10, 22


@dataclass(frozen=True)
class Histogram:
    """Counts of bins of one width from low to high, before and after."""

    title: str
    low: float
    high: float
    before: tuple[float, ...]
    after: tuple[float, ...]


@dataclass(frozen=True)
class Histograms:
    """Side by side."""

    parts: tuple[Histogram, ...]


def draw(histograms: Histograms) -> str:
    """The histograms as HTML. Every text is escaped."""
    legend = '<p class="legend"><span class="key kept"></span> after <span class="key whole"></span> before (line)</p>'
    figures = "\n".join(map(_figure, histograms.parts))
    return f'{legend}\n<div class="plots wide">\n{figures}\n</div>'


def _figure(one: Histogram) -> str:
    most = max((*one.before, *one.after), default=0) or 1
    bottom, bins = _HIGH - _BELOW, max(len(one.before), len(one.after), 1)
    wide = (_WIDE - _LEFT - _RIGHT) / bins

    def x(nth: float) -> float:
        return round(_LEFT + nth * wide, 1)

    def y(count: float) -> float:
        return round(bottom - (bottom - _TOP) * count / most, 1)

    marks = [f'<path class="axis" d="M{_LEFT} {bottom}H{_WIDE - _RIGHT}"/>']
    width = (one.high - one.low) / bins
    for k, count in enumerate(one.after):
        if count:
            told = escape(f"{one.low + k * width:.3g} … {one.low + (k + 1) * width:.3g}: {_told(one, k)}")
            marks.append(
                f'<rect class="kept" x="{x(k)}" y="{y(count)}" width="{round(max(wide - 1, 0.5), 1)}" '
                f'height="{round(bottom - y(count), 1)}"><title>{told}</title></rect>'
            )
    if any(one.before):
        steps = "".join(f"V{y(count)}H{x(k + 1)}" for k, count in enumerate(one.before))
        marks.append(f'<path class="before" d="M{_LEFT} {bottom}{steps}V{bottom}"/>')
    for tick in ticks(one.low, one.high, 4):
        at = x((tick - one.low) / width) if width else _LEFT
        marks.append(f'<text x="{at}" y="{_HIGH - 6}" text-anchor="middle">{tick:.4g}</text>')
    ends = "; ".join(f"{when}: {sum(counts):,.0f} values" for when, counts in _moments(one))
    label = escape(f"{one.title}. {ends}; the highest bin holds {most:,.0f}")
    svg = f'<svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="{label}">{"".join(marks)}</svg>'
    return f"<figure><figcaption>{escape(one.title)}</figcaption>{svg}</figure>"


def _moments(one: Histogram) -> Sequence[tuple[str, tuple[float, ...]]]:
    return [(when, counts) for when, counts in (("before", one.before), ("after", one.after)) if counts]


def _told(one: Histogram, k: int) -> str:
    was = f", {one.before[k]:,.0f} before" if k < len(one.before) else ""
    return f"{one.after[k]:,.0f}{was}"
