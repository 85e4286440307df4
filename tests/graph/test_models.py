"""What models look like from outside: their inputs, outputs, modes, and how they use their parts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional, QFunctional
from zoo import chain, conv, head, image, lively, net, pool, residual

import prunus
from prunus.errors import ExampleError, ModelError, UnknownName
from prunus.models import resnet20


def widths(coupling: prunus.Coupling) -> dict[str, int]:
    return {g.name: g.width for g in coupling.groups}


def proven(model: nn.Module, example: Any, target: str = "channels=60%") -> prunus.Pruned:
    small = prunus.prune(model, example, target=target, method="random", seed=2)
    assert small.proof is not None and small.proof.worst < 1e-12
    return small


def two_inputs() -> nn.Module:
    """Two images through convolutions of their own, added: their outputs go together."""
    return net(
        lambda s, left, right: s.h(pool(s.c(s.a(left) + s.b(right)))),
        a=conv(3, 8), b=conv(1, 8, 1), c=conv(8, 6), h=head(6),
    )  # fmt: skip


@pytest.mark.parametrize(
    "example",
    [
        (image(1, 3, 8, 8), image(1, 1, 8, 8)),
        (image(2, 3, 8, 8), image(2, 1, 8, 8)),
        {"left": image(1, 3, 8, 8), "right": image(1, 1, 8, 8)},
    ],
    ids=["tuple", "batch of two", "dict"],
)
def test_several_inputs(example: Any) -> None:
    coupling = prunus.trace(two_inputs(), example)
    assert widths(coupling) == {"a": 8, "c": 6}
    assert coupling["a"].producers() == ("a.weight", "b.weight")
    proven(two_inputs(), example)


@pytest.mark.parametrize("batch", [1, 4])
def test_costs_are_those_of_one_sample(batch: int) -> None:
    coupling = prunus.trace(chain(), image(batch, 3, 8, 8))
    assert widths(coupling) == {"0": 8, "3": 12}
    assert coupling.macs() == 64 * 9 * (3 * 8 + 8 * 12) + 12 * 5
    assert coupling.macs((4, 6)) == 64 * 9 * (3 * 4 + 4 * 6) + 6 * 5
    # weights and biases, two numbers a channel for each norm
    assert coupling.params() == (9 * 3 + 3) * 8 + (9 * 8 + 3) * 12 + 13 * 5
    proven(chain(), image(batch, 3, 8, 8))


def test_frozen_parameters_are_followed_and_stay_frozen() -> None:
    model = chain().requires_grad_(False)
    assert widths(prunus.trace(model, image())) == {"0": 8, "3": 12}
    small = proven(model, image())
    assert not any(p.requires_grad for p in small.model.parameters())


def test_tied_weights_are_one_tensor_before_and_after() -> None:
    def forward(s: nn.Module, i: Tensor) -> Tensor:
        return F.linear(s.b(s.e(i)).relu(), s.out.weight)

    model = net(forward, e=nn.Embedding(11, 8), b=head(8, 8), out=nn.Linear(8, 11, bias=False))
    model.out.weight = model.e.weight
    example = torch.tensor([[1, 4, 2, 7]])
    # the embedding's columns are read by b and, as the columns of out, tied to b's outputs
    assert widths(prunus.trace(model, example)) == {"e": 8}
    small = proven(model, example, "channels=50%").model
    assert small.out.weight is small.e.weight
    assert small.e.weight.shape == (11, 4)
    assert (small.e.embedding_dim, small.b.in_features, small.b.out_features) == (4, 4, 4)


def test_a_module_called_twice_ties_its_input_to_its_output() -> None:
    model = net(lambda s, x: s.h(pool(s.b(s.b(s.a(x)).relu()))), a=conv(3, 8), b=conv(8, 8), h=head(8))
    coupling = prunus.trace(model, image())
    assert widths(coupling) == {"a": 8}
    assert coupling.macs() == 64 * 9 * (3 * 8 + 2 * 8 * 8) + 40
    proven(model, image())


def test_siamese_branches_share_their_widths() -> None:
    model = net(
        lambda s, x, y: s.h(torch.cat([pool(s.b(s.a(x).relu())), pool(s.b(s.a(y).relu()))], 1)),
        a=conv(3, 8), b=conv(8, 6), h=head(12),
    )  # fmt: skip
    example = (image(), image() + 1)
    assert widths(prunus.trace(model, example)) == {"a": 8, "b": 6}
    proven(model, example)


def test_unused_parts_are_left_alone() -> None:
    model = net(
        lambda s, x: s.h(pool(s.a(x))), a=conv(3, 8), h=head(8), idle=conv(8, 8), free=nn.Parameter(torch.ones(8)),
        kept=torch.ones(8),
    )  # fmt: skip
    assert widths(prunus.trace(model, image())) == {"a": 8}
    small = proven(model, image()).model
    assert small.idle.weight.shape == (8, 8, 3, 3) and small.free.shape == (8,) and small.kept.shape == (8,)


def test_a_buffer_of_the_width_is_cut_with_it() -> None:
    model = net(lambda s, x: s.h(pool(s.a(x) * s.mask)), a=conv(3, 8), h=head(8), mask=torch.rand(8, 1, 1))
    assert widths(prunus.trace(model, image())) == {"a": 8}
    assert proven(model, image(), "channels=50%").model.mask.shape == (4, 1, 1)


@dataclass
class Answer:
    logits: Tensor
    feature: Tensor


class Pair(NamedTuple):
    logits: Tensor
    feature: Tensor


@pytest.mark.parametrize(
    "packed",
    [
        lambda logits, feature: {"logits": logits, "feature": feature},
        lambda logits, feature: (logits, [feature]),
        Pair,
        Answer,
    ],
    ids=["dict", "tuple", "namedtuple", "dataclass"],
)
def test_every_output_is_pinned(packed: Callable[[Tensor, Tensor], Any]) -> None:
    def forward(s: nn.Module, x: Tensor) -> Any:
        y = s.b(s.a(x))
        return packed(s.h(pool(y)), y)

    model = net(forward, a=conv(3, 8), b=conv(8, 6), h=head(6))
    coupling = prunus.trace(model, image())
    assert widths(coupling) == {"a": 8}
    assert {p.name: (p.width, p.reason) for p in coupling.pinned} == {
        "a inputs": (3, "it meets the model's input"),
        "b outputs": (6, "it is the model's output"),
        "h inputs": (6, "it is the model's output"),
        "h outputs": (5, "it is the model's output"),
    }
    assert type(proven(model, image()).model(image())) is type(model(image()))


class WithAuxiliary(nn.Module):
    """A second head that runs in train mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.h = conv(3, 8), conv(8, 6), head(6)
        self.aux, self.out = conv(8, 10), head(10)

    def forward(self, x: Tensor) -> Any:
        y = self.a(x).relu()
        z = self.h(pool(self.b(y)))
        return (z, self.out(pool(self.aux(y).relu()))) if self.training else z


