"""CIFAR ResNets of depth 6n + 2 with option-A shortcuts (He et al. 2016, arXiv:1512.03385, section 4.2).

Names and shapes of the tensors are those of the checkpoints of akamaster/pytorch_resnet_cifar10.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from prunus.errors import UnknownName
from prunus.models.shortcut import Shortcut, centred
from prunus.models.widths import checked

__all__ = ["ResNet", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet_widths"]

STAGES = (16, 32, 64)


def resnet_widths(depth: int) -> tuple[int, ...]:
    """The dense widths: first convolutions of the blocks in forward order, then stages; the stem follows stage 1."""
    per_stage = (depth - 2) // 6
    return tuple(width for width in STAGES for _ in range(per_stage)) + STAGES


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, width_in: int, inner: int, width_out: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, inner, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, width_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, three stages of n blocks, global pooling, one linear layer. Any input of at least 4x4.

    widths: in the order of `resnet_widths`; None for the paper's.
    pool: "functional" as published, or "module" (AdaptiveAvgPool2d) as in the published compact nets: the same sum, but
        counting rules that look at modules only see the second.
    shortcut: which input channels a stage's first block adds where `widths` is given. "map" assumes that the leading
        channels of the dense net are the ones left, and is what a cut net's state dict loads into (it brings its own
        map); "centred" pads for the actual widths, as the references do for compact nets trained from scratch. Equal
        at the paper's widths.
    """

    def __init__(
        self,
        depth: int,
        classes: int = 10,
        *,
        widths: Sequence[int] | None = None,
        pool: str = "functional",
        shortcut: str = "map",
    ) -> None:
        super().__init__()
        for what, value, allowed in (
            ("pool", pool, ("functional", "module")),
            ("shortcut", shortcut, ("map", "centred")),
        ):
            if value not in allowed:
                raise UnknownName.of(what, value, allowed)
        dense = resnet_widths(depth)
        n = (depth - 2) // 6
        layout = f"{3 * n} first convolutions, then 3 stages"
        *inner, one, two, three = checked(f"resnet{depth}", widths, dense, layout)

        self.conv1 = nn.Conv2d(3, one, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(one)
        self.layer1 = nn.Sequential(*(Block(one, w, one, 1, nn.Identity()) for w in inner[:n]))
        self.layer2 = _widening_stage(one, inner[n : 2 * n], two, STAGES[0], shortcut)
        self.layer3 = _widening_stage(two, inner[2 * n :], three, STAGES[1], shortcut)
        self.pool = nn.AdaptiveAvgPool2d(1) if pool == "module" else None
        self.linear = nn.Linear(three, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.avg_pool2d(x, x.shape[2:]) if self.pool is None else self.pool(x)
        x = self.linear(x.flatten(1))
        return x

    @staticmethod
    def published_key(key: str) -> str:
        """The name here of a tensor in the HRank checkpoints, which call the last layer `fc`."""
        return key.replace("fc.", "linear.") if key.startswith("fc.") else key


def _widening_stage(width_in: int, inner: Sequence[int], width_out: int, dense_in: int, shortcut: str) -> nn.Sequential:
    """A stage that halves the resolution and doubles the dense width, in its first block."""
    if shortcut == "centred":
        index = centred(width_in, width_out)
    else:
        index = centred(dense_in, 2 * dense_in)[:width_out]
        index = index.masked_fill(index >= width_in, -1)
    first = Block(width_in, inner[0], width_out, 2, Shortcut(index, stride=2))
    return nn.Sequential(first, *(Block(width_out, w, width_out, 1, nn.Identity()) for w in inner[1:]))


def resnet20(
    classes: int = 10, *, widths: Sequence[int] | None = None, pool: str = "functional", shortcut: str = "map"
) -> ResNet:
    """269 722 parameters, 9 + 3 widths."""
    return ResNet(20, classes, widths=widths, pool=pool, shortcut=shortcut)


def resnet32(
    classes: int = 10, *, widths: Sequence[int] | None = None, pool: str = "functional", shortcut: str = "map"
) -> ResNet:
    """464 154 parameters, 15 + 3 widths."""
    return ResNet(32, classes, widths=widths, pool=pool, shortcut=shortcut)


def resnet44(
    classes: int = 10, *, widths: Sequence[int] | None = None, pool: str = "functional", shortcut: str = "map"
) -> ResNet:
    """658 586 parameters, 21 + 3 widths."""
    return ResNet(44, classes, widths=widths, pool=pool, shortcut=shortcut)


def resnet56(
    classes: int = 10, *, widths: Sequence[int] | None = None, pool: str = "functional", shortcut: str = "map"
) -> ResNet:
    """853 018 parameters, 27 + 3 widths."""
    return ResNet(56, classes, widths=widths, pool=pool, shortcut=shortcut)


def resnet110(
    classes: int = 10, *, widths: Sequence[int] | None = None, pool: str = "functional", shortcut: str = "map"
) -> ResNet:
    """1 727 962 parameters, 54 + 3 widths."""
    return ResNet(110, classes, widths=widths, pool=pool, shortcut=shortcut)
