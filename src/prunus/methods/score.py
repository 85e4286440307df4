"""What a scoring method is: one number a channel, low goes first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..graph.coupling import Coupling, Group, Member

Floats = npt.NDArray[np.float64]


class Method(Protocol):
    """Ranks the channels of every group of a traced model."""

    @property
    def scope(self) -> str | None:
        """The scope the method demands, or None where the target decides."""
        ...

    def score(self, model: nn.Module, coupling: Coupling, *, seed: int = 0) -> tuple[Floats, ...]:
        """For each group its scores, float64 (width,)."""
        ...


def scores_of(method: Method, model: nn.Module, coupling: Coupling, seed: int) -> tuple[Floats, ...]:
    """What a method says, as float64 arrays. Raises InputError for a seed below 0."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed={seed!r} is no whole number of 0 or more")
    found = method.score(model, coupling, seed=seed)
    return tuple(np.asarray(s.detach().cpu() if isinstance(s, Tensor) else s, np.float64) for s in found)


def per_channel(
    coupling: Coupling,
    tensors: Mapping[str, Tensor],
    roles: frozenset[str],
    measure: Callable[[Tensor], Tensor],
) -> tuple[Floats, ...]:
    """Σ over the group's members in `roles` of `measure`, which maps a tensor (entries of the axis first) to one value
    an entry.
    """
    known: dict[tuple[str, int], Floats] = {}

    def values(member: Member) -> Floats:
        key = (member.tensor, member.axis)
        if key not in known:
            rows = (
                tensors[member.tensor]
                .detach()
                .movedim(member.axis, 0)
                .flatten(1 if tensors[member.tensor].dim() > 1 else 0)
            )
            known[key] = measure(rows.double().reshape(rows.shape[0], -1)).cpu().numpy()
        return known[key]

    def total(group: Group) -> Floats:
        score = np.zeros(group.width)
        for member in group.members:
            if member.role in roles:
                score += values(member)[member.positions].sum(axis=1)
        return score

    return tuple(total(group) for group in coupling.groups)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by every name they have."""
    with torch.no_grad():
        return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
