"""Tensors that the code makes of one number: they are as wide as what they meet, and channels pass through them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import conv, head, image, lively, pool

import prunus
from prunus.surgery.proof import eval_gap


def tokens(batch: int = 2, length: int = 5, width: int = 6) -> Tensor:
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(1))


def free(coupling: prunus.Coupling) -> set[str]:
    """The tensors whose channels can go."""
    return {member.tensor for group in coupling.groups for member in group.members}


def reasons(coupling: prunus.Coupling) -> dict[str, str]:
    return {pinned.name.split()[0]: pinned.reason for pinned in coupling.pinned}


class Base(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, width), nn.Linear(width, width), nn.Linear(width, 3)


class Messages(Base):
    """Sums what neighbours send, as graph networks do."""

    start = "zeros"

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x[0]).relu()
        sources, targets = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([1, 2, 3, 4, 0, 2])
        sent = self.b(h)[sources]
        if self.start == "zeros":
            out = torch.zeros(len(h), sent.shape[-1]).to(sent)
            out = out.index_add(0, targets, sent)
        elif self.start == "in place":
            out = sent.new_zeros((len(h), sent.shape[-1]))
            out.index_add_(0, targets, sent)
        elif self.start == "full":
            out = sent.new_full((len(h), sent.shape[1]), 0.5).index_add(0, targets, sent)
        elif self.start == "scatter":
            out = torch.zeros_like(sent[: len(h)]).scatter_add(0, targets[:, None].expand_as(sent), sent)
        else:
            out = torch.zeros(len(h), sent.shape[-1], dtype=sent.dtype)
            out = out.scatter_reduce(0, targets[:, None].expand_as(sent), sent, "amax")
        result: Tensor = self.c(out.tanh())
        return result


@pytest.mark.parametrize("start", ["zeros", "in place", "full", "scatter", "reduce"])
def test_targets_of_a_scatter_take_the_channels_of_what_is_scattered(start: str) -> None:
    model = lively(Messages())
    model.start = start
    small = prunus.prune(model, tokens(1), "macs=50%")
    assert small.model.b.out_features < 16 and small.model.a.out_features < 16
    assert eval_gap(model, small.model, small.plan, tokens(1)) < 1e-12


class Scan(Base):
    """A state that starts at zeros, and results that are written step by step."""

    def forward(self, x: Tensor) -> Tensor:
        u = self.a(x)
        batch, length, width = u.shape
        state = torch.zeros(batch, width, dtype=u.dtype)
        out = torch.empty(batch, length, width, dtype=u.dtype)
        for t in range(length):
            state = 0.9 * state + u[:, t]
            out[:, t] = state
        result: Tensor = self.c(out.mean(1))
        return result


def test_a_scan_from_zeros_into_an_empty_tensor_is_cut() -> None:
    model = lively(Scan())
    small = prunus.prune(model, tokens(), "macs=50%")
    assert small.model.a.out_features < 16
    assert eval_gap(model, small.model, small.plan, tokens(3, 4)) < 1e-12


class Cell(Base):
    """A recurrent cell whose state has the width that an attribute says."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__(hidden)
        self.hidden = hidden

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], self.hidden, dtype=x.dtype)
        for t in range(x.shape[1]):
            h = torch.tanh(self.a(x[:, t]) + self.b(h))
        out: Tensor = self.c(h)
        return out


def test_a_state_as_wide_as_an_attribute_says_shrinks_with_it() -> None:
    model = lively(Cell())
    coupling = prunus.trace(model, tokens())
    assert {"a.weight", "b.weight", "c.weight"} <= free(coupling)
    small = prunus.prune(model, tokens(), "macs=50%")
    assert small.model.hidden == small.model.b.in_features == small.model.b.out_features == small.plan.widths[0] < 16
    assert eval_gap(model, small.model, small.plan, tokens(3, 7)) < 1e-12


class Written(Cell):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x[:, 0]) + torch.zeros(x.shape[0], 16)
        out: Tensor = self.c(self.b(h).relu() * torch.ones(16))
        return out


def test_a_width_written_into_zeros_is_pinned() -> None:
    coupling = prunus.trace(lively(Written()), tokens())
    assert not coupling.groups
    assert {"written down" in why for name, why in reasons(coupling).items() if name in ("a", "b")} == {True}


class Routed(Base):
    """Two experts, each for the tokens that a mask gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.d = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        mine = x[..., 0] > 0
        out = torch.zeros_like(h)
        out[mine] = self.b(h[mine])
        out[~mine] = self.d(h[~mine])
        result: Tensor = self.c(out.relu().mean(1))
        return result


def test_what_a_mask_chooses_along_other_axes_keeps_its_channels() -> None:
    model = lively(Routed())
    coupling = prunus.trace(model, tokens())
    assert {"a.weight", "b.weight", "d.weight"} <= free(coupling)
    group = next(g for g in coupling.groups if "b.weight" in g.producers())
    assert {"b.weight", "d.weight"} <= set(group.producers())
    small = prunus.prune(model, tokens(), "macs=60%")
    assert small.model.b.out_features == small.model.d.out_features < 16
    assert eval_gap(model, small.model, small.plan, tokens(3, 6)) < 1e-12


class Gathered(Base):
    """The same with lists of places, and sums at them."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).flatten(0, 1)
        places = torch.arange(len(h)).flip(0)
        out = torch.zeros(h.shape, dtype=h.dtype)
        out[places] = self.b(h[places])
        result: Tensor = self.c(out.relu()).mean(0, keepdim=True)
        return result


