"""Selection against brute force: the budget holds, and nothing that was removed can be given back."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus
from prunus.errors import TargetError
from prunus.graph import Coupling
from prunus.select import to_budget, to_widths
from prunus.target import Target

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
EXAMPLE = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Plain(nn.Module):
    """Two convolutions and two linear layers, of which the last is the output: three groups, nothing tied."""

    def __init__(self, a: int, b: int, c: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, a, 3, padding=1), nn.Conv2d(a, b, 3, padding=1)
        self.three, self.four = nn.Linear(b, c), nn.Linear(c, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.two(F.relu(self.one(x))))
        return self.four(F.relu(self.three(x.mean((2, 3)))))  # type: ignore[no-any-return]


def by_hand(a: int, b: int, c: int) -> dict[str, int]:
    """What Plain costs on 4x4 positions."""
    return {
        "macs": 16 * 9 * (3 * a + a * b) + b * c + 2 * c,
        "params": (27 + 1) * a + (9 * a + 1) * b + (b + 1) * c + (c + 1) * 2,
        "channels": a + b + c,
    }


@cache
def plain(a: int = 4, b: int = 5, c: int = 3) -> Coupling:
    coupling = prunus.trace(Plain(a, b, c), EXAMPLE)
    assert [g.name for g in coupling.groups] == ["one", "two", "three"] and coupling.widths == (a, b, c)
    return coupling


def legal(width: int, round_to: int, least: int, max_rate: float) -> list[int]:
    """Widths a group of no blocks may take, the dense one first."""
    floor = max(least, math.ceil(width * (1 - max_rate) - 1e-9), 1)
    return [width, *(w for w in range(width - 1, floor - 1, -1) if w % round_to == 0)]


def fits(widths: tuple[int, ...], limits: dict[str, float]) -> bool:
    now = by_hand(*widths)
    return all(now[kind] <= limit for kind, limit in limits.items())


def greedy(dense: tuple[int, ...], scores: list[np.ndarray], target: Target) -> tuple[tuple[int, ...], ...] | None:
    """The definition of design.md, one step at a time; None where the target cannot be met."""
    limits = {
        k: math.floor(v * by_hand(*dense)[k] + 1e-9) if isinstance(v, float) else v for k, v in target.budgets.items()
    }
    steps = []
    for g, (width, score) in enumerate(zip(dense, scores, strict=True)):
        order = sorted(range(width), key=lambda c: (score[c], c))
        choices = legal(width, target.round_to, target.min_channels, target.max_rate)
        for n, (old, new) in enumerate(pairwise(choices)):
            gone = order[width - old : width - new]
            rank = (width - new) / width if target.scope == "local" else float(np.mean(score[gone]))
            steps.append((rank, g, n, gone))
    kept = [set(range(w)) for w in dense]
    taken = []
    for _, g, _, gone in sorted(steps, key=lambda s: s[:3]):
        if fits(tuple(map(len, kept)), limits):
            break
        kept[g] -= set(gone)
        taken.append((g, gone))
    if not fits(tuple(map(len, kept)), limits):
        return None
    for g, gone in reversed(taken if target.fill else []):
        whole = [k | set(gone) if h == g else k for h, k in enumerate(kept)]
        if fits(tuple(map(len, whole)), limits):
            kept = whole
    return tuple(tuple(sorted(k)) for k in kept)


def as_lists(kept: tuple[np.ndarray, ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(k.tolist()) for k in kept)


WIDTHS = (4, 5, 3)
few = st.integers(0, 3).map(float)  # many ties
scores_of = st.tuples(*(st.lists(few | st.floats(0, 1, width=16), min_size=w, max_size=w) for w in WIDTHS))
fractions = st.integers(5, 100).map(lambda n: n / 100)
budgets = st.dictionaries(st.sampled_from(["macs", "params", "channels"]), fractions, min_size=1)


@QUICK
@given(scores_of, budgets, st.booleans(), st.sampled_from(["global", "local"]))
def test_the_plan_is_the_greedy_one(
    scores: tuple[list[float], ...], budget: dict[str, float], fill: bool, scope: str
) -> None:
    target = Target(**budget, fill=fill, scope=scope)
    values = [np.array(s) for s in scores]
    expected = greedy(WIDTHS, values, target)
    if expected is None:
        with pytest.raises(TargetError, match="cannot be met"):
            to_budget(plain(), values, target)
    else:
        assert as_lists(to_budget(plain(), values, target)) == expected


@QUICK
@given(scores_of, budgets, st.integers(1, 2), st.integers(1, 2), st.sampled_from([0.5, 0.67, 1.0]))
def test_nothing_that_was_removed_fits_back(
    scores: tuple[list[float], ...], budget: dict[str, float], round_to: int, least: int, max_rate: float
) -> None:
    target = Target(**budget, round_to=round_to, min_channels=least, max_rate=max_rate)
    limits = target.limits({k: float(v) for k, v in by_hand(*WIDTHS).items()})
    choices = [legal(w, round_to, least, max_rate) for w in WIDTHS]
    try:
        kept = to_budget(plain(), [np.array(s) for s in scores], target)
    except TargetError:
        assert not any(fits(widths, limits) for widths in product(*choices))
        return
    widths = tuple(map(len, kept))
    assert fits(widths, limits)
    for g, (width, allowed) in enumerate(zip(widths, choices, strict=True)):
        assert width in allowed
        wider = [w for w in allowed if w > width]
        if wider:
            assert not fits((*widths[:g], min(wider), *widths[g + 1 :]), limits)
        order = sorted(range(WIDTHS[g]), key=lambda c: (scores[g][c], c))
        assert set(kept[g].tolist()) == set(order[WIDTHS[g] - width :])


@pytest.mark.parametrize("kind", ["macs", "params", "channels"])
def test_the_smallest_possible_is_named(kind: str) -> None:
    least, dense = by_hand(1, 1, 1)[kind], by_hand(4, 5, 3)[kind]
    scores = [np.ones(w) for w in WIDTHS]
    with pytest.raises(TargetError) as error:
        to_budget(plain(), scores, Target(**{kind: least - 1}))
    assert f"{kind} asks for at most {least - 1:,}" in str(error.value)
    assert f"the smallest possible is {least:,} ({100 * least / dense:.2f} %)" in str(error.value)
    assert list(map(len, to_budget(plain(), scores, Target(**{kind: least})))) == [1, 1, 1]


def test_the_smallest_possible_respects_the_options() -> None:
    """min=2 and max_rate=50 % leave 2, 3 and 2 channels of 4, 5 and 3."""
    scores, floor = [np.ones(w) for w in WIDTHS], by_hand(2, 3, 2)["macs"]
    with pytest.raises(TargetError, match=f"the smallest possible is {floor:,}"):
        to_budget(plain(), scores, Target(macs=100, min_channels=2, max_rate=0.5))
    assert tuple(map(len, to_budget(plain(), scores, Target(macs=floor, min_channels=2, max_rate=0.5)))) == (2, 3, 2)


def test_only_the_budget_that_fails_is_named() -> None:
    with pytest.raises(TargetError) as error:
        to_budget(plain(), [np.ones(w) for w in WIDTHS], Target(macs=1.0, channels=2))
    assert "channels asks" in str(error.value) and "macs asks" not in str(error.value)


def test_the_whole_model_fits_a_budget_of_100_percent() -> None:
    kept = to_budget(plain(), [np.arange(w, dtype=float) for w in WIDTHS], Target(macs=1.0, params=1.0, channels=1.0))
    assert tuple(map(len, kept)) == WIDTHS


def test_ties_at_the_threshold_go_by_index() -> None:
    """60 % of the scores are exactly 0 and 30 % are asked for: 30 % goes, the lowest groups and indices first."""
    coupling = plain(40, 40, 20)
    scores = [np.where(np.arange(w) % 5 < 3, 0.0, 1.0 + np.arange(w)) for w in coupling.widths]
    assert sum(int((s == 0).sum()) for s in scores) == 60
    kept = to_budget(coupling, scores, Target(channels=0.7))
    assert sum(map(len, kept)) == 70
    zeros = [(g, c) for g, s in enumerate(scores) for c in np.flatnonzero(s == 0).tolist()]
    gone = {(g, c) for g, w in enumerate(coupling.widths) for c in set(range(w)) - set(kept[g].tolist())}
    assert gone == set(zeros[:30])


def test_equal_scores_everywhere() -> None:
    kept = to_budget(plain(40, 40, 20), [np.full(w, 0.1) for w in (40, 40, 20)], Target(channels=0.7))
    assert [k.tolist() for k in kept] == [list(range(30, 40)), list(range(40)), list(range(20))]


def test_equal_scores_tie_over_steps_of_different_size() -> None:
    """The first step takes 1 or 2 channels, later ones 3, whose mean of 0.1 is above 0.1 in float64: they tie all the
    same, so group `one` goes to its end, and then a step of `two` is enough."""
    scores = [np.full(w, 0.1) for w in (7, 13, 11)]
    kept = to_budget(plain(7, 13, 11), scores, Target(channels=26, round_to=3, fill=False))
    assert tuple(map(len, kept)) == (3, 12, 11)


def test_linked_groups_tie_with_others() -> None:
    """Stream and heads go first, since `f` scores the same. Sums of 0.1 in float64 do not grow by 0.1 each time."""

    class Linked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.heads = nn.Linear(3, 14), nn.MultiheadAttention(14, 7, batch_first=True)
            self.f, self.g = nn.Linear(14, 9), nn.Linear(9, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = x + self.heads(x, x, x, need_weights=False)[0]
            return self.g(F.relu(self.f(x.mean(1))))  # type: ignore[no-any-return]

    coupling = prunus.trace(Linked(), torch.randn(1, 4, 3))
    assert (coupling.links, coupling.widths) == (((0, 1),), (14, 7, 9))
    kept = to_budget(coupling, [np.full(w, 0.1) for w in coupling.widths], Target(channels=12, fill=False))
    assert tuple(map(len, kept)) == (2, 1, 9)


def test_pure_score_order_without_fill() -> None:
    """The last step overshoots. Fill gives back the cheap one taken before it; fill=False keeps the order."""
    scores = [np.array([0.2, 9, 9, 9]), np.array([9.0] * 5), np.array([0.1, 9, 9])]
    limit = by_hand(3, 5, 3)["macs"]  # removing a channel of `one` alone is enough
    plain_order = to_budget(plain(), scores, Target(macs=limit, fill=False))
    filled = to_budget(plain(), scores, Target(macs=limit))
    assert tuple(map(len, plain_order)) == (3, 5, 2)
    assert tuple(map(len, filled)) == (3, 5, 3)


def test_local_scope_removes_equal_fractions() -> None:
    coupling = plain(40, 20, 10)
    scores = [np.random.default_rng(k).random(w) * 10**k for k, w in enumerate((40, 20, 10))]
    for tenths in range(1, 10):
        kept = to_budget(coupling, scores, Target(channels=tenths / 10, scope="local"))
        assert tuple(map(len, kept)) == (4 * tenths, 2 * tenths, tenths)
    for tenths in range(3, 10):
        kept = to_budget(coupling, scores, Target(macs=tenths / 10, scope="local", fill=False))
        rates = [1 - len(k) / w for k, w in zip(kept, (40, 20, 10), strict=True)]
        assert max(rates) - min(rates) <= 1 / 10 + 1e-9  # one channel of the narrowest group


@pytest.mark.parametrize("round_to", [2, 3, 4, 8, 16])
def test_round_is_of_the_widths(round_to: int) -> None:
    coupling = plain(40, 21, 19)
    rng = np.random.default_rng(1)
    for tenths in range(4, 10):
        scores = [rng.random(w) for w in coupling.widths]
        kept = to_budget(coupling, scores, Target(macs=tenths / 10, round_to=round_to))
        assert all(len(k) == w or len(k) % round_to == 0 for k, w in zip(kept, coupling.widths, strict=True))
        assert by_hand(*map(len, kept))["macs"] <= by_hand(40, 21, 19)["macs"] * tenths / 10


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 1.1])
@pytest.mark.parametrize("round_to", [3, 5, 6, 7, 8])
def test_round_holds_where_scores_tie(value: float, round_to: int) -> None:
    """The mean of three times 0.1 is above the mean of eight times 0.1: rounding errors may not reorder a group."""
    coupling = plain(40, 21, 19)
    for limit in range(30, 80, 3):
        kept = to_budget(coupling, [np.full(w, value) for w in (40, 21, 19)], Target(channels=limit, round_to=round_to))
        assert all(len(k) == w or len(k) % round_to == 0 for k, w in zip(kept, coupling.widths, strict=True))
        assert sum(map(len, kept)) <= limit


@pytest.mark.parametrize(
    ("options", "floor"),
    [
        ({"round_to": 32}, (32, 21, 19)),
        ({"round_to": 20}, (20, 20, 19)),
        ({"min_channels": 21}, (21, 21, 19)),
        ({"max_rate": 0.05}, (38, 20, 19)),
    ],
)
def test_a_group_that_allows_no_step_stays_whole(options: dict[str, Any], floor: tuple[int, ...]) -> None:
    scores = [np.zeros(w) for w in (40, 21, 19)]
    least = by_hand(*floor)["macs"]
    kept = to_budget(plain(40, 21, 19), scores, Target(macs=least, **options))
    assert tuple(map(len, kept)) == floor
    with pytest.raises(TargetError, match=f"the smallest possible is {least:,}"):
        to_budget(plain(40, 21, 19), scores, Target(macs=least - 1, **options))


# blocks ---------------------------------------------------------------------------------------------------------------
class Grouped(nn.Module):
    """A convolution in 2 groups, and a group norm of 3: counts must be equal in every block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.point = nn.Conv2d(12, 15, 1)
        self.norm = nn.GroupNorm(3, 15)
        self.head = nn.Linear(15, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.grouped(F.relu(self.stem(x))))
        x = F.relu(self.norm(self.point(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_blocks_keep_equally_many_channels() -> None:
    coupling = prunus.trace(Grouped(), EXAMPLE)
    # What a grouped convolution reads goes slot by slot: the 8 channels of the stem are 4 pairs.
    blocks = {g.name: (g.width, g.step) for g in coupling.groups}
    assert blocks["grouped"] == (12, 2) and blocks["point"] == (15, 3)
    assert blocks["stem"] in {(4, 1), (8, 2)}
    rng = np.random.default_rng(0)
    for tenths in range(3, 10):
        kept = to_budget(coupling, [rng.random(g.width) for g in coupling.groups], Target(macs=tenths / 10))
        for group, ids in zip(coupling.groups, kept, strict=True):
            if group.blocks is not None:
                assert len(set(np.bincount(group.blocks[ids], minlength=group.step).tolist())) == 1


@pytest.mark.parametrize("target", ["macs=50%", "params=40%", "channels=70%,round=2", "macs=60%,scope=local"])
def test_nets_with_blocks_are_proven(target: str) -> None:
    torch.manual_seed(0)
    small = prunus.prune(Grouped(), EXAMPLE, target, "random")
    assert small.proof is not None and small.proof.holds
    assert small.model.get_submodule("grouped").groups == 2
    assert small.model.get_submodule("norm").num_channels % 3 == 0


def test_widths_that_break_blocks_are_refused() -> None:
    coupling = prunus.trace(Grouped(), EXAMPLE)
    scores = [np.ones(g.width) for g in coupling.groups]
    widths = [g.width - (g.name == "point") for g in coupling.groups]
    with pytest.raises(TargetError, match="point must keep a multiple of 3 channels, not 14"):
        to_widths(coupling, scores, widths)


def test_scores_are_checked() -> None:
    ones = [np.ones(w) for w in WIDTHS]
    with pytest.raises(TargetError, match="group two has 5 channels"):
        to_budget(plain(), [ones[0], np.ones(4), ones[2]], Target(macs=0.5))
    with pytest.raises(TargetError, match="group three got scores that are not finite"):
        to_budget(plain(), [ones[0], ones[1], np.array([1.0, math.nan, 2.0])], Target(macs=0.5))
    with pytest.raises(TargetError, match=r"group three got scores beyond ±1e\+300"):
        to_budget(plain(), [ones[0], ones[1], np.array([1.0, -1e308, 2.0])], Target(macs=0.5))


def test_where_only_a_block_can_go_nothing_is_ranked() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(x + self.body(x))  # type: ignore[no-any-return]

    x, pin = torch.zeros(1, 3, 4, 4), ["stem", "body"]
    small = prunus.prune(Residual(), x, "macs=40%", drop="forward", pin=pin)
    assert small.after.macs == 16 * (3 * 8 + 8 * 2) and small.plan.kept == ()
    with pytest.raises(TargetError, match=r"the smallest possible is 640 "):
        prunus.prune(Residual(), x, "macs=30%", drop="forward", pin=pin)
