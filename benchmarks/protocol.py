"""All methods under one protocol: ResNet-20, CIFAR-10, published weights, the same epochs for every row.

    python benchmarks/protocol.py --weights resnet20-12fca82f.th --data cifar10/
    python benchmarks/protocol.py --only "random;l2*" --seeds 0
    python benchmarks/protocol.py --report

Every row leaves at most half, and at most 30 %, of the MACs, and sees the same number of epochs. Methods that train
spend half of them before the cut. All train on nine tenths of the train part; what a method measures to choose by, it
measures on the last tenth; the test part is read for the table alone. Every finished run is a line of the results file;
what the file has is not run again, and several processes may share it, each with rows of its own. Seeds are the outer
loop. A row that fails is named at the end (exit code 1), and the others go on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from options import (
    METHODS_PAGE,
    NOT_TOLD,
    add_network,
    add_results,
    add_training,
    carried_out,
    numbers,
    parser_of,
    typed,
    whole,
)
from pages import command, publish
from pretrained import Start, new_statistics, sgd, start_of, told
from protocol_rows import LONGER, Row, chosen
from protocol_table import page_text
from records import Record, alike, append, as_json, hardware, known, read, versions
from torch import nn

import prunus
from prunus.api import Pruned
from prunus.engine.config import Fit
from prunus.engine.data import with_validation
from prunus.errors import InputError, PrunusError
from prunus.lab.supplies import supplies

NAMED = ("batch_size", "lr", "momentum", "nesterov", "weight_decay", "decay_norms", "schedule", "warmup")
VALIDATION = 0.1
ADAPTED = 8
"""Batches from which a network that a search looks at takes the statistics of its norms, before it is measured."""

SCRATCH_LR, SCRATCH_WARMUP = 0.1, 0.5
"""Learning rate and epochs of warm-up where random weights are trained."""


@dataclass(frozen=True, eq=False)
class Job:
    """What all rows share. start: with the validation part of its data."""

    start: Start
    training: Fit
    longer: int
    dense: Mapping[str, float]


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, then print the table. Exit code 2 for wrong input, 1 where a row failed."""
    return carried_out(parser().parse_args(argv), run, report)


