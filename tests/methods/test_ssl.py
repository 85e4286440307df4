"""Group lasso in a plain loop: groups really vanish, the cut is proven, and a resumed training is the same training."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.engine.loop import Checkpoints, Fit, fit
from prunus.engine.runtime import Runtime
from prunus.errors import InputError, ModelError, TargetError
from prunus.methods import FPGM, SSL, Attached
from prunus.methods.lasso_training import Training

EXAMPLE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 4),
    )


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.norm(self.conv(x)))  # type: ignore[no-any-return]


def deep() -> nn.Sequential:
    torch.manual_seed(1)
    tail = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)]
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), Branch(), Branch(), Branch(), *tail)


def images(n: int = 256) -> tuple[Tensor, Tensor]:
    """The class is the quadrant with the brightest patch."""
    draw = torch.Generator().manual_seed(5)
    x, y = torch.randn(n, 3, 8, 8, generator=draw), torch.randint(0, 4, (n,), generator=draw)
    for k in range(n):
        top, left = 4 * int(y[k] // 2), 4 * int(y[k] % 2)
        x[k, :, top : top + 4, left : left + 4] += 1.0
    return x, y


def sgd(model: nn.Module, attached: Attached, momentum: float = 0.9) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": list(model.parameters())}, *attached.param_groups()], 0.05, momentum)


def train(
    model: nn.Module, attached: Attached, optimizer: torch.optim.Optimizer, first: int, last: int, end: int
) -> None:
    x, y = images()
    model.train()
    for e in range(first, last):
        attached.epoch_start(e)
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - e / end)
        for k in torch.randperm(len(x), generator=torch.Generator().manual_seed(e)).split(16):
            optimizer.zero_grad()
            (F.cross_entropy(model(x[k]), y[k]) + attached.penalty()).backward()
            optimizer.step()
            attached.after_step()


def empty(attached: Attached) -> float:
    """Share of the groups below a hundredth of the largest of their layer."""
    assert isinstance(attached, Training)
    found = []
    for norms in attached.norms():
        if attached.method.granularity == "depth":
            found.append(norms <= 1e-2 * norms.max())
        else:
            found += [part <= 1e-2 * part.max() for part in norms.split(list(attached.coupling.widths))]
    return float(torch.cat(found).float().mean())


def accuracy(model: nn.Module) -> float:
    x, y = images()
    with torch.no_grad():
        return float((model.eval()(x).argmax(1) == y).float().mean())


@pytest.mark.parametrize(
    "method",
    [
        SSL(lam=3e-2, affine=True, solver="proximal"),
        SSL(lam=6e-2, affine=True, solver="proximal", keep_length=True),
        SSL(lam=3e-2, affine=True),
        SSL(granularity="channel", lam=3e-2, solver="proximal"),
        SSL(granularity="both", lam=3e-2, solver="proximal"),
    ],
    ids=["proximal", "lengths kept", "subgradient", "channels", "both"],
)
def test_groups_vanish_and_their_cut_costs_nothing(method: SSL) -> None:
    model = net()
    attached = method.attach(model, EXAMPLE, "channels=70%", epochs=12)
    optimizer = sgd(model, attached)
    train(model, attached, optimizer, 0, 12, 12)
    assert empty(attached) >= 0.3
    before = accuracy(model)
    assert before > 0.9
    small = attached.finish()
    assert small.proof is not None and small.proof.holds
    assert sum(small.plan.widths) == 22  # of 32
    assert abs(accuracy(small.model) - before) < 0.005


def test_the_squared_form_empties_nothing() -> None:
    model = net()
    attached = SSL(lam=3e-2, affine=True, form="group_l2").attach(model, EXAMPLE)
    train(model, attached, sgd(model, attached), 0, 12, 12)
    assert empty(attached) < 0.1


@pytest.mark.parametrize("solver", ["proximal", "subgradient"])
def test_a_resumed_training_is_the_same_training(solver: Any) -> None:
    method = SSL(granularity="both", lam=1e-2, solver=solver)
    whole = net()
    attached = method.attach(whole, EXAMPLE)
    optimizer = sgd(whole, attached)
    train(whole, attached, optimizer, 0, 2, 4)
    saved = copy.deepcopy((whole.state_dict(), optimizer.state_dict(), attached.state_dict()))
    train(whole, attached, optimizer, 2, 4, 4)

    resumed = net(seed=9)
    again = method.attach(resumed, EXAMPLE)
    other = sgd(resumed, again)
    resumed.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    again.load_state_dict(saved[2])
    train(resumed, again, other, 2, 4, 4)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_the_threshold_is_the_step_of_the_optimizer() -> None:
    """λ·lr for plain SGD; with momentum .9 the second step of a constant gradient is 1.9 lr long. A skipped step moves
    nothing and so shrinks nothing."""
    for momentum, want in ((0.0, [0.5, 0.5]), (0.9, [0.5, 0.95])):
        model = net().double()
        attached = SSL(lam=10.0, solver="proximal").attach(model, EXAMPLE.double())
        optimizer = torch.optim.SGD([*model.parameters(), *attached.param_groups()[0]["params"]], 0.05, momentum)
        for threshold in want:
            before = model[0].weight.detach().clone()
            optimizer.zero_grad()
            attached.penalty().backward()
            optimizer.step()
            assert torch.equal(model[0].weight, before)
            attached.after_step()
            norm = before.flatten(1).norm(dim=1)
            shrunk = (norm - threshold).clamp(min=0)
            torch.testing.assert_close(model[0].weight.flatten(1).norm(dim=1), shrunk, rtol=1e-6, atol=1e-9)
        before = model[0].weight.detach().clone()
        attached.after_step()
        assert torch.equal(model[0].weight, before)


def layers(norm: nn.Module, bias: bool = False, between: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    middle = [between] if between else []
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=bias), *middle, norm, nn.ReLU(), nn.Conv2d(8, 4, 1))


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        (layers(nn.BatchNorm2d(8)), True),
        (layers(nn.BatchNorm2d(8), bias=True), True),  # the statistics of the batch take the bias off
        (layers(nn.GroupNorm(2, 8)), True),
        (layers(nn.GroupNorm(2, 8), bias=True), False),
        (layers(nn.BatchNorm2d(8), between=nn.SiLU()), False),
        (layers(nn.BatchNorm2d(8).eval()), False),  # divides by what it holds, not by what it sees
    ],
    ids=["batch", "batch, bias", "group", "group, bias", "behind an activation", "frozen statistics"],
)
def test_a_length_that_a_norm_undoes_is_kept(model: nn.Sequential, kept: bool) -> None:
    method = SSL(lam=0.5, affine=True, solver="proximal", keep_length=True)
    attached = method.attach(model, EXAMPLE, epochs=1)
    optimizer = sgd(model, attached, momentum=0.0)
    weight, x = model[0].weight, images(16)[0]
    before, out = weight.detach().clone(), model(x).detach()
    scale = next(m for m in model if isinstance(m, nn.BatchNorm2d | nn.GroupNorm))
    optimizer.zero_grad()
    attached.penalty().backward()  # no loss: the step is the penalty's alone
    optimizer.step()
    attached.after_step()
    assert (abs(float(weight.detach().norm() / before.norm()) - 1) < 1e-6) is kept
    assert scale.weight.mean() < 0.999  # the norm is shrunk all the same
    # Filters keep nothing of what they had beside the others: the shorter lose more.
    sizes = [w.detach().flatten(1).norm(dim=1) for w in (before, weight)]
    ratio = sizes[1] / sizes[0]
    assert ratio[sizes[0].argmin()] < ratio[sizes[0].argmax()]
    if kept:
        with torch.no_grad():
            model[0].weight.mul_(3.0)
            again = model(x)
            model[0].weight.div_(3.0)
            torch.testing.assert_close(again, model(x), rtol=1e-3, atol=1e-3)
    assert not torch.equal(out, model(x))


def test_an_emptied_layer_stays_empty_and_finite() -> None:
    model = layers(nn.BatchNorm2d(8))
    attached = SSL(lam=1e6, affine=True, solver="proximal", keep_length=True).attach(model, EXAMPLE, epochs=1)
    optimizer = sgd(model, attached)
    for _ in range(2):
        optimizer.zero_grad()
        attached.penalty().backward()
        optimizer.step()
        attached.after_step()
    assert not model[0].weight.any()


def test_lengths_are_kept_by_the_proximal_step_alone() -> None:
    with pytest.raises(InputError, match=r"keep_length=True .* needs solver='proximal'"):
        SSL(keep_length=True)


def test_an_optimizer_without_its_parameter_is_noticed() -> None:
    model = net()
    attached = SSL(lam=1e-2, solver="proximal").attach(model, EXAMPLE, "channels=70%")
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    train(model, attached, optimizer, 0, 1, 2)
    with pytest.raises(InputError, match=r"give the optimizer the groups of param_groups\(\)"):
        attached.epoch_start(1)
    with pytest.raises(InputError, match=r"param_groups\(\)"):
        attached.finish()


def test_both_solvers_find_the_minimiser() -> None:
    """min ½‖W − V‖² + λΣ‖W[n]‖ is V[n]·(1 − λ/‖V[n]‖)₊, with momentum as without: that is what the threshold is for."""
    for solver, momentum in (("proximal", 0.0), ("proximal", 0.9), ("subgradient", 0.9)):
        model = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 1, 1)).double()
        goal = torch.tensor([[3.0, 4.0], [0.6, 0.8], [0.3, 0.4], [0.0, 2.0]], dtype=torch.float64)
        attached = SSL(lam=1.0, solver=solver).attach(model, torch.zeros(1, 2, 4, 4).double())  # type: ignore[arg-type]
        optimizer = sgd(model, attached, momentum)
        for step in range(600):
            for group in optimizer.param_groups:
                group["lr"] = 0.05 if solver == "proximal" else 0.05 / (1 + step / 20)
            optimizer.zero_grad()
            (0.5 * (model[0].weight.view(4, 2) - goal).square().sum() + attached.penalty()).backward()
            optimizer.step()
            attached.after_step()
        want = torch.tensor([[2.4, 3.2], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        tight = 1e-6 if solver == "proximal" else 2e-2
        torch.testing.assert_close(model[0].weight.detach().view(4, 2), want, rtol=0, atol=tight)


def test_filter_shape_zeroes_columns_and_cuts_no_channel() -> None:
    model = net()
    method = SSL(granularity="shape", lam=3e-2, solver="proximal")
    with pytest.raises(TargetError, match="granularity='shape' removes no channel"):
        method.attach(model, EXAMPLE, "channels=50%")
    attached = method.attach(model, EXAMPLE, epochs=6)
    train(model, attached, sgd(model, attached), 0, 6, 6)
    with pytest.raises(TargetError, match="granularity='shape' removes no channel"):
        attached.finish("macs=50%")
    before = accuracy(model)
    small = attached.finish()
    weights = [m.weight for m in small.model.modules() if isinstance(m, nn.Conv2d)]
    zero = sum(int((w == 0).all(dim=0).sum()) for w in weights)
    columns = sum(w[0].numel() for w in weights)
    assert columns == 27 + 144 and zero >= 0.3 * columns
    assert small.notes[0].startswith(f"filter shape: {zero} of 171 kernel columns")
    assert small.plan.widths == small.plan.dense and small.after.macs == small.before.macs
    assert small.after.nonzero <= small.before.nonzero
    assert abs(accuracy(small.model) - before) < 0.005
    assert small.proof is not None and small.proof.holds


def test_depth_empties_whole_branches() -> None:
    model = deep()
    attached = SSL(granularity="depth", lam=0.1, affine=True, solver="proximal").attach(model, EXAMPLE, epochs=10)
    train(model, attached, sgd(model, attached), 0, 10, 10)
    assert empty(attached) >= 1 / 3
    with pytest.raises(ModelError, match="needs residual branches"):
        SSL(granularity="depth").attach(net(), EXAMPLE)


def test_depth_drops_the_lowest_blocks_at_the_end() -> None:
    model = deep()
    with torch.no_grad():
        for block, size in zip((model[2], model[3], model[4]), (0.3, 0.1, 0.2), strict=True):
            block.conv.weight.fill_(size)
    attached = SSL(granularity="depth").attach(model, EXAMPLE)
    small = attached.finish("blocks=-2")
    assert [d.name for d in small.plan.dropped] == ["3", "4"]
    assert small.plan.widths == small.plan.dense
    assert small.proof is not None and small.proof.holds
    with pytest.raises(TargetError, match="blocks=-4: 3 residual blocks can be dropped"):
        attached.finish("blocks=-4")


def test_frozen_weights_bear_no_penalty_and_do_not_shrink() -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    attached = SSL(lam=1e-2, solver="proximal").attach(model, EXAMPLE)
    train(model, attached, sgd(model, attached), 0, 1, 2)
    assert torch.equal(model[0].weight, before)
    assert not any(w is model[0].weight for groups in attached.groups for w, _ in groups.parts)  # type: ignore[attr-defined]
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(ModelError, match="finds no trainable weights"):
        SSL().attach(model, EXAMPLE)


class Interrupted(Exception):
    """The training is cut short."""


class Stop:
    """A hook that ends the training at a step."""

    def __init__(self, at: int) -> None:
        self.left = at

    def after_step(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Interrupted


@pytest.mark.parametrize("method", [SSL(lam=0.5, affine=True, solver="proximal"), FPGM()], ids=["ssl", "fpgm"])
def test_a_training_of_the_engine_goes_on_in_the_middle_of_an_epoch(method: SSL | FPGM, tmp_path: Path) -> None:
    x, y = images()
    feed = [(x[k], y[k]) for k in torch.arange(256).split(32)]
    config, runtime = Fit(epochs=3, lr=0.05, warmup=0.5), Runtime("cpu", "bf16")

    def run(model: nn.Module, at: int, checkpoints: Checkpoints | None) -> None:
        hooks = [method.attach(model, EXAMPLE, "channels=60%", epochs=3), Stop(at)]
        fit(model, feed, config, hooks=hooks, runtime=runtime, checkpoints=checkpoints, progress=False)

    whole, resumed = net(), net()
    run(whole, -1, None)
    with pytest.raises(Interrupted):
        run(resumed, 14, Checkpoints(tmp_path, every=5))
    resumed = net(seed=7)
    run(resumed, -1, Checkpoints(tmp_path, every=5))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert any(bool((p == 0).any()) for p in whole.parameters())
