"""Group lasso over any sets of weights, and its proximal step.

    Ω(W)    = Σ_g √n_g · ‖w_g‖₂           group lasso (Yuan & Lin 2006, equation 2.1; √n_g where `weighted`)
    Ω_ε(W)  = Σ_g √n_g · √(‖w_g‖² + ε²)   what is differentiated: its gradient at w_g = 0 is 0, not 0/0
    prox    : w_g ← (1 − t·√n_g / ‖w_g‖)₊ · w_g     the minimiser of ½‖u − w‖² + t·Ω(u) for groups that share no weight

A group is a list of pieces, and a piece a part of a tensor: one row, one column, one kernel position, or all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..graph.coupling import Coupling, Group, Member
from ..graph.residual import Residual

Part = tuple[Tensor, tuple[int, ...]]

FILTERS = ("out", "operand", "scale", "in")
"""Roles of the weights that make a channel; the first that a group has counts."""

CHANNELS = ("in", "operand", "scale", "out")
"""Roles of the weights that read a channel, likewise."""

AFFINE = ("bias", "scale", "shift")


@dataclass(frozen=True, eq=False)
class Groups:
    """Sets of weights of a model.

    parts: tensors, each with the axes along which it falls into pieces; the pieces of all parts are numbered through.
    pieces: int64 (groups, most pieces of a group), padded with the number of pieces.
    owner: int64 (pieces,), the group of each, or the number of groups where it belongs to none.
    sizes: float (groups,), weights in each.
    """

    parts: tuple[Part, ...]
    pieces: Tensor
    owner: Tensor
    sizes: Tensor

    def to(self, device: torch.device) -> Groups:
        """With the index tensors on this device."""
        return replace(self, pieces=self.pieces.to(device), owner=self.owner.to(device), sizes=self.sizes.to(device))


def squares(groups: Groups) -> Tensor:
    """‖w_g‖² of every group, (groups,); in float32 of weights of half precision, which squares and ε² leave."""
    found = []
    for part, axes in groups.parts:
        w = part.float() if part.element_size() < 4 else part
        rest = [a for a in range(w.dim()) if a not in axes]
        found.append((w.square().sum(rest) if rest else w.square()).reshape(-1))
    flat = torch.cat([*found, found[0].new_zeros(1)])
    return flat[groups.pieces].sum(dim=1)


def roots(groups: Groups, weighted: bool, like: Tensor) -> Tensor | float:
    """√n_g in the precision of `like`, or 1."""
    return groups.sizes.to(like.dtype).sqrt() if weighted else 1.0


def group_lasso(groups: Groups, weighted: bool = False, eps: float = 1e-8) -> Tensor:
    """Ω_ε, a scalar."""
    found = squares(groups)
    return (roots(groups, weighted, found) * (found + eps**2).sqrt()).sum()


def group_l2(groups: Groups) -> Tensor:
    """Σ_g ‖w_g‖²: without the root. It shrinks all weights alike and makes no group sparse."""
    return squares(groups).sum()


@torch.no_grad()
def shrink_(groups: Groups, t: Tensor | float, weighted: bool = False) -> None:
    """prox with threshold t, in place."""
    norm = squares(groups).sqrt()
    factor = (1 - t * roots(groups, weighted, norm) / norm.clamp(min=torch.finfo(norm.dtype).tiny)).clamp(min=0)
    each = torch.cat([factor, factor.new_ones(1)])[groups.owner]
    lengths = [_count(*part) for part in groups.parts]
    for (w, axes), mine in zip(groups.parts, each.split(lengths), strict=True):
        w.mul_(mine.view([n if a in axes else 1 for a, n in enumerate(w.shape)]).to(w.dtype))


def of_channels(model: nn.Module, coupling: Coupling, order: Sequence[str], affine: bool = False) -> Groups:
    """One group a channel, in the order of the coupling: the weights of all its members in the first role of `order`
    that its coupled group has. affine: its biases, and the scales and shifts of the norms that it passes, belong to it
    too."""
    trainable = _trainable(model)
    chosen: list[list[Member]] = []
    for group in coupling.groups:
        roles = {first_role(group, order), *(AFFINE if affine else ())}
        chosen.append([m for m in group.members if m.role in roles and m.axis >= 0 and m.tensor in trainable])
    keys = list(dict.fromkeys((m.tensor, m.axis) for members in chosen for m in members))
    parts = [(trainable[name], (axis,)) for name, axis in keys]
    start = dict(zip(keys, np.cumsum([0, *(_count(*part) for part in parts)]).tolist(), strict=False))
    empty = [np.zeros((group.width, 0), np.int64) for group in coupling.groups]
    rows = [
        np.concatenate([none, *(start[m.tensor, m.axis] + m.positions for m in members)], axis=1)
        for none, members in zip(empty, chosen, strict=True)
    ]
    return _groups(parts, rows)


def of_shapes(model: nn.Module) -> Groups:
    """One group for each (c, h, w) of each convolution: W[:, c, h, w] over all filters."""
    weights: dict[int, Tensor] = {}
    for module in model.modules():
        plain = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        weight = module._parameters.get("weight") if plain else None
        if weight is not None and weight.requires_grad:
            weights.setdefault(id(weight), weight)
    parts = [(w, tuple(range(1, w.dim()))) for w in weights.values()]
    return _groups(parts, [np.arange(sum(_count(*part) for part in parts))[:, None]])


def of_blocks(model: nn.Module, blocks: Sequence[Residual], affine: bool = False) -> Groups:
    """One group a residual branch: its weights of two axes or more, and with `affine` the others as well."""
    trainable = _trainable(model)
    parts: list[Part] = []
    rows = []
    for block in blocks:
        mine = [trainable[n] for n in block.tensors if n in trainable and (affine or trainable[n].dim() > 1)]
        rows.append(np.arange(len(parts), len(parts) + len(mine))[None])
        parts += [(w, ()) for w in mine]
    return _groups(parts, rows)


def first_role(group: Group, order: Sequence[str]) -> str:
    """The first role of `order` that a member of the group has; the first of all where none has any."""
    return next((role for role in order if any(m.role == role for m in group.members)), order[0])


def _groups(parts: Sequence[Part], rows: Sequence[npt.NDArray[np.int64]]) -> Groups:
    """rows: for some groups at a time the numbers of their pieces, (groups, pieces of each)."""
    counts = [_count(*part) for part in parts]
    total, n = sum(counts), sum(len(some) for some in rows)
    pieces = np.full((n, max([1, *(some.shape[1] for some in rows)])), total, np.int64)
    owner = np.full(total, n, np.int64)
    at = 0
    for some in rows:
        pieces[at : at + len(some), : some.shape[1]] = some
        owner[some] = np.arange(at, at + len(some))[:, None]
        at += len(some)
    each = np.array([w.numel() / k for k, (w, _) in zip(counts, parts, strict=True)])
    weights = np.repeat(each, np.array(counts, np.int64))
    sizes = np.append(weights, 0.0)[pieces].sum(axis=1)
    return Groups(tuple(parts), torch.from_numpy(pieces), torch.from_numpy(owner), torch.from_numpy(sizes).float())


def _count(w: Tensor, axes: tuple[int, ...]) -> int:
    """How many pieces a part has."""
    return math.prod(w.shape[a] for a in axes)


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that take gradients, by every name they have."""
    return {name: p for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
