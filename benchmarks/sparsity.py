"""Is the sparsity real? ResNet-20, CIFAR-10, published weights, a few epochs with each penalty and without one.

    python benchmarks/sparsity.py --weights resnet20-12fca82f.th --data cifar10/
    python benchmarks/sparsity.py --report

Each row trains the same weights for the same epochs. Then every channel below a hundredth of the largest of its layer
is cut, with proof, and nothing is trained after that. What the cut channels still gave on average, such as the shift β
of a norm whose scale is zero, is folded into the layers that read them (`prunus.repair.Fold`); the table has both. A
channel's size is what the row's penalty shrinks: the sum of the scales of its norms for slimming, the norm of its whole
group of weights for all other rows. Every finished run is a line of the results file; what the file has is not run
again. Seeds are the outer loop.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from paired import Record, alike, append, between_markers, read, spread
from torch import nn

import prunus
from prunus.cutting import cut
from prunus.engine.config import Augment, Fit
from prunus.engine.data import Data, batches, load
from prunus.engine.loop import evaluate, fit
from prunus.engine.runtime import Runtime
from prunus.engine.split import Split
from prunus.errors import InputError, PrunusError
from prunus.methods import SSL, Attached, Slimming
from prunus.methods.lasso_training import Training
from prunus.models import load_weights, resolve
from prunus.repair import Fold, mended

HERE = Path(__file__).resolve().parent
MARKERS = "sparsity"
SMALL = 1e-2
"""A channel below this fraction of its layer's largest counts as gone."""

ROWS = ("none", "slimming", "lasso", "l2")
WORDS = {
    "none": "no penalty",
    "slimming": "slimming",
    "lasso": "group lasso",
    "l2": "squared form (`group_l2`)",
}
LAM = {"slimming": 2e-3, "lasso": 5e-3, "l2": 5e-3}
NAMED = ("epochs", "batch_size", "lr", "momentum", "nesterov", "weight_decay", "decay_norms", "schedule")
LEAST = {"channels": 30.0, "macs": 25.0}
"""Percent of the channels that must be gone, and of the MACs that cutting them must take."""
MOST = {"cut": 0.5, "penalty": 1.5}
"""Points that cutting may cost, and the penalty before it against the run without one."""


def method_of(row: str, lam: Mapping[str, float]) -> Slimming | SSL | None:
    """What a row trains with. The lasso counts bias and norm to a filter, so that all of a channel vanishes."""
    if row == "none":
        return None
    if row == "slimming":
        return Slimming(lam=lam[row])
    if row == "l2":
        return SSL(lam=lam[row], affine=True, form="group_l2")
    return SSL(lam=lam[row], affine=True, solver="proximal")


