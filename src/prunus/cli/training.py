"""The verb that measures: eval."""

from __future__ import annotations

import argparse

from prunus.cli import options as opt
from prunus.cli.verb import Reply, Verb

__all__ = ["EVAL"]


def eval_options(parser: argparse.ArgumentParser) -> None:
    """Options of `eval`."""
    opt.add_model(parser)
    opt.add_data(parser)
    opt.add_task(parser)
    opt.add_machine(parser)


def evaluate(options: argparse.Namespace) -> Reply:
    """Measure a model on the test part of the data."""
    from prunus.cli.show import say
    from prunus.cli.source import runtime, task, with_data
    from prunus.engine.loop import evaluate as measure
    from prunus.engine.task import plain_metrics

    where = runtime(options)
    given, data = with_data(options, only="test")
    metrics = measure(
        given.model,
        data,
        batch_size=options.batch_size,
        task=task(options),
        runtime=where,
        progress=not options.json,
    )
    found = plain_metrics(metrics)
    figures = found if isinstance(found, dict) else {"goodness": found}
    answer = {"model": given.description.model, "data": options.data, **figures}
    return Reply(answer, lambda: say(str(metrics)))


EVAL = Verb(
    "eval",
    "Measure a model's accuracy on the test part of the data.",
    "prunus eval resnet56 --weights resnet56.th --data cifar10 --mean .485,.456,.406 --std .229,.224,.225",
    eval_options,
    evaluate,
)
