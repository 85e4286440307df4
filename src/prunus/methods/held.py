"""Masks held while a network trains.

    held = Held.of(small.model)              # or Held(model, masks)
    held.hold(optimizer)                     # once; see below
    for x, y in loader:
        …
        optimizer.step()
        held.after_step()

`after_step` zeroes the masked weights again, which is all that the function of the network needs. Without `hold` their
gradients still count in a clipped norm, and momentum gathers under the mask. `hold` puts an end to both: a hook on each
weight zeroes the masked entries of its gradient, before they are accumulated or averaged over processes, and a hook on
the optimizer zeroes the masked entries of every state tensor of the weight's shape (momentum, Adam's moments) after
each step. `release` takes the hooks away; `settle`, after the training, does so too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, InputError
from ..state import unwrapped
from .hooks import hooked
from .masks import Masks, considered, from_zeros

__all__ = ["Held"]


class _Removable(Protocol):
    def remove(self) -> None: ...


def bare(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that steps, inside one that wraps it, as accelerate's does. Raises InputError for what is none."""
    found = optimizer
    while not hasattr(found, "_optimizer_step_post_hooks") and hasattr(found, "optimizer"):
        found = found.optimizer
    if not isinstance(found, torch.optim.Optimizer):
        raise InputError(f"hold takes an optimizer of torch, not {type(optimizer).__name__}")
    return found


class Mask:
    """True where a weight stays, and what zeroes the others.

    On a CPU that is a pattern of bits beside each weight, all set or none, and zeroing is an `and`: one pass over the
    memory, where torch fills by truth values one by one.
    """

    INTEGERS = MappingProxyType({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64})

    def __init__(self, stays: Tensor, weight: Tensor) -> None:
        self.stays = torch.empty_like(weight, dtype=torch.bool, requires_grad=False).copy_(stays)
        self.size = weight.element_size()
        self.bits = self._bits()

    def _bits(self) -> Tensor | None:
        integer = self.INTEGERS.get(self.size)
        return self.stays.to(integer).neg_() if integer is not None and self.stays.device.type == "cpu" else None

    def on(self, device: torch.device) -> Mask:
        """On the device that the weight may have moved to."""
        if self.stays.device != device:
            self.stays = self.stays.to(device)
            self.bits = self._bits()
        return self

    def zero_(self, tensor: Tensor) -> None:
        """In place, of the weight's shape."""
        tensor = tensor.detach()
        if self.bits is None or tensor.element_size() != self.size:
            tensor.masked_fill_(~self.stays, 0)
        else:
            tensor.view(self.bits.dtype).bitwise_and_(self.bits)

    def zeroed(self, tensor: Tensor) -> Tensor:
        """A copy."""
        if self.bits is None or tensor.requires_grad or tensor.element_size() != self.size:
            return tensor.masked_fill(~self.stays, 0)
        return (tensor.view(self.bits.dtype) & self.bits).view(tensor.dtype)


class Held:
    """Masks on a model, bare or wrapped. What they do not keep is zeroed at once. Raises InputError where they do not
    fit."""

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        own = dict(unwrapped(model).named_parameters(remove_duplicate=False))
        for name, mask in masks.items():
            if name not in own or own[name].shape != mask.shape:
                raise InputError(f"a mask of shape {tuple(mask.shape)} for {name} does not fit the model")
        self.weights = {name: own[name] for name in masks}
        self.optimizers: list[torch.optim.Optimizer] = []
        self._masks: dict[str, Mask] = {}
        self._hooks: list[_Removable] = []
        self.change(masks)

    @classmethod
    def of(cls, model: nn.Module, include: Iterable[str] = (), pin: Iterable[str | nn.Module] = ()) -> Held:
        """The zeros that a pruned network has, held. include and pin: see `considered`."""
        bare = unwrapped(model)
        return cls(bare, from_zeros(considered(bare, include, pin)))

    @property
    def masks(self) -> Masks:
        """True where a weight stays."""
        return {name: mask.stays.clone() for name, mask in self._masks.items()}

    def change(self, masks: Mapping[str, Tensor]) -> None:
        """Hold these masks from now on."""
        self._masks = {name: Mask(masks[name], p) for name, p in self.weights.items()}
        self.after_step()
        for optimizer in self.optimizers:
            self._state(optimizer)

    def hold(self, optimizer: torch.optim.Optimizer) -> None:
        """Mask gradients, and the state of this optimizer, bare or wrapped, until `release`."""
        optimizer = bare(optimizer)
        if not self.optimizers:
            for name, p in self.weights.items():
                self._hooks += hooked(p, partial(self._gradient, name))
        self.optimizers.append(optimizer)
        self._hooks.append(optimizer.register_step_post_hook(lambda done, *_: self._state(done)))
        self._state(optimizer)

    def release(self) -> None:
        """Take away every hook. `after_step` still works."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self.optimizers = [], []

    def after_step(self) -> None:
        """Zero the masked weights."""
        with torch.no_grad():
            for name, p in self.weights.items():
                self._masks[name].on(p.device).zero_(p)

    def settle(self) -> None:
        """After a training: zero what an average of the weights brought back, and `release`."""
        self.after_step()
        self.release()

    def state_dict(self) -> dict[str, Any]:
        """The masks."""
        return {"method": "Held", "masks": self.masks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold the masks of a state. Raises CheckpointError for another network's."""
        masks = state.get("masks", {})
        if {n: tuple(m.shape) for n, m in masks.items()} != {n: tuple(p.shape) for n, p in self.weights.items()}:
            raise CheckpointError("the state holds masks of other weights than this model's")
        self.change(masks)

    def _gradient(self, name: str, grad: Tensor) -> Tensor:
        return self._masks[name].on(grad.device).zeroed(grad)

    def _state(self, optimizer: torch.optim.Optimizer) -> None:
        with torch.no_grad():
            for name, p in self.weights.items():
                for value in optimizer.state[p].values() if p in optimizer.state else ():
                    if isinstance(value, Tensor) and value.shape == p.shape:
                        self._masks[name].on(value.device).zero_(value)
