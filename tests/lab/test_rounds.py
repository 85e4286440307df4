"""Rounds of masking and training back, on noise: counts, one series or several, rewinding, and that zeros stay 0."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import prunus
from prunus.engine.config import Fit
from prunus.engine.data import Data, Split
from prunus.engine.runtime import Runtime
from prunus.errors import InputError
from prunus.lab.job import Cut, answer, do, finetune, holding
from prunus.lab.rounds import Row, cells, rounds
from prunus.target import Target

CPU = Runtime(device="cpu")
EXAMPLE = torch.zeros(1, 1, 8, 8)
AFTER = Fit(2, 16, 0.05, clip=1.0, ema=0.9)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),  # 72 weights, 8 biases
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),  # 128 weights, 4 biases
    )


def data() -> Data:
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8, generator=g)
    split = Split(images, torch.arange(32) % 4)
    return Data(split, split, 4, (0.5,), (0.25,), "noise")


def nonzero(model: nn.Module) -> int:
    return sum(int(model.get_parameter(name).count_nonzero()) for name in ("0.weight", "5.weight"))


def test_one_series_has_every_row_where_the_rate_is_of_what_remains() -> None:
    model = net()
    was = copy.deepcopy(model.state_dict())
    found = list(rounds(model, EXAMPLE, Cut(method="weights"), (1, 3), data=data(), after=AFTER, runtime=CPU))
    assert [row.rounds for row, _ in found] == [0, 1, 3]
    # 30 % of what remains: 60, 18, 5 of 200 weights; beside them 12 biases and 16 of the norm are counted.
    assert [nonzero(thin.model) for _, thin in found[1:]] == [60, 5]
    assert [row.nonzero for row, _ in found[1:]] == [60 + 28, 5 + 28]
    assert [(row.epochs, row.batch_size) for row, _ in found] == [(0, 16), (2, 16), (2, 16)]
    assert 0 == found[0][0].seconds < found[1][0].seconds < found[2][0].seconds
    first, last = (thin.model[5].weight != 0 for _, thin in found[1:])
    assert (first | ~last).all(), "masks are nested"
    assert all(torch.equal(was[name], tensor) for name, tensor in model.state_dict().items())


def test_by_schedule_each_row_is_a_series_of_its_own() -> None:
    cut = Cut(Target(weights=0.4), method="weights", options={"rate_of": "whole", "schedule": "linear"})
    found = list(rounds(net(), EXAMPLE, cut, (1, 2), data=data(), after=Fit(1, 16, 0.05), runtime=CPU))
    assert [nonzero(thin.model) for _, thin in found[1:]] == [80, 80]
    alone = list(rounds(net(), EXAMPLE, cut, (2,), data=data(), after=Fit(1, 16, 0.05), runtime=CPU))[-1][1]
    assert all(torch.equal(t, alone.model.state_dict()[name]) for name, t in found[2][1].model.state_dict().items())


def test_early_weights_come_back_under_every_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    early = {name: torch.full_like(t, 7) for name, t in net().state_dict().items()}
    seen = []

    def look(thin, *_, **__):
        seen.append((copy.deepcopy(thin.model.state_dict()), thin.masks))
        return finetune(thin, data(), Fit(1, 16, 0.05), runtime=CPU, progress=False)

    monkeypatch.setattr("prunus.lab.rounds.finetune", look)
    cut = Cut("weights=50%", method="weights", options={"include": ["biases"]})
    list(rounds(net(), EXAMPLE, cut, (2,), data=data(), after=Fit(1, 16, 0.05), runtime=CPU, early=early))
    assert [sum(int(m.sum()) for m in masks.values()) for _, masks in seen] == [106, 53]
    for state, masks in seen:
        for name, tensor in state.items():
            kept = masks.get(name, torch.ones(tensor.shape, dtype=torch.bool))
            assert (tensor[kept] == 7).all() and (tensor[~kept] == 0).all()
    with pytest.raises(InputError, match="the early weights are those of another network"):
        list(rounds(net(), EXAMPLE, cut, (1,), data=data(), after=AFTER, runtime=CPU, early={}))


def test_zeros_stay_zero_in_the_main_job() -> None:
    cut = Cut("weights=30%", method="weights")
    outcome = do(net(), EXAMPLE, cut, data=data(), after=AFTER, runtime=CPU)
    told = answer(outcome, cut)
    assert nonzero(outcome.pruned.model) == 60
    assert [(x["name"], x["weights"]) for x in told["sparsity"]["layers"]] == [("0.weight", 72), ("5.weight", 128)]
    assert sum(x["nonzero"] for x in told["sparsity"]["layers"]) == 60
    assert (told["before"]["params"], told["after"]["params"]) == (228, 228)
    assert not outcome.pruned.model[5].weight._backward_hooks
    assert outcome.history is not None and len(outcome.history) == 2


def test_hooks_for_a_network_that_was_read_back() -> None:
    thin = prunus.prune(net(), EXAMPLE, "weights=30%", "weights")
    (held,) = holding(Cut("weights=30%", method="weights", pin=("0",)), thin.model)
    assert list(held.masks) == ["5.weight"]
    assert holding(Cut("macs=50%"), thin.model) == holding(None, thin.model) == []


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (Cut("macs=50%"), "rounds are for the method 'weights', not 'magnitude'"),
        (Cut("macs=50%", method="weights"), "macs= cuts channels or blocks"),
        (Cut(method="weights", options={"pattern": "2:4"}), "the settings pattern, start, rewind and rounds"),
        (Cut(method="weights", rates="[0.5]"), "and no rates, widths, drop or steps"),
    ],
)
def test_what_rounds_do_not_take(cut: Cut, message: str) -> None:
    with pytest.raises(InputError, match=message):
        next(rounds(net(), EXAMPLE, cut, (1,), data=data(), after=AFTER, runtime=CPU))


def test_a_row_in_the_form_of_the_published_table() -> None:
    row = Row(3, 30, 256, 85.123, 5_703_122, 4215.0)
    assert cells("cifar10", "alexnet", row) == (
        *("cifar10", "alexnet", "weights", "85.12 (3/30/256)", "5,703,122", "1 h 10 min"),
    )
    assert cells("cifar10", "alexnet", Row(0, 0, 256, 86.3, 61_100_840, 0.0))[2:] == (
        "dense",
        "86.30",
        "61,100,840",
        "",
    )
