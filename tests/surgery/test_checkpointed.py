"""Regions under torch.utils.checkpoint: proven with gradients and running statistics, whatever their kind."""

from __future__ import annotations

import pytest
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from zoo import conv, head, image, lively, pool

import prunus
from prunus.state import uncheckpointed


class Region(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.a, self.h = conv(3, 12), head(12)
        self.b = nn.Sequential(conv(12, 16), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 12), nn.BatchNorm2d(12))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        return self.h(pool(y + checkpoint(self.b, y, use_reentrant=self.reentrant)))


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_region_is_traced_and_proven(reentrant: bool) -> None:
    model = lively(Region(reentrant))
    small = prunus.prune(model, image(2, 3, 8, 8), "channels=60%", method="random")
    assert {g.name: g.width for g in small.coupling.groups} == {"a": 12, "b.0": 16}
    assert small.proof is not None and small.proof.worst < 1e-12 and small.proof.notes == ()
    small.model.train()(image(2, 3, 8, 8)).sum().backward()  # still checkpointed
    assert all(p.grad is not None for p in small.model.parameters())


def test_checkpointing_is_put_back() -> None:
    before = dict(vars(torch.utils.checkpoint))
    with pytest.raises(ValueError), uncheckpointed():
        assert vars(torch.utils.checkpoint) != before
        raise ValueError
    assert vars(torch.utils.checkpoint) == before
