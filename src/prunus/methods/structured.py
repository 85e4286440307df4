"""Structured sparsity learning. Wen et al. 2016 (arXiv:1608.03665), equations 1 to 4.

Training minimises loss + λ·Ω(W), then the lowest-scored filters, channels or blocks go. For weights W (N, C, H, W):

    filter  Σ_n ‖W[n]‖₂        channel  Σ_c ‖W[:, c]‖₂        both  their sum, each with λ
    shape   Σ_{c,h,w} ‖W[:, c, h, w]‖₂      depth  Σ ‖W_block‖₂ over the weights of each residual branch

Where several layers make (or read) one channel, their filters (or channels) are one group, since they go together; what
cannot be pruned bears no penalty, except in `shape`, which removes no channel and so runs over all convolutions.
Frozen weights are left out.

Subgradient: the penalty is part of the loss, with √(‖w‖² + ε²). Proximal: each step is followed by the block
soft-threshold, after which groups are exactly zero (`both`: filters first, then channels, since the two overlap). Its
threshold is λ times the distance that the optimizer moves a weight under a gradient of 1: the learning rate for plain
SGD, 1/(1 − momentum) times that once momentum has built up. This distance is measured with a parameter of the method's
own, so the optimizer must be given `param_groups()`. Schedules, skipped steps of a loss scaler and resumption are then
right without being told.

A norm undoes the size of the filters before it, so that a filter followed by one can only become sparse against the
norm's ε; `affine` (not in the paper) counts bias, scale and shift to the filter, and all of it vanishes together. What
the penalty does first is to shorten all such filters alike, whatever their worth, and the shorter they are the further
a step of the optimizer turns them: training gets noisy before anything vanishes. `keep_length` (not in the paper)
gives each weight whose length a norm undoes the length back that it had before the proximal step. The function is as
it was, and what is left of the step is what tells groups apart.

Scores, over all weights of a channel or block: group_lasso Σw² (the order of ‖w‖₂), mean_abs, sum_abs, and the signed
mean and sum, which put the most negative first. That is not the least important: they are kept for the record. `both`
keeps a channel if its filter or its channel score passes, so it scores the larger of the two. One global pool without
refill, as published, is the target "channels=80%,fill=no"; with "round=8" the next best make up the multiple.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from torch import nn

from ..errors import InputError, UnknownName
from ..graph.coupling import Coupling
from ..target import Target
from .attach import Attached
from .lasso import CHANNELS, FILTERS
from .lasso_scores import Kind, block_scores, channel_scores
from .lasso_training import Training
from .score import Floats

Granularity = Literal["filter", "channel", "both", "shape", "depth"]
Form = Literal["group_lasso", "group_l2"]
Solver = Literal["subgradient", "proximal"]


@dataclass(frozen=True)
class SSL:
    """Group lasso in training, and the score of its groups.

    granularity: what the penalty groups and the score looks at. kind: the score. lam: λ; short trainings need far more
    than the 1e-5 of 100 epochs at 224 pixels. form: "group_l2" is Σ‖w‖² without the root, which makes nothing sparse.
    solver, affine, keep_length: see above. weighted: times √(weights of the group). eps: ε.
    """

    scope: str | None = None
    granularity: Granularity = "filter"
    kind: Kind = "group_lasso"
    lam: float = 1e-5
    form: Form = "group_lasso"
    solver: Solver = "subgradient"
    weighted: bool = False
    affine: bool = False
    keep_length: bool = False
    eps: float = 1e-8

    def __post_init__(self) -> None:
        for name, allowed in (("granularity", Granularity), ("kind", Kind), ("form", Form), ("solver", Solver)):
            if getattr(self, name) not in get_args(allowed):
                raise UnknownName.of(f"{name} of ssl", str(getattr(self, name)), get_args(allowed))
        if not self.lam >= 0:
            raise InputError(f"ssl: lam={self.lam} must be at least 0")
        if not self.eps > 0:
            raise InputError(f"ssl: eps={self.eps} must be above 0")
        if self.form == "group_l2" and (self.solver == "proximal" or self.weighted):
            raise InputError(
                "ssl: form='group_l2' is differentiable and has neither solver='proximal' nor weighted=True"
            )
        if self.keep_length and self.solver != "proximal":
            raise InputError("ssl: keep_length=True undoes part of the proximal step, so it needs solver='proximal'")
        if self.affine and self.granularity in ("channel", "shape"):
            raise InputError(f"ssl: affine=True belongs to filters or blocks, not to granularity={self.granularity!r}")

    def score(self, model: nn.Module, coupling: Coupling, *, seed: int = 0) -> tuple[Floats, ...]:
        if self.granularity == "shape":
            raise InputError("ssl with granularity='shape' scores no channels; attach(…).finish() zeroes its columns")
        orders = {"channel": (CHANNELS,), "both": (FILTERS, CHANNELS)}.get(self.granularity, (FILTERS,))
        found = [channel_scores(model, coupling, self.kind, order) for order in orders]
        return tuple(np.maximum.reduce(each) for each in zip(*found, strict=True))

    def block_scores(self, model: nn.Module, coupling: Coupling, *, seed: int = 0) -> tuple[float, ...]:
        """What blocks=-N in a target ranks residual branches by: their scores, less the lowest if that is below 0."""
        found = block_scores(model, coupling, self.kind)
        below = min([0.0, *found])
        return tuple(score - below for score in found)

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
        """The penalty in a training, and the cut after it; see `Attached`."""
        return Training(self, model, example, target, epochs, pin=pin, seed=seed)
