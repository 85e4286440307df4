"""Attention whose queries or keys are weighed with a table of relative positions, beside their product."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import image, lively, tokens

import prunus
from prunus.graph.rules.heads import SCALE


class Positions(nn.Module):
    """Two heads of six, called twice. read: what meets the table, of "q", "k", "qk" and nothing."""

    def __init__(self, read: str) -> None:
        super().__init__()
        self.stem, self.h = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(12, 4)
        self.q, self.k, self.v = (nn.Linear(8, 12) for _ in range(3))
        self.read, self.table = read, nn.Parameter(torch.randn(9, 6))

    def forward(self, x: Tensor) -> Tensor:
        t = tokens(self.stem(x))
        q, k, v = (part(t).view(*t.shape[:2], 2, -1).transpose(1, 2) for part in (self.q, self.k, self.v))
        for _ in range(2):
            bias = None
            if "q" in self.read:
                bias = torch.matmul(q, self.table.T)
            if "k" in self.read:
                bias = torch.matmul(k, self.table.T) + (0 if bias is None else bias)
            v = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.h(v.transpose(1, 2).flatten(2).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("read", "folded"), [("", "q"), ("q", "k"), ("k", "q")])
def test_the_scale_goes_where_nothing_else_reads(read: str, folded: str) -> None:
    """Into rows that a table of positions reads it would change what is read there."""
    model = lively(Positions(read))
    small = prunus.prune(model, image(), "channels=60%", "uniform", attention="width")
    assert small.proof is not None and small.proof.holds and small.proof.gradients > 0
    assert small.model.q.out_features < 12
    assert {name.partition(".")[0] for name, _ in small.plan.factors()} == {folded}


def test_where_both_are_read_the_width_stays() -> None:
    model = lively(Positions("qk"))
    assert any(SCALE in pin.reason for pin in prunus.trace(model, image(), attention="width").pinned)
    small = prunus.prune(model, image(), "channels=80%", attention="width")
    assert small.proof is not None and small.proof.holds and small.model.q.out_features == 12
