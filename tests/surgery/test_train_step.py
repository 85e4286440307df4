"""The step that is compared: sizes of differences, gradients that are taken, one float64 copy at a time."""

from __future__ import annotations

import gc
import math
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.errors import ProofError
from prunus.surgery import differences, proof
from prunus.surgery.differences import difference, minus, sketch, worth_sketching
from prunus.surgery.train_step import taken
from prunus.surgery.unfold import kept_entries


def test_a_difference_is_relative_to_the_largest_finite_entry() -> None:
    a = torch.tensor([4.0, -8.0, math.inf, math.nan], dtype=torch.float64)
    b = torch.tensor([4.0, -8.5, math.inf, math.nan], dtype=torch.float64)
    assert difference(a, b) == 0.5 / 8
    assert difference(a, b, scale=2.0) == 0.25
    assert difference(a, a) == 0.0


@pytest.mark.parametrize("other", [math.nan, math.inf, -math.inf])
def test_what_is_finite_in_one_network_alone_is_infinitely_different(other: float) -> None:
    a = torch.tensor([1.0, 2.0])
    b = torch.tensor([1.0, other])
    assert difference(a, b) == math.inf
    assert difference(b, a) == math.inf


def test_a_gap_where_all_should_be_zero_is_infinite() -> None:
    assert difference(torch.zeros(2), torch.tensor([0.0, 1e-30])) == math.inf
    assert difference(torch.zeros(0), torch.zeros(0)) == 0.0


def test_integers_are_equal_or_infinitely_different() -> None:
    assert difference(torch.tensor([1, 2]), torch.tensor([1, 2])) == 0.0
    assert difference(torch.tensor([1, 2]), torch.tensor([1, 3])) == math.inf


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ProofError, match="shapes differ"):
        minus(torch.zeros(2, 1), torch.zeros(2, 3))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, 3.0]))
        self.table = nn.Embedding(3, 2, sparse=True)

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight * x).sum() + (self.weight * 10).sum() + self.table(torch.tensor([1])).sum()


def test_gradients_are_handed_over_summed_and_dense_and_nothing_is_kept() -> None:
    model, found = Tied(), dict[str, Tensor]()
    with taken(model, found.__setitem__):
        model(torch.tensor([1.0, -1.0])).backward()
    assert found["weight"].tolist() == [11.0, 9.0]
    assert found["table.weight"].tolist() == [[0, 0], [1, 1], [0, 0]]
    assert all(p.grad is None and not p.numel() for p in model.parameters())
    model.weight.data, model.table.weight.data = torch.ones(2), torch.ones(3, 2)
    model(torch.ones(2)).backward()  # no hook is left
    assert model.weight.grad is not None
    assert model.weight.grad.tolist() == [11.0, 11.0]


