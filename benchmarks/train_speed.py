"""Training speed: precision × memory format × compile, the engine against a hand-written loop, methods, processes.

    python benchmarks/train_speed.py                          # ResNet-56 at 32 x 32, batch 128
    python benchmarks/train_speed.py --model torchvision/resnet50 --size 224 --batch 256 --gpus 1,4      # on GPUs

All cases take their turns in one run, round after round, and the table has medians and ratios to the first row: times
of different runs of this script do not compare. The hand-written loop takes its steps between those of the engine, so
that the two are compared in pairs of steps. Minutes an epoch are for `--epoch-images` images (default: the 50,000
of CIFAR-10; 1,281,167 of ImageNet at 224) and are projected from the measured rate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from options import add_page, add_threads, parser_of, typed
from pages import listed, write
from records import hardware, versions
from torch import nn

from prunus.engine.config import Augment, Fit
from prunus.engine.data import batches, load
from prunus.engine.loop import fit
from prunus.engine.runtime import Runtime
from prunus.engine.split import Data, Split
from prunus.methods import Slimming
from prunus.models import resolve

IMAGENET = 1_281_167


@dataclass(frozen=True)
class Case:
    """One row. hand: the same in a loop written out, beside the engine; method: trained with its penalty; data:
    "synthetic" or a name."""

    name: str
    runtime: dict[str, Any] = field(default_factory=dict)
    hand: bool = False
    method: str = ""
    processes: int = 1
    data: str = "synthetic"


FAST = {"precision": "bf16", "channels_last": True, "compile": True}
CASES = (
    Case("fp32 NCHW eager"),
    Case("fp32 channels_last eager", {"channels_last": True}),
    Case("bf16 NCHW eager", {"precision": "bf16"}),
    Case("bf16 channels_last eager", {"precision": "bf16", "channels_last": True}),
    Case("bf16 channels_last eager, hand-written loop", {"precision": "bf16", "channels_last": True}, hand=True),
    Case("bf16 channels_last eager, slimming", {"precision": "bf16", "channels_last": True}, method="slimming"),
    Case("bf16 channels_last compiled", FAST),
    Case("bf16 channels_last compiled, hand-written loop", FAST, hand=True),
    Case("bf16 channels_last compiled, slimming", FAST, method="slimming"),
)


@dataclass(frozen=True)
class Rate:
    """Images a second; of a loop written out also the engine's speed as a share of its own, from pairs of steps."""

    images: float
    pair: float | None = None


@dataclass(frozen=True)
class Setting:
    """What all rows share."""

    model: str
    size: int
    classes: int
    batch: int
    steps: int
    warm: int


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    options = parser().parse_args(argv)
    setting = Setting(options.model, options.size, options.classes, options.batch, options.steps, options.warm)
    if options.worker:
        found = measured(setting, Case(**json.loads(options.worker)))
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(asdict(found)))
        return 0
    cases = [case for case in rows(options) if options.only in case.name]
    rates: dict[str, list[Rate]] = {case.name: [] for case in cases}
    for turn in range(options.rounds):
        for case in cases:
            rates[case.name].append(remote(setting, case, options.threads))
            print(
                f"round {turn + 1}  {case.name}: {rates[case.name][-1].images:,.0f} images/s",
                file=sys.stderr,
                flush=True,
            )
    text = "\n".join([head(options), *table(cases, rates, epoch_images(options))])
    print(text)
    if options.write:
        place = "train_speed" if options.size < 160 else "train_speed_224"
        write(options.page, place, text)
    return 0


def parser() -> argparse.ArgumentParser:
    made = speed_parser(__doc__, warm=4)
    add = made.add_argument
    add("--gpus", default="", help="processes to measure beside one, such as 1,4; on a CPU always 2")
    add("--data", default="", help="real images, as a row more: a name or folder, see `prunus train --help`")
    add("--worker", default="", help=argparse.SUPPRESS)
    return made


