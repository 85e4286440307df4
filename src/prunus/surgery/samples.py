"""On how many samples a train step is compared, and how the example becomes so many."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..graph.forward import outputs
from ..state import as_found, drawn, example_tensors, modules_of, seeded
from .differences import difference
from .masked import neutral_run

SAMPLES, NORMED = (1, 2, 4), 8
"""How many samples a train step may take: the fewest that give every batch norm so many values of each channel. Two are
normalised to ±1, whatever they are, and pass on no gradient."""


@dataclass(frozen=True)
class Way:
    """How a train step is taken: on so many samples, with some batch norms still in eval mode. Where there are such,
    a train forward of all norms on as many samples as there may be is compared beside it."""

    count: int = SAMPLES[-1]
    still: frozenset[str] = frozenset()


def enough(model: nn.Module, example: Any) -> Way:
    """How a train step is taken: with one sample where a batch shows no more than its samples do one by one, and that
    one gives every batch norm values enough; else with two or four.

    Samples are apart where, with batch norms in eval mode, a train forward draws nothing at random, and what it makes
    of one sample, and of its buffers, is the same with others beside it. Where they are not, it takes four. A norm that
    is given a single value of each channel, as behind a global pooling, would have too few of four samples too: where
    there are others, it stays in eval mode, since the activations of four samples may be most of what a proof needs."""
    one = first_samples(example, 1)
    if one is None:
        return Way()
    made = []
    with positions(model) as seen:
        for batch in (one, beside_another(one)):
            found = in_training(model, batch)
            if found is None:
                return Way()
            made.append(found)
    (alone, left), (beside, also_left) = made
    apart = (
        len(alone) == len(beside)
        and all(
            a.shape[:1] == (1,) and b.shape == (2, *a.shape[1:]) and difference(a, b[1:2]) < rounding(a)
            for a, b in zip(alone, beside, strict=True)
        )
        and all(torch.equal(a, b) for a, b in zip(left, also_left, strict=True))
    )
    still = frozenset(name for name, values in seen.items() if values == 1)
    others = [values for name, values in seen.items() if name not in still]
    if not apart or (still and not others):
        return Way()
    fewest = min(others, default=NORMED)
    return next((Way(n, still) for n in SAMPLES[:-1] if n * fewest >= NORMED), Way())


def in_training(model: nn.Module, batch: Any) -> tuple[list[Tensor], list[Tensor]] | None:
    """Outputs of a train forward with batch norms in eval mode, and the buffers after it; None where something is drawn
    at random, or where the model does not take the batch."""
    with as_found(model), torch.no_grad():
        for module in model.modules():
            module.training = not hasattr(module, "running_mean")
        seeded()
        before = drawn(model)
        try:
            found = [t.clone() for t in outputs(neutral_run(model, batch, False))]
        except Exception:  # what a model raises that takes no such batch, or none without targets
            return None
        return (found, [buffer.clone() for buffer in model.buffers()]) if drawn(model) == before else None


@contextlib.contextmanager
def positions(model: nn.Module) -> Iterator[dict[str, int]]:
    """How many values of each channel a sample gives each module that keeps running statistics, none where it is not
    called with a tensor."""
    found: dict[str, int] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(module: nn.Module, args: tuple[Any, ...]) -> None:
            values = math.prod(args[0].shape[2:]) if args and isinstance(args[0], Tensor) else 0
            found[name] = min(found[name] or values, values)

        return note

    handles = []
    for name, module in modules_of(model):
        if hasattr(module, "running_mean"):
            found[name] = 0
            handles.append(module.register_forward_pre_hook(watch(name)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def rounding(tensor: Tensor) -> float:
    """What two ways of adding up may differ by, relative to the largest; no more than would hide that samples meet."""
    return min(torch.finfo(tensor.dtype).eps ** 0.5, 1e-3) if tensor.is_floating_point() else 1e-3


def beside_another(one: Any) -> Any:
    """A sample behind another: that one with noise, or with whole numbers in another order."""
    noise = torch.Generator().manual_seed(0)

    def other(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value.roll(1, -1) if value.dim() > 1 else value
        size = value.detach().std(correction=0).item() or 1.0
        return value + 0.3 * size * torch.randn(value.shape, generator=noise, dtype=torch.float64).to(value)

    return tree_map(lambda v: torch.cat([other(v), v]) if isinstance(v, Tensor) and v.dim() else v, one)


def samples_of(example: Any) -> set[int]:
    """How many samples the tensors of an example hold."""
    return {t.shape[0] for t in example_tensors(example) if t.dim()}


def first_samples(example: Any, count: int) -> Any:
    """At most so many samples of the example; None where it has no batch axis."""
    if len(samples_of(example)) != 1 or max(t.dim() for t in example_tensors(example)) < 2:
        return None
    return tree_map(lambda v: v[:count] if isinstance(v, Tensor) and v.dim() else v, example)


def batched(example: Any, count: int) -> Any:
    """The first samples of the example, repeated with noise up to so many; None where it has no batch axis."""
    few = first_samples(example, count)
    if few is None:
        return None
    noise = torch.Generator().manual_seed(0)

    def widen(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.dim():
            return value
        wide = value.repeat(-(-count // value.shape[0]), *[1] * (value.dim() - 1))[:count]
        if value.is_floating_point() and value.shape[0] < count:
            size = value.detach().std(correction=0).item() or 1.0
            extra = torch.randn(wide.shape, generator=noise, dtype=torch.float64).to(wide)
            extra[: value.shape[0]] = 0
            wide = wide + 0.3 * size * extra
        return wide

    return tree_map(widen, few)