@dataclass(frozen=True, eq=False)
class Job:
    """What all rows share."""

    model: str
    weights: Path
    data: Data
    training: Fit
    device: str
    limit: int
    compile: bool
    lam: Mapping[str, float]

    def build(self) -> nn.Module:
        """The network with the published weights."""
        net = resolve(self.model, self.data.classes)
        load_weights(net, self.weights)
        return net.eval()

    def top1(self, net: nn.Module) -> float:
        """Accuracy on the test part in percent, float32."""
        metrics = evaluate(net, self.data, runtime=Runtime(self.device, channels_last=True))
        return round(float(metrics.top1), 4)

    def settings(self) -> dict[str, Any]:
        """What a result depends on beside row and seed, as JSON gives it back."""
        digest = hashlib.sha256(self.weights.read_bytes()).hexdigest()[:12]
        how = {name: getattr(self.training, name) for name in NAMED}
        how |= {"crop": self.training.augment.crop, "flip": self.training.augment.flip}
        how |= {"precision": "bf16", "channels_last": True, "compile": self.compile}
        made = {"model": self.model, "weights": digest, "limit": self.limit, "small": SMALL, "training": how}
        found: dict[str, Any] = json.loads(json.dumps(made))
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, then print the table. Exit code 2 for wrong input."""
    options = parser().parse_args(argv)
    try:
        if options.threads:
            torch.set_num_threads(options.threads)
        if not options.report:
            run(options)
        report(options)
    except PrunusError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--model", default="resnet20", help="a bundled CIFAR ResNet")
    add("--weights", type=Path, default=HERE.parent.parent / "shared/weights/cifar10-resnet/resnet20-12fca82f.th")
    add("--data", default=str(HERE.parent.parent / "shared/data/cifar10"))
    add("--mean", type=numbers, default=(0.485, 0.456, 0.406))
    add("--std", type=numbers, default=(0.229, 0.224, 0.225))
    add("--rows", default=",".join(ROWS), help="of " + ", ".join(ROWS))
    add("--lam", type=strengths, default={}, help="slimming=2e-3,lasso=5e-3,l2=5e-3")
    add("--seeds", type=lambda text: tuple(map(int, text.split(","))), default=(0,), help="0,1,2")
    add("--epochs", type=int, default=6)
    add("--lr", type=float, default=0.05)
    add("--limit", type=int, default=0, help="use only so many images of each part (a smoke test)")
    add("--device", default="auto")
    add("--compile", action=argparse.BooleanOptionalAction, default=True, help="torch.compile the training")
    add("--threads", type=int, default=0, help="0: as torch chooses")
    add("--results", type=Path, default=HERE / "results" / "sparsity.jsonl")
    add("--report", action="store_true", help="run nothing; print the table and write it to the page")
    add("--page", type=Path, default=HERE.parent / "docs" / "benchmarks.md")
    return made


def numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def strengths(text: str) -> dict[str, float]:
    return {name: float(value) for name, _, value in (part.partition("=") for part in text.split(","))}


def rows_of(text: str) -> list[str]:
    wrong = [name for name in text.split(",") if name not in ROWS]
    if wrong:
        raise InputError(f"unknown row {wrong[0]!r} (allowed: {', '.join(ROWS)})")
    return text.split(",")


def job_of(options: argparse.Namespace) -> Job:
    wrong = [name for name in options.lam if name not in LAM]
    if wrong:
        raise InputError(f"--lam: {wrong[0]!r} has no penalty (allowed: {', '.join(LAM)})")
    if not options.weights.exists():
        raise InputError(f"there is no file {options.weights}")
    data = load(options.data, mean=options.mean, std=options.std)
    if not isinstance(data.train, Split) or not isinstance(data.test, Split):
        raise InputError(f"{options.data} gives loaders; images in memory are needed")
    if options.limit:
        some = torch.arange(options.limit)
        data = replace(data, train=data.train.subset(some), test=data.test.subset(some))
    augment = Augment(crop=4, flip=True)
    training = Fit(options.epochs, 128, options.lr, momentum=0.9, weight_decay=1e-4, schedule="cosine", augment=augment)
    lam = {**LAM, **options.lam}
    return Job(options.model, options.weights, data, training, options.device, options.limit, options.compile, lam)


def run(options: argparse.Namespace) -> None:
    """Every (seed, row) that the results file lacks."""
    rows, job = rows_of(options.rows), job_of(options)
    settings = job.settings()
    for seed in options.seeds:
        for row in rows:
            key = {"row": row, "seed": seed, "method": repr(method_of(row, job.lam)), "settings": settings}
            if any(alike(record, key) for record in read(options.results)):
                continue
            record = {**key, **one(job, row, seed)}
            append(options.results, record)
            accuracy = record["accuracy"]
            print(
                f"seed {seed}  {WORDS[row]}: {accuracy['dense']:.2f} -> {accuracy['trained']:.2f}, "
                f"{record['gone']} of {record['channels']} channels gone, cut to "
                f"{100 * record['macs'] / record['dense_macs']:.2f} % of the MACs: {accuracy['cut']:.2f}, "
                f"folded {accuracy['folded']:.2f}, "
                f"{record['seconds']:.0f} s",
                flush=True,
            )


def one(job: Job, row: str, seed: int) -> dict[str, Any]:
    """Train with the penalty, cut what is gone, measure before and after."""
    start = time.perf_counter()
    net, method = job.build(), method_of(row, job.lam)
    dense = job.top1(net)
    runtime = Runtime(job.device, "bf16", channels_last=True, compile=job.compile, seed=seed)
    example = job.data.example().to(runtime.torch_device)
    runtime.settled(net)
    # Without a penalty: what measures the lasso's groups, and is no hook.
    attached = (method or SSL(affine=True)).attach(net, example, epochs=job.training.epochs, seed=seed)
    torch.compiler.reset()
    fit(net, job.data, job.training, hooks=[attached] if method else [], runtime=runtime, progress=False)
    net.eval()
    found = sizes(attached)
    kept = [np.flatnonzero(size > SMALL * size.max()) if size.max() > 0 else np.arange(1) for size in found]
    trained = job.top1(net)
    small = cut(net, example, attached.coupling, kept)
    plain = job.top1(small.model)
    assert isinstance(job.data.train, Split)
    feed = batches(job.data.train, batch_size=256, mean=job.data.mean, std=job.data.std, shuffle=True, seed=seed)
    folded = mended(net, small, [Fold()], feed, example, seed)
    return {
        "lam": job.lam.get(row, 0.0),
        "groups": [[g.name, g.width, len(k)] for g, k in zip(attached.coupling.groups, kept, strict=True)],
        "channels": sum(attached.coupling.widths),
        "gone": sum(attached.coupling.widths) - sum(map(len, kept)),
        "macs": small.after.macs,
        "dense_macs": small.before.macs,
        "proof": small.proof is not None and small.proof.holds,
        "accuracy": {"dense": dense, "trained": trained, "cut": plain, "folded": job.top1(folded.model)},
        "seconds": round(time.perf_counter() - start, 1),
        "versions": {"Prunus": prunus.__version__, "torch": torch.__version__, "Python": platform.python_version()},
        "hardware": hardware(runtime),
    }


def sizes(attached: Attached) -> list[np.ndarray[Any, Any]]:
    """For each group of channels how large each is now."""
    if isinstance(attached, Training):
        (norms,) = attached.norms()
        return [part.cpu().numpy() for part in norms.split(list(attached.coupling.widths))]
    return [np.asarray(score) for score in Slimming().score(attached.model, attached.coupling)]


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
    """Print the table of the records that were made with these options; with --report write it to the page too."""
    rows, lam = rows_of(options.rows), {**LAM, **options.lam}
    records = [
        r
        for r in read(options.results)
        if r["row"] in rows
        and r["seed"] in options.seeds
        and r["lam"] == lam.get(r["row"], 0.0)
        and r["settings"]["model"] == options.model
        and r["settings"]["limit"] == options.limit
        and (r["settings"]["training"]["epochs"], r["settings"]["training"]["lr"]) == (options.epochs, options.lr)
    ]
    if not records:
        raise InputError(f"{options.results} has no records with these settings")
    if any(r["settings"] != records[0]["settings"] for r in records):
        raise InputError(f"{options.results} mixes weights or training settings; a table needs one of each")
    script = Path(__file__)
    text = "\n".join(
        (
            f"Command: `python {script.parent.name}/{script.name} --weights {options.weights.name} "
            f"--data {Path(options.data).name}/`",
            "",
            conditions(records),
            "",
            table(records, rows),
        )
    )
    print(text)
    if options.report:
        if not options.page.exists():
            raise InputError(f"there is no page {options.page}")
        options.page.write_text(between_markers(options.page.read_text("utf-8"), MARKERS, text), "utf-8")


def table(records: Sequence[Record], rows: Sequence[str]) -> str:
    """A line a row. The last column holds all four conditions against `LEAST` and `MOST`."""
    lines = [
        "| penalty | λ | top-1 after training | difference to none | channels gone | MACs that their cut "
        "takes | top-1 after the cut | and with means folded | the cut costs | all conditions met |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    plain = {r["seed"]: r["accuracy"]["trained"] for r in records if r["row"] == "none"}
    for row in rows:
        mine = {r["seed"]: r for r in records if r["row"] == row}
        if not mine:
            lines.append(f"| {WORDS[row]} |" + " |" * 9)
            continue
        trained = [r["accuracy"]["trained"] for r in mine.values()]
        after, folded = ([r["accuracy"][stage] for r in mine.values()] for stage in ("cut", "folded"))
        gone = mean(100 * r["gone"] / r["channels"] for r in mine.values())
        macs = mean(100 - 100 * r["macs"] / r["dense_macs"] for r in mine.values())
        behind = mean(plain[s] - mine[s]["accuracy"]["trained"] for s in mine) if set(mine) <= set(plain) else None
        costs = mean(trained) - mean(folded)
        met = behind is not None and behind <= MOST["penalty"] and costs < MOST["cut"]
        met = met and gone >= LEAST["channels"] and macs >= LEAST["macs"]
        cells = [
            WORDS[row],
            f"{next(iter(mine.values()))['lam']:g}",
            spread(trained),
            "" if row == "none" else "unknown" if behind is None else f"{-behind:+.2f}",
            f"{gone:.1f} %",
            f"{macs:.1f} %",
            spread(after),
            spread(folded),
            f"{costs:.2f}",
            "" if row == "none" else "yes" if met else "no",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def conditions(records: Sequence[Record]) -> str:
    """What the figures depend on, read from the records."""
    how = records[0]["settings"]["training"]
    versions = sorted({", ".join(f"{name} {v}" for name, v in r["versions"].items()) for r in records})
    dense = sorted({f"{r['accuracy']['dense']:.2f} %" for r in records})
    return "\n".join(
        (
            f"- {how['epochs']} epochs of SGD at {how['lr']:g} with a cosine, batch {how['batch_size']}, momentum "
            f"{how['momentum']:g}, weight decay {how['weight_decay']:g}, {how['precision']}; the network before: "
            f"{', '.join(dense)}",
            f"- Conditions: at least {LEAST['channels']:g} % of the channels below {SMALL:g} of their layer's largest; "
            f"their cut takes at least {LEAST['macs']:g} % of the MACs and costs under {MOST['cut']:g} points before "
            f"any fine-tuning; at most {MOST['penalty']:g} points behind the run without penalty",
            f"- Seeds: {', '.join(map(str, sorted({r['seed'] for r in records})))}. Cuts proven: "
            f"{sum(r['proof'] for r in records)} of {len(records)}",
            f"- Hardware: {'; '.join(sorted({r['hardware'] for r in records}))}. Versions: {'; '.join(versions)}",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
