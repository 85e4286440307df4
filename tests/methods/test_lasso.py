"""Group lasso against its definition, its gradient at zero, the proximal step by hand, and the five scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.errors import InputError, UnknownName
from prunus.methods import METHODS, SSL
from prunus.methods.lasso import CHANNELS, FILTERS, group_l2, group_lasso, of_blocks, of_channels, of_shapes, shrink_
from prunus.methods.lasso_scores import block_scores

EXAMPLE = torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))


class Joined(nn.Module):
    """Two producers of one stream of 4, a reader of it with 5, and a classifier over 5 × 9 positions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 4, 1, bias=False)
        self.na = nn.BatchNorm2d(4)
        self.c, self.head = nn.Conv2d(4, 5, 3, stride=2, padding=1, bias=False), nn.Linear(45, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.na(self.a(x)) + self.b(x))
        return self.head(torch.relu(self.c(x)).flatten(1))  # type: ignore[no-any-return]


class Blocks(nn.Module):
    """Three residual branches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.stem, self.head = nn.Conv2d(2, 4, 1), nn.Linear(4, 3)
        self.body = nn.ModuleList(Branch() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.body:
            x = block(x)
        return self.head(torch.relu(x).mean((2, 3)))  # type: ignore[no-any-return]


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.norm(self.first(x))))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def joined() -> tuple[Joined, prunus.Coupling]:
    model = Joined().double()
    coupling = prunus.trace(model, EXAMPLE.double())
    assert [(g.name, g.width) for g in coupling.groups] == [("a", 4), ("c", 5)]
    return model, coupling


def by_hand(model: Joined, which: str) -> list[list[Tensor]]:
    """For each channel its weights, written out."""
    a, b, c, head = (m.weight.detach() for m in (model.a, model.b, model.c, model.head))
    if which == "filter":
        return [[a[n], b[n]] for n in range(4)] + [[c[n]] for n in range(5)]
    if which == "affine":
        norm = model.na
        more = [[model.a.bias[n : n + 1], norm.weight[n : n + 1], norm.bias[n : n + 1]] for n in range(4)]
        return [[a[n], b[n], *(t.detach() for t in more[n])] for n in range(4)] + [[c[n]] for n in range(5)]
    if which == "channel":
        return [[c[:, n]] for n in range(4)] + [[head[:, 9 * n : 9 * n + 9]] for n in range(5)]
    return [
        [w[:, i, y, x]]
        for w in (a, b, c)
        for i in range(w.shape[1])
        for y in range(w.shape[2])
        for x in range(w.shape[3])
    ]


@pytest.mark.parametrize("which", ["filter", "affine", "channel", "shape"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_penalty_is_its_definition(joined: tuple[Joined, prunus.Coupling], which: str, weighted: bool) -> None:
    model, coupling = joined
    if which == "shape":
        groups = of_shapes(model)
    else:
        groups = of_channels(model, coupling, CHANNELS if which == "channel" else FILTERS, which == "affine")
    vectors = [torch.cat([w.reshape(-1) for w in ws]) for ws in by_hand(model, which)]
    want = sum(float((v.numel() if weighted else 1) ** 0.5 * v.norm()) for v in vectors)
    assert group_lasso(groups, weighted).item() == pytest.approx(want, rel=1e-12)
    assert groups.sizes.tolist() == [v.numel() for v in vectors]
    squared = sum(float(v @ v) for v in vectors)
    assert group_l2(groups).item() == pytest.approx(squared, rel=1e-12)


def test_the_squared_filter_and_channel_forms_are_one_and_the_rooted_ones_are_not() -> None:
    """Σ_n ‖W[n]‖² = Σ_c ‖W[:, c]‖², which is why the form without a root can make neither sparse."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 1)).double()
    coupling = prunus.trace(model, EXAMPLE.double())
    filters, channels = of_channels(model, coupling, FILTERS), of_channels(model, coupling, CHANNELS)
    with torch.no_grad():
        model[0].weight.zero_()
        model[4].weight.zero_()  # the middle layer is left, on both sides
    assert group_l2(filters).item() == pytest.approx(group_l2(channels).item(), rel=1e-12)
    assert abs(group_lasso(filters).item() - group_lasso(channels).item()) > 0.1


