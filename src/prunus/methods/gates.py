"""Learned gates with a budget and a nuclear-norm term, weights and gates together, with or without pretrained weights
("Shared Pruning Module", WACV 2024, as DBC).

One vector w per group, 0.6 at first; gate g = 1[w > 0.5], straight through: value g, gradient dL/dw = dL/dg. The loss
gains L_mac (`budget`) and L_nuc (`nuclear`), mixed by how far the budget is. From epoch S_max on gates are frozen, both
terms are off, and the rest is fine-tuning; then a cut keeps {w > 0.5}.

Departures from the paper, which gates activations behind the ReLUs of ResNet-50:

- One gate per group of any traced network, where its channels are read (`reads`). On ResNets the gated network is the
  same. A channel of a residual stream has the gradient of its readers, each once; with the paper's product behind
  every block it counts a reader once for each block before it.
- Norms and biases of a shut channel leak nowhere, since nothing reads it. Norms that count channels (layer, group and
  RMS norm over gated channels) count shut ones while training and not after the cut, which stays exact against the
  masked network; `finish` then says so in a note, and training on after the cut is due.
- A layer is never emptied: the highest gate of a group stays open, or as many as the target's `min` and `max_rate`
  leave it. L_mac pushes a channel by its share of the cost, which in small networks can empty a residual stream before
  anything else has moved: give a `max_rate` there, and a smaller α.
- w stays within 0 … 1, so that it turns back at once. Weight decay acts neither on w nor on the weights that read a
  shut channel. Momentum does.
- At S_max the selection is made final: {w > 0.5} where it is legal (blocks, links, `round`, `min`), within every budget
  and at most 1 % of the dense cost below the tightest. Else steps go by ascending w until the budgets hold, and those
  that fit come back, as for any score. What is trained from then on is what the cut keeps.
- C is the traced network's true count, of MACs, parameters, channels or several at once.

Choose no epoch as the best before S_max (`eligible` says so): its weights would meet the gates of another epoch. An
average of the weights (EMA) remembers open gates for as long as it lingers; `settle` shuts them in what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from ..asked import the_target
from ..errors import InputError, TargetError
from ..graph.coupling import Coupling
from ..select import Costs, steps_of, to_budget
from ..target import Target
from .attach import Attached
from .nuclear import EPS
from .reads import roles
from .score import Floats, per_channel, tensors_of

Ints = npt.NDArray[np.int64]
SLACK = 0.01


@dataclass(frozen=True)
class Gates:
    """Channels whose gates a training left open.

    Trained by `attach`. As a score or a search it reads a model that was trained so: what shut gates hide is zero where
    it is read. Of other models it takes the squares of the weights that read a channel.

    alpha_mac, alpha_nuc: α of L_mac and L_nuc. form: of L_mac (see `budget`). mix: kind 1 or 2, 0 for the plain sum;
    lam: its λ; without L_nuc (alpha_nuc 0, or no convolutions) L_mac stands alone. freeze: S_max, counted from 0; by
    default two thirds of the epochs. refresh: steps between two decompositions for L_nuc. eps: what counts as a null
    singular value, of the largest. init: w at first. lr_scale: learning rate of the gates, a factor on that of the
    weights, 1 in the paper. alpha_mac against lr_scale decides whether the loss or the budget chooses: gates of a large
    α at a small rate move towards the budget just as fast and hardly feel the loss.
    """

    scope: str | None = None
    alpha_mac: float = 0.1
    alpha_nuc: float = 1e-3
    form: Literal["scaled", "published"] = "scaled"
    mix: int = 2
    lam: float = 1.0
    freeze: int | None = None
    refresh: int = 50
    eps: float = EPS
    init: float = 0.6
    lr_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("alpha_mac", "alpha_nuc", "lam"):
            if not getattr(self, name) >= 0:
                raise InputError(f"gates: {name}={getattr(self, name)} must be at least 0")
        for name, good, words in (
            ("mix", self.mix in (0, 1, 2), "1, 2, or 0 for the plain sum"),
            ("form", self.form in ("scaled", "published"), "scaled or published"),
            ("freeze", self.freeze is None or self.freeze >= 1, "an epoch of 1 or later"),
            ("refresh", self.refresh >= 1, "a number of steps, at least 1"),
            ("init", 0.5 < self.init <= 1, "above 0.5, where gates are open, and at most 1"),
            ("lr_scale", self.lr_scale > 0, "above 0"),
            ("eps", 0 < self.eps < 1, "between 0 and 1"),
        ):
            if not good:
                raise InputError(f"gates: {name}={getattr(self, name)!r} is not {words}")

    def score(self, model: nn.Module, coupling: Coupling, *, seed: int = 0) -> tuple[Floats, ...]:
        def squares(rows: Tensor) -> Tensor:
            return rows.square_().sum(dim=1)

        return per_channel(coupling, tensors_of(model), roles, squares)

    def search(self, model: nn.Module, coupling: Coupling, goal: Target, *, seed: int = 0) -> tuple[Ints, ...]:
        """The channels that something reads, where the goal allows these; else by the score."""
        scores = self.score(model, coupling, seed=seed)
        return extracted(coupling, [score > 0 for score in scores], scores, goal, self.scope)

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
        """Gates in a training, and the cut after it; see `Attached`. Put the model on its device before.

        Raises TargetError without a target.
        """
        from .gating import Gating

        if target is None:
            raise TargetError("gates train towards a budget; attach them with target='macs=50%'")
        gates_alone(target)
        return Gating(self, model, example, target, epochs, pin=pin, seed=seed)


def gates_alone(target: str | Target) -> Target | None:
    """A target of channels. Raises TargetError for one of blocks."""
    goal = the_target(target, None, None, ())
    if goal is not None and goal.blocks:
        raise TargetError("gates shut channels, and drop no blocks; leave blocks= out of their target")
    return goal


def extracted(
    coupling: Coupling, on: Sequence[npt.NDArray[np.bool_]], scores: Sequence[Floats], goal: Target, scope: str | None
) -> tuple[Ints, ...]:
    """The open channels where they are legal, within every budget and no more than SLACK below the tightest; else a
    selection by scores. Raises TargetError."""
    kept = tuple(np.flatnonzero(mask).astype(np.int64) for mask in on)
    return (
        kept
        if legal(coupling, kept, goal) and held(coupling, kept, goal)
        else to_budget(coupling, scores, goal, scope=scope)
    )


def held(coupling: Coupling, kept: Sequence[Ints], goal: Target) -> bool:
    """Whether the budgets hold, and the tightest is used but for SLACK of the dense cost."""
    costs = Costs.of(coupling)
    dense, now = costs(np.array(coupling.widths, np.int64)), costs(np.array([len(k) for k in kept], np.int64))
    room = [
        (limit - now[kind]) / dense[kind]
        for kind, limit in goal.limits({k: float(v) for k, v in dense.items()}).items()
    ]
    return 0 <= min(room) <= SLACK


def legal(coupling: Coupling, kept: Sequence[Ints], goal: Target) -> bool:
    """Whether blocks, links and the target's rules allow these channels."""
    for group, ids in zip(coupling.groups, kept, strict=True):
        if len(ids) == group.width:
            continue
        if group.width - len(ids) not in steps_of(group, np.zeros(group.width), goal).ends:
            return False
        if group.blocks is not None and len(set(np.bincount(group.blocks[ids], minlength=group.parts))) > 1:
            return False
    shares = [{len(kept[g]) / coupling.groups[g].width for g in linked} for linked in coupling.links]
    return all(len(found) == 1 for found in shares)
