"""The five scores of structured sparsity learning, for channels and for residual branches.

group_lasso Σw² (which orders as ‖w‖₂ does), mean_abs, sum_abs, and the signed mean and sum. Those two put the most
negative first, which is not the least important: they are kept for the record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..graph.coupling import Coupling
from .lasso import first_role
from .score import Floats, per_channel, tensors_of

Kind = Literal["group_lasso", "mean_abs", "mean", "sum_abs", "sum"]

TERMS: dict[Kind, Callable[[Tensor], Tensor]] = {
    "group_lasso": torch.square,
    "mean_abs": torch.abs,
    "mean": torch.clone,
    "sum_abs": torch.abs,
    "sum": torch.clone,
}
"""What is summed over the weights; the means divide it by their number."""


def channel_scores(model: nn.Module, coupling: Coupling, kind: Kind, order: Sequence[str]) -> tuple[Floats, ...]:
    """One score a channel, over all its weights in the first role of `order` that its group has."""
    tensors = tensors_of(model)

    def total(measure: Callable[[Tensor], Tensor]) -> tuple[Floats, ...]:
        return per_channel(coupling, tensors, lambda group: frozenset({first_role(group, order)}), measure)

    sums = total(lambda rows: TERMS[kind](rows).sum(dim=1))
    if not kind.startswith("mean"):
        return sums
    counts = total(lambda rows: torch.full((len(rows),), float(rows.shape[1]), dtype=torch.float64))
    return tuple(s / np.maximum(n, 1) for s, n in zip(sums, counts, strict=True))


def block_scores(model: nn.Module, coupling: Coupling, kind: Kind = "group_lasso") -> tuple[float, ...]:
    """One score for each of `coupling.blocks`, over all its weights of two axes or more."""
    tensors = tensors_of(model)
    found = []
    for block in coupling.blocks:
        weights = [tensors[name].detach().double() for name in block.tensors if tensors[name].dim() > 1]
        total = sum(float(TERMS[kind](w).sum()) for w in weights)
        found.append(total / max(1, sum(w.numel() for w in weights)) if kind.startswith("mean") else total)
    return tuple(found)
