"""Attached methods in loops of one's own that differ from the one in the documentation, and in loops with a mistake."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from prunus.errors import CheckpointError, InputError, ModelError
from prunus.methods import DCFF, FPGM, SSL, Attached, Gates, Held, Slimming, Weights
from prunus.methods.gating import Gating
from prunus.methods.thinning import Thinning

EXAMPLE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
GATES = Gates(alpha_mac=5.0, lr_scale=1.0)
TRAINED = [Slimming(), SSL(), SSL(solver="proximal"), GATES, FPGM(), DCFF(), Weights()]


def net(wide: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(),
        nn.Conv2d(wide, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip


def attached(method: Any, model: nn.Module, example: Tensor = EXAMPLE, epochs: int = 2) -> Any:
    return method.attach(model, example, "weights=50%" if isinstance(method, Weights) else "macs=60%", epochs)


def sgd(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, 0.05, momentum=0.9)


def fused(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, 0.01, fused=True)


def steps(
    h: Attached, optimizer: torch.optim.Optimizer, zero: Callable[[], None] | None = None, announced: bool = True
) -> None:
    """Two epochs of two steps."""
    kind = next(h.model.parameters()).dtype
    for k in range(4):
        if k % 2 == 0 and announced:
            h.epoch_start(k // 2)
        draw = torch.Generator().manual_seed(k)
        x, y = torch.randn(8, 3, 8, 8, generator=draw).to(kind), torch.randint(0, 4, (8,), generator=draw)
        (zero or optimizer.zero_grad)()
        (F.cross_entropy(h.model(x).float(), y) + h.penalty()).backward()
        optimizer.step()
        h.after_step()


def values(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


# gradients that a loop leaves -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [sgd, fused])
@pytest.mark.parametrize("method", [GATES, SSL(lam=0.01, solver="proximal")], ids=["gates", "proximal"])
def test_a_loop_may_zero_the_gradients_of_the_model_alone(method: Any, make: Any) -> None:
    found = []
    for alone in (False, True):
        model = net()
        h = attached(method, model)
        optimizer = make([{"params": list(model.parameters())}, *h.param_groups()])
        steps(h, optimizer, model.zero_grad if alone else None)
        found.append(torch.cat([values(model), *([h.w.detach()] if isinstance(h, Gating) else [])]))
    assert torch.equal(*found)


def test_a_part_of_a_step_leaves_the_gradient_of_the_gates() -> None:
    """`after_step` behind each part, where the optimizer has not stepped yet."""
    h = attached(GATES, net())
    h.penalty().backward()
    grad = h.w.grad.clone()
    h.after_step()
    assert torch.equal(h.w.grad, grad) and grad.any()


# the optimizer --------------------------------------------------------------------------------------------------------
def test_gates_that_no_optimizer_has_are_noticed() -> None:
    model = net()
    h = attached(GATES, model)
    with pytest.raises(InputError, match=r"the gates did not move in 4 steps: give the optimizer the groups of param_"):
        steps(h, sgd(model.parameters()))
        h.finish()


@pytest.mark.parametrize("method", TRAINED)
def test_every_method_takes_the_rate_of_the_weights(method: Any) -> None:
    rates = [group["lr"] for group in attached(method, net()).param_groups(lr=0.2)]
    has = method is GATES or getattr(method, "solver", "") == "proximal"
    assert rates == ([0.2] if has else [])


@pytest.mark.parametrize("make", [sgd, fused])
def test_an_optimizer_that_is_not_held_trains_filters_all_the_same(make: Any) -> None:
    """As where one is held and another is made later."""
    found = []
    for held in (False, True):
        model = net()
        h = attached(DCFF(), model)
        if held:
            h.hold(sgd(model.parameters()))
        steps(h, make(model.parameters()))
        found.append(values(model))
    assert torch.equal(*found)


class Wrapped(torch.optim.Optimizer):
    """As the one of accelerate: it steps another, and has no hooks of its own."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad()


@pytest.mark.parametrize("method", [DCFF(), Weights()], ids=["dcff", "weights"])
def test_an_optimizer_in_another_is_held(method: Any) -> None:
    found = []
    for wrap in (False, True):
        model = net()
        h = attached(method, model)
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.1)
        held = Wrapped(optimizer) if wrap else optimizer
        h.hold(held)
        steps(h, held)
        found.append(values(model))
    assert torch.equal(*found)
    with pytest.raises(InputError, match="hold takes an optimizer of torch, not str"):
        Held.of(net()).hold("sgd")  # type: ignore[arg-type]


