"""Channel axes divided at shares of their width, as `[: width // 8]` divides them: equal parts keep equally many."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from zoo import conv, head, lively, pool

import prunus

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def filled(x: Tensor, fold: int) -> Tensor:
    """As the temporal shift module writes it."""
    out = torch.zeros_like(x)
    out[:-1, :fold] = x[1:, :fold]
    out[1:, fold : 2 * fold] = x[:-1, fold : 2 * fold]
    out[:, 2 * fold :] = x[:, 2 * fold :]
    return out


def partly_filled(x: Tensor, fold: int) -> Tensor:
    """The rest stays zero: what reads it there has no channels of `a`, so whole slots of the parts go."""
    out = x.new_zeros(x.shape)
    out[1:, fold : 3 * fold] = x[:-1, fold : 3 * fold]
    return out


def joined(x: Tensor, fold: int) -> Tensor:
    a, b, rest = x[:, :fold], x[:, fold : 2 * fold], x[:, 2 * fold :]
    a = torch.cat([a[1:], torch.zeros_like(a[:1])])
    b = torch.cat([torch.zeros_like(b[:1]), b[:-1]])
    return torch.cat([a, b, rest], 1)


def written(x: Tensor, fold: int) -> Tensor:
    """As S²-MLP shifts, in place."""
    out = x.clone()
    out[1:, : 2 * fold] = x[:-1, : 2 * fold]
    out[:-1, 2 * fold : 3 * fold] = x[1:, 2 * fold : 3 * fold]
    return out


def taken_apart(x: Tensor, fold: int) -> Tensor:
    a, b, rest = torch.split(x, [fold, fold, x.shape[1] - 2 * fold], 1)
    return torch.cat([a.roll(1, 0), b.roll(-1, 0), rest], 1)


def narrowed(x: Tensor, fold: int) -> Tensor:
    first = x.narrow(1, 0, 3 * fold)
    return torch.cat([first.relu(), x.narrow(1, 3 * fold, x.shape[1] - 3 * fold)], 1)


class Shifted(nn.Module):
    def __init__(self, how: Callable[[Tensor, int], Tensor], literal: bool = False, part: int = 8) -> None:
        super().__init__()
        self.a, self.b, self.h = conv(3, 32), conv(32, 24), head(24)
        self.how, self.literal, self.part = how, literal, part

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        fold = 4 if self.literal else x.shape[1] // self.part
        return self.h(pool(self.b(self.how(x, fold)).relu()))


WAYS = [filled, partly_filled, joined, written, taken_apart, narrowed]


@pytest.mark.parametrize("how", WAYS)
def test_shares_of_the_width_follow_it(how: Callable[[Tensor, int], Tensor]) -> None:
    model = lively(Shifted(how))
    coupling = prunus.trace(model, X)
    alone = (4, 1) if how is partly_filled else (32, 8)
    assert {g.name: (g.width, g.parts) for g in coupling.groups} == {"a": alone, "b": (24, 1)}
    small = prunus.prune(model, X, rates={"a": 0.5, "b": 0.25}, method="random")
    assert small.model.a.weight.shape[0] == 16 and small.model.b.weight.shape[1] == 16
    assert small.proof is not None and small.proof.worst < 1e-12


@pytest.mark.parametrize("how", WAYS)
def test_the_same_places_as_numbers_pin_that_layer_alone(how: Callable[[Tensor, int], Tensor]) -> None:
    model = lively(Shifted(how, literal=True))
    coupling = prunus.trace(model, X)
    assert {g.name: g.width for g in coupling.groups} == {"b": 24}
    assert next(p for p in coupling.pinned if p.name == "a outputs").reason.startswith("its width is written down")
    small = prunus.prune(model, X, "channels=60%", method="random")
    assert small.proof is not None and small.proof.worst < 1e-12


@pytest.mark.parametrize("part", [3, 5, 7])
def test_a_share_that_does_not_divide_the_width_pins_or_holds(part: int) -> None:
    """32 // 3 is 10: pairs may go where 2 divides all places. 32 // 7 is 4, and so is 28 // 7."""
    model = lively(Shifted(filled, part=part))
    small = prunus.prune(model, X, "macs=70%", method="random")
    assert small.proof is not None and small.proof.worst < 1e-12


def ends(x: Tensor, fold: int) -> Tensor:
    """All but the last few, as a number: places that are no shares."""
    return torch.cat([x[:, : x.shape[1] - 4].relu(), x[:, x.shape[1] - 4 :]], 1)


def test_places_counted_from_the_end_are_no_shares() -> None:
    model = lively(Shifted(ends))
    assert {g.name for g in prunus.trace(model, X).groups} == {"b"}
    assert prunus.prune(model, X, "macs=70%").proof is not None
