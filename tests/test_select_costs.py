"""The costs that selection predicts are those that a count of the cut model finds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from prunus.plan import plan_for
from prunus.select import Costs, to_budget
from prunus.target import Target


class Several(nn.Module):
    """Depthwise, grouped, transposed and dilated convolutions, a residual sum, a concatenation, a shared layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.mult = nn.Conv2d(12, 24, 3, padding=1, groups=12)
        self.back = nn.Conv2d(24, 12, 1)
        self.same = nn.Conv2d(12, 12, 3, padding=2, dilation=2)
        self.up = nn.ConvTranspose2d(12, 10, 2, stride=2)
        self.side = nn.Conv2d(3, 6, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.deep(F.relu(self.stem(x)))))
        y = y + self.back(F.relu(self.mult(y)))
        y = self.same(F.relu(self.same(y)))
        y = torch.cat([self.up(y), self.side(x)], 1)
        return self.head(F.relu(y).mean((2, 3)))  # type: ignore[no-any-return]


class Tokens(nn.Module):
    """Attention written out, layer norm, an embedding, a tied output and a functional weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.norm = nn.LayerNorm(16)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.scale = nn.Parameter(torch.randn(32))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.embed(ids))
        heads = [m(x).unflatten(-1, (2, 8)).transpose(1, 2) for m in (self.q, self.k, self.v)]
        x = x + self.o(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(x)) * self.scale)
        return F.linear(x, self.embed.weight)


class Frames(nn.Module):
    """One and three dimensional convolutions, and a matrix product of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = nn.Conv3d(2, 6, (1, 3, 3), padding=(0, 1, 1))
        self.line = nn.Conv1d(6, 9, 3, padding=1, bias=False)
        self.key = nn.Conv1d(9, 8, 1)
        self.head = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.line(F.relu(self.clip(x)).mean((3, 4)))
        k = self.key(F.relu(x))
        weight = torch.softmax(k.transpose(1, 2) @ k, -1)
        return self.head((x @ weight).mean(2))  # type: ignore[no-any-return]


class Two(nn.Module):
    """Two inputs and two outputs; one linear layer is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 7, 3), nn.Linear(5, 7)
        self.out, self.aux = nn.Linear(7, 2), nn.Linear(7, 3)
        self.b.requires_grad_(False)

    def forward(self, image: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.a(image)).mean((2, 3)) * torch.sigmoid(self.b(other))
        return self.out(x), self.aux(x)


class Recurrent(nn.Module):
    """A recurrent layer reads and has channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(4, 16, 3), nn.Conv1d(16, 8, 3)
        self.rnn, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(F.relu(self.one(x)))
        return self.head(self.rnn(x.transpose(1, 2))[0][:, -1])  # type: ignore[no-any-return]


class Products(nn.Module):
    """einsum and bilinear."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 16), nn.Linear(16, 8)
        self.weight = nn.Parameter(torch.randn(8, 10))
        self.pair, self.head = nn.Bilinear(10, 10, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("bi,ij->bj", F.relu(self.two(F.relu(self.one(x)))), self.weight)
        return self.head(self.pair(x, x))  # type: ignore[no-any-return]


class Later(nn.Module):
    """The first input is no batch."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, scale: Tensor, x: Tensor) -> Tensor:
        return self.head(F.relu(self.one(x))) * scale.sum()  # type: ignore[no-any-return]


def vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(16, 8, 2, 2, 32, 64, num_classes=5)


def flat() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(0), nn.Linear(16, 2))


