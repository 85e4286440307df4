"""The bookkeeping of one epoch of training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prunus.engine.history import Epoch
from prunus.engine.runtime import Runtime
from prunus.errors import DataError, PrunusError

__all__ = ["Ledger"]


class Ledger:
    """The losses of one epoch, kept on the device; says where they stopped being finite."""

    def __init__(self, e: int, epochs: int, runtime: Runtime) -> None:
        self.e, self.epochs = e, epochs
        self.every = 1 if runtime.torch_device.type == "cpu" else 50  # a look costs a synchronisation elsewhere
        self.losses: list[Tensor] = []
        self.penalties: list[Tensor] = []
        self.sizes: list[int] = []
        self.looked = 0
        self.lr = 0.0
        self.start = time.perf_counter()

    def add(self, loss: Tensor, penalty: Tensor, lr: float, size: int) -> None:
        """Note one step, before its backward pass. Raises PrunusError where the loss is not finite."""
        self.losses.append(loss.detach())
        self.penalties.append(penalty.detach())
        self.sizes.append(size)
        self.lr = lr
        if len(self.losses) - self.looked >= self.every:
            self.look()

    def look(self) -> None:
        """Check the steps since the last look."""
        pairs = zip(_numbers(self.losses[self.looked :]), _numbers(self.penalties[self.looked :]), strict=True)
        for i, (loss, penalty) in enumerate(pairs, start=self.looked + 1):
            if not math.isfinite(loss + penalty):
                what = f"the loss became {loss}" if not math.isfinite(loss) else f"a penalty became {penalty}"
                raise PrunusError(
                    f"{what} in epoch {self.e + 1} of {self.epochs}, step {i} (learning rate {self.lr:.4g}): "
                    "training stopped; look for bad inputs or lower the learning rate"
                )
        self.looked = len(self.losses)

    def close(self, validate: Callable[[], Any]) -> Epoch:
        """Stop the clock, then validate. Raises DataError where there were no steps."""
        if not self.losses:
            raise DataError(
                f"the data gave no batches in epoch {self.e + 1}; pass a list or a DataLoader, not a generator"
            )
        self.look()
        losses, penalties = _numbers(self.losses), _numbers(self.penalties)
        seconds = time.perf_counter() - self.start
        n = sum(self.sizes)
        mean = sum(loss * size for loss, size in zip(losses, self.sizes, strict=True)) / n
        return Epoch(self.e + 1, mean, sum(penalties) / len(penalties), self.lr, n / seconds, seconds, validate())


def _numbers(scalars: list[Tensor]) -> list[float]:
    return [float(x) for x in torch.stack(scalars).tolist()] if scalars else []
