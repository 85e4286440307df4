"""Training under a schedule of masks: what `Weights.attach` returns. The mathematics is in weights.py."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..asked import names, the_model
from ..errors import InputError
from ..state import outside_inference
from ..target import Target
from .attach import Attached, check_epochs, not_begun
from .gradual import starts_of
from .held import Held, bare
from .masks import considered
from .sparsity import Thinned, thinned

if TYPE_CHECKING:
    from .weights import Weights

__all__ = ["Thinning"]


class Thinning(Attached):
    """Weights become 0 in the model itself, round by round, and stay 0.

    `after_step` holds the zeros. `hold(optimizer)`, called once before the first step (`fit` does), also keeps the
    masked entries of gradients and of the optimizer's state at 0, and lets rewinding start with an empty state; see
    `Held`. The ranking is deterministic and needs the weights alone, so all processes of a training have the same
    masks. Only epochs after the last round are eligible as the best. An average of the weights, which still has some of
    what was masked late, is masked by `settle` and by `finish`.
    """

    method: Weights

    def __init__(
        self,
        method: Weights,
        model: nn.Module,
        example: Any,
        target: str | Target | None = None,
        epochs: int | None = None,
        *,
        pin: str | nn.Module | Iterable[str | nn.Module] = (),
        seed: int = 0,
    ) -> None:
        check_epochs(epochs)
        self.method, self.model, self.example = method, the_model(model), example
        self.target, self.epochs, self.seed = method.goal(target), epochs, seed
        self.starts = starts_of(method.rounds, method.start, method.rewind, epochs)
        self.tensors = considered(self.model, method.include, names(pin))
        self.met = {n: p for n, p in self.tensors.items() if isinstance(p, nn.Parameter)}
        self.counts = method.counts(self.tensors, self.target)
        self.round, self.step, self.begun = 0, 0, False
        self.notes: tuple[str, ...] = ()
        self.held: Held | None = None
        self.optimizers: list[torch.optim.Optimizer] = []
        self.early = self._everything() if method.rewind == 0 else {}

    def hold(self, optimizer: torch.optim.Optimizer) -> None:
        """Mask this optimizer's state and the gradients too, from the first mask to `finish`."""
        optimizer = bare(optimizer)
        self.optimizers.append(optimizer)
        if self.held is not None:
            self.held.hold(optimizer)

    def epoch_start(self, e: int) -> None:
        """Mask anew where a round starts, and put early weights back where that is asked for."""
        self.check_tensors()
        self.begun = True
        due = sum(start <= e for start in self.starts)
        if due <= self.round:
            return
        if self.method.rewind is not None and not self.early:
            raise InputError(f"rewind={self.method.rewind}: only {self.step} steps were made before the first mask")
        within = self.held.masks if self.held is not None else None
        masks, self.notes = self.method.masks(self.model, self.tensors, self.target, self.counts[due - 1], within)
        self.round = due
        if self.early:
            self._rewind()
        self._hold(masks)

    def after_step(self) -> None:
        """Zero the masked weights again; note the weights of the step to rewind to."""
        if not self.begun:
            raise not_begun(self.method)
        self.step += 1
        if self.step == self.method.rewind:
            self.early = self._everything()
        if self.held is not None:
            self.held.after_step()

    def settle(self) -> None:
        """Zero in the model what an average of the weights brought back."""
        if self.held is not None:
            self.held.settle()

    def eligible(self) -> bool:
        """Whether the last round has come."""
        return self.round == len(self.counts)

    def state_dict(self) -> dict[str, Any]:
        """Masks, place in the schedule, early weights."""
        masks = {} if self.held is None else self.held.masks
        place = {"round": self.round, "step": self.step, "notes": list(self.notes)}
        return {**super().state_dict(), **place, "masks": masks, "early": self.early}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, with the same masks. Raises CheckpointError for another method's."""
        super().load_state_dict(state)
        self.round, self.step, self.notes = state["round"], state["step"], tuple(state["notes"])
        self.early, self.begun = dict(state["early"]), self.step > 0
        if state["masks"]:
            self._hold(state["masks"])

    @outside_inference
    def finish(self, target: str | Target | None = None, *, check: bool = True) -> Thinned:
        """A copy under the masks of the last round; ranked now where it has not come, or the target is another one."""
        goal, example = self.target if target is None else self.method.goal(target), self.ready()
        if self.held is not None and self.eligible() and goal == self.target:
            masks = self.held.masks
        else:
            counts, within = self.method.counts(self.tensors, goal), self.held.masks if self.held is not None else None
            masks, self.notes = self.method.masks(self.model, self.tensors, goal, counts[-1], within)
            left = counts[-1] if within is None else sum(int((m & within[n]).sum()) for n, m in masks.items())
            if left < counts[-1]:
                self.notes += (f"{left} weights are left of {counts[-1]} that the target allows, as they were trained",)
        if self.held is not None:
            self.held.release()
        return thinned(self.model, example, masks, goal, self.notes)

    def _hold(self, masks: dict[str, Tensor]) -> None:
        if self.held is not None:
            self.held.change(masks)
            return
        self.held = Held(self.model, masks)
        for optimizer in self.optimizers:
            self.held.hold(optimizer)

    def _everything(self) -> dict[str, Tensor]:
        named = (*self.model.named_parameters(), *self.model.named_buffers())
        return {name: tensor.detach().clone() for name, tensor in named}

    def _rewind(self) -> None:
        own = dict((*self.model.named_parameters(), *self.model.named_buffers()))
        with torch.no_grad():
            for name, tensor in self.early.items():
                own[name].copy_(tensor)
        for optimizer in self.optimizers:
            emptied(optimizer)


def emptied(optimizer: torch.optim.Optimizer) -> None:
    """As before its first step."""
    if not isinstance(optimizer, torch.optim.Adagrad):
        optimizer.state.clear()
        return
    for group in optimizer.param_groups:  # its state is made with it, and a step needs it
        for p in group["params"]:
            optimizer.state[p]["step"].zero_()
            optimizer.state[p]["sum"].fill_(group["initial_accumulator_value"])
