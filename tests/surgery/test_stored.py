"""What outputs and gradients do not show: dead channels, shared memory, flags, modes, hooks, attributes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from zoo import Block, chain, conv, head, image, lively, net, pool, residual

import prunus
from prunus import cutting
from prunus.errors import ProofError
from prunus.surgery import apply, verify
from prunus.surgery.differences import buffer_difference, difference
from prunus.surgery.stored import alike, same_state, same_values

TARGET = "channels=60%"


def pruned(model: nn.Module) -> prunus.Pruned:
    return prunus.prune(model, image(), target=TARGET, method="random", seed=4)


def dead() -> nn.Module:
    """No channel of the first convolution passes its ReLU."""
    model = lively(nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(6)))
    nn.init.constant_(model[0].bias, -100.0)
    return model


def watched() -> nn.Module:
    model = chain()
    model[0].weight.requires_grad_(False)
    model[3].register_forward_hook(lambda module, args, out: None)
    model[4].eval()
    return model


def test_a_filter_whose_channel_is_dead_is_compared_too() -> None:
    model = dead()
    right = pruned(model)
    weight = right.model[0].weight
    weight.data[:2] = weight.data[[1, 0]]
    with pytest.raises(ProofError, match=r"0\.weight of the cut network does not hold the entries that the plan keeps"):
        verify(model, right.model, right.plan, image())


def test_the_smallest_step_of_one_weight_is_refused() -> None:
    model = chain()
    right = pruned(model)
    weight = right.model[3].weight.data
    weight[0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0], torch.tensor(9.0))
    with pytest.raises(ProofError, match=r"3\.weight"):
        verify(model, right.model, right.plan, image())


def test_double_weights_that_went_through_float32_are_refused() -> None:
    model, example = chain().double(), image().double()
    model[0].weight.data *= 1 + 1e-10
    right = prunus.prune(model, example, target=TARGET, method="random")
    right.model[0].weight.data = right.model[0].weight.data.float().double()
    with pytest.raises(ProofError, match=r"0\.weight"):
        verify(model, right.model, right.plan, example)


def test_another_dtype_and_a_missing_tensor_are_named() -> None:
    model = chain()
    plan = pruned(model).plan
    small = apply(model, plan)
    small[8].bias.data = small[8].bias.data.double()
    with pytest.raises(
        ProofError, match=r"8\.bias of the cut network is torch\.float64, that of the model torch\.float32"
    ):
        same_values(model, small, plan)
    small[8].bias = None
    with pytest.raises(ProofError, match=r"has no tensor 8\.bias"):
        same_values(model, small, plan)


def test_no_number_is_like_no_number_alone() -> None:
    nan = torch.tensor([1.0, math.nan])
    assert alike(nan, nan.clone())
    assert not alike(nan, torch.tensor([1.0, 0.0]))
    assert not alike(torch.tensor([1.0, 0.0]), nan)
    assert not alike(torch.zeros(2), torch.zeros(1))


def untied(small: nn.Module, model: nn.Module) -> None:
    small.h.bias = nn.Parameter(small.h.bias.detach().clone())


STATES: dict[str, tuple[Callable[[nn.Module, nn.Module], object], str]] = {
    "memory": (lambda s, m: setattr(s[8].bias, "data", m[8].bias.data), "8.bias of the cut network shares memory"),
    "part of the memory": (lambda s, m: setattr(s[0].bias, "data", m[0].bias.data[:4]), "0.bias .* shares memory"),
    "a frozen weight": (lambda s, m: s[0].weight.requires_grad_(True), "0.weight .* requires_grad=True"),
    "a weight frozen": (lambda s, m: s[3].weight.requires_grad_(False), "3.weight .* requires_grad=False"),
    "a hook": (lambda s, m: s[3]._forward_hooks.clear(), "3 has other hooks"),
    "a mode": (lambda s, m: s[4].train(), "4 is in train mode in the cut network alone"),
    "the mode of all": (lambda s, m: setattr(s, "training", False), "the model is in eval mode"),
    "a padding": (lambda s, m: setattr(s[0], "padding_mode", "circular"), "padding_mode of 0 is .*, not zeros"),
    "a dilation": (lambda s, m: setattr(s[3], "dilation", (2, 2)), r"dilation of 3 is \(2, 2\) in .*, not \(1, 1\)"),
    "a momentum": (lambda s, m: setattr(s[1], "momentum", None), "momentum of 1 is None in the cut network, not 0.1"),
    "a width": (lambda s, m: setattr(s[3], "out_channels", 12), "out_channels of 3 is 12 in the cut network, not 7"),
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_a_copy_that_differs_in_more_than_widths_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, why = STATES[name]
    model = watched()

    def faulty(dense: nn.Module, plan: prunus.Plan) -> nn.Module:
        small = apply(dense, plan)
        wrong(small, dense)
        return small

    assert pruned(model).proof is not None
    monkeypatch.setattr(cutting, "apply", faulty)
    for check in (True, False):
        with pytest.raises(ProofError, match=why):
            prunus.prune(model, image(), target=TARGET, method="random", check=check)


def test_a_tie_that_is_lost_is_refused() -> None:
    model = net(lambda s, x: s.h(pool(s.a(x).relu())) + s.t, a=conv(3, 8), h=head(8), t=nn.Parameter(torch.zeros(5)))
    model.t = model.h.bias
    plan = pruned(model).plan
    small = apply(model, plan)
    same_state(model, small, plan)
    untied(small, model)
    with pytest.raises(ProofError, match="are one tensor in the model, two in the cut network"):
        same_state(model, small, plan)


class Counted(Block):
    """Its copies are numbered, and hold what they like."""

    copies = 0

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)
        Counted.copies += 1
        self.number = Counted.copies

    def __init__(self, width: int, inner: int) -> None:
        super().__init__(width, inner)
        self.number = 0


def test_copies_that_number_themselves_are_let_be() -> None:
    model = lively(nn.Sequential(conv(3, 8), Counted(8, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(8)))
    found = pruned(model)
    assert found.model[1].number != model[1].number and found.proof is not None


def test_a_dropped_branch_and_tensors_that_no_forward_reads_pass() -> None:
    model = residual()
    model[2].register_buffer("unread", torch.tensor([-math.inf, 2.0]))
    small = prunus.prune(model, image(), target="macs=60%,blocks=-1", method="magnitude")
    assert small.plan.dropped and small.proof is not None


def severed(x: Tensor) -> Tensor:
    class Severed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            raise RuntimeError("nothing comes back")

    return Severed.apply(x)  # type: ignore[no-any-return]


def test_a_backward_that_fails_in_the_cut_network_alone_is_refused() -> None:
    model = chain()
    right = pruned(model)
    right.model[3].register_forward_hook(lambda module, args, out: severed(out))
    with pytest.raises(ProofError, match="the cut network has no backward: nothing comes back; the model has one"):
        verify(model, right.model, right.plan, image())


@pytest.mark.parametrize(("scale", "said"), [(0.0, True), (math.nan, True), (1.0, False)])
def test_outputs_that_say_nothing_are_told(scale: float, said: bool) -> None:
    model = net(lambda s, x: s.h(pool(s.n(s.a(x)).relu())) * scale, a=conv(3, 8), n=nn.BatchNorm2d(8), h=head(8))
    proof = pruned(model).proof
    assert proof is not None
    told = "the outputs in eval mode are zero or no numbers: they say nothing" in proof.notes
    assert told == said == any(note.startswith("no gradients were compared") for note in proof.notes)


def test_infinite_buffers_are_no_measure_for_their_finite_entries() -> None:
    mask, broken = torch.tensor([-math.inf, 1.0, 2.0]), torch.tensor([-math.inf, 1.0, 1.5])
    assert buffer_difference({"mask": mask}, {"mask": broken}) == 0.5 / 2


def test_numbers_that_fill_in_for_infinity_hide_no_difference() -> None:
    filled = torch.tensor([torch.finfo(torch.float64).min, 2.0, -4.0], dtype=torch.float64)
    other = filled.clone()
    other[1] = 3.0
    assert difference(filled, other) == 1.0 / 4.0
    assert difference(torch.tensor([2e4, 8e4]), torch.tensor([2e4, 6e4])) == 0.25  # large numbers are compared as such
    assert difference(filled[:1], filled[:1]) == 0.0


class Spectral(nn.Module):
    """A weight of complex numbers for each of the lowest frequencies."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.h = conv(3, 8), head(8)
        self.w = nn.Parameter(torch.randn(8, 8, 4, 4, dtype=torch.cfloat, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low = torch.fft.rfft2(self.a(x))[..., :4, :4]
        made = torch.einsum("bixy,ioxy->boxy", low, self.w)
        return self.h(pool(torch.fft.irfft2(made, s=(8, 8)).relu())), made.mean(1)


def test_complex_weights_and_outputs_are_compared_in_double_precision() -> None:
    model = Spectral()
    right = pruned(model)
    assert right.proof is not None and right.proof.worst < 1e-12
    assert right.plan.kept and right.model.w.dtype == torch.complex64
    assert 0 < right.proof.fp32 < 1e-5
    assert not right.proof.notes


class Heard(nn.Module):
    """Its only output is complex."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft2(self.b(self.a(x).relu())).conj()


def test_gradients_come_from_complex_outputs_too() -> None:
    model = lively(Heard())
    right = pruned(model)
    assert right.proof is not None and not right.proof.notes and right.proof.gradients < 1e-12
    right.model.a.register_forward_hook(lambda module, args, out: out.detach())
    with pytest.raises(ProofError, match=r"eval 0\.0e\+00, train 0\.0e\+00, .*, gradients [1-9]\.\de-01"):
        verify(model, right.model, right.plan, image())


class Shape(NamedTuple):
    width: int
    depth: int


def test_settings_with_names_are_compared_and_not_rebuilt() -> None:
    model = net(lambda s, x: s.h(pool(s.a(x).relu())), a=conv(3, 8), h=head(8))
    model.shape, model.size = Shape(8, 2), torch.Size([8, 2])  # type: ignore[assignment]
    small = prunus.prune(model, image(), "macs=50%").model
    assert small.shape == Shape(8, 2) and type(small.shape) is Shape
    assert small.size == torch.Size([8, 2])
