"""What a training leaves behind, and what is seen of it meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from prunus.engine.task import Metrics, plain_metrics
from prunus.progress import Bar, bar

__all__ = ["Epoch", "History", "Silent", "showing"]

SLOW_INPUT = 0.2
"""From this share of the time on, waiting for input is spoken of."""


@dataclass(frozen=True)
class Epoch:
    """One epoch, counted from 1. loss: mean over the samples, without penalties; penalty: mean over the steps;
    lr: at the last step; images_per_second: training alone, over all processes; waiting: the share of the time in
    which the network waited for input; metrics: of the validation, if there was one."""

    epoch: int
    loss: float
    penalty: float
    lr: float
    images_per_second: float
    seconds: float
    metrics: Any = None
    waiting: float = 0.0

    def __str__(self) -> str:
        penalty = f"  penalty {self.penalty:.4g}" if self.penalty else ""
        metrics = f"  {self.metrics}" if self.metrics is not None else ""
        slow = f"  input is the bottleneck ({100 * self.waiting:.0f} % waiting)" if self.waiting > SLOW_INPUT else ""
        return f"loss {self.loss:.4f}{penalty}  lr {self.lr:.4g}  {self.images_per_second:,.0f} images/s{metrics}{slow}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "metrics": plain_metrics(self.metrics)}

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Epoch:
        """What `as_dict` gave; metrics of the built-in classification become `Metrics` again."""
        metrics = found.get("metrics")
        if isinstance(metrics, Mapping) and set(metrics) == {field.name for field in fields(Metrics)}:
            metrics = Metrics(**metrics)
        return cls(**{**found, "metrics": metrics})


@dataclass(frozen=True)
class History:
    """The epochs of one `fit`, in order. best: the epoch whose weights were left behind, where that was chosen."""

    epochs: tuple[Epoch, ...] = ()
    best: int | None = None

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
        return {"epochs": [epoch.as_dict() for epoch in self.epochs], "best": self.best}


class Silent:
    """Shows nothing: the base of whatever watches a training."""

    def step(self) -> None:
        """One batch is done."""

    def epoch(self, done: Epoch, epochs: int) -> None:
        """One epoch of so many is done."""


class _Terminal(Silent):
    def __init__(self, bar: Bar) -> None:
        self.bar = bar

    def step(self) -> None:
        self.bar.advance()

    def epoch(self, done: Epoch, epochs: int) -> None:
        self.bar.line(f"epoch {done.epoch}/{epochs}  {done}")


@contextmanager
def showing(what: str, wanted: bool, steps: int | None, done: int = 0) -> Iterator[Silent]:
    """A bar of `steps`, of which so many are done, on stderr where that is a terminal and it is wanted."""
    with bar(what, steps, done, wanted=wanted) as shown:
        yield _Terminal(shown)
