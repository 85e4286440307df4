"""`prunus prune --rounds`: mask single weights and train back, several times, and make a table of it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from prunus.cli import options as opt
from prunus.cli.remembered import epochs_of
from prunus.cli.verb import Reply, first
from prunus.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from prunus.cli.source import Source
    from prunus.lab.job import Cut
    from prunus.lab.rounds import Row
    from prunus.methods import Thinned

__all__ = ["add_rounds", "in_rounds"]


@opt.option
def counts(text: str) -> tuple[int, ...]:
    """`1,3,5` -> (1, 3, 5)."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(f"{text!r} is no list of rounds; give whole numbers of at least 1, such as 1,3,5")
    return tuple(int(part) for part in parts)


def add_rounds(parser: argparse.ArgumentParser) -> None:
    """--rounds and --rewind; and --optimizer and --weight-decay, since published rounds train with Adam."""
    from prunus.engine.config import Fit, Optimizer

    group = parser.add_argument_group("how it trains back")
    default = Fit()
    group.add_argument(
        "--optimizer", choices=get_args(Optimizer), default=default.optimizer, help=f"(default {default.optimizer})"
    )
    group.add_argument(
        "--weight-decay", type=opt.number, default=default.weight_decay, metavar="X", help="(default %(default)s)"
    )
    group = parser.add_argument_group("rounds of --method weights")
    group.add_argument(
        "--rounds",
        type=counts,
        default=(),
        metavar="A,B",
        help="mask and train back, so many times, a row for each number; --target (default weights=30%%) is of what "
        "remains in each round, or of the whole with --option rate_of=whole; each trains for --finetune-epochs, by "
        "default for as many as the run of --from",
    )
    group.add_argument("--rewind", metavar="RUN", help="an early run of the network, put back under each new mask")


def in_rounds(options: argparse.Namespace, cut: Cut) -> Reply:
    """One row for each count of rounds, the dense network first; each network in a folder of its own below --out."""
    from prunus.cli.show import say, table
    from prunus.cli.source import finetuning, runtime, task, with_data
    from prunus.lab import folder
    from prunus.lab.rounds import HEAD, asked, cells, rounds

    if not options.rounds:
        raise InputError("--rewind puts weights back in rounds; give --rounds too, such as --rounds 1,3,5")
    cut, method = asked(cut)
    epochs = options.finetune_epochs or epochs_of(options.source)
    if not epochs:
        raise InputError("--rounds train after each mask; give --finetune-epochs, such as --finetune-epochs 30")
    where = runtime(options)
    out = None if options.out is None else folder.ready(options.out)
    given, data = with_data(options)
    fit = finetuning(options, data, epochs)
    assert fit is not None
    found: list[tuple[Row, dict[str, Any]]] = []
    for row, thin in rounds(
        given.model,
        given.example,
        cut,
        options.rounds,
        data=data,
        after=fit,
        runtime=where,
        task=task(options),
        early=_early(options.rewind),
        progress=not options.json,
    ):
        content = {**asdict(row), **_report(thin)}
        found.append((row, content))
        if thin is not None and out is not None and first():
            _write(folder.ready(str(out / f"rounds-{row.rounds}")), given, thin, cut, content)
    answer = {
        "model": given.description.model,
        "data": options.data,
        "method": cut.method,
        "target": str(cut.target),
        "rate_of": method.rate_of,
        "rows": [content for _, content in found],
        "out": options.out,
    }

    def show() -> None:
        rows = [cells(options.data, given.description.model, row) for row, _ in found]
        table(HEAD, rows, title=f"{cut.target} of {_of(method.rate_of)}")
        if out is not None:
            say(f"written to {out}/rounds-…")

    return Reply(answer, show)


def _of(rate_of: str) -> str:
    return "what remains, in each round" if rate_of == "remaining" else "the whole, in the last round"


def _early(path: str | None) -> dict[str, Tensor] | None:
    """The weights of the run to rewind to."""
    from prunus.lab import folder

    return None if path is None else folder.rebuild(*folder.read(Path(path))).state_dict()


def _report(thin: Thinned | None) -> dict[str, Any]:
    from prunus.methods.sparsity import as_json

    return {} if thin is None else {"sparsity": as_json(thin, thin.sizes())}


def _write(out: Path, given: Source, thin: Thinned, cut: Cut, content: dict[str, Any]) -> None:
    from prunus.lab import folder

    plan = thin.plan if given.plan is None else given.plan.then(thin.plan)
    folder.write(out, thin.model, plan, given.description, {"method": cut.method, "target": str(cut.target), **content})
