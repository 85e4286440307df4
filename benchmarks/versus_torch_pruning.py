"""Torch-Pruning and Prunus on one job: ResNet-56, CIFAR-10, half of the MACs, four epochs of fine-tuning.

    pip install -r benchmarks/requirements.txt
    python benchmarks/versus_torch_pruning.py --weights resnet56-4bfd9763.th --data cifar10/
    python benchmarks/versus_torch_pruning.py --report

Both tools get the same weights, the same fine-tuning and the same seeds. Torch-Pruning has no MACs target: it is
stepped until at or under the target. Prunus is then asked for the MACs where Torch-Pruning landed, so it is never the
larger one. In the random row Prunus ranks channels by the order in which Torch-Pruning happened to remove them: the row
compares everything but the luck of the draw, which is worth a point. Every finished run is a line of the results file;
what the file has is not run again, unless Prunus keeps other channels now. Seeds are the outer loop.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from options import add_network, add_results, add_training, carried_out, parser_of, whole
from pages import publish, section
from paired import TOOLS, conditions, table
from pretrained import Start, sgd, start_of, told
from records import Record, alike, append, as_json, hardware, read, versions, wanted
from torch import nn
from torch_pruning_cut import Stepped, differs, removed_at, step_to

import prunus
from prunus.engine.config import Fit
from prunus.errors import InputError, PrunusError
from prunus.methods import method_of
from prunus.methods.score import Floats, Method, Search

NAMED = ("epochs", "batch_size", "lr", "optimizer", "momentum", "nesterov", "weight_decay", "decay_norms", "schedule")
"""Settings of the fine-tuning that a record names; all others are the defaults."""

NEAR = 0.005
"""Fraction of the dense MACs by which the two networks may differ."""


@dataclass(frozen=True)
class Row:
    """One comparison: what ranks the channels, and whether groups compete."""

    name: str
    method: str
    scope: str


ROWS = (Row("L2, global", "l2", "global"), Row("L2, local", "l2", "local"), Row("random, local", "random", "local"))


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that both tools share."""

    start: Start
    target: float
    after: Fit
    limit: int
    dense_accuracy: float = 0.0

    def settings(self) -> dict[str, Any]:
        """What a result depends on beside tool, row and seed, as JSON gives it back."""
        made = {"model": self.start.model, "weights": self.start.digest, "target": self.target, "limit": self.limit}
        return as_json(made | {"finetuning": told(self.after, NAMED, self.start.compile)})


@dataclass(frozen=True, eq=False)
class Cut:
    """A network without its fine-tuning: what a record of it must say to be one, and what it says beside."""

    model: nn.Module
    key: dict[str, Any]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Drawn:
    """A ranking that was drawn elsewhere."""

    scores: tuple[Floats, ...]
    scope: str | None = None

    def score(self, model: nn.Module, coupling: prunus.Coupling, *, seed: int = 0) -> tuple[Floats, ...]:
        return self.scores


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, then print the table. Exit code 2 for wrong input."""
    return carried_out(parser().parse_args(argv), run, report)


def parser() -> argparse.ArgumentParser:
    made = parser_of(__doc__)
    add = made.add_argument
    add_network(made, "resnet56")
    add("--target", type=float, default=0.5, help="fraction of the MACs that may remain")
    add("--seeds", type=whole, default=(0, 1, 2, 3, 4), help="0,1,2,3,4")
    add("--epochs", type=int, default=4)
    add("--rows", default=",".join(row.method + ":" + row.scope for row in ROWS), help="of l2:global, l2:local, …")
    add_training(made, compile=True)
    add_results(made, __file__)
    return made


def rows_of(text: str) -> list[Row]:
    known = {f"{row.method}:{row.scope}": row for row in ROWS}
    wrong = [name for name in text.split(",") if name not in known]
    if wrong:
        raise InputError(f"unknown row {wrong[0]!r} (allowed: {', '.join(known)})")
    return [known[name] for name in text.split(",")]


def job_of(options: argparse.Namespace) -> Job:
    start = start_of(options, options.limit)
    return Job(start, options.target, sgd(options.epochs, 0.02), options.limit)


def run(options: argparse.Namespace) -> None:
    """Every (seed, row, tool) that the results file lacks."""
    rows, job = rows_of(options.rows), job_of(options)
    settings, dense = job.settings(), prunus.cost(job.start.build(), job.start.example()).macs
    for seed in options.seeds:
        for row in rows:
            for tool in TOOLS:
                key = {"tool": tool, "row": row.name, "seed": seed, "settings": settings, "method": method(tool, row)}
                records = read(options.results)
                theirs_now = tool == TOOLS[0]
                if theirs_now and any(alike(record, key) for record in records):
                    continue
                start = time.perf_counter()
                made = (
                    theirs(job, row, seed) if theirs_now else ours(job, row, seed, beside(records, row, seed, settings))
                )
                seconds = round(time.perf_counter() - start, 1)
                key |= made.key
                if any(alike(record, key) for record in records):
                    continue
                if not job.dense_accuracy:
                    job = replace(job, dense_accuracy=job.start.top1(job.start.build()))
                record = {**key, **measured(job, made, seed, seconds), "dense_macs": dense}
                append(options.results, record)
                accuracy = record["accuracy"]
                print(
                    f"seed {seed}  {row.name}  {tool}: {100 * record['macs'] / dense:.2f} % of the MACs, "
                    f"{accuracy['cut']:.2f} -> {accuracy['finetuned']:.2f}, {sum(record['seconds'].values()):.0f} s",
                    flush=True,
                )


def method(tool: str, row: Row) -> str:
    """What ranks the channels, in the tool's own words."""
    if tool == TOOLS[0]:
        return "RandomImportance()" if row.method == "random" else "GroupMagnitudeImportance(p=2)"
    return "as Torch-Pruning drew them" if row.method == "random" else repr(method_of(row.method))


