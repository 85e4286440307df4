"""Repairs and the layers that they do not know, or that do more than their class says: mended right, or named."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def data() -> list[Tensor]:
    torch.manual_seed(2)
    return [torch.randn(16, 3, 8, 8) for _ in range(3)]


def off(dense: nn.Module, small: prunus.Pruned) -> float:
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return float((small.model.eval()(x) - dense.eval()(x)).square().mean())


class Scaled(nn.Conv2d):
    """An equalised learning rate."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * 0.1, self.bias)


class Adapted(nn.Conv2d):
    """A second, small kernel beside the first."""

    def __init__(self, *given: int) -> None:
        super().__init__(*given)
        self.more = nn.Parameter(torch.randn(given[1], given[0], 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.conv2d(x, self.more)[..., 1:-1, 1:-1]


class Padded(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1)))


class Rated(nn.Linear):
    """A learning rate of its own for weights and bias."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias * 0.01)


class Net(nn.Module):
    def __init__(self, reader: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.o = nn.Conv2d(3, 16, 3, padding=1), reader, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(F.relu(self.b(F.relu(self.a(x) + 1))).mean((2, 3)))


@pytest.mark.parametrize(
    "reader", [Scaled(16, 8, 3), Adapted(16, 8, 3), nn.Conv2d(16, 8, 3)], ids=lambda r: type(r).__name__
)
def test_fold_follows_the_forward_of_the_class(reader: nn.Module) -> None:
    net = Net(reader).eval()
    plain = prunus.prune(net, X, widths={"a": 8}, method="random")
    small = prunus.prune(net, X, widths={"a": 8}, method="random", repair="fold", data=data())
    assert off(net, small) < 0.5 * off(net, plain)


def test_fold_leaves_a_layer_that_scales_its_bias() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), Rated(16, 4)).eval()
    small = prunus.prune(net, X, widths={"1": 8}, method="random", repair="fold", data=data())
    assert small.notes[-1] == "fold: left as they are: 3"
    torch.testing.assert_close(small.model[3].bias, net[3].bias)


def test_what_a_layer_pads_by_itself_is_not_constant() -> None:
    net = Net(Padded(16, 8, 3)).eval()
    with torch.no_grad():
        net.a.weight[8:], net.a.bias[8:] = 0, 0.5
    small = prunus.prune(net, X, widths={"a": 8}, repair="fold")
    assert tuple(small.plan.kept[0]) == tuple(range(8))
    torch.testing.assert_close(small.model.b.bias, net.b.bias, rtol=0, atol=1e-6)


class Heads(nn.Module):
    """Attention of torch, whose output projection is never called."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.m, self.o = nn.Conv2d(3, 32, 3), nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        t = F.relu(self.a(x)).flatten(2).transpose(1, 2)
        return self.o((t + self.m(t, t, t, need_weights=False)[0]).mean(1))


class Borrowed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(self.a(x)).mean((2, 3)), self.b.weight, self.b.bias)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.w = nn.Conv2d(3, 16, 3), nn.Parameter(torch.randn(4, 16))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(self.a(x)).mean((2, 3)), self.w)


class Up(nn.Module):
    """A transposed convolution that makes what is cut, and one that reads it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.ConvTranspose2d(3, 16, 2, 2), nn.ConvTranspose2d(16, 4, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


class Stepwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.r = nn.Conv2d(3, 16, 3), nn.GRU(16, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.r(F.relu(self.a(x)).flatten(2).transpose(1, 2))[0]


@pytest.mark.parametrize("repair", ["fold", "reconstruct"])
@pytest.mark.parametrize(
    ("net", "named"),
    [(Heads, "m.out_proj"), (Borrowed, "b"), (Own, "w"), (Up, "second"), (Stepwise, "r")],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_readers_that_no_repair_knows_are_named(net: type[nn.Module], named: str, repair: str) -> None:
    small = prunus.prune(net().eval(), X, rates={"*": 0.5}, method="random", data=data(), repair=repair)
    (note,) = (note for note in small.notes if note.startswith(f"{repair}: left as they are: "))
    left = note.rpartition(": ")[2].split(", ")
    assert named in left and not {"first", "a", "o"} & set(left)


def test_single_samples_are_solved_for_too() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3)).eval()
    batch = data()[0]
    made = [
        prunus.prune(net, example, widths={"0": 6}, repair="reconstruct", data=feed).model[2].weight
        for example, feed in ((X[0], list(batch)), (X[:1], list(batch.split(1))))
    ]
    torch.testing.assert_close(*made)


@pytest.mark.parametrize("repair", ["reconstruct", "statistics"])
def test_what_a_forward_counts_is_put_back(repair: str) -> None:
    class Counts(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3))
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            return super().forward(x)

    small = prunus.prune(Counts().eval(), X, "channels=50%", data=data(), repair=repair)
    assert float(small.model.seen) == 0
