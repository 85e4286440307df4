"""Tables of results as Markdown, CSV and LaTeX, every text escaped for where it stands."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["as_csv", "as_markdown", "as_tex", "cell", "figure", "text_of"]

Rows = Sequence[Mapping[str, Any]]

_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",
    "]": "{]}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "…": r"\ldots{}",
    "–": "--",
}
_MARKDOWN = re.compile(r"([\\`*_\[\]|~<>&])")


def as_csv(head: Sequence[str], rows: Rows) -> str:
    """Full numbers; nothing for what is missing. Text that a spreadsheet might take for a formula gets a ' first."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_harmless(name) for name in head])
    for row in rows:
        writer.writerow([_bare(row.get(name)) for name in head])
    return out.getvalue()


def as_markdown(head: Sequence[str], rows: Rows) -> str:
    """A table of GitHub's kind. The first column is set to the left, the others to the right."""
    lines = [[_markdown(name) for name in head], [":---", *("---:" for _ in head[1:])]]
    lines += [[_markdown(cell(name, row.get(name))) for name in head] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_tex(head: Sequence[str], rows: Rows) -> str:
    """A tabular that needs no package."""
    lines = [f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", "\\hline"]
    lines += [" & ".join(map(_tex, head)) + r" \\", "\\hline"]
    lines += [" & ".join(_tex(cell(name, row.get(name))) for name in head) + r" \\" for row in rows]
    return "\n".join([*lines, "\\hline", "\\end{tabular}"]) + "\n"


def cell(name: str, value: Any) -> str:
    """A value for people. A setting, whose name has a dot, is shown as it was given; other numbers are rounded."""
    return figure(value) if isinstance(value, float) and "." not in name else text_of(value)


def figure(number: float | None) -> str:
    """1257472.0 -> "1,257,472", 93.391 -> "93.39", 0.000123 -> "0.000123"; nothing for what was not measured."""
    if number is None:
        return ""
    if abs(number) >= 1000:
        return f"{number:,.0f}"
    return f"{number:.2f}" if abs(number) >= 0.1 or number == 0 else f"{number:.3g}"


def text_of(value: Any) -> str:
    """A setting for people: numbers without noise, lists with commas; nothing for None. One line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if 10_000 <= abs(value) < 1e18 else f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={text_of(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(text_of, value))
    return _line(str(value))


def _line(text: str) -> str:
    """Without line breaks and signs that steer a terminal or a printer."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _bare(value: Any) -> Any:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    return _harmless(text_of(value))


def _harmless(text: str) -> str:
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", _line(text)).replace(r"\<", "&lt;").replace(r"\>", "&gt;").replace(r"\&", "&amp;")


def _tex(text: str) -> str:
    return "".join(_TEX.get(sign, sign) for sign in _line(text))
