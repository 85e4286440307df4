"""Filter norms. Li et al. 2017, "Pruning Filters for Efficient ConvNets" (arXiv:1608.08710), section 3.1.

The paper ranks filter j of a layer by s_j = Σ|W_j|, layer by layer, and skips what shortcuts tie. Here a channel that
several filters produce is scored by all of them: s_c = Σ_l ‖W_l[c]‖_p^p / m_l over the producers l of its group,
where m_l is the mean of ‖W_l[·]‖_p^p over the layer. The division makes layers of different scale comparable in one
ranking; since it is by layer and not by group, a residual stream that many layers write to scores as many times higher
as removing one of its channels removes filters.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import InputError
from ..graph.coupling import Coupling
from .score import Floats, per_channel, tensors_of


@dataclass(frozen=True)
class Magnitude:
    """Σ over the producers of a channel of ‖filter‖_p^p, p = 1 or 2; `normalise` divides each layer by its mean."""

    p: int = 2
    normalise: bool = True
    scope: str | None = None

    def __post_init__(self) -> None:
        if self.p not in (1, 2):
            raise InputError(f"magnitude: p={self.p} is not 1 or 2")

    def score(self, model: nn.Module, coupling: Coupling, *, seed: int = 0) -> tuple[Floats, ...]:
        def norm(rows: Tensor) -> Tensor:
            found = rows.abs().pow(self.p).sum(dim=1)
            mean = found.mean()
            return found / mean if self.normalise and bool(mean > 0) else found

        tensors = tensors_of(model)
        scores = per_channel(coupling, tensors, frozenset({"out"}), norm)
        others = per_channel(coupling, tensors, frozenset({"operand", "scale"}), norm)
        made = [any(m.role == "out" for m in g.members) for g in coupling.groups]
        return tuple(s if has else o for s, o, has in zip(scores, others, made, strict=True))
