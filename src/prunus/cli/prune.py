"""The verb that cuts: measure, cut with proof, measure, train back, measure, write the folder."""

from __future__ import annotations

import argparse

from prunus.cli import options as opt
from prunus.cli.fitting import method_options
from prunus.cli.rounds import add_rounds, in_rounds
from prunus.cli.verb import Reply, Verb, first
from prunus.errors import InputError

__all__ = ["PRUNE"]


def prune_options(parser: argparse.ArgumentParser) -> None:
    """Options of `prune`."""
    opt.add_model(parser)
    opt.add_input(parser)
    opt.add_data(parser)
    opt.add_task(parser)
    opt.add_budget(parser)
    opt.add_way(parser)
    add_rounds(parser)
    opt.add_training(parser, epochs="--finetune-epochs", default=0)
    opt.add_machine(parser)
    opt.add_out(parser)


def prune(options: argparse.Namespace) -> Reply:
    """Prune a model, and where data is given measure it and train it back."""
    from prunus.cli.show import say, show_outcome
    from prunus.cli.source import finetuning, runtime, source, task
    from prunus.lab import folder, job
    from prunus.lab.supplies import wants_data
    from prunus.models import check_source

    if options.model is not None:
        check_source(options.model)  # of an ONNX file this is the news, whatever else is missing
    target = opt.target_of(options)
    if options.method != "weights" and not (target or options.rates or options.widths or options.drop):
        raise InputError("nothing to remove; give --target, such as macs=50%, or --rates, --widths or --drop")
    cut = job.Cut(
        target=target,
        rates=options.rates,
        rates_layout=options.rates_layout,
        keep_rule=options.keep_rule,
        widths=options.widths,
        drop=options.drop,
        method=options.method,
        pin=tuple(options.pin),
        attention=options.attention,
        seed=options.seed,
        options=method_options(options),
        repair=options.repair,
        steps=options.cuts,
        schedule=options.cut_schedule,
    )
    if options.rounds or options.rewind:
        return in_rounds(options, cut)
    cut, where = job.checked(cut), runtime(options)
    out = None if options.out is None else folder.ready(options.out)
    reads = wants_data(job.configured(cut.method, cut.options), cut.repair)
    given, data = source(options, needs_data=reads or options.finetune_epochs > 0)
    fit = None if data is None else finetuning(options, data, options.finetune_epochs)
    outcome = job.do(
        given.model,
        given.example,
        cut,
        data=data,
        after=fit,
        runtime=where,
        task=task(options),
        progress=not options.json,
        batch_size=options.batch_size,
    )
    answer = {"model": given.description.model, **job.answer(outcome, cut), "out": options.out}
    if out is not None and first():
        plan = outcome.pruned.plan if given.plan is None else given.plan.then(outcome.pruned.plan)
        folder.write(out, outcome.pruned.model, plan, given.description, answer)

    def show() -> None:
        show_outcome(given.description.model, outcome)
        if options.out is not None:
            say(f"written to {options.out}")

    return Reply(answer, show)


PRUNE = Verb(
    "prune",
    "Cut a model to a budget, prove the cut, and train back what was lost.",
    "prunus prune resnet56 --weights resnet56.th --data cifar10 --target macs=50% --finetune-epochs 4 --out small",
    prune_options,
    prune,
)
