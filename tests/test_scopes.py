"""Rankings: all channels in one, each group in its own, or the groups that are built alike together."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from prunus.errors import TargetError
from prunus.methods import HRank, Magnitude, Weights
from prunus.select import to_budget
from prunus.target import Target

STREAM, INNER = 10, (40, 20, 60)
X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.norm, self.b = (
            nn.Conv2d(STREAM, width, 3, 1, 1),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, STREAM, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.relu(self.norm(self.a(x))))  # type: ignore[no-any-return]


class Net(nn.Module):
    """Three blocks of one kind and several widths, a linear layer, and the stream through all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, STREAM, 3, 1, 1), nn.Sequential(*map(Block, INNER))
        self.hidden, self.head = nn.Linear(STREAM, 30), nn.Linear(30, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(self.blocks(self.stem(x)).mean((2, 3)))))  # type: ignore[no-any-return]


@pytest.fixture(name="net")
def net_() -> Net:
    torch.manual_seed(0)
    return Net()


def test_groups_that_are_built_alike_are_ranked_together_and_lose_what_the_others_lose(net: Net) -> None:
    coupling = prunus.trace(net, X)
    names = [g.name for g in coupling.groups]
    inner = [names.index(f"blocks.{k}.a") for k in range(3)]
    others = [names.index("stem"), names.index("hidden")]
    rng = np.random.default_rng(0)
    scores = [rng.random(w) for w in coupling.widths]
    scores[inner[0]] += 0.2  # the first block is worth more; the stream and the linear layer have scales of their own
    scores[others[0]] *= 1e3
    scores[others[1]] *= 1e-3
    for tenths in range(3, 10):  # below, one channel of a group stays that would go
        kept = to_budget(coupling, scores, Target(channels=tenths / 10, scope="isomorphic"))
        assert [len(kept[g]) for g in others] == [tenths, 3 * tenths]
        ranked = sorted((float(s), g, c) for g in inner for c, s in enumerate(scores[g]))
        stay = ranked[sum(INNER) - sum(INNER) * tenths // 10 :]
        for g in inner:
            assert kept[g].tolist() == sorted(c for _, k, c in stay if k == g)
    assert len(kept[inner[0]]) / INNER[0] > len(kept[inner[1]]) / INNER[1]


def test_a_kind_of_which_there_is_one_group_is_local(net: Net) -> None:
    """Nothing here is built alike."""
    net.blocks = net.blocks[:1]
    coupling = prunus.trace(net, X)
    scores = [np.random.default_rng(k).random(w) for k, w in enumerate(coupling.widths)]
    for macs in (0.8, 0.5, 0.3):
        one, other = (to_budget(coupling, scores, Target(macs=macs, scope=s)) for s in ("isomorphic", "local"))
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_scores_that_tie_everywhere_still_keep_legal_widths(net: Net) -> None:
    coupling = prunus.trace(net, X)
    for macs in (0.8, 0.5, 0.3):
        goal = Target(macs=macs, scope="isomorphic", round_to=4, max_rate=0.75)
        kept = to_budget(coupling, [np.full(w, 0.1) for w in coupling.widths], goal)
        widths = list(map(len, kept))
        assert all(k == w or k % 4 == 0 for k, w in zip(widths, coupling.widths, strict=True))
        assert all(Fraction(k, w) >= Fraction(1, 4) for k, w in zip(widths, coupling.widths, strict=True))
        assert coupling.macs(widths) <= macs * coupling.macs()


@pytest.mark.parametrize("method", ["magnitude", Magnitude(p=1, scope="isomorphic"), HRank(scope="isomorphic")])
def test_networks_are_cut_and_proven(net: Net, method: object) -> None:
    target = "macs=50%" + (",scope=isomorphic" if isinstance(method, str) else "")
    small = prunus.prune(net, X, target, method, data=[(X, torch.tensor([0, 1]))])
    assert small.proof is not None and small.proof.holds
    assert small.after.macs <= small.before.macs / 2


def test_scores_are_those_of_one_ranking(net: Net) -> None:
    """Each divided by the mean of its layer, since several layers are compared."""
    plans = [
        prunus.prune(net, X, f"channels=50%,scope={s}", check=False).plan for s in ("isomorphic", "local", "global")
    ]
    lost = [
        {g.name: Fraction(g.width - len(k), g.width) for g, k in zip(plan.groups, plan.kept, strict=True)}
        for plan in plans
    ]
    assert lost[0]["stem"] == lost[1]["stem"] == lost[0]["hidden"] == Fraction(1, 2)
    assert len({lost[0][f"blocks.{k}.a"] for k in range(3)}) > 1, "the alike groups share one ranking"
    twice = prunus.trace(net, X)
    with torch.no_grad():
        net.blocks[1].a.weight *= 100
    again = prunus.prune(net, X, "channels=50%,scope=isomorphic", check=False).plan
    assert again.kept == plans[0].kept and len(twice.groups) == len(again.groups)


def test_refusals(net: Net) -> None:
    with pytest.raises(TargetError, match=r"single weights are ranked by scope=global or scope=local"):
        prunus.prune(net, X, "weights=30%,scope=isomorphic", Weights())
    with pytest.raises(TargetError, match="scope='alike' is none of global, local, isomorphic"):
        prunus.prune(net, X, "macs=50%", Magnitude(scope="alike"))
