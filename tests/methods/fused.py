"""A training with fused filters as a program of its own, alone or in several processes.

python tests/methods/fused.py out.pt
"""

from __future__ import annotations

import os
import sys

import torch
import torch.nn.functional as F
from methods.gated import EXAMPLE, Residual, batch
from torch import nn

from prunus.engine.processes import leave
from prunus.methods import DCFF
from prunus.methods.fusing import Fusing


def main(out: str) -> None:
    """Eight steps in a loop of one's own, in as many processes as there are. They begin with weights of their own, and
    DDP gives all those of the first."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    model = Residual(norm=False)
    with torch.no_grad():
        model.stem.weight.mul_(1 + rank)
    h = DCFF().attach(model, EXAMPLE, "channels=60%", epochs=3)
    assert isinstance(h, Fusing)
    net: nn.Module = model
    if world > 1:
        torch.distributed.init_process_group("gloo")
        net = nn.parallel.DistributedDataParallel(model)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    h.hold(sgd)
    for step in range(8):
        if step % 3 == 0:
            h.epoch_start(step // 3)
        x, y = batch(8, step)
        sgd.zero_grad()
        F.cross_entropy(net(x[rank::world]), y[rank::world]).backward()
        sgd.step()
        h.after_step()
    if rank == world - 1:
        assert h.kept is not None
        behind = {name: site.behind for name, site in h.sites.items()}
        torch.save({"behind": behind, "kept": [ids.tolist() for ids in h.kept]}, out)
    if world > 1:
        leave()


if __name__ == "__main__":
    main(sys.argv[1])
