"""What torch's fused step brings a training on this machine: an optimizer's step alone, in turns with the usual one.

    python benchmarks/optimizer_step.py --write
    python benchmarks/optimizer_step.py --models torchvision/vgg16 --rounds 9

The optimizer is the one that `fit` makes, with gradients of random numbers and with momentum that is there already.
A convolution's step is small beside its forward and backward, so convolutional networks gain little in whole; large
linear layers gain most.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from statistics import median

import torch
from options import add_page, names, parser_of, typed
from pages import listed, write
from records import hardware, versions
from torch import nn

from prunus.engine.config import Fit
from prunus.engine.optimizer import optimizer
from prunus.models import resolve

CONFIGS = (Fit(epochs=1), Fit(epochs=1, optimizer="adamw", lr=1e-3))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write to the page where that is asked for."""
    options = parser().parse_args(argv)
    text = "\n".join((*conditions(options), "", *table(options.models, options.rounds)))
    print(text)
    if options.write:
        write(options.page, "optimizer_step", text)
    return 0


def parser() -> argparse.ArgumentParser:
    made = parser_of(__doc__)
    made.add_argument("--models", type=names, default=("resnet56", "torchvision/resnet50", "torchvision/alexnet"))
    made.add_argument("--rounds", type=int, default=15)
    made.add_argument("--write", action="store_true", help="write the table to the page")
    add_page(made)
    return made


def usual(fused: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """An optimizer of the same parameters and settings with the step that torch takes by default."""
    groups = [{name: v for name, v in group.items() if name != "fused"} for group in fused.param_groups]
    return type(fused)(groups)  # type: ignore[call-arg]


def step(made: torch.optim.Optimizer) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    made.step()
    return 1e3 * (time.perf_counter() - start)


def gradients(net: nn.Module) -> None:
    for p in net.parameters():
        p.grad = torch.randn_like(p)


def table(models: Sequence[str], rounds: int) -> list[str]:
    """A line for each network and optimizer."""
    lines = [
        "| network | million parameters | optimizer | fused, ms | by default, ms | times as fast (rounds) |",
        "|---|---|---|---|---|---|",
    ]
    for name in models:
        torch.manual_seed(0)
        net = resolve(name, 10)
        gradients(net)
        millions = sum(p.numel() for p in net.parameters()) / 1e6
        for config in CONFIGS:
            fused = optimizer(net, config)
            assert all(group["fused"] for group in fused.param_groups)
            ways = (fused, usual(fused))
            pairs = [tuple(step(way) for way in ways) for _ in range(rounds + 1)][1:]
            ratios = sorted(theirs / ours for ours, theirs in pairs)
            ours, theirs = (median(pair[k] for pair in pairs) for k in (0, 1))
            lines.append(
                f"| {name.rpartition('/')[2]} | {millions:.1f} | {config.optimizer} | {ours:.1f} | {theirs:.1f} "
                f"| {median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f}) |"
            )
    return lines


def conditions(options: argparse.Namespace) -> list[str]:
    """The command, and what it was measured on."""
    return [
        f"Command: `python benchmarks/optimizer_step.py{typed(options, parser(), ('write', 'page'))}`",
        "",
        f"- Hardware: {hardware(torch.device('cpu'))}. Versions: {listed(versions())}",
        f"- float32, medians of {options.rounds} rounds in turns",
    ]


if __name__ == "__main__":
    sys.exit(main())
