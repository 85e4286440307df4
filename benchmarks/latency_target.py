"""latency=60% on ONNX Runtime: predicted, measured, and measured again in fresh processes some minutes apart.

    python benchmarks/latency_target.py
    python benchmarks/latency_target.py --models torchvision/mobilenet_v2 --pause 60 --seconds 30
    python benchmarks/latency_target.py --report

Each network is pruned and saved in a process of its own. Then each is measured against its dense network, in turns, in
so many fresh processes, with a pause between the rounds. Every step is a line of the results file; what the file has is
not done again. Weights are random. Exit code 1 where a process failed.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from latency_table import conditions, latency_parser
from latency_table import key_of as network_key
from options import HERE, carried_out, exit_code
from pages import publish
from records import Record, append, known

import prunus
from prunus.errors import InputError
from prunus.latency import Spread
from prunus.latency.measure import ratio_text
from prunus.models import resolve

MODELS = (
    "torchvision/resnet50",
    "torchvision/vgg16_bn",
    "torchvision/mobilenet_v2",
    "torchvision/efficientnet_b0",
)
ALLOWED = 0.03
"""How far above what was asked a later measurement may be, of the dense latency."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is missing, then print the table. Exit code 2 for wrong input, 1 where a process failed."""
    options = parser().parse_args(argv)
    if options.one is not None:
        return exit_code(options, lambda: append(options.results, one(options)))
    return carried_out(options, run, report)


def parser() -> argparse.ArgumentParser:
    made = latency_parser(__doc__, __file__, MODELS, target="latency=60%", seconds=60.0)
    add = made.add_argument
    add("--repeats", type=int, default=3, help="fresh processes for each network")
    add("--pause", type=float, default=300.0, metavar="S", help="seconds between the rounds (default 300)")
    add("--folder", type=Path, default=HERE.parent / "runs" / "latency_target", help="where the cut networks lie")
    add("--one", nargs=2, metavar=("MODEL", "STEP"), help=argparse.SUPPRESS)
    return made


def key_of(name: str, step: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a record is found by. step: "cut", or the number of a later measurement."""
    return {"model": name, "step": step, **network_key(name, options)}


def place(name: str, options: argparse.Namespace) -> Path:
    """The file of a cut network."""
    told = "-".join(map(str, key_of(name, "cut", options).values()))
    return (
        Path(options.folder) / f"{name.rpartition('/')[2]}-{hashlib.sha256(told.encode()).hexdigest()[:8]}.safetensors"
    )


def run(options: argparse.Namespace) -> list[str]:
    """Every step that the results file lacks, each in a process of its own. Returns a line for each that failed."""
    failed: list[str] = []
    for number, step in enumerate(["cut", *map(str, range(1, options.repeats + 1))]):
        done = False
        for name in options.models:
            if known(options.results, key_of(name, step, options)):
                continue
            if step != "cut" and not place(name, options).exists():
                failed.append(f"{name}, {step}: there is no cut network {place(name, options)}")
                continue
            if number > 1 and not done:
                time.sleep(options.pause)
            done = True
            words = [sys.executable, __file__, "--one", name, step]
            for word in ("side", "target", "runtime", "threads", "seconds", "folder", "results"):
                words += [f"--{word}", str(getattr(options, word))]
            ended = subprocess.run(words, capture_output=True, text=True)
            if ended.returncode:
                failed.append(f"{name}, {step}: {ended.stderr.strip()[-300:]}")
            print(f"{name}, {step}: {'failed' if ended.returncode else 'done'}", flush=True)
    return failed


def one(options: argparse.Namespace) -> dict[str, Any]:
    """One step, in this process: cut and save, or load and measure."""
    name, step = options.one
    torch.manual_seed(0)
    start = time.perf_counter()
    dense = resolve(name).eval()
    x = torch.randn(1, 3, options.side, options.side)
    key, file = key_of(name, step, options), place(name, options)
    if step == "cut":
        small = prunus.prune(dense, x, f"{options.target},on={options.runtime}")
        assert small.latency is not None  # the target asks for it
        file.parent.mkdir(parents=True, exist_ok=True)
        prunus.save(small, file)
        proof = small.proof is not None and small.proof.holds
        found = {"latency": small.latency.to_json(), "macs": small.after.macs / small.before.macs, "proof": proof}
        return {**key, **found, "notes": list(small.notes), "took": round(time.perf_counter() - start, 1)}
    torch.manual_seed(1)
    small_model = prunus.load(file, resolve(name)).model.eval()
    bench = prunus.bench(
        dense, x, small_model, runtimes=options.runtime, threads=options.threads, seconds=options.seconds
    )
    (row,) = bench.rows
    assert row.ratio is not None  # two networks were timed
    times = {"dense": vars(row.dense), "ratio": vars(row.ratio), "noise": vars(row.noise)}
    return {**key, **times, "at": time.strftime("%H:%M"), "hardware": bench.hardware, "versions": bench.versions}


def report(options: argparse.Namespace) -> None:
    publish(options, "latency_target", table(options))


def table(options: argparse.Namespace) -> str:
    """One line a network. Raises InputError where none was cut."""

    def last(name: str, step: str) -> Record | None:
        return known(options.results, key_of(name, step, options))

    cuts = {name: cut for name in options.models if (cut := last(name, "cut")) is not None}
    if not cuts:
        raise InputError(f"{options.results} has no records with these settings")
    told = [cut["latency"] for cut in cuts.values()]
    steps = [str(k) for k in range(1, options.repeats + 1)]
    lines = [
        conditions("latency_target", options, told),
        "",
        "| network | dense, ms | MACs | predicted | measured | rounds | "
        + " | ".join(f"process {k}" for k in steps)
        + f" | all at or under what was asked + {100 * ALLOWED:g} points | within the interval |",
        "|---" * (8 + len(steps)) + "|",
    ]
    for name in options.models:
        cut = cuts.get(name)
        if cut is None:
            lines.append(f"| {name} (not cut) |" + " |" * (6 + len(steps)))
            continue
        latency = cut["latency"]
        later = [last(name, step) for step in steps]
        cells = [name, f"{1e3 * latency['dense']:.1f}", f"{100 * cut['macs']:.2f} %", f"{latency['predicted']:.3f}"]
        cells += [ratio_text(Spread(**latency["measured"])), str(latency["rounds"])]
        cells += ["" if r is None else ratio_text(Spread(**r["ratio"])) for r in later]
        lines.append(f"| {' | '.join([*cells, verdict(latency, later), inside(latency, later)])} |")
    return "\n".join(lines)


def verdict(latency: Record, later: Sequence[Record | None]) -> str:
    """Whether every later median is near enough; nothing as long as one is missing, or for a target in seconds."""
    asked = str(latency["asked"])
    if not asked.endswith("%") or any(r is None for r in later):
        return ""
    most = float(asked[:-1]) / 100 + ALLOWED
    return "yes" if all(r["ratio"]["median"] <= most for r in later if r is not None) else "no"


def inside(latency: Record, later: Sequence[Record | None]) -> str:
    """How many of the later medians lie in the interval that the cut was stated with."""
    low, high = latency["measured"]["low"], latency["measured"]["high"]
    found = [low <= r["ratio"]["median"] <= high for r in later if r is not None]
    return f"{sum(found)} of {len(found)}" if found else ""


if __name__ == "__main__":
    sys.exit(main())
