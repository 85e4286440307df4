"""Rank of feature maps. Lin et al. 2020, "HRank: Filter Pruning using High-Rank Feature Map" (arXiv:2002.10179).

The score of a channel is the mean rank of its map, over all samples of a few batches: Σ_n rank(o_c(n)) / N. Maps of low
rank carry less, and their filters go; what stays keeps the weights it has. The paper prunes at rates per layer and uses
5 batches of 128 images; the default scope takes the same share of every group.

The paper hooks the ReLU behind each convolution. On any graph a map is read where the channel is first consumed: by a
convolution, a linear layer, a matrix product, attention, a pool or a reduction, in the order of the forward. That is
behind norm and activation, and before pooling; of a residual stream it is the first layer of its first block. Additions
and concatenations only pass a channel on.

Ranks are those of `torch.linalg.matrix_rank` in float32: singular values above σ_max · max(H, W) · eps. What has no
second axis has rank 0 or 1: maps of 1×1, tokens, and channels behind a flatten are then ranked by how often they are
not zero. Maps of three axes are matrices (D·H, W). Channels that nothing of these reads have rank 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..graph.coupling import Coupling
from ..graph.forward import run, stored_statistics
from ..graph.labels import Check, varying, vector
from ..graph.record import Call, Tracer
from ..graph.rules import functions, table
from ..graph.rules.norms import POOL, REDUCE
from ..plan import plan_for
from ..state import as_found
from ..surgery.masked import channel_ids
from .batches import inputs, some
from .group_fisher import READERS
from .score import Floats

CHUNK = 1 << 24
"""Numbers that are decomposed at a time."""


def ranks(maps: Tensor) -> Tensor:
    """The rank of each map, float64 (N, C), of maps (N, C, …)."""
    n, c, *rest = maps.shape
    rows = maps.float().reshape(n * c, -1, rest[-1] if rest else 1)
    parts = rows.split(max(1, CHUNK // max(1, rows[0].numel())))
    return torch.cat([torch.linalg.matrix_rank(part) for part in parts]).reshape(n, c).double()


@dataclass
class Reading:
    """Rank sums of channels as a forward consumes them. `ids` of all groups are numbered through."""

    sums: Tensor
    samples: Tensor
    seen: Tensor

    def read(self, x: Tensor, planes: Iterable[Tensor]) -> None:
        """Add what this activation has of channels that were not read before in this forward."""
        for plane in planes:
            axes = varying(plane)
            if len(axes) != 1 or axes[0] == 0 or not x.is_floating_point():
                continue
            line = vector(plane, axes[0])
            mine = torch.nonzero((line >= 0) & ~self.seen[line.clamp(min=0)]).reshape(-1)
            channels, counts = torch.unique(line[mine], return_counts=True)
            if not len(channels):
                continue
            self.seen[channels] = True
            # Entries of one channel lie beside each other: (N, channels, entries, …).
            order = mine[torch.argsort(line[mine], stable=True)]
            maps = x.detach().movedim(axes[0], 1).index_select(1, order.to(x.device))
            for count in torch.unique(counts).tolist():
                its = torch.repeat_interleave(counts == count, counts).to(x.device)
                part = maps[:, its].unflatten(1, (-1, count))
                part = part.squeeze(2) if count == 1 else part
                found = ranks(part).sum(dim=0).cpu()
                self.sums[channels[counts == count]] += found
                self.samples[channels[counts == count]] += len(x)


@dataclass(frozen=True)
class HRank:
    """Mean rank of the maps; low goes first. batches: how many are read at most."""

    scope: str | None = "local"
    batches: int = 5
    needs: ClassVar[frozenset[str]] = frozenset({"data"})

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise InputError(f"hrank: batches={self.batches} must be at least 1")

    def score(self, model: nn.Module, coupling: Coupling, *, data: Iterable[Any], seed: int = 0) -> tuple[Floats, ...]:
        ids, _ = channel_ids(plan_for(coupling, [range(w) for w in coupling.widths]), kept_only=False)
        total = sum(coupling.widths)
        reading = Reading(torch.zeros(total).double(), torch.zeros(total).double(), torch.zeros(total).bool())
        consumers = functions([*READERS, *POOL, *REDUCE])

        def execute(call: Call) -> Any:
            if call.func in consumers:
                for x in (a for a in (*call.args, *call.kwargs.values()) if isinstance(a, Tensor)):
                    if x in call.tracer.labels:
                        reading.read(x, call.label(x).planes)
            return stored_statistics(call)

        with as_found(model), torch.no_grad():
            model.eval()
            for batch in some(data, self.batches):
                reading.seen.zero_()
                run(Tracer(model, Check(ids), table(), execute), model, inputs(batch))
        mean = (reading.sums / reading.samples.clamp(min=1)).numpy()
        return tuple(np.split(mean, np.cumsum(coupling.widths)[:-1]))