@pytest.mark.parametrize("granularity", ["filter", "channel", "both", "shape", "depth"])
def test_the_gradient_is_the_unit_vector_and_zero_at_zero(granularity: str) -> None:
    model = Blocks()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    attached = SSL(granularity=granularity, lam=1.0).attach(model, EXAMPLE)  # type: ignore[arg-type]
    attached.penalty().backward()
    given = [p.grad for p in model.parameters() if p.grad is not None]
    assert given and all(bool((g == 0).all()) for g in given)
    with torch.no_grad():
        model.body[1].first.weight.fill_(0.5)
    model.zero_grad()
    SSL(granularity="depth", lam=3.0).attach(model, EXAMPLE).penalty().backward()
    n = model.body[1].first.weight.numel()  # w / ‖w‖ is 1/√n for n equal weights
    torch.testing.assert_close(model.body[1].first.weight.grad, torch.full((4, 4, 3, 3), 3 / n**0.5))


def test_the_proximal_step_by_hand() -> None:
    """Filters (3, 4) and (0.3, 0.4) with a threshold of 1: the first shrinks from 5 to 4, the second is gone."""
    model = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 2, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]).view(3, 2, 1, 1))
    before = model[2].weight.clone()
    groups = of_channels(model, prunus.trace(model, EXAMPLE.double()), FILTERS)
    shrink_(groups, 1.0)
    want = torch.tensor([[2.4, 3.2], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(model[0].weight.view(3, 2), want, rtol=1e-12, atol=0)
    assert torch.equal(model[2].weight, before)
    shrink_(groups, 2.0, weighted=True)  # 2·√2 off a norm of 4
    torch.testing.assert_close(model[0].weight.view(3, 2), want * (1 - 2**1.5 / 4), rtol=1e-12, atol=0)
    shrink_(groups, 0.0)
    assert bool(torch.isfinite(model[0].weight).all())


def test_the_proximal_step_of_blocks_that_share_weights_and_of_kernel_columns() -> None:
    model = Blocks().double()
    coupling = prunus.trace(model, EXAMPLE.double())
    groups = of_blocks(model, coupling.blocks)
    norm = (model.body[0].first.weight.norm() ** 2 + model.body[0].second.weight.norm() ** 2).sqrt().detach()
    want = model.body[0].second.weight.detach() * (1 - 0.1 / norm)
    shrink_(groups, 0.1)
    torch.testing.assert_close(model.body[0].second.weight.detach(), want, rtol=1e-12, atol=1e-15)
    layer = model.body[2].first.weight
    with torch.no_grad():
        layer[:, 1, 0, 2] = torch.tensor([0.01, 0.0, 0.0, -0.01], dtype=torch.float64)
    column = layer[:, 0, 1, 1].detach().clone()
    shrink_(of_shapes(model), 0.02)
    assert bool((layer[:, 1, 0, 2] == 0).all())
    torch.testing.assert_close(layer[:, 0, 1, 1].detach(), column * (1 - 0.02 / column.norm()), rtol=1e-12, atol=1e-15)


class Chain(nn.Module):
    """A layer of 3 filters and one of 2 that reads it, with weights to reckon with."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 2, 1, bias=False)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([[1.0, -3.0], [2.0, 2.0], [-1.0, 0.0]]).view(3, 2, 1, 1))
            self.c.weight.copy_(torch.tensor([[1.0, 0.5, -4.0], [1.0, -1.5, 0.0]]).view(2, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.a(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "filters", "channels"),
    [
        ("group_lasso", [10.0, 8.0, 1.0], [2.0, 2.5, 16.0]),
        ("mean_abs", [2.0, 2.0, 0.5], [1.0, 1.0, 2.0]),
        ("mean", [-1.0, 2.0, -0.5], [1.0, -0.5, -2.0]),
        ("sum_abs", [4.0, 4.0, 1.0], [2.0, 2.0, 4.0]),
        ("sum", [-2.0, 4.0, -1.0], [2.0, -1.0, -4.0]),
    ],
)
def test_the_five_scores(kind: str, filters: list[float], channels: list[float]) -> None:
    model = Chain()
    coupling = prunus.trace(model, EXAMPLE)

    def found(granularity: str) -> list[float]:
        (score,) = SSL(granularity=granularity, kind=kind).score(model, coupling)  # type: ignore[arg-type]
        return score.tolist()  # type: ignore[no-any-return]

    assert found("filter") == filters
    assert found("channel") == channels
    assert found("both") == [max(pair) for pair in zip(filters, channels, strict=True)]


def test_filter_and_channel_keeps_what_either_score_keeps() -> None:
    """Of three channels one goes. Filters alone drop 2, channels alone 0, and together 1, which is low in both."""
    model = Chain()
    with torch.no_grad():
        model.a.weight.copy_(torch.tensor([[9.0, 0.0], [2.0, 0.0], [1.0, 0.0]]).view(3, 2, 1, 1))
        model.c.weight.copy_(torch.tensor([[1.0, 2.0, 9.0], [0.0, 0.0, 0.0]]).view(2, 3, 1, 1))

    def kept(granularity: str) -> list[int]:
        method = SSL(granularity=granularity)  # type: ignore[arg-type]
        return list(prunus.prune(model, EXAMPLE, "channels=67%", method).plan.kept[0])

    assert kept("filter") == [0, 1]
    assert kept("channel") == [1, 2]
    assert kept("both") == [0, 2]


@pytest.mark.parametrize(
    ("kind", "want"),
    [
        ("group_lasso", [144 * 0.25 + 16, 144 * 0.25 + 16, 36.0]),
        ("mean_abs", [(72 + 16) / 160, (72 + 16) / 160, 72 / 160]),
        ("mean", [(72 - 16) / 160, (72 + 16) / 160, 72 / 160]),
        ("sum_abs", [88.0, 88.0, 72.0]),
        ("sum", [56.0, 88.0, 72.0]),
    ],
)
def test_the_scores_of_blocks(kind: str, want: list[float]) -> None:
    model = Blocks()
    with torch.no_grad():
        for block, value in zip(model.body, (-1.0, 1.0, 0.0), strict=True):
            block.first.weight.fill_(0.5)
            block.second.weight.fill_(value)
            block.first.bias.fill_(100.0)  # not counted
    coupling = prunus.trace(model, EXAMPLE)
    assert [b.name for b in coupling.blocks] == ["body.0", "body.1", "body.2"]
    assert block_scores(model, coupling, kind) == pytest.approx(want)  # type: ignore[arg-type]
    if kind == "mean":  # the target takes no negative scores
        with torch.no_grad():
            model.body[0].second.weight.fill_(-9.0)
        shifted = SSL(kind="mean").block_scores(model, coupling)
        assert shifted == pytest.approx((0.0, 0.55 + 0.45, 0.45 + 0.45))
        assert prunus.prune(model, EXAMPLE, "blocks=-1", SSL(kind="mean")).plan.dropped[0].name == "body.0"


def test_rounding_and_refill_are_exact_and_deterministic() -> None:
    """20 % of 40 channels go in one global pool; `round` makes widths multiples with the next best."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 16, 1), nn.ReLU(), nn.Conv2d(16, 24, 1), nn.ReLU(), nn.Conv2d(24, 2, 1))
    scores = SSL().score(model, prunus.trace(model, EXAMPLE))
    pool = np.concatenate(scores)
    lowest = set(np.argsort(pool, kind="stable")[:8].tolist())
    exact = prunus.prune(model, EXAMPLE, "channels=80%,fill=no", "ssl").plan
    gone = {c for c in range(16) if c not in exact.kept[0]} | {16 + c for c in range(24) if c not in exact.kept[1]}
    assert gone == lowest
    rounded = [prunus.prune(model, EXAMPLE, "channels=80%,round=8", "ssl").plan for _ in range(2)]
    assert rounded[0].kept == rounded[1].kept
    assert sum(rounded[0].widths) == 32 and all(w % 8 == 0 for w in rounded[0].widths)
    for kept, score in zip(rounded[0].kept, scores, strict=True):
        assert set(kept) == set(np.argsort(score)[len(score) - len(kept) :].tolist())


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UnknownName, match="unknown granularity of ssl 'filtr'; did you mean 'filter'"):
        SSL(granularity="filtr")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="unknown kind of ssl"):
        SSL(kind="l3")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="lam=-1 must be at least 0"):
        SSL(lam=-1)
    with pytest.raises(InputError, match="group_l2"):
        SSL(form="group_l2", solver="proximal")
    with pytest.raises(InputError, match="affine=True belongs to filters or blocks"):
        SSL(granularity="channel", affine=True)
    with pytest.raises(InputError, match="granularity='shape' scores no channels"):
        prunus.prune(Chain(), EXAMPLE, "channels=70%", SSL(granularity="shape"))
    assert METHODS["group_l2"][0] == SSL(form="group_l2")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_have_the_penalty_of_wider_ones(kind: torch.dtype) -> None:
    """Squares of 1e-4 and ε² are below what float16 holds, and the root would have no gradient at 0."""
    model = Joined()
    with torch.no_grad():
        model.c.weight[1] = 0
        model.c.weight[2] = 1e-4
    model = model.to(kind)
    wide = Joined().double()
    wide.load_state_dict(model.state_dict())
    coupling = prunus.trace(wide, EXAMPLE.double())
    one, other = (group_lasso(of_channels(m, coupling, FILTERS)) for m in (model, wide))
    torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=0)
    one.backward()
    other.backward()
    found, want = (m.get_parameter("c.weight").grad for m in (model, wide))
    assert found is not None and want is not None and not found[1].any()
    torch.testing.assert_close(found.double(), want, rtol=torch.finfo(kind).eps, atol=1e-6)
