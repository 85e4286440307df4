"""Sparsity training in anyone's loop: what `method.attach(model, example, …)` returns.

    h = Slimming(lam=1e-4).attach(model, example, target="macs=50%", epochs=30)
    for e in range(30):
        h.epoch_start(e)
        for x, y in loader:
            loss = criterion(model(x), y) + h.penalty()      # before it is scaled; once a step, not once a part
            …
            optimizer.step()
            h.after_step()
    small = h.finish()

Nothing is patched: the model is read, never changed, before `finish`, and that returns a copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..asked import names, the_model, the_target
from ..cutting import cut, trace, within
from ..errors import CheckpointError, InputError, TargetError
from ..graph.trace import nothing
from ..result import Pruned
from ..target import Target
from .blocks import with_blocks
from .score import Given, Method, scores_of, tensors_of

__all__ = ["Attached"]


class Attached:
    """A method at work on a model. The base adds nothing to a training; a method overrides what it needs.

    model: bare, or wrapped by DataParallel, DDP or torch.compile. Raises what `prunus.trace` raises.
    """

    def __init__(
        self,
        method: Method,
        model: nn.Module,
        example: Any,
        target: str | Target | None = None,
        epochs: int | None = None,
        *,
        pin: str | nn.Module | Iterable[str | nn.Module] = (),
        seed: int = 0,
    ) -> None:
        if epochs is not None and epochs < 1:
            raise InputError(f"epochs={epochs} must be at least 1")
        self.method, self.model, self.example = method, the_model(model), example
        self.target = None if target is None else the_target(target, None, None, ())
        self.epochs, self.seed = epochs, seed
        self.coupling = trace(self.model, example, pin=names(pin))
        if not self.coupling.groups:
            raise nothing(self.coupling)

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameters of the method's own, for the optimizer."""
        return []

    def epoch_start(self, e: int) -> None:
        """Before epoch e, counted from 0."""

    def penalty(self) -> Tensor:
        """A scalar to add to the loss of a step."""
        return torch.zeros((), device=next(self.model.parameters()).device)

    def after_step(self) -> None:
        """After the optimizer's step."""

    def settle(self) -> None:
        """After the training, before its weights are saved: leave in them what the method decided."""

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors."""
        return {"method": type(self.method).__name__}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises CheckpointError for another method's."""
        if state.get("method") != type(self.method).__name__:
            raise CheckpointError(f"a state of {state.get('method')} is none of {type(self.method).__name__}")

    def finish(self, target: str | Target | None = None, *, check: bool = True) -> Pruned:
        """Score the weights as they are now, and cut a copy to the target of this call, or else of `attach`.

        Raises TargetError without a target, ProofError where the cut is not exact.
        """
        goal = self.target if target is None else the_target(target, None, None, ())
        if goal is None:
            raise TargetError("no target; give finish(target='macs=50%'), or attach with one")
        place = next(self.model.parameters()).device
        example = self.example.to(place) if isinstance(self.example, Tensor) else self.example
        scores = scores_of(self.method, self.model, self.coupling, self.seed, Given().ranked(self.method, goal))
        drop = with_blocks(self.method, self.model, self.coupling, goal, (), self.seed)
        kept, notes = within(self.coupling, scores, goal, drop, scope=self.method.scope)
        return cut(self.model, example, self.coupling, kept, drop=drop, check=check, goal=goal, notes=notes)

    def entries(self, role: str) -> list[tuple[Tensor, Tensor]]:
        """The tensors that prunable groups have in this role, each once, with the entries of axis 0 that belong to them
        (int64)."""
        tensors = tensors_of(self.model)
        found: dict[str, set[int]] = {}
        for group in self.coupling.groups:
            for member in group.members:
                if member.role == role and member.axis == 0:
                    found.setdefault(member.tensor, set()).update(member.positions.reshape(-1).tolist())
        return [(tensors[name], torch.tensor(sorted(at))) for name, at in found.items()]
