"""The whole way in one call: train (or load), prune to a budget with proof, train back, and write a page about it."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prunus import __version__
from prunus.lab import folder, job
from prunus.lab.page import Bar, Facts, Page, Section, Table, Widths, render

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunus.engine.data import Data
    from prunus.engine.runtime import Runtime

__all__ = ["Demo", "Shown", "page_of", "run"]

PROOF = (
    "The cut network against the full network in which the removed channels are masked, in float64: the largest "
    "difference, relative to the largest value compared."
)


@dataclass(frozen=True)
class Demo:
    """What to demonstrate. The defaults fit the bundled digits: 1 437 grey images of 8 x 8 pixels to train on.

    weights: a checkpoint of `model`; without one the network is trained for `epochs` first.
    """

    data: str = "digits"
    model: str = "resnet20"
    weights: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | tuple[int, int] | None = None
    target: str = "macs=30%"
    method: str = "magnitude"
    epochs: int = 12
    lr: float = 0.1
    finetune_epochs: int = 8
    finetune_lr: float = 0.02
    batch_size: int = 64
    out: str = "demo-report"


@dataclass(frozen=True)
class Shown:
    """A finished demo. seconds: wall time of all of it; page: the HTML file."""

    cut: job.Cut
    outcome: job.Outcome
    seconds: float
    page: Path


def run(demo: Demo, runtime: Runtime, *, progress: bool = True, say: Callable[[str], None] = print) -> Shown:
    """Do it. Writes `out`/index.html and the files of a run, which `--from` takes. `say` is told what comes next."""
    from prunus.engine.config import Fit
    from prunus.engine.data import load

    start = time.perf_counter()
    cut = job.checked(job.Cut(demo.target, method=demo.method, seed=runtime.seed))
    out = folder.ready(demo.out)
    data = load(demo.data, mean=demo.mean, std=demo.std, resize=demo.resize)
    data.part("test")  # measured at the end: better missed now
    example = data.example()
    stem = folder.stem_for(demo.model, example)
    shape = tuple(example.shape[1:])
    classes = folder.classes_for(demo.model, data)
    network = folder.Description(demo.model, classes, shape, data.mean, data.std, demo.resize, stem)
    with _threads(example):
        model = _dense(demo, network, data, runtime, progress, say)
        say(f"pruning to {demo.target} by {demo.method}, proving the cut, fine-tuning {demo.finetune_epochs} epochs")
        images = job.augmented(data, "auto")
        after = (
            Fit(demo.finetune_epochs, demo.batch_size, demo.finetune_lr, augment=images)
            if demo.finetune_epochs
            else None
        )
        outcome = job.do(model, example, cut, data=data, after=after, runtime=runtime, progress=progress)
        seconds = time.perf_counter() - start
        page = render(page_of(demo, network, outcome, runtime, seconds))
    folder.write(out, outcome.pruned.model, outcome.pruned.plan, network, job.answer(outcome, cut))
    file = out / "index.html"
    file.write_text(page, encoding="utf-8")
    return Shown(cut, outcome, seconds, file)


def _dense(
    demo: Demo, network: folder.Description, data: Data, runtime: Runtime, progress: bool, say: Callable[[str], None]
) -> nn.Module:
    """The network at full size: from its checkpoint, or trained here."""
    from prunus.engine.config import Fit
    from prunus.engine.loop import fit
    from prunus.models import load_weights

    with runtime.seeded():
        model = folder.build(network)
    if demo.weights is not None:
        load_weights(model, demo.weights)
        return model
    say(f"training {demo.model} on {demo.data}, {demo.epochs} epochs")
    settings = Fit(demo.epochs, demo.batch_size, demo.lr, warmup=1, augment=job.augmented(data, "auto"))
    fit(model, data, settings, runtime=runtime, progress=progress)
    return model


@contextmanager
def _threads(example: Tensor) -> Iterator[None]:
    """One thread for images so small that several would only wait for each other, badly so on a busy machine."""
    import torch

    before = torch.get_num_threads()
    if example.shape[-1] < 16:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def page_of(demo: Demo, network: folder.Description, outcome: job.Outcome, runtime: Runtime, seconds: float) -> Page:
    """The page about a finished demo."""
    import torch

    before, after = outcome.pruned.before, outcome.pruned.after
    costs = tuple(
        (name, f"{old:,}", f"{new:,}", f"{100 * job.left(old, new):.2f} %")
        for name, old, new in (
            ("Multiply-accumulates per image", before.macs, after.macs),
            ("Parameters", before.params, after.params),
            ("Bytes", before.bytes, after.bytes),
        )
    )
    stages = (outcome.accuracy.before, outcome.accuracy.cut, outcome.accuracy.finetuned)
    accuracy = ("Top-1 on the test part", *("–" if value is None else f"{value:.2f} %" for value in stages))
    facts = (
        ("Prunus", __version__),
        ("torch", torch.__version__),
        ("Machine", f"{platform.machine()}, {torch.get_num_threads()} threads, {runtime.torch_device.type}"),
        ("Data", demo.data),
        ("Input", " × ".join(map(str, network.input or ()))),
        ("Network", demo.model + (f", first convolution for {network.stem} channel" if network.stem else "")),
        ("Starting weights", demo.weights or f"trained here, {demo.epochs} epochs"),
        ("Target", str(demo.target)),
        ("Method", demo.method),
        (
            "Fine-tuning",
            f"{demo.finetune_epochs} epochs, learning rate {demo.finetune_lr}, batches of {demo.batch_size}",
        ),
        ("Precision", runtime.precision),
        ("Seed", str(runtime.seed)),
        ("Time in all", f"{seconds:.0f} s"),
    )
    lead = (
        f"{demo.model} on {demo.data}, cut to {100 * job.left(before.macs, after.macs):.2f} % of its "
        "multiply-accumulates and trained back. One run with one seed."
    )
    return Page(
        title="A network made smaller",
        lead=lead,
        sections=(
            Section("Cost", "", Table(("", "before", "after", "left"), costs)),
            Section("Accuracy", "", Table(("", "before", "after the cut", "fine-tuned"), (accuracy,))),
            Section("Proof", PROOF, proof(outcome)),
            Section("Widths", "One bar for each group of channels that go together.", Widths(bars(outcome))),
            Section("Conditions", "", Facts(facts)),
        ),
        footer=f"Written by prunus demo, version {__version__}.",
    )


def proof(outcome: job.Outcome) -> Facts:
    """The largest differences that were found, each relative to the largest value compared."""
    found = outcome.pruned.proof
    assert found is not None  # the demo never skips it
    kinds = (
        ("Outputs in eval mode", found.eval),
        ("Outputs in train mode", found.train),
        ("Running statistics after a train step", found.statistics),
        ("Gradients of what stays", found.gradients),
        ("Refused above", found.tolerance),
    )
    return Facts(tuple((name, f"{value:.1e}") for name, value in kinds))


def bars(outcome: job.Outcome) -> tuple[Bar, ...]:
    """The groups, and after them what was pinned, each with its reason."""
    groups = tuple(
        Bar(width.group, width.dense, width.kept, "ties the outputs of " + ", ".join(width.layers))
        for width in job.widths(outcome.pruned)
    )
    pinned = tuple(Bar(pin.name, pin.width, pin.width, note=pin.reason) for pin in outcome.pruned.coupling.pinned)
    return groups + pinned