def beside(records: Sequence[Record], row: Row, seed: int, settings: dict[str, Any]) -> Record:
    """The record of Torch-Pruning's network of this row and seed."""
    key = {"tool": TOOLS[0], "row": row.name, "seed": seed, "settings": settings}
    return next(record for record in reversed(records) if alike(record, key))


def theirs(job: Job, row: Row, seed: int) -> Cut:
    stepped, start = step(job, row, seed), job.start
    return Cut(stepped.model, {}, {"steps": stepped.steps, "differs": differs(start.build, start.example(), stepped)})


def step(job: Job, row: Row, seed: int) -> Stepped:
    if find_spec("torch_pruning") is None:
        raise InputError("torch-pruning is not installed: pip install -r benchmarks/requirements.txt")
    net, example = job.start.build(), job.start.example()
    limit = int(job.target * prunus.cost(net, example).macs)
    random = row.method == "random"
    return step_to(net, example, limit, random=random, scope=row.scope, classes=job.start.data.classes, seed=seed)


def ours(job: Job, row: Row, seed: int, other: Record) -> Cut:
    """Cut to the MACs of Torch-Pruning's network. Raises PrunusError where the result is further away than NEAR."""
    net, example, limit = job.start.build(), job.start.example(), int(other["macs"])
    ranking: Method | Search = method_of(row.method)
    stepped = None
    if row.method == "random":
        stepped = step(job, row, seed)
        ranking = Drawn(tuple(removed_at(prunus.trace(net, example), stepped)))
    pruned = prunus.prune(net, example, prunus.Target(macs=limit, scope=row.scope), ranking, seed=seed)
    if not limit - NEAR * pruned.before.macs <= pruned.after.macs <= limit:
        raise PrunusError(f"{row.name}: Prunus has {pruned.after.macs:,} MACs, Torch-Pruning {limit:,}")
    kept = hashlib.sha256(json.dumps(pruned.plan.kept).encode()).hexdigest()[:12]
    facts: dict[str, Any] = {"proof": pruned.proof is not None and pruned.proof.holds}
    if stepped is not None and same(pruned.model, stepped.model):
        facts["finetuned_as"] = other["accuracy"]["finetuned"]
    return Cut(pruned.model, {"kept": kept}, facts)


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether two networks have the same tensors, to the bit."""
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def measured(job: Job, made: Cut, seed: int, cut_seconds: float) -> dict[str, Any]:
    """Measure, fine-tune, measure. What Torch-Pruning's record says already of the same network is not trained again:
    one seed on the same tensors gives the same result."""
    start, facts = job.start, dict(made.facts)
    now, cut = prunus.cost(made.model, start.example()), start.top1(made.model)
    seconds, finetuned = 0.0, facts.pop("finetuned_as", None)
    if trained := finetuned is None:
        seconds = start.train(made.model, job.after, seed)
        finetuned = start.top1(made.model)
    return {
        "macs": now.macs,
        "params": now.params,
        "widths": [m.out_channels for m in made.model.modules() if isinstance(m, nn.Conv2d)],
        **facts,
        "dense_accuracy": job.dense_accuracy,
        "accuracy": {"cut": cut, "finetuned": finetuned},
        "trained": trained,
        "seconds": {"cut": cut_seconds, "finetuning": round(seconds, 1)},
        "versions": {"Prunus": prunus.__version__, "Torch-Pruning": version("torch-pruning"), **versions()},
        "hardware": hardware(start.runtime(seed).torch_device),
    }


def report(options: argparse.Namespace) -> None:
    """Print the table of the records that were made with these options; with --report write it to the page too."""
    rows = [row.name for row in rows_of(options.rows)]
    key = {"model": options.model, "target": options.target, "limit": options.limit}
    records = wanted(
        options.results,
        lambda r: (
            alike(r["settings"], key)
            and r["settings"]["finetuning"]["epochs"] == options.epochs
            and r["seed"] in options.seeds
            and r["row"] in rows
        ),
    )
    if any(r["settings"] != records[0]["settings"] for r in records):
        raise InputError(f"{options.results} mixes weights or fine-tuning settings; a table needs one of each")
    made = table(records, rows, options.seeds)
    publish(options, "versus_torch_pruning", section(__file__, options, conditions(records), made))


if __name__ == "__main__":
    sys.exit(main())