def speed_parser(words: str | None, *, warm: int) -> argparse.ArgumentParser:
    """What `train_speed.py` and `method_cost.py` take."""
    made = parser_of(words)
    add = made.add_argument
    add("--model", default="resnet56")
    add("--size", type=int, default=32)
    add("--classes", type=int, default=10)
    add("--batch", type=int, default=128)
    add("--steps", type=int, default=12, help="steps, or pairs of them, of one row in one round")
    add("--warm", type=int, default=warm, help="steps before them")
    add("--rounds", type=int, default=3)
    add_threads(made)
    add("--epoch-images", type=int, default=0, help="0: 50,000, or those of ImageNet at 160 pixels and more")
    add("--only", default="", help="rows whose name contains this")
    add("--write", action="store_true", help="write the table to the page too")
    add_page(made)
    return made


def epoch_images(options: argparse.Namespace) -> int:
    return int(options.epoch_images or (IMAGENET if options.size >= 160 else 50_000))


def rows(options: argparse.Namespace) -> list[Case]:
    """The cases that this machine and these options allow."""
    eager = {"precision": "bf16", "channels_last": True}
    counts = [int(n) for n in options.gpus.split(",") if n and int(n) > 1] or ([] if torch.cuda.is_available() else [2])
    more = [
        Case(f"bf16 channels_last eager{', slimming' if method else ''}, {n} processes", eager, False, method, n)
        for n in counts
        for method in ("", "slimming")
    ]
    if options.data:
        more.append(Case("bf16 channels_last compiled, real images", FAST, data=options.data))
    return [*CASES, *more]


def remote(setting: Setting, case: Case, threads: int) -> Rate:
    """One row of one round, measured in processes of their own, so that no case warms another one's caches."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(case.processes)]
    words = [sys.executable, *(launch if case.processes > 1 else []), str(Path(__file__).resolve())]
    for name, value in asdict(setting).items():
        words += [f"--{name}", str(value)]
    environment = dict(os.environ)
    if threads or case.processes > 1:
        each = max(1, (threads or torch.get_num_threads()) // (1 if torch.cuda.is_available() else case.processes))
        environment["OMP_NUM_THREADS"] = str(each)
    done = subprocess.run(
        [*words, "--worker", json.dumps(asdict(case))], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{case.name} failed:\n{done.stderr[-2000:]}")
    return Rate(**json.loads(done.stdout.strip().splitlines()[-1]))


def measured(setting: Setting, case: Case) -> Rate:
    """The median over the steps after the warm-up."""
    _, steps = engine_steps(setting, case)
    if not case.hand:
        return Rate(setting.batch / median(steps[setting.warm - 1 :]))
    pairs = list(zip(steps[1::2], steps[2::2], strict=False))[setting.warm - 1 :]  # after a first step: engine, by hand
    return Rate(setting.batch / median(b for _, b in pairs), median(b / a for a, b in pairs))


def engine_steps(setting: Setting, case: Case) -> tuple[nn.Module, list[float]]:
    """The network that the engine trained, and the seconds of its steps, of which every second one is by hand where
    the row wants that."""
    torch.manual_seed(0)
    runtime = Runtime(**case.runtime)
    model, data = resolve(setting.model, setting.classes), images(setting, case)
    config = Fit(1, setting.batch, 0.01, drop_last=True, augment=Augment(crop=setting.size // 8, flip=True))
    clock = Clock(runtime.torch_device)
    hooks: list[Any] = [clock]
    if case.hand:
        own = resolve(setting.model, setting.classes)
        hooks = [Beside(clock, written_out(own, data, config, runtime))]
    if case.method == "slimming":
        hooks.insert(0, Slimming().attach(model, data.example()))
    fit(model, data, config, hooks=hooks, runtime=runtime, progress=False)
    return model, [b - a for a, b in pairwise(clock.times)]


class Clock:
    """A hook that notes when each step ends."""

    def __init__(self, device: torch.device) -> None:
        self.times: list[float] = []
        self.device = device

    def after_step(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.times.append(time.perf_counter())


class Beside:
    """A hook that lets another loop take a step after each of the engine's, and notes when each ends."""

    def __init__(self, clock: Clock, loop: Iterator[None]) -> None:
        self.clock, self.loop = clock, loop

    def after_step(self) -> None:
        self.clock.after_step()
        next(self.loop)
        self.clock.after_step()


