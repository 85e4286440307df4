"""Widths that a module remembers as attributes: they follow where a split, a slice or a view is given them."""

from __future__ import annotations

import functools
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from zoo import conv, head, image, lively, pool

import prunus
from prunus.graph.told import Told, telling


def widths(coupling: prunus.Coupling) -> dict[str, int]:
    return {g.name: g.width for g in coupling.groups}


def cut(model: nn.Module, target: str = "channels=60%") -> prunus.Pruned:
    """By random scores, so that groups end at different shares; proven."""
    small = prunus.prune(model, image(), target, method="random")
    assert small.proof is not None and small.proof.worst < 1e-12
    return small


class Around(nn.Module):
    """conv a (16), the middle, pooled, linear h."""

    def __init__(self, middle: nn.Module, wide: int = 16) -> None:
        super().__init__()
        self.a, self.m, self.h = conv(3, 16), middle, head(wide)

    def forward(self, x: Tensor) -> Tensor:
        return self.h(pool(self.m(self.a(x).relu())))


class Halves(nn.Module):
    """As C2f of YOLO: equal pieces of a size that is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.c = 8
        self.k = conv(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.split((self.c, self.c), 1)
        return torch.cat([a, b, self.k(b)], 1)


class Part(nn.Module):
    """As FasterNet: the first channels are convolved, the others pass."""

    def __init__(self) -> None:
        super().__init__()
        self.dim_conv, self.dim_untouched = 4, 12
        self.k = conv(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(x, [self.dim_conv, self.dim_untouched], dim=1)
        return torch.cat([self.k(a), b], 1)


class Mixed(nn.Module):
    """As MixConv: a list of sizes, each with a depthwise convolution of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [8, 6, 2]
        self.k = nn.ModuleList(conv(n, n, 2 * i + 1, groups=n) for i, n in enumerate(self.sizes))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([k(t) for k, t in zip(self.k, torch.split(x, self.sizes, 1), strict=True)], 1)


class Modulated(nn.Module):
    """Scale and shift, sliced at an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.features = 16
        self.film = nn.Linear(16, 32)

    def forward(self, x: Tensor) -> Tensor:
        p = self.film(pool(x))[..., None, None]
        return x * p[:, : self.features] + p[:, self.features :]


class Limited(nn.Module):
    """A slice that ends behind the last channel says nothing of the width."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 64
        self.k = conv(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.k(x)[:, : self.limit]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("middle", "wide", "found", "numbers"),
    [
        (Halves, 24, {"a": 8, "m.k": 8}, {"c": 1}),  # one of each half at a time
        (Part, 16, {"a:0": 4, "a:1": 12, "m.k": 4}, {"dim_conv": 1, "dim_untouched": 1}),
        (Mixed, 16, {"a:0": 8, "a:1": 6, "a:2": 2}, {"sizes": 3}),
        (Modulated, 16, {"a": 16}, {"features": 1}),
        (Limited, 16, {"a": 16, "m.k": 16}, {}),
    ],
)
def test_what_prunes_and_the_attribute_follows(
    middle: type[nn.Module], wide: int, found: dict[str, int], numbers: dict[str, int]
) -> None:
    model = lively(Around(middle(), wide))
    coupling = prunus.trace(model, image())
    assert widths(coupling) == found
    assert Counter(a.name for a in coupling.attributes if a.path == "m") == numbers
    small = cut(model).model
    if middle is Halves:
        assert small.m.c == small.m.k.weight.shape[1] == small.a.weight.shape[0] // 2
    elif middle is Part:
        assert small.m.dim_conv == small.m.k.weight.shape[1]
        assert small.m.dim_conv + small.m.dim_untouched == small.a.weight.shape[0]
    elif middle is Mixed:
        assert small.m.sizes == [k.weight.shape[0] for k in small.m.k] and type(small.m.sizes) is list
    elif middle is Modulated:
        assert small.m.features == small.a.weight.shape[0]
    else:
        assert small.m.limit == 64
    assert not any(isinstance(n, Told) for n in vars(small.m).values())


class NonLocal(nn.Module):
    """One attribute says the width of two projections that nothing else ties."""

    def __init__(self) -> None:
        super().__init__()
        self.inter = 8
        self.g, self.theta, self.phi, self.w = (conv(*pair, 1) for pair in ((16, 8), (16, 8), (16, 8), (8, 16)))

    def forward(self, x: Tensor) -> Tensor:
        g, t, p = (k(x).view(x.shape[0], self.inter, -1) for k in (self.g, self.theta, self.phi))
        y = torch.matmul((t.transpose(1, 2) @ p).softmax(-1), g.transpose(1, 2)).transpose(1, 2)
        return x + self.w(y.reshape(x.shape[0], self.inter, *x.shape[2:]))


def test_groups_of_one_attribute_keep_the_same_width() -> None:
    model = lively(Around(NonLocal()))
    coupling = prunus.trace(model, image())
    assert widths(coupling) == {"a": 16, "m.g": 8, "m.theta": 8}
    assert [{coupling.groups[g].name for g in linked} for linked in coupling.links] == [{"m.g", "m.theta"}]
    small = cut(model).model
    assert small.m.inter == small.m.g.weight.shape[0] == small.m.theta.weight.shape[0] < 8


