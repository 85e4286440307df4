"""A machine that computes its times: what `prunus.latency.machine.Source` asks for, with every number known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunus.latency import Sample
from prunus.latency.settings import DEPTHWISE, Setting

Price = Callable[[float, float], float]
"""Units of work of a layer, from its widths."""
UNIT = 1e-8
CALLING = 1e-9


def plain(inner: float, outer: float) -> float:
    """As MACs do."""
    return inner * outer


def padded(inner: float, outer: float) -> float:
    """Vectors of 16."""
    return float(-(-inner // 16) * -(-outer // 16) * 256)


def net() -> nn.Sequential:
    """Widths 64, 96 and 128 at 4 by 4, and a classifier."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 96, 3, padding=1), nn.ReLU(),
        nn.Conv2d(96, 128, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 5),
    )  # fmt: skip


X = torch.zeros(1, 3, 4, 4)


@dataclass
class Computed:
    """Times from a price. bend: what is measured of a network, from the sum of its layers over that of `net()`; a model
    that believes the layers is off by that. apart: of each fresh process, how many times as long it takes there."""

    price: Price = plain
    bend: Callable[[float], float] = lambda share: share
    dense: float = 1e-2
    runtime: str = "eager"
    threads: int = 1
    device: str = "cpu"
    apart: Sequence[float] = ()
    layers: list[tuple[str, int, int]] = field(default_factory=list)
    networks: list[nn.Module] = field(default_factory=list)

    def conditions(self) -> dict[str, Any]:
        return {"runtime": self.runtime, "threads": self.threads, "hardware": "none", "versions": {"torch": "0"}}

    def layer(self, setting: Setting, inner: int, outer: int) -> float:
        self.layers.append((str(setting), inner, outer))
        positions = setting.rows * prod(setting.space) * prod(setting.kernel)
        return UNIT * positions * self.price(1 if setting.groups == DEPTHWISE else inner, outer)

    def relu(self, entries: int) -> float:
        return CALLING

    def call(self, model: nn.Module, example: Tensor) -> Callable[[], nn.Module]:
        return lambda: model

    def pair(self, dense: Any, pruned: Any) -> Sample:
        one, two = dense(), pruned()
        if one is not two:
            self.networks.append(two)
        return self.at(self.bend(self.work(two) / self.work(one)))

    def pairs(self, dense: nn.Module, pruned: nn.Module, example: Tensor) -> list[Sample]:
        return [self.at(apart * self.work(pruned) / self.work(dense)) for apart in self.apart]

    def at(self, share: float) -> Sample:
        return Sample(np.tile([self.dense, self.dense * share], (11, 1)))

    def work(self, model: nn.Module) -> float:
        """The layers of a network, each at its price, and none of the rest."""
        total = 0.0
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                total += 16 * prod(module.kernel_size) * self.price(module.in_channels, module.out_channels)
            elif isinstance(module, nn.Linear):
                total += self.price(module.in_features, module.out_features)
        return total
