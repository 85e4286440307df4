"""What a method costs in training, beside plain training in the same run: ResNet-56 at 32 x 32, batch 128.

    python benchmarks/method_cost.py
    python benchmarks/method_cost.py --compile --only gates
    python benchmarks/method_cost.py --model torchvision/resnet50 --size 224 --batch 256        # on a GPU

Each row has two networks of the same weights, one trained plainly and one with the method attached, in the same
written-out loop on the same batch. They take their steps in turn, and the turn changes, so that a busy machine slows
both. A ratio is the median over the pairs of steps. To it is added what the method does once an epoch, as a share of
the epoch, and what the nuclear norm does once in so many steps, measured where it does so at every step.

Gates are measured with every second one shut: with all open the nuclear norm has nothing to do.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from options import exit_code, typed
from pages import listed, write
from records import hardware, versions
from torch import Tensor, nn
from train_speed import epoch_images, speed_parser

from prunus.engine.config import Fit
from prunus.engine.optimizer import optimizer, set_rate
from prunus.engine.runtime import Runtime
from prunus.errors import InputError
from prunus.methods import FPGM, METHODS, SSL, Gates, Slimming
from prunus.models import resolve

MARKERS = "method_cost"
TARGET = "macs=50%"
NUCLEAR, ALWAYS = "gates and nuclear norm", "gates and nuclear norm, decomposed at every step"


@dataclass(frozen=True)
class Row:
    """limit: times plain training that it may take. original: what the published code took. naive: the nuclear norm by
    singular value decompositions beside the method."""

    name: str
    method: Any
    limit: float | None = None
    original: float | None = None
    naive: bool = False


@dataclass
class Cost:
    """What was measured of a row: seconds of plain steps, ratios to them, seconds of what is done once an epoch."""

    plain: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    opening: list[float] = field(default_factory=list)


def rows() -> list[Row]:
    """All rows; fusion where this version has it."""
    gates, nuclear = Gates(alpha_nuc=0.0), Gates(alpha_nuc=1e-3)
    found = [
        Row("slimming", Slimming(), 1.05),
        Row("ssl, filters", SSL(), 1.05),
        Row("ssl, filters, proximal", SSL(solver="proximal", affine=True), 1.05),
        Row("ssl, filters and channels", SSL(granularity="both"), 1.05),
        Row("gates", gates, 1.10, 2.07),
        Row(NUCLEAR, nuclear, 1.15, 6.9),
        Row(ALWAYS, replace(nuclear, refresh=1)),
        Row("gates and nuclear norm, naive", gates, naive=True),
        Row("soft fpgm", FPGM()),
    ]
    if "dcff" in METHODS:
        found.append(Row("dcff", METHODS["dcff"][0], 1.15))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the table. Exit code 2 for wrong input."""
    options = parser().parse_args(argv)
    return exit_code(options, lambda: report(options))


def report(options: argparse.Namespace) -> None:
    """Measure the rows that are asked for, and print the table."""
    chosen = [row for row in rows() if options.only in row.name]
    if not chosen:
        raise InputError(f"--only {options.only!r} is in no row (rows: {'; '.join(row.name for row in rows())})")
    text = "\n".join([head(options), *table(chosen, measured(chosen, options), options)])
    print(text)
    if options.write:
        write(options.page, MARKERS if options.size < 160 else f"{MARKERS}_224", text)


def parser() -> argparse.ArgumentParser:
    made = speed_parser(__doc__, warm=3)
    add = made.add_argument
    add("--precision", choices=("fp32", "bf16", "fp16"), default="bf16")
    add("--channels-last", action=argparse.BooleanOptionalAction, default=True)
    add("--compile", action=argparse.BooleanOptionalAction, default=False)
    add("--device", default="auto")
    return made


def measured(chosen: Sequence[Row], options: argparse.Namespace) -> dict[str, Cost]:
    """By row, all rounds; the rows take turns."""
    runtime = Runtime(options.device, options.precision, options.channels_last, options.compile)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(options.batch, 3, options.size, options.size, generator=g)
    y = torch.randint(0, options.classes, (options.batch,), generator=g)
    batch: tuple[Tensor, Tensor] = runtime.move((x, y))
    found = {row.name: Cost() for row in chosen}
    for turn in range(options.rounds):
        for row in chosen:
            torch.compiler.reset()  # torch compiles a class for eight networks, and then no more
            cost = found[row.name]
            pairs = one(row, options, runtime, batch, cost)
            cost.plain += [a for a, _ in pairs]
            cost.ratios += [b / a for a, b in pairs]
            cost.rounds.append(median(b / a for a, b in pairs))
            print(f"round {turn + 1}  {row.name}: {cost.rounds[-1]:.3f}", file=sys.stderr, flush=True)
    return found