def written_out(model: nn.Module, data: Data, config: Fit, runtime: Runtime) -> Iterator[None]:
    """The loop that one would write by hand, on the same batches; stops after each step."""
    device, layout = runtime.torch_device, torch.channels_last if runtime.channels_last else torch.contiguous_format
    model.to(device).to(memory_format=layout).train()
    net: Callable[..., Any] = torch.compile(model, dynamic=False) if runtime.compile else model
    sgd = torch.optim.SGD(model.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    assert isinstance(data.train, Split)
    feed = batches(
        data.train,
        batch_size=config.batch_size,
        mean=data.mean,
        std=data.std,
        shuffle=True,
        augment=config.augment,
        drop_last=True,
        device=device,
        channels_last=runtime.channels_last,
    )
    for x, y in feed:
        with torch.autocast(device.type, torch.bfloat16, enabled=runtime.precision == "bf16"):
            loss = F.cross_entropy(net(x), y)
        sgd.zero_grad(set_to_none=True)
        loss.backward()
        sgd.step()
        yield


def images(setting: Setting, case: Case) -> Data:
    """Noise of the right size, held in memory; or the real images that the row names."""
    n = (setting.warm + setting.steps + 1) * setting.batch
    if case.data != "synthetic":
        data = load(case.data, resize=(setting.size * 8 // 7, setting.size) if setting.size >= 160 else None)
        assert not isinstance(data.train, Split) or len(data.train) >= n, f"{case.data} has fewer than {n} images"
        return data
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, setting.size, setting.size), dtype=torch.uint8, generator=g)
    split = Split(pixels, torch.randint(0, setting.classes, (n,), generator=g))
    return Data(split, split, setting.classes, (0.5,) * 3, (0.25,) * 3, "noise")


def head(options: argparse.Namespace) -> str:
    """What the figures depend on."""
    more = typed(options, parser(), ("write", "page", "worker", "data"))
    device = Runtime().torch_device
    return "\n".join(
        (
            f"Command: `python benchmarks/train_speed.py{more}`",
            "",
            f"- {options.model} at {options.size} x {options.size}, batch {options.batch}, SGD, random crop and flip",
            f"- Hardware: {hardware(device)}",
            f"- Versions: {listed(versions())}",
            f"- {options.rounds} rounds, medians of {options.steps} steps each; seed 0",
            "",
        )
    )


def table(cases: Sequence[Case], rates: dict[str, list[Rate]], epoch: int) -> list[str]:
    """Medians over the rounds; ratios are medians of the rounds' ratios, which noise of the machine harms least."""
    first = rates[cases[0].name]
    lines = [
        f"| | images/s | times the first row | smallest, largest ratio | minutes for {epoch:,} images (projected) |",
        "|---|---|---|---|---|",
    ]
    for case in cases:
        mine = [rate.images for rate in rates[case.name]]
        ratios = [a / b.images for a, b in zip(mine, first, strict=True)]
        lines.append(
            f"| {case.name} | {median(mine):,.0f} | {median(ratios):.2f} | {min(ratios):.2f}, {max(ratios):.2f} "
            f"| {epoch / median(mine) / 60:.1f} |"
        )
    for case in cases:
        pairs = [rate.pair for rate in rates[case.name] if rate.pair is not None]
        if pairs:
            found = f"{min(pairs):.3f}, {max(pairs):.3f}"
            lines += [
                "",
                f"Engine to {case.name}: {median(pairs):.3f} of its speed in pairs of steps (rounds: {found})",
            ]
    return lines


if __name__ == "__main__":
    sys.exit(main())