def test_the_float64_copies_are_not_alive_together(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[nn.Module]] = []
    made = proof.as_double

    def counted(model: nn.Module) -> nn.Module:
        assert all(copy() is None for copy in alive)
        twin = made(model)
        alive.append(weakref.ref(twin))
        return twin

    monkeypatch.setattr(proof, "as_double", counted)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    small = prunus.prune(net, torch.randn(2, 3, 8, 8), "macs=50%", check=False)
    gc.collect()
    gc.disable()  # a cycle would keep a copy alive
    try:
        alive.clear()
        assert proof.verify(net, small.model, small.plan, torch.randn(2, 3, 8, 8)).holds
        assert proof.eval_gap(net, small.model, small.plan, torch.randn(2, 3, 8, 8)) < 1e-12
    finally:
        gc.enable()
    assert len(alive) == 4


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((5, 6), (0, 1)), ((5, 6, 7), (0, 2)), ((5, 6, 7), (1, 2)), ((4, 5, 6, 3), (0, 3)), ((4, 5), (1,)), ((4, 5), ())],
)
def test_kept_entries_are_those_of_one_axis_after_the_other(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    tensor = torch.arange(math.prod(shape)).reshape(shape)
    masks = {("w", axis): np.arange(shape[axis]) % 3 != 1 for axis in axes}
    want = tensor
    for axis in axes:
        want = want.index_select(axis, torch.from_numpy(masks["w", axis].nonzero()[0]))
    assert torch.equal(kept_entries(tensor, "w", masks), want)


def test_entries_that_are_all_kept_are_not_copied() -> None:
    tensor = torch.ones(4, 5)
    assert kept_entries(tensor, "w", {("w", 0): np.ones(4, bool)}) is tensor


@pytest.mark.parametrize("end", [2.0, math.inf, -math.inf, math.nan])
def test_a_difference_in_place_is_the_difference(end: float) -> None:
    a, b = torch.tensor([1.0, math.inf, math.nan, 3.0]), torch.tensor([0.5, end, math.nan, end])
    want = minus(a, b)
    assert torch.equal(minus(a.clone(), b, in_place=True).nan_to_num(7.0), want.nan_to_num(7.0))


@pytest.mark.parametrize("shape", [(5, 400), (64, 32, 3, 3)])
def test_a_sketch_tells_rows_apart_by_what_they_differ_in(shape: tuple[int, ...]) -> None:
    gradient = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = gradient.clone()
    other.view(shape[0], -1)[3, 17] += 1e-6
    gap = (sketch(gradient) - sketch(other)).abs().amax(1)
    assert gap[3] > 1e-7 and gap[:3].max() < 1e-12 and gap[4:].max() < 1e-12


def test_what_is_not_finite_or_small_or_narrow_is_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differences, "LARGE", 100)
    assert worth_sketching(torch.ones(5, 20)) and worth_sketching(torch.ones(2, 5, 5, 2))
    assert not worth_sketching(torch.ones(5, 19)) and not worth_sketching(torch.ones(100))
    assert not worth_sketching(torch.ones(50, 15)) and not worth_sketching(torch.ones(()))
    assert not worth_sketching(torch.full((5, 20), math.inf))


def test_a_proof_by_sketches_finds_what_one_by_entries_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient that is wrong in one entry, of weights and outputs that are right."""
    monkeypatch.setattr(differences, "LARGE", 1)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    x = torch.randn(2, 3, 8, 8)
    small = prunus.prune(net, x, "macs=50%")
    assert small.proof is not None and small.proof.gradients < 1e-10 and small.proof.notes == ()
    copied = proof.as_double

    def hooked(model: nn.Module) -> nn.Module:
        twin = copied(model)
        if model is small.model:
            weight = twin[0].weight  # type: ignore[index]
            weight.register_hook(lambda g: g + 1e-6 * g.abs().max() * (torch.arange(g.numel()) == 5).reshape(g.shape))
        return twin

    monkeypatch.setattr(proof, "as_double", hooked)
    with pytest.raises(ProofError, match="differs from the masked one"):
        proof.verify(net, small.model, small.plan, x)


@pytest.mark.parametrize("wrong", ["outputs", "statistics"])
def test_a_norm_that_is_still_in_the_step_is_compared_in_train_mode(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One behind a global pooling, that goes wrong in train mode alone."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(8, 8, 1),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    x, batches = torch.randn(1, 3, 16, 16), list[tuple[bool, int]]()
    net.register_forward_pre_hook(
        lambda m, args: batches.append((m[4].training, len(args[0]))) if args[0].dtype == torch.float64 else None
    )
    small = prunus.prune(net, x, "macs=50%")
    assert small.proof is not None and small.proof.holds and small.proof.notes == ()
    assert (True, 4) in batches and (True, 1) not in batches
    copied = proof.as_double

    def off(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        if not module.training:
            return None
        if wrong == "outputs":
            return out * (1 + 1e-6)
        module.running_var *= 1 + 1e-6
        return None

    def hooked(model: nn.Module) -> nn.Module:
        twin = copied(model)
        if model is small.model:
            twin[4].register_forward_hook(off)  # type: ignore[index]
        return twin

    monkeypatch.setattr(proof, "as_double", hooked)
    with pytest.raises(ProofError, match="differs from the masked one"):
        proof.verify(net, small.model, small.plan, x)
