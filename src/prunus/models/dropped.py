"""What stands in a network where a residual branch was dropped.

The first module of the branch becomes `Blank`, the last one `Zero`, those between `Passed`: the code around them runs
as before, and the sum adds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

__all__ = ["Blank", "Passed", "Zero", "ZeroAttention", "is_unfused", "unfused"]


class Zero(nn.Module):
    """Stands for a module of a dropped branch: zeros with `width` entries on `axis`, every other axis that of the first
    tensor it is given, divided by `ratio`; beside `items` - 1 Nones where the module returned a tuple."""

    def __init__(self, axis: int, width: int, ratio: tuple[int, ...], items: int = 0) -> None:
        super().__init__()
        self.axis, self.width, self.ratio, self.items = axis, width, ratio, items

    def extra_repr(self) -> str:
        return f"axis={self.axis}, width={self.width}, ratio={self.ratio}"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        x = first(args, kwargs)
        sizes = [
            -(-n // r) for n, r in zip((n for d, n in enumerate(x.shape) if d != self.axis), self.ratio, strict=True)
        ]
        zero = x.new_zeros([*sizes[: self.axis], self.width, *sizes[self.axis :]])
        return (zero, *[None] * (self.items - 1)) if self.items else zero


class ZeroAttention(Zero):
    """A `Zero` for an `nn.MultiheadAttention`. torch's transformer layers ask their attention about itself; it answers
    so that they compute what is written in them, and no fused kernel that reads its weights."""

    in_proj_bias = None

    def __init__(
        self, axis: int, width: int, ratio: tuple[int, ...], items: int = 0, batch_first: bool = False
    ) -> None:
        super().__init__(axis, width, ratio, items)
        self.batch_first = batch_first


class Blank(nn.Module):
    """Starts a dropped branch: zeros like its input, in memory of their own, since ops in between may work in place."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return torch.zeros_like(first(args, kwargs))


class Passed(nn.Module):
    """Stands inside a dropped branch: what it is given first."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return first(args, kwargs)


FUSED: tuple[tuple[type[nn.Module], str, Any], ...] = (
    (nn.TransformerEncoderLayer, "activation_relu_or_gelu", 0),
    (nn.TransformerEncoder, "use_nested_tensor", False),
)
"""torch's transformer layers with a fused kernel, or with padding cut out for it, and the value of the attribute that
turns it off."""


def unfused(model: nn.Module, path: str) -> None:
    """torch's transformer layers around a module that was replaced compute what is written in them: their fused kernels
    read the weights of all that they hold."""
    names = path.split(".")
    for depth in range(len(names)):
        around = model.get_submodule(".".join(names[:depth]))
        for kind, name, value in FUSED:
            if isinstance(around, kind):
                setattr(around, name, value)


def is_unfused(module: nn.Module, name: str, value: object) -> bool:
    """Whether an attribute has the value by which `unfused` sets it."""
    return any(isinstance(module, kind) and (name, value) == (own, off) for kind, own, off in FUSED)


def first(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    return next(t for t in tree_iter((args, dict(kwargs))) if isinstance(t, Tensor))
