"""CIFAR GoogLeNet (after Szegedy et al. 2015, arXiv:1409.4842): a 3x3 stem, nine inceptions, the 5x5 branch as two 3x3.

Tensors are named as in the DCFF checkpoints; those of HRank load through `GoogLeNet.published_key`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.models.widths import checked

__all__ = ["GOOGLENET_WIDTHS", "GoogLeNet", "googlenet"]

STEM = 192
INCEPTIONS = {
    #      1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5 a, 5x5 b, pool 1x1
    "a3": (64, 96, 128, 16, 32, 32, 32),
    "b3": (128, 128, 192, 32, 96, 96, 64),
    "a4": (192, 96, 208, 16, 48, 48, 64),
    "b4": (160, 112, 224, 24, 64, 64, 64),
    "c4": (128, 128, 256, 24, 64, 64, 64),
    "d4": (112, 144, 288, 32, 64, 64, 64),
    "e4": (256, 160, 320, 32, 128, 128, 128),
    "a5": (256, 160, 320, 32, 128, 128, 128),
    "b5": (384, 192, 384, 48, 128, 128, 128),
}
HALVED_BEFORE = ("a4", "a5")
GOOGLENET_WIDTHS = (STEM, *(width for inception in INCEPTIONS.values() for width in inception))


def _unit(width_in: int, width_out: int, kernel: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    conv = nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2)
    return conv, nn.BatchNorm2d(width_out), nn.ReLU(inplace=True)


class Inception(nn.Module):
    """Four branches side by side. widths: seven, in the order of `INCEPTIONS`."""

    def __init__(self, width_in: int, widths: Sequence[int]) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five_a, five_b, pool = widths
        self.b1 = nn.Sequential(*_unit(width_in, one, 1))
        self.b2 = nn.Sequential(*_unit(width_in, reduce3, 1), *_unit(reduce3, three, 3))
        self.b3 = nn.Sequential(*_unit(width_in, reduce5, 1), *_unit(reduce5, five_a, 3), *_unit(five_a, five_b, 3))
        self.b4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *_unit(width_in, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b1(x), self.b2(x), self.b3(x), self.b4(x)], 1)


class GoogLeNet(nn.Module):
    """Resolutions 1, 1/2 and 1/4 of the input, which is at least 32x32.

    widths: stem, then seven for each inception in the order of `INCEPTIONS`; None for the paper's.
    """

    def __init__(self, classes: int = 10, *, widths: Sequence[int] | None = None) -> None:
        super().__init__()
        stem, *rest = checked("googlenet", widths, GOOGLENET_WIDTHS, "stem, then 9 x 7 of the inceptions")
        self.pre_layers = nn.Sequential(*_unit(3, stem, 3))
        width = stem
        for i, name in enumerate(INCEPTIONS):
            own = rest[7 * i : 7 * i + 7]
            self.add_module(name, Inception(width, own))
            width = own[0] + own[2] + own[5] + own[6]
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.avgpool = nn.AvgPool2d(8, stride=1)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pre_layers(x)
        for name in INCEPTIONS:
            if name in HALVED_BEFORE:
                x = self.maxpool(x)
            x = self.get_submodule(name)(x)
        x = self.avgpool(x)
        x = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return x

    @staticmethod
    def published_key(key: str) -> str:
        """The name here of a tensor in the HRank checkpoints (`inception_a3.branch1x1.0.weight`)."""
        for theirs, ours in (("branch1x1", "b1"), ("branch3x3", "b2"), ("branch5x5", "b3"), ("branch_pool", "b4")):
            key = key.replace(theirs, ours)
        return key.removeprefix("inception_")


def googlenet(classes: int = 10, *, widths: Sequence[int] | None = None) -> GoogLeNet:
    """6 166 250 parameters, 64 widths."""
    return GoogLeNet(classes, widths=widths)
