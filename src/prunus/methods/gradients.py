"""Products of parameters and their gradients: what a first-order change of the loss is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..state import copied
from .batches import Loss, samples, some


def products(
    model: nn.Module, data: Iterable[Any], loss: Loss, most: int, *, per_sample: bool = False
) -> Iterator[dict[str, Tensor]]:
    """w · ∂L/∂w of every parameter by every name it has, for each of at most `most` batches, or each of their samples.

    Taken on a copy in eval mode (stored statistics, no dropout) with every parameter trainable; zero for parameters
    that L does not depend on and for floating buffers, which have no gradient. Raises InputError for a loss that is no
    finite scalar or does not depend on the model it is given.
    """
    twin = copied(model).eval()
    free: list[Tensor] = [p.requires_grad_(True) for p in twin.parameters() if p.is_floating_point()]
    named = dict(twin.named_parameters(remove_duplicate=False))
    zeros = {
        name: torch.zeros_like(b) for name, b in twin.named_buffers(remove_duplicate=False) if b.is_floating_point()
    }
    for batch in some(data, most):
        for part in samples(batch) if per_sample else (batch,):
            grads = {id(p): g for p, g in zip(free, gradients(twin, part, loss, free), strict=True)}
            found = {name: (p.detach(), grads.get(id(p))) for name, p in named.items()}
            yield zeros | {name: torch.zeros_like(p) if g is None else p * g for name, (p, g) in found.items()}


def gradients(model: nn.Module, batch: Any, loss: Loss, free: list[Tensor]) -> tuple[Tensor | None, ...]:
    """∂L/∂p of each parameter, None where there is none."""
    with torch.enable_grad():
        value = loss(model, batch)
    if not isinstance(value, Tensor) or value.numel() != 1 or not bool(torch.isfinite(value.detach()).all()):
        shown = (
            f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) and value.numel() != 1 else f"{value!r:.40}"
        )
        raise InputError(f"a loss is one finite number in a tensor, not {shown}")
    found = torch.autograd.grad(value, free, allow_unused=True) if value.requires_grad else ()
    if not any(g is not None for g in found):
        raise InputError("the loss does not depend on the model that it is given; compute it from that one")
    return found
