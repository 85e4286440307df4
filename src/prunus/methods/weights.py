"""Magnitude of single weights. Han et al. 2015, "Learning both Weights and Connections" (arXiv:1506.02626), section 3.

With T the rate quantile of |w|, the mask is |w| > T; the network is trained again with the mask held, and both are
repeated for R rounds. What is removed is the `rate` of what remains in each round, or the rate of all at the end, by a
schedule (gradual.py). Frankle & Carbin 2019 (arXiv:1803.03635) and 2020 (arXiv:1912.05671) put the weights of step k
back under each new mask.

Departures: the quantile is replaced by a count, met exactly, since ties at T would all stay or all go; weights go by
ascending (|w|, tensor, index). Biases and norms are left alone unless asked for (`include`). Han prunes layer by layer
at rates found by hand; here the ranking is global unless scope="local". A tensor keeps at least one weight.

Nothing is cut: widths, macs and latency stay, and a plan says nothing of single weights. The zeros are in the weights,
and `Held` takes the masks from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ..asked import names, the_target
from ..errors import InputError, TargetError
from ..graph.coupling import Coupling
from ..target import Target
from .attach import Attached
from .gradual import kept_after
from .masks import INCLUDE, Masks, considered, per_layer, strongest
from .patterns import patterned, read
from .score import Floats
from .sparsity import Thinned, thinned

SCOPES = ("global", "local")

__all__ = ["Weights"]

Schedule = Literal["cubic", "linear", "geometric"]


@dataclass(frozen=True)
class Weights:
    """Keep the weights of largest |w|: `prune(model, example, "weights=30%", "weights")` leaves 30 % of them.

    scope: "global", "local" (the same fraction of every tensor), or None as the target says. include: "biases" and
    "norms" too. pattern: "2:4" and its like along the input axis instead of a target, where M divides that axis.

    In a training, see `attach`: rounds of masking, of a rate that is of the "whole" (reached in the last round, by
    `schedule`) or of what is "remaining" in each; start: epochs before the first; rewind: the step whose weights are
    put back under each new mask.
    """

    scope: str | None = None
    include: tuple[str, ...] = ()
    pattern: str = ""
    rounds: int = 1
    rate_of: Literal["whole", "remaining"] = "whole"
    schedule: Schedule = "cubic"
    start: int = 0
    rewind: int | None = None

    needs: ClassVar[frozenset[str]] = frozenset()
    budgets: ClassVar[frozenset[str]] = frozenset({"weights"})

    def __post_init__(self) -> None:
        for field, value, allowed in (
            ("scope", self.scope, (None, *SCOPES)),
            ("rate_of", self.rate_of, ("whole", "remaining")),
            ("schedule", self.schedule, ("cubic", "linear", "geometric")),
            *(("include", word, INCLUDE) for word in self.include),
        ):
            if value not in allowed:
                known = ", ".join(str(word) for word in allowed if word)
                raise InputError(f"weights: {field}={value!r} is not allowed (allowed: {known})")
        for field, number, low in (("rounds", self.rounds, 1), ("start", self.start, 0), ("rewind", self.rewind, 0)):
            if number is not None and number < low:
                raise InputError(f"weights: {field}={number} must be at least {low}")
        if self.pattern:
            read(self.pattern)
            if self.rounds > 1:
                raise InputError(f"weights: pattern={self.pattern} is made in one round, not in {self.rounds}")

    @property
    def decides(self) -> bool:
        """Whether the method itself says how much stays, so that no target is wanted."""
        return bool(self.pattern)

    def score(self, model: nn.Module, coupling: Coupling, *, seed: int = 0) -> tuple[Floats, ...]:
        """Refused: this method ranks no channels."""
        raise InputError("weights removes single weights, not channels: give it target='weights=30%' alone")

    def thin(
        self,
        model: nn.Module,
        example: Any,
        target: str | Target | None = None,
        *,
        pin: str | nn.Module | Iterable[str | nn.Module] = (),
        attention: str = "heads",
    ) -> Thinned:
        """A copy of `model` with zeros, at the count of the last round. `prunus.prune` calls it. Raises TargetError."""
        goal = self.goal(target)
        tensors = considered(model, self.include, names(pin))
        masks, notes = self.masks(model, tensors, goal, self.counts(tensors, goal)[-1])
        return thinned(model, example, masks, goal, notes, attention)

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
        """Train under masks: round r of R starts at epoch start + ⌊(r − 1) · (epochs − start) / R⌋; see `Thinning`."""
        from .thinning import Thinning

        return Thinning(self, model, example, target, epochs, pin=pin, seed=seed)

    def goal(self, target: str | Target | None) -> Target | None:
        """The target as an object, fit for this method. Raises TargetError."""
        if target is None and not self.decides:
            raise TargetError("weights: no target; give target='weights=30%', or a pattern such as '2:4'")
        goal = the_target(target, None, None, (), self)
        if goal is not None and (goal.round_to, goal.blocks) != (1, 0):
            raise TargetError(f"{goal}: round= and blocks= count channels, and weights= removes none")
        return goal

    def counts(self, tensors: Mapping[str, Tensor], goal: Target | None) -> tuple[int, ...]:
        """How many of the considered weights stay after each round."""
        n = sum(t.numel() for t in tensors.values())
        if goal is None:
            return (n,)
        goal.limits({"weights": n})
        asked = goal.weights
        share = Fraction(repr(asked)) if isinstance(asked, float) else Fraction(int(asked or 0), n)
        return kept_after(n, share, self.rounds, self.rate_of, self.schedule)

    def masks(
        self,
        model: nn.Module,
        tensors: Mapping[str, Tensor],
        goal: Target | None,
        keep: int,
        within: Masks | None = None,
    ) -> tuple[Masks, tuple[str, ...]]:
        """The masks that keep so many weights, or those of the pattern; and what is to be said of them."""
        if goal is None:
            return patterned(model, tensors, *read(self.pattern))
        if (scope := self.scope or goal.scope) not in SCOPES:
            raise TargetError(f"scope={scope} ranks channels; single weights are ranked by scope=global or scope=local")
        sizes = {name: t.numel() for name, t in tensors.items()}
        floors = {
            k: min(n, max(goal.min_channels, math.ceil(n * (1 - goal.max_rate) - 1e-9))) for k, n in sizes.items()
        }
        rank = per_layer if scope == "local" else strongest
        return rank(tensors, keep, floors, within), ()
