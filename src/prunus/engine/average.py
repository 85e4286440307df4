"""An exponential moving average of the weights, and the swap that lets it stand in for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = ["Average"]


class Average:
    """Of all parameters: a ← d·a + (1 − d)·w after each step. Buffers, such as running statistics, stay the model's.

    The decay of step t is min(decay, (1 + t) / (10 + t)), so that the first steps do not linger. decay 0: no average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.step = decay, 0
        self.weights = list(model.parameters()) if decay else []
        self.average = [p.detach().clone() for p in self.weights]

    def update(self) -> None:
        """After an optimizer step."""
        if self.weights:
            decay = min(self.decay, (1 + self.step) / (10 + self.step))
            self.step += 1
            get_ema_multi_avg_fn(decay)(self.average, [p.detach() for p in self.weights], None)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the average inside, and its own weights again after."""
        own = [p.detach().clone() for p in self.weights]
        self.settle()
        try:
            yield
        finally:
            _copy(self.weights, own)

    def settle(self) -> None:
        """Leave the average in the model."""
        _copy(self.weights, self.average)

    def state_dict(self) -> dict[str, Any]:
        """Average and number of steps."""
        return {"step": self.step, "average": list(self.average)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.step = state["step"]
        _copy(self.average, state["average"])


def _copy(into: list[nn.Parameter] | list[Tensor], values: list[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(into, values, strict=True):
            tensor.copy_(value)
