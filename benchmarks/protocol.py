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
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from paired import Record, alike, append, between_markers, read
from protocol_rows import LONGER, Row, chosen
from protocol_table import page_text
from torch import Tensor, nn

import prunus
from prunus.api import Pruned
from prunus.engine.config import Augment, Fit
from prunus.engine.data import Data, load, with_validation
from prunus.engine.loop import evaluate, fit
from prunus.engine.runtime import Runtime
from prunus.engine.split import Split
from prunus.errors import InputError, PrunusError
from prunus.lab.supplies import supplies
from prunus.models import load_weights, resolve

HERE = Path(__file__).resolve().parent
MARKERS = "protocol"
NAMED = ("batch_size", "lr", "momentum", "nesterov", "weight_decay", "decay_norms", "schedule", "warmup")
VALIDATION = 0.1
ADAPTED = 8
"""Batches from which a network that a search looks at takes the statistics of its norms, before it is measured."""

SCRATCH_LR, SCRATCH_WARMUP = 0.1, 0.5
"""Learning rate and epochs of warm-up where random weights are trained."""


@dataclass(frozen=True, eq=False)
class Job:
    """What all rows share. data: with its validation part."""

    model: str
    weights: Path
    data: Data
    training: Fit
    longer: int
    device: str
    compile: bool
    dense: Mapping[str, float]

    def build(self) -> nn.Module:
        """The network with the published weights."""
        net = resolve(self.model, self.data.classes)
        load_weights(net, self.weights)
        return net.eval()

    def example(self) -> Tensor:
        return self.data.example()

    def runtime(self, seed: int) -> Runtime:
        return Runtime(self.device, "bf16", channels_last=True, compile=self.compile, seed=seed)

    def top1(self, net: nn.Module) -> float:
        """Accuracy on the test part in percent, float32."""
        metrics = evaluate(net, self.data, runtime=Runtime(self.device, channels_last=True))
        return round(float(metrics.top1), 4)

    def train(self, net: nn.Module, config: Fit, seed: int, hooks: Sequence[Any] = ()) -> float:
        """Train in place; seconds."""
        if not config.epochs:
            return 0.0
        torch.compiler.reset()  # torch compiles a class for eight networks of other widths, and then no more
        data = replace(self.data, validation=None)  # nothing is chosen by epoch, so none is validated
        return float(fit(net, data, config, hooks=hooks, runtime=self.runtime(seed), progress=False).seconds)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, then print the table. Exit code 2 for wrong input, 1 where a row failed."""
    options = parser().parse_args(argv)
    failed: list[str] = []
    try:
        if options.threads:
            torch.set_num_threads(options.threads)
        if not options.report:
            failed = run(options)
        report(options)
    except PrunusError as error:
        print(error, file=sys.stderr)
        return 2
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--model", default="resnet20", help="a bundled CIFAR ResNet")
    add("--weights", type=Path, default=HERE.parent.parent / "shared/weights/cifar10-resnet/resnet20-12fca82f.th")
    add("--data", default=str(HERE.parent.parent / "shared/data/cifar10"))
    add("--mean", type=numbers, default=(0.485, 0.456, 0.406))
    add("--std", type=numbers, default=(0.229, 0.224, 0.225))
    add("--targets", type=numbers, default=(50.0, 30.0), help="percent of the MACs that may remain, such as 50,30")
    add("--only", default="*", help='rows by name or pattern, divided by semicolons: "random;l2*"')
    add("--seeds", type=whole, default=(0, 1, 2), help="0,1,2")
    add("--epochs", type=int, default=4, help="of every row, before and after its cut together")
    add("--longer", type=int, default=20, help=f"epochs of the row {LONGER!r}")
    add("--lr", type=float, default=0.05)
    add("--limit", type=int, default=0, help="use only so many images of each part (a smoke test)")
    add("--device", default="auto")
    add("--compile", action=argparse.BooleanOptionalAction, default=False, help="torch.compile the training")
    add("--threads", type=int, default=0, help="0: as torch chooses")
    add("--results", type=Path, default=HERE / "results" / "protocol.jsonl")
    add("--report", action="store_true", help="run nothing; print the table and write it to the page")
    add("--page", type=Path, default=HERE.parent / "docs" / "benchmarks.md")
    return made


def numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def whole(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def training_of(options: argparse.Namespace) -> Fit:
    augment = Augment(crop=4, flip=True)
    return Fit(options.epochs, 128, options.lr, momentum=0.9, weight_decay=5e-4, schedule="cosine", augment=augment)


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What a result depends on beside row, definition, target, epochs and seed, as JSON gives it back."""
    training = training_of(options)
    how = {name: getattr(training, name) for name in NAMED}
    how |= {"crop": training.augment.crop, "flip": training.augment.flip}
    how |= {"precision": "bf16", "channels_last": True, "compile": options.compile}
    made = {"model": options.model, "data": Path(options.data).name, "mean": options.mean, "std": options.std}
    made |= {"limit": options.limit, "validation": VALIDATION, "training": how}
    found: dict[str, Any] = json.loads(json.dumps(made))
    return found


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
    if not options.weights.exists():
        raise InputError(f"there is no file {options.weights}")
    data = load(options.data, mean=options.mean, std=options.std)
    if not isinstance(data.train, Split) or not isinstance(data.test, Split):
        raise InputError(f"{options.data} gives loaders; images in memory are needed")
    if options.limit:
        some = torch.arange(options.limit)
        data = replace(data, train=data.train.subset(some), test=data.test.subset(some))
    data = with_validation(data, VALIDATION)
    shared = (options.model, options.weights, data, training_of(options), options.longer, options.device)
    job = Job(*shared, options.compile, {})
    cost = prunus.cost(job.build(), job.example())
    return replace(job, dense={"macs": cost.macs, "params": cost.params, "accuracy": job.top1(job.build())})


