"""Filter norms. Li et al. 2017, "Pruning Filters for Efficient ConvNets" (arXiv:1608.08710), section 3.1.

The paper ranks filter j of a layer by s_j = Σ|W_j|, layer by layer, and skips what shortcuts tie. Here a channel that
several filters produce is scored by all of them: s_c = Σ_l ‖W_l[c]‖_p^p over the producers l of its group. With a
global scope groups compare after division by their mean, since norms of different layers have different scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..errors import InputError
from ..graph.coupling import Coupling
from .score import Floats, per_channel, relative, tensors_of


@dataclass(frozen=True)
class Magnitude:
    """Σ over the producers of a channel of ‖filter‖_p^p, p = 1 or 2; `normalise` divides each group by its mean."""

    p: int = 2
    normalise: bool = True
    scope: str | None = None

    def __post_init__(self) -> None:
        if self.p not in (1, 2):
            raise InputError(f"magnitude: p={self.p} is not 1 or 2")

    def score(self, model: nn.Module, coupling: Coupling, *, seed: int = 0) -> tuple[Floats, ...]:
        def norm(rows: torch.Tensor) -> torch.Tensor:
            return rows.abs().pow(self.p).sum(dim=1)

        tensors = tensors_of(model)
        scores = per_channel(coupling, tensors, frozenset({"out"}), norm)
        others = per_channel(coupling, tensors, frozenset({"operand", "scale"}), norm)
        made = [any(m.role == "out" for m in g.members) for g in coupling.groups]
        scores = tuple(s if has else o for s, o, has in zip(scores, others, made, strict=True))
        return relative(scores) if self.normalise else scores
