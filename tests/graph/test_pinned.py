"""What stays whole, the reason that is given, and that the rest is still cut exactly."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import conv, head, image, net, pool, tokens

import prunus


def padded(s: nn.Module, x: Tensor) -> Tensor:
    y = s.a(x)
    return s.h(pool(s.b(y) + F.pad(y, (0, 0, 0, 0, 2, 2))))


def split_activation(parts: Sequence[Tensor]) -> Tensor:
    """An activation of its own for each of two parts."""
    return torch.cat([parts[0].relu(), parts[1].sigmoid()], 1)


def over_tokens(norm: nn.Module) -> Callable[[], nn.Module]:
    """A norm whose axis 1 holds the 64 positions, not the channels."""
    return lambda: net(
        lambda s, x: s.h(s.n(tokens(s.b(s.a(x).relu()))).relu().mean(1)),
        a=conv(3, 8),
        b=conv(8, 12),
        n=norm,
        h=head(12),
    )


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad * 2


class Stuck(NamedTuple):
    make: Callable[[], nn.Module]
    free: dict[str, int]  # groups that remain
    pinned: str  # the side of a layer that is pinned
    width: int
    reason: str  # must be in the reason
    unknown: str = ""  # op named as unknown


def between(op: Callable[..., Tensor], wide: int = 12, **parts: object) -> Callable[[], nn.Module]:
    """conv a (8), conv b (12), the op on b's channels, pooled, linear h: a is free whatever happens to b."""
    return lambda: net(
        lambda s, x: s.h(pool(op(s.b(s.a(x).relu())))), a=conv(3, 8), b=conv(8, 12), h=head(wide), **parts
    )


def into(target: Tensor, part: slice, value: Tensor) -> Tensor:
    target = target.clone()
    target[:, part] = value
    return target


