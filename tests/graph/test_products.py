"""Einsum and bilinear layers: what prunes, what stays, and masked == cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from zoo import conv, head, image, net, pool, tokens

import prunus
from prunus.graph.rules.products import letters


@pytest.mark.parametrize(
    ("equation", "shapes", "terms", "out"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)], [["i", "j"], ["j", "k"]], ["i", "k"]),
        (" b i j , j k ", [(1, 2, 3), (3, 4)], [["b", "i", "j"], ["j", "k"]], ["b", "i", "k"]),
        ("...c,oc->...o", [(1, 2, 3), (4, 3)], [["…1", "…0", "c"], ["o", "c"]], ["…1", "…0", "o"]),
        ("...a,...b", [(2, 3), (7, 2, 4)], [["…0", "a"], ["…1", "…0", "b"]], ["…1", "…0", "a", "b"]),
        ("ba", [(2, 3)], [["b", "a"]], ["a", "b"]),
    ],
)
def test_letters(equation: str, shapes: list[tuple[int, ...]], terms: list[list[str]], out: list[str]) -> None:
    assert letters(equation, shapes) == (terms, out)
    made = torch.einsum(equation, *(torch.empty(s) for s in shapes))
    assert made.dim() == len(out)


class Attention(nn.Module):
    """By einsum, tokens before heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.each = heads, width // heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)) for f in (self.q, self.k, self.v))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) * self.each**-0.5
        out: Tensor = self.out(torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(2))
        return out


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    groups: dict[str, int]
    reason: str = ""


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape))


CASES: dict[str, Case] = {
    "a linear layer": Case(
        lambda: net(
            lambda s, x: s.h(torch.einsum("nc,oc->no", pool(s.a(x)), s.w)), a=conv(3, 8), w=weight(6, 8), h=head(6)
        ),
        {"a": 8, "w": 6},
    ),
    "a 1 x 1 convolution, operands in a list": Case(
        lambda: net(
            lambda s, x: s.h(pool(torch.einsum("oc,n c ...->n o ...", [s.w, s.a(x).relu()]).relu())),
            a=conv(3, 8),
            w=weight(6, 8),
            h=head(6),
        ),
        {"a": 8, "w": 6},
    ),
    "channels weighed": Case(
        lambda: net(
            lambda s, x: s.h(pool(torch.einsum("nchw,nc->nchw", s.a(x), pool(s.b(x)).sigmoid()))),
            a=conv(3, 8),
            b=conv(3, 8),
            h=head(8),
        ),
        {"a": 8},
    ),
    "channels against channels": Case(
        lambda: net(
            lambda s, x: s.h(torch.einsum("nchw,ndhw->ncd", s.a(x), s.b(x)).sum(2)),
            a=conv(3, 8),
            b=conv(3, 6),
            h=head(8),
        ),
        {"a": 8, "b": 6},
    ),
    "a sum over one operand": Case(
        lambda: net(
            lambda s, x: s.h(pool(s.b(x)) * torch.einsum("nchw->n", s.a(x))[:, None]),
            a=conv(3, 8),
            b=conv(3, 6),
            h=head(6),
        ),
        {"a": 8, "b": 6},
    ),
    "a vector of the model": Case(
        lambda: net(
            lambda s, x: s.h(
                torch.mul(
                    pool(s.a(x)) + torch.outer((pool(s.b(x)) @ s.v).tanh(), s.w),
                    torch.dot(s.v, pool(s.b(x))[0]).sigmoid() + (s.m @ s.w).sum() + torch.mv(s.m, s.w).mean(),
                )
            ),
            a=conv(3, 8),
            b=conv(3, 6),
            v=weight(6),
            w=weight(8),
            m=weight(4, 8),
            h=head(8),
        ),
        {"a": 8, "b": 6, "m": 4},
    ),
    "three operands": Case(
        lambda: net(
            lambda s, x: s.h(torch.einsum("nc,oc,on->no", pool(s.a(x)), s.w, s.v)),
            a=conv(3, 8),
            w=weight(6, 8),
            v=weight(6, 1),
            h=head(6),
        ),
        {"a": 8, "w": 6},
    ),
    "attention": Case(
        lambda: net(lambda s, x: s.h(s.t(tokens(s.a(x))).mean(1)), a=conv(3, 8), t=Attention(8, 4), h=head(8)),
        {"a": 8, "t.q": 4, "t.out": 8},
    ),
    "a diagonal": Case(
        lambda: net(
            lambda s, x: s.h(pool(torch.einsum("nchw,cc->nchw", s.a(x), s.w))), a=conv(3, 8), w=weight(8, 8), h=head(8)
        ),
        {},
        "cc takes a diagonal",
    ),
    "bilinear": Case(
        lambda: net(
            lambda s, x: s.h(s.m(pool(s.a(x)), pool(s.b(x))).relu()),
            a=conv(3, 8),
            b=conv(3, 6),
            m=nn.Bilinear(8, 6, 7),
            h=head(7),
        ),
        {"a": 8, "b": 6, "m": 7},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_prunes_and_masked_is_cut(name: str) -> None:
    case = CASES[name]
    model = case.make()
    coupling = prunus.trace(model, image())
    assert {g.name: g.width for g in coupling.groups} == case.groups
    assert not case.reason or any(case.reason in p.reason for p in coupling.pinned)
    assert coupling.macs() == prunus.cost(model, image()).macs
    if not case.groups:
        return
    for seed in range(2):
        small = prunus.prune(model, image(), "macs=60%", "random", seed=seed)
        assert small.proof is not None and small.proof.worst < 1e-10
        assert small.after.macs <= 0.6 * small.before.macs
        # the order in which three operands are multiplied is einsum's own: their work counts as it was in the dense net
        counted = coupling.macs(small.plan.widths)
        assert small.after.macs == counted or ("three" in name and small.after.macs < counted)


def test_attributes_follow() -> None:
    made: Any = prunus.prune(CASES["bilinear"].make(), image(), widths={"a": 5, "b": 4, "m": 3}).model
    assert (made.m.in1_features, made.m.in2_features, made.m.out_features) == (5, 4, 3)
