"""A budget of latency, on clocks that compute: met, corrected, joined with others, refused; and once on a real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clocks import Computed, X, net, padded
from torch import nn

import prunus
from prunus.api import trace
from prunus.errors import InputError, TargetError
from prunus.latency import Latency, Sample
from prunus.latency.aimed import AIM, BAND, ROUNDS, to_latency
from prunus.latency.machine import machine
from prunus.methods import Slimming
from prunus.plan import plan_for
from prunus.surgery import apply
from prunus.target import Target

DRAW = np.random.default_rng(0)
SCORES = tuple(DRAW.random(width) for width in (64, 96, 128))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path / "cache"))


def ask(target: str, clock: Computed, model: nn.Module | None = None) -> tuple[list[int], Latency, tuple[str, ...]]:
    """Widths, what it came to, notes."""
    model = model or net()
    kept, found, notes = to_latency(model, X, trace(model, X), SCORES, Target.parse(target), source=clock)
    return [ids.size for ids in kept], found, notes


@pytest.mark.parametrize("target", ["latency=60%", "latency=25%", "latency=6ms", "latency=60%,scope=local"])
def test_where_the_model_is_right_one_round_is_enough(target: str) -> None:
    clock = Computed()
    widths, found, notes = ask(target, clock)
    most = 0.25 if "25" in target else 0.6
    assert found.rounds == 1 and found.holds and notes == ()
    assert most - BAND <= found.measured.median <= most - AIM
    assert found.predicted == pytest.approx(found.measured.median, rel=0.05)
    assert found.dense == 1e-2 and found.pruned.median == pytest.approx(1e-2 * found.measured.median)
    assert widths == [m.out_channels for m in clock.networks[-1].modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize(
    "bend",
    [
        lambda share: 0.4 + 0.6 * share,  # a part that does not shrink
        lambda share: min(1.0, 1.3 * share),
        lambda share: max(0.0, 1 - 1.7 * (1 - share)),
        lambda share: share**0.5,
        lambda share: share**2,
    ],
)
def test_a_model_that_is_off_is_corrected(bend: Callable[[float], float]) -> None:
    found = ask("latency=60%", Computed(bend=bend))[1]
    assert found.holds and 1 < found.rounds <= ROUNDS
    assert 0.6 - BAND <= found.measured.median <= 0.6


def test_what_is_measured_once_is_not_measured_again() -> None:
    first, second = Computed(), Computed()
    one, two = ask("latency=60%", first), ask("latency=50%", second)
    assert one[1].timed - 2 == one[1].points == len(first.layers) > 10
    assert second.layers == [] and two[1].timed == 0 and two[1].points == one[1].points
    other = Computed(threads=2)
    ask("latency=60%", other)
    assert len(other.layers) == len(first.layers)


def test_budgets_join() -> None:
    model = net()
    for target, tight in (("latency=90%,macs=30%", "macs"), ("latency=30%,macs=90%", "latency")):
        kept, found, notes = to_latency(model, X, trace(model, X), SCORES, Target.parse(target), source=Computed())
        small = apply(model, plan_for(trace(model, X), kept))
        macs = prunus.cost(small, X).macs / prunus.cost(model, X).macs
        assert found.holds and macs <= (0.3 if tight == "macs" else 0.9)
        assert (macs > 0.29) == (tight == "macs")
        assert bool(notes) == (tight == "macs")  # the other budget keeps the latency far below


def test_round_min_and_fill() -> None:
    widths, found, _ = ask("latency=50%,round=8", Computed(padded))
    assert found.holds and all(width % 8 == 0 for width in widths)
    assert min(ask("latency=30%,min=24", Computed())[0]) >= 24
    filled, plainly = (sum(ask(f"latency=50%{fill}", Computed(padded))[0]) for fill in ("", ",fill=no"))
    assert filled >= plainly


def test_padding_is_filled_up() -> None:
    """Where the 16th channel of a vector costs what the first does, all 16 stay."""
    widths, found, _ = ask("latency=50%", Computed(padded))
    assert found.holds and all(width % 16 == 0 for width in widths)


def test_all_of_it_leaves_the_network_whole() -> None:
    widths, found, notes = ask("latency=100%", Computed())
    assert widths == [64, 96, 128] and found.holds and found.rounds == 1 and notes == ()


def test_a_fixed_part_makes_a_budget_impossible() -> None:
    clock = Computed(bend=lambda share: 0.4 + 0.6 * share)
    with pytest.raises(TargetError) as error:
        ask("latency=30%", clock)
    smallest = min(clock.bend(clock.work(small) / clock.work(net())) for small in clock.networks)
    assert f"at most 30.00 %, the smallest possible takes {100 * smallest:.2f} %, measured: " in str(error.value)
    assert ask("latency=45%", Computed(bend=clock.bend))[1].holds


def test_a_clock_that_never_obeys_is_told_of() -> None:
    """Nothing that goes makes it faster until the smallest network."""
    turns = Computed(bend=lambda share: 0.9 if share > 0.3 else 0.05)
    _, found, notes = ask("latency=60%", turns)
    assert found.holds and found.measured.median == 0.05
    assert "no cut between was found" in notes[0]


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("latency=11ms", "latency=11ms is above 100 %: the dense model has 10ms"),
        ("latency=50%,macs=5", "macs asks for at most 5"),
    ],
)
def test_targets_that_cannot_be(target: str, told: str) -> None:
    with pytest.raises(TargetError, match=told):
        ask(target, Computed())


def test_a_network_of_which_no_layer_has_a_table() -> None:
    """Transposed convolutions are known by their MACs alone: 60 % of 24 channels are 14."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(3, 24, 2, stride=2), nn.ReLU(), nn.ConvTranspose2d(24, 1, 2, stride=2))

    class Counted(Computed):
        def work(self, network: nn.Module) -> float:
            return float(network.get_submodule("0").out_channels)  # type: ignore[arg-type]

    coupling = trace(model, X)
    scores = [DRAW.random(group.width) for group in coupling.groups]
    kept, found, _ = to_latency(model, X, coupling, scores, Target.parse("latency=60%"), source=Counted())
    assert [ids.size for ids in kept] == [14] and found.points == 0 and found.holds
    assert found.measured.median == 14 / 24


