"""Repairs: what they restore exactly where it can be restored, and that they leave all else alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from prunus.errors import DataError, ExampleError, InputError, UnknownName
from prunus.repair import Fold, Reconstruct, Statistics

EXAMPLE = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """A convolution of 6 channels, a norm, a reader with or without bias and norm, and a head."""

    def __init__(self, *, bias: bool = True, normed: bool = False, padding: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.two = nn.Conv2d(6, 4, 3, padding=padding, bias=bias)
        self.after = nn.BatchNorm2d(4) if normed else nn.Identity()
        self.head = nn.Linear(4, 2)
        with torch.no_grad():
            self.norm.bias.uniform_(0.2, 1)
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.after(self.two(F.relu(self.norm(self.one(x)))))
        return self.head(F.relu(x).mean((2, 3)))


def loader() -> list[Tensor]:
    torch.manual_seed(2)
    return [torch.randn(16, 3, 6, 6) for _ in range(4)]


def halved(net: nn.Module, **words: object) -> prunus.Pruned:
    net.eval()
    return prunus.prune(net, EXAMPLE, widths={"one": 3}, method="slimming", **words)  # type: ignore[arg-type]


def constant(net: Net) -> Net:
    """Channels 1, 3 and 5 give their β and nothing else."""
    with torch.no_grad():
        net.norm.weight[[1, 3, 5]] = 0
    return net.eval()


@pytest.mark.parametrize("with_data", [True, False])
@pytest.mark.parametrize("form", [{"bias": True}, {"bias": False, "normed": True}], ids=["bias", "norm"])
def test_fold_is_exact_for_constant_channels_without_padding(form: dict[str, bool], with_data: bool) -> None:
    net = constant(Net(padding=0, **form))
    x = torch.randn(8, 3, 6, 6)
    plain, mended = halved(net).model, halved(net, repair="fold", data=loader() if with_data else None).model
    with torch.no_grad():
        assert (plain(x) - net(x)).abs().max() > 1e-2
        torch.testing.assert_close(mended(x), net(x), rtol=0, atol=1e-5)


def test_fold_without_data_leaves_what_is_not_constant() -> None:
    net = Net(padding=0).eval()
    assert torch.equal(halved(net, repair="fold").model.two.bias, halved(net).model.two.bias)  # type: ignore[union-attr, arg-type]
    padded = constant(Net(padding=1))  # the border sees fewer channels than the middle
    assert torch.equal(halved(padded, repair="fold").model.two.bias, halved(padded).model.two.bias)  # type: ignore[union-attr, arg-type]


def test_fold_keeps_the_means_of_what_reads() -> None:
    net, data = Net().eval(), loader()
    small = halved(net, repair=Fold(images=64), data=data).model
    x = torch.cat(data)
    with torch.no_grad():
        wanted = net.two(F.relu(net.norm(net.one(x)))).mean((0, 2, 3))
        got = small.two(F.relu(small.norm(small.one(x)))).mean((0, 2, 3))  # type: ignore[operator]
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_fold_says_where_there_is_nothing_to_shift() -> None:
    pruned = halved(Net(bias=False), repair="fold", data=loader())
    assert "fold: two have neither bias nor batch norm of their own to shift" in pruned.notes


class Shared(nn.Module):
    """Two convolutions before one norm, or before one activation and then a norm each."""

    def __init__(self, *, active: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.active = nn.Conv2d(3, 6, 3, padding=1), active
        self.two, self.other = nn.Conv2d(6, 4, 1, bias=False), nn.Conv2d(3, 4, 1, bias=False)
        self.norm, self.last = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.two(F.relu(self.one(x))), self.other(x)
        return self.norm(F.silu(a)) + self.last(b) if self.active else self.norm(a) + self.norm(b)  # type: ignore[no-any-return]


@pytest.mark.parametrize("active", [True, False], ids=["behind an activation", "of two layers"])
def test_fold_leaves_a_norm_that_sees_something_else(active: bool) -> None:
    net, data = Shared(active=active).eval(), loader()
    found = prunus.prune(net, EXAMPLE, widths={"one": 3}, repair="fold", data=data)
    assert "fold: two have neither bias nor batch norm of their own to shift" in found.notes
    assert torch.equal(found.model.norm.running_mean, net.norm.running_mean)  # type: ignore[union-attr, arg-type]


def test_fold_takes_nothing_for_constant_that_the_example_shows_once() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    found = prunus.prune(net, torch.randn(1, 5), widths={"0": 4}, repair="fold")
    assert torch.equal(found.model[2].bias, net[2].bias)  # type: ignore[index]
    assert any("that 2 read, which tells none constant" in note for note in found.notes)
    two = prunus.prune(net, torch.randn(2, 5), widths={"0": 4}, repair="fold")
    assert not any("tells none" in note for note in two.notes)


class Auxiliary(nn.Module):
    """A head with a norm that runs in training alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.norm, self.two = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)
        self.aside, self.aux = nn.Linear(6, 2), nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = F.relu(self.norm(self.one(x)))
        z = self.two(y).mean((2, 3))
        return (z, self.aux(self.aside(y.mean((2, 3))))) if self.training else z


