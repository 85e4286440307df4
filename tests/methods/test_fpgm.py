"""FPGM against distances worked out by hand, duplicates, the norm step, coupled producers, and the soft variant."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from prunus.errors import CheckpointError, InputError, TargetError
from prunus.methods import FPGM, Slimming
from prunus.methods.fpgm import distances
from prunus.methods.soft import Soft

EXAMPLE = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = torch.tensor([[0.0, 3.0], [4.0, 0.0], [4.0, 3.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("p", "want"),
    [
        (2, [5.0 + 4.0, 5.0 + 3.0, 4.0 + 3.0]),
        (1, [7.0 + 4.0, 7.0 + 3.0, 4.0 + 3.0]),
        ("cosine", [1.0 + 0.4, 1.0 + 0.2, 0.4 + 0.2]),
    ],
)
def test_distances_by_hand(p: int | str, want: list[float]) -> None:
    assert distances(ROWS, p).tolist() == pytest.approx(want, rel=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("p", [1, 2, "cosine"])
def test_distances_are_the_sum_over_all_pairs(p: int | str) -> None:
    rows = torch.randn(23, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    apart = rows[:, None] - rows[None]
    if p == "cosine":
        want = (1 - F.cosine_similarity(rows[:, None], rows[None], dim=2)).sum(dim=1)
    else:
        want = apart.norm(p=p, dim=2).sum(dim=1)
    torch.testing.assert_close(distances(rows, p), want, rtol=1e-12, atol=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("p", [1, 2, "cosine"])
def test_a_filter_of_zeros_and_copies_of_one(p: int | str) -> None:
    """Copies have equal distances and rank below all others, but for a filter of zeros."""
    rows = torch.randn(12, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rows[4] = rows[7] = rows[9]
    found = distances(rows, p)  # type: ignore[arg-type]
    assert sorted(torch.argsort(found)[:3].tolist()) == [4, 7, 9]
    assert float(found[4]) == pytest.approx(float(found[9]), rel=1e-12)
    rows[0] = 0
    score = FPGM(p=p).ranked(rows)  # type: ignore[arg-type]
    assert score[0] == -1 and sorted(np.argsort(score)[:4].tolist()) == [0, 4, 7, 9]


def test_large_layers_need_no_cube() -> None:
    """2 048 filters of 8 × 9 weights would take 2.4 GB as n × n × d."""
    rows = torch.randn(2048, 72, generator=torch.Generator().manual_seed(3))
    assert distances(rows).shape == (2048,)


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.a.weight.copy_(ROWS.view(3, 2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.a(x)))  # type: ignore[no-any-return]


def test_large_layers_are_ranked_by_inner_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """AlexNet's first linear layer would take minutes otherwise."""
    rows = torch.randn(40, 60, dtype=torch.float64)
    rows[7] = rows[3]
    exact = distances(rows)
    monkeypatch.setattr("prunus.methods.fpgm.LARGE", 40 * 40 * 60)
    torch.testing.assert_close(distances(rows), exact, rtol=1e-7, atol=0)
    assert not torch.equal(distances(rows), exact)


def test_scores_and_the_norm_step() -> None:
    """Norms are 3, 4 and 5. A third by norm takes channel 0; the other two are 3 apart."""
    model = Chain()
    coupling = prunus.trace(model, EXAMPLE)
    plain = FPGM(normalise=False)
    assert plain.score(model, coupling)[0].tolist() == pytest.approx([9.0, 8.0, 7.0])
    assert FPGM().score(model, coupling)[0].tolist() == pytest.approx([9 / 8, 1.0, 7 / 8])
    assert FPGM(normalise=False, norm_rate=0.34).score(model, coupling)[0].tolist() == pytest.approx([-1 / 3, 3.0, 3.0])
    assert list(prunus.prune(model, EXAMPLE, "channels=67%", "fpgm").plan.kept[0]) == [0, 1]
    assert list(prunus.prune(model, EXAMPLE, "channels=67%", FPGM(norm_rate=0.34)).plan.kept[0]) == [1, 2]
    with pytest.raises(InputError, match="p=3 is not 1, 2 or 'cosine'"):
        FPGM(p=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="norm_rate=1"):
        FPGM(norm_rate=1)


