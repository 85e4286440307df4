"""Structured sparsity learning at work on a model: the penalty or the proximal step, and what comes after."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..costs import cost
from ..cutting import cut
from ..errors import InputError, ModelError, TargetError
from ..result import Pruned
from ..state import copied, outside_inference
from ..target import Target
from .attach import Attached, used_up
from .lasso import CHANNELS, FILTERS, Groups, group_l2, group_lasso, of_blocks, of_channels, of_shapes, shrink_, squares
from .lengths import ScaleFree, length_of, scale_free, undone

if TYPE_CHECKING:
    from .structured import SSL

EMPTY = 1e-2
"""A column whose norm is below this fraction of its layer's largest counts as empty."""


class Training(Attached):
    """`groups` are what the penalty runs over, one set of groups a term of it."""

    method: SSL

    def __init__(self, method: SSL, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(method, model, *args, **kwargs)
        self.groups, self.trained = self._groups(), self._trained()
        if not all(len(groups.parts) for groups in self.groups):
            raise ModelError(f"ssl with granularity={method.granularity!r} finds no trainable weights in this model")
        if method.granularity == "shape" and self.target is not None:
            raise _no_channel()
        self.free = self._free()
        # Moved by the optimizer under a gradient of -1, and put back: how far it got is the distance of a step.
        self.probe = nn.Parameter(torch.zeros(1, device=next(self.model.parameters()).device))
        self.steps, self.farthest = 0, torch.zeros(())

    def _groups(self) -> list[Groups]:
        which, affine = self.method.granularity, self.method.affine
        if which == "shape":
            return [of_shapes(self.model)]
        if which == "depth":
            if not self.coupling.blocks:
                raise ModelError("ssl with granularity='depth' needs residual branches, and this model has none")
            return [of_blocks(self.model, self.coupling.blocks, affine)]
        found = [of_channels(self.model, self.coupling, FILTERS, affine)] if which != "channel" else []
        return found + ([of_channels(self.model, self.coupling, CHANNELS)] if which != "filter" else [])

    def placed(self) -> list[Groups]:
        """The groups, with their index tensors where the weights are."""
        self.groups = [g.to(g.parts[0][0].device) for g in self.groups]
        return self.groups

    def norms(self) -> list[Tensor]:
        """‖w_g‖ of every group, one tensor a term of the penalty."""
        with torch.no_grad():
            return [squares(groups).sqrt() for groups in self.placed()]

    def param_groups(self, lr: float | None = None) -> list[dict[str, Any]]:
        """Needed for the proximal step: the parameter that measures the optimizer's step. lr: that of the weights; else
        the group has the optimizer's own."""
        rate = {} if lr is None else {"lr": lr}
        return [{"params": [self.probe], "weight_decay": 0.0, **rate}] if self.method.solver == "proximal" else []

    def epoch_start(self, e: int) -> None:
        self.check_tensors()
        self._check_probe()
        if self.trained != self._trained():  # frozen or unfrozen since
            self.groups, self.trained = [g for g in self._groups() if g.parts], self._trained()
            self.free = self._free()

    def _trained(self) -> tuple[bool, ...]:
        return tuple(p.requires_grad for p in self.model.parameters())

    def _free(self) -> list[ScaleFree]:
        return scale_free(self.model, self.coupling) if self.method.keep_length else []

    def penalty(self) -> Tensor:
        """λ·Ω; of value 0 for the proximal step, which takes the penalty's place."""
        if self.method.solver == "proximal":
            return -self.probe.sum()
        total = super().penalty()
        for groups in self.placed():
            if self.method.form == "group_l2":
                total = total + group_l2(groups)
            else:
                total = total + group_lasso(groups, self.method.weighted, self.method.eps)
        return self.method.lam * total

    @torch.no_grad()
    def after_step(self) -> None:
        if self.method.solver != "proximal":
            return
        used_up(self.probe, 0.0)
        lengths = [(w, length_of(w)) for w, norm in self.free if undone(norm)]
        for groups in self.placed():
            distance = self.probe.to(groups.pieces.device)
            shrink_(groups, self.method.lam * distance, self.method.weighted)
        for w, length in lengths:
            now = length_of(w)
            w.mul_(torch.where(now > 0, length / now, 1.0))
        self.farthest = torch.maximum(self.farthest.to(self.probe.device), self.probe.sum())
        self.steps += 1
        self.probe.zero_()

    @outside_inference
    def finish(self, target: str | Target | None = None, *, check: bool = True) -> Pruned:
        """See `Attached.finish`; blocks=-N in the target drops the N residual branches of the lowest scores.

        granularity="shape" takes no target, since no channel goes: the copy is as wide as the model, and the kernel
        columns below a hundredth of their layer's largest are zero in it. `after.nonzero` counts what is left; dense
        kernels gain nothing from it.
        """
        self._check_probe()
        if self.method.granularity == "shape":
            if target is not None:
                raise _no_channel()
            return self._columns(check)
        return super().finish(target, check=check)

    def _columns(self, check: bool) -> Pruned:
        example, net = self.ready(), copied(self.model)
        groups = of_shapes(net)
        empty = columns = 0
        with torch.no_grad():
            for w, _ in groups.parts:
                norm = w.square().sum(dim=0).sqrt()
                low = norm <= EMPTY * norm.max()
                w.masked_fill_(low, 0)
                empty, columns = empty + int(low.sum()), columns + low.numel()
        kept = [np.arange(group.width) for group in self.coupling.groups]
        note = (
            f"filter shape: {empty:,} of {columns:,} kernel columns ({100 * empty / columns:.1f} %) are zero; no "
            "channel goes, and dense kernels compute them all the same"
        )
        found = cut(net, example, self.coupling, kept, check=check, notes=(note,))
        return replace(found, before=cost(self.model, example), source=weakref.ref(self.model))

    def _check_probe(self) -> None:
        if self.steps and not float(self.farthest) > 0:
            raise InputError(
                "ssl with solver='proximal' takes its threshold from the optimizer's steps: give the optimizer the "
                "groups of param_groups(), and add penalty() to the loss"
            )


def _no_channel() -> TargetError:
    return TargetError(
        "ssl with granularity='shape' removes no channel, so it takes no target; finish() counts columns"
    )
