"""The bee colony against brute force, within its budget, and going on from its cache."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from torch import nn

import prunus
from prunus.errors import InputError, TargetError
from prunus.methods import ABC
from prunus.methods.bee_colony import Space, colony, onlookers
from prunus.plan import plan_for
from prunus.select import to_widths
from prunus.surgery import apply
from prunus.target import Target


def net() -> nn.Module:
    """Groups of 10, 12 and 8."""
    convs = [zoo.conv(3, 10), nn.ReLU(), zoo.conv(10, 12), nn.ReLU(), zoo.conv(12, 8), nn.ReLU()]
    return zoo.lively(nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)))


def worth(model: nn.Module) -> float:
    """More channels are better, with other weights and less and less."""
    widths = [model[k].out_channels for k in (0, 2, 4)]
    return float(1.0 * np.sqrt(widths[0]) + 0.4 * np.sqrt(widths[1]) + 2.0 * np.sqrt(widths[2]))


def brute(goal: Target) -> float:
    """The best of all 1 000 structures within the budget."""
    model = net()
    coupling = prunus.trace(model, zoo.EXAMPLE)
    space, level = Space.of(coupling, goal), [np.zeros(width) for width in coupling.widths]
    known = {}
    for food in itertools.product(range(1, 11), repeat=3):
        widths = space.widths(np.array(food))
        if space.fits(widths) and tuple(widths) not in known:
            kept = to_widths(coupling, level, widths.tolist())
            known[tuple(widths)] = worth(apply(model, plan_for(coupling, kept)))
    return max(known.values())


@pytest.mark.parametrize("budget", ["macs=40%", "channels=50%", "macs=60%,params=50%,min=2"])
def test_it_finds_the_best_of_all_structures(budget: str) -> None:
    small = prunus.prune(net(), zoo.EXAMPLE, budget, ABC(cycles=15), evaluate=worth, seed=1, check=False)
    assert worth(small.model) == brute(Target.parse(budget))
    for kind, share in (("macs", 0.4), ("channels", 0.5), ("params", 0.5)):
        if f"{kind}={share:.0%}" in budget:
            now = sum(small.plan.widths) if kind == "channels" else getattr(small.after, kind)
            assert now <= share * (30 if kind == "channels" else getattr(small.before, kind))


def test_every_structure_that_is_measured_is_within_the_budget() -> None:
    seen: list[tuple[int, ...]] = []

    def evaluate(model: nn.Module) -> float:
        seen.append(tuple(model[k].out_channels for k in (0, 2, 4)))
        assert coupling.macs(seen[-1]) <= 0.5 * coupling.macs()
        return -sum(seen[-1])  # negative, and worse the larger

    coupling = prunus.trace(net(), zoo.EXAMPLE)
    for budget in ("macs=50%", "macs=50%,fill=no"):
        seen.clear()
        small = prunus.prune(net(), zoo.EXAMPLE, budget, ABC(cycles=6), evaluate=evaluate, check=False)
        assert len(seen) == len(set(seen)) > 10  # each structure once
        assert sum(small.plan.widths) == min(map(sum, seen))
        used = [0.5 - coupling.macs(widths) / coupling.macs() for widths in seen]
        assert max(used) < 0.12 if "fill" not in budget else max(used) > 0.4


def test_it_goes_on_from_its_cache_to_the_same_end(tmp_path: Path) -> None:
    path, asked = tmp_path / "known.json", list[int]()

    def counting(most: int) -> Callable[[nn.Module], float]:
        def evaluate(model: nn.Module) -> float:
            if len(asked) == most:
                raise KeyboardInterrupt
            asked.append(1)
            return worth(model) + float(torch.rand(()))  # what a training draws starts from the seed each time

        return evaluate

    def search(method: ABC, most: int = 10_000) -> tuple[int, ...]:
        asked.clear()
        small = prunus.prune(net(), zoo.EXAMPLE, "macs=40%", method, evaluate=counting(most), seed=3, check=False)
        return small.plan.widths

    whole = search(ABC(cycles=5))
    total = len(asked)
    kept = ABC(cycles=5, cache=str(path))
    with pytest.raises(KeyboardInterrupt):
        search(kept, most=total // 2)
    assert len(json.loads(path.read_text())["values"]) == total // 2
    assert search(kept) == whole and len(asked) == total - total // 2
    assert search(kept) == whole and len(asked) == 0
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="is of other weights or another ranking"):
        prunus.prune(net(), zoo.EXAMPLE, "macs=40%", ABC(cache=str(path), base="l2"), evaluate=worth)
    path.write_text("[1, 2]")
    with pytest.raises(InputError, match="is no cache of measured structures"):
        search(kept)


def test_the_random_base_and_the_l1_norm_inside_a_width() -> None:
    model = net()
    found = {}
    for base in ("l1", "random"):
        small = prunus.prune(model, zoo.EXAMPLE, "macs=50%", ABC(cycles=1, base=base), evaluate=worth, check=False)
        found[base] = small.plan
    norms = model[0].weight.detach().abs().sum(dim=(1, 2, 3))
    width = found["l1"].widths[0]
    assert list(found["l1"].kept[0]) == sorted(torch.topk(norms, width).indices.tolist())
    assert found["random"].widths == found["l1"].widths and found["random"].kept != found["l1"].kept


def test_tenths_round_down_to_what_is_legal() -> None:
    coupling = prunus.trace(net(), zoo.EXAMPLE)
    space = Space.of(coupling, Target.parse("macs=90%"))
    assert space.widths(np.array([10, 10, 10])).tolist() == [10, 12, 8]
    assert space.widths(np.array([5, 5, 5])).tolist() == [5, 6, 4]
    assert space.widths(np.array([1, 1, 1])).tolist() == [1, 1, 1]
    assert space.widths(np.array([9, 9, 9])).tolist() == [9, 10, 7]
    even = Space.of(coupling, Target.parse("macs=90%,round=4,min=4"))
    assert even.widths(np.array([9, 9, 9])).tolist() == [8, 8, 4]
    assert even.widths(np.array([1, 1, 1])).tolist() == [4, 4, 4]


def test_onlookers_prefer_the_better() -> None:
    draw = np.random.default_rng(0)
    sent = np.bincount([i % 3 for i in onlookers([-3.0, -2.0, -1.0] * 400, draw)], minlength=3)
    assert sent.sum() == 1200
    np.testing.assert_allclose(sent / sent.sum(), np.array([0.1, 0.55, 1.0]) / 1.65, atol=0.03)


def test_a_source_that_is_worn_out_is_given_up() -> None:
    """All is equal, so nothing is ever better: with limit 1 a source is replaced in every cycle."""
    calls = []

    def fitness(food: np.ndarray) -> float:
        calls.append(tuple(food))
        return 0.0

    for limit, scouts in ((1, 3), (100, 0)):
        calls.clear()
        colony(fitness, lambda food: food, 4, np.random.default_rng(0), sources=2, limit=limit, cycles=3)
        assert len(calls) == 2 + 3 * (2 + 2) + scouts


def test_what_is_refused() -> None:
    model = net()
    with pytest.raises(InputError, match="abc needs evaluate="):
        prunus.prune(model, zoo.EXAMPLE, "macs=50%", "abc")
    with pytest.raises(TargetError, match="the smallest possible is"):
        prunus.prune(model, zoo.EXAMPLE, "macs=1%", "abc", evaluate=worth)
    with pytest.raises(InputError, match=r"evaluate gave nan for the widths"):
        prunus.prune(model, zoo.EXAMPLE, "macs=50%", "abc", evaluate=lambda small: float("nan"))
    with pytest.raises(InputError, match="base='gates' looks for channels"):
        prunus.prune(model, zoo.EXAMPLE, "macs=50%", ABC(base="gates"), evaluate=worth)
    with pytest.raises(InputError, match="abc looks for channels and ranks none: scope='local'"):
        prunus.prune(model, zoo.EXAMPLE, "macs=50%", ABC(scope="local"), evaluate=worth)
    for given in ({"sources": 1}, {"limit": 0}, {"cycles": -1}, {"changes": 0}, {"epochs": -1}, {"lr": 0.0}):
        with pytest.raises(InputError, match="abc: "):
            ABC(**given)
