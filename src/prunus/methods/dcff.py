"""Filter fusion by KL score, trained from scratch. Lin et al. 2021, "Training Compact CNNs for Image Classification
using Dynamic-coded Filter Fusion" (arXiv:2107.06916), equations 3 to 8.

Before each epoch e of E, for the filters W ∈ R^{n×d} of a layer, at temperature t:

    D_jk = ‖W_j − W_k‖₂,  P = row-softmax(−D / t),  score_j = Σ_k Σ_i P_ji log(P_ji / (P_ki + 1e-7))

The m = int(n·(1 − rate)) filters of largest score are kept, ids ascending, and the layer computes with P[kept]·W and
the bias P[kept]·b: the gradient reaches all n filters. At the end plain layers hold the fused weights. `fusing` says
how the fused network runs; t is 1 − e/E, any expression of the kind, or the paper's 1/T(e) (see `temperature`).

The score is Σ P log P − P (log P)ᵀ with the sum over k taken first: n·Σ_i P_ji log P_ji − P_j · Σ_k log(P_k + 1e-7), in
O(n²·d) with D, in float64, and 0·log 0 is 0.

Departures, which the published code has no need of or is silent about:

- A channel that several layers make, as a residual stream, is kept or removed in all of them. Each layer has its own
  P; a channel's score is the sum of theirs, which is the KL divergence of the joint choice where each layer chooses on
  its own. Where a channel owns several rows of a weight they are one filter, end to end.
- A channel keeps its own norm and its own readers through all epochs. In the published code these belong to the place
  among the kept, so that a reader meets another filter whenever the kept ids change.
- Rows of W are compared over the inputs that count: those kept this epoch where that is known, that is in forward
  order, else those of the epoch before (all, in the first).
- Once t is small, P is the identity and all scores are the same but for rounding. Scores closer than 1e-9 of the
  largest are equal, and of equal ones those that were kept before stay. Scores that are not finite change nothing.
- Channels that no layer makes are scored by what multiplies or reads them, and not fused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..graph.coupling import Coupling, Group, Member
from ..target import Target
from ..widths import Rates
from .attach import Attached
from .lasso import FILTERS, first_role
from .score import Floats, tensors_of
from .temperature import temperature

EPS = 1e-7


def similarities(rows: Tensor, t: float) -> Tensor:
    """P, float64 (n, n), of the rows of (n, d)."""
    rows = rows.double()
    return torch.softmax(-torch.cdist(rows, rows).fill_diagonal_(0) / t, dim=1)


def kl_scores(p: Tensor) -> Tensor:
    """Σ_k KL(P_j ‖ P_k), float64 (n,)."""
    return len(p) * torch.xlogy(p, p).sum(dim=1) - p @ torch.log(p + EPS).sum(dim=0)


def filters(m: Member, w: Tensor) -> Tensor:
    """The filters of a member's channels, (width, entries · d)."""
    rows = w.detach().movedim(m.axis, 0)
    return rows.reshape(len(rows), -1)[torch.from_numpy(m.positions).to(w.device)].flatten(1)


def makers(group: Group) -> list[Member]:
    """The members whose filters make a group's channels, or else multiply or read them."""
    role = first_role(group, FILTERS)
    return [m for m in group.members if m.role == role and m.axis >= 0]


@dataclass(frozen=True)
class DCFF:
    """KL score of filters, for widths that are given: rates by layer, or a budget at one rate for all.

    Trained from scratch by `attach`. As a score alone it takes t = 1; filters of zeros, as such a training leaves them,
    rank last. temperature: "logistic" for 1/T(e), with ts, te and k, or an expression such as "1 - epoch / epochs".
    That one is for hundreds of epochs: after few, filters are still mixed at the end, and "logistic" settles early.
    """

    scope: str | None = "local"
    temperature: str = "1 - epoch / epochs"
    ts: float = 1.0
    te: float = 1e4
    k: float = 1.0

    def __post_init__(self) -> None:
        for name in ("ts", "te", "k"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"dcff: {name}={getattr(self, name)} must be above 0 and finite")
        self.at(0, 1000)

    def at(self, e: int, epochs: int) -> float:
        """t of epoch e. Raises InputError."""
        return temperature(self.temperature, e, epochs, self.ts, self.te, self.k)

    def score(self, model: nn.Module, coupling: Coupling, *, seed: int = 0) -> tuple[Floats, ...]:
        tensors, found = tensors_of(model), []
        for group in coupling.groups:
            rows = [filters(m, tensors[m.tensor]) for m in makers(group)]
            alive = torch.stack([r.abs().amax(dim=1) > 0 for r in rows]).any(dim=0)
            score = np.full(group.width, -1.0)
            score[alive.cpu().numpy()] = sum(kl_scores(similarities(r[alive], 1.0)) for r in rows).cpu().numpy()  # type: ignore[union-attr]
            found.append(score)
        return tuple(found)

    def attach(
        self,
        model: nn.Module,
        example: Any,
        target: str | Target | None = None,
        epochs: int | None = None,
        *,
        pin: str | nn.Module | Iterable[str | nn.Module] = (),
        seed: int = 0,
        rates: Rates | None = None,
        rates_layout: str = "published",
        keep_rule: str = "exact",
    ) -> Attached:
        """Fusion in a training, and the cut after it; see `fusing`. Widths come from rates, as `prune` reads them, or
        from a target: the same fraction of every group. Raises TargetError without either, or with both."""
        from .fusing import Fusing

        return Fusing(
            self,
            model,
            example,
            target,
            epochs,
            pin=pin,
            seed=seed,
            rates=rates,
            rates_layout=rates_layout,
            keep_rule=keep_rule,
        )
