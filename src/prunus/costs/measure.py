"""`cost`: what a model costs for one sample."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from prunus.costs.conventions import CONVENTIONS, leave_rule
from prunus.costs.macs import MacCounter
from prunus.costs.report import Cost, weigh
from prunus.costs.tally import Inputs, Tally, follow, forward
from prunus.errors import ExampleError, InputError, UnknownName
from prunus.state import unwrapped

__all__ = ["cost"]


def cost(model: nn.Module, example: Any, convention: str = "macs", *, whole: bool = False) -> Cost:
    """Count one forward in eval mode; the model is left as found. Meta tensors work, and cost no arithmetic.

    example: a tensor, a tuple of positional inputs, or a dict of keyword inputs. The leading axis of its first tensor
    is the batch; only the first sample is run, so the counts are for batch 1. Tensors in lists and nested tuples have
    forms of their own and are left whole. A model that does not run on the first sample, or an example without one, is
    counted on the whole example, and `Cost.per` says so.
    whole=True counts all samples of the example together.
    convention: "macs", or the rules of a published table: "thop", "ptflops", "thop-2020".
    Raises ExampleError where the model refuses the example, UnknownName for another convention.
    """
    if convention.lower() in ("flops", "flop", "gflops"):
        allowed = ", ".join(CONVENTIONS)
        raise InputError(f"{convention} can mean one operation a multiply, or two: use macs= (conventions: {allowed})")
    if convention not in CONVENTIONS:
        raise UnknownName.of("convention", convention, CONVENTIONS)
    model = unwrapped(model)
    weights = weigh(model)
    inputs = _inputs(example)
    batch = None if whole else _batch(inputs)
    per = "example" if batch is None else "sample"
    try:
        tally = _count(model, _first(inputs, batch), convention)
    except ExampleError:
        if batch is None or batch == 1:
            raise
        tally, per = _count(model, inputs, convention), "example"
    return Cost(
        macs=sum(tally.by_module.values()),
        convention=convention,
        by_module=tally.by_module,
        unsupported=tuple(tally.unsupported),
        per=per,
        **asdict(weights),
    )


def _count(model: nn.Module, inputs: Inputs, convention: str) -> Tally:
    tally = Tally()
    leave = None if convention == "macs" else leave_rule(convention, tally)
    with follow(model, tally, leave), ExitStack() as stack:
        if leave is None:
            stack.enter_context(MacCounter(tally))
        forward(model, inputs, tally)
    return tally


def _inputs(example: Any) -> Inputs:
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, tuple):
        return example, {}
    if isinstance(example, Mapping):
        return (), dict(example)
    kind = type(example).__name__
    raise ExampleError(f"an example is a tensor, a tuple of positional inputs or a dict of keyword inputs, not {kind}")


def _batch(inputs: Inputs) -> int | None:
    """The leading axis of the first tensor, None without one."""
    rest: list[Any] = [*inputs[0], *inputs[1].values()]
    while rest:
        value = rest.pop(0)
        if isinstance(value, dict):
            rest = [*value.values(), *rest]
        elif isinstance(value, Tensor) and value.dim():
            if value.shape[0] == 0:
                raise ExampleError("the example is empty: its leading axis, the batch, is 0")
            return value.shape[0]
    return None


def _first(inputs: Inputs, batch: int | None) -> Inputs:
    """The first sample of every tensor whose leading axis is the batch."""

    def first(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: first(item) for key, item in value.items()}
        sliced = isinstance(value, Tensor) and value.dim() and value.shape[0] == batch != 1
        return value[:1] if sliced else value

    args, kwargs = inputs
    return tuple(first(value) for value in args), first(kwargs)
