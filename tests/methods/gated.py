"""Small networks for the tests of gates, and a training of one as a program of its own, alone or in several processes.

python tests/methods/gated.py out.pt
"""

from __future__ import annotations

import os
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.engine.processes import leave
from prunus.methods import Gates
from prunus.methods.gating import Gating
from prunus.models.shortcut import Shortcut, centred

EXAMPLE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """Two blocks on one stream, a third that widens it by a map: gates 8 (stream), 6, 6, 6 inside, 12 at the end, or
    that many times `wide`.

    With `gates`, one vector for each group, activations are multiplied: behind every ReLU as published, or where they
    are read ("reads").
    """

    def __init__(self, norm: bool = True, wide: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        c, i, o = 8 * wide, 6 * wide, 12 * wide
        self.stem = nn.Conv2d(3, c, 3, padding=1, bias=False)
        self.first = nn.ModuleList(nn.Conv2d(c, i, 3, s, 1, bias=False) for s in (1, 1, 2))
        self.second = nn.ModuleList(nn.Conv2d(i, n, 3, 1, 1, bias=False) for n in (c, c, o))
        self.norms = nn.ModuleList((nn.BatchNorm2d if norm else Affine)(n) for n in (c, i, c, i, c, i, o))
        self.widen = Shortcut(centred(c, o), 2)
        self.head = nn.Linear(o, 4)
        for module in self.norms:
            nn.init.uniform_(module.bias, -0.5, 0.5)  # type: ignore[arg-type]
        self.gates: dict[str, Tensor] | None = None
        self.place = "published"

    def on(self, x: Tensor, group: str, place: str) -> Tensor:
        if self.gates is None or place != self.place:
            return x
        return x * self.gates[group].view(-1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        stream = "stem"
        x = self.on(F.relu(self.norms[0](self.stem(x))), stream, "published")
        for k in range(3):
            inside = f"first.{k}"
            read = self.on(x, stream, "reads")
            y = F.relu(self.norms[1 + 2 * k](self.first[k](read)))
            y = self.on(self.on(y, inside, "published"), inside, "reads")
            y = self.norms[2 + 2 * k](self.second[k](y))
            shortcut = self.widen(read) if k == 2 else x
            stream = "second.2" if k == 2 else "stem"
            x = self.on(F.relu(y + shortcut), stream, "published")
        return self.head(self.on(x, stream, "reads").mean((2, 3)))


class Affine(nn.Module):
    """A norm without statistics: what processes compute on parts of a batch is then what one computes on all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


def vectors(h: Gating, values: Tensor) -> dict[str, Tensor]:
    """A flat vector as one for each group."""
    return dict(zip((g.name for g in h.coupling.groups), values.split(list(h.coupling.widths)), strict=True))


def batch(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """A task that can be learnt: the class is the quadrant that is lit."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 4, (n,), generator=g)
    x = torch.randn(n, 3, 8, 8, generator=g)
    for k in range(n):
        i, j = divmod(int(y[k]), 2)
        x[k, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] += 1.0
    return x, y


def main(out: str) -> None:
    """Ten steps with gates in a loop of one's own, in as many processes as there are."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    model = Residual(norm=False)
    h = Gates(init=0.52, lr_scale=1.0, refresh=3, alpha_nuc=0.01).attach(model, EXAMPLE, "macs=60%", epochs=3)
    assert isinstance(h, Gating)
    net: nn.Module = model
    if world > 1:
        torch.distributed.init_process_group("gloo")
        net = nn.parallel.DistributedDataParallel(model)
    groups = [{"params": list(model.parameters())}, *h.param_groups(lr=0.05)]
    sgd = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    for step in range(10):
        if step % 4 == 0:
            h.epoch_start(step // 4)
        x, y = batch(8, step)
        sgd.zero_grad()
        (F.cross_entropy(net(x[rank::world]), y[rank::world]) + h.penalty()).backward()
        sgd.step()
        h.after_step()
    if rank == 0:
        torch.save({"w": h.w.detach(), "head": model.head.weight.detach(), "widths": h.widths, "frozen": h.frozen}, out)
    if world > 1:
        leave()


if __name__ == "__main__":
    main(sys.argv[1])
