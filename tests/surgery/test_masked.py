"""How the masked network leaves out what is removed: by zeros in weights, or in what they read, whichever is less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import conv, head, image, lively, net, pool, tokens

import prunus
from prunus.graph.forward import run
from prunus.surgery import layers, masked, verify
from prunus.surgery.masked import masked_tracer


def grouped(s: Any, x: Tensor) -> Tensor:
    return s.h(pool(s.d(s.g(s.a(x).relu()).relu())))


def volume(s: Any, x: Tensor) -> Tensor:
    y = s.b(s.a(x.unsqueeze(2).expand(-1, -1, 4, -1, -1)).relu())
    return s.h(s.c(y.flatten(2)).mean(2))


CASES: dict[str, Callable[[], nn.Module]] = {
    "convolutions": lambda: net(lambda s, x: s.h(pool(s.b(s.a(x)))), a=conv(3, 8), b=conv(8, 6), h=head(6)),
    "groups and depthwise": lambda: net(
        grouped, a=conv(3, 8), g=nn.Conv2d(8, 12, 3, groups=4), d=nn.Conv2d(12, 24, 3, groups=12), h=head(24)
    ),
    "one and three dimensions": lambda: net(
        volume, a=nn.Conv3d(3, 8, 3, padding=1), b=nn.Conv3d(8, 6, 3), c=nn.Conv1d(6, 10, 3), h=head(10)
    ),
    "tokens": lambda: net(
        lambda s, x: s.h(s.b(tokens(s.a(x)).relu()).relu().mean(1)), a=conv(3, 8), b=head(8, 6), h=head(6)
    ),
    "a weight that is made": lambda: net(
        lambda s, x: s.h(pool(torch.conv2d(s.a(x), s.w * 2))), a=conv(3, 8), w=torch.randn(6, 8, 3, 3), h=head(6)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_both_ways_are_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and gradients."""
    model, x = lively(CASES[name]()).double(), image().double()
    plan = prunus.prune(model, x, "channels=50%").plan
    light: list[bool] = []
    weigh = masked.unread
    monkeypatch.setattr(masked, "unread", lambda *given: light.append((w := weigh(*given)) is not None) or w)

    def found() -> list[Tensor]:
        tracer, _ = masked_tracer(model, plan, double=True)
        out = run(tracer, model, x)
        return [out, *torch.autograd.grad(out.square().sum(), list(model.parameters()))]

    by_weight = found()
    assert sum(light) >= 1 + (len(light) > 3)
    monkeypatch.setattr(masked, "LAYERS", frozenset())
    for a, b in zip(by_weight, found(), strict=True):
        assert (a - b).abs().max() <= 1e-12 * b.abs().max()


def test_what_is_no_number_is_not_read() -> None:
    """A weight of zero would pass on the infinity of a removed channel."""
    model = lively(
        net(lambda s, x: s.h(pool(s.b(s.a(x) / s.w))), a=conv(3, 8), b=conv(8, 6), h=head(6), w=torch.ones(8, 1, 1))
    )
    with torch.no_grad():
        model.a.weight[3] *= 1e-3
        model.w.fill_(1)
        plan = prunus.prune(model, image(), "channels=80%").plan
        model.w[3] = 0
    assert 3 not in plan.kept[[g.width for g in plan.groups].index(8)]
    proof = verify(model, prunus.apply(model, plan), plan, image())
    assert proof.holds and proof.notes == () and proof.gradients > 0


def test_one_sample_that_is_laid_out_otherwise_is_normed_rightly() -> None:
    """Gradients of a batch norm whose result, or whose operand, is read as tokens: against two copies of the sample."""

    def gradients(copies: int, before: bool) -> list[Tensor]:
        torch.manual_seed(0)
        weight = torch.rand(8, dtype=torch.float64, requires_grad=True)
        x = torch.randn(1, 16, 8, dtype=torch.float64)
        to = torch.randn(1, 16, 8, dtype=torch.float64)
        x = x.repeat(copies, 1, 1).requires_grad_()
        image = x.transpose(1, 2).unflatten(2, (4, 4))
        out = layers.normed(image if before else image.contiguous(), None, None, weight, None, True)
        (out.flatten(2).transpose(1, 2) * to).sum().backward()
        assert x.grad is not None and weight.grad is not None
        return [x.grad[:1], weight.grad / copies]

    for before in (False, True):
        for one, two in zip(gradients(1, before), gradients(2, before), strict=True):
            assert (one - two).abs().max() < 1e-12
