"""The contract that others run on their models: it passes for good ones, and names each broken promise."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from zoo import EXAMPLE, classifier

import prunus
from prunus import testing
from prunus.errors import ModelError
from prunus.testing import ContractError, check_model, lively


def test_a_good_model_passes_with_everything_checked() -> None:
    model = lively(classifier()).train()
    found = check_model(model, EXAMPLE, "macs=60%,params=90%")
    assert found.pruned.after.macs <= 0.6 * found.pruned.before.macs
    assert list(found.seconds) == ["prune", "again", "replay", "train"]
    assert model.training


def test_norms_come_alive_and_alike_for_a_seed() -> None:
    a, b, c = (lively(classifier(), seed) for seed in (0, 0, 1))
    norm = next(m for m in a.modules() if isinstance(m, nn.BatchNorm2d))
    assert float(norm.running_var.std()) > 0.1 and float(norm.weight.detach().std()) > 0.1
    same = [torch.equal(x, y) for x, y in zip(a.buffers(), b.buffers(), strict=True)]
    assert all(same) and not all(torch.equal(x, y) for x, y in zip(a.buffers(), c.buffers(), strict=True))


def test_with_an_example_statistics_follow_its_activations() -> None:
    """A network whose weights let the signal die says different things of different places again, and modes stay."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first: torch.Tensor = self.norm(0.05 * self.conv(x))
            return first + self.norm(first)  # the first call counts

    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = Twice().train()
    dead, alive = lively(copy.deepcopy(model)), lively(copy.deepcopy(model), example=x)
    assert alive.training and alive.norm.training
    made = alive.conv(x) * 0.05
    mean, spread = made.mean(dim=(0, 2, 3)), made.var(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(alive.norm.running_var, dead.norm.running_var * spread)
    torch.testing.assert_close(alive.norm.running_mean, mean + dead.norm.running_mean * spread.sqrt())
    says = {net: net.eval().norm(net.conv(x) * 0.05).std(dim=(0, 2, 3)).mean() for net in (dead, alive)}
    assert says[alive] > 0.5 > 10 * says[dead]


def broken(monkeypatch: pytest.MonkeyPatch, change: Any) -> str:
    honest = prunus.prune

    def crooked(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return change(model, honest(model, *args, **kwargs), kwargs)

    monkeypatch.setattr(testing, "prune", crooked)
    with pytest.raises(ContractError) as error:
        check_model(lively(classifier()), EXAMPLE, "macs=60%")
    assert isinstance(error.value, AssertionError)
    return str(error.value)


def test_each_broken_promise_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    def weight(model: nn.Module, small: Any, kwargs: Any) -> Any:
        with torch.no_grad():
            next(model.parameters())[0] += 1
        return small

    assert "restored: " in broken(monkeypatch, weight)
    monkeypatch.undo()

    def mode(model: nn.Module, small: Any, kwargs: Any) -> Any:
        model.eval()
        return small

    assert "restored: module '' was changed" in broken(monkeypatch, mode)
    monkeypatch.undo()

    def draws(model: nn.Module, small: Any, kwargs: Any) -> Any:
        np.random.random()
        return small

    assert "restored: a global random state was moved" in broken(monkeypatch, draws)
    monkeypatch.undo()

    def unproven(model: nn.Module, small: Any, kwargs: Any) -> Any:
        return replace(small, proof=None)

    assert "exact: the cut was not proven" in broken(monkeypatch, unproven)
    monkeypatch.undo()

    def bigger(model: nn.Module, small: Any, kwargs: Any) -> Any:
        return replace(small, after=replace(small.after, macs=small.before.macs))

    assert "on budget: macs is" in broken(monkeypatch, bigger)
    monkeypatch.undo()

    def other(model: nn.Module, small: Any, kwargs: Any) -> Any:
        if kwargs.get("check", True):
            return small
        return prunus.prune(model, EXAMPLE, "macs=50%", check=False)

    assert "deterministic: two calls made two plans" in broken(monkeypatch, other)
    monkeypatch.undo()

    def replaced(model: nn.Module, small: Any, kwargs: Any) -> Any:
        net = copy.deepcopy(small.model)
        with torch.no_grad():
            next(net.parameters()).mul_(2)
        return replace(small, model=net)

    assert "replayable: the plan read from JSON cuts" in broken(monkeypatch, replaced)
    monkeypatch.undo()


def test_a_model_that_cannot_be_pruned_says_so() -> None:
    with pytest.raises(ModelError, match="nothing to prune"):
        check_model(nn.Linear(3, 2), torch.zeros(1, 3))


def test_a_generator_of_names_is_read_once() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    found = check_model(net, torch.randn(1, 3, 9, 9), "macs=80%", pin=(name for name in ["0.weight"]))
    assert found.pruned.rows()[0] == ("2", 8, found.pruned.plan.widths[0])


class Twofold(nn.Module):
    """What is larger than 8 pixels goes another way, in which a gradient of another layer is `scale` times as large."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.stem, self.extra, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.stem(x))
        if x.shape[-1] > 8:
            y = y + self.scale * self.extra(y)
        return self.head(y.mean((2, 3)))  # type: ignore[no-any-return]


def test_further_examples_are_checked_too() -> None:
    small, large = torch.randn(1, 3, 6, 6), torch.randn(1, 3, 12, 12)
    found = check_model(Twofold(1.0), small, examples=(one for one in [large]))
    assert found.pruned.proof is not None and found.pruned.proof.examples == 2
    assert found.pruned.model(large).shape == (1, 4)
    net = Twofold(1e30)  # its backward is finite in float64 alone
    assert check_model(net, small).pruned.proof is not None
    with pytest.raises(ContractError, match="trainable"):
        check_model(net, small, examples=[1e9 * large])
