"""The nuclear-norm term of gates, without a singular value decomposition. Section 3 of the paper in `gates`.

    L_nuc = mean_l | ‖W_l‖_* − ‖diag(g_l) W_l‖_* |

over all convolutions, W_l as (Cout, Cin·kh·kw), weights detached: minimised, it resists pruning that loses rank. With
M = diag(g) W, the gradient of ‖M‖_* is the polar factor P = U Vᵀ of M, and that of a gate ∂‖M‖_*/∂g_i = Σ_j P_ij W_ij.

P = (M Mᵀ)^{−½} M = M (Mᵀ M)^{−½}: one eigendecomposition of the smaller side's Gram matrix, in float64, since the Gram
matrix squares the condition; matrices of one shape go together. Singular values up to eps times the largest count as
null and take no part: their vectors are noise, and a row that a gate shut has exactly 0. Such a gate comes back through
the budget and the task alone. A layer with all gates open has the subgradient 0, as |·| at 0, and is not decomposed;
of W itself the eigenvalues are enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..graph.coupling import Coupling
from .budget import precise

EPS = 1e-5


def polar(m: Tensor, eps: float = EPS) -> tuple[Tensor, Tensor]:
    """For matrices (…, rows, columns): their nuclear norms (…), and U Vᵀ over the singular values above eps·σ_max."""
    tall = m.shape[-2] > m.shape[-1]
    values, basis = torch.linalg.eigh(gram(m))
    sigma = living(values, eps)
    inverse = torch.where(sigma > 0, 1 / sigma, torch.zeros_like(sigma))
    root = (basis * inverse.unsqueeze(-2)) @ basis.mT
    p = m @ root if tall else root @ m
    return sigma.sum(-1), p * (m != 0).any(-1, keepdim=True)


def nuclear(m: Tensor, eps: float = EPS) -> Tensor:
    """The norms that `polar` gives, without the factor."""
    return living(torch.linalg.eigvalsh(gram(m)), eps).sum(-1)


def gram(m: Tensor) -> Tensor:
    """Of the smaller side."""
    return m.mT @ m if m.shape[-2] > m.shape[-1] else m @ m.mT


def living(values: Tensor, eps: float) -> Tensor:
    """Singular values from the eigenvalues of a Gram matrix; 0 where they count as null."""
    sigma = values.clamp(min=0).sqrt()
    return sigma * (sigma > eps * sigma.amax(-1, keepdim=True))


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution: its weight, and for each row the flat index of its gate; one past the last gate: it has none."""

    weight: Tensor
    name: str
    gate: Tensor


def layers_of(model: nn.Module, coupling: Coupling, offsets: Sequence[int], total: int) -> list[Layer]:
    """All convolutions of a model."""
    gates: dict[str, Tensor] = {}
    for first, group in zip(offsets, coupling.groups, strict=False):
        for member in group.members:
            if member.role == "out" and member.axis == 0:
                length = coupling.fingerprint[member.tensor][0][0]
                index = gates.setdefault(member.tensor, torch.full((length,), total))
                index[torch.from_numpy(member.positions)] = first + torch.arange(group.width)[:, None]
    found = []
    for path, module in model.named_modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and isinstance(
            module._parameters.get("weight"), Tensor
        ):
            name = f"{path}.weight" if path else "weight"
            weight = module.weight
            index = gates.get(name, torch.full((weight.shape[0],), total))
            found.append(Layer(weight, name, index.to(weight.device)))
    return found


@torch.no_grad()
def resistance(layers: Sequence[Layer], weights: Sequence[Tensor], on: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """L_nuc and its gradient with respect to the gates (total,), which is 0 for those that are off.

    weights: the values of each layer's weight. on: open gates (total,), bool.
    """
    total, dtype = on.numel(), precise(on.device)
    known = torch.cat([on, on.new_ones(1)])
    slope, value = torch.zeros(total + 1, dtype=dtype, device=on.device), torch.zeros((), dtype=dtype, device=on.device)
    shapes: dict[tuple[int, int], list[int]] = {}
    for i, w in enumerate(weights):
        shapes.setdefault((w.shape[0], w[0].numel()), []).append(i)
    for members in shapes.values():
        index = torch.stack([layers[i].gate for i in members])
        less = [k for k, shut in enumerate((~known[index]).any(-1).tolist()) if shut]
        if not less:
            continue
        index = index[less]
        full = torch.stack([weights[members[k]].detach().flatten(1).to(dtype) for k in less])
        masked = full * known[index].unsqueeze(-1)
        norms, factors = polar(masked, eps)
        lost = (nuclear(full, eps) - norms).clamp(min=0)
        value += lost.sum()
        pull = (factors * masked).sum(-1) * (lost > 0).unsqueeze(-1)
        slope.index_add_(0, index.reshape(-1), -pull.reshape(-1))
    return value / len(layers), slope[:-1] * on / len(layers)
