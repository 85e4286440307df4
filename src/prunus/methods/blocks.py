"""Scores of residual blocks: low goes first.

A method may bring `block_scores(model, coupling, *, seed=0)`, one number of at least 0 for each of `coupling.blocks`.
Where it brings none, a block is scored by the norm of its weights, normalised as `Magnitude` normalises filters: by the
mean of what it is compared with. With the filters W_l[c] of the weights l of block b, a_l = mean_c ‖W_l[c]‖²,

    s_b = mean over l in b of a_l / (mean of a over the weights of all blocks with filters of the shape of W_l's)

A weight whose shape no other block has says nothing, and counts 1. The usual block scores 1, as a usual channel does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..depth import chosen
from ..errors import TargetError
from ..graph.coupling import Coupling
from ..target import AUTO, Target
from .score import Floats, Given, label, scores_of, searches, tensors_of

__all__ = ["block_scores", "block_scores_of", "with_blocks"]


def block_scores(model: nn.Module, coupling: Coupling, *, seed: int = 0) -> Floats:
    """s_b for each of `coupling.blocks`."""
    tensors = tensors_of(model)
    inside = [[tensors[t].detach() for t in block.tensors if tensors[t].dim() > 1] for block in coupling.blocks]

    def size(weight: Tensor) -> float:
        return float(weight.double().flatten(1).pow(2).sum(dim=1).mean())

    sizes = [[size(weight) for weight in weights] for weights in inside]
    peers: dict[torch.Size, list[float]] = {}
    for weights, mine in zip(inside, sizes, strict=True):
        for weight, a in zip(weights, mine, strict=True):
            peers.setdefault(weight.shape[1:], []).append(a)
    usual = {shape: float(np.mean(found)) for shape, found in peers.items()}

    def score(weights: list[Tensor], mine: list[float]) -> float:
        shares = [a / m if (m := usual[w.shape[1:]]) > 0 else 1.0 for w, a in zip(weights, mine, strict=True)]
        return float(np.mean(shares)) if shares else 1.0

    return np.array([score(weights, mine) for weights, mine in zip(inside, sizes, strict=True)], np.float64)


def block_scores_of(method: Any, model: nn.Module, coupling: Coupling, seed: int) -> Floats:
    """What a method says of the blocks, or the norm of their weights."""
    own: Callable[..., Any] = getattr(method, "block_scores", block_scores)
    found = own(model, coupling, seed=seed)
    return np.asarray(found.detach().cpu() if isinstance(found, Tensor) else found, np.float64)


def with_blocks(
    method: Any,
    model: nn.Module,
    coupling: Coupling,
    goal: Target | None,
    drop: tuple[str, ...] = (),
    seed: int = 0,
    given: Given | None = None,
) -> tuple[str, ...]:
    """`drop`, and the blocks that the goal asks for. Raises TargetError."""
    if goal is None or not goal.blocks:
        return drop
    if searches(method):
        raise TargetError(
            f"{label(method)} searches for widths alone; name the blocks with drop= in a cut of their own"
        )
    importance = block_scores_of(method, model, coupling, seed)
    scores = scores_of(method, model, coupling, seed, given) if goal.blocks == AUTO else ()
    return chosen(coupling, scores, importance, goal, drop, getattr(method, "scope", None))
