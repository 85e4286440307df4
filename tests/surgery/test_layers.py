"""Large linear layers in a proof: their gradient in factors says what the whole one says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from prunus.errors import ProofError
from prunus.surgery import differences, layers, proof
from prunus.surgery.layers import Outer, linear, parted


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differences, "LARGE", 1)
    torch.manual_seed(0)


def outer(samples: int = 3, out: int = 50, width: int = 900) -> Outer:
    return Outer(*(torch.randn(samples, n, dtype=torch.float64) for n in (out, width)))


def test_an_outer_product_is_measured_and_sketched_as_it_would_be_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "CHUNK", 2000)
    made: list[int] = []
    whole = Outer.whole

    def counted(self: Outer) -> Tensor:
        made.append(whole(self).numel())
        return whole(self)

    found = outer()
    want = found.whole()
    monkeypatch.setattr(Outer, "whole", counted)
    lines = {0: torch.tensor([1, 4, 7]), 1: torch.arange(0, 900, 2)}
    for one, tensor in ((found, want), (found.kept(lines), want[lines[0]][:, lines[1]]), (found.kept({}), want)):
        assert math.isclose(one.size(), float(tensor.abs().max()), rel_tol=1e-12)
        torch.testing.assert_close(one.sketch(), differences.sketch(tensor), rtol=1e-10, atol=1e-10)
    assert max(made) <= 2000
    assert Outer(found.upstream.index_fill(1, torch.tensor([2]), math.nan), found.read).size() == math.inf
    assert Outer(found.upstream[:, :0], found.read).size() == 0.0


def test_only_thin_factors_of_what_is_sketched_stay_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outer().thin and not outer(samples=100).thin and not outer(samples=1, out=900, width=15).thin
    monkeypatch.setattr(differences, "LARGE", 45_001)
    assert not outer().thin


Read = Callable[[Tensor, nn.Parameter, nn.Parameter], Tensor]


def other_reader(x: Tensor, weight: nn.Parameter, bias: nn.Parameter) -> Tensor:
    return linear(x, weight, bias) + weight.sum(1)


READS: list[tuple[Read, bool]] = [
    (lambda x, w, b: linear(x, w, b), True),
    (lambda x, w, b: linear(x, weight=w) + b, True),
    (lambda x, w, b: linear(input=x, weight=w, bias=b).relu(), True),
    (lambda x, w, b: linear(x[:2, None].expand(-1, 2, -1), w, b), True),
    (lambda x, w, b: linear(x[0], w, b), True),
    (other_reader, False),  # what else reads the weight adds to its gradient
    (lambda x, w, b: linear(x, w) + linear(2 * x, w, b), False),
    (lambda x, w, b: linear(linear(x, w, b) @ w, w), False),
]


@pytest.mark.parametrize(("read", "apart"), READS)
def test_gradients_are_those_of_torch(read: Read, apart: bool) -> None:
    width, out = 900, 50
    x = torch.randn(3, width, dtype=torch.float64, requires_grad=True)
    weight, bias = (nn.Parameter(torch.randn(*shape, dtype=torch.float64)) for shape in ((out, width), (out,)))
    handed: list[tuple[Tensor, Outer]] = []
    made = read(x, weight, bias)
    cotangent = torch.randn(made.shape, dtype=torch.float64)
    want = torch.autograd.grad((made * cotangent).sum(), [x, weight, bias], retain_graph=True)
    parted([made], lambda parameter, found: handed.append((parameter, found)))
    (made * cotangent).sum().backward()
    assert (len(handed) == 1) is apart
    if apart:
        assert handed[0][0] is weight and weight.grad is None
        weight.grad = handed[0][1].whole()
    for got, wanted in zip((x.grad, weight.grad, bias.grad), want, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_transforms_and_second_derivatives_go_through() -> None:
    weight = nn.Parameter(torch.randn(50, 900, dtype=torch.float64))
    x = torch.randn(4, 900, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(torch.vmap(lambda v: linear(v, weight))(x), F.linear(x, weight))

    def second(layer: Callable[..., Tensor]) -> Tensor:
        (first,) = torch.autograd.grad(layer(x, weight).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), weight)[0]

    torch.testing.assert_close(second(linear), second(F.linear))


def test_what_is_small_or_trains_nothing_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(3, 900, dtype=torch.float64), nn.Parameter(torch.randn(50, 900, dtype=torch.float64))
    monkeypatch.setattr(layers.Linear, "apply", lambda *args: pytest.fail("not a linear layer to be parted"))
    with torch.no_grad():
        linear(x, weight)
    linear(x, weight.detach())
    linear(x, weight.requires_grad_(False))
    linear(x.float(), nn.Parameter(torch.randn(50, 900)))
    linear(x, nn.Parameter(torch.randn(900, dtype=torch.float64)))
    monkeypatch.setattr(differences, "LARGE", 45_001)
    linear(x, weight.requires_grad_(True))


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(600, 400), nn.Linear(400, 300), nn.Linear(300, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu()).relu())  # type: ignore[no-any-return]


def test_a_proof_by_factors_finds_a_gradient_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = Wide(), torch.randn(2, 600)
    used: list[torch.Size] = []
    sketch = Outer.sketch

    def counted(self: Outer) -> Tensor:
        used.append(self.read.shape)
        return sketch(self)

    monkeypatch.setattr(Outer, "sketch", counted)
    small = prunus.prune(net, x, "macs=50%")
    assert len(used) == 4, "two layers of each network"
    assert small.proof is not None and small.proof.gradients < 1e-10 and small.proof.notes == ()
    twins = proof.as_double

    def wrong(model: nn.Module) -> nn.Module:
        twin = twins(model)
        if model is small.model:
            b = twin.get_submodule("b")
            b.register_full_backward_pre_hook(lambda module, grads: bent(grads))
        return twin

    def bent(grads: Any) -> Any:
        (upstream,) = grads
        return (upstream + 1e-6 * upstream.abs().max() * (torch.arange(upstream.shape[1]) == 3),)

    monkeypatch.setattr(proof, "as_double", wrong)
    with pytest.raises(ProofError, match="differs from the masked one"):
        proof.verify(net, small.model, small.plan, x)