def run(options: argparse.Namespace) -> list[str]:
    """Every (seed, target, row) that the results file lacks. Returns a line for each that failed."""
    rows, failed = chosen(options.only), []
    job, weights = job_of(options), hashlib.sha256(options.weights.read_bytes()).hexdigest()[:12]
    for seed in options.seeds:
        for percent in options.targets:
            for row in rows:
                key = {**key_of(row, options, percent, seed), "weights": weights}
                if any(alike(record, key) for record in read(options.results)):
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
    cut = job.top1(net)
    training = job.train(net, config, seed)
    now = prunus.cost(net, job.example().to(next(net.parameters()).device))
    return {
        "macs": now.macs,
        "params": now.params,
        "dense": dict(job.dense),
        "widths": [[name, after] for name, _, after in found.rows()],
        "proof": found.proof is not None and found.proof.holds,
        "notes": list(found.notes),
        "accuracy": {"before": before, "cut": cut, "finetuned": job.top1(net) if rest else cut},
        "seconds": {"choosing": round(choosing, 1), "training": round(training, 1)},
        "versions": {"Prunus": prunus.__version__, "torch": torch.__version__, "Python": platform.python_version()},
        "hardware": hardware(job.runtime(seed)),
    }


def smaller(job: Job, row: Row, percent: float, seed: int) -> Pruned:
    """The published weights, cut once; repaired where the row says so."""
    runtime, net = job.runtime(seed), job.build()
    runtime.settled(net)
    reads = supplies(row.method, job.data, runtime=runtime, repair=row.repair)
    measure = reads.evaluate
    if row.kind == "search" and measure is not None and reads.data is not None:
        measure = adapted(reads.data, measure)
    return prunus.prune(
        net,
        job.example().to(runtime.torch_device),
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
        for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.reset_running_stats()
            norm.momentum = None  # cumulative
        net.train()
        with torch.no_grad():
            for x, _ in islice(data, ADAPTED):
                net(x.to(next(net.parameters()).device))
        return measure(net.eval())

    return measured


def sparse(job: Job, row: Row, percent: float, epochs: int, seed: int) -> tuple[float, Pruned]:
    """The published weights, trained with the method attached: accuracy before the cut, and the cut."""
    runtime, net = job.runtime(seed), job.build()
    runtime.settled(net)
    example = job.example().to(runtime.torch_device)
    attached = row.method.attach(net, example, row.goal(percent), epochs=epochs, seed=seed)
    job.train(net, replace(job.training, epochs=epochs), seed, [attached])
    net.eval()
    before = job.top1(net)
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


def hardware(runtime: Runtime) -> str:
    """Processor and cores, or the GPU."""
    if runtime.torch_device.type == "cuda":
        return torch.cuda.get_device_name(runtime.torch_device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used"


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
    script = Path(__file__)
    command = f"python {script.parent.name}/{script.name} --weights {options.weights.name} --data "
    text = page_text(command + f"{Path(options.data).name}/", found, rows, options.seeds)
    print(text)
    if options.report:
        if not options.page.exists():
            raise InputError(f"there is no page {options.page}")
        options.page.write_text(between_markers(options.page.read_text("utf-8"), MARKERS, text), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
