"""Filter pruning via geometric median. He et al. 2019 (arXiv:1811.00250).

    d_i = Σ_j ‖W_i − W_j‖      the filters with the smallest go: they lie nearest to the median, and others replace them

The distance is l2, as in the paper, l1, or 1 − cosine. Filters of zeros go before all others, whatever their distance
(not in the paper: they add nothing, and a softly pruned network is then cut where it was masked). With `norm_rate` that
fraction of each group, its filters of smallest norm, goes first, and distances are taken among the rest (the paper's
FPGM-mix). The paper prunes every layer at the same rate; so does the default scope.

A channel that several layers make is one vector, the filters of all of them end to end, since channel j stands in for
channel i only if it does so in every layer at once. `normalise` divides each layer by the root mean square of its
filters' norms before, so that none outweighs the others, and the distances of a group by their mean after, so that
groups of other widths compare. Channels that no layer makes are ranked by the weights that multiply or read them.

Hard: cut trained weights. Soft (`attach`): select anew before every epoch, hold the rest at zero inside it, and cut at
the end. The paper's code selects among weights of which some are zero already, and zeros lie near the median of all, so
that the first choice would stand; here masked filters get their values back before each selection.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..graph.coupling import Coupling, Group
from ..target import Target
from .attach import Attached
from .lasso import FILTERS, first_role
from .score import Floats, tensors_of
from .soft import Soft

Distance = Literal[1, 2, "cosine"]
LARGE = 1 << 28
"""n² · d from which l2 distances are taken from inner products: faster, but copies are 1e-7 of a norm apart."""


def distances(rows: Tensor, p: Distance = 2) -> Tensor:
    """d_i for the rows of (n, d), float (n,), without an n × n × d tensor."""
    if p != "cosine":
        products = p == 2 and rows.dtype == torch.float64 and len(rows) * rows.numel() >= LARGE
        mode = "use_mm_for_euclid_dist" if products else "donot_use_mm_for_euclid_dist"
        return torch.cdist(rows, rows, p=float(p), compute_mode=mode).fill_diagonal_(0).sum(dim=1)
    unit = F.normalize(rows, dim=1, eps=torch.finfo(rows.dtype).tiny)
    return (1 - unit @ unit.T).clamp(min=0).fill_diagonal_(0).sum(dim=1)


def vectors(group: Group, tensors: dict[str, Tensor], normalise: bool) -> Tensor:
    """Of each channel all filters that make it, end to end: float64 (width, entries)."""
    role, parts = first_role(group, FILTERS), []
    for m in group.members:
        if m.role == role and m.axis >= 0:
            rows = (
                tensors[m.tensor].detach().double().movedim(m.axis, 0).flatten(1 if tensors[m.tensor].dim() > 1 else 0)
            )
            mine = rows.reshape(len(rows), -1)[torch.from_numpy(m.positions).to(rows.device)].flatten(1)
            scale = mine.square().sum(dim=1).mean().sqrt()
            parts.append(mine / scale if normalise and bool(scale > 0) else mine)
    return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class FPGM:
    """d_i; low goes first. p: 1, 2 or "cosine". norm_rate: the fraction of each group that goes by its norm first."""

    p: Distance = 2
    norm_rate: float = 0.0
    normalise: bool = True
    scope: str | None = "local"

    def __post_init__(self) -> None:
        if self.p not in (1, 2, "cosine"):
            raise InputError(f"fpgm: p={self.p!r} is not 1, 2 or 'cosine'")
        if not 0 <= self.norm_rate < 1:
            raise InputError(f"fpgm: norm_rate={self.norm_rate} must be a fraction of at least 0 and below 1")

    def score(self, model: nn.Module, coupling: Coupling, *, seed: int = 0) -> tuple[Floats, ...]:
        tensors = tensors_of(model)
        return tuple(self.ranked(vectors(group, tensors, self.normalise)) for group in coupling.groups)

    def ranked(self, rows: Tensor) -> Floats:
        """The scores of one group. What goes by its norm has −1 … 0, by ascending norm; distances are 0 or more."""
        n, first = len(rows), int(self.norm_rate * len(rows))
        order = torch.argsort(rows.norm(dim=1), stable=True)
        score = torch.empty(n, dtype=torch.float64, device=rows.device)
        score[order[:first]] = torch.arange(-first, 0, dtype=torch.float64, device=rows.device) / n
        rest = order[first:].sort().values
        found = distances(rows[rest], self.p)
        mean = found.mean()
        score[rest] = found / mean if self.normalise and bool(mean > 0) else found
        score[rows.abs().amax(dim=1) == 0] = -1.0
        return np.asarray(score.cpu().numpy(), np.float64)

    def attach(
        self,
        model: nn.Module,
        example: Any,
        target: str | Target | None = None,
        epochs: int | None = None,
        *,
        pin: str | nn.Module | Iterable[str | nn.Module] = (),
        seed: int = 0,
    ) -> Attached:
        """The soft variant: masks that are chosen anew before every epoch; see `Soft`."""
        return Soft(self, model, example, target, epochs, pin=pin, seed=seed)
