"""Magnitude of single weights: exact counts, ties, scopes, schedules, what is considered, and what is refused."""

from __future__ import annotations

import copy
import json
import resource
import time
from fractions import Fraction

import pytest
import torch
from shared import SHARED, needs
from torch import nn

import prunus
from prunus.errors import InputError, ModelError, PrunusError, TargetError, UnknownName
from prunus.methods import Slimming, Thinned, Weights
from prunus.methods.gradual import kept_after
from prunus.methods.masks import considered, per_layer, shared, strongest

EXAMPLE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),  # 216 weights, 8 biases
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),  # 32 weights, 4 biases
    )


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([model[0].weight.detach().reshape(-1), model[5].weight.detach().reshape(-1)])


def test_the_largest_stay_and_keep_their_values() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    thin = prunus.prune(model, EXAMPLE, "weights=30%", "weights")
    assert isinstance(thin, Thinned)
    now, was = flat(thin.model), flat(model)
    stays = torch.zeros(248, dtype=torch.bool)
    stays[was.abs().argsort(descending=True)[: int(0.3 * 248)]] = True
    assert torch.equal(now, torch.where(stays, was, torch.zeros(248)))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    untouched = [name for name in before if name not in ("0.weight", "5.weight")]
    assert all(torch.equal(before[name], thin.model.state_dict()[name]) for name in untouched)


def test_the_report_counts_what_is_there() -> None:
    model = net()
    model[1].bias.data.fill_(0.5)  # so that nothing but masked weights is 0
    thin = prunus.prune(model, EXAMPLE, "weights=74", "weights")
    assert (thin.before.nonzero, thin.after.nonzero) == (276, 276 - 248 + 74)
    assert (thin.after.params, thin.after.macs, thin.after.bytes) == (276, thin.before.macs, thin.before.bytes)
    assert sum(layer.nonzero for layer in thin.layers()) == 74
    assert [(layer.name, layer.weights) for layer in thin.layers()] == [("0.weight", 216), ("5.weight", 32)]
    assert thin.plan.widths == thin.plan.dense
    for line in ("weights: 248 -> 74 (29.84 %)", "nonzero parameters: 276 -> 102 (36.96 % of all)"):
        assert line in str(thin)
    assert "do not speed up dense kernels" in str(thin)


def test_of_equal_magnitudes_the_first_go_first() -> None:
    tensors = {"a": torch.tensor([1.0, -1.0, 1.0]), "b": torch.tensor([[-1.0, 2.0], [1.0, 0.0]])}
    found = strongest(tensors, 3)  # four of seven go: the 0, then three of the five that are 1
    assert found["a"].tolist() == [False, False, False]
    assert found["b"].tolist() == [[True, True], [True, False]]
    assert [int(strongest({"a": torch.ones(10)}, k)["a"].sum()) for k in range(11)] == list(range(11))
    assert strongest({"a": torch.ones(4)}, 1)["a"].tolist() == [False, False, False, True]


def test_the_sign_plays_no_part() -> None:
    assert strongest({"a": torch.tensor([-3.0, 1.0, 2.0, -0.5])}, 2)["a"].tolist() == [True, False, True, False]


def test_index_order_is_that_of_the_axes_in_any_memory_layout() -> None:
    plain = torch.ones(2, 3, 2, 2)
    nhwc = plain.to(memory_format=torch.channels_last)
    assert torch.equal(strongest({"a": plain}, 10)["a"], strongest({"a": nhwc}, 10)["a"])


def test_half_precision_and_mixed_precision() -> None:
    tensors = {"a": torch.tensor([1.0, 3.0], dtype=torch.bfloat16), "b": torch.tensor([2.0, 4.0], dtype=torch.float64)}
    assert {k: m.tolist() for k, m in strongest(tensors, 2).items()} == {"a": [False, True], "b": [False, True]}


def test_global_and_local_scope() -> None:
    tensors = {"small": torch.arange(1.0, 11.0) / 100, "large": torch.arange(1.0, 21.0)}
    everywhere = strongest(tensors, 15)
    assert [int(m.sum()) for m in everywhere.values()] == [0, 15]
    local = per_layer(tensors, 15)
    assert [int(m.sum()) for m in local.values()] == [5, 10]
    assert local["small"].tolist() == [False] * 5 + [True] * 5
    model = net()
    model[0].weight.data.mul_(100)
    one, each = (prunus.prune(model, EXAMPLE, f"weights=50%{s}", "weights") for s in ("", ",scope=local"))
    assert [layer.nonzero for layer in one.layers()] == [123, 1]  # min=1: no tensor is emptied
    assert [layer.nonzero for layer in each.layers()] == [108, 16]
    assert [x.nonzero for x in prunus.prune(model, EXAMPLE, "weights=50%", Weights("local")).layers()] == [108, 16]


