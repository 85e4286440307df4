"""What a training leaves behind, and what is seen of it meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Epoch", "History", "Silent", "showing"]


@dataclass(frozen=True)
class Epoch:
    """One epoch, counted from 1. loss: mean over the samples, without penalties; penalty: mean over the steps;
    lr: at the last step; images_per_second: training alone; metrics: of the validation, if there was one."""

    epoch: int
    loss: float
    penalty: float
    lr: float
    images_per_second: float
    seconds: float
    metrics: Any = None

    def __str__(self) -> str:
        penalty = f"  penalty {self.penalty:.4g}" if self.penalty else ""
        metrics = f"  {self.metrics}" if self.metrics is not None else ""
        return f"loss {self.loss:.4f}{penalty}  lr {self.lr:.4g}  {self.images_per_second:,.0f} images/s{metrics}"


@dataclass(frozen=True)
class History:
    """The epochs of one `fit`, in order."""

    epochs: tuple[Epoch, ...] = ()

    def __len__(self) -> int:
        return len(self.epochs)

    def __getitem__(self, index: int) -> Epoch:
        return self.epochs[index]

    @property
    def seconds(self) -> float:
        """Training time of all epochs, without validation."""
        return sum(epoch.seconds for epoch in self.epochs)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Silent:
    """Shows nothing: the base of whatever watches a training."""

    def step(self) -> None:
        """One batch is done."""

    def epoch(self, done: Epoch) -> None:
        """One epoch is done."""


class _Terminal(Silent):
    def __init__(self, bar: Any, task: Any, epochs: int) -> None:
        self.bar, self.task, self.epochs = bar, task, epochs

    def step(self) -> None:
        self.bar.advance(self.task)

    def epoch(self, done: Epoch) -> None:
        self.bar.console.print(f"epoch {done.epoch}/{self.epochs}  {done}", highlight=False)


@contextmanager
def showing(what: str, wanted: bool, steps: int | None, epochs: int = 1) -> Iterator[Silent]:
    """A bar of `steps` on stderr where that is a terminal and it is wanted; nothing otherwise."""
    if not (wanted and sys.stderr.isatty()):
        yield Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Terminal(bar, bar.add_task(what, total=steps), epochs)
