"""Small line plots: where points stand, what is escaped."""

from __future__ import annotations

import re

from prunus.lab.plots import Line, Plots, draw


def dots(html: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', html)]


def test_all_plots_share_one_scale() -> None:
    lines = (Line("a", ((0, 10.0), (100, 0.0))), Line("b", ((0, 10.0), (50, 5.0))))
    (ax0, ay0), (ax1, ay1), (bx0, by0), (bx1, by1) = dots(draw(Plots(lines, "rate", "top-1")))
    assert (ax0, ay0) == (bx0, by0)
    assert bx1 == (ax0 + ax1) / 2 and by1 == (ay0 + ay1) / 2
    assert ay0 < ay1, "higher values stand higher"


def test_a_flat_curve_and_a_level_are_drawn() -> None:
    html = draw(Plots((Line("flat", ((0, 1.0), (90, 1.0))),), "rate", "top-1", level=1.0))
    assert len({y for _, y in dots(html)}) == 1 and 'class="level"' in html


def test_texts_are_escaped() -> None:
    html = draw(Plots((Line("<b>", ((0, 1.0),)),), "<i>", "&"))
    assert "<b>" not in html and "<i>" not in html and "&lt;b&gt;" in html
