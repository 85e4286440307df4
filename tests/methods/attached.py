"""A program: every method with a training part in a loop of one's own, in as many processes as there are.

python tests/methods/attached.py out.pt
"""

from __future__ import annotations

import os
import sys

import torch
import torch.nn.functional as F
from methods.gated import EXAMPLE, Residual, batch
from torch import nn

from prunus.engine.processes import leave
from prunus.methods import METHODS

TRAINED = tuple(name for name, (method, _) in METHODS.items() if hasattr(method, "attach"))
STEPS, EPOCHS = 6, 3


def trained(name: str, rank: int, world: int) -> dict[str, torch.Tensor]:
    """The weights after six steps on batches of eight. Norms use stored statistics, which no process has of its own."""
    model = Residual().eval()
    target = "weights=50%" if name == "weights" else "macs=60%"
    h = METHODS[name][0].attach(model, EXAMPLE, target, EPOCHS)  # type: ignore[union-attr]
    net = nn.parallel.DistributedDataParallel(model) if world > 1 else model
    sgd = torch.optim.SGD([{"params": list(model.parameters())}, *h.param_groups()], lr=0.05, momentum=0.9)
    if hasattr(h, "hold"):
        h.hold(sgd)
    for step in range(STEPS):
        if step % 2 == 0:
            h.epoch_start(step // 2)
        x, y = batch(8, step)
        sgd.zero_grad()
        (F.cross_entropy(net(x[rank::world]), y[rank::world]) + h.penalty()).backward()
        sgd.step()
        h.after_step()
    h.settle()
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def main(out: str) -> None:
    """All methods, one after the other; the first process writes the weights."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if world > 1:
        torch.distributed.init_process_group("gloo")
    found = {name: trained(name, rank, world) for name in TRAINED}
    if rank == 0:
        torch.save(found, out)
    if world > 1:
        leave()


if __name__ == "__main__":
    main(sys.argv[1])