def test_dropped_blocks_count() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 3, padding=1)
            self.head = nn.Conv2d(64, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.head(x + self.body(x)).mean((2, 3))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model, clock = Residual(), Computed()
    coupling = trace(model, X)
    drop = tuple(block.name for block in coupling.blocks)
    assert len(drop) == 1
    scores = [DRAW.random(group.width) for group in coupling.groups]
    kept, found, _ = to_latency(model, X, coupling, scores, Target.parse("latency=50%"), drop, source=clock)
    # The block is 95 % of the work, so without it every channel may stay.
    assert [ids.size for ids in kept] == [64] and found.predicted < 0.1


def test_what_latency_does_not_go_with() -> None:
    with pytest.raises(TargetError, match="steps=1, not 2"):
        prunus.prune(net(), X, "latency=50%", steps=2)
    with pytest.raises(TargetError, match="prune\\(\\) alone takes it"):
        Slimming().attach(net(), X, target="latency=50%", epochs=1)
    with pytest.raises(TargetError, match="searches for widths itself"):
        prunus.prune(net(), X, "latency=50%", "abc", evaluate=lambda model: 1.0)
    with pytest.raises(TargetError, match="single weights"):
        prunus.prune(net(), X, "latency=50%", "weights")


def test_fresh_processes_have_the_last_word() -> None:
    """What they say replaces what one process said, and is corrected where it is not as asked."""
    found = ask("latency=60%", Computed(apart=(0.98, 1.0, 1.02)))[1]
    share = found.measured.median
    off = 4.3027 * 0.02 * share * (4 / 3) ** 0.5  # Student's t of two degrees of freedom
    assert found.processes == 3 and found.rounds == 1 and "3 processes" in str(found)
    assert found.measured.low == pytest.approx(share - off, rel=1e-4)
    assert found.measured.high == pytest.approx(share + off, rel=1e-4)
    assert found.pruned.median == pytest.approx(share * found.dense)
    even = ask("latency=60%", Computed(apart=(1.0, 1.0, 1.0)))[1]  # what may still be added counts
    assert even.measured.high - even.measured.median == pytest.approx(0.05 * (1 - even.measured.median))
    assert even.pruned.median - even.pruned.low == pytest.approx(0.05 * even.dense)
    slower = ask("latency=60%", Computed(apart=(1.1, 1.1)))[1]
    assert slower.holds and slower.rounds > 1 and 0.6 - BAND <= slower.measured.median <= 0.6
    in_time = ask("latency=6ms", Computed(apart=(1.1, 1.1)))[1]
    assert in_time.holds and 6e-3 - BAND * 1e-2 <= in_time.pruned.median <= 6e-3


def test_without_fresh_processes_it_is_said() -> None:
    class Alone(Computed):
        def pairs(self, dense: nn.Module, pruned: nn.Module, example: torch.Tensor) -> list[Sample]:
            raise InputError("no memory")

    _, found, notes = ask("latency=60%", Alone())
    assert found.holds and found.processes == 0
    assert notes == ("latency: measured in this process alone: no memory",)


def test_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prunus.api, "machine", lambda runtime, model: replace(machine(runtime, model), seconds=1.0))
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4),
    ).train()  # fmt: skip
    x = torch.randn(2, 3, 24, 24)
    small = prunus.prune(model, x, "latency=70%")
    found = small.latency
    assert found is not None and model.training and small.proof is not None and small.proof.holds
    assert found.rounds <= ROUNDS and found.timed > 0 and found.batch == 2 and found.runtime == "eager"
    assert found.holds or any(note.startswith("latency: ") for note in small.notes)
    assert small.after.macs < small.before.macs
    assert "latency: 70% asked" in str(small) and "% measured [" in str(small)
    told = json.loads(json.dumps(found.to_json()))
    assert told["asked"] == "70%" and told["measured"]["median"] == found.measured.median
