"""One step of the optimizer, over all parts of its batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from prunus.engine.config import Fit
from prunus.engine.ledger import Ledger
from prunus.engine.objective import Loss
from prunus.engine.optimizer import factor, set_rate
from prunus.engine.processes import One
from prunus.engine.runtime import Runtime
from prunus.engine.state import State, having
from prunus.engine.steps import Part

__all__ = ["Step", "outside"]


class Step:
    """Call it with the parts of one step. `own` are the hooks' parameters, whose gradients the model does not share."""

    def __init__(
        self,
        net: nn.Module,
        objective: Loss,
        state: State,
        config: Fit,
        runtime: Runtime,
        processes: One,
        length: int | None,
        own: Sequence[nn.Parameter],
    ) -> None:
        self.net, self.objective, self.state, self.config = net, objective, state, config
        self.runtime, self.processes, self.length, self.own = runtime, processes, length, own
        self.penalties, self.after = having(state.hooks, "penalty"), having(state.hooks, "after_step")

    def __call__(self, parts: Sequence[Part], ledger: Ledger) -> None:
        state, config, scaler = self.state, self.config, self.state.scaler
        lr = self.rate()
        set_rate(state.optimizer, lr)
        state.optimizer.zero_grad(set_to_none=True)
        for part in parts:
            self.backward(part, part is parts[-1], lr, ledger)
        self.processes.average_(p.grad for p in self.own)
        if config.clip is not None:
            scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.model.parameters(), config.clip)
        scaler.step(state.optimizer)
        scaler.update()
        for hook in self.after:
            hook.after_step()
        state.average.update()
        state.step += 1

    def backward(self, part: Part, last: bool, lr: float, ledger: Ledger) -> None:
        """Add the gradient of one part; of the penalties too, with the last."""
        runtime, state = self.runtime, self.state
        batch = runtime.move(part.batch)
        runtime.reseed(1, state.before + state.step, part.index)
        with self.processes.gathering(self.net, last):
            with runtime.autocast():
                value = self.objective(self.net, batch)
            penalty = torch.zeros((), device=value.device)
            for hook in self.penalties if last else ():
                penalty = penalty + hook.penalty()
            ledger.add(state.step, value, penalty, lr, part.size)
            torch.autograd.backward(state.scaler.scale(value * part.share + penalty))

    def rate(self) -> float:
        """The learning rate of this step; of this epoch, where its length is not known."""
        state, config = self.state, self.config
        if self.length:
            return config.lr * factor(config, state.before + state.step, self.length)
        return config.lr * factor(config, state.epoch, 1)


def outside(model: nn.Module, groups: Sequence[dict[str, Any]]) -> list[nn.Parameter]:
    """The parameters of the groups that are not the model's."""
    inside = {id(p) for p in model.parameters()}
    return [p for group in groups for p in group["params"] if id(p) not in inside]