def parser() -> argparse.ArgumentParser:
    made = parser_of(__doc__)
    add = made.add_argument
    add_network(made, "resnet20")
    add("--targets", type=numbers, default=(50.0, 30.0), help="percent of the MACs that may remain, such as 50,30")
    add("--only", default="*", help='rows by name or pattern, divided by semicolons: "random;l2*"')
    add("--seeds", type=whole, default=(0, 1, 2), help="0,1,2")
    add("--epochs", type=int, default=4, help="of every row, before and after its cut together")
    add("--longer", type=int, default=20, help=f"epochs of the row {LONGER!r}")
    add("--lr", type=float, default=0.05)
    add_training(made, compile=False)
    add_results(made, __file__, METHODS_PAGE)
    return made


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What a result depends on beside row, definition, target, epochs and seed, as JSON gives it back."""
    how = told(sgd(options.epochs, options.lr), NAMED, options.compile)
    made = {"model": options.model, "data": Path(options.data).name, "mean": options.mean, "std": options.std}
    return as_json(made | {"limit": options.limit, "validation": VALIDATION, "training": how})


def key_of(row: Row, options: argparse.Namespace, percent: float, seed: int) -> dict[str, Any]:
    """What a record is found by, but for the weights."""
    extra = {
        "scratch": f"lr {SCRATCH_LR:g}, warm-up {SCRATCH_WARMUP:g}, ",
        "search": f"measured after {ADAPTED} batches of statistics, ",
    }
    return {
        "row": row.name,
        "target": percent,
        "seed": seed,
        "epochs": list(row.epochs(options.epochs, options.longer)),
        "definition": extra.get(row.kind, "") + row.definition(),
        "settings": settings_of(options),
    }


def job_of(options: argparse.Namespace) -> Job:
    start = start_of(options, options.limit)
    start = replace(start, data=with_validation(start.data, VALIDATION))
    net = start.build()
    cost = prunus.cost(net, start.example())
    dense = {"macs": cost.macs, "params": cost.params, "accuracy": start.top1(net)}
    return Job(start, sgd(options.epochs, options.lr), options.longer, dense)


def run(options: argparse.Namespace) -> list[str]:
    """Every (seed, target, row) that the results file lacks. Returns a line for each that failed."""
    rows, failed, job = chosen(options.only), [], job_of(options)
    for seed in options.seeds:
        for percent in options.targets:
            for row in rows:
                key = {**key_of(row, options, percent, seed), "weights": job.start.digest}
                if known(options.results, key):
                    continue
                where = f"seed {seed}  {percent:g} %  {row.name}"
                try:
                    record = {**key, **one(job, row, percent, seed)}
                except PrunusError as error:
                    failed.append(f"{where}: {type(error).__name__}: {error}")
                    print(failed[-1], file=sys.stderr, flush=True)
                    continue
                append(options.results, record)
                found = record["accuracy"]
                print(
                    f"{where}: {100 * record['macs'] / record['dense']['macs']:.2f} % of the MACs, "
                    f"{found['cut']:.2f} -> {found['finetuned']:.2f}, {sum(record['seconds'].values()):.0f} s",
                    flush=True,
                )
    return failed


def one(job: Job, row: Row, percent: float, seed: int) -> dict[str, Any]:
    """Choose and cut, measure, train, measure."""
    start = time.perf_counter()
    first, rest = row.epochs(job.training.epochs, job.longer)
    before = job.dense["accuracy"]
    if row.kind == "trained":
        before, found = sparse(job, row, percent, first, seed)
    else:
        found = smaller(job, row, percent, seed)
    net, config = found.model, replace(job.training, epochs=rest)
    if row.kind == "scratch":
        randomised(net, seed)
        config = replace(config, lr=SCRATCH_LR, warmup=SCRATCH_WARMUP)
    choosing = time.perf_counter() - start
    cut = job.start.top1(net)
    training = job.start.train(net, config, seed)
    now = prunus.cost(net, job.start.example().to(next(net.parameters()).device))
    return {
        "macs": now.macs,
        "params": now.params,
        "dense": dict(job.dense),
        "widths": [[name, after] for name, _, after in found.rows()],
        "proof": found.proof is not None and found.proof.holds,
        "notes": list(found.notes),
        "accuracy": {"before": before, "cut": cut, "finetuned": job.start.top1(net) if rest else cut},
        "seconds": {"choosing": round(choosing, 1), "training": round(training, 1)},
        "versions": versions(),
        "hardware": hardware(job.start.runtime(seed).torch_device),
    }


def smaller(job: Job, row: Row, percent: float, seed: int) -> Pruned:
    """The published weights, cut once; repaired where the row says so."""
    runtime, net = job.start.runtime(seed), job.start.build()
    runtime.settled(net)
    reads = supplies(row.method, job.start.data, runtime=runtime, repair=row.repair)
    measure = reads.evaluate
    if row.kind == "search" and measure is not None and reads.data is not None:
        measure = adapted(reads.data, measure)
    return prunus.prune(
        net,
        job.start.example().to(runtime.torch_device),
        row.goal(percent),
        row.method,
        data=reads.data,
        loss=reads.loss,
        evaluate=measure,
        repair=row.repair,
        seed=seed,
    )


def adapted(data: Iterable[Any], measure: Callable[[nn.Module], float]) -> Callable[[nn.Module], float]:
    """A measure of networks whose batch norms first see some batches. It changes the network that it is given."""

    def measured(net: nn.Module) -> float:
        return measure(new_statistics(net, (x for x, _ in islice(data, ADAPTED))))

    return measured


def sparse(job: Job, row: Row, percent: float, epochs: int, seed: int) -> tuple[float, Pruned]:
    """The published weights, trained with the method attached: accuracy before the cut, and the cut."""
    runtime, net = job.start.runtime(seed), job.start.build()
    runtime.settled(net)
    example = job.start.example().to(runtime.torch_device)
    attached = row.method.attach(net, example, row.goal(percent), epochs=epochs, seed=seed)
    job.start.train(net, replace(job.training, epochs=epochs), seed, [attached])
    net.eval()
    before = job.start.top1(net)
    return before, attached.finish()


def randomised(net: nn.Module, seed: int) -> None:
    """Random weights, drawn as the bundled nets draw theirs, at the widths of now."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d | nn.Linear):
                module.reset_parameters()
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)


def report(options: argparse.Namespace) -> None:
    """Print the table of the records that were made with these options and these definitions; with --report write it to
    the page too."""
    rows, records = chosen(options.only), read(options.results)
    found: dict[float, dict[str, list[Record]]] = {}
    for percent in options.targets:
        found[percent] = {}
        for row in rows:
            keys = [key_of(row, options, percent, seed) for seed in options.seeds]
            mine = ([r for r in records if alike(r, key)] for key in keys)
            found[percent][row.name] = [some[-1] for some in mine if some]
    every = [r for by in found.values() for some in by.values() for r in some]
    if not every:
        raise InputError(f"{options.results} has no records with these settings")
    if len({r["weights"] for r in every}) > 1:
        raise InputError(f"{options.results} mixes networks of other weights; a table needs one")
    words = command(__file__, options) + typed(options, parser(), NOT_TOLD)
    publish(options, "protocol", page_text(words, found, rows, options.seeds))


if __name__ == "__main__":
    sys.exit(main())