STUCK: dict[str, Stuck] = {
    "einsum with a diagonal": Stuck(
        between(lambda y: torch.einsum("nchw,cc->nchw", y, torch.ones(12, 12))),
        {"a": 8}, "b outputs", 12, "no rule for", "einsum",
    ),
    "beside an empty piece": Stuck(
        between(lambda y: torch.cat([y[:, :, :0], y.sigmoid()], 2)), {"a": 8}, "b outputs", 12, "nothing is taken of it"
    ),
    "beside an empty piece of another": Stuck(
        between(lambda y: torch.cat([torch.zeros(len(y), 12, 0, y.shape[3], dtype=y.dtype), y], 2)),
        {"a": 8}, "b outputs", 12, "it meets an empty tensor",
    ),
    "local response norm": Stuck(
        between(lambda y: F.local_response_norm(y, 3)), {"a": 8}, "b outputs", 12, "order of channels matters"
    ),
    "cumulative sum": Stuck(between(lambda y: y.cumsum(1)), {"a": 8}, "b outputs", 12, "order of channels matters"),
    "sort": Stuck(
        between(lambda y: torch.sort(y, dim=1).values), {"a": 8}, "b outputs", 12, "order of channels matters"
    ),
    "roll over channels": Stuck(
        between(lambda y: y.roll(1, 1)), {"a": 8}, "b outputs", 12, "order of channels matters"
    ),
    "pieces of sizes without a common share": Stuck(
        between(lambda y: y.split([5, 7], 1)[1], 7), {"a": 8}, "b outputs", 12, "pieces of fixed sizes"
    ),
    "pieces of written sizes": Stuck(
        between(lambda y: y.split([4, 8], 1)[1], 8), {"a": 8}, "b outputs", 12, "written down in the code"
    ),
    "a slice at a written place": Stuck(
        between(lambda y: y[:, 4:].mean(1, True) * y), {"a": 8}, "b outputs", 12, "a part of fixed size"
    ),
    "written to at a literal place": Stuck(
        between(lambda y: into(y, slice(0, 4), y[:, :1])), {"a": 8}, "b outputs", 12, "fixed place"
    ),
    "zeros filled at literal places": Stuck(
        between(lambda y: into(torch.zeros_like(y), slice(4, 8), y[:, 4:8])), {"a": 8}, "b outputs", 12, "a part of"
    ),
    "unbind of channels": Stuck(
        between(lambda y: torch.stack(y.unbind(1), 1)), {"a": 8}, "b outputs", 12, "pieces of fixed sizes"
    ),
    "every second channel": Stuck(between(lambda y: y[:, ::2], 6), {"a": 8}, "b outputs", 12, "fixed place"),
    "one channel": Stuck(between(lambda y: y * y[:, :1]), {"a": 8}, "b outputs", 12, "fixed place"),
    "channels in a literal order": Stuck(
        between(lambda y: y[:, [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10]]), {"a": 8}, "b outputs", 12, "__getitem__"
    ),
    "halves by literal slices": Stuck(
        between(lambda y: split_activation([y[:, :6], y[:, 6:]])), {"a": 8}, "b outputs", 12, "a part of fixed size"
    ),
    "halves by a literal split": Stuck(
        between(lambda y: split_activation(y.split(6, 1))), {"a": 8}, "b outputs", 12, "a part of fixed size"
    ),
    "the number of the largest": Stuck(
        between(lambda y: y * y.argmax(1, keepdim=True)), {"a": 8}, "b outputs", 12, "tells which of them it is"
    ),
    "the number of the smallest of all": Stuck(
        between(lambda y: y * y.argmin()), {"a": 8}, "b outputs", 12, "tells which of them it is"
    ),
    "roll over everything": Stuck(
        between(lambda y: torch.roll(y, 1)), {"a": 8}, "b outputs", 12, "order of channels matters"
    ),
    "a scale by the width": Stuck(
        between(lambda y: y * y.shape[1] ** -0.5), {"a": 8}, "b outputs", 12, "used as a number: mul in forward"
    ),
    # 12 // 4 = 3 groups; with one channel of each removed, 9 // 4 = 2 groups do not divide 9
    "groups counted by the width": Stuck(
        between(lambda y: F.group_norm(y, y.shape[1] // 4).relu()), {"a": 8}, "b outputs", 12, "group_norm"
    ),
    "batch norm of positions": Stuck(
        over_tokens(nn.BatchNorm1d(64)), {"a": 8}, "b outputs", 12, "batch_norm takes its statistics over it"
    ),
    "instance norm of positions": Stuck(
        over_tokens(nn.InstanceNorm1d(64)), {"a": 8}, "b outputs", 12, "instance_norm takes its statistics over it"
    ),
    "group norm of positions": Stuck(
        over_tokens(nn.GroupNorm(4, 64)), {"a": 8}, "b outputs", 12, "group_norm takes its statistics over it"
    ),
    "a random mask": Stuck(
        between(lambda y: y * (torch.rand_like(y) > 0.1)), {"a": 8}, "b outputs", 12, "random numbers are drawn"
    ),
    "noise": Stuck(
        between(lambda y: y + 0.1 * torch.randn_like(y)), {"a": 8}, "b outputs", 12, "random numbers are drawn"
    ),
    "a detour by NumPy": Stuck(
        between(lambda y: y * torch.from_numpy(y.detach().numpy().mean(axis=1, keepdims=True))), {"a": 8},
        "b outputs", 12, "its values leave torch",
    ),
    "literal view": Stuck(
        between(lambda y: y.view(-1, 2, 6, 8, 8).sum(1), 6), {"a": 8}, "b outputs", 12, "torch.Tensor.view on"
    ),
    "literal norm": Stuck(
        between(lambda y: F.layer_norm(y.transpose(1, 3), (12,)).transpose(1, 3)), {"a": 8}, "b outputs", 12,
        "layer_norm"
    ),
    "a constant of the same width": Stuck(
        between(lambda y: (y.transpose(1, 3) * torch.linspace(0, 1, 12)).transpose(1, 3)), {"a": 8}, "b outputs", 12,
        "neither parameter, buffer nor traced activation",
    ),
    "a view of such a constant": Stuck(
        between(lambda y: y * torch.linspace(0, 1, 12).view(12, 1, 1)), {"a": 8}, "b outputs", 12,
        "neither parameter, buffer nor traced activation",
    ),
    "convolution along channels": Stuck(
        between(lambda y: F.conv1d(pool(y)[:, None], torch.ones(1, 1, 3), padding=1)[:, 0, :, None, None]),
        {"a": 8}, "b outputs", 12, "mixes its neighbours",
    ),
    # 4 of b's 12 channels stand in y's places 0, 1, 10, 11 and meet zeros; the 8 others meet a's 8
    "padded channels": Stuck(
        lambda: net(padded, a=conv(3, 8), b=conv(8, 12), h=head(12)), {"a": 8}, "b outputs", 4,
        "F.pad filled with zeros"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STUCK)
def test_pinned_with_a_reason(name: str) -> None:
    row = STUCK[name]
    model = row.make()
    coupling = prunus.trace(model, image())
    assert {g.name: g.width for g in coupling.groups} == row.free
    found = next(p for p in coupling.pinned if p.name == row.pinned)
    assert found.width == row.width
    assert row.reason in found.reason
    assert [row.unknown in op for op in coupling.unknown_ops] == [True] * bool(row.unknown)

    small = prunus.prune(model, image(), target="channels=60%", method="random")
    assert small.proof is not None and small.proof.worst < 1e-12
    assert sum(small.plan.widths) == int(0.6 * sum(row.free.values()))


def test_the_witness_names_a_scripted_function() -> None:
    def doubled(x: Tensor) -> Tensor:
        return torch.relu(x) * 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is deprecated; models that use it are not gone
        hidden = torch.jit.script(doubled)
    model = net(lambda s, x: s.h(pool(hidden(s.b(s.a(x))))), a=conv(3, 8), b=conv(8, 12), h=head(12))
    coupling = prunus.trace(model, image())
    assert {g.name: g.width for g in coupling.groups} == {"a": 8}
    assert any("aten.relu" in op and "called below Python" in op for op in coupling.unknown_ops)
    assert next(p for p in coupling.pinned if p.name == "b outputs").width == 12


def test_an_autograd_function_is_followed_inside() -> None:
    model = net(lambda s, x: s.h(pool(Doubled.apply(s.a(x)))), a=conv(3, 8), h=head(8))
    coupling = prunus.trace(model, image())
    small = prunus.prune(model, image(), target="channels=60%", method="random")
    assert sum(coupling.widths) + sum(p.width for p in coupling.pinned if p.name == "a outputs") == 8
    assert small.proof is not None and small.proof.worst < 1e-12