@pytest.mark.parametrize(
    ("repair", "left"), [("fold", "aside"), ("reconstruct", "aside"), ("statistics", "aux")], ids=lambda s: s
)
def test_what_runs_in_training_alone_is_left_and_named(repair: str, left: str) -> None:
    net, data = Auxiliary(), loader()
    net.train()(data[0])
    found = prunus.prune(net.eval(), data[0], widths={"one": 3}, repair=repair, data=data)
    assert f"{repair}: left as they are: {left}" in found.notes
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(found.model.aux, name), getattr(net.aux, name))
    assert int(found.model.norm.num_batches_tracked) == (4 if repair == "statistics" else 1)  # type: ignore[union-attr, arg-type]


def test_reconstruct_is_exact_where_the_rest_can_say_the_same() -> None:
    net = Net().eval()
    with torch.no_grad():  # channels 3 to 5 repeat 0 to 2, scaled, and rank lowest
        for tensor in (net.one.weight, net.one.bias, net.norm.running_mean, net.norm.bias):
            tensor[3:] = tensor[:3]
        net.norm.running_var[3:] = net.norm.running_var[:3]
        net.norm.weight[3:] = 0.5 * net.norm.weight[:3]
        net.norm.bias[3:] = 0.5 * net.norm.bias[:3]
    x = torch.randn(8, 3, 6, 6)
    mended = halved(net, repair=Reconstruct(ridge=1e-9, positions=36), data=loader()).model
    with torch.no_grad():
        assert (halved(net).model(x) - net(x)).abs().max() > 1e-2
        torch.testing.assert_close(mended(x), net(x), rtol=0, atol=1e-4)


def test_reconstruct_is_the_least_squares_solution() -> None:
    net, data = Net().eval(), loader()
    plain, mended = halved(net).model, halved(net, repair=Reconstruct(ridge=1e-9, positions=36), data=data).model
    x = torch.cat(data)
    with torch.no_grad():
        inner = F.relu(plain.norm(plain.one(x)))  # type: ignore[operator]
        target = net.two(F.relu(net.norm(net.one(x))))
        patches = F.unfold(inner.double(), 3, padding=1).transpose(1, 2).flatten(0, 1)
        patches = torch.cat([patches, patches.new_ones(len(patches), 1)], 1)
        wanted = torch.linalg.lstsq(patches, target.double().flatten(2).transpose(1, 2).flatten(0, 1)).solution
        got = torch.cat([mended.two.weight.flatten(1).T, mended.two.bias[None]])  # type: ignore[union-attr, operator, index]
    torch.testing.assert_close(got.double(), wanted, rtol=1e-3, atol=1e-4)


def test_a_strong_ridge_keeps_the_inherited_weights() -> None:
    net = Net().eval()
    plain, held = halved(net).model, halved(net, repair=Reconstruct(ridge=1e9), data=loader()).model
    torch.testing.assert_close(held.two.weight, plain.two.weight, rtol=0, atol=1e-5)  # type: ignore[union-attr]


def test_statistics_are_those_of_the_small_network() -> None:
    net, data = Net(normed=True).eval(), loader()
    small = halved(net, repair=Statistics(images=64), data=data).model
    with torch.no_grad():
        inner = [small.one(x) for x in data]  # type: ignore[operator]
        mean = torch.stack([x.mean((0, 2, 3)) for x in inner]).mean(0)
        var = torch.stack([x.var((0, 2, 3)) for x in inner]).mean(0)
    torch.testing.assert_close(small.norm.running_mean, mean)  # type: ignore[union-attr]
    torch.testing.assert_close(small.norm.running_var, var)  # type: ignore[union-attr]
    assert small.norm.momentum == 0.1 and not small.norm.training  # type: ignore[union-attr]


def test_repairs_follow_one_another_and_leave_the_dense_network() -> None:
    net = Net(normed=True).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    pruned = prunus.prune(net, EXAMPLE, "macs=60%", repair=("reconstruct", "statistics"), data=loader())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.training and net.norm.training and pruned.proof is not None and pruned.proof.holds
    assert pruned.after.macs <= 0.6 * pruned.before.macs
    assert any("repaired after the proof: reconstruct, statistics" in note for note in pruned.notes)


