"""Controls that any comparison needs: chance, and the same width everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from ..graph.coupling import Coupling
from .score import Floats


@dataclass(frozen=True)
class Random:
    """Scores drawn uniformly from [0, 1) with the seed of the run."""

    scope: str | None = None

    def score(self, model: nn.Module, coupling: Coupling, *, seed: int = 0) -> tuple[Floats, ...]:
        draw = np.random.default_rng(seed)
        return tuple(draw.random(group.width) for group in coupling.groups)


@dataclass(frozen=True)
class Uniform:
    """The width multiplier: every group loses the same fraction, its last channels first. Looks at no weight."""

    scope: str | None = "local"

    def score(self, model: nn.Module, coupling: Coupling, *, seed: int = 0) -> tuple[Floats, ...]:
        return tuple(np.arange(group.width, 0, -1, dtype=np.float64) / group.width for group in coupling.groups)
