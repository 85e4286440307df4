"""Functions of torch that are made of many ops: their own code, run so that each op is seen."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import Any

import torch.nn.functional as F


def opened(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """The body of a function of many ops, without its own call for a torch function mode; None for any other."""
    return bodies().get(func)


@lru_cache(maxsize=1)
def bodies() -> dict[Any, Callable[..., Any]]:
    """The functions that are opened, and their bodies."""
    found: dict[Any, Callable[..., Any]] = {}
    for func in (F.multi_head_attention_forward,):
        inside = {**vars(F), "has_torch_function": lambda *_: False}
        body = FunctionType(func.__code__, inside, func.__name__, func.__defaults__, func.__closure__)
        body.__kwdefaults__ = func.__kwdefaults__
        found[func] = body
    return found
