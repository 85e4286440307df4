"""The proof where models are awkward: in-place ops, odd examples, infinite outputs, no backward, kept activations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from zoo import conv, head, image, lively, net, pool

import prunus
from prunus.errors import ExampleError

EVAL_ONLY = "the example cannot be made a batch of several: norms stayed in eval mode"


def proven(model: nn.Module, example: Any) -> prunus.Pruned:
    small = prunus.prune(model, example, target="channels=70%", method="random")
    assert small.proof is not None and small.proof.worst < 1e-12
    return small


# in place -------------------------------------------------------------------------------------------------------------
class After(nn.Module):
    """One in-place ReLU in the branch and after the sum, as in ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.r, self.b = conv(8, 6), nn.ReLU(inplace=True), conv(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.r(self.a(x)))
        y += x
        return self.r(y)


class Before(nn.Module):
    """The branch starts with a norm and an in-place ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.n, self.r, self.a, self.b = nn.BatchNorm2d(8), nn.ReLU(inplace=True), conv(8, 6), conv(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.r(self.a(self.r(self.n(x)))))


@pytest.mark.parametrize("block", [After, Before])
def test_a_dropped_block_with_in_place_ops_is_exact(block: type[nn.Module]) -> None:
    model = lively(nn.Sequential(conv(3, 8), block(), conv(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(8)))
    small = prunus.prune(model, image(), drop=["1"])
    assert small.proof is not None and small.proof.worst < 1e-12 and small.proof.notes == ()


def test_a_model_that_writes_into_its_input_is_proven_and_the_example_stays() -> None:
    example = image()
    value = example.clone()
    proven(net(lambda s, x: s.h(pool(s.a(x.sub_(0.5)).relu())), a=conv(3, 16), h=head(16)), example)
    assert torch.equal(example, value)


def test_a_model_without_a_backward_is_proven_by_its_outputs_and_says_so() -> None:
    # sigmoid's backward needs its result, which is overwritten
    model = net(lambda s, x: s.h(pool(s.a(x).sigmoid().mul_(2))), a=conv(3, 16), h=head(16))
    proof = proven(model, image()).proof
    assert proof is not None and proof.gradients == 0
    assert proof.notes and all(note.startswith("no gradients were compared") for note in proof.notes)


def test_an_overwritten_input_of_a_convolution_is_proven_by_its_outputs() -> None:
    # b's backward needs its input, which is overwritten: the model has no backward before the cut either
    model = net(lambda s, x: s.h(pool((y := s.a(x)).add_(s.b(y)))), a=conv(3, 16), b=conv(16, 16), h=head(16))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        model(image()).sum().backward()
    model.zero_grad()
    proof = proven(model, image()).proof
    assert proof is not None and proof.notes


# examples -------------------------------------------------------------------------------------------------------------
def test_empty_outputs_in_eval_mode_are_said_to_show_nothing() -> None:
    def boxes(s: Any, x: Tensor) -> Tensor:
        y = s.h(pool(s.a(x).relu()))
        return y if s.training else y[y > y.max()]

    model = net(boxes, a=conv(3, 8), h=head(8))
    found = prunus.prune(model, image(), "macs=70%").proof
    assert found is not None
    assert found.gradients > 0
    assert any("eval mode are empty" in note for note in found.notes)
    assert "eval mode are empty" in str(found)


def test_an_example_without_a_batch_is_proven_in_eval_mode() -> None:
    model = net(lambda s, x: s.h(s.a(x).mean((1, 2))), a=conv(3, 8), h=head(8))
    proof = proven(model, image(3, 8, 8)).proof
    assert proof is not None and proof.notes == (EVAL_ONLY,)


def rolled(s: Any, x: Tensor) -> Tensor:
    """A layer whose input is drawn upon in train mode."""
    y = s.a(x).relu()
    return s.h(pool(y + torch.rand(()) if s.training else y))


def survived(x: Tensor, share: float) -> Tensor:
    """Stochastic depth: the branch of some samples is left out."""
    return x * x.new_empty(len(x), 1, 1, 1).bernoulli_(share) / share


def shallow(s: Any, x: Tensor) -> Tensor:
    """The branch hardly ever stays: nothing of it would be compared if it were drawn for."""
    return s.h(pool(s.a(x) + (survived(s.b(x), 0.01) if s.training else s.b(x))))


def called_otherwise(s: Any, x: Tensor) -> Tensor:
    return s.h(pool(F.batch_norm(s.a(x), s.n.running_mean, s.n.running_var, s.n.weight, s.n.bias)))


def few_positions(s: Any, x: Tensor) -> Tensor:
    return s.h(pool(s.n(F.adaptive_avg_pool2d(s.a(x), 2))))


def normed_twice(s: Any, x: Tensor) -> Tensor:
    y = s.n(s.a(x))
    return s.h(pool(s.m(y) if s.training else y))


def standardised(s: Any, x: Tensor) -> Tensor:
    y = s.a(x).relu()
    return s.h(pool(y / (1 + y.std(0, keepdim=True, correction=0))))


@pytest.mark.parametrize(
    ("model", "samples"),
    [
        (net(lambda s, x: s.h(pool(s.a(x).relu())), a=conv(3, 8), h=head(8)), 1),
        (net(lambda s, x: s.h(pool(s.n(s.a(x)))), a=conv(3, 8), n=nn.GroupNorm(1, 8), h=head(8)), 1),
        (net(lambda s, x: s.h(pool(s.n(s.a(x)))), a=conv(3, 8), n=nn.BatchNorm2d(8), h=head(8)), 1),
        (net(few_positions, a=conv(3, 8), n=nn.BatchNorm2d(8), h=head(8)), 2),
        (net(lambda s, x: s.h(s.n(pool(s.a(x)))), a=conv(3, 8), n=nn.BatchNorm1d(8), h=head(8)), 4),
        (
            net(
                lambda s, x: s.h(s.m(pool(s.n(s.a(x))))),
                a=conv(3, 8),
                n=nn.BatchNorm2d(8),
                m=nn.BatchNorm1d(8),
                h=head(8),
            ),
            1,
        ),
        (net(normed_twice, a=conv(3, 8), n=nn.BatchNorm2d(8), m=nn.BatchNorm2d(8), h=head(8)), 1),
        (net(called_otherwise, a=conv(3, 8), n=nn.BatchNorm2d(8), h=head(8)), 4),
        (net(shallow, a=conv(3, 8), b=conv(3, 8), h=head(8)), 1),
        (net(lambda s, x: s.h((y := pool(s.a(x))) + 0.1 * (y @ y.T).softmax(-1) @ y), a=conv(3, 8), h=head(8)), 4),
        (net(lambda s, x: s.h((y := pool(s.a(x))) + y.roll(1, 0)), a=conv(3, 8), h=head(8)), 4),
        (net(lambda s, x: s.h(pool(s.a(x)).cumsum(0)), a=conv(3, 8), h=head(8)), 4),
        (net(lambda s, x: s.h((y := pool(s.a(x))) - y.flip(0)), a=conv(3, 8), h=head(8)), 4),
        (net(lambda s, x: s.h((y := pool(s.a(x))) - y[:1]), a=conv(3, 8), h=head(8)), 4),
        (net(lambda s, x: s.h((y := pool(s.a(x))) - y.T.mean(1)), a=conv(3, 8), h=head(8)), 4),
        (net(rolled, a=conv(3, 8), h=head(8)), 4),
        (net(standardised, a=conv(3, 8), h=head(8)), 4),
        (net(lambda s, x: s.h(pool(s.a(x)).softmax(0)), a=conv(3, 8), h=head(8)), 4),
        (net(lambda s, x: s.h(pool(F.normalize(s.a(x), dim=0))), a=conv(3, 8), h=head(8)), 4),
    ],
    ids=[
        "alone",
        "group norm",
        "batch norm",
        "batch norm of four positions",
        "batch norm of one position",
        "batch norm of one position behind others",
        "batch norm in train mode alone",
        "statistics of a norm that is not called",
        "stochastic depth",
        "likeness",
        "roll",
        "sums so far",
        "flip",
        "the first one",
        "mean of the transpose",
        "draws",
        "deviation over samples",
        "softmax over them",
        "length over them",
    ],
)
def test_how_many_samples_a_train_step_takes(model: nn.Module, samples: int) -> None:
    seen: list[int] = []
    model.register_forward_pre_hook(lambda m, args: seen.append(len(args[0])) if torch.is_grad_enabled() else None)
    proof = prunus.prune(model, image(), "macs=70%").proof
    assert proof is not None and proof.holds and proof.notes == ()
    assert seen and set(seen) == {samples}


def test_a_model_of_one_sample_is_proven_in_eval_mode() -> None:
    model = net(lambda s, x: s.h(pool(s.n(s.a(x))).reshape(1, -1)), a=conv(3, 8), n=nn.BatchNorm2d(8), h=head(8))
    proof = proven(model, image()).proof
    assert proof is not None and proof.notes == (EVAL_ONLY,)


# values ---------------------------------------------------------------------------------------------------------------
def test_what_is_drawn_by_keyword_is_off_like_the_rest() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        y = F.dropout(input=s.a(x).relu(), p=0.5, training=s.training)
        return s.h(pool(y * torch.bernoulli(input=y.new_full((len(y), 1, 1, 1), 0.5)) if s.training else y))

    proof = proven(net(forward, a=conv(3, 8), h=head(8)), image()).proof
    assert proof is not None and proof.notes == ()


def test_minus_infinity_in_the_output_is_equal_to_itself() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.h(pool(s.a(x).relu())).masked_fill(torch.arange(5) == 0, float("-inf"))

    small = proven(net(forward, a=conv(3, 16), h=head(16)), image())
    assert small.model(image())[0, 0] == float("-inf")
    assert small.proof is not None and small.proof.notes == ()


# state ----------------------------------------------------------------------------------------------------------------
def test_spectral_norm_takes_no_step_on_either_model() -> None:
    model = lively(nn.Sequential(spectral_norm(conv(3, 8)), conv(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(8)))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    small = proven(model.train(), image())
    assert list(before) == ["0.parametrizations.weight.0._u", "0.parametrizations.weight.0._v"]
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    u, v = (before[name] for name in before)
    found = dict(small.model.named_buffers())
    assert torch.equal(found["0.parametrizations.weight.0._u"], u[list(small.plan.kept[0])])
    assert torch.equal(found["0.parametrizations.weight.0._v"], v)  # of the image's channels


def test_a_model_that_keeps_an_activation_with_a_gradient_is_proven() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        s.last = s.a(x)
        return s.h(pool(s.last.relu()))

    model = net(forward, a=conv(3, 8), h=head(8))
    model(image())
    assert model.last.grad_fn is not None
    proven(model, image())


def test_a_running_mean_that_is_zero_but_for_rounding_is_no_difference() -> None:
    """A convolution of the zero-mean output of a norm has a mean of zero; what is stored is rounding noise."""
    torch.manual_seed(0)
    a, b = nn.Conv2d(3, 16, 1, bias=False), nn.Conv2d(16, 16, 1, bias=False)
    model = nn.Sequential(a, nn.BatchNorm2d(16), b, nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 64, 2))
    proof = prunus.prune(model, torch.randn(4, 3, 8, 8), "channels=60%").proof
    assert proof is not None and proof.statistics < 1e-12


# examples that do not become double -----------------------------------------------------------------------------------
def test_a_tensor_that_the_model_takes_in_its_own_dtype_alone_stays_as_it_is() -> None:
    def forward(s: Any, x: Tensor, bias: Tensor) -> Tensor:
        if bias.dtype != torch.float32:
            raise TypeError("bias must be of float type")
        return s.h(pool(s.a(x).relu()) + bias)

    model = net(forward, a=conv(3, 8), h=head(8))
    small = proven(model, (image(), torch.rand(1, 1)))
    assert small.proof is not None and small.proof.notes == ()
    alone = net(lambda s, x: s.h(pool(s.a(x.float() if x.dtype == torch.float32 else None))), a=conv(3, 8), h=head(8))
    with pytest.raises(ExampleError):
        prunus.prune(alone, image(), "macs=50%")


class Counted(nn.Module):
    """Counts its steps in train mode; its output has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.h = conv(3, 8), head(8)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
        y: Tensor = self.h(pool(self.a(x).relu()))
        return y.detach() if self.training else y


class Once(Counted):
    """Its backward goes through for several samples alone."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        z: Tensor = self.h(pool(y))
        if self.training and len(x) == 1:
            y.detach().mul_(2)
        return z


def test_a_step_that_shows_nothing_leaves_nothing_behind() -> None:
    assert prunus.prune(lively(Counted()), image(), "macs=60%").proof is not None
    proof = prunus.prune(lively(Once()), image(), "macs=60%").proof
    assert proof is not None and proof.notes == ()


def test_notes_are_those_of_the_step_that_counted() -> None:
    def forward(s: Any, x: Tensor, wanted: Tensor) -> Tensor:
        y = s.h(pool(s.n(s.a(x)).relu()))
        if s.training and wanted.dtype != torch.float32:
            raise TypeError("wanted must be of float type")
        return ((y - wanted) ** 2).mean() if s.training else y

    model = net(forward, a=conv(3, 8), n=nn.BatchNorm2d(8), h=head(8))
    small = proven(model, (image(), torch.rand(1, 5)))
    assert small.proof is not None and small.proof.notes == ()
