"""Scores against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import prunus
from prunus.errors import InputError, ModelError, UnknownName
from prunus.methods import METHODS, Gates, Magnitude, Random, Slimming, Taylor, Uniform, method_of
from prunus.methods import score as score_module

EXAMPLE = torch.randn(1, 2, 2, 2, generator=torch.Generator().manual_seed(0))


class Summed(nn.Module):
    """Two normed producers of one stream of three channels, then a layer of two without a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1)
        self.na, self.nb = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.c, self.head = nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(2, 1, 1)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -2.0], [3.0, 0.0]]).view(3, 2, 1, 1))
            self.b.weight.copy_(torch.tensor([[0.0, 0.5], [1.0, 0.0], [0.0, -4.0]]).view(3, 2, 1, 1))
            self.c.weight.copy_(torch.tensor([[1.0, -1.0, 2.0], [3.0, 0.0, -3.0]]).view(2, 3, 1, 1))
            self.na.weight.copy_(torch.tensor([1.0, -2.0, 0.0]))
            self.nb.weight.copy_(torch.tensor([0.25, 0.5, -0.125]))
            for name, p in self.named_parameters():
                if name.endswith("bias"):
                    p.fill_(100.0)  # no method here looks at a bias

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.na(self.a(x)) + self.nb(self.b(x)))
        return self.head(torch.relu(self.c(x)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def summed() -> tuple[nn.Module, prunus.Coupling]:
    model = Summed()
    coupling = prunus.trace(model, EXAMPLE)
    assert [(g.name, g.width) for g in coupling.groups] == [("a", 3), ("c", 2)]
    return model, coupling


@pytest.mark.parametrize(
    ("p", "first", "second", "inner"),
    [
        (1, [1.0, 2.0, 3.0], [0.5, 1.0, 4.0], [4.0, 6.0]),
        (2, [1.0, 4.0, 9.0], [0.25, 1.0, 16.0], [6.0, 18.0]),
    ],
)
def test_magnitude(
    summed: tuple[nn.Module, prunus.Coupling], p: int, first: list[float], second: list[float], inner: list[float]
) -> None:
    """Σ over the two producers of |w|^p; the biases of 100 do not count. Normalised: each producer over its own mean,
    so a channel that two layers make scores 2 on average and one that a single layer makes 1."""
    plain = Magnitude(p=p, normalise=False).score(*summed)
    assert [s.tolist() for s in plain] == [[a + b for a, b in zip(first, second, strict=True)], inner]
    scaled = Magnitude(p=p).score(*summed)
    both = np.array(first) / np.mean(first) + np.array(second) / np.mean(second)
    for found, want, mean in zip(scaled, (both, np.array(inner) / np.mean(inner)), (2.0, 1.0), strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-15)
        assert found.dtype == np.float64 and found.mean() == pytest.approx(mean)


@pytest.mark.parametrize("p", [1, 2])
def test_magnitude_counts_the_whole_group_where_each_group_has_its_own_ranking(
    summed: tuple[nn.Module, prunus.Coupling], p: int
) -> None:
    """The filters, the scales of norms and the weights that read it, as they are; no biases, no statistics."""
    model, coupling = summed
    local = Magnitude(p=p).score(model, coupling, scope="local")
    a, b, c, head = (model.get_submodule(n).weight.detach().double().abs() ** p for n in ("a", "b", "c", "head"))
    scales = [model.get_submodule(n).weight.detach().double().abs() ** p for n in ("na", "nb")]
    stream = a.flatten(1).sum(1) + b.flatten(1).sum(1) + sum(scales) + c.movedim(1, 0).flatten(1).sum(1)
    inner = c.flatten(1).sum(1) + head.movedim(1, 0).flatten(1).sum(1)
    for found, want in zip(local, (stream, inner), strict=True):
        np.testing.assert_allclose(found, want.numpy(), rtol=1e-15)
    alike = Magnitude(p=p, members="group", normalise=False).score(model, coupling)
    for found, want in zip(local, alike, strict=True):
        np.testing.assert_array_equal(found, want)
    with pytest.raises(InputError, match="members='all' is neither 'producers' nor 'group'"):
        Magnitude(members="all")


def test_the_scope_of_the_target_reaches_the_scores(summed: tuple[nn.Module, prunus.Coupling]) -> None:
    """Given widths rank each group by itself, as the local scope does; a method may demand a scope."""
    heard = []

    @dataclass
    class Hears:
        scope: str | None = None
        needs = frozenset({"scope"})

        def score(self, model: nn.Module, coupling: prunus.Coupling, *, scope: str, seed: int = 0) -> Any:
            heard.append(scope)
            return [np.arange(float(g.width)) for g in coupling.groups]

    for asked in ({"target": "params=80%"}, {"target": "params=80%,scope=local"}, {"widths": {"a": 2}}):
        prunus.prune(summed[0], EXAMPLE, method=Hears(), check=False, **asked)
    prunus.prune(summed[0], EXAMPLE, "params=80%", Hears("local"), check=False)
    assert heard == ["global", "local", "local", "local"]


def test_magnitude_ranks_do_not_depend_on_the_scale_of_a_layer(summed: tuple[nn.Module, prunus.Coupling]) -> None:
    model, coupling = summed
    before = Magnitude().score(model, coupling)
    louder = Summed()
    with torch.no_grad():
        louder.c.weight.mul_(64)
    for a, b in zip(before, Magnitude().score(louder, coupling), strict=True):
        np.testing.assert_array_equal(a, b)


def test_magnitude_of_zero_filters_is_zero() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    nn.init.zeros_(model[0].weight)  # type: ignore[arg-type]
    (scores,) = Magnitude().score(model, prunus.trace(model, EXAMPLE))
    assert scores.tolist() == [0.0] * 4


def test_magnitude_of_flattened_channels_and_transposed_convolutions() -> None:
    """Output channels of a transposed convolution lie on axis 1 of its weight (in, out, k, k)."""
    model = nn.Sequential(nn.ConvTranspose2d(2, 2, 2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(16.0).view(2, 2, 2, 2))  # type: ignore[union-attr, operator]
    (scores,) = Magnitude(p=1, normalise=False).score(model, prunus.trace(model, EXAMPLE))
    assert scores.tolist() == [6.0 + 38.0, 22.0 + 54.0]


def test_magnitude_of_a_grouped_convolution() -> None:
    """Channels stay single where only equal counts are demanded."""
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 6, 1, groups=2, bias=False), nn.ReLU(), nn.Conv2d(6, 1, 1))
    with torch.no_grad():
        model[1].weight.copy_(torch.arange(12.0).view(6, 2, 1, 1))  # type: ignore[union-attr, operator]
    coupling = prunus.trace(model, EXAMPLE)
    scores = dict(
        zip((g.name for g in coupling.groups), Magnitude(p=1, normalise=False).score(model, coupling), strict=True)
    )
    assert sorted(scores["1"].tolist()) == [1.0, 5.0, 9.0, 13.0, 17.0, 21.0]


def test_slimming_sums_the_scales_of_a_channel(summed: tuple[nn.Module, prunus.Coupling]) -> None:
    """|γ| of both norms; the layer without a norm goes last."""
    stream, inner = Slimming().score(*summed)
    assert stream.tolist() == [1.25, 2.5, 0.125]
    assert (inner > stream.max()).all()
    kept = prunus.prune(summed[0], EXAMPLE, "channels=3", Slimming(), check=False).plan.kept
    assert kept == ((1,), (0, 1))


def test_slimming_of_a_pre_activation_norm() -> None:
    """A norm that reads a concatenation scales the channels of both producers."""

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm, self.head = (
                nn.Conv2d(2, 2, 1),
                nn.Conv2d(2, 3, 1),
                nn.BatchNorm2d(5),
                nn.Conv2d(5, 1, 1),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.norm(torch.cat([self.a(x), self.b(x)], 1))))  # type: ignore[no-any-return]

    model = Dense()
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([5.0, -4.0, 3.0, 2.0, 1.0]))
    coupling = prunus.trace(model, EXAMPLE)
    found = dict(zip((g.name for g in coupling.groups), Slimming().score(model, coupling), strict=True))
    assert found["a"].tolist() == [5.0, 4.0] and found["b"].tolist() == [3.0, 2.0, 1.0]


