"""First-order Taylor importance. Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning"
(arXiv:1906.10771), sections 3.1 and 3.2.

The loss changes by ΔL when a set S of parameters is set to zero; to first order ΔL = −Σ_{s∈S} w_s·∂L/∂w_s, and the
paper scores S by the square, I_S = (Σ_{s∈S} g_s·w_s)² (equation 8), averaged over minibatches. Here S is all that goes
with a coupled channel: its entries in weights and biases that make it, in scales and shifts of its norms, and in the
weights that read it, each entry once even where it lies on two axes of the group. The paper takes one filter or the
gate of one norm at a time, which is a part of that set and leaves out the layers on the other side of a tie.

Departures: `power=1` gives |·| in place of the square. Gradients are taken in eval mode, with stored statistics, so
that scores do not depend on how the data is divided into batches by more than the loss does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..graph.coupling import VALUES, Coupling, Group
from .batches import Loss
from .gradients import products
from .score import Floats, per_channel

ROLES = frozenset({"out", "bias", "scale", "shift", "in", "operand"})


def removed(coupling: Coupling, wg: Mapping[str, Tensor]) -> tuple[Floats, ...]:
    """Σ_{s∈S} w_s·g_s for the set S of every channel."""
    sums = per_channel(coupling, wg, ROLES, lambda rows: rows.sum(dim=1))
    return tuple(s - twice(group, wg) for s, group in zip(sums, coupling.groups, strict=True))


def twice(group: Group, wg: Mapping[str, Tensor]) -> Floats:
    """Σ over entries that a channel owns by two axes of one tensor, which a sum over axes counts twice."""
    found = np.zeros(group.width)
    members = [m for m in group.members if m.role in ROLES and m.axis != VALUES]
    for a, b in combinations(members, 2):
        if a.tensor == b.tensor:
            plane = wg[a.tensor].detach().double().movedim((a.axis, b.axis), (0, 1))
            plane = plane.reshape(*plane.shape[:2], -1).sum(dim=2)
            rows, columns = (torch.from_numpy(m.positions).to(plane.device) for m in (a, b))
            found += plane[rows[:, :, None], columns[:, None, :]].sum(dim=(1, 2)).cpu().numpy()
    return found


@dataclass(frozen=True)
class Taylor:
    """Mean over batches of |Σ w·∂L/∂w|^power over all that goes with a channel.

    batches: how many are read at most. power: 2, the paper's square, or 1.
    """

    scope: str | None = None
    power: int = 2
    batches: int = 10
    needs: ClassVar[frozenset[str]] = frozenset({"data", "loss"})

    def __post_init__(self) -> None:
        if self.power not in (1, 2):
            raise InputError(f"taylor: power={self.power} is not 1 or 2")
        if self.batches < 1:
            raise InputError(f"taylor: batches={self.batches} must be at least 1")

    def score(
        self, model: nn.Module, coupling: Coupling, *, data: Iterable[Any], loss: Loss, seed: int = 0
    ) -> tuple[Floats, ...]:
        each = [removed(coupling, wg) for wg in products(model, data, loss, self.batches)]
        return tuple(np.mean(np.abs(np.stack(sums)) ** self.power, axis=0) for sums in zip(*each, strict=True))
