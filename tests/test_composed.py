"""Two plans as one: what both do to the dense network, also where their channels lie across each other."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from networks import BLOCKS, Network
from torch import nn
from zoo import lively

import prunus
from prunus.errors import PlanError
from prunus.plan import Plan
from prunus.surgery import verify

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def chain() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(128, 4))


def cut(model: nn.Module, **options: Any) -> prunus.Pruned:
    return prunus.prune(model, EXAMPLE, **{"method": "random", **options}, check=False)


def agree(dense: nn.Module, both: Plan, small: nn.Module, *, folded: bool = False, proven: bool = True) -> None:
    """The plan, written and read back, makes `small` from the dense network, and is proven."""
    made = prunus.apply(dense, Plan.from_json(json.loads(json.dumps(both.to_json()))))
    left, right = made.state_dict(), small.state_dict()
    assert left.keys() == right.keys() and str(made) == str(small)
    for name, value in left.items():
        # A factor of two cuts is rounded once instead of twice.
        torch.testing.assert_close(value, right[name], rtol=1e-6 if folded else 0, atol=0)
    torch.testing.assert_close(made.eval()(EXAMPLE), small.eval()(EXAMPLE), rtol=1e-5, atol=1e-6)
    if proven:
        assert verify(dense, made, both, EXAMPLE).holds


@pytest.mark.parametrize("kind", BLOCKS)
def test_kinds_of_blocks(kind: str) -> None:
    dense = lively(Network([(kind, 1, 2), (kind, 2, 1)]))
    one = cut(dense, target="channels=70%")
    two = cut(one.model, target="channels=70%", seed=1)
    agree(dense, one.plan.then(two.plan), two.model, folded=kind == "attention")


@pytest.mark.parametrize("order", [("heads", "width"), ("width", "heads"), ("width", "width")])
def test_heads_and_widths_of_heads(order: tuple[str, str]) -> None:
    class Wide(Network):
        """Four heads of four."""

        def __init__(self) -> None:
            super().__init__([("attention", 1, 0)])
            block: Any = self.blocks[0]
            block.norm, block.heads = nn.LayerNorm(8), 2
            block.qkv, block.project = nn.Linear(8, 24), nn.Linear(8, 8)

    dense = lively(Wide())
    one = cut(dense, target="channels=70%", attention=order[0])
    two = cut(one.model, target="channels=60%", attention=order[1], seed=1)
    both = one.plan.then(two.plan)
    across = order[0] != order[1]  # slots of every head, or heads, after the other
    assert (len(both.groups) > len(one.plan.groups)) == across
    agree(dense, both, two.model, folded=True, proven=order != ("width", "heads"))


def test_what_was_pinned_the_first_time_follows_as_groups() -> None:
    dense = chain()
    one = cut(dense, target="channels=60%", pin=["0"])
    two = cut(one.model, target="channels=60%", seed=1)
    both = one.plan.then(two.plan)
    assert [group.name for group in both.groups] == ["2", "4", "0"]
    assert [len(ids) for ids in both.kept] == [
        two.plan.widths[[g.name for g in two.plan.groups].index(n)] for n in "240"
    ]
    agree(dense, both, two.model)


def test_what_is_pinned_the_second_time_stays() -> None:
    dense = chain()
    one = cut(dense, target="channels=60%")
    two = cut(one.model, target="channels=80%", pin=["2"], seed=1)
    both = one.plan.then(two.plan)
    assert both.widths[1] == one.plan.widths[1]
    agree(dense, both, two.model)


def test_a_block_dropped_before_and_one_after() -> None:
    dense = lively(Network([("residual", 1, 2), ("residual", 1, 1), ("plain", 1, 1)]))
    one = cut(dense, target="channels=80%", drop=["blocks.0"])
    two = cut(one.model, target="channels=70%", drop=["blocks.1"], seed=1)
    both = one.plan.then(two.plan)
    assert [d.name for d in both.dropped] == ["blocks.0", "blocks.1"]
    agree(dense, both, two.model)


def test_a_composed_plan_is_edited_like_any_other() -> None:
    dense = chain()
    one = cut(dense, target="channels=80%")
    two = cut(one.model, target="channels=80%", seed=1)
    edited = one.plan.then(two.plan).keep("2", [1, 6])
    made = prunus.apply(dense, edited)
    assert made.get_submodule("2").out_channels == made.get_submodule("4").in_channels == 2
    assert verify(dense, made, edited, EXAMPLE).holds


def test_a_plan_of_another_network_does_not_follow() -> None:
    dense = chain()
    one = cut(dense, target="channels=60%")
    other = cut(dense, target="channels=60%", seed=1)
    with pytest.raises(
        PlanError, match=r"for the network that the first one cuts: 0\.bias is \(\d,\) by the first, and \(8,\) by"
    ):
        one.plan.then(other.plan)
    with pytest.raises(PlanError, match=r"0\.bias is .* by the first, and not there by the second"):
        one.plan.then(cut(nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Linear(8, 2)), target="channels=50%").plan)
