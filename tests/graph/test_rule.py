"""Rules of the user's own: in force everywhere inside `with`, nowhere outside, and refused by the proof where wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import conv, head, image, net, pool

import prunus
from prunus.errors import InputError, ProofError
from prunus.graph import along, op, rule
from prunus.graph.record import Call


def unruled(x: Tensor) -> Tensor:
    """x, by an op without a rule."""
    return torch.special.i0(torch.zeros_like(x)) * x


@op
def wave(x: Tensor) -> Tensor:
    """Elementwise, by an op without a rule."""
    return torch.special.i0(x) + x  # type: ignore[no-any-return]


@op
def centred(x: Tensor) -> Tensor:
    """Mixes channels."""
    return x - torch.special.i0(x).mean(1, keepdim=True)


@op
def mixed(weight: Tensor, x: Tensor) -> Tensor:
    """A linear layer, written with what has no rule."""
    return unruled(x) @ weight.T


class Doubled(torch.autograd.Function):
    """Twice the input, by an op without a rule."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.special.i0(torch.zeros_like(x)) * 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


class Weighed(torch.autograd.Function):
    """A linear layer with a backward of its own."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return unruled(x) @ weight.T

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return grad @ weight, grad.T @ x


kept_early = Doubled.apply


class Mix(nn.Module):
    """A 1 x 1 convolution, written with what has no rule."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_out, width_in))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("oc,nchw->nohw", self.weight, unruled(x))


