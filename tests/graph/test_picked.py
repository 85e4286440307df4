"""Tokens picked, added and scattered by an index: channels pass, unless they are what is picked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from zoo import conv, head, image, net, pool, tokens

import prunus


def best(s: nn.Module, t: Tensor) -> Tensor:
    """The index of six tokens, for every channel the same."""
    return s.score(t).squeeze(-1).topk(6, dim=1).indices.unsqueeze(-1).expand(-1, -1, t.shape[-1])


def spread(s: nn.Module, t: Tensor) -> Tensor:
    index = best(s, t)
    return torch.zeros_like(t).scatter_add(1, index, s.b(t.gather(1, index)))


def summed(s: nn.Module, t: Tensor) -> Tensor:
    rows = torch.tensor([3, 1, 3])
    return torch.zeros_like(t).index_add_(1, rows, s.b(t[:, :3]))


PASS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "gather": lambda s, t: s.b(t.gather(1, best(s, t))) + t[:, :6],
    "gather and scatter": lambda s, t: t + spread(s, t),
    "index_select": lambda s, t: t[:, :3] + s.b(t.index_select(1, torch.tensor([5, 1, 1]))),
    "index_add": lambda s, t: t + summed(s, t),
    "index_copy": lambda s, t: t.index_copy(1, torch.tensor([2]), s.b(t[:, :1])),
}


@pytest.mark.parametrize("name", PASS)
def test_channels_pass_and_are_tied(name: str) -> None:
    model = net(
        lambda s, x: s.h(PASS[name](s, tokens(s.a(x).relu())).mean(1)),
        a=conv(3, 16), b=head(16, 16), score=head(16, 1), h=head(16),
    )  # fmt: skip
    coupling = prunus.trace(model, image())
    assert {g.name: g.width for g in coupling.groups} == {"a": 16} and not coupling.unknown_ops
    made = {m.tensor for m in coupling.groups[0].members if m.role == "out"}
    assert made == {"a.weight", "b.weight"}  # one stream
    small = prunus.prune(model, image(), "channels=60%", method="random")
    assert small.proof is not None and small.proof.worst < 1e-12


STAY: dict[str, Callable[[Tensor], Tensor]] = {
    "index_select": lambda y: y.index_select(1, torch.arange(12).flip(0)),
    "gather": lambda y: y.gather(1, torch.zeros(1, 12, 8, 8, dtype=torch.long)),
    "index_add": lambda y: torch.zeros_like(y).index_add(1, torch.arange(12).flip(0), y),
}


@pytest.mark.parametrize("name", STAY)
def test_channels_that_are_picked_stay(name: str) -> None:
    model = net(lambda s, x: s.h(pool(STAY[name](s.b(s.a(x).relu())))), a=conv(3, 8), b=conv(8, 12), h=head(12))
    coupling = prunus.trace(model, image())
    assert {g.name: g.width for g in coupling.groups} == {"a": 8}
    assert "chosen by an index" in {p.name: p.reason for p in coupling.pinned}["b outputs"]
