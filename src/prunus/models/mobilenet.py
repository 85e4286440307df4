"""MobileNetV1 in its ImageNet form (Howard et al. 2017, arXiv:1704.04861): a stem and 13 separable convolutions.

Tensors are named as in marvis/pytorch-mobilenet and DCFF; those of HRank load through `MobileNetV1.published_key`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor, nn

from prunus.models.widths import checked

__all__ = ["MOBILENETV1_WIDTHS", "MobileNetV1", "mobilenetv1"]

MOBILENETV1_WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
HALVING = (0, 2, 4, 6, 12)
"""Positions in the list of widths at which the resolution is halved."""


def _separable(width_in: int, width_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width_in, width_in, 3, stride=stride, padding=1, groups=width_in, bias=False),
        nn.BatchNorm2d(width_in),
        nn.ReLU(inplace=True),
        nn.Conv2d(width_in, width_out, 1, bias=False),
        nn.BatchNorm2d(width_out),
        nn.ReLU(inplace=True),
    )


class MobileNetV1(nn.Module):
    """Any input size; the resolution falls to 1/32.

    widths: stem, then 13 pointwise convolutions; None for the paper's.
    """

    def __init__(self, classes: int = 1000, *, widths: Sequence[int] | None = None) -> None:
        super().__init__()
        widths = checked("mobilenetv1", widths, MOBILENETV1_WIDTHS, "stem, then 13 pointwise convolutions")
        stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        blocks = (_separable(widths[i - 1], widths[i], 2 if i in HALVING else 1) for i in range(1, len(widths)))
        self.model = nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(self.model(x).flatten(1))
        return x

    @staticmethod
    def published_key(key: str) -> str:
        """The name here of a tensor in the HRank checkpoints (`conv1`, `features.0` to `.12`, `classifier.0`)."""
        if match := re.fullmatch(r"features\.(\d+)\.(.+)", key):
            return f"model.{int(match[1]) + 1}.{match[2]}"
        return re.sub(r"^conv1\.", "model.0.", re.sub(r"^classifier\.0\.", "fc.", key))


def mobilenetv1(classes: int = 1000, *, widths: Sequence[int] | None = None) -> MobileNetV1:
    """4 231 976 parameters, 14 widths."""
    return MobileNetV1(classes, widths=widths)