class Borrowed(nn.Module):
    """t is viewed by the width of g, which no attribute says: steps taken from all groups alike would run."""

    def __init__(self) -> None:
        super().__init__()
        self.g, self.t, self.w, self.v = (conv(*pair, 1) for pair in ((16, 8), (16, 8), (8, 16), (8, 16)))

    def forward(self, x: Tensor) -> Tensor:
        g, t = self.g(x), self.t(x)
        b, c, h, w = g.shape
        return x + self.w(g) + self.v(t.view(b, c, -1).relu().view(b, c, h, w))


def test_a_width_taken_from_another_layer_links_these_two_and_no_more() -> None:
    model = lively(Around(Borrowed()))
    coupling = prunus.trace(model, image())
    assert widths(coupling) == {"a": 16, "m.g": 8, "m.t": 8}
    assert [{coupling.groups[g].name for g in linked} for linked in coupling.links] == [{"m.g", "m.t"}]
    small = cut(model).model
    assert small.m.g.weight.shape[0] == small.m.t.weight.shape[0] < 8


class Doubled(Borrowed):
    """And by its width written down: nothing helps."""

    def forward(self, x: Tensor) -> Tensor:
        t = self.t(x)
        return super().forward(x) + 0 * t.view(x.shape[0], 8, -1).mean()


def test_widths_that_fail_together_too_are_pinned() -> None:
    model = lively(Around(Doubled()))
    coupling = prunus.trace(model, image())
    assert widths(coupling) == {"a": 16} and not coupling.links
    reasons = {p.name: p.reason for p in coupling.pinned}
    assert "written down" in reasons["m.g outputs"] and "written down" in reasons["m.t outputs"]
    cut(model)


@functools.cache
def shape(samples: int, width: int) -> tuple[int, int, int]:
    return samples, width, 64


class Cached(nn.Module):
    """The shape comes from a cache that all modules share, and with it the number of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 16
        self.k = conv(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.k(x).view(shape(x.shape[0], self.width)).view(x.shape)


def test_a_number_of_another_module_is_not_taken_for_the_running_one() -> None:
    shape.cache_clear()
    small = cut(lively(Around(nn.Sequential(Cached(), Cached())))).model
    assert small.m[0].width == small.m[1].width == small.a.weight.shape[0] < 16


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls, self.sizes, self.last = 2, [4, 4], 0

    def forward(self, x: Tensor) -> Tensor:
        assert type(self.sizes[0]) is Told and self.sizes[0].place == 0 and self.sizes[1].name == "sizes"
        self.last = self.sizes[0]
        self.calls += 1
        return x


def test_attributes_are_the_users_own_integers_afterwards() -> None:
    model = Counting()
    sizes = model.sizes
    with telling(model):
        model(torch.zeros(1))
    assert model.sizes is sizes and all(type(n) is int for n in sizes)
    assert type(model.last) is int and model.last == 4
    assert type(model.calls) is int and model.calls == 3


class Checked(nn.Module):
    """As diffusers' Downsample2D: the width is checked before it is used. `how`: the form of the check."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.channels, self.how, self.k = 16, how, conv(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "assert":
            assert x.shape[1] == self.channels
        elif self.how == "raise":
            _, c, _, _ = x.shape
            if self.channels != c:
                raise ValueError(f"{c} channels in place of {self.channels}")
        else:
            torch._assert(x.size(1) == self.channels, "channels")
        return self.k(x)


@pytest.mark.parametrize("how", ["assert", "raise", "torch"])
def test_a_width_that_is_checked_follows(how: str) -> None:
    middle = Checked(how)
    model, example = lively(Around(middle)), torch.randn(2, 3, 16, 16)  # as many places along an axis as channels
    coupling = prunus.trace(model, example)
    assert widths(coupling) == {"a": 16, "m.k": 16} and middle.channels == 16 and type(middle.channels) is int
    small = prunus.prune(model, example, "channels=60%", method="random")
    assert small.proof is not None and small.proof.worst < 1e-12
    assert small.model.m.channels == small.model.a.out_channels < 16


class Branching(nn.Module):
    """A width that is compared with a number of the code's own, right after another tensor's shape was read."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.channels, self.k = wide, conv(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        same = self.k(x) if x.shape[-1] > 1 and self.channels == 16 else x
        return same * 2


def test_a_width_that_is_compared_with_a_constant_changes_no_function() -> None:
    for wide in (16, 24):
        model = lively(Around(Branching(wide)))
        small = prunus.prune(model, image(), "channels=60%", method="random")
        assert small.proof is not None and small.proof.worst < 1e-12


def test_a_told_number_compares_as_a_plain_one() -> None:
    model = Around(Halves())
    with telling(model):
        number = model.m.c
        assert type(number) is Told and number == 8 and number == 8.0 and number != 8.5 and number != "8"
        assert (number != 8) is False and {8: "eight"}[number] == "eight" and number in (4, 8) and (number, 1) == (8, 1)
