"""One self-contained HTML page from plain data.

No network, no file beside it: the style sheet is inlined and the drawings are inline SVG. A page with a wide table has
one script, which sorts the table and shows what the marks of plots say; without it the page reads the same. A content
security policy in the page itself allows this script, by its digest, and nothing else. Every text that comes from a
model or a user is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path

from prunus.errors import InputError
from prunus.lab import curves, plots, scatter, spread
from prunus.lab.curves import Charts
from prunus.lab.lanes import Lanes, draw
from prunus.lab.plots import Plots
from prunus.lab.scatter import Scatter
from prunus.lab.spread import Histograms

__all__ = ["Bar", "Facts", "Page", "Section", "Table", "Widths", "render", "save"]

_SKELETON = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<header>
<h1>{title}</h1>
<p class="lead">{lead}</p>
</header>
{sections}
<footer>{footer}</footer>
</main>
{script}</body>
</html>
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Table:
    """Rows of text under `head`. The first column names the row; the others hold figures and are set to the right,
    but for those numbered in `prose`, which hold sentences. links: for each row the section that its name leads to.
    wide: it has many columns, scrolls, and sorts."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    prose: tuple[int, ...] = ()
    links: tuple[str, ...] = ()
    wide: bool = False


@dataclass(frozen=True)
class Bar:
    """The width of one group: `kept` of `dense` channels; `detail` says what the group ties, `note` why it is whole."""

    name: str
    dense: int
    kept: int
    detail: str = ""
    note: str = ""


@dataclass(frozen=True)
class Widths:
    """Bars on one scale: the longest is the widest group."""

    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Facts:
    """Name and value pairs: settings, versions, seeds."""

    pairs: tuple[tuple[str, str], ...]


Body = Table | Widths | Facts | Lanes | Plots | Scatter | Charts | Histograms


@dataclass(frozen=True)
class Section:
    """A heading, a sentence or two, and a body. anchor: a name that links lead to."""

    title: str
    text: str
    body: Body
    anchor: str = ""


@dataclass(frozen=True)
class Page:
    """All that a page shows."""

    title: str
    lead: str
    sections: tuple[Section, ...]
    footer: str = ""


def render(page: Page) -> str:
    """The HTML of `page`."""
    script = _script() if any(isinstance(s.body, Table) and s.body.wide for s in page.sections) else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _SKELETON.format(
        policy=_POLICY + (f"; script-src 'sha256-{digest}'" if script else ""),
        script=f"<script>{script}</script>\n" if script else "",
        title=escape(page.title),
        style=_style(),
        lead=escape(page.lead),
        sections="\n".join(_section(section) for section in page.sections),
        footer=escape(page.footer),
    )


def save(page: Page, file: Path) -> None:
    """Write the HTML of `page`. Raises InputError where the file cannot be written."""
    try:
        file.write_text(render(page), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {str(file)!r}: {error.strerror}") from error


@cache
def _style() -> str:
    return files("prunus.lab").joinpath("assets", "page.css").read_text(encoding="utf-8")


@cache
def _script() -> str:
    return files("prunus.lab").joinpath("assets", "page.js").read_text(encoding="utf-8")


def _section(section: Section) -> str:
    drawn = _drawn(section.body)
    text = f"<p>{escape(section.text)}</p>\n" if section.text else ""
    name = f' id="{escape(section.anchor)}"' if section.anchor else ""
    return f"<section{name}>\n<h2>{escape(section.title)}</h2>\n{text}{drawn}\n</section>"


def _drawn(body: Body) -> str:
    if isinstance(body, Table):
        return _table(body)
    if isinstance(body, Widths):
        return _widths(body)
    if isinstance(body, Plots):
        return plots.draw(body)
    if isinstance(body, Scatter):
        return scatter.draw(body)
    if isinstance(body, Charts):
        return curves.draw(body)
    if isinstance(body, Histograms):
        return spread.draw(body)
    return draw(body) if isinstance(body, Lanes) else _facts(body)


def _table(table: Table) -> str:
    kinds = [' class="prose"' if column in table.prose else "" for column in range(len(table.head))]
    head = "".join(f'<th scope="col"{kind}>{escape(cell)}</th>' for kind, cell in zip(kinds, table.head, strict=True))
    links = table.links or ("",) * len(table.rows)
    rows = "\n".join(_row(row, kinds, link) for row, link in zip(table.rows, links, strict=True))
    kind = ' class="wide"' if table.wide else ""
    return (
        f'<div class="scroll"><table{kind}>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>'
    )


def _row(row: Sequence[str], kinds: Sequence[str], link: str) -> str:
    cells = "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds[1:], row[1:], strict=True))
    name = f'<a href="#{escape(link)}">{escape(row[0])}</a>' if link else escape(row[0])
    return f'<tr><th scope="row">{name}</th>{cells}</tr>'


def _widths(widths: Widths) -> str:
    longest = max((bar.dense for bar in widths.bars), default=1)
    legend = (
        '<p class="legend"><span class="key kept"></span> kept <span class="key gone"></span> removed '
        '<span class="key whole"></span> whole on purpose</p>'
    )
    return f'{legend}\n<div class="bars">\n' + "\n".join(_bar(bar, longest) for bar in widths.bars) + "\n</div>"


def _bar(bar: Bar, longest: int) -> str:
    """One row: name, drawing, figures. The drawing scales with the window; the text does not."""
    percent = f"{100 * bar.kept / bar.dense:.0f} %"
    title = f"{bar.name}: {bar.kept} of {bar.dense} channels kept ({percent})"
    more = "".join(f"\n{line}" for line in (bar.detail, bar.note) if line)
    kind = "whole" if bar.note else "kept"
    note = f'<span class="note">{escape(bar.note)}</span>' if bar.note else ""
    return (
        f'<div class="bar"><span class="name">{escape(bar.name)}{note}</span>'
        f'<svg viewBox="0 0 {longest} 10" preserveAspectRatio="none" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title + more)}</title>"
        f'<rect class="gone" width="{bar.dense}" height="10"/><rect class="{kind}" width="{bar.kept}" height="10"/>'
        f'</svg><span class="figure">{bar.dense} → {bar.kept}</span></div>'
    )


def _facts(facts: Facts) -> str:
    pairs = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.pairs)
    return f"<dl>\n{pairs}\n</dl>"
