"""Where filters are fused, and where what is not kept is read. The training is in `fusing`, the mathematics in `dcff`.

A network with n filters in a layer computes with P[kept]·W in the rows of the kept ones. All other rows are zero, and
so are the entries that read these (`reads.roles`); a shortcut map (`models.shortcut`) has -1 for them. That is the
compact network exactly, norms included, since nothing reads what is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ..graph.coupling import VALUES, Coupling, Member
from ..select import Ints
from .reads import over, roles
from .score import tensors_of

__all__ = ["Made", "Map", "Places", "Site"]


@dataclass(eq=False)
class Made:
    """Entries of a tensor that channels of a group own. p: P[kept] of the weight `source`; to: their kept entries."""

    group: int
    axis: int
    positions: Tensor
    source: str
    whole: bool = False
    p: Tensor | None = None
    to: Tensor | None = None


@dataclass(eq=False)
class Site:
    """A tensor that is fused along `made`, or of which entries are read by a group's channels, or both."""

    name: str
    tensor: Tensor
    behind: Tensor
    made: list[Made] = field(default_factory=list)
    read: list[tuple[int, Member]] = field(default_factory=list)
    mask: Tensor | None = None
    written: int = -1  # the version of the tensor after the last `write`

    def write(self) -> None:
        """The fused values, into the tensor."""
        self.tensor.copy_(self.fused())
        self.written = self.tensor._version

    def fused(self) -> Tensor:
        """The values that the network computes with."""
        found = torch.zeros_like(self.behind) if self.whole else self.behind.clone()
        for one in self.made:
            assert one.p is not None and one.to is not None
            rows, into = self.behind.movedim(one.axis, 0), found.movedim(one.axis, 0)
            if self.whole:
                into.index_copy_(0, one.to, torch.tensordot(one.p, rows, dims=1))
                continue
            into[one.positions.reshape(-1)] = 0
            into[one.to] = torch.tensordot(one.p, rows[one.positions], dims=1).flatten(0, 1)
        return found if self.mask is None else found.mul_(self.mask)

    def unfused(self, grad: Tensor) -> Tensor:
        """The gradient of what is behind, from that of the fused values. It has the layout that it came in."""
        found = grad.clone() if self.mask is None else grad * self.mask
        for one in self.made:
            assert one.p is not None and one.to is not None
            rows = found.movedim(one.axis, 0)
            new = rows[one.to].unflatten(0, (len(one.p), one.positions.shape[1]))
            back = torch.tensordot(one.p, new, dims=([0], [0])).flatten(0, 1)
            if self.whole:
                rows.copy_(back)
            else:
                rows[one.positions.reshape(-1)] = back
        return found

    @property
    def whole(self) -> bool:
        """Whether the channels of one group are all the rows, in their order."""
        return len(self.made) == 1 and self.made[0].whole

    def zero(self) -> None:
        """Zero, in the tensor as it is, what is not kept."""
        for one in self.made:
            assert one.to is not None
            gone = torch.ones(self.tensor.shape[one.axis], dtype=torch.bool, device=self.tensor.device)
            gone[one.to] = False
            mine = one.positions.reshape(-1)
            self.tensor.movedim(one.axis, 0)[mine[gone[mine]]] = 0
        if self.mask is not None:
            self.tensor.mul_(self.mask)

    def alive(self, one: Made) -> Ints:
        """Of which channels the tensor has anything that is not zero, bool (width,)."""
        rows = self.tensor.detach().movedim(one.axis, 0)
        some = rows.reshape(len(rows), -1).abs().amax(dim=1) > 0
        return some[one.positions].any(dim=1).cpu().numpy()


@dataclass(eq=False)
class Map:
    """An index of channels, its dense values, and the groups whose channels these are."""

    tensor: Tensor
    dense: Tensor
    read: list[tuple[int, Member]] = field(default_factory=list)

    def write(self, kept: Sequence[Ints]) -> None:
        """-1 for what is not kept."""
        found = self.dense.clone()
        for g, m in self.read:
            gone = torch.from_numpy(np.delete(m.positions, kept[g], axis=0).reshape(-1)).to(self.dense)
            found[torch.isin(self.dense, gone)] = -1
        self.tensor.copy_(found)


@dataclass(eq=False)
class Places:
    """All tensors of a model that fusion changes, by name, and the maps of its shortcuts."""

    sites: dict[str, Site]
    maps: list[Map]

    @classmethod
    def of(cls, model: nn.Module, coupling: Coupling) -> Places:
        """Find them. A bias goes with the weight of its layer."""
        own, sites, maps = tensors_of(model), dict[str, Site](), dict[str, Map]()
        for g, group in enumerate(coupling.groups):
            chosen, layers = roles(group), set(group.producers())
            for m in group.members:
                w = own[m.tensor]
                if m.axis == VALUES:
                    maps.setdefault(m.tensor, Map(w, w.clone())).read.append((g, m))
                    continue
                source = m.tensor if m.role == "out" else weight_of(m.tensor) if m.role == "bias" else ""
                if w.is_floating_point() and (source in layers or m.role in chosen):
                    site = sites.setdefault(m.tensor, Site(m.tensor, w, w.detach().clone()))
                    if source in layers:
                        whole = np.array_equal(m.positions, np.arange(w.shape[m.axis])[:, None])
                        places = torch.from_numpy(m.positions).to(w.device)
                        site.made.append(Made(g, m.axis, places, source, whole))
                    if m.role in chosen:
                        site.read.append((g, m))
        return cls(sites, list(maps.values()))

    def keep(self, kept: Sequence[Ints]) -> None:
        """These channels of every group stay, from now on."""
        for site in self.sites.values():
            site.mask = mask_of(site, kept) if site.read else None
            for one in site.made:
                ids = torch.from_numpy(kept[one.group]).to(one.positions.device)
                one.to = one.positions[ids].reshape(-1)

    def made(self) -> list[tuple[Site, Made]]:
        """All that is fused."""
        return [(site, one) for site in self.sites.values() for one in site.made]


def mask_of(site: Site, kept: Sequence[Ints], only: frozenset[str] | None = None) -> Tensor:
    """0 where a channel that is not kept is read, broadcastable. only: reads in these roles."""
    mask = site.behind.new_ones([1] * site.behind.dim())
    for g, m in site.read:
        if only is None or m.role in only:
            line = site.behind.new_ones(site.behind.shape[m.axis])
            line[torch.from_numpy(np.delete(m.positions, kept[g], axis=0).reshape(-1)).to(line.device)] = 0
            mask = mask * over(line, m.axis, site.behind.dim())
    return mask


def weight_of(bias: str) -> str:
    """The weight that a bias belongs to, by its name."""
    head, dot, tail = bias.rpartition(".")
    return head + dot + tail.replace("bias", "weight")
