"""The verb that makes tables and pages of runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from prunus.cli.runs import add_columns, add_runs
from prunus.cli.verb import Reply, Verb

if TYPE_CHECKING:
    from prunus.lab.report import Report

__all__ = ["REPORT"]

WIDE: tuple[str, ...] = (
    "selection",
    "after sparsity training",
    "cut",
    "best",
    "low",
    "high",
    "drop",
    "top-5",
    "loss",
    "macs",
)
WIDE += (
    "params",
    "params removed %",
    "actual",
    "epochs",
    "minutes",
    "validation",
    "minutes an epoch",
    "prune epochs",
    "fine-tune epochs",
    "α",
)
WIDE += ("budget met, k steps", "left at the end of training %", "left after extraction %")
"""Columns for which a terminal has no room; a file has them."""


def report_options(parser: argparse.ArgumentParser) -> None:
    """Options of `report`."""
    add_runs(parser)
    add_columns(parser)
    parser.add_argument("--out", metavar="FILE", help="page.html, table.md, table.csv or table.tex")
    parser.add_argument("--stages", action="store_true", help="a row for each stage: dense, sparse, cut, fine-tuned")
    parser.add_argument("--title", default="Runs", metavar="TEXT", help="of the page")


def report(options: argparse.Namespace) -> Reply:
    """Tables and pages."""
    from prunus.lab.report import report as reported

    found = reported(
        options.folders or ["runs"],
        options.out,
        stages=options.stages,
        columns=options.columns,
        conditions=options.where,
        title=options.title,
    )
    return Reply(found.as_dict(), lambda: _show(found))


def _show(found: Report) -> None:
    from prunus.cli.show import say, table
    from prunus.lab.formats import cell

    if found.file is not None:
        say(f"{len(found.rows)} rows written to {found.file}")
        return
    narrow = [name for name in found.head if name not in WIDE]
    table(narrow, ([cell(name, row[name]) for name in narrow] for row in found.rows))
    if len(found.head) > len(narrow):
        say(f"{len(found.head) - len(narrow)} columns more in a file: --out table.md, table.csv, table.tex, page.html")


REPORT = Verb(
    "report",
    "Make a table or a page of runs: HTML, Markdown, CSV or LaTeX.",
    "prunus report runs --out page.html --columns finetune.lr,prune.method",
    report_options,
    report,
)
