"""A network to save: what the tests of files share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from zoo import lively

import prunus

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Make = Callable[[], nn.Module]


class Net(nn.Module):
    """Two convolutions that share a weight, a buffer of each kind, a residual block, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.c.weight = self.b.weight
        self.norm, self.block, self.head = nn.BatchNorm2d(8), Block(), nn.Linear(8, 5)
        self.register_buffer("scale", torch.full((5,), 2.0), persistent=False)
        self.register_buffer("on", torch.tensor([True, False, True, True, False]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.norm(self.c(self.b(self.a(x).relu()).relu())))
        return self.head(x.mean((2, 3))) * self.scale * self.on  # type: ignore[no-any-return, operator]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(self.one(x).relu())  # type: ignore[no-any-return]


def seeded(make: Make = Net, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return lively(make())


def small(**options: Any) -> prunus.Pruned:
    return prunus.prune(seeded(), EXAMPLE, **({"target": "macs=50%"} | options), check=False)
