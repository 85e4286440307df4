"""The verb that carries out a recipe at many points."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from prunus.cli import options as opt
from prunus.cli.run import add_recipe
from prunus.cli.verb import Reply, Verb

if TYPE_CHECKING:
    from prunus.lab.book import Swept, Tried

__all__ = ["SWEEP"]


def sweep_options(parser: argparse.ArgumentParser) -> None:
    """Options of `sweep`."""
    add_recipe(parser)
    parser.add_argument("--out", default="runs", metavar="DIR", help="stages and runs go here (default runs)")
    parser.add_argument("--repeat", type=opt.positive, metavar="N", help="N seeds for each point, from the recipe's on")
    group = parser.add_argument_group("a grid")
    group.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="K=A,B",
        help='values of a setting; a comma inside quotes or brackets parts nothing: prune.target="macs=50%%,round=8"; '
        "several axes make the cross product; a+b=X,Y sets two settings alike",
    )
    group = parser.add_argument_group("a search")
    group.add_argument("--search", type=opt.positive, metavar="N", help="N trials in all, drawn by Optuna's TPE")
    group.add_argument(
        "--range", action="append", default=[], metavar="K=A..B", help="numbers, with :log behind them or not"
    )
    group.add_argument("--choice", action="append", default=[], metavar="K=A,B", help="values, as in --grid")
    group.add_argument(
        "--objective",
        type=opt.names,
        default=("accuracy", "macs"),
        metavar="A,B",
        help="accuracy (on the validation part), macs, params (default accuracy,macs); with accuracy alone, trials "
        "below the median of the others are given up",
    )
    group.add_argument("--storage", metavar="URL", help="of Optuna's study (default study.db beside the runs)")
    group.add_argument("--study", metavar="NAME", help="of the study in the storage (default the recipe's name)")
    group = parser.add_argument_group("where it runs")
    group.add_argument("--jobs", type=opt.positive, metavar="N", help="runs at once (default: by GPUs, or cores)")
    group.add_argument("--threads", type=opt.positive, metavar="N", help="of each run (default: the cores divided)")
    group.add_argument("--on", default="here", metavar="WHERE", help="here, or ray: the machines of a Ray cluster")


def sweep(options: argparse.Namespace) -> Reply:
    """Carry out a recipe at many points."""
    from prunus.lab.sweep import sweep as carry_out

    try:
        swept = carry_out(
            options.recipe,
            options.set,
            grid=options.grid,
            search=options.search,
            ranges=options.range,
            choices=options.choice,
            objectives=options.objective,
            repeat=options.repeat,
            jobs=options.jobs,
            threads=options.threads,
            on=options.on,
            storage=options.storage,
            study=options.study,
            smoke=options.smoke,
            out=options.out,
            say=(lambda line: None) if options.json else None,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on from the last checkpoints") from None
    return Reply(swept.as_dict(), lambda: _show(swept), code=1 if swept.failed else 0)


def _show(swept: Swept) -> None:
    from prunus.cli.show import say, table
    from prunus.lab.figures import MEASURED, last

    names = [name for name in ("validation", *MEASURED, "macs left") if any(_has(one, name) for one in swept.points)]
    end = last({name: True for name in names if name in MEASURED})
    names = [name for name in names if name == end or name not in MEASURED]
    rows = []
    for one in swept.points:
        best = ["best" if one.name in swept.front else ""] if swept.front else []
        rows.append((one.name, _status(one), *(_cell(one, name) for name in names), *best))
    search = ["search"] if swept.front else []
    table(("point", "runs", *(MEASURED.get(name, name) for name in names), *search), rows)
    for name, failure in swept.failed:
        say(f"{name}: {failure}; the same command tries it again")
    say(f"written to {swept.folder}; see prunus report {swept.folder} --out page.html")


def _has(one: Tried, name: str) -> bool:
    return name in one.finished.summary


def _cell(one: Tried, name: str) -> str:
    from prunus.lab.formats import figure

    found = one.finished.summary.get(name, {})
    mean, sd = found.get("mean"), found.get("sd")
    return figure(mean) + (f" ± {figure(sd)}" if sd else "")


def _status(one: Tried) -> str:
    if one.stopped:
        return "stopped"
    found = one.finished
    return f"{len(found.chains)} done" + (f", {len(found.failed)} failed" if found.failed else "")


SWEEP = Verb(
    "sweep",
    "Carry out a recipe at the points of a grid, or search for good ones; many runs at once.",
    "prunus sweep recipes/digits-resnet20-slimming.toml --grid prune.target=macs=50%,macs=30% --repeat 2 --jobs 2",
    sweep_options,
    sweep,
)
