"""Hooks on the gradients of weights."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def hooked(weight: Tensor, hook: Callable[[Tensor], Tensor]) -> list[RemovableHandle]:
    """Have the gradient of a weight pass a hook, also of a parameter that is frozen now and trained later."""
    frozen = isinstance(weight, nn.Parameter) and not weight.requires_grad
    if not (weight.requires_grad or frozen):
        return []
    weight.requires_grad_(True)  # torch registers no hook otherwise, and keeps it afterwards
    handle: RemovableHandle = weight.register_hook(hook)
    weight.requires_grad_(not frozen)
    return [handle]
