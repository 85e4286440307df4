"""Taylor scores against numbers worked out by hand, and against a direct sum over the entries of each channel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn

import prunus
from prunus.errors import InputError
from prunus.graph.coupling import VALUES
from prunus.methods import Taylor
from prunus.methods.score import Given, scores_of
from prunus.methods.taylor import ROLES


def mean(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).mean()


def line() -> nn.Sequential:
    """y = 3·1·x + 1·(−2)·x for positive x: two channels, no bias."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-2.0]]))
        model[1].weight.copy_(torch.tensor([[3.0, 1.0]]))
    return model


@pytest.mark.parametrize(("power", "want"), [(1, [9.0, 6.0]), (2, [90.0, 40.0])])
def test_by_hand(power: int, want: list[float]) -> None:
    """Σ w·g is v·w·x for the first layer and again for the second: 6·x and −4·x. Over the batches x = 1 and x = 2, with
    the mean of |·| 6·1.5 and 4·1.5, and of the squares 36·2.5 and 16·2.5."""
    model = line()
    coupling = prunus.trace(model, torch.ones(1, 1))
    data = [torch.full((2, 1), 1.0), torch.full((3, 1), 2.0), torch.full((3, 1), 100.0)]
    (found,) = Taylor(power=power, batches=2).score(model, coupling, data=data, loss=mean)
    np.testing.assert_allclose(found, want, rtol=1e-6)


class Recurrent(nn.Module):
    """One linear layer that reads what it made: its diagonal belongs to a channel by both axes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(2):
            x = x + self.body(F.relu(x))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Linears(nn.Module):
    """A residual stream of linear layers: a matrix with both axes in one group, and nothing beside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.mean((2, 3)))
        return self.head(x + F.relu(self.body(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("build", [zoo.residual, zoo.chain, Recurrent, Linears])
def test_against_the_definition(build: type[nn.Module]) -> None:
    """(Σ w·∂L/∂w)² over the set of entries that go with a channel, marked one by one, in float64."""
    torch.manual_seed(0)
    model = build().double().train()
    x, y = torch.randn(5, 3, 8, 8).double(), torch.arange(5) % 4
    coupling = prunus.trace(model, x[:1])
    found = scores_of(Taylor(), model, coupling, 0, Given(data=[(x, y)]))
    model.eval()
    F.cross_entropy(model(x), y).backward()
    products = {n: (p * p.grad).detach() for n, p in model.named_parameters() if p.grad is not None}
    for group, scores in zip(coupling.groups, found, strict=True):
        for channel in range(group.width):
            marked = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in products.items()}
            for m in group.members:
                if m.role in ROLES and m.axis != VALUES:
                    marked[m.tensor].movedim(m.axis, 0)[m.positions[channel].tolist()] = True
            total = sum(float(p[marked[n]].sum()) for n, p in products.items())
            assert scores[channel] == pytest.approx(total**2, rel=1e-9)


def test_a_channel_that_nothing_reads_goes_first() -> None:
    model = zoo.chain()
    with torch.no_grad():
        model[3].weight[:, 5] = 0
        model[1].weight[5] = model[1].bias[5] = 0
    data = [(torch.randn(8, 3, 8, 8), torch.arange(8) % 5)]
    (first, _) = prunus.prune(model, zoo.image(), widths={"0": 7}, method="taylor", data=data).plan.kept
    assert first == (0, 1, 2, 3, 4, 6, 7)


def test_settings_that_mean_nothing() -> None:
    for given in ({"power": 3}, {"batches": 0}):
        with pytest.raises(InputError, match="taylor: "):
            Taylor(**given)
