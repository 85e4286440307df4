"""CIFAR DenseNet-40: growth 12, no bottleneck, no compression (Huang et al. 2017, arXiv:1608.06993).

The stem has 24 channels, twice the growth, and tensors are named as in network slimming and HRank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.models.widths import checked

__all__ = ["DENSENET40_WIDTHS", "DenseNet", "densenet40"]

GROWTH = 12
LAYERS = 12
"""Layers of each of the three dense blocks."""
DENSENET40_WIDTHS = (24, *[GROWTH] * LAYERS, 168, *[GROWTH] * LAYERS, 312, *[GROWTH] * LAYERS)


class DenseLayer(nn.Module):
    """Norm, ReLU, 3x3 convolution; the result is put behind the input."""

    def __init__(self, width_in: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.conv1(F.relu(self.bn1(x)))), 1)


class Transition(nn.Module):
    """Norm, ReLU, 1x1 convolution, half the resolution."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(x))), 2)


class DenseNet(nn.Module):
    """Stem, three dense blocks with two transitions between them. Any input of at least 32x32.

    widths: stem, 12 layers, transition, 12 layers, transition, 12 layers; None for the paper's.
    """

    def __init__(self, classes: int = 10, *, widths: Sequence[int] | None = None) -> None:
        super().__init__()
        layout = "stem, 12 layers, transition, 12 layers, transition, 12 layers"
        widths = checked("densenet40", widths, DENSENET40_WIDTHS, layout)
        stem, first, (half, *second), (quarter, *third) = (
            widths[0],
            widths[1 : LAYERS + 1],
            widths[LAYERS + 1 : 2 * LAYERS + 2],
            widths[2 * LAYERS + 2 :],
        )
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.dense1, width = _dense(stem, first)
        self.trans1 = Transition(width, half)
        self.dense2, width = _dense(half, second)
        self.trans2 = Transition(width, quarter)
        self.dense3, width = _dense(quarter, third)
        self.bn = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(8)
        self.fc = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, math.sqrt(2 / (module.weight[0, 0].numel() * module.out_channels)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.trans1(self.dense1(self.conv1(x)))
        x = self.trans2(self.dense2(x))
        x = self.avgpool(F.relu(self.bn(self.dense3(x))))
        x = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return x


def _dense(width: int, growths: Sequence[int]) -> tuple[nn.Sequential, int]:
    """A dense block, and the width it ends with."""
    layers = []
    for growth in growths:
        layers.append(DenseLayer(width, growth))
        width += growth
    return nn.Sequential(*layers), width


def densenet40(classes: int = 10, *, widths: Sequence[int] | None = None) -> DenseNet:
    """1 059 298 parameters, 39 widths."""
    return DenseNet(classes, widths=widths)