def test_what_a_tensor_must_keep_comes_off_the_others() -> None:
    tensors = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0, 5.0]), "c": torch.tensor([6.0, 7.0, 8.0])}
    found = strongest(tensors, 5, {"a": 1, "b": 2, "c": 0})
    assert [m.tolist() for m in found.values()] == [[False, True], [False, True, True], [False, True, True]]
    # Giving `a` its one takes the last of `b`, which then is short itself.
    found = strongest(tensors, 4, {"a": 1, "b": 1})
    assert [int(m.sum()) for m in found.values()] == [1, 1, 2]
    with pytest.raises(TargetError, match="2 of 8 weights cannot be met: 3 must stay"):
        strongest(tensors, 2, {"a": 1, "b": 1, "c": 1})
    model = net()
    model[0].weight.data.mul_(100)
    thin = prunus.prune(model, EXAMPLE, "weights=50%,max_rate=75%", "weights")
    assert [layer.nonzero for layer in thin.layers()] == [116, 8]


def test_shares_add_up() -> None:
    assert shared([10, 10, 10], 10, [0, 0, 0]) == [4, 3, 3]
    assert shared([1, 100, 3], 10, [1, 1, 1]) == [1, 8, 1]
    assert shared([7, 5], 12, [0, 0]) == [7, 5]


def test_what_was_masked_goes_before_anything_else() -> None:
    weight = torch.tensor([5.0, 0.0, 1.0, 0.0])
    within = {"a": torch.tensor([True, True, True, False])}  # the second is a 0 that stays
    assert strongest({"a": weight}, 3, within=within)["a"].tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("rate_of", "schedule", "expected"),
    [
        ("remaining", "cubic", (300, 90, 27)),  # ⌊.3 · n⌋ of what is left
        ("whole", "linear", (767, 534, 300)),  # 700 · 1/3 = 233.3, 466.7, 700 removed, rounded down
        ("whole", "cubic", (508, 326, 300)),  # 700 · 19/27 = 492.6, 700 · 26/27 = 674.1
        ("whole", "geometric", (669, 448, 300)),  # 1000 · .3^(1/3) = 669.4, · .3^(2/3) = 448.1
    ],
)
def test_schedules_by_hand(rate_of: str, schedule: str, expected: tuple[int, ...]) -> None:
    assert kept_after(1000, Fraction(3, 10), 3, rate_of, schedule) == expected


def test_one_round_is_the_target_whatever_the_schedule() -> None:
    for rate_of in ("whole", "remaining"):
        for schedule in ("cubic", "linear", "geometric"):
            assert kept_after(61_100_840, Fraction("0.3"), 1, rate_of, schedule) == (18_330_252,)


def test_what_is_remaining_after_rounds_without_training() -> None:
    thin = prunus.prune(net(), EXAMPLE, "weights=50%", Weights(rounds=3, rate_of="remaining"))
    assert sum(layer.nonzero for layer in thin.layers()) == 31  # 124, 62, 31
    whole = prunus.prune(net(), EXAMPLE, "weights=50%", Weights(rounds=3))
    assert sum(layer.nonzero for layer in whole.layers()) == 124


def test_biases_and_norms_are_considered_only_when_asked_for() -> None:
    model = net()
    assert list(considered(model)) == ["0.weight", "5.weight"]
    assert list(considered(model, ("biases",))) == ["0.weight", "0.bias", "5.weight", "5.bias"]
    assert list(considered(model, ("norms",))) == ["0.weight", "1.weight", "1.bias", "5.weight"]
    thin = prunus.prune(model, EXAMPLE, "weights=50%", Weights(include=("biases",)))
    assert sum(layer.nonzero for layer in thin.layers()) == 130


def test_tied_weights_count_once_and_parametrised_ones_stay_whole() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight
            self.scale = nn.Parameter(torch.ones(4, 1))
            torch.nn.utils.parametrizations.spectral_norm(self.c)

    assert list(considered(Tied())) == ["a.weight"]


def test_a_looser_target_at_the_end_brings_nothing_back() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(4))
    model(torch.zeros(1, 3, 8, 8))
    h = Weights().attach(model, torch.zeros(1, 3, 8, 8), "weights=30%", 1)
    h.epoch_start(0)
    small = h.finish("weights=60%")
    left = sum(int(w.count_nonzero()) for name, w in small.model.named_parameters() if name in small.masks)
    total = sum(mask.numel() for mask in small.masks.values())
    assert left == round(0.3 * total)
    assert any(
        note.startswith(f"{left} weights are left of {int(0.6 * total)} that the target") for note in small.notes
    )