def test_slimming_needs_norms() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with pytest.raises(ModelError, match="no group of this model has one"):
        prunus.prune(model, EXAMPLE, "macs=50%", "slimming")


def test_random_is_seeded(summed: tuple[nn.Module, prunus.Coupling]) -> None:
    one, again, other = (Random().score(*summed, seed=s) for s in (3, 3, 4))
    assert [s.tolist() for s in one] == [s.tolist() for s in again]
    assert [s.tolist() for s in one] != [s.tolist() for s in other]
    assert all(((s >= 0) & (s < 1)).all() for s in one)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    Random().score(*summed, seed=5)
    assert torch.equal(state[0], torch.get_rng_state()) and (state[1] == np.random.get_state()[1]).all()


def test_uniform_removes_equal_fractions_last_channels_first() -> None:
    model = nn.Sequential(nn.Conv2d(2, 40, 1), nn.ReLU(), nn.Conv2d(40, 20, 1), nn.ReLU(), nn.Conv2d(20, 1, 1))
    for target in ("channels=70%", "channels=70%,scope=global"):  # the method's scope is stronger than the target's
        kept = prunus.prune(model, EXAMPLE, target, "uniform", check=False).plan.kept
        assert kept == (tuple(range(28)), tuple(range(14)))


def test_the_scope_of_a_method_overrides_the_target() -> None:
    """Two layers of very different scores: locally both lose half, globally one loses most."""
    model = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    with torch.no_grad():
        model[2].weight.mul_(1000)  # type: ignore[union-attr, operator]
    local = prunus.prune(model, EXAMPLE, "channels=50%", Magnitude(normalise=False, scope="local"), check=False)
    whole = prunus.prune(model, EXAMPLE, "channels=60%", Magnitude(normalise=False), check=False)
    assert local.plan.widths == (4, 4) and whole.plan.widths == (1, 8)