def test_what_is_written_at_places_of_another_axis_keeps_its_channels() -> None:
    model = lively(Gathered())
    small = prunus.prune(model, tokens(), "macs=60%")
    assert small.model.a.out_features == small.model.b.out_features < 16  # one says the size, the other fills it
    assert eval_gap(model, small.model, small.plan, tokens(3, 6)) < 1e-12


class Uneven(Base):
    """Tensors of one number no more: in part of the channels, through a view, at random."""

    how = "part"

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        scale = torch.ones(h.shape[-1], dtype=h.dtype)
        if self.how == "part":
            scale[: len(scale) // 2] = 0.5
        elif self.how == "view":
            scale[:] = scale.cumsum(0)
        elif self.how == "seen through a view":
            whole = scale.view(1, -1)
            scale.copy_(torch.linspace(0, 1, len(scale)))
            scale = whole[0]
        elif self.how in ("data", "detach"):
            (scale.data if self.how == "data" else scale.detach()).copy_(torch.linspace(0, 1, len(scale)))
        else:
            scale = scale.cumsum(0)
        out: Tensor = self.c(h * scale)
        return out


@pytest.mark.parametrize("how", ["part", "view", "seen through a view", "data", "detach", "cumsum"])
def test_a_tensor_whose_entries_differ_by_channel_pins_what_it_meets(how: str) -> None:
    model = lively(Uneven())
    model.how = how
    assert "a.weight" not in free(prunus.trace(model, tokens()))


class Counted(Base):
    """The square root of a width, by way of a tensor."""

    how = "tensor"

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        width = h.shape[-1]
        if self.how == "tensor":
            scale = torch.sqrt(torch.tensor(float(width)))
        elif self.how == "full":
            scale = torch.full((1,), width).sqrt()
        elif self.how == "new_full":
            scale = h.new_full((1,), float(width)).sqrt()
        elif self.how == "fill_":
            scale = h.new_empty(1).fill_(width)
        else:
            scale = torch.ones(width, dtype=h.dtype).sum()
        out: Tensor = self.c(self.b((h / scale).relu()).relu())
        return out


@pytest.mark.parametrize("how", ["tensor", "full", "new_full", "fill_", "sum"])
def test_a_width_that_becomes_a_value_is_pinned_alone(how: str) -> None:
    model = lively(Counted())
    model.how = how
    coupling = prunus.trace(model, tokens())
    assert {"b.weight", "c.weight"} <= free(coupling)
    assert "used as a number" in reasons(coupling)["a"]
    assert prunus.prune(model, tokens(), "macs=70%").model.a.out_features == 16


class Merged(nn.Module):
    """Zeros beside channels in a `cat` along places, and in a `stack`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = conv(3, 16), head(16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = torch.cat([h, torch.zeros(len(h), h.shape[1], 2, h.shape[3], dtype=h.dtype)], 2)
        h = torch.stack([h, torch.ones(h.shape, dtype=h.dtype)]).sum(0)
        out: Tensor = self.c(pool(F.relu(h)))
        return out


def test_zeros_beside_channels_along_another_axis_are_as_wide() -> None:
    model = lively(Merged())
    small = prunus.prune(model, image(), "macs=50%")
    assert small.model.a.out_channels < 16
    assert eval_gap(model, small.model, small.plan, image()) < 1e-12


class Remembering(nn.Module):
    """A convolution that reads the image beside its own state, which starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.a, self.b, self.c = 16, conv(3, 8), nn.Conv2d(24, 64, 3, padding=1), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), self.width, *x.shape[3:])
        for step in x.unbind(1):
            i, f, o, k = torch.split(self.b(torch.cat([self.a(step), h], 1)), self.width, 1)
            c = f.sigmoid() * c + i.sigmoid() * k.tanh()
            h = o.sigmoid() * c.tanh()
        return self.c(h)  # type: ignore[no-any-return]


def test_a_state_of_zeros_that_is_read_beside_channels_has_those_of_later_steps() -> None:
    model, example = lively(Remembering()), image(2, 3, 3, 8, 8)
    assert {g.width for g in prunus.trace(model, example).groups} == {8, 16}
    small = prunus.prune(model, example, "channels=50%", "random")
    assert small.proof is not None and small.proof.worst < 1e-10
    made: Any = small.model
    assert made.b.out_channels == 4 * made.width == 4 * made.c.in_channels < 64


class Padded(nn.Module):
    """A shortcut that is filled up with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 16), head(16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        short = torch.cat([y, torch.zeros(len(y), 8, *y.shape[2:])], 1)
        return self.c(pool((self.b(y) + short).relu()))  # type: ignore[no-any-return]


def test_zeros_of_a_written_width_beside_channels_stay() -> None:
    coupling = prunus.trace(lively(Padded()), image())
    assert {member.tensor for group in coupling.groups for member in group.members} >= {"a.weight", "c.weight"}
    assert [p.name for p in coupling.pinned if "written down" in p.reason] == ["b outputs", "c inputs"]
    for seed in range(3):
        small = prunus.prune(Padded(), image(), "channels=60%", "random", seed=seed)
        assert small.proof is not None and small.proof.worst < 1e-10
