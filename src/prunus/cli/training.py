"""The verbs that run data through a model: eval and finetune."""

from __future__ import annotations

import argparse

from prunus.cli import options as opt
from prunus.cli.verb import Reply, Verb
from prunus.errors import InputError

__all__ = ["EVAL", "FINETUNE"]


def eval_options(parser: argparse.ArgumentParser) -> None:
    """Options of `eval`."""
    opt.add_model(parser)
    opt.add_data(parser)
    opt.add_machine(parser)


def evaluate(options: argparse.Namespace) -> Reply:
    """Measure a model on the test part of the data."""
    from prunus.cli.show import say
    from prunus.cli.source import runtime, with_data
    from prunus.engine.loop import evaluate as measure

    where = runtime(options)
    given, data = with_data(options, only="test")
    metrics = measure(given.model, data, batch_size=options.batch_size, runtime=where, progress=not options.json)
    answer = {"model": given.description.model, "data": options.data, **metrics.as_dict()}
    return Reply(answer, lambda: say(str(metrics)))


def finetune_options(parser: argparse.ArgumentParser) -> None:
    """Options of `finetune`."""
    opt.add_model(parser)
    opt.add_data(parser)
    opt.add_training(parser, epochs="--epochs", default=10)
    opt.add_machine(parser)
    opt.add_out(parser)


def finetune(options: argparse.Namespace) -> Reply:
    """Train a model on; measure before and after on the test part."""
    from prunus.cli.show import percent, say, table
    from prunus.cli.source import finetuning, runtime, with_data
    from prunus.engine.loop import evaluate as measure
    from prunus.engine.loop import fit
    from prunus.lab import folder

    where, progress = runtime(options), not options.json
    out = None if options.out is None else folder.ready(options.out)
    given, data = with_data(options)
    config = finetuning(options, data, options.epochs)
    if config is None:
        raise InputError("--epochs 0 trains nothing; give at least 1, or use `prunus eval`")
    before = measure(given.model, data, runtime=where, progress=progress).top1
    history = fit(given.model, data, config, runtime=where, progress=progress)
    after = measure(given.model, data, runtime=where, progress=progress).top1
    answer = {
        "model": given.description.model,
        "data": options.data,
        "accuracy": {"before": before, "finetuned": after},
        "epochs": [{"epoch": epoch.epoch, "loss": epoch.loss, "lr": epoch.lr} for epoch in history.epochs],
        "seconds": history.seconds,
        "out": options.out,
    }
    if out is not None:
        folder.write(out, given.model, given.plan, given.description, answer)

    def show() -> None:
        rows = ((str(epoch.epoch), f"{epoch.loss:.4f}", f"{epoch.lr:.4g}") for epoch in history.epochs)
        table(("epoch", "loss", "learning rate"), rows)
        say(f"top-1 {percent(before)} before, {percent(after)} after")
        if options.out is not None:
            say(f"written to {options.out}")

    return Reply(answer, show)


EVAL = Verb(
    "eval",
    "Measure a model's accuracy on the test part of the data.",
    "prunus eval resnet56 --weights resnet56.th --data cifar10 --mean .485,.456,.406 --std .229,.224,.225",
    eval_options,
    evaluate,
)
FINETUNE = Verb(
    "finetune",
    "Train a model on, such as one that was cut.",
    "prunus finetune --from small --data cifar10 --epochs 10 --out better",
    finetune_options,
    finetune,
)