def test_pinned_weights_stay_whole() -> None:
    model = net()
    for pin in ("5", "5.*", model[5], "5.weight"):
        thin = prunus.prune(model, EXAMPLE, "weights=50%", "weights", pin=pin)
        assert [(layer.name, layer.nonzero) for layer in thin.layers()] == [("0.weight", 108)]
    with pytest.raises(UnknownName, match=r"module or tensor to pin '7'"):
        prunus.prune(model, EXAMPLE, "weights=50%", "weights", pin="7")
    with pytest.raises(ModelError, match="no weights are left to consider"):
        prunus.prune(model, EXAMPLE, "weights=50%", "weights", pin=("0", "5"))


def test_the_plan_composes_with_a_cut_that_comes_after() -> None:
    model = net()
    thin = prunus.prune(model, EXAMPLE, "weights=50%", "weights")
    small = prunus.prune(thin.model, EXAMPLE, "channels=50%")
    both = thin.plan.then(small.plan)
    assert both.widths == small.plan.widths == (4,)
    cut = prunus.apply(thin.model, prunus.Plan.from_json(json.loads(json.dumps(both.to_json()))))
    assert torch.equal(cut(EXAMPLE), small.model(EXAMPLE))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "macs=50%", "method": "weights"}, "macs= cuts channels or blocks, and this method removes single"),
        ({"target": "weights=30%,params=50%", "method": "weights"}, "params= cuts channels or blocks"),
        ({"rates": "[0.5]", "method": "weights"}, "rates= cuts channels or blocks, and this method removes single"),
        ({"target": "weights=30%", "drop": ("a",), "method": "weights"}, "drop= cuts channels or blocks"),
        ({"target": "weights=30%"}, "weights= counts single weights, and this method removes channels: use macs="),
        ({"target": "weights=249", "method": "weights"}, "weights=249 is above 100 %: the dense model has 248"),
        ({"target": "weights=30%,round=8", "method": "weights"}, "round= and blocks= count channels"),
        ({"target": "weights=30%", "method": Weights(pattern="2:4")}, "weights=30% and the method's pattern both say"),
        ({"method": "weights"}, "nothing says how much stays"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        prunus.prune(net(), EXAMPLE, **arguments)
    assert "\n" not in str(caught.value)


def test_settings_and_other_doors_are_checked() -> None:
    for wrong, message in (
        ({"scope": "layer"}, "scope='layer' is not allowed .*global, local"),
        ({"include": ("bias",)}, "include='bias' is not allowed .*biases, norms"),
        ({"rounds": 0}, "rounds=0 must be at least 1"),
        ({"schedule": "cosine"}, "schedule='cosine' is not allowed"),
        ({"pattern": "2/4"}, "pattern='2/4' is no N:M"),
        ({"pattern": "2:4", "rounds": 2}, "pattern=2:4 is made in one round"),
    ):
        with pytest.raises(InputError, match=message):
            Weights(**wrong)
    with pytest.raises(TargetError, match="weights= counts single weights"):
        Slimming().attach(net(), EXAMPLE, "weights=30%")
    with pytest.raises(PrunusError, match="removes single weights, not channels"):
        Weights().score(net(), prunus.trace(net(), EXAMPLE))


@needs("spec", "accounting.json")
def test_alexnet_keeps_exactly_the_published_count() -> None:
    from torchvision.models import alexnet

    rows = json.loads((SHARED / "spec" / "accounting.json").read_text("utf-8"))
    row = next(r for rs in rows.values() if isinstance(rs, list) for r in rs if r.get("row") == "alexnet")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.manual_seed(0)
    model = alexnet()
    tensors = considered(model, ("biases",))
    n = sum(t.numel() for t in tensors.values())
    assert n == row["expected_params"] == 61_100_840
    method = Weights(include=("biases",))
    goal = method.goal("weights=30%")
    start = time.perf_counter()
    masks, _ = method.masks(model, tensors, goal, method.counts(tensors, goal)[-1])
    assert time.perf_counter() - start < 10
    assert sum(int(mask.sum()) for mask in masks.values()) == 18_330_252
    kept = min(float(t.detach().abs()[masks[name]].min()) for name, t in tensors.items())
    gone = max(float(t.detach().abs()[~masks[name]].max()) for name, t in tensors.items() if not masks[name].all())
    assert gone <= kept
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 1.5 * 1024**2  # KiB