def one(
    row: Row, options: argparse.Namespace, runtime: Runtime, batch: tuple[Tensor, Tensor], cost: Cost
) -> list[tuple[float, float]]:
    """Seconds of a plain step and of one with the method, in pairs."""

    def build() -> nn.Module:
        torch.manual_seed(0)
        return runtime.settled(resolve(options.model, options.classes)).train()

    plain, net = build(), build()
    attached = row.method.attach(net, batch[0][:1], TARGET, epochs=2)
    start = now(runtime)
    attached.epoch_start(0)
    cost.opening.append(now(runtime) - start)
    if isinstance(row.method, Gates):
        with torch.no_grad():
            for w in attached.param_groups()[0]["params"]:
                w[::2] = 0.4
        attached.after_step()
    hooks = [attached, Naive(net)] if row.naive else [attached]
    steps = (stepping(plain, [], runtime, batch), stepping(net, hooks, runtime, batch))
    pairs = []
    for k in range(options.warm + options.steps):
        seconds = {which: steps[which]() for which in ((0, 1) if k % 2 else (1, 0))}
        pairs.append((seconds[0], seconds[1]))
    return pairs[options.warm :]


def stepping(
    model: nn.Module, hooks: Sequence[Any], runtime: Runtime, batch: tuple[Tensor, Tensor]
) -> Callable[[], float]:
    """One step of a written-out loop, and its seconds."""
    net, config = runtime.compiled(model), Fit(lr=0.01, momentum=0.9, weight_decay=5e-4)
    sgd = optimizer(model, config, [group for hook in hooks for group in hook.param_groups()])
    set_rate(sgd, config.lr)
    for hook in hooks:
        if hasattr(hook, "hold"):
            hook.hold(sgd)
    scaler = runtime.scaler()

    def step() -> float:
        start = now(runtime)
        with runtime.autocast():
            loss = F.cross_entropy(net(batch[0]).float(), batch[1])
        penalty = sum((hook.penalty() for hook in hooks), loss.new_zeros(()))
        sgd.zero_grad(set_to_none=True)
        scaler.scale(loss + penalty).backward()
        scaler.step(sgd)
        scaler.update()
        for hook in hooks:
            hook.after_step()
        return now(runtime) - start

    return step


def now(runtime: Runtime) -> float:
    """The time, once the device has done all that it was given."""
    if runtime.torch_device.type == "cuda":
        torch.cuda.synchronize(runtime.torch_device)
    return time.perf_counter()


class Naive:
    """A hook: the nuclear norms of all convolutions by singular value decompositions, and their gradients."""

    def __init__(self, model: nn.Module) -> None:
        self.weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
        self.gates = [nn.Parameter(torch.full((len(w),), 0.6, device=w.device)) for w in self.weights]

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": self.gates, "weight_decay": 0.0}]

    def penalty(self) -> Tensor:
        total = torch.zeros((), device=self.gates[0].device)
        for weight, w in zip(self.weights, self.gates, strict=True):
            rows = weight.detach().flatten(1)
            on = (w > 0.5).float() + w - w.detach()
            norms = [torch.linalg.svdvals(m).sum() for m in (rows, on[:, None] * rows)]
            total = total + (norms[0] - norms[1]).abs()
        return 1e-3 * total / len(self.weights)

    def after_step(self) -> None:
        pass


def whole(row: Row, found: dict[str, Cost], steps: int) -> tuple[float, float]:
    """Times plain training over an epoch of so many steps, and how much of that is done once an epoch."""
    cost = found[row.name]
    ratio = median(cost.ratios)
    if row.name == NUCLEAR and ALWAYS in found:
        ratio += max(0.0, median(found[ALWAYS].ratios) - ratio) / row.method.refresh
    once = median(cost.opening) / (steps * median(cost.plain))
    return ratio + once, once


def table(chosen: Sequence[Row], found: dict[str, Cost], options: argparse.Namespace) -> list[str]:
    """A line a row; a limit is met by the median."""
    steps = epoch_images(options) // options.batch
    lines = [
        "| trained with | times plain training | rounds, smallest and largest | of it once an epoch | at most | met "
        "| original code |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in chosen:
        ratio, once = whole(row, found, steps)
        spread = found[row.name].rounds
        cells = [
            row.name,
            f"{ratio:.3f}",
            f"{min(spread):.3f}, {max(spread):.3f}",
            f"{once:.4f}",
            "" if row.limit is None else f"{row.limit:.2f}",
            "" if row.limit is None else "yes" if ratio <= row.limit else "no",
            "" if row.original is None else f"{row.original:g}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def head(options: argparse.Namespace) -> str:
    """What the figures depend on."""
    how = [
        options.precision,
        "channels_last" if options.channels_last else "NCHW",
        "compiled" if options.compile else "eager",
    ]
    return "\n".join(
        (
            f"Command: `python benchmarks/method_cost.py{typed(options, parser(), ('write', 'page'))}`",
            "",
            f"- {options.model} at {options.size} x {options.size}, batch {options.batch}, SGD, {', '.join(how)}",
            f"- Nuclear norm: decomposed once in {Gates().refresh} steps; an epoch is {epoch_images(options):,} images",
            f"- Hardware: {hardware(Runtime(options.device).torch_device)}",
            f"- Versions: {listed(versions())}",
            f"- {options.rounds} rounds of {options.steps} pairs of steps, {options.warm} before them; seed 0",
            "",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