@pytest.mark.parametrize("training", [False, True])
def test_auxiliary_heads_are_cut_in_either_mode(training: bool) -> None:
    model = lively(WithAuxiliary()).train(training)
    assert widths(prunus.trace(model, image())) == {"a": 8, "b": 6, "aux": 10}
    small = proven(model, image())
    assert all(module.training is training for module in small.model.modules())
    # what only train mode runs does not count at inference
    assert small.coupling.macs() == 64 * 9 * (3 * 8 + 8 * 6) + 30
    assert small.coupling.params() == 28 * 8 + 73 * 6 + 35 + 73 * 10 + 55


def test_two_convolutions_of_which_one_spans_groups() -> None:
    """A cat of 8 and 8 read by two groups: slot j of the one goes with slot j of the other."""
    model = net(
        lambda s, x: s.h(pool(s.g(torch.cat([s.a(x), s.b(x)], 1)))),
        a=conv(3, 8), b=conv(3, 8), g=conv(16, 8, groups=2), h=head(8),
    )  # fmt: skip
    coupling = prunus.trace(model, image())
    assert {g.name: (g.width, g.step) for g in coupling.groups} == {"a": (8, 1), "g": (8, 2)}
    assert coupling["a"].producers() == ("a.weight", "b.weight")
    proven(model, image())


def test_the_user_pins_a_module_a_name_or_a_glob() -> None:
    model = chain()
    for wish in (model[0], "0", "0.weight", "[0-2]"):
        coupling = prunus.trace(model, image(), pin=[wish])
        assert widths(coupling) == {"3": 12}
        assert next(p for p in coupling.pinned if p.name == "0 outputs").reason == "asked by the user"
    for wrong in ("O", ""):
        with pytest.raises(UnknownName, match=f"'{wrong}'"):
            prunus.trace(model, image(), pin=[wrong])
    assert not prunus.trace(model, image(), pin=[model]).groups


