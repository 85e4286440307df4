"""The verb `demo`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from prunus.cli import options as opt
from prunus.cli.verb import Reply, Verb

__all__ = ["DEMO"]


def demo_options(parser: argparse.ArgumentParser) -> None:
    """Options of `demo`; the defaults are those of `prunus.lab.demo.Demo`."""
    from prunus.lab.demo import Demo

    default = Demo()
    target = default.target.replace("%", "%%")
    opt.add_data(parser, files=False)
    group = parser.add_argument_group("what is shown")
    group.add_argument("--model", metavar="MODEL", help=f"see `prunus models` (default {default.model})")
    group.add_argument("--weights", metavar="FILE", help="start from this checkpoint instead of training")
    group.add_argument("--target", metavar="T", help=f"the budget (default {target})")
    group.add_argument("--method", metavar="M", help=f"see `prunus methods` (default {default.method})")
    group.add_argument(
        "--epochs", type=opt.positive, metavar="N", help=f"of the first training (default {default.epochs})"
    )
    group.add_argument(
        "--finetune-epochs", type=opt.whole, metavar="N", help=f"after the cut (default {default.finetune_epochs})"
    )
    group.add_argument("--out", metavar="DIR", help=f"where the page goes (default {default.out})")
    opt.add_machine(parser)
    parser.set_defaults(**{name: getattr(default, name) for name in default.__dataclass_fields__})


def demo(options: argparse.Namespace) -> Reply:
    """Train, prune, prove, fine-tune, write the page."""
    from prunus.cli.show import say, show_outcome
    from prunus.cli.source import runtime
    from prunus.lab import job
    from prunus.lab.demo import Demo, run

    asked = Demo(
        data=options.data,
        model=options.model,
        weights=options.weights,
        mean=options.mean,
        std=options.std,
        resize=options.resize,
        target=options.target,
        method=options.method,
        epochs=options.epochs,
        finetune_epochs=options.finetune_epochs,
        batch_size=options.batch_size,
        out=str(Path(options.out)),
    )
    shown = run(asked, runtime(options), progress=not options.json, say=lambda line: print(line, file=sys.stderr))
    answer = job.answer(shown.outcome, shown.cut)
    data = {"model": asked.model, "data": asked.data, **answer, "seconds": shown.seconds, "page": str(shown.page)}

    def show() -> None:
        show_outcome(asked.model, shown.outcome)
        say(f"{shown.seconds:.0f} s in all; the page: {shown.page}")

    return Reply(data, show)


DEMO = Verb(
    "demo",
    "The whole way on bundled data: train, prune, prove, train back, and a page of HTML.",
    "prunus demo --data cifar10 --model resnet20 --weights resnet20.th --out demo-report",
    demo_options,
    demo,
)
