"""Group Fisher pruning. Liu et al. 2021, "Group Fisher Pruning for Practical Network Compression" (arXiv:2108.00708),
sections 3.1 to 3.3.

A mask m = 1 multiplies a channel where a layer reads it. Removing the channel changes the loss, to second order at a
minimum and with the Fisher information for the Hessian, in proportion to s = Σ_n (∂L_n/∂m)² over samples n. Layers X
that share the channel share the mask: ∂L_n/∂m = Σ_{x∈X} ∂L_n/∂m_x, and the square is taken of the sum (equation 8). The
score is divided by what the channel costs, ΔM, the memory of its feature maps (section 3.3), or ΔC, its MACs.

The gradient of a mask on what a linear op reads is ∂L/∂m = Σ a·∂L/∂a = Σ W·∂L/∂W over the entries of the weight that
read the channel, so no mask is put into the network, and any graph can be scored. Which entries:
- the weights that read the channel, where there are some (convolutions, linear layers; biases read nothing);
- else weights and biases that make it, which is the mask on what they give: depthwise kernels, values in attention;
- else the scales, shifts and parameters that meet it.

Departures: depthwise convolutions do not mix channels and carry no mask of their own. Statistics of norms are the
stored ones. The paper prunes one channel at a time while it fine-tunes; here `steps` and `between` of `prune` do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError, UnknownName
from ..graph.coupling import Coupling
from ..graph.forward import run, stored_statistics
from ..graph.labels import Check, varying
from ..graph.record import Call, Tracer
from ..graph.rules import table
from ..plan import plan_for
from ..state import as_found
from ..surgery.masked import channel_ids
from .batches import Loss
from .gradients import products
from .score import Floats, per_channel

SIDES = (frozenset({"in"}), frozenset({"out", "bias"}), frozenset({"scale", "shift", "operand"}))
COSTS = ("memory", "macs", "none")
READERS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "matmul",
           "mm", "bmm", "__matmul__", "scaled_dot_product_attention")  # fmt: skip


def mask_gradients(coupling: Coupling, wg: Mapping[str, Tensor]) -> tuple[Floats, ...]:
    """∂L/∂m of every channel, from w·∂L/∂w."""
    sides = [per_channel(coupling, wg, roles, lambda rows: rows.sum(dim=1)) for roles in SIDES]
    found = []
    for g, group in enumerate(coupling.groups):
        roles = {m.role for m in group.members}
        side = next((k for k, its in enumerate(SIDES) if its & roles), 0)
        found.append(sides[side][g])
    return tuple(found)


def memory(model: nn.Module, coupling: Coupling, example: Any) -> Floats:
    """ΔM: for each group, how many elements of the feature maps that layers read belong to one channel. A map that
    several layers read counts once; a group whose channels no layer reads counts one element."""
    ids, _ = channel_ids(plan_for(coupling, [range(w) for w in coupling.widths]), kept_only=False)
    starts = torch.tensor([0, *np.cumsum(coupling.widths)])
    elements = torch.zeros(len(coupling.groups), dtype=torch.float64)
    seen: dict[int, Tensor] = {}

    def execute(call: Call) -> Any:
        if getattr(call.func, "__name__", "") in READERS:
            for x in (*call.args, *call.kwargs.values()):
                if not isinstance(x, Tensor) or x not in call.tracer.labels or id(x) in seen:
                    continue
                seen[id(x)] = x
                for plane in call.label(x).planes:
                    mine = plane[tuple(slice(None) if d in varying(plane) else 0 for d in range(plane.dim()))].flatten()
                    known = mine[mine >= 0]
                    groups = torch.searchsorted(starts, known, right=True) - 1
                    elements.add_(torch.bincount(groups, minlength=len(elements)) * (x.numel() / mine.numel()))
        return stored_statistics(call)

    with as_found(model), torch.no_grad():
        model.eval()
        run(Tracer(model, Check(ids), table(), execute), model, example)
    found: Floats = np.maximum(elements.numpy() / np.array(coupling.widths), 1.0)
    return found


def macs(coupling: Coupling) -> Floats:
    """ΔC: for each group, the MACs that one channel less would save; at least 1."""
    dense = coupling.macs()
    less = [[w - (i == g) for i, w in enumerate(coupling.widths)] for g in range(len(coupling.groups))]
    return np.maximum([float(dense - coupling.macs(widths)) for widths in less], 1.0)


@dataclass(frozen=True)
class GroupFisher:
    """Mean over samples of (∂L_n/∂m)², by what a channel costs.

    batches: how many are read at most. per: "sample" divides each batch, one backward a sample, and is exact; "batch"
    squares the gradient of a batch's mean loss, which mixes its samples, and is as much faster as batches are large.
    normalise: "memory", "macs" or "none".
    """

    scope: str | None = None
    batches: int = 4
    per: Literal["sample", "batch"] = "sample"
    normalise: Literal["memory", "macs", "none"] = "memory"
    needs: ClassVar[frozenset[str]] = frozenset({"data", "loss", "example"})

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise InputError(f"group_fisher: batches={self.batches} must be at least 1")
        for what, value, allowed in (("per", self.per, ("sample", "batch")), ("normalise", self.normalise, COSTS)):
            if value not in allowed:
                raise UnknownName.of(f"group_fisher {what}", value, allowed)

    def score(
        self,
        model: nn.Module,
        coupling: Coupling,
        *,
        data: Iterable[Any],
        loss: Loss,
        example: Any,
        seed: int = 0,
    ) -> tuple[Floats, ...]:
        fisher, n = [np.zeros(w) for w in coupling.widths], 0
        for wg in products(model, data, loss, self.batches, per_sample=self.per == "sample"):
            fisher = [s + m**2 for s, m in zip(fisher, mask_gradients(coupling, wg), strict=True)]
            n += 1
        cost = np.ones(len(fisher))
        if self.normalise != "none":
            cost = memory(model, coupling, example) if self.normalise == "memory" else macs(coupling)
        return tuple(s / n / c for s, c in zip(fisher, cost.tolist(), strict=True))