class Summed(nn.Module):
    """Two producers of one stream. In `a` channels 0 and 1 are equal, in `b` 1 and 2: no two are equal in both."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1), nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).view(3, 2, 1, 1))
            self.b.weight.copy_(torch.tensor([[0.0, 2.0], [0.0, 0.0], [0.0, 0.0]]).view(3, 2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.a(x) + self.b(x)))  # type: ignore[no-any-return]


def test_the_filters_of_several_producers_are_one_vector() -> None:
    """(1, 0, 0, 2), (1, 0, 0, 0) and (0, 1, 0, 0) are 2, √2 and √6 apart; with `b` divided by the root mean square of
    its norms, √(4/3), they are √3, √2 and √5 apart (that of `a` is 1)."""
    model = Summed()
    coupling = prunus.trace(model, EXAMPLE)
    (found,) = FPGM(normalise=False).score(model, coupling)
    np.testing.assert_allclose(found, [2 + 6**0.5, 2 + 2**0.5, 2**0.5 + 6**0.5], rtol=1e-12)
    (found,) = FPGM().score(model, coupling)
    want = np.array([3**0.5 + 5**0.5, 3**0.5 + 2**0.5, 2**0.5 + 5**0.5])
    np.testing.assert_allclose(found, want / want.mean(), rtol=1e-12)


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 10, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(10, 3),
    )


def train(model: nn.Module, attached: Soft, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    draw = torch.Generator().manual_seed(5)
    x, y = torch.randn(64, 2, 8, 8, generator=draw), torch.randint(0, 3, (64,), generator=draw)
    model.train()
    for e in range(first, last):
        attached.epoch_start(e)
        for k in range(0, 64, 16):
            optimizer.zero_grad()
            (F.cross_entropy(model(x[k : k + 16]), y[k : k + 16]) + attached.penalty()).backward()
            optimizer.step()
            attached.after_step()
            assert zeros(model) >= {c for c in range(12) if c not in attached.kept[0]}


def zeros(model: nn.Sequential | nn.Module) -> set[int]:
    """Channels of the first layer of which nothing is left, bias and norm included."""
    conv, norm = model[0], model[1]  # type: ignore[index]
    rows = torch.stack([conv.weight.flatten(1).abs().sum(1), conv.bias.abs(), norm.weight.abs(), norm.bias.abs()])
    return set(np.flatnonzero(rows.sum(dim=0).detach().numpy() == 0).tolist())


def soft(model: nn.Module, target: str = "channels=50%") -> Soft:
    attached = FPGM().attach(model, EXAMPLE, target, epochs=4)
    assert isinstance(attached, Soft)
    return attached


def test_soft_masks_are_chosen_anew_and_values_come_back() -> None:
    model = net()
    attached = soft(model)
    before = copy.deepcopy(model.state_dict())
    attached.epoch_start(0)
    first = attached.kept
    assert zeros(model) == {c for c in range(12) if c not in first[0]} and len(zeros(model)) == 6
    attached.epoch_start(0)  # begun already
    with torch.no_grad():  # those that stayed become copies of one: the next selection must drop some of them
        model[0].weight[torch.from_numpy(first[0])] = model[0].weight[int(first[0][0])].clone()
    attached.epoch_start(1)
    assert list(attached.kept[0]) != list(first[0])
    back = [c for c in attached.kept[0].tolist() if c not in first[0]]
    assert back and torch.equal(model[0].weight[back], before["0.weight"][back])
    assert torch.equal(model[1].weight[back], before["1.weight"][back])


def test_soft_training_cuts_what_was_masked() -> None:
    model = net()
    attached = soft(model)
    train(model, attached, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3), 0, 3)
    model.eval()
    x = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(8))
    small = attached.finish()
    assert small.proof is not None and small.proof.holds
    assert [list(k) for k in small.plan.kept] == [k.tolist() for k in attached.kept]
    assert small.plan.widths == (6, 5)
    torch.testing.assert_close(small.model(x), model(x), rtol=1e-4, atol=1e-5)
    assert attached.finish("channels=50%").plan.widths == (6, 5)  # the same target
    masked = copy.deepcopy(model.state_dict())
    wider = attached.finish("channels=80%")  # another target: with the values that the masks hide
    assert sum(wider.plan.widths) == 17 and all(w > n for w, n in zip(wider.plan.widths, (6, 5), strict=True))
    assert not zeros(wider.model)
    assert all(torch.equal(value, masked[name]) for name, value in model.state_dict().items())


def test_a_resumed_soft_training_is_the_same_training() -> None:
    whole = net()
    attached, optimizer = soft(whole), torch.optim.SGD(whole.parameters(), 0.05, momentum=0.9)
    train(whole, attached, optimizer, 0, 2)
    saved = copy.deepcopy((whole.state_dict(), optimizer.state_dict(), attached.state_dict()))
    train(whole, attached, optimizer, 2, 4)

    resumed = net(seed=9)
    again, other = soft(resumed), torch.optim.SGD(resumed.parameters(), 0.05, momentum=0.9)
    resumed.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    again.load_state_dict(saved[2])
    train(resumed, again, other, 2, 4)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert [k.tolist() for k in again.kept] == [k.tolist() for k in attached.kept]
    with pytest.raises(CheckpointError, match="is none of FPGM"):
        again.load_state_dict(Slimming().attach(net(), EXAMPLE).state_dict())


def test_weights_of_another_epoch_are_scored_instead() -> None:
    """With the best epoch's weights, or an average, what was masked last is not zero; the budget holds all the same."""
    model = net()
    attached = soft(model, "macs=50%")
    attached.epoch_start(0)
    model.load_state_dict(net(seed=3).state_dict())
    small = attached.finish()
    assert small.after.macs <= 0.5 * small.before.macs
    with pytest.raises(TargetError, match="attach with a target"):
        FPGM().attach(net(), EXAMPLE)


def test_soft_masks_reach_through_shortcuts_that_are_maps() -> None:
    from prunus.models import resolve

    torch.manual_seed(0)
    model = resolve("resnet20", 10)
    x = torch.randn(2, 3, 16, 16)
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if name.endswith("index")}
    attached = FPGM().attach(model, x[:1], "macs=30%", 2)
    attached.epoch_start(0)
    model.eval()
    masked, small = model(x).detach(), attached.finish()
    assert small.plan.widths[5] < 32, "a stream that a map feeds is narrower"
    torch.testing.assert_close(small.model.eval()(x).detach(), masked, rtol=0, atol=1e-4)
    attached._put_back()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers() if name in before)
