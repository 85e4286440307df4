"""The bookkeeping of one epoch of training."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from prunus.engine.history import Epoch
from prunus.engine.processes import One
from prunus.engine.runtime import Runtime
from prunus.errors import DataError, PrunusError

__all__ = ["Ledger"]

T = TypeVar("T")


class Ledger:
    """The losses of one epoch, kept on the device; says where they stopped being finite."""

    def __init__(self, e: int, epochs: int, runtime: Runtime) -> None:
        self.e, self.epochs = e, epochs
        self.every = 1 if runtime.torch_device.type == "cpu" else 50  # a look costs a synchronisation elsewhere
        self.losses: list[Tensor] = []
        self.penalties: list[Tensor] = []
        self.sizes: list[int] = []
        self.steps: list[int] = []
        self.looked = 0
        self.lr = 0.0
        self.before, self.waited = 0.0, 0.0
        self.start = time.perf_counter()

    def timed(self, feed: Iterable[T]) -> Iterator[T]:
        """What `feed` gives; the time that it takes to give counts as waiting."""
        source = iter(feed)
        while True:
            start = time.perf_counter()
            try:
                item = next(source)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - start
            yield item

    def add(self, step: int, loss: Tensor, penalty: Tensor, lr: float, size: int) -> None:
        """Note one part of a step, before its backward pass. Raises PrunusError where the loss is not finite."""
        self.losses.append(loss.detach())
        self.penalties.append(penalty.detach())
        self.sizes.append(size)
        self.steps.append(step)
        self.lr = lr
        if len(self.losses) - self.looked >= self.every:
            self.look()

    def look(self) -> None:
        """Check the steps since the last look."""
        pairs = zip(_numbers(self.losses[self.looked :]), _numbers(self.penalties[self.looked :]), strict=True)
        for (loss, penalty), step in zip(pairs, self.steps[self.looked :], strict=True):
            if not math.isfinite(loss + penalty):
                what = f"the loss became {loss}" if not math.isfinite(loss) else f"a penalty became {penalty}"
                raise PrunusError(
                    f"{what} in epoch {self.e + 1} of {self.epochs}, step {step + 1} (learning rate {self.lr:.4g}): "
                    "training stopped; look for bad inputs or lower the learning rate"
                )
        self.looked = len(self.losses)

    def close(self, processes: One) -> Epoch:
        """Stop the clock. Raises DataError where there were no steps."""
        if not self.losses:
            raise DataError(
                f"the data gave no batches in epoch {self.e + 1}: fewer than two images in each of the parts that "
                "accumulate= makes, or a generator used up; "
                "batches of your own must start anew each time, as a list or a DataLoader does"
            )
        self.look()
        seconds = self.before + time.perf_counter() - self.start
        total, n = self._summed(processes)
        penalty, waiting = sum(_numbers(self.penalties)) / len(set(self.steps)), min(1.0, self.waited / seconds)
        rate = n / seconds
        return Epoch(self.e + 1, total / n, penalty, self.lr, rate, seconds, None, waiting)

    def state_dict(self, processes: One) -> dict[str, Any]:
        """The epoch so far, over all processes, for a checkpoint in the middle of it."""
        state = {
            "losses": _numbers(self.losses),
            "penalties": _numbers(self.penalties),
            "sizes": self.sizes,
            "steps": self.steps,
            "seconds": self.before + time.perf_counter() - self.start,
            "waited": self.waited,
        }
        if processes.world > 1:  # the first process goes on with one entry for all, in the place of its last
            total, n = self._summed(processes)
            state |= {
                "losses": [0.0] * (len(self.losses) - 1) + [total / n],
                "sizes": [0] * (len(self.sizes) - 1) + [n],
            }
        return state

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from there."""
        self.losses = [torch.tensor(x, device=device) for x in state["losses"]]
        self.penalties = [torch.tensor(x, device=device) for x in state["penalties"]]
        self.sizes, self.steps = list(state["sizes"]), list(state["steps"])
        self.before, self.waited, self.looked = state["seconds"], state["waited"], len(self.losses)

    def _summed(self, processes: One) -> tuple[float, int]:
        """The losses of all samples of all processes, and their number."""
        losses, device = _numbers(self.losses), self.losses[0].device
        summed = sum(loss * size for loss, size in zip(losses, self.sizes, strict=True))
        dtype = torch.float32 if device.type == "mps" else torch.float64
        total, n = processes.total(torch.tensor([summed, sum(self.sizes)], dtype=dtype, device=device)).tolist()
        return total, round(n)


def _numbers(scalars: list[Tensor]) -> list[float]:
    return [float(x) for x in torch.stack([s.reshape(()).float() for s in scalars]).tolist()] if scalars else []
