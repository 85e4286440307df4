"""Uncommon ways to write a forward, and what tracing makes of them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from zoo import conv, head, image, lively, net, pool, tokens

import prunus
from prunus.errors import ExampleError, PlanError, TargetError


def widths(coupling: prunus.Coupling) -> dict[str, int]:
    return {g.name: g.width for g in coupling.groups}


def reason(coupling: prunus.Coupling, name: str) -> str:
    """Why a side of a layer is pinned."""
    return next(p.reason for p in coupling.pinned if p.name == name)


def proven(model: nn.Module, example: Any) -> None:
    small = prunus.prune(model, example, target="channels=70%", method="random")
    assert small.proof is not None and small.proof.worst < 1e-12


def middle(op: Callable[..., Tensor], **parts: object) -> nn.Module:
    """conv a (8), conv b (12), `op(self, activations)`, pooled, linear h."""
    return net(lambda s, x: s.h(pool(op(s, s.b(s.a(x).relu())))), a=conv(3, 8), b=conv(8, 12), h=head(12), **parts)


# inputs ---------------------------------------------------------------------------------------------------------------
def test_a_first_convolution_of_one_input_channel_is_prunable() -> None:
    model = net(lambda s, x: s.h(pool(s.a(x).relu())), a=conv(1, 8), h=head(8))
    assert widths(prunus.trace(model, image(1, 1, 8, 8))) == {"a": 8}
    proven(model, image(1, 1, 8, 8))


def test_an_example_without_a_batch_is_followed() -> None:
    model = net(lambda s, x: s.h(s.a(x).mean((1, 2))), a=conv(3, 8), h=head(8))
    assert widths(prunus.trace(model, image(3, 8, 8))) == {"a": 8}


def test_a_list_of_inputs_is_refused_before_the_model_runs() -> None:
    ran: list[None] = []
    model = net(lambda s, x, y: ran.append(None), a=conv(3, 8))
    for verb in (prunus.trace, prunus.cost):
        with pytest.raises(ExampleError, match="a tuple of positional inputs"):
            verb(model, [image(), image()])
    assert ran == []


# numbers --------------------------------------------------------------------------------------------------------------
class ByWidth(nn.Module):
    """Scales by the root of the width."""

    def forward(self, y: Tensor) -> Tensor:
        return y / y.shape[1] ** 0.5


def test_a_width_used_as_a_number_is_pinned_with_the_op_and_the_module() -> None:
    coupling = prunus.trace(middle(lambda s, y: s.scale(y), scale=ByWidth()), image())
    assert widths(coupling) == {"a": 8}
    assert reason(coupling, "b outputs") == "its width is used as a number: div in scale computes with it"


def test_a_number_that_follows_values_pins_nothing() -> None:
    def found(s: Any, x: Tensor) -> Tensor:
        y = s.b(s.a(x).relu())
        hits = torch.where(y[:, 0].flatten() > y[:, 1].flatten())[0]
        return s.h(pool(y)) / (1 + hits.numel())  # as a detector divides a loss by the boxes that it sampled

    model = net(found, a=conv(3, 32), b=conv(32, 2), h=head(2))
    counts = set()
    for steps in range(8):  # the number does move with what is cut
        with torch.no_grad():
            model.a.weight[: 4 * steps] = 0
            y = model.b(model.a(image()).relu())
        counts.add(int((y[:, 0] > y[:, 1]).sum()))
    assert len(counts) > 1
    model = net(found, a=conv(3, 32), b=conv(32, 2), h=head(2))
    assert widths(prunus.trace(model, image())) == {"a": 32}
    proven(model, image())


def test_a_mean_written_as_sum_over_width_pins_the_layer() -> None:
    coupling = prunus.trace(middle(lambda s, y: y - y.sum(1, keepdim=True) / y.shape[1]), image())
    assert "b" not in widths(coupling)
    assert "used as a number: div in forward" in reason(coupling, "b outputs")


def test_a_number_of_groups_that_follows_the_width_is_pinned_where_the_cut_network_runs() -> None:
    # 16 // 4 = 4 groups; with one channel of each removed, 12 // 4 = 3 groups divide 12: another function, no error
    model = net(
        lambda s, x: s.h(pool(F.group_norm(y := s.b(s.a(x).relu()), y.shape[1] // 4).relu())),
        a=conv(3, 8), b=conv(8, 16), h=head(16),
    )  # fmt: skip
    coupling = prunus.trace(model, image())
    assert widths(coupling) == {"a": 8}
    assert reason(coupling, "b outputs") == "its width is used as a number: group_norm in forward computes with it"
    proven(model, image())


def test_attention_scaled_by_its_size_folds_what_is_gone_into_the_queries() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        t = tokens(s.a(x))
        q, k = s.q(t), s.k(t)
        return s.h(((q @ k.transpose(1, 2)) / q.size(-1) ** 0.5).softmax(-1).matmul(s.v(t)).mean(1))

    model = net(forward, a=conv(3, 16), q=head(16, 10), k=head(16, 10), v=head(16, 12), h=head(12))
    coupling = prunus.trace(model, image())
    assert widths(coupling) == {"a": 16, "q": 10, "v": 12}
    assert [(f.tensor, f.axis) for f in coupling.folds] == [("q.weight", 0), ("q.bias", 0)]
    proven(model, image())


def test_a_list_of_numbers_pins_the_layer_it_came_from() -> None:
    coupling = prunus.trace(middle(lambda s, y: y * max(pool(y)[0].tolist())), image())
    assert "b" not in widths(coupling)
    assert reason(coupling, "b outputs") == "its values leave torch"


# train mode -----------------------------------------------------------------------------------------------------------
class Auxiliary(nn.Module):
    """A head of train mode that writes its width down."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.h, self.aux = conv(3, 8), conv(8, 16), head(16), head(8)

    def forward(self, x: Tensor) -> object:
        y = self.a(x).relu()
        z = self.h(pool(self.b(y)))
        return (z, self.aux(pool(y).view(-1, 8))) if self.training else z


