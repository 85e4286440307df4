"""Layers as a proof computes them: batch norms with contiguous operands, and large linear layers whose gradient stays
in its two factors, since whole it may be the largest tensor of a train step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .differences import gap_size, long_rows, vectors

CHUNK = 1 << 20
"""How many entries of a gradient in factors are computed at a time."""
THIN = 8
"""Two factors must be this much smaller than the gradient."""


@dataclass(frozen=True, eq=False)
class Outer:
    """The gradient of a linear layer's weight in factors, upstreamᵀ · read: of (samples, out) and (samples, in)."""

    upstream: Tensor
    read: Tensor

    def whole(self) -> Tensor:
        return self.upstream.T @ self.read

    def kept(self, lines: dict[int, Tensor]) -> Outer:
        """These rows (0) and columns (1) of it, all where none are given."""
        parts = (self.upstream, self.read)
        return Outer(*(t.index_select(1, lines[axis]) if axis in lines else t for axis, t in enumerate(parts)))

    @property
    def thin(self) -> bool:
        """Whether the factors are much smaller than the gradient, and it is one that is sketched."""
        (samples, out), width = self.upstream.shape, self.read.shape[1]
        return THIN * samples * (out + width) <= out * width and long_rows((out, width))

    def sketch(self) -> Tensor:
        """As `differences.sketch` of the whole."""
        return self.upstream.T @ (self.read @ vectors(self.read))

    def size(self) -> float:
        """max|entry|, infinite where one is no number."""
        rows = max(1, CHUNK // max(1, self.read.shape[1]))
        return max((gap_size(Outer(some, self.read).whole()) for some in self.upstream.split(rows, 1)), default=0.0)


Take = Callable[[str, Tensor | Outer], None]


class Linear(torch.autograd.Function):
    """x · Wᵀ + b, of which `parted` may have the gradient of W in its factors."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.take = None

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs, rows = ctx.needs_input_grad, upstream.reshape(-1, upstream.shape[-1])
        found = Outer(rows, x.reshape(-1, x.shape[-1])) if needs[1] else None
        down = upstream @ weight if needs[0] else None
        del weight
        if found is not None and ctx.take is not None and found.thin:
            ctx.take(found)
            found = None
        return down, None if found is None else found.whole(), rows.sum(0) if needs[2] else None


def linear(*args: Any, **kwargs: Any) -> Tensor:
    """`F.linear`, with a gradient that can be parted where the weight is a large parameter in double precision."""
    x, weight, bias = bound(*args, **kwargs)
    large = type(weight) is nn.Parameter and weight.dtype == torch.float64 == x.dtype and long_rows(weight.shape)
    if not (large and weight.requires_grad and torch.is_grad_enabled()):
        return F.linear(x, weight, bias)
    return cast(Tensor, Linear.apply(x, weight, bias))


def bound(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The arguments of `F.linear`, whichever were named."""
    return input, weight, bias


def parted(made: Iterable[Tensor], take: Callable[[Tensor, Outer], None]) -> None:
    """Before a backward from `made`: let large linear layers hand the gradient of their weight to `take` in factors,
    where nothing else reads that weight."""
    readers = dict[Any, int]()
    layers = list[tuple[Any, Any]]()
    for node in nodes(made):
        for following, _ in node.next_functions:
            readers[following] = readers.get(following, 0) + 1
        if getattr(node, "_forward_cls", None) is Linear:
            layers.append((node, node.next_functions[1][0]))
    for node, leaf in layers:
        if leaf is not None and readers[leaf] == 1:
            node.take = functools.partial(take, leaf.variable)


def nodes(made: Iterable[Tensor]) -> Iterator[Any]:
    """Each step of the backward from these tensors, once."""
    left: list[Any] = [t.grad_fn for t in made if t.grad_fn is not None]
    seen = set(left)
    while left:
        node = left.pop()
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                left.append(following)


def normed(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A batch norm with its operand and its gradient contiguous: on the CPU torch 2.15 takes one sample whose strides
    are those of channels last for one that is contiguous, or the other way, and gives wrong gradients."""
    out = F.batch_norm(x.contiguous(), *args, **kwargs)
    if out.requires_grad:
        out.register_hook(lambda gradient: gradient.contiguous())
    return out


OWN: dict[Any, Callable[..., Any]] = {F.batch_norm: normed, F.linear: linear}
"""What the proof calls in place of these."""
