"""Functions of torch that are made of many ops: their own code, run so that each op is seen."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def opened(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """The body of a function of many ops, without its own call for a torch function mode; None for any other."""
    return bodies().get(func)


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """What `torch.nn.utils.weight_norm` gives a layer: g · v / ‖v‖, the norm over all axes but `dim`; over all where
    that is -1."""
    axes = [axis for axis in range(v.dim()) if dim == -1 or axis != dim]
    norm: Tensor = torch.linalg.vector_norm(v, 2, axes, keepdim=True)
    return v * (g / norm)


@lru_cache(maxsize=1)
def bodies() -> dict[Any, Callable[..., Any]]:
    """The functions that are opened, and their bodies."""
    found: dict[Any, Callable[..., Any]] = {torch._weight_norm: weight_norm}
    for func in (F.multi_head_attention_forward,):
        inside = {**vars(F), "has_torch_function": lambda *_: False}
        body = FunctionType(func.__code__, inside, func.__name__, func.__defaults__, func.__closure__)
        body.__kwdefaults__ = func.__kwdefaults__
        found[func] = body
    return found