def test_a_width_written_down_in_train_mode_only_is_pinned() -> None:
    model = lively(Auxiliary())
    coupling = prunus.trace(model, image())
    assert widths(coupling) == {"b": 16}
    assert "written down" in reason(coupling, "a outputs") and "torch.Tensor.view" in reason(coupling, "a outputs")
    proven(model, image())


# weights that are computed --------------------------------------------------------------------------------------------
def test_weights_standardised_by_batch_norm_prune_on_both_sides() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        w = s.b.weight
        w = F.batch_norm(w.reshape(1, len(w), -1), None, None, training=True).reshape_as(w)
        return s.h(pool(F.conv2d(s.a(x), w, s.b.bias, padding=1).relu()))

    model = net(forward, a=conv(3, 16), b=conv(16, 8), h=head(8))
    coupling = prunus.trace(model, image())
    assert widths(coupling) == {"a": 16, "b": 8}
    proof = prunus.prune(model, image(), "macs=50%").proof
    assert proof is not None and proof.shifted_by == ("forward",)


def test_a_standardised_kernel_of_one_entry_reads_two_channels_at_least() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        w = s.b.weight
        w = F.batch_norm(w.reshape(1, len(w), -1), None, None, training=True).reshape_as(w)
        return s.h(pool(F.conv2d(s.a(x), w, s.b.bias).relu()))

    model = net(forward, a=conv(3, 6), b=conv(6, 8, 1), h=head(8))
    coupling = prunus.trace(model, image())
    assert {group.name: group.floor for group in coupling.groups} == {"a": 2, "b": 1}
    small = prunus.prune(model, image(), widths={"a": 2, "b": 1})
    assert small.proof is not None and small.proof.holds
    again = prunus.Plan.from_json(small.plan.to_json())
    assert [group.least for group in again.groups] == [group.least for group in coupling.groups]
    with pytest.raises(TargetError, match="group a must keep at least 2 channels, not 1"):
        prunus.prune(model, image(), widths={"a": 1})
    with pytest.raises(PlanError, match="group a keeps 1 of its channels; at least 2 must stay"):
        replace(small.plan, kept=tuple(ids[:1] for ids in small.plan.kept))
    for seed in range(3):
        far = prunus.prune(model, image(), "macs=30%", prunus.methods.Random(), seed=seed)
        assert all(width >= group.floor for width, group in zip(far.plan.widths, far.plan.groups, strict=True))


def test_weights_standardised_as_one_read_both_of_their_axes() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        w = s.b.weight
        w = F.batch_norm(w.reshape(1, 1, -1), None, None, training=True).reshape_as(w)
        return s.h(pool(F.conv2d(s.a(x), w, s.b.bias, padding=1).relu()))

    model = net(forward, a=conv(3, 8), b=conv(8, 8), h=head(8))
    assert widths(prunus.trace(model, image())) == {"a": 8, "b": 8}
    assert proven(model, image()) is None
    small = prunus.prune(model, image(), widths={"a": 3, "b": 5})
    assert small.proof is not None and small.proof.worst < 1e-10


def test_a_channel_of_several_entries_is_enough_for_a_deviation() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        w = s.b.weight
        w = F.batch_norm(w[None], None, None, training=True)[0]
        return F.linear(s.a(x).flatten(1), w, s.b.bias)

    model = net(forward, a=conv(3, 4), b=nn.Linear(4 * 64, 5))
    assert [group.floor for group in prunus.trace(model, image()).groups] == [1]


