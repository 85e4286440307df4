"""Counts of the nets by plain arithmetic, on the meta device: no weights, no sums."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Count(NamedTuple):
    macs: int
    thop: int
    params: int
    params_conv_linear: int


def count(model: nn.Module, size: int = 32) -> Count:
    """Costs at batch 1 of a model built on the meta device. thop: 2 per norm element, modules that pool included."""
    macs, extra = [], []

    def seen(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            taps = module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
            macs.append(out.numel() * taps)
            extra.append(out.numel() if module.bias is not None else 0)
        elif isinstance(module, nn.Linear):
            macs.append(module.in_features * module.out_features)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            extra.append(2 * out.numel())
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            extra.append(out.numel() * (inputs[0][0, 0].numel() // out[0, 0].numel() + 1))
        elif isinstance(module, nn.AvgPool2d):
            extra.append(out.numel())

    hooks = [module.register_forward_hook(seen) for module in model.modules()]
    model.eval()
    model(torch.empty(1, 3, size, size, device="meta"))
    for hook in hooks:
        hook.remove()
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return Count(
        macs=sum(macs),
        thop=sum(macs) + sum(extra),
        params=sum(p.numel() for p in model.parameters()),
        params_conv_linear=sum(p.numel() for m in weighted for p in m.parameters()),
    )
