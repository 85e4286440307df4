"""Filter norms. Li et al. 2017, "Pruning Filters for Efficient ConvNets" (arXiv:1608.08710), section 3.1.

The paper ranks filter j of a layer by s_j = Σ|W_j|, layer by layer, and skips what shortcuts tie. Here a channel is
scored by the weights of its whole coupled group, and which of them count depends on what its score is held against.

In one ranking of all channels, s_c = Σ_l ‖W_l[c]‖_p^p / m_l over the producers l of its group, where m_l is the mean
of ‖W_l[·]‖_p^p over the layer. The division makes layers of different scale comparable; since it is by layer and not
by group, a residual stream that many layers write to scores as many times higher as removing one of its channels
removes filters.

Where every group has a ranking of its own, nothing must be comparable between layers, and s_c = Σ_t ‖t[c]‖_p^p over
all that goes with the channel: the filters that make it, its normalisation scales, and the weights that read it, as
they are (Fang et al. 2023, "DepGraph", arXiv:2301.12900, section 3.3: the group importance of the released code).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ..errors import InputError
from ..graph.coupling import Coupling, Group
from .score import Floats, per_channel, tensors_of

MEMBERS = {"producers": frozenset({"out"}), "group": frozenset({"out", "scale", "in"})}


@dataclass(frozen=True)
class Magnitude:
    """Σ over the tensors of a channel of ‖its part‖_p^p, p = 1 or 2.

    members: "producers" counts the filters that make a channel, "group" also its normalisation scales and the weights
    that read it. `normalise` divides each tensor by its mean. None: producers, normalised, where all groups share one
    ranking; the whole group, as it is, where each has its own. Raises InputError for other values.
    """

    p: int = 2
    normalise: bool | None = None
    members: str | None = None
    scope: str | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"scope"})

    def __post_init__(self) -> None:
        if self.p not in (1, 2):
            raise InputError(f"magnitude: p={self.p} is not 1 or 2")
        if self.members not in (None, *MEMBERS):
            raise InputError(f"magnitude: members={self.members!r} is neither {' nor '.join(map(repr, MEMBERS))}")

    def score(
        self, model: nn.Module, coupling: Coupling, *, scope: str = "global", seed: int = 0
    ) -> tuple[Floats, ...]:
        shared = scope == "global"
        divides = shared if self.normalise is None else self.normalise
        counted = MEMBERS[self.members or ("producers" if shared else "group")]

        def norm(rows: Tensor) -> Tensor:
            return (rows.abs_() if self.p == 1 else rows.square_()).sum(dim=1)

        def over_mean(found: Floats) -> Floats:
            mean = found.mean()
            return found / mean if divides and mean > 0 else found

        def roles(group: Group) -> frozenset[str]:
            made = any(member.role == "out" for member in group.members)
            return counted if made else counted | {"operand", "scale"}

        return per_channel(coupling, tensors_of(model), roles, norm, over_mean)
