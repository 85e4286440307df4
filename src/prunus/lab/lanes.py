"""A network drawn from top to bottom: one row a step, and a line from each result to everything that reads it.

The lines run in lanes beside the rows, as in a drawing of version history, so that a network of any depth can be read
by scrolling. The colour of a line is that of the group its channels belong to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

__all__ = ["Chip", "Lanes", "Row", "draw", "placed"]

_WIDE, _HIGH = 14, 34  # pixels of a lane and of a row
_GOLDEN = 137.508  # degrees: neighbouring groups get hues far apart


@dataclass(frozen=True)
class Chip:
    """The channels of one group on one side of a step. group: its number, None for channels that are pinned."""

    text: str
    group: int | None
    title: str = ""


@dataclass(frozen=True)
class Row:
    """One step. group: what the line below it is coloured by. inputs: the rows above whose results it reads. share: of
    the network's MACs, 0 to 1."""

    name: str
    kind: str
    group: int | None = None
    inputs: tuple[int, ...] = ()
    taken: tuple[Chip, ...] = ()
    made: tuple[Chip, ...] = ()
    share: float = 0.0


@dataclass(frozen=True)
class Lanes:
    """The steps in the order of the forward."""

    rows: tuple[Row, ...]


@dataclass
class Placed:
    """Where a row's dot stands, and what passes its row: (lane, row it comes from); and the lanes that end here."""

    lane: int
    passing: list[tuple[int, int]] = field(default_factory=list)
    ending: list[tuple[int, int]] = field(default_factory=list)
    goes_on: bool = False


def placed(rows: Sequence[Row]) -> list[Placed]:
    """A lane for each row: that of an input which nothing reads later, else the first free one."""
    last = {source: k for k, row in enumerate(rows) for source in row.inputs}
    busy: list[int | None] = []  # by lane: the row whose result runs in it
    found: list[Placed] = []
    for k, row in enumerate(rows):
        held = [(lane, source) for lane, source in enumerate(busy) if source is not None]
        ending = [(lane, source) for lane, source in held if source in row.inputs]
        for lane, source in ending:
            if last[source] == k:
                busy[lane] = None
        free = [lane for lane, source in enumerate(busy) if source is None]
        lane = min(free, default=len(busy))
        passing = [(at, source) for at, source in held if busy[at] == source]
        if lane == len(busy):
            busy.append(None)
        if k in last:
            busy[lane] = k
        found.append(Placed(lane, passing, ending, k in last))
    return found


def colour(group: int | None) -> str:
    """A hue for each group; grey for what is pinned."""
    return "var(--soft)" if group is None else f"hsl({group * _GOLDEN % 360:.0f} 60% 50%)"


def draw(lanes: Lanes) -> str:
    """The rows as HTML with one small SVG each. Every text is escaped."""
    places = placed(lanes.rows)
    width = _WIDE * (1 + max((max([p.lane, *(lane for lane, _ in p.passing)]) for p in places), default=0))
    rows = zip(lanes.rows, places, strict=True)
    return '<div class="net">\n' + "\n".join(_row(row, place, lanes.rows, width) for row, place in rows) + "\n</div>"


def _row(row: Row, place: Placed, rows: Sequence[Row], width: int) -> str:
    at, middle = _across(place.lane), _HIGH // 2
    lines = [_line(f"M{_across(lane)} 0V{_HIGH}", rows[source].group) for lane, source in place.passing]
    for lane, source in place.ending:
        x = _across(lane)
        bend = f"M{x} 0C{x} {middle} {at} 0 {at} {middle}" if x != at else f"M{at} 0V{middle}"
        lines.append(_line(bend, rows[source].group))
    if place.goes_on:
        lines.append(_line(f"M{at} {middle}V{_HIGH}", row.group))
    dot = f'<circle cx="{at}" cy="{middle}" r="4" style="fill:{colour(row.group)}"/>'
    svg = f'<svg width="{width}" height="{_HIGH}" aria-hidden="true">{"".join(lines)}{dot}</svg>'
    taken, made = "".join(map(_chip, row.taken)), "".join(map(_chip, row.made))
    arrow = " → " if taken and made else ""
    share = f"{100 * row.share:.1f} %" if row.share else ""
    return (
        f'<div class="step">{svg}<span class="name">{escape(row.name)} <span class="kind">{escape(row.kind)}</span>'
        f'</span><span class="chips">{taken}{arrow}{made}</span><span class="figure">{share}</span></div>'
    )


def _across(lane: int) -> int:
    return lane * _WIDE + _WIDE // 2


def _line(path: str, group: int | None) -> str:
    return f'<path d="{path}" style="stroke:{colour(group)}"/>'


def _chip(chip: Chip) -> str:
    title = f' title="{escape(chip.title)}"' if chip.title else ""
    kind = "pinned" if chip.group is None else "free"
    return f'<span class="chip {kind}"{title} style="border-color:{colour(chip.group)}">{escape(chip.text)}</span>'
