"""The optimizer that a training gets: torch's own steps, in one pass where that is possible."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunus.engine.config import Fit
from prunus.engine.optimizer import optimizer

ADAM = Fit(epochs=1, optimizer="adamw", lr=0.05, weight_decay=0.1)
SGD = Fit(epochs=1, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1)


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(36, 2))
    return net.to(dtype)


def plain(net: nn.Module, config: Fit) -> torch.optim.Optimizer:
    """The same, and neither fused nor grouped."""
    made = optimizer(net, config)
    kind: Any = type(made)
    names = ("params", "lr", "betas", "momentum", "nesterov", "weight_decay")
    groups = [{name: group[name] for name in names if name in group} for group in made.param_groups]
    return kind(groups, fused=False, foreach=False)  # type: ignore[no-any-return]


def steps(net: nn.Module, made: torch.optim.Optimizer, layout: Callable[[Tensor], Tensor], count: int = 3) -> None:
    draw = torch.Generator().manual_seed(1)
    for _ in range(count):
        for p in net.parameters():
            p.grad = layout(torch.randn(p.shape, generator=draw).to(p.dtype))
        made.step()


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "channels last": lambda t: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t,
    "transposed": lambda t: t.t().contiguous().t() if t.dim() == 2 else t,
}


@pytest.mark.parametrize("config", [SGD, ADAM], ids=["sgd", "adamw"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_fused_step_is_the_usual_one(config: Fit, layout: Any, channels_last: bool) -> None:
    """Whatever the layout of weights and gradients."""
    ours, theirs = network(), network()
    if channels_last:
        ours = ours.to(memory_format=torch.channels_last)
    made = optimizer(ours, config)
    assert all(group["fused"] for group in made.param_groups)
    steps(ours, made, layout)
    steps(theirs, plain(theirs, config), lambda t: t)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("config", [SGD, ADAM], ids=["sgd", "adamw"])
def test_state_that_comes_back_contiguous_is_laid_out(config: Fit) -> None:
    ours, twin = (network().to(memory_format=torch.channels_last) for _ in range(2))
    made, again = optimizer(ours, config), optimizer(twin, config)
    steps(ours, made, LAYOUTS["channels last"])
    twin.load_state_dict(ours.state_dict())
    again.load_state_dict(copy.deepcopy(made.state_dict()))
    for state in again.state.values():
        for name, value in state.items():
            state[name] = value.contiguous() if isinstance(value, Tensor) else value
    for net, one in ((ours, made), (twin, again)):
        steps(net, one, LAYOUTS["channels last"])
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), twin.parameters(), strict=True))


def test_what_cannot_be_fused_takes_the_usual_step() -> None:
    class Odd(nn.Module):
        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.weight = nn.Parameter(weight)

    for weight in (torch.randn(6, 4)[:, ::2], torch.randn(3, dtype=torch.complex64)):
        net = Odd(weight.detach())
        made = optimizer(net, SGD)
        assert not any(group["fused"] for group in made.param_groups)
        net.weight.grad = torch.ones_like(net.weight)
        before = net.weight.detach().clone()
        made.step()
        assert not torch.equal(net.weight, before)


@pytest.mark.parametrize("config", [SGD, ADAM], ids=["sgd", "adamw"])
def test_sparse_gradients_of_embeddings_are_taken(config: Fit) -> None:
    weights = []
    for sparse in (True, False):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Embedding(10, 4, sparse=sparse), nn.Flatten(), nn.Linear(12, 2))
        made = optimizer(net, config)
        for rows in ([[1, 2, 2]], [[3, 1, 0]]):
            net(torch.tensor(rows)).square().sum().backward()
            made.step()
            made.zero_grad()
        weights.append([p.detach() for p in net.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*weights, strict=True))
