"""Magnitude pruning of weights, in rounds, and FPGM: AlexNet, ResNet-18 and ResNet-34 on CIFAR-10 at 64 pixels.

    python benchmarks/weights_table.py --data cifar10/
    python benchmarks/weights_table.py --models alexnet --epochs 10 --scopes global
    python benchmarks/weights_table.py --report

For each network what these commands do, but for the rate of later rounds:

    prunus train alexnet --data cifar10/ --resize 64 --optimizer adamw --weight-decay 0 --out RUN
    prunus prune --from RUN --data cifar10/ --method weights --option 'include=["biases"]' --rounds 1,3,5,7,9
    prunus prune --from RUN --data cifar10/ --method fpgm --target macs=50%

A round masks 70 % of what remains, biases among it, and trains the rest back: ranked over the whole network, as
published, and once more in each tensor by itself (`--option scope=local`). One epoch at the rate of the first round is
too short for the few weights of later ones, which train at `--later-lr`. Every finished step (the dense network, a
round, FPGM) is a line of the results file and a folder of --out, and is not done again. The dense networks start from
random weights, the published ones from ImageNet's: rates, rounds and losses compare, accuracies do not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from options import (
    METHODS_PAGE,
    NOT_TOLD,
    SHARED,
    add_results,
    add_training,
    carried_out,
    names,
    parser_of,
    typed,
    whole,
)
from pages import made_on, publish, section
from pretrained import limited
from records import Record, append, as_json, hardware, known, versions, wanted
from torch import nn

from prunus.costs.report import weigh
from prunus.engine.config import Fit
from prunus.engine.data import Data, load
from prunus.engine.loop import Checkpoints, evaluate, fit
from prunus.engine.runtime import Runtime
from prunus.errors import InputError
from prunus.lab import folder
from prunus.lab.job import Cut, augmented, do
from prunus.lab.rounds import HEAD, TARGET, Row, cells, rounds
from prunus.methods import Weights
from prunus.methods.masks import considered
from prunus.methods.weights import SCOPES
from prunus.models import resolve

INCLUDE = ("biases",)
ALLOWED = 3.0
"""Points that the first network may lose in one round."""


@dataclass(frozen=True, eq=False)
class Job:
    """What all steps share."""

    data: Data
    train: Fit
    again: Fit
    later: Fit
    runtime: Runtime
    out: Path
    results: Path
    classes: int
    settings: dict[str, Any]

    def description(self, model: str) -> folder.Description:
        return folder.Description(model, self.classes, tuple(self.data.example().shape), self.data.mean, self.data.std)

    def place(self, model: str, step: str) -> Path:
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:8]
        return self.out / f"{model.rpartition('/')[2]}-{digest}" / step.replace(" ", "-")

    def known(self, model: str, step: str) -> Record | None:
        return known(self.results, {"model": model, "step": step, "settings": self.settings})

    def network(self, model: str, step: str) -> nn.Module:
        """The network of a step that is done. Raises InputError where its folder is gone."""
        place = self.place(model, step)
        if not place.exists():
            raise InputError(f"{self.results} has {step} of {model}, and {place} is gone; remove the record to redo it")
        return folder.rebuild(*folder.read(place))

    def done(self, model: str, step: str, net: nn.Module, row: Row, **facts: Any) -> None:
        """Write the network, if a later step needs it, then the record."""
        if step != "fpgm":
            place = folder.ready(str(self.place(model, step)))
            folder.write(place, net, None, self.description(model), {"step": step, "top1": row.top1})
        found = {"top1": round(row.top1, 4), "nonzero": row.nonzero, "seconds": round(row.seconds, 1), **facts}
        record = {"model": model, "step": step, "settings": self.settings, **found}
        append(self.results, {**record, "versions": versions(), "hardware": hardware(self.runtime.torch_device)})
        print(f"{model}  {step}: {row.top1:.2f} %, {row.nonzero:,} parameters, {row.seconds:.0f} s", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, then print the table. Exit code 2 for wrong input."""
    return carried_out(parser().parse_args(argv), run, report)