def test_rewinding_an_optimizer_that_needs_its_state() -> None:
    model = net()
    h = Weights(start=1, rewind=1).attach(model, EXAMPLE, "weights=50%", 2)
    assert isinstance(h, Thinning)
    optimizer = torch.optim.Adagrad(model.parameters(), 0.01, initial_accumulator_value=0.5)
    h.hold(optimizer)
    steps(h, optimizer)  # rewound after two steps, and two more
    assert {float(state["step"]) for state in optimizer.state.values()} == {2.0}
    model.zero_grad()
    h._rewind()
    assert all(bool((state["sum"] == 0.5).all()) for state in optimizer.state.values())


# epochs, states, dtypes -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", [FPGM(), DCFF(), Weights()], ids=["fpgm", "dcff", "weights"])
def test_a_step_before_the_first_epoch_is_refused(method: Any) -> None:
    model = net()
    with pytest.raises(InputError, match=r"a step came before epoch_start\(e\)"):
        steps(attached(method, model), sgd(model.parameters()), announced=False)


@pytest.mark.parametrize("epochs", ["3", 2.5, True, 0])
@pytest.mark.parametrize("method", [Slimming(), Weights()])
def test_epochs_are_counted(method: Any, epochs: Any) -> None:
    with pytest.raises(InputError, match="must be at least 1, and a whole number"):
        attached(method, net(), epochs=epochs)


@pytest.mark.parametrize("method", [GATES, FPGM(), DCFF(), Weights()], ids=["gates", "fpgm", "dcff", "weights"])
def test_a_state_that_does_not_fit_is_refused(method: Any) -> None:
    model = net()
    h = attached(method, model)
    steps(h, sgd([{"params": list(model.parameters())}, *h.param_groups()]))
    with pytest.raises(InputError):
        attached(method, net(10)).load_state_dict(h.state_dict())
    with pytest.raises(CheckpointError, match="lacks"):
        attached(method, net()).load_state_dict({"method": type(method).__name__})


@pytest.mark.parametrize("method", TRAINED)
def test_weights_of_half_precision_train_and_are_cut(method: Any) -> None:
    model = net().bfloat16()
    h = attached(method, model, EXAMPLE.bfloat16())
    steps(h, sgd([{"params": list(model.parameters())}, *h.param_groups()]))
    small = h.finish()
    assert small.model[0].weight.dtype == torch.bfloat16 and (small.proof is None or small.proof.holds)


# the end --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", TRAINED)
def test_weights_that_are_not_finite_are_not_cut(method: Any) -> None:
    model = net()
    h = attached(method, model)
    h.epoch_start(0)
    with torch.no_grad():
        model.get_parameter("3.weight")[0, 0, 0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"3\.weight holds values that are not finite"):
        h.finish()


@pytest.mark.parametrize("frozen", [False, True])
def test_gates_finish_to_another_target_and_back(frozen: bool) -> None:
    model = net()
    h = attached(GATES, model)
    steps(h, sgd([{"params": list(model.parameters())}, *h.param_groups()]), announced=frozen)
    one = copy.deepcopy(h.finish().model.state_dict()) if frozen else None
    less = h.finish("macs=30%")
    again = h.finish()
    assert less.after.macs <= 0.3 * less.before.macs < 0.5 * less.before.macs < again.after.macs
    for name, value in again.model.state_dict().items():
        assert one is None or torch.equal(value, one[name])


def test_scales_that_are_not_trained_bear_no_penalty() -> None:
    model = net()
    model[1].weight.requires_grad_(False)
    torch.testing.assert_close(Slimming(lam=0.1).attach(model, EXAMPLE).penalty(), torch.tensor(0.6))
    model[4].weight.requires_grad_(False)
    with pytest.raises(ModelError, match="slimming needs norms with scales that are trained"):
        Slimming().attach(model, EXAMPLE)


def test_a_norm_that_counted_masked_channels_is_named() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.norm, self.head = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.stem(x)))  # type: ignore[no-any-return]

    h = FPGM().attach(Tokens(), torch.randn(2, 6), "params=70%", 1)
    h.epoch_start(0)
    assert h.finish().notes[-1].startswith("norm: counted the shut channels in training")


def test_a_model_that_between_returns_is_refused() -> None:
    with pytest.raises(InputError, match="between returned a model of its own"):
        prunus.prune(net(), EXAMPLE, "macs=50%", steps=2, between=lambda small, k: copy.deepcopy(small))
    small = prunus.prune(net(), EXAMPLE, "macs=50%", steps=2, between=lambda small, k: nn.DataParallel(small))
    assert small.proof is not None and small.proof.holds
