"""`cost`: what a model costs for one sample."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prunus.costs.conventions import CONVENTIONS, leave_rule
from prunus.costs.macs import MacCounter
from prunus.costs.report import Cost, weigh
from prunus.costs.tally import Inputs, Tally, follow, forward, passed
from prunus.errors import ExampleError, InputError, UnknownName
from prunus.outline import Shapes, outlined
from prunus.state import plain_table, unwrapped

__all__ = ["Counts", "batch_of", "cost", "counts"]


@dataclass(frozen=True)
class Counts:
    """What one forward took, by module; see `Cost`."""

    by_module: Mapping[str, int]
    unsupported: tuple[str, ...]
    per: str


def cost(
    model: nn.Module,
    example: Any,
    convention: str = "macs",
    *,
    whole: bool = False,
    outline: nn.Module | None = None,
    known: Counts | None = None,
) -> Cost:
    """Count one forward in eval mode; the model is left as found. Meta tensors work, and cost no arithmetic.

    example: a tensor, a tuple of positional inputs, or a dict of keyword inputs. The leading axis of its first tensor
    is the batch; only the first sample is run, so the counts are for batch 1. Tensors in lists and nested tuples have
    forms of their own and are left whole. A model that does not run on the first sample, or an example without one, is
    counted on the whole example, and `Cost.per` says so.
    whole=True counts all samples of the example together.
    outline: a copy of the model without values, where one exists already. known: its `counts`, where they were taken.
    convention: "macs", or the rules of a published table: "thop", "ptflops", "thop-2020".
    Raises ExampleError where the model refuses the example, UnknownName for another convention.
    """
    if str(convention).lower() in ("flops", "flop", "gflops"):
        allowed = ", ".join(CONVENTIONS)
        raise InputError(f"{convention} can mean one operation a multiply, or two: use macs= (conventions: {allowed})")
    if convention not in CONVENTIONS:
        raise UnknownName.of("convention", convention, CONVENTIONS)
    model, example = unwrapped(model), plain_table(example)
    weights = weigh(model)
    if known is None:
        known = _measured(model, example, convention, whole, outline)
    return Cost(
        macs=sum(known.by_module.values()),
        convention=convention,
        by_module=known.by_module,
        unsupported=known.unsupported,
        per=known.per,
        **asdict(weights),
    )


def counts(model: nn.Module, example: Any, *, whole: bool = False, outline: nn.Module | None = None) -> Counts:
    """The macs alone, by the first convention; see `cost`."""
    return _measured(unwrapped(model), example, "macs", whole, outline)


def batch_of(example: Any) -> int:
    """How many samples an example has, as `cost` sees it; 1 where no axis says it."""
    return _batch(_inputs(example)) or 1


def _measured(model: nn.Module, example: Any, convention: str, whole: bool, outline: nn.Module | None) -> Counts:
    inputs = _inputs(example)
    batch = None if whole else _batch(inputs)
    try:
        tally = _count(model, _first(inputs, batch), convention, outline)
        return Counts(tally.by_module, tuple(tally.unsupported), "example" if batch is None else "sample")
    except ExampleError:
        if batch is None or batch == 1:
            raise
        tally = _count(model, inputs, convention, outline)
        return Counts(tally.by_module, tuple(tally.unsupported), "example")


def _count(model: nn.Module, inputs: Inputs, convention: str, known: nn.Module | None) -> Tally:
    """One forward, of an outline where that is enough: operations are counted by the shapes of their operands."""
    outline = outlined(model, inputs, known) if convention == "macs" else None
    if outline is not None:
        try:
            return _run(outline.model, outline.example, convention, Shapes())
        except ExampleError:  # it reads values, or is refused: then the model itself says why
            pass
    return _run(model, inputs, convention)


def _run(model: nn.Module, inputs: Inputs, convention: str, mode: TorchFunctionMode | None = None) -> Tally:
    tally = Tally()
    leave = None if convention == "macs" else leave_rule(convention, tally)
    with ExitStack() as stack:
        stack.enter_context(follow(model, tally, leave) if mode is None else passed(model, tally))
        if leave is None:
            stack.enter_context(MacCounter(tally))
        forward(model, inputs, tally, mode)
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
