"""One step of training, by autograd; distillation; and digits learned in six epochs."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from engine.training import PLAIN, assert_stepped, gradients, one_batch, small
from torch import nn

from prunus.engine.config import Augment, Distil, Fit
from prunus.engine.data import load
from prunus.engine.loop import evaluate, fit
from prunus.engine.objective import distillation
from prunus.engine.optimizer import parameter_groups
from prunus.engine.runtime import Runtime
from prunus.engine.task import Classification
from prunus.errors import ExampleError

# The whole of it


def test_digits_are_learned():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    data = load("digits")
    history = fit(net, data, Fit(epochs=6, batch_size=64, lr=0.1, warmup=0.5, augment=Augment(crop=1), nesterov=True))
    assert [epoch.epoch for epoch in history.epochs] == [1, 2, 3, 4, 5, 6]
    assert history[-1].loss < history[0].loss / 4
    result = evaluate(net, data)
    assert result.top1 > 95 and result.n == 359, result


# What a step does


def test_one_step_is_the_gradient_of_the_smoothed_cross_entropy():
    model, feed = small(), one_batch()
    before = copy.deepcopy(model)
    x, y = feed[0]
    grads = gradients(model, lambda m: F.cross_entropy(m(x), y, label_smoothing=0.1))
    history = fit(model, feed, PLAIN, task=Classification(label_smoothing=0.1))
    assert_stepped(before, model, grads)
    assert history[0].loss == pytest.approx(F.cross_entropy(before.train()(x), y, label_smoothing=0.1).item(), rel=1e-6)


class Slimming:
    def __init__(self, model: nn.Module, strength: float) -> None:
        self.scales = [m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        self.strength = strength

    def penalty(self) -> torch.Tensor:
        return self.strength * sum(scale.abs().sum() for scale in self.scales)


def test_a_penalty_adds_its_own_gradient():
    model, feed = small(), one_batch()
    before = copy.deepcopy(model)
    x, y = feed[0]
    grads = gradients(model, lambda m: F.cross_entropy(m(x), y) + 0.3 * m[1].weight.abs().sum())
    history = fit(model, feed, PLAIN, hooks=[Slimming(model, 0.3)])
    assert_stepped(before, model, grads)
    assert history[0].penalty == pytest.approx(0.3 * 8) and history[0].loss < 0.3 * 8 + 2


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("bf16", 1e-6), ("fp16", 1e-6)])
def test_the_penalty_has_full_strength_under_every_precision(precision, tolerance):
    # d/dγ of 0.3 Σ|γ| is 0.3 everywhere, so it moves each γ by 0.1 · 0.3 more than training without it:
    # were it added to gradients that still carry the loss scale, it would be 65 536 times too small.
    with_it, without = small(), small()
    runtime = Runtime(device="cpu", precision=precision)
    fit(with_it, one_batch(), PLAIN, hooks=[Slimming(with_it, 0.3)], runtime=runtime)
    fit(without, one_batch(), PLAIN, runtime=runtime)
    shift = without[1].weight - with_it[1].weight
    torch.testing.assert_close(shift, torch.full((8,), 0.03), rtol=0, atol=tolerance)
    assert torch.equal(with_it[0].weight, without[0].weight)
    assert not torch.equal(without[1].weight, torch.ones(8)), "the step itself was not skipped"


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 2e-2)])
def test_clipping_bounds_the_whole_gradient(precision, tolerance):
    model, feed = small(), one_batch()
    before = copy.deepcopy(model)
    x, y = feed[0]
    grads = gradients(model, lambda m: F.cross_entropy(m(x), y))
    norm = torch.stack([g.norm() for g in grads.values()]).norm().item()
    assert norm > 0.1
    config = Fit(lr=0.1, momentum=0, weight_decay=0, schedule="steps", clip=0.1)
    fit(model, feed, config, runtime=Runtime(device="cpu", precision=precision))
    moved = {name: p - q for (name, p), q in zip(model.named_parameters(), before.parameters(), strict=True)}
    assert torch.stack([m.norm() for m in moved.values()]).norm().item() == pytest.approx(0.01, rel=tolerance)
    for name, m in moved.items():
        torch.testing.assert_close(m, -0.01 * grads[name] / norm, rtol=0, atol=0.01 * tolerance, msg=name)


def test_decay_spares_norms_and_biases_unless_asked():
    model = small()
    kept, spared = parameter_groups(model, 0.5, decay_norms=False)
    assert [tuple(p.shape) for p in kept["params"]] == [(8, 1, 3, 3), (10, 32)] and kept["weight_decay"] == 0.5
    assert [tuple(p.shape) for p in spared["params"]] == [(8,), (8,), (10,)] and spared["weight_decay"] == 0
    (everything,) = parameter_groups(model, 0.5, decay_norms=True)
    assert len(everything["params"]) == 5
    model[0].weight.requires_grad_(False)
    assert [tuple(p.shape) for p in parameter_groups(model, 0.5, decay_norms=False)[0]["params"]] == [(10, 32)]


def test_momentum_nesterov_and_the_schedule_are_torchs():
    model, feed = small(), one_batch() + one_batch(seed=1) + one_batch(seed=2)
    by_hand = copy.deepcopy(model)
    fit(model, feed, Fit(epochs=2, lr=0.2, nesterov=True, weight_decay=0.01, decay_norms=True))
    by_hand.train()
    sgd = torch.optim.SGD(by_hand.parameters(), lr=0.2, momentum=0.9, nesterov=True, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 6)
    for x, y in feed * 2:
        sgd.zero_grad()
        F.cross_entropy(by_hand(x), y).backward()
        sgd.step()
        schedule.step()
    for a, b in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_adamw_moves_each_weight_by_the_rate_in_its_first_step():
    model, feed = small(), one_batch()
    before = copy.deepcopy(model)
    fit(model, feed, Fit(optimizer="adamw", lr=1e-3, weight_decay=0, schedule="steps"))
    moved = (model[6].weight - before[6].weight).abs()
    assert moved.median().item() == pytest.approx(1e-3, rel=1e-3)


# Distillation


def test_distillation_by_hand():
    # At T = 2 the logits (2 ln 3, 0) are odds of 3 to 1. T² Σ t ln(t/s) = 4 (¾ ln(¾ / ½) + ¼ ln(¼ / ½))
    teacher, student = torch.tensor([[2 * math.log(3), 0.0]]), torch.zeros(1, 2)
    want = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert distillation(student, teacher, 2.0).item() == pytest.approx(want, rel=1e-6)
    assert distillation(teacher, teacher, 2.0).item() == pytest.approx(0, abs=1e-7)


def test_a_teacher_is_followed_in_eval_mode_and_left_as_it_was():
    model, teacher, feed = small(0), small(1, dropout=0.5), one_batch()
    teacher.train()
    before, statistics = copy.deepcopy(model), teacher[1].running_mean.clone()
    x, y = feed[0]
    with torch.no_grad():
        taught = copy.deepcopy(teacher).eval()(x)
    grads = gradients(model, lambda m: 0.3 * F.cross_entropy(m(x), y) + 0.7 * distillation(m(x), taught, 3.0))
    fit(
        model,
        feed,
        Fit(lr=0.1, momentum=0, weight_decay=0, schedule="steps", distil=Distil(temperature=3.0, weight=0.7)),
        teacher=teacher,
    )
    assert_stepped(before, model, grads)
    assert teacher.training and teacher[3].training and torch.equal(teacher[1].running_mean, statistics)
    assert all(p.grad is None for p in teacher.parameters())


def test_a_teacher_of_other_classes_is_refused():
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    with pytest.raises(ExampleError, match=r"teacher gives \(16, 7\), the model \(16, 10\)"):
        fit(small(), one_batch(), PLAIN, teacher=other)