def test_names_and_objects() -> None:
    assert method_of("l1") == Magnitude(p=1) and method_of("l2") == method_of("magnitude") == Magnitude(p=2)
    own = Magnitude(p=1, normalise=False)
    assert method_of(own) is own
    assert method_of("uniform") == Uniform() and method_of("random") == Random()
    assert {"magnitude", "l1", "l2", "slimming", "random", "uniform"} <= set(METHODS)
    with pytest.raises(UnknownName, match="unknown method 'magnitud'; did you mean 'magnitude'"):
        method_of("magnitud")
    with pytest.raises(InputError, match="a method is a name or an object"):
        method_of(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="p=3"):
        Magnitude(p=3)


def test_a_method_of_ones_own() -> None:
    class Backwards:
        scope = None

        def score(self, model: nn.Module, coupling: prunus.Coupling, *, seed: int = 0) -> tuple[np.ndarray, ...]:
            return tuple(np.arange(g.width, 0, -1, dtype=float) for g in coupling.groups)

    model = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    small = prunus.prune(model, EXAMPLE, "channels=50%", Backwards())  # type: ignore[arg-type]
    assert small.plan.kept == ((0, 1, 2, 3),)


def scoring(found: Any) -> Any:
    return SimpleNamespace(scope=None, score=lambda model, coupling, *, seed=0: found)


def test_scores_in_any_dtype_and_what_is_no_score() -> None:
    model = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    half = (torch.arange(8, dtype=torch.bfloat16),)
    assert prunus.prune(model, EXAMPLE, "channels=50%", scoring(half)).plan.kept == ((4, 5, 6, 7),)
    for wrong in (None, {"stem": half[0]}, ["a"]):
        with pytest.raises(InputError, match="score returns the scores of every group"):
            prunus.prune(model, EXAMPLE, "channels=50%", scoring(wrong))
    asks = scoring(half)
    asks.needs = "data"
    with pytest.raises(InputError, match=r"needs is a set of names, such as {'data'}"):
        prunus.prune(model, EXAMPLE, "channels=50%", asks)


def test_a_loader_that_draws_from_a_generator_of_its_own_draws_the_same() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1), nn.Flatten(), nn.Linear(16, 3))
    held = TensorDataset(torch.randn(32, 2, 4, 4), torch.arange(32) % 3)
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(held, 4, shuffle=True, generator=generator)
    state = generator.get_state()
    kept = [
        prunus.prune(
            model, torch.zeros(1, 2, 4, 4), "channels=50%", Taylor(batches=1), data=loader, seed=seed
        ).plan.kept
        for seed in (0, 0, 1, 2, 3)
    ]
    assert torch.equal(generator.get_state(), state)
    assert kept[0] == kept[1] and len(set(kept)) > 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_are_float64_whatever_the_weights_are(dtype: torch.dtype) -> None:
    model = Summed().to(dtype)
    coupling = prunus.trace(model, EXAMPLE.to(dtype))
    scores = Magnitude(p=2, normalise=False).score(model, coupling)
    assert [s.tolist() for s in scores] == [[1.25, 5.0, 25.0], [6.0, 18.0]]


def test_a_convolution_of_one_input_channel_is_not_depthwise() -> None:
    """Grayscale images: the stem is scored and pruned like any other layer."""
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    small = prunus.prune(model, torch.randn(1, 1, 8, 8), "channels=50%", "uniform")
    assert small.rows() == [("0", 8, 4), ("2", 4, 2)]
    assert small.proof is not None and small.proof.holds


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("at_once", [1, 7, 2**18])
def test_large_tensors_are_measured_row_by_row(dtype: torch.dtype, at_once: int, monkeypatch: Any) -> None:
    """However many entries are looked at together; and where no copy is needed for the precision, one is made."""
    monkeypatch.setattr(score_module, "AT_ONCE", at_once)
    tensor = torch.randn(6, 4, 3, 3, dtype=dtype)
    was = tensor.clone()
    for axis, others in ((0, (1, 2, 3)), (1, (0, 2, 3))):
        found = score_module.measured(tensor.movedim(axis, 0), lambda rows: rows.square_().sum(dim=1))
        assert np.allclose(found, was.double().square().sum(others).numpy(), rtol=1e-14)
    assert torch.equal(tensor, was)
    assert score_module.measured(tensor[:0], lambda rows: rows.sum(dim=1)).shape == (0,)


def test_a_number_that_is_not_whole_is_refused(summed: tuple[nn.Module, prunus.Coupling]) -> None:
    model, _ = summed
    with pytest.raises(InputError, match=r"taylor: batches=2\.5 is no whole number"):
        prunus.prune(model, EXAMPLE, "macs=80%", Taylor(batches=2.5), data=[(EXAMPLE, EXAMPLE)])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"gates: refresh=7\.5 is no whole number"):
        Gates(refresh=7.5).attach(model, EXAMPLE, "macs=80%", 1)  # type: ignore[arg-type]
    assert Taylor(batches=np.int64(2)).batches == 2  # type: ignore[arg-type]
    score_module.check_knobs(Taylor(batches=np.int64(2)))  # type: ignore[arg-type]
    score_module.check_knobs(SimpleNamespace(batches=2.5))
