"""Further examples: what other branches of the code demand is honoured, and the proof holds there too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.errors import ExampleError, InputError, ProofError
from prunus.surgery import verify

SMALL, LARGE = torch.randn(1, 3, 6, 6), torch.randn(1, 3, 12, 12)


class Branching(nn.Module):
    """What is larger than 8 x 8 goes through `other` first, which may use `extra`."""

    def __init__(self, other: Callable[[Branching, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.mid = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.extra = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(6, 4)
        self.other = other

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        if x.shape[-1] > 8:
            x = self.other(self, x)
        found: Tensor = self.head(torch.relu(self.mid(x)).mean((2, 3)))
        return found


def through_extra(net: Branching, x: Tensor) -> Tensor:
    found: Tensor = net.extra(x)
    return found


def added_extra(net: Branching, x: Tensor) -> Tensor:
    found: Tensor = x + net.extra(x)
    return found


def by_the_width(net: Branching, x: Tensor) -> Tensor:
    return x / x.shape[1]


def half_of_it(net: Branching, x: Tensor) -> Tensor:
    return torch.cat([x[:, :4], x[:, 4:].relu()], 1)


def sorted_channels(net: Branching, x: Tensor) -> Tensor:
    return x.sort(dim=1).values


class Attending(nn.Module):
    """Two heads of 8; more than five places are attended twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = (nn.Linear(6, 16) for _ in range(3))
        self.out = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        def heads(t: Tensor) -> Tensor:
            return t.view(t.shape[0], t.shape[1], 2, -1).transpose(1, 2)

        for _ in range(2 if x.shape[1] > 5 else 1):
            q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
            seen = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v
            x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x


def widths(net: Branching, **options: Any) -> prunus.Pruned:
    return prunus.prune(net, SMALL, widths={"conv": 4}, **options)


def test_a_proof_says_for_which_ways_it_holds() -> None:
    net = Branching(through_extra)
    one, two = widths(net).proof, widths(net, examples=[LARGE]).proof
    assert one is not None and two is not None and two.holds
    assert (one.examples, two.examples) == (1, 2)
    assert "on the way of the example" in str(one) and "on the ways of 2 examples" in str(two)


def test_layers_of_another_branch_are_cut_with_the_rest() -> None:
    net = Branching(through_extra)
    blind, small = widths(net).model, widths(net, examples=(x for x in [LARGE])).model
    with pytest.raises(RuntimeError, match="channels"):
        blind(LARGE)
    shapes = {name: tuple(tensor.shape) for name, tensor in small.named_parameters()}
    assert shapes["mid.weight"] == (6, 4, 3, 3)
    assert shapes["extra.weight"] == (4, 4, 3, 3)  # `mid` reads what `conv` makes, and in the branch what this makes
    assert small(LARGE).shape == (1, 4)


def test_what_the_branches_tie_goes_together() -> None:
    net = Branching(added_extra)
    found = widths(net, examples=[LARGE])
    kept = [int(k) for k in found.plan.kept[0]]
    want = net.extra.weight.detach()[kept][:, kept]
    assert len(kept) == 4 and torch.equal(dict(found.model.named_parameters())["extra.weight"].detach(), want)
    assert found.model(LARGE).shape == (1, 4)


def test_a_branch_in_which_the_cut_is_wrong_is_refused() -> None:
    net = Branching(by_the_width)
    blind = widths(net)
    assert blind.proof is not None and blind.proof.holds
    with pytest.raises(ProofError, match="on the ways of 2 examples"):
        verify(net, blind.model, blind.plan, SMALL, examples=[LARGE])


@pytest.mark.parametrize(
    ("other", "why"),
    [(by_the_width, "its width is used as a number"), (half_of_it, "its width is written down in the code")],
)
def test_a_width_that_a_branch_says_by_a_number_is_pinned(
    other: Callable[[Branching, Tensor], Tensor], why: str
) -> None:
    net = Branching(other)
    assert [group.width for group in prunus.trace(net, SMALL).groups] == [8, 6]
    found = prunus.trace(net, SMALL, examples=[LARGE])
    assert [group.width for group in found.groups] == [6]
    assert [pin.reason.startswith(why) for pin in found.pinned if pin.name == "conv outputs"] == [True]
    small = prunus.prune(net, SMALL, "macs=80%", examples=[LARGE])
    assert small.proof is not None and small.proof.examples == 2


def test_a_scale_in_another_branch_follows_the_width_of_heads() -> None:
    net = Attending()
    small = prunus.prune(net, torch.randn(2, 4, 6), widths={"q": 4}, attention="width", examples=[torch.randn(2, 9, 6)])
    assert small.model.q.out_features == 8  # two heads of 4
    assert small.proof is not None and small.proof.examples == 2


def test_what_has_no_rule_in_a_branch_is_pinned() -> None:
    net = Branching(sorted_channels)
    assert [group.width for group in prunus.trace(net, SMALL).groups] == [8, 6]
    found = prunus.trace(net, SMALL, examples=[LARGE])
    assert [group.width for group in found.groups] == [6]
    assert any(pin.name == "conv outputs" for pin in found.pinned)


def test_costs_and_scores_are_those_of_the_first_example() -> None:
    net = Branching(through_extra)
    assert prunus.trace(net, SMALL, examples=[LARGE]).macs() == prunus.trace(net, SMALL).macs() == 23_352


def test_steps_with_training_in_between_are_proven_on_all() -> None:
    net = Branching(added_extra)

    def between(model: nn.Module, step: int) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.9)

    found = prunus.prune(net, SMALL, "macs=50%", steps=2, between=between, examples=[LARGE])
    assert found.proof is not None and found.proof.holds and found.proof.examples == 2
    assert found.model(LARGE).shape == (1, 4)


@pytest.mark.parametrize("given", [LARGE, {"x": LARGE}, "12x12", None])
def test_a_single_example_is_no_list(given: Any) -> None:
    with pytest.raises(ExampleError, match=r"examples is a list of further examples, as in \[x\]"):
        widths(Branching(through_extra), examples=given)


def test_what_is_refused() -> None:
    net = Branching(through_extra)
    with pytest.raises(ExampleError, match=r"\(1, 5, 6, 6\)"):
        widths(net, examples=[torch.randn(1, 5, 6, 6)])
    with pytest.raises(InputError, match="this method removes no channels"):
        prunus.prune(net, SMALL, "weights=30%", "weights", examples=[LARGE])


class Tasks(nn.Module):
    """A body, a head for each task, and a parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.spare = nn.Conv2d(3, 8, 3), nn.Parameter(torch.zeros(3))
        self.heads = nn.ModuleDict({"a": nn.Linear(8, 5), "b": nn.Linear(8, 3)})

    def forward(self, x: Tensor, task: str = "a") -> Tensor:
        found: Tensor = self.heads[task](torch.relu(self.body(x)).mean((2, 3)))
        return found


def test_what_no_example_reaches_is_named() -> None:
    one = prunus.prune(Tasks(), SMALL, "channels=50%")
    assert one.coupling.unreached == ("spare", "heads.b")
    assert "not reached by the example, and as it was: heads.b" in str(one)
    assert "2 layers that the example does not reach, and that stay as they are" in str(one.coupling)
    assert one.model.heads["b"].in_features == 8  # type: ignore[index, union-attr]
    both = prunus.prune(Tasks(), SMALL, "channels=50%", examples=[{"x": LARGE, "task": "b"}])
    assert both.coupling.unreached == ("spare",)
    assert both.model.heads["b"].in_features == 4  # type: ignore[index, union-attr]