def hooked(module: nn.Module) -> nn.Module:
    """Weight norm of the older kind: a hook puts a computed tensor in the weight's place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still in trained models
        return nn.utils.weight_norm(module)


NORMALISED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm by a hook": nn.utils.spectral_norm,
    "weight norm": parametrizations.weight_norm,
    "weight norm by a hook": hooked,
    "weight norm of all entries": functools.partial(parametrizations.weight_norm, dim=None),
    "weight norm of what is read": functools.partial(parametrizations.weight_norm, dim=1),
}
ASKED = {
    "target": {"target": "channels=70%"},
    "rates": {"rates": [0.3, 0.5, 0]},
    "rates by layer": {"rates": {"*": 0.5}},
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("name", NORMALISED)
def test_layers_of_normalised_weights_are_cut(name: str, asked: str) -> None:
    normalised = NORMALISED[name]
    model = lively(
        nn.Sequential(
            normalised(conv(3, 8)), nn.ReLU(), normalised(nn.ConvTranspose2d(8, 10, 4)), nn.ReLU(),
            normalised(conv(10, 6)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), normalised(nn.Linear(6, 5)),
        )
    )  # fmt: skip
    model(image())  # as in use: what the norm keeps on the module is there
    coupling = prunus.trace(model, image())
    assert widths(coupling) == {"0": 8, "2": 10, "4": 6} and coupling.unknown_ops == ()

    small = prunus.prune(model, image(), method="random", **ASKED[asked])
    assert small.proof is not None and small.proof.worst < 1e-12
    assert asked == "target" or small.plan.widths == {"rates": (5, 5, 6), "rates by layer": (4, 5, 3)}[asked]
    assert model[4].weight.shape[:2] == (6, 10) and small.model[4].weight.shape[:2] == small.plan.widths[:0:-1]
    before = small.model[4].weight.detach().clone()
    small.model.eval()(image())
    assert torch.equal(small.model[4].weight, before)
    assert small.model[0].out_channels == small.plan.widths[0]


def test_a_parametrisation_without_a_rule_is_named_and_the_others_are_cut() -> None:
    class Sorted(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return w.sort(dim=0).values

    odd = conv(3, 8)
    parametrize.register_parametrization(odd, "weight", Sorted())
    model = lively(nn.Sequential(odd, conv(8, 10), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(10)))
    coupling = prunus.trace(model, image())
    assert widths(coupling) == {"1": 10}
    assert "the order of channels matters to torch.Tensor.sort" in next(
        p.reason for p in coupling.pinned if p.width == 8
    )


# layout ---------------------------------------------------------------------------------------------------------------
def test_a_view_as_a_dtype_is_followed() -> None:
    model = net(lambda s, x: s.h(pool(s.a(x)).view(dtype=torch.float32)), a=conv(3, 8), h=head(8))
    coupling = prunus.trace(model, image())
    assert widths(coupling) == {"a": 8} and coupling.unknown_ops == ()


def test_a_tensor_that_a_forward_keeps_is_the_users_again() -> None:
    def keeps(s: nn.Module, x: Tensor) -> Tensor:
        object.__setattr__(s, "last", s.a(x))
        return s.h(pool(s.last.relu()))  # type: ignore[no-any-return]

    model = net(keeps, a=conv(3, 8), h=head(8))
    model(image())
    mine = model.last
    prunus.prune(model, image(), "channels=50%")
    assert model.last is mine


def test_the_prunable_share_counts_ops_of_which_a_side_can_shrink() -> None:
    # 3 -> 8 -> 4 channels at 4 x 4, then a linear layer on what is the model's output: all three ops have a free side.
    whole = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4, 2))
    assert prunus.trace(whole, torch.randn(1, 3, 4, 4)).prunable == 1.0
    pinned = prunus.trace(whole, torch.randn(1, 3, 4, 4), pin=["1"])  # both sides of the second convolution
    assert pinned.groups == () and pinned.prunable == 0.0
    # pinning the first alone leaves 16 * 8 * 4 + 4 * 2 of 16 * 3 * 8 + 16 * 8 * 4 + 4 * 2
    part = prunus.trace(whole, torch.randn(1, 3, 4, 4), pin=["0"])
    assert abs(part.prunable - (512 + 8) / (384 + 512 + 8)) < 1e-12


# what decides which way the code goes --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "sure",
    [
        lambda e: bool(e.softmax(-1).max(-1).values.min() > 0.9),
        lambda e: e.softmax(-1).amax().item() > 0.9,
        lambda e: torch.equal(e.amin(-1), torch.zeros(len(e))),
    ],
    ids=["bool", "item", "equal"],
)
def test_the_head_of_an_early_exit_keeps_its_classes_where_the_example_goes_on(sure: Callable[[Tensor], bool]) -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.a(x).relu()
        if torch.isnan(y).any():  # a guard on what goes on is no decision of its layer
            raise ValueError
        early = s.e(s.d(pool(y)).relu())
        return early if sure(early) else s.h(pool(s.b(y).relu()))

    model = net(forward, a=conv(3, 8), b=conv(8, 12), d=head(8, 16), e=head(16), h=head(12))
    coupling = prunus.trace(model, image())
    assert widths(coupling) == {"a": 8, "b": 12, "d": 16}
    assert reason(coupling, "e outputs") == "it decides which way the code goes"
    proven(model, image())
