"""Fisher scores against numbers worked out by hand, and against masks that really are in the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn

import prunus
from prunus.errors import InputError
from prunus.methods import GroupFisher
from prunus.methods.group_fisher import macs, memory


def mean(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).mean()


@pytest.mark.parametrize(("per", "want"), [("sample", [22.5, 10.0]), ("batch", [20.25, 9.0])])
def test_by_hand(per: str, want: list[float]) -> None:
    """∂L_n/∂m = v·w·x_n: 3·x and −2·x. Samples x = 1 and 2 give (1 + 4)/2 times the square, their mean 1.5² times."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-2.0]]))
        model[1].weight.copy_(torch.tensor([[3.0, 1.0]]))
    coupling, data = prunus.trace(model, torch.ones(1, 1)), [torch.tensor([[1.0], [2.0]])]
    method = GroupFisher(per=per, normalise="none")  # type: ignore[arg-type]
    (found,) = method.score(model, coupling, data=data, loss=mean, example=torch.ones(1, 1))
    np.testing.assert_allclose(found, want, rtol=1e-6)


class Masked(nn.Module):
    """A residual network with a mask on the stream wherever it is read, and one inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = zoo.conv(3, 6), zoo.conv(6, 4), zoo.conv(4, 6)
        self.n, self.head = nn.BatchNorm2d(4), nn.Linear(6, 5)
        self.stream, self.inner = torch.ones(6).double(), torch.ones(4).double()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = F.relu(self.n(self.a(x * self.stream[:, None, None])))
        x = x + self.b(y * self.inner[:, None, None])
        return self.head(x.mean((2, 3)) * self.stream)  # type: ignore[no-any-return]


class Plain(Masked):
    """The same without the masks."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head((x + self.b(F.relu(self.n(self.a(x))))).mean((2, 3)))  # type: ignore[no-any-return]


def test_against_masks_in_the_network() -> None:
    """Σ_n (∂L_n/∂m)² / N, m shared by the two layers that read the stream."""
    plain, masked = (zoo.lively(net).double().eval() for net in (Plain(), Masked()))
    x, y = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double(), torch.arange(4)
    coupling = prunus.trace(plain, x[:1])
    assert coupling.widths == (6, 4)
    want = [torch.zeros(6).double(), torch.zeros(4).double()]
    for n in range(4):
        masked.stream, masked.inner = (m.detach().requires_grad_() for m in (masked.stream, masked.inner))
        loss = F.cross_entropy(masked(x[n : n + 1]), y[n : n + 1])
        for total, g in zip(want, torch.autograd.grad(loss, (masked.stream, masked.inner)), strict=True):
            total += g**2 / 4
    found = prunus.methods.GroupFisher(normalise="none").score(
        plain, coupling, data=[(x[:2], y[:2]), (x[2:], y[2:])], loss=prunus.methods.batches.cross_entropy, example=x[:1]
    )
    for a, b in zip(found, want, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-10)


def test_the_memory_and_the_macs_of_a_channel() -> None:
    """Maps of 8x8 and, strided and flattened, 3x3 = 9 entries; 16·12 weights on 9 positions."""
    model = nn.Sequential(zoo.conv(3, 16), nn.ReLU(), nn.Conv2d(16, 12, 3, stride=2), nn.Flatten(), nn.Linear(108, 4))
    coupling = prunus.trace(model, zoo.EXAMPLE)
    assert memory(model, coupling, zoo.EXAMPLE).tolist() == [64.0, 9.0]
    assert macs(coupling).tolist() == [64 * 27 + 9 * 9 * 12, 9 * 9 * 16 + 9 * 4]
    data = [(torch.randn(4, 3, 8, 8), torch.arange(4))]
    scores = {
        how: prunus.methods.score.scores_of(
            GroupFisher(normalise=how),
            model,
            coupling,
            0,
            prunus.methods.score.Given(data, example=zoo.EXAMPLE),  # type: ignore[arg-type]
        )
        for how in ("none", "memory", "macs")
    }
    for g, (space, work) in enumerate(zip([64.0, 9.0], [2700.0, 1332.0], strict=True)):
        np.testing.assert_allclose(scores["memory"][g] * space, scores["none"][g])
        np.testing.assert_allclose(scores["macs"][g] * work, scores["none"][g])


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.weight, self.head = zoo.conv(3, 8), nn.Parameter(torch.randn(6, 8, 3, 3)), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(input=F.relu(self.a(x)), weight=self.weight, padding=1)
        return self.head(F.relu(x).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_map_that_is_passed_by_keyword_counts() -> None:
    model = ByKeyword()
    assert memory(model, prunus.trace(model, zoo.EXAMPLE), zoo.EXAMPLE).tolist() == [64.0, 1.0]


def test_a_map_that_two_layers_read_counts_once() -> None:
    coupling = prunus.trace(zoo.residual(), zoo.image())
    found = dict(zip((g.name for g in coupling.groups), memory(zoo.residual(), coupling, zoo.image()), strict=True))
    assert found == {"0": 64.0 + 64.0 + 1.0, "1.a": 64.0, "2.a": 64.0}


def test_what_is_refused() -> None:
    for given in ({"per": "image"}, {"normalise": "flops"}, {"batches": 0}):
        with pytest.raises(InputError, match="group_fisher"):
            GroupFisher(**given)
    model, x = zoo.chain(), torch.randn(4, 3, 8, 8)
    with pytest.raises(InputError, match="cannot be divided into samples"):
        prunus.prune(model, zoo.image(), "macs=50%", "group_fisher", data=[{"x": x, "w": torch.tensor(2.0)}],
                     loss=lambda net, batch: net(batch["x"]).mean())  # fmt: skip
