"""What it brings that a training on the CPU keeps the memory which it frees: step times and peak memory.

    python benchmarks/allocator.py                       # ResNet-56 at 32 x 32, batch 128, bf16, channels_last

Each row trains in a process of its own: with memory kept, as `fit` does by itself, and with glibc's defaults, in turns.
The last steps of both must leave the same weights, to the bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from options import typed
from pages import listed, write
from records import hardware, versions
from train_speed import FAST, Case, Setting, engine_steps, speed_parser

CASES = (Case("bf16 channels_last eager", {"precision": "bf16", "channels_last": True}), Case("compiled", FAST))
DEFAULT = {"PRUNUS_BENCHMARK_ALLOCATOR": "default"}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the table; 1 where the weights differ."""
    options = parser().parse_args(argv)
    setting = Setting(options.model, options.size, options.classes, options.batch, options.steps, options.warm)
    if options.worker:
        print(json.dumps(measured(setting, Case(**json.loads(options.worker)))))
        return 0
    text, same = table(setting, options)
    print(text)
    if options.write:
        write(options.page, "allocator", text)
    return 0 if same else 1


def parser() -> argparse.ArgumentParser:
    made = speed_parser(__doc__, warm=4)
    made.add_argument("--worker", default="", help=argparse.SUPPRESS)
    return made


def measured(setting: Setting, case: Case) -> dict[str, Any]:
    """Seconds of a step, the most memory that the process had, and a digest of the weights."""
    if os.environ.get("PRUNUS_BENCHMARK_ALLOCATOR") == "default":
        import prunus.engine.memory

        prunus.engine.memory.allocator = lambda: None
    model, seconds = engine_steps(setting, case)
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": median(seconds[setting.warm - 1 :]), "bytes": peak, "weights": digest.hexdigest()}


def table(setting: Setting, options: argparse.Namespace) -> tuple[str, bool]:
    """The page's text, and whether all weights were the same."""
    lines = [
        f"Command: `python benchmarks/allocator.py{typed(options, parser(), ('write', 'page', 'worker'))}`",
        "",
        f"- {setting.model} at {setting.size} x {setting.size}, batch {setting.batch}, SGD, random crop and flip",
        f"- Hardware: {hardware(torch.device('cpu'))}",
        f"- Versions: {listed(versions())}",
        f"- {options.rounds} rounds, medians of {setting.steps} steps each; seed 0",
        "",
        "| | ms a step, kept | by default | times as fast (rounds) | peak memory, kept | by default | same weights |",
        "|---|---|---|---|---|---|---|",
    ]
    same = True
    for case in CASES:
        pairs = []
        for turn in range(options.rounds):
            ways = ({}, DEFAULT) if turn % 2 else (DEFAULT, {})
            found = {bool(way): remote(setting, case, way, options.threads) for way in ways}
            pairs.append((found[False], found[True]))
        kept, default = ([pair[k] for pair in pairs] for k in (0, 1))
        equal = len({one["weights"] for one in kept + default}) == 1
        same &= equal
        ratios = sorted(b["seconds"] / a["seconds"] for a, b in pairs)
        lines.append(
            f"| {case.name} | {middle(kept, 'seconds') * 1e3:.0f} | {middle(default, 'seconds') * 1e3:.0f} "
            f"| {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | {middle(kept, 'bytes') / 2**30:.2f} GiB "
            f"| {middle(default, 'bytes') / 2**30:.2f} GiB | {'yes' if equal else 'no'} |"
        )
    return "\n".join(lines), same


def middle(found: Sequence[dict[str, Any]], key: str) -> float:
    return median(one[key] for one in found)


def remote(setting: Setting, case: Case, way: dict[str, str], threads: int) -> dict[str, Any]:
    """One process."""
    words = [sys.executable, str(Path(__file__).resolve())]
    for name, value in asdict(setting).items():
        words += [f"--{name}", str(value)]
    environment = os.environ | way | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    done = subprocess.run(
        [*words, "--worker", json.dumps(asdict(case))], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{case.name} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


if __name__ == "__main__":
    sys.exit(main())
