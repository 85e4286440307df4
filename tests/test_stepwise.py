"""A target reached in several cuts: schedules, what each cut is held to, the coupling in between, proofs, one plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn

import prunus
from prunus.errors import InputError, ModelError, PlanError, TargetError, UnknownName
from prunus.methods import Magnitude
from prunus.narrowing import narrowed
from prunus.plan import plan_for
from prunus.surgery.trial import step_plan

IMAGE = zoo.image()


def train(net: nn.Module, k: int) -> None:
    """Two steps, in place."""
    draw = torch.Generator().manual_seed(k)
    sgd = torch.optim.SGD(net.parameters(), 0.05)
    net.train()
    for _ in range(2):
        sgd.zero_grad()
        F.cross_entropy(net(torch.randn(4, 3, 8, 8, generator=draw)), torch.arange(4)).backward()
        sgd.step()
    net.eval()


# schedules ------------------------------------------------------------------------------------------------------------
def test_the_share_of_the_way() -> None:
    assert [prunus.Steps(4).share(k) for k in range(5)] == [Fraction(k, 4) for k in range(5)]
    cubic = prunus.Steps(4, "cubic")
    assert [cubic.share(k) for k in range(1, 5)] == [Fraction(37, 64), Fraction(7, 8), Fraction(63, 64), 1]
    assert prunus.Steps.of(3) == prunus.Steps(3, "linear") and prunus.Steps.of(cubic) is cubic


@pytest.mark.parametrize(("steps", "left"), [(4, [88, 76, 64, 52]), (prunus.Steps(4, "cubic"), [72, 58, 52, 52])])
def test_every_cut_meets_its_share_of_the_budget(steps: Any, left: list[int]) -> None:
    """Of 100 channels 52 stay: ⌊100 − 48·share⌋ after each cut, to the channel, since channels cost one each."""
    model = nn.Sequential(nn.Conv2d(3, 60, 1), nn.ReLU(), nn.Conv2d(60, 40, 1), nn.ReLU(), nn.Conv2d(40, 2, 1))
    seen: list[tuple[int, int]] = []

    def look(net: nn.Module, k: int) -> None:
        seen.append((k, net[0].out_channels + net[2].out_channels))  # type: ignore[index]

    small = prunus.prune(model, IMAGE, "channels=52", steps=steps, between=look)
    assert seen == list(zip((1, 2, 3), left[:3], strict=True)) and sum(small.plan.widths) == left[3]


def test_budgets_on_the_way_are_of_the_dense_network() -> None:
    model, costs = zoo.chain(), []
    small = prunus.prune(
        model, IMAGE, "macs=40%,params=60%", steps=3, between=lambda net, k: costs.append(prunus.cost(net, IMAGE))
    )
    for k, cost in enumerate([*costs, small.after], 1):
        assert cost.macs <= (1 - 0.6 * k / 3) * small.before.macs + 1
        assert cost.params <= (1 - 0.4 * k / 3) * small.before.params + 1
    assert costs[0].macs > costs[1].macs > small.after.macs


# what the rules of a target mean over steps ---------------------------------------------------------------------------
def test_round_min_and_max_rate_are_of_the_dense_widths() -> None:
    widths: list[tuple[int, int]] = []

    def look(net: nn.Module, k: int) -> None:
        widths.append((net[0].out_channels, net[3].out_channels))  # type: ignore[index]

    model = zoo.classifier(width=24)
    small = prunus.prune(model, zoo.EXAMPLE, "macs=35%,round=4", steps=3, between=look)
    assert all(w % 4 == 0 for pair in (*widths, small.plan.widths) for w in pair)
    small = prunus.prune(model, zoo.EXAMPLE, "macs=45%,max_rate=60%", "random", steps=4)
    assert all(now >= 0.4 * was for _, was, now in small.rows())
    small = prunus.prune(model, zoo.EXAMPLE, "channels=16,min=7", "random", steps=4)
    assert min(small.plan.widths) >= 7
    with pytest.raises(TargetError, match="the smallest possible"):
        prunus.prune(model, zoo.EXAMPLE, "channels=13,min=7", "random", steps=4)


def test_a_local_scope_takes_the_same_fraction_of_the_dense_widths_at_every_step() -> None:
    model = nn.Sequential(nn.Conv2d(3, 40, 1), nn.ReLU(), nn.Conv2d(40, 20, 1), nn.ReLU(), nn.Conv2d(20, 1, 1))
    widths: list[tuple[int, int]] = []

    def look(net: nn.Module, k: int) -> None:
        widths.append((net[0].out_channels, net[2].out_channels))  # type: ignore[index]

    small = prunus.prune(model, IMAGE, "channels=40%,scope=local", steps=3, between=look)
    assert [*widths, small.plan.widths] == [(32, 16), (24, 12), (16, 8)]


@pytest.mark.parametrize("asked", [{"widths": {"0": 5, "3": 3}}, {"rates": "[0.375]+[0.75]"}])
def test_stated_widths_are_reached_in_steps(asked: dict[str, Any]) -> None:
    """8 -> 5 and 12 -> 3: a third and two thirds of the way, rounded down."""
    widths: list[tuple[int, int]] = []

    def look(net: nn.Module, k: int) -> None:
        widths.append((net[0].out_channels, net[3].out_channels))  # type: ignore[index]

    small = prunus.prune(zoo.chain(), IMAGE, **asked, steps=3, between=look)
    assert [*widths, small.plan.widths] == [(7, 9), (6, 6), (5, 3)]


def test_blocks_are_dropped_with_the_first_cut() -> None:
    model, blocks = zoo.residual(), []
    small = prunus.prune(
        model,
        IMAGE,
        "macs=30%",
        steps=3,
        drop=["1"],
        between=lambda net, k: blocks.append(str(net[1].a)),  # type: ignore[index, union-attr]
    )
    assert all("Blank" in text or "Zero" in text or "Identity" in text for text in blocks) and len(blocks) == 2
    assert [d.name for d in small.plan.dropped] == ["1"] and small.proof is not None and small.proof.holds
    assert small.after.macs <= 0.3 * small.before.macs
    assert torch.equal(prunus.apply(model, small.plan)(IMAGE), small.model(IMAGE))


def test_what_is_gone_stays_gone_and_what_is_left_is_scored_anew() -> None:
    """The user zeroes filters 6 and 7 of those that are left; they go next, though they were the largest."""
    model = zoo.chain()
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(1.0, 9)[:, None, None, None].expand(8, 3, 3, 3))

    def zero(net: nn.Module, k: int) -> None:
        with torch.no_grad():
            net[0].weight[-2:] = 0  # type: ignore[index, union-attr]

    once = prunus.prune(model, IMAGE, widths={"0": 4})
    twice = prunus.prune(model, IMAGE, widths={"0": 4}, steps=2, between=zero)
    assert once.plan.kept[0] == (4, 5, 6, 7) and twice.plan.kept[0] == (2, 3, 4, 5)


# the coupling in between ----------------------------------------------------------------------------------------------
class Attentive(nn.Module):
    """Attention written by hand, its softmax scale from the width of a head, beside a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = zoo.conv(3, 16), zoo.conv(16, 16, groups=4)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = zoo.tokens(F.relu(self.mix(self.stem(x))))
        q, k, v = (f(x).unflatten(-1, (2, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head((x + self.o(y)).mean(1))  # type: ignore[no-any-return]


BUILDS: dict[str, Callable[[], nn.Module]] = {
    "chain": zoo.chain,
    "residual": zoo.residual,
    "attention": lambda: zoo.lively(Attentive()),
}


@pytest.mark.parametrize("name", BUILDS)
def test_the_narrowed_coupling_is_that_of_a_trace(name: str) -> None:
    model = BUILDS[name]()
    coupling = prunus.trace(model, IMAGE, attention="width")
    plan = step_plan(coupling)
    small = prunus.apply(model, plan)
    here, traced = narrowed(coupling, plan, small), prunus.trace(small, IMAGE, attention="width")
    assert [g.name for g in here.groups] == [g.name for g in traced.groups] and here.widths == traced.widths
    for mine, its in zip(here.groups, traced.groups, strict=True):
        assert [(m.tensor, m.axis, m.role, m.positions.tolist()) for m in mine.members] == [
            (m.tensor, m.axis, m.role, m.positions.tolist()) for m in its.members
        ]
        assert (mine.blocks is None) == (its.blocks is None)
        assert mine.blocks is None or np.array_equal(mine.blocks, its.blocks)
    assert here.fingerprint == traced.fingerprint and here.links == traced.links
    assert here.macs() == traced.macs() == prunus.cost(small, IMAGE).macs and here.params() == traced.params()
    assert [(f.tensor, f.axis, f.positions.tolist()) for f in here.folds] == [
        (f.tensor, f.axis, f.positions.tolist()) for f in traced.folds
    ]


def test_the_stream_around_a_dropped_branch_goes_on_narrowing() -> None:
    """The zeros in place of the branch are as wide as the stream, at each of the cuts that follow."""
    model = zoo.residual()
    small = prunus.prune(model, IMAGE, "channels=50%", "random", drop=["1"], steps=3, between=lambda net, k: None)
    stream = small.plan.widths[0]
    assert stream < model[0].out_channels and small.model[0].out_channels == stream  # type: ignore[index, union-attr]
    assert small.proof is not None and small.proof.holds
    assert torch.equal(prunus.apply(model, small.plan)(IMAGE), small.model(IMAGE))


def test_without_a_dropped_branch_its_groups_and_its_work_are_gone() -> None:
    model = zoo.residual()
    coupling = prunus.trace(model, IMAGE)
    plan = plan_for(coupling, [range(g.width) for g in coupling.groups], ["1"])
    small = prunus.apply(model, plan)
    here = narrowed(coupling, plan, small)
    assert [g.name for g in here.groups] == ["0", "2.a"]
    assert not any(m.tensor.startswith("1.") for g in here.groups for m in g.members)
    assert here.macs() == prunus.cost(small, IMAGE).macs and [r.name for r in here.blocks] == ["2"]


# proofs and plans -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("between", [None, train])
def test_one_plan_cuts_the_dense_network_at_once(name: str, between: Any) -> None:
    model = BUILDS[name]().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    small = prunus.prune(model, IMAGE, "macs=50%", steps=3, between=between)
    assert small.proof is not None and small.proof.holds and small.before == prunus.cost(model, IMAGE)
    assert small.after == prunus.cost(small.model, IMAGE) and small.after.macs <= small.before.macs / 2
    twin = prunus.apply(model, prunus.Plan.from_json(json.loads(json.dumps(small.plan.to_json()))))
    ours, theirs = small.model.state_dict(), twin.state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    same = all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert same == (between is None)
    assert ("each proven against the network that it was made from" in str(small.proof)) == (between is not None)
    twin.load_state_dict(ours)
    assert torch.equal(twin(IMAGE), small.model(IMAGE))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_training_that_did_nothing_leaves_the_proof_against_the_dense_network() -> None:
    calls: list[int] = []
    small = prunus.prune(zoo.chain(), IMAGE, "macs=50%", steps=3, between=lambda net, k: calls.append(k))
    assert calls == [1, 2] and small.proof is not None and "each proven" not in str(small.proof)
    plain = prunus.prune(zoo.chain(), IMAGE, "macs=50%", steps=3)
    assert plain.plan.to_json() == small.plan.to_json()
    assert prunus.prune(zoo.chain(), IMAGE, "macs=50%", steps=3, between=train, check=False).proof is None


def test_every_cut_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    from prunus import cutting

    proven: list[int] = []
    verify = cutting.verify
    monkeypatch.setattr(cutting, "verify", lambda *args, **more: (proven.append(1), verify(*args, **more))[1])
    prunus.prune(zoo.chain(), IMAGE, "macs=50%", steps=3, between=train)
    assert len(proven) == 3


def test_data_is_read_again_for_every_cut_on_the_network_as_it_is() -> None:
    seen: list[tuple[int, int]] = []

    def loss(net: nn.Module, batch: Any) -> Tensor:
        seen.append((net[0].out_channels, net[3].out_channels))  # type: ignore[index]
        return F.cross_entropy(net(batch[0]), batch[1])

    data = [(torch.randn(4, 3, 8, 8), torch.arange(4))]
    small = prunus.prune(zoo.chain(), IMAGE, "channels=50%", "taylor", data=data, loss=loss, steps=3, between=train)
    assert len(seen) == 3 and seen[0] == (8, 12) and sum(seen[1]) == 16 and sum(seen[2]) == 13
    assert sum(small.plan.widths) == 10


# refusals -------------------------------------------------------------------------------------------------------------
def test_an_impossible_target_is_refused_before_any_training() -> None:
    with pytest.raises(TargetError, match="the smallest possible is"):
        prunus.prune(zoo.chain(), IMAGE, "macs=1%", steps=3, between=lambda net, k: pytest.fail("trained"))


def test_steps_that_mean_nothing() -> None:
    bad: Any
    for bad in (0, -1, 1.5, True, "3", None):
        with pytest.raises(InputError, match="is no whole number of 1 or more"):
            prunus.prune(zoo.chain(), IMAGE, "macs=50%", steps=bad)
    with pytest.raises(UnknownName, match="unknown schedule of steps 'cubik'; did you mean 'cubic'"):
        prunus.Steps(3, "cubik")
    with pytest.raises(InputError, match="between is a function of the smaller model and the step, not int"):
        prunus.prune(zoo.chain(), IMAGE, "macs=50%", steps=2, between=3)  # type: ignore[arg-type]


def test_a_training_that_breaks_the_network_is_told() -> None:
    def nan(net: nn.Module, k: int) -> None:
        with torch.no_grad():
            next(net.parameters())[0] = float("nan")

    def other(net: nn.Module, k: int) -> None:
        net[8] = nn.Linear(net[8].in_features, 7)  # type: ignore[index, operator]

    with pytest.raises(ModelError, match=r"0\.weight holds values that are not finite"):
        prunus.prune(zoo.chain(), IMAGE, "macs=50%", steps=2, between=nan)
    with pytest.raises(PlanError, match=r"the plan belongs to another model: 8\.weight"):
        prunus.prune(zoo.chain(), IMAGE, "macs=50%", steps=2, between=other)


def test_one_step_is_the_plain_call() -> None:
    calls: list[int] = []
    one = prunus.prune(zoo.chain(), IMAGE, "macs=50%", Magnitude(), steps=1, between=lambda net, k: calls.append(k))
    assert one.plan.to_json() == prunus.prune(zoo.chain(), IMAGE, "macs=50%").plan.to_json() and calls == []
