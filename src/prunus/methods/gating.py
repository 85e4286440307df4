"""Gates at work in a training; what they are is in `gates`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..cutting import cut, remarks
from ..errors import CheckpointError, InputError
from ..graph.coupling import Group
from ..result import Pruned
from ..state import outside_inference
from ..target import Target
from .attach import Attached, used_up
from .budget import Budget, mixed
from .gates import Ints, extracted, gates_alone, held
from .nuclear import layers_of, resistance
from .reads import Reads

if TYPE_CHECKING:
    from .gates import Gates

THRESHOLD = 0.5


class Gating(Attached):
    """`w` is the flat vector of all groups. Between two steps the model's weights are the gated network's."""

    method: Gates
    target: Target

    def __init__(
        self,
        method: Gates,
        model: nn.Module,
        example: Any,
        target: str | Target,
        epochs: int | None = None,
        *,
        pin: str | nn.Module | Iterable[str | nn.Module] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(method, model, example, target, epochs, pin=pin, seed=seed)
        widths, place = self.coupling.widths, next(self.model.parameters()).device
        self.w = nn.Parameter(torch.full((sum(widths),), method.init, device=place))
        self.group = torch.repeat_interleave(torch.arange(len(widths)), torch.tensor(widths)).to(place)
        self.rows, self.floor = rows(widths).to(place), floors(self.coupling.groups, self.target).to(place)
        self.budget = Budget.of(self.model, self.coupling, self.target, method.form, place)
        self.reads = Reads.of(self.model, self.coupling, self.w)
        offsets = [0, *np.cumsum(widths).tolist()]
        self.layers = layers_of(self.model, self.coupling, offsets, sum(widths)) if method.alpha_nuc else []
        self.step, self.frozen = 0, False
        self.final: tuple[Ints, ...] = ()  # what the gates of the target are frozen to
        self.short: dict[str, float] = {}  # what they left then, where that was not within the target
        self.was = self.w.detach().clone()  # after the last step
        self.value, self.slope = (torch.zeros(n, device=place) for n in ((), (sum(widths),)))

    @property
    def freezes(self) -> int | None:
        """S_max."""
        if self.method.freeze is not None or self.epochs is None:
            return self.method.freeze
        return math.ceil(2 * self.epochs / 3)

    @property
    def widths(self) -> tuple[int, ...]:
        """Open gates of each group."""
        return tuple(int(part.sum()) for part in self.reads.open.split(list(self.coupling.widths)))

    def left(self) -> dict[str, float]:
        """The share of each budgeted cost that the open gates leave."""
        counts = torch.tensor(self.widths, device=self.w.device)
        return {kind: float(self.budget.soft(counts, kind)) / self.budget.dense[kind] for kind in self.budget.limits}

    def param_groups(self, lr: float | None = None) -> list[dict[str, Any]]:
        """The gates. `lr_scale` is read by `fit`; in a loop of your own pass the weights' `lr`, and the group has its
        own."""
        rate = {} if lr is None else {"lr": lr * self.method.lr_scale}
        return [{"params": [self.w], "weight_decay": 0.0, "lr_scale": self.method.lr_scale, **rate}]

    def epoch_start(self, e: int) -> None:
        """Freeze at S_max."""
        self.check_tensors()
        if self.freezes is not None and e >= self.freezes:
            self.freeze()

    def penalty(self) -> Tensor:
        """The mix of L_mac and L_nuc; 0 once gates are frozen."""
        if self.frozen:
            return super().penalty()
        through = self.reads.open.to(self.w.dtype) + self.w - self.w.detach()
        counts = self.w.new_zeros(len(self.coupling.groups)).index_add(0, self.group, through)
        l_mac, c, t = self.budget.loss(counts, self.method.alpha_mac)
        if not self.layers:
            return l_mac.to(self.w.dtype)
        if self.step % self.method.refresh == 0:
            known = dict(self.reads.values())
            weights = [known.get(layer.name, layer.weight) for layer in self.layers]
            value, slope = resistance(self.layers, weights, self.reads.open, self.method.eps)
            self.value, self.slope = value.to(self.w), slope.to(self.w)
        slope = self.slope * self.reads.open
        l_nuc = self.method.alpha_nuc * (self.value + (slope * (self.w - self.w.detach())).sum())
        return mixed(self.method.mix, l_nuc, l_mac, c, t, self.method.lam).to(self.w.dtype)

    @torch.no_grad()
    def after_step(self) -> None:
        """Set the gates as w says, and the weights as the gates say."""
        used_up(self.w, self.was)
        if self.frozen:
            self.was = self.w.detach().clone()
            self.reads.hold()
            return
        self.step += 1
        together(self.w)
        self.w.clamp_(0, 1)
        self.was = self.w.detach().clone()
        self.reads.follow()
        self.reads.shut(self.on())

    def _check_moved(self) -> None:
        if self.step and bool((self.w == self.method.init).all()):
            raise InputError(
                f"the gates did not move in {self.step} steps: give the optimizer the groups of param_groups(), and "
                "add penalty() to the loss"
            )

    @torch.no_grad()
    def on(self) -> Tensor:
        """1[w > 0.5], and of each group the highest that the target leaves it, at least one."""
        padded = torch.cat([self.w, self.w.new_full((1,), -math.inf)])[self.rows]
        order = self.rows.gather(1, padded.sort(dim=1, descending=True, stable=True).indices)
        first = torch.arange(self.rows.shape[1], device=self.w.device) < self.floor.unsqueeze(1)
        held_open = torch.cat([self.reads.open, self.reads.open[:1]]).scatter(0, order.reshape(-1), first.reshape(-1))
        return (self.w > THRESHOLD) | held_open[:-1]

    def selection(self, goal: Target) -> tuple[Ints, ...]:
        """The channels that stay. Raises TargetError."""
        sizes = list(self.coupling.widths)
        on = [part.cpu().numpy() for part in self.on().split(sizes)]
        scores = [part.double().cpu().numpy() for part in self.w.detach().split(sizes)]
        return extracted(self.coupling, on, scores, goal, self.method.scope)

    def chosen(self) -> tuple[Ints, ...]:
        """The channels whose gates are open."""
        return tuple(np.flatnonzero(part.cpu().numpy()) for part in self.reads.open.split(list(self.coupling.widths)))

    def freeze(self) -> None:
        """The selection becomes final. Raises TargetError."""
        if not self.frozen:
            self._check_moved()
            self._settled_on()
            self._choose(self.final)

    def eligible(self) -> bool:
        """Whether the gates are final, and so within the budget; with no S_max, whether the budget holds now."""
        if self.freezes is not None:
            return self.frozen
        return held(self.coupling, self.chosen(), self.target)

    def settle(self) -> None:
        """After the training: the final selection in the weights as they are now, and no hook left."""
        self.reads.hold()  # of what is left, such as an average, nothing where gates are shut
        self.freeze()
        self.reads.release()

    @outside_inference
    def finish(self, target: str | Target | None = None, *, check: bool = True) -> Pruned:
        """Cut a copy to the open gates, or, for another target than that of `attach`, to what w says of it. The gates
        are frozen from then on. Raises TargetError for a target with blocks."""
        goal, example = self.target if target is None else gates_alone(target), self.ready()
        assert goal is not None
        self._check_moved()
        self.reads.hold()
        if goal == self.target and not self.final:
            self._settled_on()
        self._choose(self.final if goal == self.target else self.selection(goal))
        self.settle()
        kept = self.chosen()
        notes = remarks(self.coupling, goal, [len(k) for k in kept], ())
        if goal == self.target and self.short:
            left = ", ".join(f"{100 * share:.1f} % of the {kind}" for kind, share in self.short.items())
            notes += (
                f"the open gates left {left} when they became final; w chose the rest (longer training leaves less)",
            )
        small = cut(self.model, example, self.coupling, kept, check=check, goal=goal, notes=notes)
        return told(small)

    def _settled_on(self) -> None:
        """Select for the target of `attach`; note what the gates left where they alone did not meet it."""
        left, open_now = self.left(), self.chosen()
        self.final = self.selection(self.target)
        same = all(np.array_equal(a, b) for a, b in zip(self.final, open_now, strict=True))
        self.short = {} if same else left

    @torch.no_grad()
    def _choose(self, kept: Iterable[Ints]) -> None:
        on, first = torch.zeros_like(self.reads.open), 0
        for width, ids in zip(self.coupling.widths, kept, strict=True):
            on[first + torch.from_numpy(ids).to(on.device)] = True
            first += width
        if not torch.equal(on, self.reads.open):
            self.reads.follow()
            self.reads.shut(on)
        self.frozen, self.reads.learning[0] = True, False

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "w": self.w.detach().clone(),
            "open": self.reads.open.clone(),
            "behind": {name: value.clone() for name, value in self.reads.values()},
            "maps": {found.name: [found.dense.clone(), found.gate.clone()] for found in self.reads.maps},
            "step": self.step,
            "frozen": self.frozen,
            "short": self.short,
            "nuclear": [self.value.clone(), self.slope.clone()],
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        named = ({name for name, _ in self.reads.values()}, {found.name for found in self.reads.maps})
        if state["w"].shape != self.w.shape or (set(state["behind"]), set(state["maps"])) != named:
            raise CheckpointError("the gates of the state are those of another network")
        self.w.copy_(state["w"])
        for name, value in self.reads.values():
            value.copy_(state["behind"][name])
        for found in self.reads.maps:  # a model that was loaded before it was attached shows them with holes
            for own, kept in zip((found.dense, found.gate), state["maps"][found.name], strict=True):
                own.copy_(kept)
        self.step, self.frozen, self.short = state["step"], state["frozen"], dict(state.get("short", {}))
        self.reads.learning[0] = not self.frozen
        self.value, self.slope = (part.to(self.w) for part in state["nuclear"])
        on = state["open"].to(self.w.device)
        self.was = self.w.detach().clone()
        self.final = ()
        if self.frozen:
            self.reads.open.copy_(on)
            self.reads.hold()
            self.final = self.chosen()
        else:
            self.reads.shut(on)


def rows(widths: Sequence[int]) -> Tensor:
    """The flat indices of each group's gates (groups, largest width), padded with the number of gates."""
    first, total, most = np.cumsum([0, *widths]), sum(widths), max(widths)
    return torch.tensor([[a + k if k < n else total for k in range(most)] for a, n in zip(first, widths, strict=False)])


def floors(groups: Sequence[Group], goal: Target) -> Tensor:
    """The fewest channels of each group, also under the target's `min` and `max_rate`."""
    fewest = (max(g.floor, goal.min_channels, math.ceil(g.width * (1 - goal.max_rate) - 1e-9)) for g in groups)
    return torch.tensor([min(g.width, least) for g, least in zip(groups, fewest, strict=True)])


def together(w: Tensor) -> None:
    """The same gates in all processes, whatever loop averages their gradients: the mean of all."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        world = torch.distributed.get_world_size()
        if world > 1:
            whole = w.detach().double()
            torch.distributed.all_reduce(whole)
            w.copy_(whole / world)


def told(small: Pruned) -> Pruned:
    """With a note where norms counted channels that gates had shut."""
    if small.proof is None or not small.proof.shifted_by or small.proof.statistics_shift <= small.proof.tolerance:
        return small
    names = ", ".join(small.proof.shifted_by[:3])
    note = f"{names}: counted the shut channels in training and does not after the cut; train on"
    return replace(small, notes=(*small.notes, note))
