"""Sparsity training in a plain loop: the penalty, that nothing is patched, and the cut at the end."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from prunus.errors import CheckpointError, InputError, ModelError, TargetError
from prunus.methods import DCFF, FPGM, SSL, Gates, Slimming, Weights

EXAMPLE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
        nn.BatchNorm1d(4),
    )


def test_the_penalty_is_lambda_times_the_scales_that_can_be_pruned() -> None:
    model = net()
    with torch.no_grad():
        model[1].weight.copy_(torch.linspace(-2, 2, 8))
        model[9].weight.fill_(100.0)  # the model's output: pinned, and so left alone
    attached = Slimming(lam=0.01).attach(model, EXAMPLE)
    penalty = attached.penalty()
    expected = 0.01 * (torch.linspace(-2, 2, 8).abs().sum() + 6)
    torch.testing.assert_close(penalty, expected)
    penalty.backward()
    torch.testing.assert_close(model[1].weight.grad, 0.01 * torch.linspace(-2, 2, 8).sign())
    assert model[9].weight.grad is None


def test_the_penalty_is_the_same_under_loss_scaling_and_accumulation() -> None:
    scaled, plain = net(), net()
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for model, factor, parts in ((scaled, 65536.0, 2), (plain, 1.0, 1)):
        model.eval()
        attached = Slimming(lam=0.1).attach(model, EXAMPLE)
        for k, part in enumerate(x.chunk(parts)):
            loss = model(part).sum() / len(x)
            penalty = attached.penalty() if k == parts - 1 else 0.0
            (factor * (loss + penalty)).backward()
        for p in model.parameters():
            p.grad /= factor
    torch.testing.assert_close(scaled[1].weight.grad, plain[1].weight.grad, rtol=1e-5, atol=1e-6)


def test_attaching_changes_nothing_and_finishing_returns_a_copy() -> None:
    model = net().train()
    before = copy.deepcopy(model.state_dict())
    attached = Slimming().attach(model, EXAMPLE, "channels=50%", epochs=3)
    attached.epoch_start(0)
    attached.penalty()
    attached.after_step()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.9, 0.0, 0.8, 0.0, 0.7, 0.0, 0.6, 0.0]))
        model[4].weight.copy_(torch.tensor([0.01, 0.02, 0.03, 0.5, 0.6, 0.7]))
    small = attached.finish()
    assert small.proof is not None
    assert small.proof.holds
    assert [list(kept) for kept in small.plan.kept] == [[0, 2, 4, 6], [3, 4, 5]]
    assert small.model is not model
    assert model.training
    assert not model._forward_hooks
    assert not model[1]._forward_pre_hooks
    untouched = {name for name in before if name not in ("1.weight", "4.weight")}
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in untouched)


def test_a_wrapped_model_and_another_target_at_the_end() -> None:
    small = Slimming().attach(nn.DataParallel(net()), EXAMPLE).finish("macs=60%")
    assert small.after.macs <= 0.6 * small.before.macs


def resembling(method: Any, *, later: bool) -> list[nn.Parameter]:
    """A step in the first epoch, on a network of which one convolution and its norm were frozen at `attach`."""
    model = net().train()
    late = [model[3], model[4]]
    for module in late:
        module.requires_grad_(not later)
    attached = method.attach(model, EXAMPLE, "channels=60%", epochs=3)
    own = attached.param_groups()
    optimizer = torch.optim.SGD([{"params": list(model.parameters())}, *own], 0.1)
    for module in late:
        module.requires_grad_(True)
    attached.epoch_start(0)
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    (model(x).square().mean() + attached.penalty()).backward()
    optimizer.step()
    attached.after_step()
    return [*model.parameters(), *(p for group in own for p in group["params"])]


@pytest.mark.parametrize(
    "method",
    [Slimming(lam=0.1), SSL(lam=0.1), SSL(lam=0.1, solver="proximal", keep_length=True), Gates(), DCFF(), FPGM()],
    ids=["slimming", "ssl", "proximal", "gates", "dcff", "fpgm"],
)
def test_what_is_unfrozen_after_attaching_takes_part(method: Any) -> None:
    for now, then in zip(resembling(method, later=False), resembling(method, later=True), strict=True):
        torch.testing.assert_close(then, now, rtol=0, atol=0)
        assert now.grad is None or torch.equal(now.grad, then.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [Slimming(), SSL(), Gates(), FPGM(), DCFF()], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("target", ["macs=0.1%", "macs=10%,max_rate=50%"])
def test_a_target_that_nothing_meets_is_refused_before_the_training(method: Any, target: str) -> None:
    with pytest.raises(TargetError, match="smallest possible"):
        method.attach(net(), EXAMPLE, target, epochs=3)


METHODS = [Slimming(), SSL(), Gates(), FPGM(), DCFF(), Weights()]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_a_copy_that_is_cut_under_inference_mode_can_be_trained(method: Any) -> None:
    model = net().eval()
    target = "weights=50%" if isinstance(method, Weights) else "channels=60%"
    attached = method.attach(model, EXAMPLE, target, epochs=3)
    attached.epoch_start(0)
    with torch.inference_mode():
        small = attached.finish().model
    small(EXAMPLE).square().mean().backward()
    assert small[0].weight.grad is not None


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_parameters_that_others_took_the_place_of_are_noticed(method: Any) -> None:
    model = net()
    target = "weights=50%" if isinstance(method, Weights) else "channels=60%"
    attached = method.attach(model, EXAMPLE, target, epochs=3)
    model.load_state_dict(model.state_dict())
    attached.epoch_start(0)
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    for call in (lambda: attached.epoch_start(1), attached.finish):
        with pytest.raises(InputError, match=r"0\.weight is another parameter than when"):
            call()


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(InputError, match="lam=-1 must be at least 0"):
        Slimming(lam=-1)
    with pytest.raises(TargetError, match=r"no target; give finish\(target="):
        Slimming().attach(net(), EXAMPLE).finish()
    with pytest.raises(InputError, match="epochs=0 must be at least 1"):
        Slimming().attach(net(), EXAMPLE, epochs=0)
    bare = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with pytest.raises(ModelError, match="slimming needs norms with scales"):
        Slimming().attach(bare, EXAMPLE)
    attached = Slimming().attach(net(), EXAMPLE)
    attached.load_state_dict(attached.state_dict())
    with pytest.raises(CheckpointError, match="a state of Gates is none of Slimming"):
        attached.load_state_dict({"method": "Gates"})
