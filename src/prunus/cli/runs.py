"""The verb that lists run folders."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prunus.cli import options as opt
from prunus.cli.verb import Reply, Verb
from prunus.errors import InputError

if TYPE_CHECKING:
    from prunus.lab.runs import Run

__all__ = ["RUNS", "add_columns", "add_runs"]


def add_runs(parser: argparse.ArgumentParser) -> None:
    """FOLDER…, --where."""
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="run folders, or folders of them (default runs)")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="COND",
        help="only runs that meet it: finetune.epochs=4, prune.method!=random, 'finetuned>=90', status=done",
    )


def add_columns(parser: argparse.ArgumentParser) -> None:
    """--columns."""
    parser.add_argument(
        "--columns",
        type=opt.names,
        default=(),
        metavar="A,B",
        help="more columns: any recipe field or figure, such as finetune.lr,prune.method,macs-left",
    )


def runs_options(parser: argparse.ArgumentParser) -> None:
    """Options of `runs`."""
    add_runs(parser)
    add_columns(parser)
    parser.add_argument("--sort", metavar="NAME", help="by a figure, the best first, or by a setting")
    parser.add_argument("--diff", action="store_true", help="the settings in which the runs are not all alike")


def runs(options: argparse.Namespace) -> Reply:
    """List runs."""
    from prunus.lab.figures import least
    from prunus.lab.runs import differences, find, known, shown, where

    found = where(find(options.folders or ["runs"]), options.where)
    for name in (*options.columns, *([options.sort] if options.sort else [])):
        known(name, found)
    if options.sort:
        name = options.sort
        figure = any(shown(run, name) is not None and name not in run.fields for run in found)
        down = figure and name not in ("name", "seed", "status") and not least(name.replace("-", " "))

        def place(run: Run) -> tuple[bool, float, str]:
            value = shown(run, name)
            if isinstance(value, int | float):
                return False, -value if down else value, ""
            return value is None, 0.0, str(value)

        found.sort(key=place)
    if options.diff and len(found) < 2:
        raise InputError(f"--diff needs two runs or more; there {'is' if found else 'are'} {len(found)}")
    differing = differences(found) if options.diff else {}
    data: dict[str, Any] = {"runs": [run.as_dict() for run in found]}
    for told, run in zip(data["runs"], found, strict=True):
        told["columns"] = {name: shown(run, name) for name in options.columns}
    if options.diff:
        data["differences"] = {name: list(row) for name, row in differing.items()}
    return Reply(data, lambda: _differences(found, differing) if options.diff else _list(found, options.columns))


def _list(found: Sequence[Run], columns: Sequence[str]) -> None:
    from prunus.cli.show import say, table
    from prunus.lab.formats import figure, text_of
    from prunus.lab.runs import shown

    names = [name for name in ("before", "cut", "finetuned", "macs left") if any(name in r.figures for r in found)]
    rows = []
    for run in found:
        more = (text_of(shown(run, name)) for name in columns)
        seed = "" if run.seed is None else str(run.seed)
        rows.append((text_of(run.name), seed, run.status, *(figure(run.figures.get(name)) for name in names), *more))
    table(("run", "seed", "status", *names, *columns), rows)
    for run in found:
        if run.why:
            say(f"{run.folder}: {text_of(run.why)}")


def _differences(found: Sequence[Run], differing: dict[str, tuple[Any, ...]]) -> None:
    from prunus.cli.show import say, table
    from prunus.lab.formats import text_of

    heads = [f"{text_of(run.name)}, seed {run.seed}" for run in found]
    if len(set(heads)) < len(heads):
        heads = [str(run.folder) for run in found]
    if differing:
        table(("setting", *heads), ((name, *map(text_of, row)) for name, row in differing.items()))
    else:
        say("the settings are the same")


RUNS = Verb(
    "runs",
    "List run folders: filter, sort, show where their settings differ.",
    "prunus runs runs --where prune.method=slimming --sort finetuned --columns finetune.lr",
    runs_options,
    runs,
)
