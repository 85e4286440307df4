"""Batch norms measure again: running means and variances of the smaller network, as averages over batches of data.

The averages are cumulative, over batches in train mode without dropout (Li et al. 2020, "EagleEye", arXiv:2007.02491,
section 3.3, adapt statistics so before they compare cut networks). A batch counts as one, however many samples it has;
what is left over at the end of a data set, if that is one sample, is passed over. Norms that these batches do not
reach, such as those of an auxiliary head that runs in training alone, keep what they had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ..errors import InputError
from ..methods.batches import called, device_of, moved
from .layers import Work, size_of


@dataclass(frozen=True)
class Statistics:
    """images: how many samples the statistics are taken from."""

    images: int = 2048
    needs_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.images < 1:
            raise InputError(f"statistics: images={self.images} must be at least 1")

    def mend(self, work: Work) -> list[str]:
        """Set the statistics of every batch norm that keeps some."""
        modes = [(module, module.training) for module in work.small.modules()]
        norms = [
            m
            for m in work.small.modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
        ]
        if not norms:
            return ["statistics: this network has no batch norm"]
        others = [b for m in work.small.modules() if m not in norms for b in m.buffers(recurse=False)]
        values = [b.clone() for b in others]
        momenta = [norm.momentum for norm in norms]
        before = [{name: b.clone() for name, b in norm.named_buffers(recurse=False)} for norm in norms]
        seen: set[nn.Module] = set()
        hooks = [norm.register_forward_pre_hook(lambda norm, _: seen.add(norm)) for norm in norms]
        work.small.eval()
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # cumulative
                norm.train()
            with torch.no_grad():
                most = 0
                for given in work.batches(self.images):
                    size = size_of(given)
                    if size > 1 or most <= 1:
                        called(work.small, moved(given, device_of(work.small)))
                    most = max(most, size)
        finally:
            for hook in hooks:
                hook.remove()
            for norm, momentum, buffers in zip(norms, momenta, before, strict=True):
                norm.momentum = momentum
                for name, b in buffers.items() if norm not in seen else ():
                    getattr(norm, name).copy_(b)
            for buffer, value in zip(others, values, strict=True):
                buffer.copy_(value)
            for module, mode in modes:
                module.training = mode
        left = [name for name, module in work.small.named_modules() if module in norms and module not in seen]
        return [f"statistics: left as they are: {', '.join(left)}"] if left else []
