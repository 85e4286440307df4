"""Masks of single weights: which weights are considered, and which of them stay.

A mask is a bool tensor of its weight's shape, True where the weight stays. Weights go by ascending (|w|, tensor,
index), so that a count is met exactly whatever is equal, and every process that has the weights finds the same masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from ..errors import InputError, ModelError, TargetError, UnknownName
from .computed import hooks

__all__ = ["INCLUDE", "Masks", "considered", "from_zeros", "per_layer", "strongest", "write_"]

Masks = dict[str, Tensor]

INCLUDE = ("biases", "norms")
"""What is considered only where it is asked for."""

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention)


def considered(
    model: nn.Module, include: Iterable[str] = (), pin: Iterable[str | nn.Module] = ()
) -> dict[str, nn.Parameter]:
    """The parameters whose entries may become 0, by name, each once.

    Weights: floating-point parameters of a layer, or of at least two axes longer than 1, that no norm owns. include
    adds "biases" (all other parameters of layers) and "norms". pin: modules, or names or globs of modules or tensors,
    that stay whole. A weight that is computed stays whole too (a parametrisation, a weight or spectral norm): zeros in
    its originals need not be zeros in it.

    Raises UnknownName for what names nothing, ModelError where nothing is left.
    """
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for path, owner in model.named_modules():
        computed = {f"{hook.name}_{end}" for hook in hooks(owner) for end in ("g", "v", "orig")}
        for name, p in owner.named_parameters(recurse=False):
            if name in computed:
                continue
            if id(p) not in seen and _kind(owner, p) in ("weights", *include):
                found[f"{path}.{name}" if path else name] = p
            seen.add(id(p))
    for wish in pin:
        gone = _pinned(model, wish)
        found = {name: p for name, p in found.items() if id(p) not in gone}
    if not found:
        raise ModelError("no weights are left to consider: every one is pinned, a bias or a norm's (see include=)")
    return found


def from_zeros(tensors: Mapping[str, Tensor]) -> Masks:
    """The masks of a network whose zeros are there to stay."""
    return {name: t.detach() != 0 for name, t in tensors.items()}


def strongest(
    tensors: Mapping[str, Tensor], keep: int, least: Mapping[str, int] | None = None, within: Masks | None = None
) -> Masks:
    """The masks of the `keep` largest |w| over all tensors; at least `least[name]` of each tensor.

    within: masks whose zeros go before anything else. Takes O(weights) time and one copy of the magnitudes.
    Raises TargetError where the least of all tensors together are more than `keep`.
    """
    _feasible(tensors, keep, least)
    safe: Masks = {}
    while True:
        found = _strongest(tensors, keep, within or {}, safe)
        short = [n for n in tensors if least and int(found[n].sum()) < least.get(n, 0)]
        if not least or not short:
            return found
        # Each takes its own largest first, and the others share what is left.
        safe |= {n: _strongest({n: tensors[n]}, least[n], within or {}, {})[n] for n in short}


def per_layer(
    tensors: Mapping[str, Tensor], keep: int, least: Mapping[str, int] | None = None, within: Masks | None = None
) -> Masks:
    """The masks of the largest |w| of each tensor, the same fraction of each, `keep` in all."""
    _feasible(tensors, keep, least)
    floors = [(least or {}).get(name, 0) for name in tensors]
    shares = shared([t.numel() for t in tensors.values()], keep, floors)
    pairs = zip(tensors.items(), shares, strict=True)
    return {name: _strongest({name: t}, share, within or {}, {})[name] for (name, t), share in pairs}


def shared(sizes: Sequence[int], keep: int, least: Sequence[int]) -> list[int]:
    """`keep` divided in proportion to `sizes`, by largest remainder, at least `least` of each."""
    total = sum(sizes)
    keep = min(keep, total)
    found = [max(keep * size // total, low) for size, low in zip(sizes, least, strict=True)]
    remainders = [keep * size % total for size in sizes]
    order = sorted(range(len(sizes)), key=lambda i: (-remainders[i], i))
    while (over := sum(found) - keep) != 0:  # short by less than one each, or over by what `least` took
        for i in reversed(order) if over > 0 else order:
            step = -1 if over > 0 else 1
            if over and least[i] <= found[i] + step <= sizes[i]:
                found[i] += step
                over += step
    return found


def write_(tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Zero in place what the masks do not keep."""
    with torch.no_grad():
        for name, mask in masks.items():
            tensors[name].masked_fill_(~mask.to(tensors[name].device), 0)


def _strongest(tensors: Mapping[str, Tensor], keep: int, within: Masks, safe: Masks) -> Masks:
    def levels(name: str) -> Tensor:
        level = tensors[name].detach().abs()
        level = level.float() if level.dtype in (torch.float16, torch.bfloat16) else level
        if name in within:
            level = level.masked_fill(~within[name].to(level.device), -1)
        return level.masked_fill(safe[name].to(level.device), torch.inf) if name in safe else level

    gone = sum(t.numel() for t in tensors.values()) - keep
    if gone <= 0:
        return {name: torch.ones(t.shape, dtype=torch.bool, device=t.device) for name, t in tensors.items()}
    if keep <= 0:
        return {name: torch.zeros(t.shape, dtype=torch.bool, device=t.device) for name, t in tensors.items()}
    flat: npt.NDArray[Any] = np.concatenate([levels(name).cpu().reshape(-1).numpy() for name in tensors])
    flat.partition(gone)
    least = float(flat[gone])  # the smallest level of which something stays
    ties = gone - int((flat[:gone] < least).sum())  # so many of that level go, the first ones
    del flat
    found = {}
    for name in tensors:
        level = levels(name)
        mask = level >= least
        if ties:
            equal = (level == least).reshape(-1).nonzero()[:ties, 0]
            ties -= len(equal)
            flags = mask.reshape(-1)
            flags[equal] = False
            mask = flags.reshape(mask.shape)
        found[name] = mask
    return found


def _feasible(tensors: Mapping[str, Tensor], keep: int, least: Mapping[str, int] | None) -> None:
    floor = sum((least or {}).get(name, 0) for name in tensors)
    if floor > keep:
        total = sum(t.numel() for t in tensors.values())
        raise TargetError(
            f"{keep} of {total} weights cannot be met: {floor} must stay, by min= and max_rate= of every tensor"
        )


def _kind(owner: nn.Module, p: Tensor) -> str:
    if not p.is_floating_point() or isinstance(owner, ParametrizationList):
        return "other"
    if isinstance(owner, _NORMS) or "Norm" in type(owner).__name__:
        return "norms"
    long = sum(n > 1 for n in p.shape)
    return "weights" if long > 1 or (p.dim() > 1 and isinstance(owner, _LAYERS)) else "biases"


def _pinned(model: nn.Module, wish: str | nn.Module) -> set[int]:
    """The ids of the parameters that a wish protects."""
    if isinstance(wish, nn.Module):
        if not any(wish is module for module in model.modules()):
            raise UnknownName(f"pin: a {type(wish).__name__} that is no module of this model")
        return {id(p) for p in wish.parameters()}
    if not isinstance(wish, str):
        raise InputError(f"pin: {type(wish).__name__} is neither a module nor a name")
    modules = {id(p) for n, m in model.named_modules() if n and fnmatchcase(n, wish) for p in m.parameters()}
    tensors = {id(p) for n, p in model.named_parameters(remove_duplicate=False) if fnmatchcase(n, wish)}
    if not modules | tensors:
        layers = [n for n, m in model.named_modules() if n and any(True for _ in m.parameters(recurse=False))]
        raise UnknownName.of("module or tensor to pin", wish, layers)
    return modules | tensors
