"""The verb that carries out a recipe."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from prunus.cli.options import positive
from prunus.cli.verb import Reply, Verb

if TYPE_CHECKING:
    from prunus.lab.run import Finished

__all__ = ["RUN", "add_recipe"]


def add_recipe(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """RECIPE, --set, --smoke."""
    parser.add_argument("recipe", nargs="?" if optional else None, metavar="RECIPE", help="a recipe's TOML file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="K=V",
        help="override a setting, such as train.epochs=10; TOML values or bare words, an empty one takes it away",
    )
    parser.add_argument("--smoke", action="store_true", help="the recipe's small variant, to see that all of it runs")


def run_options(parser: argparse.ArgumentParser) -> None:
    """Options of `run`."""
    add_recipe(parser)
    parser.add_argument("--out", default="runs", metavar="DIR", help="stages and runs go here (default runs)")
    parser.add_argument(
        "--repeat",
        type=positive,
        metavar="N",
        help="N seeds, from the recipe's on; a seed that fails is told of and the others go on (exit code 1)",
    )
    parser.add_argument("--skip", action="append", default=[], metavar="STAGE", help="leave a stage out")
    parser.add_argument(
        "--from-stage",
        metavar="STAGE",
        help="do this stage and what follows again: baseline, sparsity, prune, finetune, evaluate",
    )


def run(options: argparse.Namespace) -> Reply:
    """Carry out a recipe."""
    from prunus.lab.run import run as carry_out

    try:
        finished = carry_out(
            options.recipe,
            options.set,
            smoke=options.smoke,
            out=options.out,
            skip=options.skip,
            from_stage=options.from_stage,
            repeat=options.repeat,
            progress=not options.json,
            say=(lambda line: None) if options.json else None,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on from the last checkpoint") from None
    return Reply(finished.as_dict(), lambda: _show(finished), code=1 if finished.failed else 0)


def _show(finished: Finished) -> None:
    from prunus.cli.show import amount, percent, say, table
    from prunus.engine.watch import duration
    from prunus.lab.figures import MEASURED
    from prunus.lab.recipe import PUBLISHED

    label = f"selection: {PUBLISHED}" if finished.recipe.data.published else None
    for one in finished.chains:
        title = f"seed {one.seed}" if len(finished.chains) > 1 else None
        stages = ((done.name, done.status, duration(done.seconds) if done.folder else "") for done in one.stages)
        table((title or "stage", "", "time"), stages)
        found = one.results
        if "after" in found:
            costs = (
                (kind, amount(found["before"][kind]), amount(found["after"][kind]), percent(100 * found["left"][kind]))
                for kind in ("macs", "params", "bytes", *(("nonzero",) if "sparsity" in found else ()))
            )
            table((finished.recipe.model.name, "before", "after", "left"), costs)
    names = [name for name in MEASURED if name in finished.summary]
    if len(finished.chains) > 1:
        head = ("over the seeds", "seeds", "best", "mean", "sd", "95 % interval")
        table(head, ((name, *_cells(figures)) for name, figures in finished.summary.items()), title=label)
    elif names:
        cells = (percent(finished.summary[name]["mean"]) for name in names)
        table(("accuracy on the test part", *names), [("top-1", *cells)], title=label)
    for failure in finished.failed:
        say(f"{failure}; the same command tries it again")
    say(f"written to {finished.folder}")


def _cells(figures: Mapping[str, float | None]) -> tuple[str, ...]:
    """seeds, best, mean, sd, interval."""
    from prunus.lab.formats import figure

    low, high = figures["low"], figures["high"]
    interval = "" if low is None or high is None else f"{figure(low)} … {figure(high)}"
    return (f"{figures['n']:.0f}", *(figure(figures[name]) for name in ("best", "mean", "sd")), interval)


RUN = Verb(
    "run",
    "Carry out a recipe, stage by stage; what is done already is not done again.",
    "prunus run recipes/cifar10-resnet20-slimming.toml --set data.path=cifar10 --out runs",
    run_options,
    run,
)