class Wave(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return wave(x)


def mixes(call: Call, out: Tensor) -> list[Tensor]:
    weight = call.module.weight
    assert isinstance(weight, Tensor)
    call.book.unite(call.read(call.args[0], 1), call.axis(weight, 1, "in"))
    return [along(call.axis(weight, 0, "out"), 1, out.shape)]


def passes(call: Call, out: Tensor) -> list[Tensor]:
    call.read(call.args[0], 1)
    return list(call.label(call.args[0]).planes)


def between(what: Callable[..., Tensor], **parts: nn.Module | Tensor) -> Callable[[], nn.Module]:
    """conv a (8), the op, conv b (12), pooled, linear h."""
    return lambda: net(lambda s, x: s.h(pool(s.b(what(s, s.a(x))))), a=conv(3, 8), b=conv(8, 12), h=head(12), **parts)


def weighed(what: Callable[..., Tensor]) -> Callable[[], nn.Module]:
    """conv a (8), pooled, `what` of it and a weight w (6 x 8), linear h."""
    weight = nn.Parameter(torch.empty(6, 8))
    return lambda: net(lambda s, x: s.h(what(pool(s.a(x)), s.w)), a=conv(3, 8), w=weight, h=head(6))


RIGHT: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], dict[str, int]]] = {
    "a function like relu": (between(lambda s, y: wave(y)), lambda: rule(wave, like=torch.relu), {"a": 8, "b": 12}),
    "a function of torch": (
        between(lambda s, y: torch.special.i0(y)), lambda: rule(torch.special.i0, like=torch.relu), {"a": 8, "b": 12}
    ),
    "a function like linear, other arguments": (
        weighed(lambda x, w: mixed(w, x)),
        lambda: rule(mixed, like=F.linear, args=lambda w, x: (x, w)),
        {"a": 8, "w": 6},
    ),
    "a function that counts": (
        between(lambda s, y: centred(y)), lambda: rule(centred, does=passes, reads="kept"), {"a": 8, "b": 12}
    ),
    "an autograd function": (
        between(lambda s, y: Doubled.apply(y)), lambda: rule(Doubled, like=torch.relu), {"a": 8, "b": 12}
    ),
    "an autograd function, kept early": (
        between(lambda s, y: kept_early(y)), lambda: rule(Doubled, like=torch.relu), {"a": 8, "b": 12}
    ),
    "an autograd function like linear": (
        weighed(Weighed.apply),
        lambda: rule(Weighed, like=F.linear), {"a": 8, "w": 6},
    ),
    "a module like relu": (
        between(lambda s, y: s.w(y), w=Wave()), lambda: rule(Wave, like=torch.relu), {"a": 8, "b": 12}
    ),
    "a module by its own rule": (
        between(lambda s, y: s.m(y), m=Mix(8, 8)),
        lambda: rule(Mix, does=mixes, reads="zeros"),
        {"a": 8, "m": 8, "b": 12},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_with_the_rule_channels_prune_and_without_it_they_stay(name: str) -> None:
    make, said, widths = RIGHT[name]
    model = make()
    with said():
        coupling = prunus.trace(model, image())
        assert {g.name: g.width for g in coupling.groups} == widths
        assert coupling.unknown_ops == ()
        small = prunus.prune(model, image(), "channels=50%", "random")
    assert small.proof is not None and small.proof.worst < 1e-12
    assert sum(small.plan.widths) == sum(widths.values()) // 2
    outside = prunus.trace(model, image())
    assert outside.unknown_ops and any("no rule for torch." in p.reason for p in outside.pinned)
    assert "a" not in {g.name for g in outside.groups}
    # what was cut runs without the rule
    assert small.model(image(2, 3, 8, 8)).shape == (2, 5)


def test_the_classes_are_left_as_they_were() -> None:
    before = {c: dict(vars(c)) for c in (Doubled, Wave, Mix)}
    with pytest.raises(ZeroDivisionError), rule(Doubled, like=torch.relu), rule(Wave, like=torch.relu):
        with_mix = rule(Mix, does=mixes)
        for _ in range(2):
            with with_mix:
                assert "forward" in vars(Mix)
        raise ZeroDivisionError
    assert {c: dict(vars(c)) for c in (Doubled, Wave, Mix)} == before


@op
def flipped(x: Tensor) -> Tensor:
    return x.flip(1)


@op
def softly(x: Tensor, weight: Tensor) -> Tensor:
    return x @ torch.softmax(weight, 1).T


WRONG: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "mixing channels is not elementwise": (between(lambda s, y: centred(y)), lambda: rule(centred, like=torch.relu)),
    "another order is not elementwise": (between(lambda s, y: flipped(y)), lambda: rule(flipped, like=torch.relu)),
    "a mean is no sum": (
        between(lambda s, y: centred(y)), lambda: rule(centred, does=passes, reads="zeros")
    ),
    "a softmax over weights is not linear": (
        weighed(softly),
        lambda: rule(softly, like=F.linear),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_refused_by_the_proof(name: str) -> None:
    make, said = WRONG[name]
    with said(), pytest.raises(ProofError):
        prunus.prune(make(), image(), "channels=50%", "random")


def test_a_rule_that_returns_no_planes_pins_and_says_so() -> None:
    def nothing(call: Call, out: Tensor) -> list[Tensor]:
        return [torch.zeros(3)]

    with rule(wave, does=nothing):
        coupling = prunus.trace(RIGHT["a function like relu"][0](), image())
    assert any("the rule for wave returned (3,), not int64 planes" in p.reason for p in coupling.pinned)


def test_a_width_given_as_a_number_is_seen() -> None:
    @op
    def shared(x: Tensor, width: int) -> Tensor:
        return torch.special.i0(x) / width

    model = between(lambda s, y: shared(y, y.shape[1]))()
    with rule(shared, like=torch.relu):
        coupling = prunus.trace(model, image())
    assert any("used as a number: shared" in p.reason for p in coupling.pinned)


def bare(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rule(bare, like=torch.relu), r"calls of bare cannot be seen; decorate it with @prunus.graph.op"),
        (lambda: rule(torch.relu, like=torch.sigmoid), "relu has a rule"),
        (lambda: rule(wave), "like= .* or by does="),
        (lambda: rule(wave, like=torch.relu, does=passes), "like= .* or by does="),
        (lambda: rule(wave, like=torch.special.i0), "i0 has no rule that it could follow"),
        (lambda: rule(wave, does=passes, reads="some"), "unknown reads 'some'"),
        (lambda: rule(Wave, like=F.layer_norm), "layer_norm counts channels"),
        (lambda: rule(3, like=torch.relu), "calls of 3 cannot be seen"),
    ],
)
def test_refusals(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_two_rules_for_one_op() -> None:
    again = rule(wave, like=torch.sigmoid)
    with rule(wave, like=torch.relu), pytest.raises(InputError, match="two rules for wave are in force"), again:
        pass
