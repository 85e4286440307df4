"""Soft pruning: what is masked is chosen anew before every epoch. He et al. 2018 (arXiv:1808.06866), algorithm 1.

Inside an epoch the masked channels are zero: their filters, biases, and the scales and shifts of their norms, put back
to zero after every step. Before the next selection they get the values back that they had, so that all channels are
ranked by weights of their own. (The paper lets zeros train on instead; behind a norm their gradients are 1/√ε times too
large.) A masked channel of a residual stream reads nothing through a shortcut that is an index map either: its entry is
-1. Whatever was masked in the last epoch is cut at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..asked import the_target
from ..cutting import cut, remarks, within
from ..errors import CheckpointError, TargetError
from ..graph.coupling import VALUES
from ..result import Pruned
from ..select import Costs, Ints
from ..state import outside_inference
from ..target import Target
from .attach import Attached, not_begun
from .gating import told
from .lasso import AFFINE, FILTERS, first_role
from .score import Given, scores_of

__all__ = ["Soft"]


class Soft(Attached):
    """Masks by the scores of a method, one selection an epoch. Raises TargetError without a target."""

    def __init__(self, method: Any, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(method, model, *args, **kwargs)
        if self.target is None:
            raise TargetError("soft pruning masks while it trains; attach with a target, such as target='macs=50%'")
        if self.target.blocks:
            raise TargetError("soft pruning masks channels, and no blocks; leave blocks= out of its target")
        names, held = dict(self.model.named_parameters(remove_duplicate=False)), dict(self.model.named_buffers())
        self.made = [
            [m for m in group.members if m.role in (first_role(group, FILTERS), *AFFINE) and m.tensor in names]
            for group in self.coupling.groups
        ]
        self.maps = [
            [m for m in group.members if m.role == "index" and m.axis != VALUES and m.tensor in held]
            for group in self.coupling.groups
        ]
        self.tensors: dict[str, Tensor] = {m.tensor: names[m.tensor] for made in self.made for m in made}
        self.tensors |= {m.tensor: held[m.tensor] for maps in self.maps for m in maps}
        self.epoch = -1
        self.kept: tuple[Ints, ...] = ()
        self.masks: dict[str, Tensor] = {}
        self.aside: dict[str, Tensor] = {}

    @torch.no_grad()
    def epoch_start(self, e: int) -> None:
        """Put masked values back, rank, and mask anew; nothing for an epoch that has begun already."""
        self.check_tensors()
        if e == self.epoch:
            return
        assert self.target is not None
        self.epoch = e
        self._put_back()
        given = Given().ranked(self.method, self.target)
        scores = scores_of(self.method, self.model, self.coupling, self.seed, given)
        kept, _ = within(self.coupling, scores, self.target, scope=self.method.scope)
        self.kept = tuple(kept)
        self.masks = self._masks()
        self.aside = {name: self.tensors[name][mask].clone() for name, mask in self.masks.items()}
        self.after_step()

    @torch.no_grad()
    def after_step(self) -> None:
        if self.epoch < 0:
            raise not_begun(self.method)
        for name, mask in self.masks.items():
            w = self.tensors[name]
            w.masked_fill_(mask.to(w.device), 0 if w.is_floating_point() else -1)

    @torch.no_grad()
    def _put_back(self) -> None:
        for name, values in self.aside.items():
            w = self.tensors[name]
            w[self.masks[name].to(w.device)] = values.to(w.device)

    def _masked(self) -> bool:
        """Whether all that the last selection masks is zero."""
        return bool(self.masks) and not any(
            bool(w[mask.to(w.device)].any())
            for name, mask in self.masks.items()
            if (w := self.tensors[name]).is_floating_point()
        )

    def _masks(self) -> dict[str, Tensor]:
        """Which entries of each tensor belong to channels that go."""
        found: dict[str, Tensor] = {}
        for group, made, maps, kept in zip(self.coupling.groups, self.made, self.maps, self.kept, strict=True):
            gone = np.setdiff1d(np.arange(group.width), kept)
            for m in (*made, *maps) if gone.size else ():
                w = self.tensors[m.tensor]
                mask = found.setdefault(m.tensor, torch.zeros(w.shape, dtype=torch.bool, device=w.device))
                mask.movedim(m.axis, 0)[torch.from_numpy(m.positions[gone].reshape(-1)).to(w.device)] = True
        return found

    def state_dict(self) -> dict[str, Any]:
        kept = [k.tolist() for k in self.kept]
        return {**super().state_dict(), "epoch": self.epoch, "kept": kept, "aside": dict(self.aside)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        kept = tuple(np.array(k, np.int64) for k in state["kept"])
        if kept and len(kept) != len(self.coupling.groups):
            raise CheckpointError(f"the state has {len(kept)} groups and the model {len(self.coupling.groups)}")
        for group, ids in zip(self.coupling.groups, kept, strict=False):
            if len(ids) and ids.max() >= group.width:
                raise CheckpointError(f"the state keeps channel {ids.max()} of {group.name}, which has {group.width}")
        self.epoch, self.kept = int(state["epoch"]), kept
        self.masks = self._masks() if kept else {}
        sizes = {name: int(mask.sum()) for name, mask in self.masks.items()}
        if sizes != {name: len(values) for name, values in state["aside"].items()}:
            raise CheckpointError("the state has masked values of another network")
        self.aside = {name: values.clone() for name, values in state["aside"].items()}

    @outside_inference
    def finish(self, target: str | Target | None = None, *, check: bool = True) -> Pruned:
        """Cut what is zero now. Where that misses the target, because it is another one or the weights left behind are
        an average or of another epoch, score and cut as `Attached.finish` does; for another target with the values that
        this epoch's masks hide, where all of them still hide some."""
        goal, example = self.target if target is None else the_target(target, None, None, ()), self.ready()
        assert goal is not None
        kept = self._zero_pattern()
        widths = np.array([len(k) for k in kept], np.int64)
        costs = Costs.of(self.coupling)
        dense = {kind: float(v) for kind, v in costs(np.array(self.coupling.widths, np.int64)).items()}
        now = costs(widths)
        another = goal != self.target
        if another and self._masked():
            with torch.no_grad():
                self._put_back()
            try:
                return super().finish(target, check=check)
            finally:
                self.after_step()
        if another or any(now[kind] > limit for kind, limit in goal.limits(dense).items()):
            return super().finish(target, check=check)
        notes = remarks(self.coupling, goal, widths.tolist(), ())
        return told(cut(self.model, example, self.coupling, kept, check=check, goal=goal, notes=notes))

    def _zero_pattern(self) -> tuple[Ints, ...]:
        """The last selection, if all that it masks is zero; else of each group the channels that are not."""
        found = []
        for group, made in zip(self.coupling.groups, self.made, strict=True):
            alive = np.zeros(group.width, bool)
            for m in made:
                w = self.tensors[m.tensor].detach().movedim(m.axis, 0)
                some = w.reshape(len(w), -1).abs().amax(dim=1) > 0
                alive |= some.cpu().numpy()[m.positions].any(axis=1)
            found.append(np.flatnonzero(alive) if alive.any() else np.arange(group.width))
        if self.kept and all(np.isin(a, k).all() for a, k in zip(found, self.kept, strict=True)):
            return self.kept
        if self.coupling.links or any(group.blocks is not None for group in self.coupling.groups):
            return tuple(np.arange(group.width) for group in self.coupling.groups)  # of unequal parts: score instead
        return tuple(found)
