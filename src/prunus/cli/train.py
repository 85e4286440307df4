"""The verbs that train: train, from the beginning, and finetune, on from what there is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunus.cli import fitting
from prunus.cli import options as opt
from prunus.cli.verb import Reply, Verb, first
from prunus.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from prunus.cli.source import Source
    from prunus.engine.config import Fit
    from prunus.engine.data import Data
    from prunus.engine.history import History
    from prunus.engine.runtime import Runtime

__all__ = ["FINETUNE", "TRAIN"]


def train_options(parser: argparse.ArgumentParser) -> None:
    """Options of `train`."""
    opt.add_model(parser)
    opt.add_data(parser)
    opt.add_task(parser)
    opt.add_training(parser, epochs="--epochs", default=30, lr=0.1)
    fitting.add_method(parser)
    fitting.add_fit(parser, teacher=False)
    opt.add_machine(parser)
    opt.add_out(parser)


def finetune_options(parser: argparse.ArgumentParser) -> None:
    """Options of `finetune`."""
    opt.add_model(parser)
    opt.add_data(parser)
    opt.add_task(parser)
    opt.add_training(parser, epochs="--epochs", default=10)
    parser.add_argument("--hold-zeros", action="store_true", help="weights that are 0 stay 0 (see --method weights)")
    fitting.add_fit(parser, teacher=True)
    opt.add_machine(parser)
    opt.add_out(parser)


def train(options: argparse.Namespace) -> Reply:
    """Train a network, and where a method is named prepare it for the cut; measure it on the test part."""
    return _trained(options, before=False)


def finetune(options: argparse.Namespace) -> Reply:
    """Train a model on; measure before and after on the test part."""
    return _trained(options, before=True)


def _trained(options: argparse.Namespace, *, before: bool) -> Reply:
    from prunus.cli import source
    from prunus.engine.loop import evaluate
    from prunus.engine.task import plain_metrics, ranked
    from prunus.lab import folder

    where, progress, task = source.runtime(options), not options.json, source.task(options)
    if options.epochs < 1:
        raise InputError("--epochs 0 trains nothing; give at least 1, or use `prunus eval`")
    if options.resume and options.out is None:
        raise InputError("--resume goes on from the checkpoints in --out; give --out too")
    out = None if options.out is None else folder.ready(options.out)
    if out is not None and not options.resume:
        _nothing_lost(out)
    with where.seeded():
        given, data = source.with_data(options)
    data.part("test")  # measured at the end: better missed now
    config = fitting.config(options, data, options.epochs)
    method = getattr(options, "method", None)
    earlier = evaluate(given.model, data, task=task, runtime=where, progress=progress) if before else None
    history = _fitted(options, given, data, config, where, out)
    last = evaluate(given.model, data, task=task, runtime=where, progress=progress)
    answer = {
        "model": given.description.model,
        "data": options.data,
        **({} if method is None else {"method": method}),
        "accuracy": {
            **({"before": ranked(earlier)} if before else {}),
            ("finetuned" if before else "trained"): ranked(last),
        },
        "test": plain_metrics(last),
        "selection": "validation" if config.selection == "best" else "last epoch",
        "best": history.best,
        "epochs": [epoch.as_dict() for epoch in history.epochs],
        "seconds": history.seconds,
        "out": options.out,
    }
    if out is not None and first():
        folder.write(out, given.model, given.plan, given.description, answer)
    return Reply(answer, lambda: _show(history, earlier, last, options.out))


def _nothing_lost(out: Path) -> None:
    """Raises InputError where checkpoints of an interrupted training would be removed: some that are newer than the
    results of the last one that ended."""
    from prunus.engine.checkpoint import found

    ended = out / "run.json"
    last = ended.stat().st_mtime if ended.exists() else 0.0
    if any(path.stat().st_mtime > last for path in found(out / "checkpoints")):
        raise InputError(
            f"{str(out / 'checkpoints')!r} is of a training that was interrupted: --resume goes on with it; remove the "
            "folder to begin anew"
        )


def _fitted(
    options: argparse.Namespace, given: Source, data: Data, config: Fit, where: Runtime, out: Path | None
) -> History:
    """The training itself. An interruption says how to go on."""
    from prunus.cli import source
    from prunus.engine.checkpoint import Checkpoints
    from prunus.engine.loop import fit
    from prunus.engine.watch import JsonLines, Lines, Trackers, Watcher

    watchers: list[Watcher] = [] if out is None else [JsonLines(out / "metrics.jsonl")]
    if not options.json and not sys.stderr.isatty():  # a terminal has a bar and its lines
        watchers.append(Lines())
    if options.track:
        if out is None:
            raise InputError("--track writes into the folder of --out; give --out too")
        watchers.append(Trackers(options.track, out, given.description.model, asdict(config)))
    checkpoints = None
    if out is not None:
        checkpoints = Checkpoints(out / "checkpoints", every=options.checkpoint_every, resume=options.resume)
    hooks = _hooks(options, given, where)
    try:
        history = fit(
            given.model,
            data,
            config,
            hooks=hooks,
            runtime=where,
            task=source.task(options),
            teacher=_teacher(options, given),
            checkpoints=checkpoints,
            watchers=watchers,
            progress=not options.json,
        )
    except KeyboardInterrupt:
        how = "nothing is kept without --out" if out is None else "the same words and --resume go on from here"
        raise KeyboardInterrupt(how) from None
    for hook in hooks:
        if hasattr(hook, "settle"):
            hook.settle()
    return history


def _hooks(options: argparse.Namespace, given: Source, where: Runtime) -> Sequence[Any]:
    """The method of --method, attached."""
    from prunus.lab.job import attached

    if getattr(options, "hold_zeros", False):
        from prunus.methods import Held

        return [Held.of(given.model)]
    if getattr(options, "method", None) is None:
        if getattr(options, "option", None):
            raise InputError("--option sets a method; give --method too, such as --method slimming")
        if getattr(options, "rates", None) is not None:
            raise InputError("--rates are widths that a method trains at; give --method too, such as --method dcff")
        return ()
    where.settled(given.model)
    settings = fitting.method_options(options)
    example = given.example.to(where.torch_device)
    return [
        attached(
            options.method,
            settings,
            given.model,
            example,
            options.target,
            options.epochs,
            seed=where.seed,
            rates=options.rates,
            rates_layout=options.rates_layout,
            keep_rule=options.keep_rule,
        )
    ]


def _teacher(options: argparse.Namespace, given: Source) -> nn.Module | None:
    """The network of --teacher: a run's, or MODEL at full size with the weights of a file."""
    from prunus.lab import folder

    name = getattr(options, "teacher", None)
    if name is None:
        return None
    path = Path(name)
    if path.is_dir():
        return folder.rebuild(*folder.read(path))
    return folder.rebuild(given.description, folder.plan_in(path), path)


def _show(history: History, before: Any, after: Any, out: str | None) -> None:
    from prunus.cli.show import say, table

    rows = ((str(epoch.epoch), f"{epoch.loss:.4f}", f"{epoch.lr:.4g}") for epoch in history.epochs)
    table(("epoch", "loss", "learning rate"), rows)
    if history.best is not None:
        say(f"the weights of epoch {history.best} were kept, the best in validation")
    if before is not None:
        say(f"test, before: {before}")
    say(f"test, after: {after}" if before is not None else f"test: {after}")
    if out is not None:
        say(f"written to {out}")


TRAIN = Verb(
    "train",
    "Train a network from the beginning; with --method, prepare it for a cut.",
    "prunus train resnet20 --data cifar10 --epochs 30 --precision bf16 --channels-last --out baseline",
    train_options,
    train,
)
FINETUNE = Verb(
    "finetune",
    "Train a model on, such as one that was cut.",
    "prunus finetune --from small --data cifar10 --epochs 10 --out better",
    finetune_options,
    finetune,
)
