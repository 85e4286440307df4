"""Where the time goes: seconds of each layer that weighs, in the dense and in the pruned network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..state import call_model


@dataclass(frozen=True)
class Layer:
    """Seconds of one leaf module in a forward, all its calls together; medians over forwards."""

    name: str
    kind: str
    dense: float
    pruned: float

    @property
    def ratio(self) -> float:
        return self.pruned / self.dense if self.dense else 1.0


def layers_of(dense: nn.Module, pruned: nn.Module, example: Any, *, times: int = 7, sync: Any = None) -> list[Layer]:
    """Leaf modules of both networks, slowest of the dense first. Measured eagerly, so the overhead of a call of Python
    is in it."""
    found: tuple[dict[str, list[float]], dict[str, list[float]]] = ({}, {})
    with torch.no_grad():
        for model in (dense, pruned):
            call_model(model, example)
        for _ in range(times):
            for model, into in zip((dense, pruned), found, strict=True):
                with _timing(model, sync or (lambda: None)) as seconds:
                    call_model(model, example)
                for name, value in seconds.items():
                    into.setdefault(name, []).append(value)
    kinds = {name: type(module).__name__ for name, module in dense.named_modules()}
    one, other = ({name: float(np.median(values)) for name, values in into.items()} for into in found)
    made = [Layer(name, kinds[name], seconds, other.get(name, 0.0)) for name, seconds in one.items()]
    return sorted(made, key=lambda layer: -layer.dense)


@contextmanager
def _timing(model: nn.Module, sync: Callable[[], object]) -> Iterator[dict[str, float]]:
    seconds: dict[str, float] = {}
    handles = []
    for name, module in model.named_modules():
        if next(module.children(), None) is None:
            starts: list[float] = []

            def before(_: nn.Module, __: Any, starts: list[float] = starts) -> None:
                sync()
                starts.append(time.perf_counter())

            def after(_: nn.Module, __: Any, ___: Any, name: str = name, starts: list[float] = starts) -> None:
                sync()
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - starts.pop()

            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()