def tv(name: str, side: int) -> tuple[Callable[[], nn.Module], Callable[[], object]]:
    from prunus.models import resolve

    return (lambda: resolve(name, 10)), (lambda: torch.randn(1, 3, side, side))


ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[], object]]] = {
    "several": (Several, lambda: torch.randn(1, 3, 8, 8)),
    "a batch of 3": (Several, lambda: torch.randn(3, 3, 8, 8)),
    "tokens": (Tokens, lambda: torch.arange(14).reshape(2, 7) % 11),
    "frames": (Frames, lambda: torch.randn(1, 2, 5, 4, 4)),
    "lstm": (Recurrent, lambda: torch.randn(2, 4, 9)),
    "einsum and bilinear": (Products, lambda: torch.randn(3, 6)),
    "attention modules": (vit, lambda: torch.randn(2, 3, 16, 16)),
    "no batch": (flat, lambda: torch.randn(3, 6, 6)),
    "a vector first": (Later, lambda: (torch.ones(3), torch.randn(4, 4))),
    "a number first": (Later, lambda: (torch.tensor(2.0), torch.randn(4, 4))),
    "two inputs": (Two, lambda: (torch.randn(2, 3, 6, 6), torch.randn(2, 5))),
    "keywords": (Two, lambda: {"other": torch.randn(2, 5), "image": torch.randn(2, 3, 6, 6)}),
    **{name: tv(name, 32) for name in ("resnet20", "densenet40", "mobilenetv1")},
    **{name: tv(f"torchvision/{name}", 64) for name in ("resnet18", "mobilenet_v3_small", "squeezenet1_1")},
    "densenet121": tv("torchvision/densenet121", 64),
    "regnet_x_400mf": tv("torchvision/regnet_x_400mf", 32),
}


@pytest.mark.parametrize("name", ZOO)
def test_predicted_costs_are_those_of_the_cut_model(name: str) -> None:
    make, example_of = ZOO[name]
    torch.manual_seed(0)
    model, example = make(), example_of()
    coupling = prunus.trace(model, example)
    predict = Costs.of(coupling)
    rng = np.random.default_rng(3)
    for target in (Target(channels=1.0), Target(channels=0.9), Target(channels=0.7)):
        kept = to_budget(coupling, [rng.random(g.width) for g in coupling.groups], target)
        widths = np.array(list(map(len, kept)))
        found = prunus.cost(prunus.apply(model, plan_for(coupling, kept)), example)
        assert predict(widths) == {"macs": found.macs, "params": found.params, "channels": int(widths.sum())}
        assert (coupling.macs(widths.tolist()), coupling.params(widths.tolist())) == (found.macs, found.params)


def test_predicted_costs_without_a_block() -> None:
    from prunus.models import build

    model, example = build("resnet20"), torch.randn(1, 3, 32, 32)
    small = prunus.prune(model, example, "macs=60%", drop=["layer2.1", "layer3.0"], check=False)
    found = Costs.of(small.coupling, ["layer2.1", "layer3.0"])(np.array(small.plan.widths))
    assert (found["macs"], found["params"]) == (small.after.macs, small.after.params)
    assert 0.595 <= small.after.macs / small.before.macs <= 0.6


@pytest.mark.parametrize("name", ["several", "tokens", "frames"])
def test_costs_of_soft_widths(name: str) -> None:
    """Tensors of whole widths give the counts; the gradient is the cost of one more channel where costs are linear."""
    make, example_of = ZOO[name]
    coupling = prunus.trace(make(), example_of())
    soft = [torch.tensor(float(w) - 1, dtype=torch.float64, requires_grad=True) for w in coupling.widths]
    macs, params = coupling.macs(soft), coupling.params(soft)
    hard = [w - 1 for w in coupling.widths]
    assert macs.item() == coupling.macs(hard) and params.item() == coupling.params(hard)
    up = torch.autograd.grad(params, soft, retain_graph=True)
    for g in range(len(hard)):
        more, less = ([w + d * (h == g) for h, w in enumerate(hard)] for d in (1, -1))
        assert up[g].item() == pytest.approx((coupling.params(more) - coupling.params(less)) / 2)
    slopes = torch.autograd.grad(macs, soft)
    assert all(s.item() > 0 for s in slopes)


@pytest.mark.parametrize("steps", [1, 2])
def test_steps_before_the_batch_are_counted_together(steps: int) -> None:
    """Of 20 steps of 2 sequences the first is no twentieth: attention grows with the square."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32)
    model = nn.Sequential(
        nn.Linear(8, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 5)
    )
    x = torch.randn(20, 2, 8)
    found = prunus.prune(model, x, "macs=50%", steps=steps)
    assert found.before.per == found.after.per == "example"
    assert found.before.macs == prunus.cost(model, x, whole=True).macs == found.coupling.macs()
    assert found.after.macs == found.coupling.macs(found.plan.widths) <= 0.5 * found.before.macs
    assert str(found).count("macs of the whole example: ") == 1
    batched = prunus.prune(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5)), x, "macs=50%")
    assert batched.before.per == "sample"
