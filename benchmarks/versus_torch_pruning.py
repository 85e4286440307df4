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
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from paired import TOOLS, Record, alike, append, between_markers, conditions, read, table
from torch import Tensor, nn
from torch_pruning_cut import Stepped, differs, removed_at, step_to

import prunus
from prunus.engine.config import Augment, Fit
from prunus.engine.data import Data, load
from prunus.engine.loop import evaluate, fit
from prunus.engine.runtime import Runtime
from prunus.engine.split import Split
from prunus.errors import InputError, PrunusError
from prunus.methods import method_of
from prunus.methods.score import Floats, Method, Search
from prunus.models import load_weights, resolve

HERE = Path(__file__).resolve().parent
MARKERS = "versus_torch_pruning"
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

    model: str
    weights: Path
    data: Data
    target: float
    after: Fit
    device: str
    limit: int
    compile: bool
    dense_accuracy: float = 0.0

    def build(self) -> nn.Module:
        """The dense network with the published weights."""
        net = resolve(self.model, self.data.classes)
        load_weights(net, self.weights)
        return net.eval()

    def example(self) -> Tensor:
        return self.data.example()

    def top1(self, net: nn.Module) -> float:
        """Accuracy on the test part in percent, float32."""
        metrics = evaluate(net, self.data, runtime=Runtime(self.device, channels_last=True))
        return round(float(metrics.top1), 4)

    def settings(self) -> dict[str, Any]:
        """What a result depends on beside tool, row and seed, as JSON gives it back."""
        digest = hashlib.sha256(self.weights.read_bytes()).hexdigest()[:12]
        fine = {name: getattr(self.after, name) for name in NAMED}
        fine |= {"crop": self.after.augment.crop, "flip": self.after.augment.flip}
        fine |= {"precision": "bf16", "channels_last": True, "compile": self.compile}
        made = {"model": self.model, "weights": digest, "target": self.target, "limit": self.limit, "finetuning": fine}
        found: dict[str, Any] = json.loads(json.dumps(made))
        return found


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
    options = parser().parse_args(argv)
    try:
        if options.threads:
            torch.set_num_threads(options.threads)
        if not options.report:
            run(options)
        report(options)
    except ModuleNotFoundError as error:
        if error.name != "torch_pruning":
            raise
        print("torch-pruning is not installed: pip install -r benchmarks/requirements.txt", file=sys.stderr)
        return 2
    except PrunusError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--model", default="resnet56", help="a bundled CIFAR ResNet")
    add("--weights", type=Path, default=HERE.parent.parent / "shared/weights/cifar10-resnet/resnet56-4bfd9763.th")
    add("--data", default=str(HERE.parent.parent / "shared/data/cifar10"))
    add("--mean", type=numbers, default=(0.485, 0.456, 0.406))
    add("--std", type=numbers, default=(0.229, 0.224, 0.225))
    add("--target", type=float, default=0.5, help="fraction of the MACs that may remain")
    add("--seeds", type=whole, default=(0, 1, 2, 3, 4), help="0,1,2,3,4")
    add("--epochs", type=int, default=4)
    add("--limit", type=int, default=0, help="use only so many images of each part (a smoke test)")
    add("--rows", default=",".join(row.method + ":" + row.scope for row in ROWS), help="of l2:global, l2:local, …")
    add("--device", default="auto")
    add("--compile", action=argparse.BooleanOptionalAction, default=True, help="torch.compile the fine-tuning")
    add("--threads", type=int, default=0, help="0: as torch chooses")
    add("--results", type=Path, default=HERE / "results" / "versus_torch_pruning.jsonl")
    add("--report", action="store_true", help="run nothing; print the table and write it to the page")
    add("--page", type=Path, default=HERE.parent / "docs" / "benchmarks.md")
    return made


def numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def whole(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def rows_of(text: str) -> list[Row]:
    known = {f"{row.method}:{row.scope}": row for row in ROWS}
    wrong = [name for name in text.split(",") if name not in known]
    if wrong:
        raise InputError(f"unknown row {wrong[0]!r} (allowed: {', '.join(known)})")
    return [known[name] for name in text.split(",")]


def job_of(options: argparse.Namespace) -> Job:
    data = load(options.data, mean=options.mean, std=options.std)
    if not isinstance(data.train, Split) or not isinstance(data.test, Split):
        raise InputError(f"{options.data} gives loaders; images in memory are needed")
    if options.limit:
        some = torch.arange(options.limit)
        data = replace(data, train=data.train.subset(some), test=data.test.subset(some))
    augment = Augment(crop=4, flip=True)
    after = Fit(options.epochs, 128, 0.02, momentum=0.9, weight_decay=5e-4, schedule="cosine", augment=augment)
    if not options.weights.exists():
        raise InputError(f"there is no file {options.weights}")
    shared = (options.model, options.weights, data, options.target, after)
    return Job(*shared, options.device, options.limit, options.compile)


def run(options: argparse.Namespace) -> None:
    """Every (seed, row, tool) that the results file lacks."""
    rows, job = rows_of(options.rows), job_of(options)
    settings, dense = job.settings(), prunus.cost(job.build(), job.example()).macs
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
                    job = replace(job, dense_accuracy=job.top1(job.build()))
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
    stepped, example = step(job, row, seed), job.example()
    return Cut(stepped.model, {}, {"steps": stepped.steps, "differs": differs(job.build, example, stepped)})


def step(job: Job, row: Row, seed: int) -> Stepped:
    net, example = job.build(), job.example()
    limit = int(job.target * prunus.cost(net, example).macs)
    random = row.method == "random"
    return step_to(net, example, limit, random=random, scope=row.scope, classes=job.data.classes, seed=seed)


def ours(job: Job, row: Row, seed: int, other: Record) -> Cut:
    """Cut to the MACs of Torch-Pruning's network. Raises PrunusError where the result is further away than NEAR."""
    net, example, limit = job.build(), job.example(), int(other["macs"])
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
    now, cut, facts = prunus.cost(made.model, job.example()), job.top1(made.model), dict(made.facts)
    runtime = Runtime(job.device, "bf16", channels_last=True, compile=job.compile, seed=seed)
    seconds, finetuned = 0.0, facts.pop("finetuned_as", None)
    if trained := finetuned is None:
        torch.compiler.reset()  # torch compiles a class for eight networks of other widths, and then no more
        seconds = fit(made.model, job.data, job.after, runtime=runtime, progress=False).seconds
        finetuned = job.top1(made.model)
    return {
        "macs": now.macs,
        "params": now.params,
        "widths": [m.out_channels for m in made.model.modules() if isinstance(m, nn.Conv2d)],
        **facts,
        "dense_accuracy": job.dense_accuracy,
        "accuracy": {"cut": cut, "finetuned": finetuned},
        "trained": trained,
        "seconds": {"cut": cut_seconds, "finetuning": round(seconds, 1)},
        "versions": {
            "Prunus": prunus.__version__,
            "Torch-Pruning": version("torch-pruning"),
            "torch": torch.__version__,
            "Python": platform.python_version(),
        },
        "hardware": hardware(runtime),
    }


def hardware(runtime: Runtime) -> str:
    """Processor and cores, or the GPU."""
    if runtime.torch_device.type == "cuda":
        return torch.cuda.get_device_name(runtime.torch_device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used"


def report(options: argparse.Namespace) -> None:
    """Print the table of the records that were made with these options; with --report write it to the page too."""
    rows = [row.name for row in rows_of(options.rows)]
    wanted = {"model": options.model, "target": options.target, "limit": options.limit}
    records = [
        r
        for r in read(options.results)
        if alike(r["settings"], wanted)
        and r["settings"]["finetuning"]["epochs"] == options.epochs
        and r["seed"] in options.seeds
        and r["row"] in rows
    ]
    if not records:
        raise InputError(f"{options.results} has no records with these settings")
    if any(r["settings"] != records[0]["settings"] for r in records):
        raise InputError(f"{options.results} mixes weights or fine-tuning settings; a table needs one of each")
    script = Path(__file__)
    text = "\n".join(
        (
            f"Command: `python {script.parent.name}/{script.name} --weights {options.weights.name} "
            f"--data {Path(options.data).name}/`",
            "",
            conditions(records),
            "",
            table(records, rows, options.seeds),
        )
    )
    print(text)
    if options.report:
        page = options.page
        if not page.exists():
            raise InputError(f"there is no page {page}")
        page.write_text(between_markers(page.read_text("utf-8"), MARKERS, text), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
