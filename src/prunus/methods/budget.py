"""A budget as a loss on soft widths. Section 3 of the paper in `gates`.

    L_mac = α · 13.894 · ((C − (1−p)·T) / T)²        "scaled", the default
    L_mac = α · ((C − (1−p)·T) / 10⁹)²               "published"

C is the cost at the widths of now, T that of the dense network, p the fraction to remove. 13.894 is (T / 10⁹)² of
ResNet-50 as the paper counts it, so that both are the same there, and the default is the same for small networks.

The paper counts ResNet-50's 49 convolutions of the main path, T = 3 727 474 688, and leaves out shortcuts and the last
layer: the asked and the true ratio differ by 4 points. Here everything is counted; its count comes with "published".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..graph.coupling import Coupling
from ..select import Costs
from ..target import Target

SCALE = 13.894


def mac_loss(c: Tensor, goal: float, t: float, alpha: float) -> Tensor:
    """α · 13.894 · ((C − goal) / T)²."""
    return alpha * SCALE * ((c - goal) / t) ** 2


def published_mac_loss(c: Tensor, goal: float, alpha: float) -> Tensor:
    """α · ((C − goal) / 10⁹)²."""
    return alpha * ((c - goal) / 1e9) ** 2


def mixed(kind: int, l_nuc: Tensor, l_mac: Tensor, c: float | Tensor, t: float, lam: float = 1.0) -> Tensor:
    """The adaptive mixes of the two losses: c the share of the cost that is left, t the share that shall be left,
    r = |c − t| / (1 − t).

    1: e^{−λr} L_nuc + (1 − e^{−λr}) L_mac;  2: (1 − e^{λ(r−1)}) L_nuc + e^{λ(r−1)} L_mac;  0: the sum. The weights are
    constants: no gradient goes through r. Kind 2 takes r as 1 where it is more, at a cost below 2t − 1: there the
    formula turns the sign of L_nuc, and what resists the loss of rank would seek it.
    """
    if kind == 0:
        return l_nuc + l_mac
    r = torch.as_tensor(c).detach().sub(t).abs() / max(1 - t, 1e-12)
    if kind == 1:
        near = torch.exp(-lam * r)
        return near * l_nuc + (1 - near) * l_mac
    far = torch.exp(lam * (r.clamp(max=1) - 1))
    return (1 - far) * l_nuc + far * l_mac


def main_path(model: nn.Module, coupling: Coupling) -> Coupling:
    """The coupling with the work that the paper counts: convolutions, without those of shortcuts.

    Raises InputError for a network that is none of torchvision's ResNets.
    """
    if not type(model).__module__.startswith("torchvision.models.resnet"):
        raise InputError(
            f"gates: form='published' is the count of torchvision's ResNets, and this is a {type(model).__name__}; "
            "use form='scaled'"
        )
    convolutions = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    work = tuple(w for w in coupling.work if w.path in convolutions and ".downsample" not in w.path)
    return replace(coupling, work=work, fixed_macs=0)


@dataclass(frozen=True, eq=False)
class Soft:
    """`select.Costs` on tensors: for widths that a gradient goes through."""

    fixed: Tensor  # (forms,)
    matrix: Tensor  # (forms, groups)
    terms: Mapping[str, tuple[Tensor, Tensor]]
    constant: Mapping[str, int]
    samples: Mapping[str, int]

    @classmethod
    def of(cls, coupling: Coupling, device: torch.device) -> Soft:
        """The costs of a coupling, in float64 where the device has it."""
        costs, dtype = Costs.of(coupling), precise(device)
        return cls(
            torch.from_numpy(costs.fixed).to(device, dtype),
            torch.from_numpy(costs.matrix).to(device, dtype),
            {
                kind: (torch.from_numpy(times).to(device, dtype), torch.from_numpy(forms).to(device))
                for kind, (times, forms) in costs.terms.items()
            },
            costs.constant,
            costs.samples,
        )

    def __call__(self, widths: Tensor, kind: str) -> Tensor:
        """The cost of one kind at widths (groups,): a scalar."""
        if kind == "channels":
            return widths.sum()
        times, forms = self.terms[kind]
        sizes = self.fixed + self.matrix @ widths.to(self.fixed.dtype)
        factors = sizes[forms]
        product = times
        for k in range(factors.shape[1]):
            product = product * factors[:, k]
        return (product.sum() + self.constant[kind]) / self.samples[kind]


@dataclass(frozen=True, eq=False)
class Budget:
    """What a target asks, by kind: the cost that may remain, and the dense cost."""

    soft: Soft
    limits: Mapping[str, float]
    dense: Mapping[str, int]
    published: bool

    @classmethod
    def of(cls, model: nn.Module, coupling: Coupling, goal: Target, form: str, device: torch.device) -> Budget:
        """The budgets of a target. Raises InputError where the form cannot count them."""
        published = form == "published"
        if published and set(goal.budgets) != {"macs"}:
            raise InputError(f"gates: form='published' knows a budget of macs alone, not {goal}")
        counted = main_path(model, coupling) if published else coupling
        dense = Costs.of(counted)(np.array(counted.widths, np.int64))
        limits = goal.limits({kind: float(value) for kind, value in dense.items()})
        return cls(Soft.of(counted, device), limits, dense, published)

    def loss(self, widths: Tensor, alpha: float) -> tuple[Tensor, Tensor, float]:
        """L_mac summed over the budgets; and of the one that is farthest from its limit, c and t."""
        total, apart = torch.zeros((), dtype=self.soft.fixed.dtype, device=widths.device), []
        for kind, limit in self.limits.items():
            cost, t = self.soft(widths, kind), float(self.dense[kind])
            form = published_mac_loss(cost, limit, alpha) if self.published else mac_loss(cost, limit, t, alpha)
            total = total + form
            apart.append((cost.detach() / t, limit / t))
        if len(apart) == 1:
            return total, *apart[0]
        share = torch.stack([(c - t).abs() / max(1 - t, 1e-12) for c, t in apart]).amax()
        t = math.fsum(t for _, t in apart) / len(apart)
        return total, t + share * (1 - t), t


def precise(device: torch.device) -> torch.dtype:
    """float64, or float32 where the device has none."""
    return torch.float32 if device.type == "mps" else torch.float64
