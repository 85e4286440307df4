"""Network slimming. Liu et al. 2017 (arXiv:1708.06519), section 3.

Training minimises loss + λ·Σ|γ| over the scales γ of batch norms (equation 1); then channels are ranked by |γ| under
one global threshold. Here the sum runs over the norms of prunable groups only, since shrinking what stays buys nothing,
and a channel that passes several norms is scored by the sum of its |γ|, one number a coupled channel, so that both
sides of a tie choose the same ones. The penalty is part of the loss, not a term added to gradients: loss scaling,
accumulation and several processes then leave it as it is. With its channel goes what a shift β behind a small γ gave;
repair="fold" puts that into what read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError, ModelError
from ..graph.coupling import Coupling
from ..target import Target
from .attach import Attached
from .score import Floats, per_channel, tensors_of


def l1(scales: Sequence[Tensor]) -> Tensor:
    """Σ|γ|, in one pass over all norms."""
    return torch.cat(list(scales)).abs().sum()


@dataclass(frozen=True)
class Slimming:
    """Σ|γ| over the norms of a channel. Groups without a norm rank above all others and so go last.

    lam: λ. The paper has 1e-4 for VGG and 1e-5 for ResNet and DenseNet, 160 epochs; short trainings need more.
    """

    scope: str | None = None
    lam: float = 1e-4

    def __post_init__(self) -> None:
        if not self.lam >= 0:
            raise InputError(f"slimming: lam={self.lam} must be at least 0")

    def score(self, model: nn.Module, coupling: Coupling, *, seed: int = 0) -> tuple[Floats, ...]:
        scores = per_channel(coupling, tensors_of(model), frozenset({"scale"}), lambda rows: rows.abs().sum(dim=1))
        normed = [any(m.role == "scale" for m in g.members) for g in coupling.groups]
        if not any(normed):
            raise ModelError("slimming ranks channels by the scales of their norms, and no group of this model has one")
        top = max(float(s.max()) for s, has in zip(scores, normed, strict=True) if has)
        return tuple(s if has else np.full(s.shape, top + 1.0) for s, has in zip(scores, normed, strict=True))

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
        return _Training(self, model, example, target, epochs, pin=pin, seed=seed)


class _Training(Attached):
    method: Slimming

    def __init__(self, method: Slimming, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(method, model, *args, **kwargs)
        self.scales = [(gamma, at) for gamma, at in self.entries("scale") if isinstance(gamma, nn.Parameter)]
        if not any(gamma.requires_grad for gamma, _ in self.scales):
            raise ModelError(
                "slimming needs norms with scales that are trained, in prunable groups, and this model has none"
            )

    def penalty(self) -> Tensor:
        trained = [(gamma, at) for gamma, at in self.scales if gamma.requires_grad]
        if not trained:
            return super().penalty()
        chosen = (gamma if len(at) == len(gamma) else gamma[at.to(gamma.device)] for gamma, at in trained)
        return self.method.lam * l1(list(chosen))
