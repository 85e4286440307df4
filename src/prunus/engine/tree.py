"""Nested state as tensors and plain JSON, so that a checkpoint needs no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus.errors import CheckpointError

__all__ = ["pack", "unpack"]

_TENSOR, _ITEMS, _TUPLE = "__tensor__", "__items__", "__tuple__"


def pack(state: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """`state` as JSON values; each tensor inside goes into `tensors` under its path and leaves that name behind.

    state: dicts, lists, tuples, tensors, numpy arrays and numbers, str, bool, int, float, None. Raises CheckpointError
    for anything else, with the path to it.
    """
    if isinstance(state, np.ndarray):
        state = torch.from_numpy(state)
    if isinstance(state, Tensor):
        tensors[path] = state.detach()
        return {_TENSOR: path}
    if isinstance(state, np.generic):
        state = state.item()
    if state is None or isinstance(state, bool | int | float | str):
        return state
    if isinstance(state, Mapping):
        pairs = [(key, pack(value, tensors, f"{path}/{key}")) for key, value in state.items()]
        if all(isinstance(key, str) and not key.startswith("__") for key in state):
            return dict(pairs)
        if all(isinstance(key, str | int) for key in state):
            return {_ITEMS: [list(pair) for pair in pairs]}
    if isinstance(state, list | tuple):
        parts = [pack(value, tensors, f"{path}/{i}") for i, value in enumerate(state)]
        return {_TUPLE: parts} if isinstance(state, tuple) else parts
    raise CheckpointError(f"a checkpoint cannot hold {path or 'this'}: {type(state).__name__} is no plain data")


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` was given, arrays as tensors."""
    if isinstance(packed, list):
        return [unpack(value, tensors) for value in packed]
    if not isinstance(packed, dict):
        return packed
    if _TENSOR in packed:
        return tensors[packed[_TENSOR]]
    if _TUPLE in packed:
        return tuple(unpack(value, tensors) for value in packed[_TUPLE])
    if _ITEMS in packed:
        return {key: unpack(value, tensors) for key, value in packed[_ITEMS]}
    return {key: unpack(value, tensors) for key, value in packed.items()}
