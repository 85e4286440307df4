"""Batch norms measure again: running means and variances of the smaller network, as averages over batches of data.

The averages are cumulative, over batches in train mode without dropout (Li et al. 2020, "EagleEye", arXiv:2007.02491,
section 3.3, adapt statistics so before they compare cut networks).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ..errors import InputError
from ..methods.batches import device_of, moved
from ..state import call_model
from .layers import Work


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
            if isinstance(m, nn.modules.batchnorm._NormBase) and m.running_mean is not None
        ]
        if not norms:
            return ["statistics: this network has no batch norm"]
        momenta = [norm.momentum for norm in norms]
        work.small.eval()
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # cumulative
                norm.train()
            with torch.no_grad():
                for given in work.batches(self.images):
                    call_model(work.small, moved(given, device_of(work.small)))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            for module, mode in modes:
                module.training = mode
        return []