def parser() -> argparse.ArgumentParser:
    made = parser_of(__doc__)
    add = made.add_argument
    add("--models", type=names, default=("alexnet", "resnet18", "resnet34"))
    add("--classes", type=int, default=10, help="outputs of the head; the published table keeps the 1000 of ImageNet")
    add("--data", default=str(SHARED / "data" / "cifar10"))
    add("--resize", type=int, default=64)
    add("--epochs", type=int, default=6, help="of the dense networks")
    add("--round-epochs", type=int, default=1, help="of each round, and of FPGM")
    add("--rounds", type=whole, default=(1, 3, 5, 7, 9), help="rows: 1,3,5,7,9")
    add("--scopes", type=names, default=SCOPES, help="of the rounds: global,local")
    add("--fpgm", default="macs=50%", metavar="TARGET", help="what FPGM leaves")
    add("--batch-size", type=int, default=256)
    add("--lr", type=float, default=3e-4, help="of Adam; the published 1e-3 is for pretrained weights")
    add(
        "--later-lr",
        type=float,
        default=1e-3,
        help="of the rounds from the second on, whose few weights have far to go",
    )
    add("--out", type=Path, default=Path("runs") / "weights_table", help="folder of the networks")
    add_training(made, compile=False)
    add_results(made, __file__, METHODS_PAGE)
    return made


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What a result depends on beside model and step, as JSON gives it back."""
    kept = ("classes", "resize", "epochs", "round_epochs", "batch_size", "lr", "later_lr", "limit", "compile", "fpgm")
    made = {name: getattr(options, name) for name in kept} | {"data": Path(options.data).name}
    return as_json(made | {"target": TARGET, "include": INCLUDE, "precision": "bf16"})


def job_of(options: argparse.Namespace) -> Job:
    if min(options.rounds) < 1:
        raise InputError(f"--rounds {options.rounds} must be whole numbers of at least 1")
    if not set(options.scopes) <= set(SCOPES):
        raise InputError(f"--scopes {','.join(options.scopes)} must be among {','.join(SCOPES)}")
    data = load(options.data, resize=options.resize)
    if options.limit:
        data = limited(data, options.limit)
    train = Fit(
        options.epochs,
        options.batch_size,
        options.lr,
        optimizer="adamw",
        weight_decay=0.0,  # AdamW without decay is Adam
        schedule="cosine",
        warmup=0.5,
        augment=augmented(data, "auto"),
    )
    again = replace(train, epochs=options.round_epochs, warmup=0.0)
    runtime = Runtime(options.device, "bf16", channels_last=True, compile=options.compile)
    settings = settings_of(options)
    later = replace(again, lr=options.later_lr)
    return Job(data, train, again, later, runtime, options.out, options.results, options.classes, settings)


def run(options: argparse.Namespace) -> None:
    """Everything that the results file lacks."""
    job = job_of(options)
    for model in options.models:
        steps(job, model, max(options.rounds), options.scopes, options.fpgm)


def named(scope: str, r: int) -> str:
    """The step of a round; of the dense network for none."""
    return ("local " if scope == "local" else "") + f"round {r}" if r else "dense"


def steps(job: Job, model: str, last: int, scopes: Sequence[str], fpgm: str) -> None:
    """All steps of one network that are not done yet."""
    if job.known(model, "dense") is None:
        dense(job, model)
    for scope in scopes:
        net = None
        for r, keep in enumerate(counts(job, model, last), start=1):
            step, before = named(scope, r), named(scope, r - 1)
            if job.known(model, step) is None:
                after = job.again if r == 1 else job.later
                net = one_round(job, model, step, net or job.network(model, before), keep, scope, after)
                if r > 1:
                    shutil.rmtree(job.place(model, before), ignore_errors=True)
    if job.known(model, "fpgm") is None:
        net = job.network(model, "dense")
        cut = Cut(target=fpgm, method="fpgm")
        torch.compiler.reset()
        found = do(net, job.data.example(), cut, data=job.data, after=job.again, runtime=job.runtime)
        small, proof = found.pruned, found.pruned.proof
        assert found.accuracy.finetuned is not None and found.history is not None
        nonzero = weigh(small.model).nonzero
        row = Row(1, job.again.epochs, job.again.batch_size, found.accuracy.finetuned, nonzero, found.history.seconds)
        left = {"macs": small.after.macs, "dense_macs": small.before.macs, "proof": proof is not None and proof.holds}
        job.done(model, "fpgm", small.model, row, cut=found.accuracy.cut, **left)


def dense(job: Job, model: str) -> None:
    """Train from random weights; goes on from its checkpoints."""
    with job.runtime.seeded():
        net = resolve(model, job.classes)
    torch.compiler.reset()
    checkpoints = Checkpoints(job.place(model, "checkpoints"))
    history = fit(net, job.data, job.train, runtime=job.runtime, checkpoints=checkpoints, progress=False)
    top1 = evaluate(net, job.data, runtime=job.runtime).top1
    row = Row(0, job.train.epochs, job.train.batch_size, float(top1), weigh(net).nonzero, history.seconds)
    job.done(model, "dense", net, row)
    shutil.rmtree(job.place(model, "checkpoints"), ignore_errors=True)


def counts(job: Job, model: str, last: int) -> tuple[int, ...]:
    """How many weights stay after each round: the rate is of what remains."""
    method = Weights(include=INCLUDE, rate_of="remaining", rounds=last)
    return method.counts(considered(resolve(model, job.classes), INCLUDE), method.goal(TARGET))


def one_round(job: Job, model: str, step: str, net: nn.Module, keep: int, scope: str, after: Fit) -> nn.Module:
    """Mask down to `keep` weights, and train back. What is zero already is the smallest, so masks are nested."""
    options = {"rate_of": "whole", "include": list(INCLUDE), "scope": scope}
    cut = Cut(target=f"weights={keep}", method="weights", options=options)
    torch.compiler.reset()
    found = rounds(net, job.data.example(), cut, (1,), data=job.data, after=after, runtime=job.runtime)
    row, thin = list(found)[-1]
    assert thin is not None
    job.done(model, step, thin.model, row, kept=keep)
    return thin.model


def report(options: argparse.Namespace) -> None:
    """Print the table of the records that were made with these options; with --report write it to the page too."""
    settings = settings_of(options)
    records = wanted(options.results, lambda r: r["settings"] == settings and r["model"] in options.models)
    conditions = "\n".join(
        (
            f"- {settings['resize']} pixels, random weights at first, head of {settings['classes']} classes; Adam at "
            f"{settings['lr']:g}, in rounds from the second on at {settings['later_lr']:g}, with a cosine, crop and "
            f"mirror, {settings['precision']}",
            f"- {images(settings)} in batches of {settings['batch_size']}; epochs: {settings['epochs']} dense, "
            f"{settings['round_epochs']} in each round and after the cut of FPGM to {settings['fpgm']}",
            "- weights: 70 % of what remains goes in each round, biases included, over the whole network; with "
            "scope=local in each tensor by itself",
            made_on(records),
        )
    )
    made = "\n".join(table(records, options))
    more = typed(options, parser(), (*NOT_TOLD, "out"))
    publish(options, "weights_table", section(__file__, options, conditions, made, more))


def images(settings: dict[str, Any]) -> str:
    """How many of the images train."""
    return f"the first {settings['limit']:,} images of each part" if settings["limit"] else "all images"


def table(records: Sequence[Record], options: argparse.Namespace) -> list[str]:
    """The published columns, and what the first round cost."""
    data, lines, losses = Path(options.data).name, [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"], []
    for model in options.models:
        by = {r["step"]: r for r in records if r["model"] == model}
        lines += [f"| {' | '.join(found)} |" for found in lines_of(by, data, model, options)]
        for scope in options.scopes:
            if "dense" in by and (step := named(scope, 1)) in by:
                lost, of = by["dense"]["top1"] - by[step]["top1"], model if scope == "global" else f"{model}, {scope},"
                losses.append(f"{of} {lost:.2f}{'' if lost < ALLOWED else f' (above {ALLOWED:g})'}")
    return [*lines, "", f"Points lost in the first round: {'; '.join(losses) or 'not known yet'}"]


def lines_of(by: dict[str, Record], data: str, model: str, options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """The cells of each row of one network."""

    def row(step: str, r: int, epochs: int, seconds: float) -> tuple[str, ...]:
        return cells(data, model, Row(r, epochs, options.batch_size, by[step]["top1"], by[step]["nonzero"], seconds))

    def single(step: str, method: str, epochs: int) -> tuple[str, ...]:
        top1 = f"{by[step]['top1']:.2f} ({epochs}/{options.batch_size})"
        nonzero, seconds = row(step, 1, epochs, by[step]["seconds"])[-2:]
        return data, model, method, top1, nonzero, seconds

    if "dense" in by:
        yield single("dense", "dense", options.epochs)
    for scope in options.scopes:
        for count in options.rounds:
            steps = [named(scope, r) for r in range(1, count + 1)]
            if all(step in by for step in steps):
                found = row(steps[-1], count, options.round_epochs, sum(by[step]["seconds"] for step in steps))
                yield found if scope == "global" else (*found[:2], f"{found[2]}, scope=local", *found[3:])
    if "fpgm" in by:
        yield single("fpgm", f"fpgm, {options.fpgm}", options.round_epochs)


if __name__ == "__main__":
    sys.exit(main())
