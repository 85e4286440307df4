"""CIFAR VGG-16 with batch norm (Simonyan and Zisserman 2015, arXiv:1409.1556), with the two heads used for pruning.

`vgg16` has one linear layer; tensors are named as in the ABCPruner and DCFF checkpoints. `vgg16_hrank` has the head
512-512-BN-ReLU-classes and the names of the HRank checkpoints (arXiv:2002.10179).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from prunus.models.widths import checked

__all__ = ["VGG", "VGG16_WIDTHS", "vgg16", "vgg16_hrank"]

VGG16_WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
POOL_AFTER = (1, 3, 6, 9, 12)
"""Convolutions followed by a max pool."""


class VGG(nn.Module):
    """`features` down to one position for a 32x32 input (larger inputs are averaged), then `classifier`."""

    def __init__(self, features: nn.Sequential, classifier: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), 1)
        x = self.classifier(x.flatten(1))
        return x


def _layers(widths: Sequence[int]) -> Iterator[tuple[str, nn.Module]]:
    """Convolutions, norms, ReLUs and max pools in forward order, each with its kind."""
    width_in = 3
    for i, width in enumerate(widths):
        yield "conv", nn.Conv2d(width_in, width, 3, padding=1)
        yield "norm", nn.BatchNorm2d(width)
        yield "relu", nn.ReLU(inplace=True)
        if i in POOL_AFTER:
            yield "pool", nn.MaxPool2d(2)
        width_in = width


def vgg16(classes: int = 10, *, widths: Sequence[int] | None = None) -> VGG:
    """14 728 266 parameters. widths: of the 13 convolutions."""
    widths = checked("vgg16", widths, VGG16_WIDTHS, "its convolutions")
    features = nn.Sequential(*(layer for _, layer in _layers(widths)), nn.AvgPool2d(1, 1))
    return VGG(features, nn.Linear(widths[-1], classes))


def vgg16_hrank(classes: int = 10, *, widths: Sequence[int] | None = None, hidden: int = 512) -> VGG:
    """14 982 474 parameters in convolutions and linear layers. widths: of the 13 convolutions.

    The fifth pool averages.
    """
    widths = checked("vgg16-hrank", widths, VGG16_WIDTHS, "its convolutions")
    features = nn.Sequential()
    position = -1  # convolutions and pools are numbered together; norm and relu carry their convolution's number
    for kind, layer in list(_layers(widths))[:-1]:
        position += kind in ("conv", "pool")
        features.add_module(f"{kind}{position}", layer)
    classifier = nn.Sequential()
    classifier.add_module("linear1", nn.Linear(widths[-1], hidden))
    classifier.add_module("norm1", nn.BatchNorm1d(hidden))
    classifier.add_module("relu1", nn.ReLU(inplace=True))
    classifier.add_module("linear2", nn.Linear(hidden, classes))
    return VGG(features, classifier)