def test_a_residual_network_gets_nearer_to_the_dense_one() -> None:
    from prunus.models import resolve

    torch.manual_seed(0)
    net = resolve("resnet20", 10).eval()
    x = torch.randn(32, 3, 16, 16)

    def distance(**words: object) -> float:
        small = prunus.prune(net, x[:1], "macs=60%", data=[x], **words).model.eval()  # type: ignore[arg-type]
        with torch.no_grad():
            return float((small(x) - net(x)).square().mean())

    assert distance(repair="reconstruct") < 0.5 * distance()


def test_what_no_repair_knows_is_named() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(2, 4, 5, 5)
    net(x)
    pruned = prunus.prune(net, x, widths={"0": 2}, repair="reconstruct", data=[x])
    assert any("left as they are: 2" in note for note in pruned.notes)


class Padding(nn.Conv2d):
    """Pads before it convolves, as some nets of timm and of TensorFlow's descent do; `padding` says nothing of it."""

    def forward(self, x: Tensor) -> Tensor:
        side = self.kernel_size[0] // 2
        return super().forward(F.pad(x, [side] * 4))


@pytest.mark.parametrize(("size", "left"), [(1, False), (3, True)])
def test_reconstruct_leaves_a_layer_that_does_more_than_its_weights_say(size: int, left: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), Padding(8, 4, size)).eval()
    data = [torch.randn(16, 3, 6, 6)]
    plain = prunus.prune(net, data[0], widths={"0": 4}).model
    mended = prunus.prune(net, data[0], widths={"0": 4}, repair="reconstruct", data=data)
    assert any("left as they are: 2" in note for note in mended.notes) is left
    assert torch.equal(mended.model[2].weight, plain[2].weight) is left  # type: ignore[index]


def once() -> Iterator[Tensor]:
    yield from loader()


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        ({"repair": "folds"}, UnknownName, "fold"),
        ({"repair": "reconstruct"}, InputError, "needs data="),
        ({"repair": "statistics", "data": once()}, InputError, "once"),
        ({"repair": 3}, InputError, "a repair is a name"),
    ],
)
def test_wrong_requests_are_refused(words: dict[str, object], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        halved(Net(), **words)


@pytest.mark.parametrize("make", [lambda: Fold(images=0), lambda: Statistics(images=0), lambda: Reconstruct(ridge=0)])
def test_wrong_settings_are_refused(make: object) -> None:
    with pytest.raises(InputError):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("repair", ["fold", "reconstruct", "statistics"])
def test_data_that_gives_nothing_or_does_not_fit_is_refused(repair: str) -> None:
    with pytest.raises(DataError, match="data gives no batch"):
        halved(Net(), repair=repair, data=[])
    with pytest.raises(
        ExampleError, match=r"the model refuses a batch of shape \(2, 3, 6, 6\), \(2,\): .*keys \(x, labels\)"
    ):
        halved(Net(), repair=repair, data=[{"x": torch.randn(2, 3, 6, 6), "labels": torch.zeros(2)}])
    with pytest.raises(DataError, match="no tensor with an axis of samples"):
        halved(Net(), repair=repair, data=[{"x": 3.0}])


def test_statistics_pass_over_a_sample_that_is_left_over() -> None:
    """Of one sample a norm behind a pool has no variance."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).eval()
    x = torch.randn(9, 12)
    small = prunus.prune(net, x[:1], widths={"1": 3}, repair="statistics", data=list(x.split(4)))
    made = small.model[1](x[:8]).unflatten(0, (2, 4))
    torch.testing.assert_close(small.model[2].running_mean, made.mean((0, 1)))
    torch.testing.assert_close(small.model[2].running_var, made.var(1).mean(0))
    with pytest.raises(ExampleError, match="more than 1 value per channel"):
        prunus.prune(net, x[:1], widths={"1": 3}, repair="statistics", data=list(x.split(1)))


def test_statistics_leave_norms_of_single_samples() -> None:
    """They have no cumulative average, so nothing would be measured after they were reset."""
    torch.manual_seed(0)
    norm = nn.InstanceNorm2d(6, affine=True, track_running_stats=True)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), norm, nn.ReLU(), nn.Conv2d(6, 2, 3))
    net(torch.randn(4, 3, 6, 6))
    small = prunus.prune(net.eval(), EXAMPLE, widths={"0": 3}, repair="statistics", data=loader())
    kept = list(small.plan.kept[0])
    torch.testing.assert_close(small.model[1].running_mean, norm.running_mean[kept])
    assert small.notes[-1] == "statistics: this network has no batch norm"
