"""Fused filters in a training; the mathematics is in `dcff`, the places in `fusion`.

The network stays at full size, and between two steps the fused values are in the model's own weights, so that a state
dict, an average, an evaluation, a compiled or wrapped model see the fused network and nothing has to be taken off. W
itself waits behind them. Three places make the training that of W:

- A hook on each weight's gradient turns ∂L/∂(P[kept]·W) into ∂L/∂W = P[kept]ᵀ·∂L/∂(P[kept]·W). This is linear: loss
  scaling, accumulation and averages over processes commute with it, and what is clipped is the gradient of W.
- `hold(optimizer)`, called once before the first step (`fit` does), puts W into the weights for as long as a step
  takes, so that weight decay and the optimizer's state are those of W. Closures are run on the fused network.
- Without `hold`, `after_step` adds to W what the step added to the fused weights: all the same but for weight decay,
  which then acts on the fused weights.

Before each epoch P and the kept ids are chosen anew, from W as it is. Any epoch may be the best: what is cut is what
its weights say. An average of the weights still has some of what was kept before; `settle` zeroes that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..asked import the_target
from ..cutting import cut, remarks, within
from ..errors import CheckpointError, InputError, TargetError
from ..result import Pruned
from ..select import Ints, followed, removal_order
from ..state import outside_inference
from ..target import Target
from ..widths import Rates, from_rates
from .attach import Attached, not_begun
from .dcff import filters, kl_scores, makers, similarities
from .fusion import Places, mask_of
from .gating import told
from .held import bare
from .hooks import hooked
from .score import Floats, tensors_of

if TYPE_CHECKING:
    from .dcff import DCFF

__all__ = ["Fusing"]

NEAR = 1e-9


class Fusing(Attached):
    """`kept` are the channels of this epoch, None before the first."""

    method: DCFF

    def __init__(
        self,
        method: DCFF,
        model: nn.Module,
        example: Any,
        target: str | Target | None = None,
        epochs: int | None = None,
        *,
        pin: str | nn.Module | Iterable[str | nn.Module] = (),
        seed: int = 0,
        rates: Rates | None = None,
        rates_layout: str = "published",
        keep_rule: str = "exact",
    ) -> None:
        super().__init__(method, model, example, target, epochs, pin=pin, seed=seed)
        if (rates is None) == (self.target is None):
            raise TargetError("dcff trains at fixed widths; attach it with either rates='[0.5]*3' or target='macs=50%'")
        if self.target is not None and self.target.blocks:
            raise TargetError("dcff fuses filters, and drops no blocks; leave blocks= out of its target")
        if epochs is None:
            raise InputError("dcff lowers its temperature over the training; attach it with epochs=")
        for e in range(epochs):
            method.at(e, epochs)
        self.notes: tuple[str, ...] = ()
        if rates is not None:
            widths, self.notes = from_rates(self.model, self.coupling, rates, rates_layout, keep_rule)
            self.widths = followed(self.coupling, widths)
        else:
            assert self.target is not None
            level = [np.zeros(width) for width in self.coupling.widths]
            self.widths = [len(ids) for ids in within(self.coupling, level, self.target, scope=method.scope)[0]]
        self.epoch = -1
        self.kept: tuple[Ints, ...] | None = None
        self.places = Places.of(self.model, self.coupling)
        self.sites = self.places.sites
        self.handles: list[Any] = []
        self.held = self.opened = self.stepped = self.over = False

    def hold(self, optimizer: torch.optim.Optimizer) -> None:
        """Let this optimizer step W itself, with its weight decay and state."""
        self.held, optimizer = True, bare(optimizer)
        self.handles.append(optimizer.register_step_pre_hook(self._before))
        self.handles.append(optimizer.register_step_post_hook(lambda *_: self._shut()))

    def epoch_start(self, e: int) -> None:
        """Choose P and what is kept, and fuse; nothing for an epoch that has begun already."""
        self.check_tensors()
        if self.over:
            raise finished()
        if e == self.epoch:
            return
        assert self.epochs is not None
        t = self.method.at(e, self.epochs)
        self._note()
        if self.kept is None:
            self._listen()
        with torch.no_grad():
            self._choose(t)
            self._write()
        self.epoch = e

    @torch.no_grad()
    def after_step(self) -> None:
        """Where no held optimizer made the step, note what it changed; and fuse anew."""
        if self.over:
            raise finished()
        if self.kept is None:
            raise not_begun(self.method)
        self._note(not self.stepped)
        self.stepped = False

    def _note(self, whole: bool = False) -> None:
        """Add to W what was added to the fused weights: with an optimizer held, what others did, such as one that was
        made later. whole: look at all, since fused optimizers leave no new version of what they write."""
        if self.kept is None or self.over:
            return
        with torch.no_grad():
            for site in self.sites.values():
                if whole or not self.held or site.tensor._version != site.written:
                    site.behind.add_(site.tensor - site.fused())
                    site.write()

    def _before(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the step of a held optimizer: W in the weights, or a closure that first runs on the fused ones."""
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._open()
            return None

        def through() -> Any:
            self._shut()
            value = closure()
            self._open()
            return value

        return ((*args[:1], through, *args[2:]), {k: v for k, v in kwargs.items() if k != "closure"})

    @torch.no_grad()
    def _open(self) -> None:
        if self.kept is not None and not self.opened:
            self._note()
            for site in self.sites.values():
                site.tensor.copy_(site.behind)
            self.opened = True

    @torch.no_grad()
    def _shut(self) -> None:
        if self.opened:
            for site in self.sites.values():
                site.behind.copy_(site.tensor)
                site.write()
            self.opened, self.stepped = False, True

    def _listen(self) -> None:
        """W is what the model has now; from here on its weights are fused."""
        for site in self.sites.values():
            site.behind.copy_(site.tensor.detach())
            self.handles += hooked(site.tensor, site.unfused)

    def _choose(self, t: float) -> None:
        """P of every layer and the kept channels of every group, in forward order."""
        now = [np.arange(width) for width in self.coupling.widths] if self.kept is None else list(self.kept)
        own, found = tensors_of(self.model), dict[tuple[str, int], Tensor]()
        for g, group in enumerate(self.coupling.groups):
            score, mine = np.zeros(group.width), dict[tuple[str, int], Tensor]()
            for m in makers(group):
                site = self.sites.get(m.tensor)
                w = own[m.tensor].detach() if site is None else site.behind * mask_of(site, now, frozenset({"in"}))
                p = mine[m.tensor, g] = similarities(filters(m, w), t)
                score = score + kl_scores(p).cpu().numpy()
            if np.isfinite(score).all():
                order, _ = removal_order(group, ranks(score, now[g]))
                now[g] = np.sort(order[group.width - self.widths[g] :])
                found |= mine
            elif self.kept is None:
                raise InputError(f"the filters of {group.name} are too large to compare: their scores are not finite")
        self.kept = tuple(now)
        for site, one in self.places.made():
            if (one.source, one.group) in found:
                one.p = found[one.source, one.group][torch.from_numpy(now[one.group])].to(site.tensor)
        self.places.keep(self.kept)

    @torch.no_grad()
    def _write(self) -> None:
        """The fused values, and the maps of shortcuts, into the model."""
        for site in self.sites.values():
            site.write()
        assert self.kept is not None
        for found in self.places.maps:
            found.write(self.kept)

    @torch.no_grad()
    def settle(self) -> None:
        """After the training: zeros where nothing is kept, in what is left, and no hook."""
        if self.kept is None:
            self.epoch_start(0)
        self.kept, self.over = self._present(), True
        self.places.keep(self.kept)
        for site in self.sites.values():
            site.zero()
        for found in self.places.maps:
            found.write(self.kept)
        while self.handles:
            self.handles.pop().remove()

    def _present(self) -> tuple[Ints, ...]:
        """The channels that the weights have, which may be of another epoch; the last choice where they are an
        average."""
        assert self.kept is not None
        alive = [np.zeros(width, bool) for width in self.coupling.widths]
        for site, one in self.places.made():
            if one.source == site.name:
                alive[one.group] |= site.alive(one)
        fused = {one.group for _, one in self.places.made()}
        if any(int(alive[g].sum()) != self.widths[g] for g in fused):
            return self.kept
        return tuple(np.flatnonzero(a) if g in fused else self.kept[g] for g, a in enumerate(alive))

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "epoch": self.epoch,
            "kept": None if self.kept is None else [ids.tolist() for ids in self.kept],
            "p": [one.p for _, one in self.places.made() if one.p is not None],
            "behind": {name: site.behind.clone() for name, site in self.sites.items()},
            "maps": [found.dense.clone() for found in self.places.maps],
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if state["kept"] is None:
            return
        if {k: v.shape for k, v in state["behind"].items()} != {k: s.tensor.shape for k, s in self.sites.items()} or [
            len(ids) for ids in state["kept"]
        ] != list(self.widths):
            raise CheckpointError("the fused filters of the state are those of another network, or of other widths")
        if self.kept is None:
            self._listen()
        self.epoch, self.kept = int(state["epoch"]), tuple(np.array(ids, np.int64) for ids in state["kept"])
        for name, site in self.sites.items():
            site.behind.copy_(state["behind"][name])
        for found, dense in zip(self.places.maps, state["maps"], strict=True):  # the model's have holes by now
            found.dense.copy_(dense)
        for (site, one), p in zip(self.places.made(), state["p"], strict=True):
            one.p = p.to(site.tensor)
        self.places.keep(self.kept)
        self._write()

    @outside_inference
    def finish(self, target: str | Target | None = None, *, check: bool = True) -> Pruned:
        """Cut a copy to what is kept; to another target than that of `attach` by the scores of the fused filters. Its
        training is over then. Raises TargetError for one that would keep filters that are zero by now."""
        goal, example = self.target if target is None else the_target(target, None, None, ()), self.ready()
        self.settle()
        if goal != self.target:
            small = super().finish(goal, check=check)
            if any(len(ids) > width for ids, width in zip(small.plan.kept, self.widths, strict=True)):
                raise TargetError(f"{goal} leaves more filters than dcff was trained with; the others are zero")
            return small
        assert self.kept is not None
        notes = self.notes if goal is None else remarks(self.coupling, goal, list(self.widths), ())
        return told(cut(self.model, example, self.coupling, self.kept, check=check, goal=goal, notes=notes))


def finished() -> InputError:
    """A training goes on after its end."""
    return InputError("dcff: finish() and settle() end its training, with zeros where nothing is kept; attach anew")


def ranks(score: Floats, before: Ints) -> Floats:
    """0 … n − 1 by ascending score; of scores closer than NEAR those that were kept before are higher."""
    order = np.argsort(score, kind="stable")
    apart = np.diff(score[order], prepend=score[order[0]]) > NEAR * max(1.0, float(np.abs(score).max()))
    level = np.empty(len(score), np.int64)
    level[order] = np.cumsum(apart)
    found = np.empty(len(score))
    found[np.lexsort((np.isin(np.arange(len(score)), before), level))] = np.arange(len(score))
    return found
