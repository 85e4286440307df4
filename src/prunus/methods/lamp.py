"""Layer-adaptive magnitude. Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning"
(arXiv:2010.07611), section 3, equation 1.

The paper scores a weight u of a layer by W[u]² over the sum of W[v]² of all weights v of the layer that would go
after it, and prunes all layers by one ranking. Here the unit is a coupled channel: with n_c = Σ over its producers of
the squared L2 norm of its filter, LAMP(c) = n_c / Σ_{d: n_d ≥ n_c} n_d over the channels d of its group. The largest
channel of every group scores 1, the most there is, so no group is emptied before the others; scores do not change when
a layer is scaled.

Departures: equal channels score alike (in the paper their order decides which has the larger sum), and a group of
zeros scores 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from ..graph.coupling import Coupling
from .magnitude import Magnitude
from .score import Floats


def lamp(n: Floats) -> Floats:
    """n_c / Σ_{d: n_d ≥ n_c} n_d, for squared norms n (width,)."""
    order = np.sort(n)
    rest = np.cumsum(order[::-1])[::-1]
    after = rest[np.searchsorted(order, n, side="left")]
    return np.divide(n, after, out=np.zeros_like(n), where=after > 0)


@dataclass(frozen=True)
class Lamp:
    """The share of a channel's squared filter norms in those of all channels of its group that are not smaller."""

    scope: str | None = None

    def score(self, model: nn.Module, coupling: Coupling, *, seed: int = 0) -> tuple[Floats, ...]:
        return tuple(lamp(n) for n in Magnitude(p=2, normalise=False).score(model, coupling, seed=seed))
