"""The user's model and example, run and copied without a trace: modes, buffers and random states are put back."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter, tree_map

from .errors import ExampleError


def call_model(model: nn.Module, example: Any) -> Any:
    """The model on a tensor, a tuple of positional inputs or a dict of keyword inputs."""
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def example_tensors(example: Any) -> list[Tensor]:
    """The tensors of an example. Raises ExampleError for what is none."""
    if not isinstance(example, (Tensor, tuple, Mapping)):
        kind = type(example).__name__
        raise ExampleError(
            f"an example is a tensor, a tuple of positional inputs or a dict of keyword inputs, not {kind}"
        )
    found = [t for t in tree_iter(example) if isinstance(t, Tensor)]
    if not found:
        raise ExampleError(f"the example holds no tensor (got {type(example).__name__})")
    return found


def fresh(example: Any) -> Any:
    """A copy of the example: a model may write into its inputs."""
    return tree_map(lambda v: v.detach().clone() if isinstance(v, Tensor) else v, example)


def copied(model: nn.Module) -> nn.Module:
    """A deep copy. Activations that a module keeps as attributes are copied as plain values."""
    kept = [v for m in model.modules() for v in vars(m).values() if isinstance(v, Tensor) and not v.is_leaf]
    return copy.deepcopy(model, {id(t): t.detach().clone() for t in kept})


@contextlib.contextmanager
def same_draws(model: nn.Module) -> Iterator[None]:
    """Put back the random states of torch, Python and NumPy, whatever runs inside."""
    state, drawn = random.getstate(), np.random.get_state()
    devices = {t.device for t in model.parameters() if t.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(drawn)


def seeded() -> None:
    """The same random numbers for every forward that is compared with another."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)


@contextlib.contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Put back mode, buffers, tensors kept as attributes and every random state, whatever runs inside."""
    modes = [(module, module.training) for module in model.modules()]
    kept = [(module, {k: v for k, v in vars(module).items() if isinstance(v, Tensor)}) for module in model.modules()]
    buffers = [(owner, dict(owner._buffers)) for owner in model.modules() if owner._buffers]
    values = [(t, t.detach().clone(), t._version) for t in model.buffers() if not t.is_inference()]
    try:
        with same_draws(model):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module, held in kept:
            for name in [k for k, v in vars(module).items() if isinstance(v, Tensor) and held.get(k) is not v]:
                del vars(module)[name]
            vars(module).update(held)
        for owner, found in buffers:
            owner._buffers.clear()
            owner._buffers.update(found)
        with torch.no_grad():
            for tensor, value, version in values:
                # Batch norm writes its statistics without a new version.
                if tensor._version != version or not (tensor.is_meta or torch.equal(tensor, value)):
                    tensor.copy_(value)


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's module inside compiled, DataParallel and DDP wrappers."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif type(model).__name__ == "OptimizedModule" and "_orig_mod" in model._modules:
            model = model.get_submodule("_orig_mod")
        else:
            return model
