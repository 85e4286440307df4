"""Network slimming scores. Liu et al. 2017 (arXiv:1708.06519), section 3.

The paper ranks channels by |γ| of their batch norm under one global threshold. A channel that passes several norms is
scored by the sum of its |γ|, one number a coupled channel, so that both sides of a tie choose the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from ..errors import ModelError
from ..graph.coupling import Coupling
from .score import Floats, per_channel, tensors_of


@dataclass(frozen=True)
class Slimming:
    """Σ|γ| over the norms of a channel. Groups without a norm rank above all others and so go last."""

    scope: str | None = None

    def score(self, model: nn.Module, coupling: Coupling, *, seed: int = 0) -> tuple[Floats, ...]:
        scores = per_channel(coupling, tensors_of(model), frozenset({"scale"}), lambda rows: rows.abs().sum(dim=1))
        normed = [any(m.role == "scale" for m in g.members) for g in coupling.groups]
        if not any(normed):
            raise ModelError("slimming ranks channels by the scales of their norms, and no group of this model has one")
        top = max(float(s.max()) for s, has in zip(scores, normed, strict=True) if has)
        return tuple(s if has else np.full(s.shape, top + 1.0) for s, has in zip(scores, normed, strict=True))
