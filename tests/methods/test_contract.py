"""What every registered method keeps, by one table: the methods themselves.

A new method is covered as soon as it is registered. It gets what it `needs` from a data set of 16 images; the target is
of single weights for methods whose `budgets` say so, and of MACs for all others.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn
from zoo import EXAMPLE

import prunus
from prunus.lab.job import configured
from prunus.lab.recipe import plain
from prunus.methods import METHODS, Attached
from prunus.methods.score import needs_of
from prunus.methods.sparsity import Thinned
from prunus.models.shortcut import Shortcut, centred
from prunus.result import Pruned

QUICK = {"batches": 2, "cycles": 2, "sources": 3}
"""Settings that only cost time, where a method has one of that name."""

EPOCHS = 3


class Tiny(nn.Module):
    """A stem, a residual block and a linear layer: two groups of 8 and 6."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = zoo.conv(3, 8, bias=False), nn.BatchNorm2d(8)
        self.block, self.head = zoo.Block(8, 6), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(F.relu(self.norm(self.stem(x))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Wider(Tiny):
    """With a second stage behind a shortcut that is a map of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.short, self.head = zoo.conv(8, 12), Shortcut(centred(8, 12)), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(F.relu(self.norm(self.stem(x))))
        return self.head(F.relu(self.second(x) + self.short(x)).mean((2, 3)))  # type: ignore[no-any-return]


def net(kind: type[nn.Module] = Tiny) -> nn.Module:
    return zoo.lively(kind())


def method(name: str) -> Any:
    found: Any = METHODS[name][0]
    return replace(found, **{k: v for k, v in QUICK.items() if k in {part.name for part in fields(found)}})


def batches() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(3)
    return [(torch.randn(8, 3, 8, 8, generator=draw), torch.arange(8) % 4) for _ in range(2)]


def evaluate(model: nn.Module) -> float:
    """Minus the loss: finer than an accuracy on 16 images."""
    model.eval()
    with torch.no_grad():
        return -float(sum(F.cross_entropy(model(x), y) for x, y in batches()))


def goal(name: str) -> str:
    return "weights=60%" if "weights" in getattr(METHODS[name][0], "budgets", ()) else "macs=60%"


def pruned(name: str, model: nn.Module, seed: int = 0, **more: Any) -> Pruned:
    """One call of prune, with what the method needs and nothing else."""
    supply = {"data": batches(), "evaluate": evaluate}
    given = {k: v for k, v in supply.items() if k in needs_of(METHODS[name][0])}
    return prunus.prune(model, EXAMPLE, goal(name), method(name), seed=seed, **given, **more)


def check_budget(small: Pruned, name: str) -> None:
    if isinstance(small, Thinned):
        assert sum(layer.nonzero for layer in small.layers()) <= 0.6 * sum(layer.weights for layer in small.layers())
    else:
        assert small.after.macs <= 0.6 * small.before.macs
        assert small.after.macs >= 0.55 * small.before.macs or small.notes


def check_exact(dense: nn.Module, small: Pruned) -> None:
    """The dense network with what is gone set to zero computes what the smaller one computes, in float64."""
    wide, narrow = copy.deepcopy(dense).double().eval(), copy.deepcopy(small.model).double().eval()
    own = dict(wide.named_parameters())
    with torch.no_grad():
        if isinstance(small, Thinned):
            for name, mask in small.masks.items():
                own[name].mul_(mask)
        for (name, axis), mask in small.plan.masks().items():
            if name in own:
                own[name].movedim(axis, 0)[torch.from_numpy(~mask)] = 0
        x = batches()[0][0].double()
        torch.testing.assert_close(wide(x), narrow(x), rtol=1e-10, atol=1e-10)
    assert isinstance(small, Thinned) or (small.proof is not None and small.proof.holds)


# the cut --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", METHODS)
def test_the_budget_is_met_and_the_cut_is_exact(name: str) -> None:
    dense = net()
    before, state = copy.deepcopy(dense.state_dict()), torch.get_rng_state()
    small = pruned(name, dense)
    check_budget(small, name)
    check_exact(dense, small)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in dense.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in dense.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_a_seed_decides_and_the_plan_is_plain_data(name: str) -> None:
    torch.manual_seed(1)
    dense = net()
    one = pruned(name, dense, seed=5, check=False)
    torch.manual_seed(2)
    two = pruned(name, net(), seed=5, check=False)
    assert one.plan.to_json() == two.plan.to_json()
    ours, theirs = one.model.state_dict(), two.model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    again = prunus.Plan.from_json(json.loads(json.dumps(one.plan.to_json())))
    assert again.to_json() == one.plan.to_json()
    shapes = {k: v.shape for k, v in prunus.apply(dense, again).state_dict().items()}
    assert shapes == {k: v.shape for k, v in ours.items()}


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_plain_data(name: str) -> None:
    """Through JSON and back, as the options of a recipe have them."""
    chosen = method(name)
    options = plain(chosen)
    assert json.loads(json.dumps(options)) == options
    assert configured(name, options) == chosen and type(chosen)(**asdict(chosen)) == chosen


@pytest.mark.parametrize("name", [name for name, (m, _) in METHODS.items() if hasattr(m, "score")])
def test_every_score_prunes_in_steps(name: str) -> None:
    dense, widths = net(), []
    if hasattr(METHODS[name][0], "thin"):
        with pytest.raises(prunus.errors.InputError, match=r"steps=2: .* takes all that goes at once"):
            pruned(name, dense, steps=2)
        return
    small = pruned(name, dense, steps=2, between=lambda model, k: widths.append((k, prunus.cost(model, EXAMPLE).macs)))
    check_budget(small, name)
    check_exact(dense, small)
    assert [k for k, _ in widths] == [1] and small.after.macs < widths[0][1] <= 0.8 * small.before.macs


# the training ---------------------------------------------------------------------------------------------------------
class Training:
    """A plain loop over two batches an epoch, which can stop after any step and go on from plain data and tensors."""

    def __init__(self, name: str, model: nn.Module) -> None:
        torch.manual_seed(0)
        self.model = model.train()
        self.hook: Attached = method(name).attach(model, EXAMPLE, goal(name), EPOCHS)
        groups = [{"params": list(model.parameters())}, *self.hook.param_groups()]
        self.optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=1e-4)
        if hasattr(self.hook, "hold"):
            self.hook.hold(self.optimizer)
        self.done, self.losses = 0, list[float]()

    def run(self, steps: int, *, bf16: bool = False, parts: int = 1) -> Training:
        for x, y in self.upcoming(steps):
            self.optimizer.zero_grad()
            for k in range(parts):
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    output = self.model(x[k::parts])
                loss = F.cross_entropy(output.float(), y[k::parts]) / parts
                if k == parts - 1:
                    loss = loss + self.hook.penalty()
                loss.backward()
            self.optimizer.step()
            self.hook.after_step()
            self.losses.append(float(loss.detach()))
        return self

    def upcoming(self, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(steps):
            epoch, place = divmod(self.done, 2)
            if place == 0:
                self.hook.epoch_start(epoch)
            self.done += 1
            yield batches()[place]

    def state(self) -> dict[str, Any]:
        """Written to a file and read back, without code in it."""
        held = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "hook": self.hook.state_dict(),
            "done": self.done,
        }
        file = io.BytesIO()
        torch.save(held, file)
        file.seek(0)
        found: dict[str, Any] = torch.load(file, weights_only=True)
        return found

    def load(self, state: dict[str, Any]) -> Training:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.hook.load_state_dict(state["hook"])
        self.done = state["done"]
        return self


TRAINED = [name for name, (m, _) in METHODS.items() if hasattr(m, "attach")]


@pytest.mark.parametrize("name", TRAINED)
def test_three_steps_and_a_cut(name: str) -> None:
    dense = net()
    before, kinds = copy.deepcopy(dense.state_dict()), [type(m) for m in dense.modules()]
    training = Training(name, dense).run(3)
    with pytest.raises(prunus.errors.CheckpointError, match="a state of Other is none of"):
        training.hook.load_state_dict({"method": "Other"})
    assert all(torch.isfinite(torch.tensor(training.losses)))
    assert not torch.equal(before["block.a.weight"], dense.state_dict()["block.a.weight"])
    small = training.hook.finish()
    check_budget(small, name)
    check_exact(dense, small)
    assert [type(m) for m in dense.modules()] == kinds and dense.state_dict().keys() == before.keys()
    for model in (dense, small.model):
        for module in model.modules():
            assert "forward" not in vars(module)
            assert not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


@pytest.mark.parametrize("before", [False, True], ids=["attached, then loaded", "loaded, then attached"])
@pytest.mark.parametrize("name", TRAINED)
def test_a_training_goes_on_to_identical_weights(name: str, before: bool) -> None:
    """Stopped in the middle of the second epoch, and begun anew on a network of its own."""
    stop = 3
    whole = Training(name, net(Wider))
    state = whole.run(stop).state()
    whole.run(2 * EPOCHS - stop)
    model = net(Wider)
    if before:
        model.load_state_dict(state["model"])
    resumed = Training(name, model).load(state).run(2 * EPOCHS - stop)
    ours, theirs = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert whole.losses[stop:] == resumed.losses
    assert whole.hook.finish(check=False).plan.to_json() == resumed.hook.finish(check=False).plan.to_json()


@pytest.mark.parametrize("name", TRAINED)
def test_bf16_autocast(name: str) -> None:
    training = Training(name, net()).run(3, bf16=True)
    assert all(torch.isfinite(torch.tensor(training.losses)))
    assert {p.dtype for p in training.model.parameters()} == {torch.float32}
    small = training.hook.finish()
    check_budget(small, name)
    check_exact(training.model, small)


@pytest.mark.parametrize("name", TRAINED)
def test_gradient_accumulation(name: str) -> None:
    """Two halves of a batch make the step of the whole one, where norms do not see how it is divided."""
    trainings = []
    for parts in (1, 2):
        training = Training(name, net())
        for module in training.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        trainings.append(training.run(3, parts=parts))
    whole, halves = (t.model.state_dict() for t in trainings)
    for key, value in whole.items():
        torch.testing.assert_close(halves[key], value, rtol=1e-4, atol=1e-6)
    check_budget(trainings[1].hook.finish(check=False), name)
