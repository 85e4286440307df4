"""Rounds of masking single weights and training them back: one row for each number of rounds.

Where the rate is of what remains, the longest series passes through all the shorter ones, so one training serves every
row. Where it is of the whole, by a schedule, each row is a series of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prunus.errors import InputError
from prunus.lab.job import Cut, configured, finetune

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunus.engine.config import Fit
    from prunus.engine.data import Data
    from prunus.engine.runtime import Runtime
    from prunus.engine.task import Task
    from prunus.methods import Thinned, Weights

__all__ = ["HEAD", "TARGET", "Row", "asked", "cells", "rounds"]

TARGET = "weights=30%"
"""Where no target is given: a rate of .7 a round."""

HEAD = ("data", "model", "method", "top-1 (rounds/epochs/batch)", "parameters left", "training time")


@dataclass(frozen=True)
class Row:
    """Of one number of rounds, 0 for the dense network. epochs: of each round. top1: percent on the test part, or how
    good a task says it is. nonzero: parameters that are not 0. seconds: of all its trainings."""

    rounds: int
    epochs: int
    batch_size: int
    top1: float
    nonzero: int
    seconds: float


def asked(cut: Cut) -> tuple[Cut, Weights]:
    """The cut with its target, and its method: the rate is of what remains, unless `options` has rate_of = "whole".

    Raises InputError for another method, and for settings that belong to one training alone."""
    from prunus.methods import Weights

    method = configured(cut.method, {"rate_of": "remaining", **cut.options} if cut.method == "weights" else cut.options)
    if not isinstance(method, Weights):
        raise InputError(f"rounds are for the method 'weights', not {cut.method!r}")
    if method.pattern or method.start or method.rewind is not None or method.rounds > 1:
        raise InputError("rounds: the settings pattern, start, rewind and rounds of the method have no place here")
    if cut.rates is not None or cut.widths is not None or cut.drop or cut.steps > 1:
        raise InputError("rounds take a target such as weights=30%, and no rates, widths, drop or steps")
    return replace(cut, target=method.goal(cut.target or TARGET)), method


def rounds(
    model: nn.Module,
    example: Tensor,
    cut: Cut,
    counts: Sequence[int],
    *,
    data: Data,
    after: Fit,
    runtime: Runtime,
    task: Task | None = None,
    early: Mapping[str, Tensor] | None = None,
    progress: bool = False,
) -> Iterator[tuple[Row, Thinned | None]]:
    """The dense network's row, then for each count its row and its network. `model` is not changed.

    after: the training of each round. early: a state of the same network, whose values are put back under each new mask
    before that training (Frankle & Carbin 2020). Raises InputError as `asked` does.
    """
    from prunus.costs.report import weigh
    from prunus.engine.loop import evaluate
    from prunus.engine.task import goodness

    cut, method = asked(cut)
    if not counts or min(counts) < 1:
        raise InputError(f"rounds={list(counts)} must be whole numbers of at least 1")

    def row(r: int, net: nn.Module, seconds: float) -> Row:
        top1 = goodness(evaluate(net, data, task=task, runtime=runtime, progress=progress))
        return Row(r, after.epochs if r else 0, after.batch_size, top1, weigh(net).nonzero, seconds)

    def series(last: int) -> Iterator[tuple[int, Thinned, float]]:
        net, seconds = model, 0.0
        for r, keep in enumerate(_counts(replace(method, rounds=last), model, cut), start=1):
            thin = _masked(net, example, cut, method, keep, early)
            net = thin.model
            seconds += finetune(thin, data, after, runtime=runtime, task=task, progress=progress).seconds
            yield r, thin, seconds

    yield row(0, model, 0.0), None
    wanted = sorted(set(counts))
    for last in wanted[-1:] if method.rate_of == "remaining" else wanted:
        for r, thin, seconds in series(last):
            if r == last or (method.rate_of == "remaining" and r in wanted):
                yield row(r, thin.model, seconds), thin


def cells(data: str, model: str, found: Row) -> tuple[str, ...]:
    """The row as the columns of HEAD."""
    if not found.rounds:
        return data, model, "dense", f"{found.top1:.2f}", f"{found.nonzero:,}", ""
    how = f"{found.top1:.2f} ({found.rounds}/{found.epochs}/{found.batch_size})"
    return data, model, "weights", how, f"{found.nonzero:,}", _time(found.seconds)


def _counts(method: Weights, model: nn.Module, cut: Cut) -> tuple[int, ...]:
    from prunus.methods.masks import considered

    return method.counts(considered(model, method.include, cut.pin), method.goal(cut.target))


def _masked(
    model: nn.Module, example: Tensor, cut: Cut, method: Weights, keep: int, early: Mapping[str, Tensor] | None
) -> Thinned:
    """One round's mask, with early values under it where there are some."""
    import torch

    from prunus.methods.masks import write_

    goal = method.goal(cut.target)
    assert goal is not None
    place = next(model.parameters()).device
    once = replace(method, rate_of="whole")
    thin = once.thin(model, example.to(place), replace(goal, weights=keep), pin=cut.pin, attention=cut.attention)
    if early is not None:
        own = thin.model.state_dict()
        if {name: t.shape for name, t in own.items()} != {name: t.shape for name, t in early.items()}:
            raise InputError("the early weights are those of another network")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(early[name])
        write_(dict(thin.model.named_parameters(remove_duplicate=False)), thin.masks)
    return thin


def _time(seconds: float) -> str:
    """4215 -> "1 h 10 min"; under a minute in seconds."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
