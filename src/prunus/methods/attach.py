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

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..asked import names, the_model, the_target
from ..cutting import cut, trace, within
from ..errors import CheckpointError, InputError, TargetError
from ..graph.assemble import nothing
from ..graph.coupling import Coupling
from ..result import Pruned
from ..state import outside_inference
from ..target import Target
from .batches import device_of, moved
from .blocks import with_blocks
from .computed import computing
from .score import Given, Method, check_knobs, label, scores_of, tensors_of

__all__ = ["Attached"]


def check_epochs(epochs: int | None) -> None:
    """A training has a whole number of epochs, or does not say how many. Raises InputError."""
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1):
        raise InputError(f"epochs={epochs!r} must be at least 1, and a whole number")


@torch.no_grad()
def used_up(own: nn.Parameter, before: Tensor | float) -> None:
    """Zero the gradient of a parameter of the method's own that a step moved from `before`, and what of it is not
    finite: a loop may zero the gradients of the model alone."""
    if own.grad is not None:
        own.grad.masked_fill_((own != before).any() | ~own.grad.isfinite(), 0)


def not_begun(method: object) -> InputError:
    """A step was made before the first epoch was announced, so nothing was chosen yet."""
    return InputError(f"{label(method)}: a step came before epoch_start(e); call it at the beginning of every epoch")


def reasoned(coupling: Coupling, whole: Iterable[str], asked: Sequence[str | nn.Module]) -> Coupling:
    """With the reason why layers of computed weights stay: what a method zeroes in the tensors that such a weight is
    computed from is no zero in the weight, and may be 0/0."""
    under = tuple(f"{path}." if path else "" for path in whole)
    if not under or asked:
        return coupling
    found = [replace(p, reason=COMPUTED) if p.name.startswith(under) else p for p in coupling.pinned]
    return replace(coupling, pinned=tuple(found))


COMPUTED = "its weight is computed from others (a weight or spectral norm), which masks in a training do not follow"


class Attached:
    """A method at work on a model. The base adds nothing to a training; a method overrides what it needs.

    model: bare, or wrapped by DataParallel, DDP or torch.compile. Raises what `prunus.trace` raises, and TargetError
    for a target that no widths of this model meet.
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
        check_epochs(epochs)
        check_knobs(method)
        self.method, self.model, self.example = method, the_model(model), example
        self.target = None if target is None else the_target(target, None, None, ())
        self.epochs, self.seed = epochs, seed
        whole = dict(computing(self.model))
        self.coupling = reasoned(trace(self.model, example, pin=[*names(pin), *whole.values()]), whole, names(pin))
        if not self.coupling.groups:
            raise nothing(self.coupling)
        wanted = {member.tensor for group in self.coupling.groups for member in group.members}
        self.met = {name: p for name, p in self.model.named_parameters() if name in wanted}
        if self.target is not None and self.target.blocks == 0:  # one that nothing can meet is refused before training
            within(self.coupling, [np.zeros(w) for w in self.coupling.widths], self.target, scope=method.scope)

    def param_groups(self, lr: float | None = None) -> list[dict[str, Any]]:
        """Parameters of the method's own, for the optimizer. lr: that of the weights, where the optimizer has no other
        for groups that state none."""
        return []

    def epoch_start(self, e: int) -> None:
        """Before epoch e, counted from 0."""
        self.check_tensors()

    def check_tensors(self) -> None:
        """The model has the parameters that it had. Raises InputError where others took their place."""
        now = dict(self.model.named_parameters())
        for name, parameter in self.met.items():
            if now.get(name) is not parameter:
                raise InputError(
                    f"{name} is another parameter than when {label(self.method)} was attached, as after "
                    "load_state_dict(..., assign=True); attach after that"
                )

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
        """Go on from a state. Raises CheckpointError for another method's, and for one that lacks something."""
        if state.get("method") != type(self.method).__name__:
            raise CheckpointError(f"a state of {state.get('method')} is none of {type(self.method).__name__}")
        if missing := sorted(self.state_dict().keys() - state.keys()):
            raise CheckpointError(f"the state of {label(self.method)} lacks {', '.join(missing)}")

    @outside_inference
    def finish(self, target: str | Target | None = None, *, check: bool = True) -> Pruned:
        """Score the weights as they are now, and cut a copy to the target of this call, or else of `attach`.

        Raises TargetError without a target, ModelError for weights that are not finite, ProofError where the cut is not
        exact.
        """
        goal, example = self.target if target is None else the_target(target, None, None, ()), self.ready()
        if goal is None:
            raise TargetError("no target; give finish(target='macs=50%'), or attach with one")
        scores = scores_of(self.method, self.model, self.coupling, self.seed, Given().ranked(self.method, goal))
        drop = with_blocks(self.method, self.model, self.coupling, goal, (), self.seed)
        kept, notes = within(self.coupling, scores, goal, drop, scope=self.method.scope)
        return cut(self.model, example, self.coupling, kept, drop=drop, check=check, goal=goal, notes=notes)

    def ready(self) -> Any:
        """The example, where the model is now. Raises InputError as `check_tensors` does."""
        self.check_tensors()
        return moved(self.example, device_of(the_model(self.model)))

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