class Scaled(nn.Module):
    """With a trained scalar, as of a temperature, and sums by the modules that observers hook into."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.h = conv(3, 8), conv(8, 8), head(8)
        self.scale, self.add = nn.Parameter(torch.tensor(2.0)), FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.scale * self.h(pool(self.add.add(x, F.relu(self.b(x)))))  # type: ignore[no-any-return]


def test_scalars_and_sums_that_are_yet_to_be_quantised() -> None:
    proven(Scaled(), image())
    with pytest.raises(ModelError, match="is a QFunctional: prune before quantising"):
        prunus.trace(nn.Sequential(conv(3, 8), QFunctional()), image())


def test_a_model_with_nothing_to_prune_says_why() -> None:
    with pytest.raises(ModelError, match=r"nothing to prune in this model \(.*the model's output"):
        prunus.prune(net(lambda s, x: s.a(x), a=conv(3, 8)), image(), target="macs=50%")


def test_a_wrong_example_is_told_with_the_module_and_the_shapes() -> None:
    with pytest.raises(ExampleError, match=r"refuses the example \(1, 4, 8, 8\): in 0, torch.nn.functional.conv2d"):
        prunus.trace(chain(), image(1, 4, 8, 8))


@pytest.mark.parametrize("kind", [int, list, type(None)])
def test_what_is_no_example_is_told_with_what_is_one(kind: type) -> None:
    example = kind()
    with pytest.raises(ExampleError, match=rf"a tensor, a tuple of .* or a dict of .*, not {kind.__name__}$"):
        prunus.trace(chain(), example)


@pytest.mark.parametrize("example", [(), (3,), {"x": 3}])
def test_an_example_without_a_tensor_is_refused(example: Any) -> None:
    with pytest.raises(ExampleError, match="the example holds no tensor"):
        prunus.trace(chain(), example)


def test_residual_blocks_are_found() -> None:
    coupling = prunus.trace(residual(), image())
    assert widths(coupling) == {"0": 8, "1.a": 6, "2.a": 10}
    assert [b.name for b in coupling.blocks] == ["1", "2"]
    proven(residual(), image())


def test_resnet20_has_a_group_for_each_stage_and_each_block() -> None:
    model = lively(resnet20())
    coupling = prunus.trace(model, image(1, 3, 32, 32))
    inner = {f"layer{s}.{b}.conv1": 16 * 2 ** (s - 1) for s in (1, 2, 3) for b in range(3)}
    stages = {"conv1": 16, "layer2.0.conv2": 32, "layer3.0.conv2": 64}
    assert widths(coupling) == inner | stages
    assert coupling["conv1"].producers() == ("conv1.weight", *(f"layer1.{b}.conv2.weight" for b in range(3)))
    assert coupling.params() == 269_722
    assert coupling.unknown_ops == ()

    small = proven(model, image(1, 3, 32, 32), "macs=50%")
    kept = {g.name: torch.tensor(k) for g, k in zip(small.plan.groups, small.plan.kept, strict=True)}
    # dense: 16 channels in places 8 … 23 of 32. Cut: where the kept ones of stage 1 stand among those of stage 2.
    for stage, source, width in (("layer2", "conv1", 16), ("layer3", "layer2.0.conv2", 32)):
        places = kept[f"{stage}.0.conv2"] - width // 2
        known = {int(c): rank for rank, c in enumerate(kept[source])}
        expected = [known.get(int(p), -1) for p in places]
        assert small.model.get_submodule(f"{stage}.0.shortcut").index.tolist() == expected
    assert small.after.macs <= 0.5 * small.before.macs
    assert small.after.macs == small.coupling.macs(small.plan.widths)
    assert small.after.params == small.coupling.params(small.plan.widths)


def test_the_counts_of_a_plan_are_those_of_the_cut_model() -> None:
    model = residual()
    small = proven(model, image(), "params=50%")
    assert sum(p.numel() for p in small.model.parameters()) == small.after.params
    assert small.after.params == small.coupling.params(small.plan.widths)
    assert small.after.macs == small.coupling.macs(small.plan.widths)


def test_trace_is_repeatable() -> None:
    model = residual()
    first, second = prunus.trace(model, image()), prunus.trace(copy.deepcopy(model), image())
    assert [(g.name, g.width) for g in first.groups] == [(g.name, g.width) for g in second.groups]
    assert str(first) == str(second)
