"""Tracing and pruning leave the user's model, and the world, as they were."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from zoo import chain, conv, head, image, net, pool

import prunus
from prunus.errors import ExampleError, ModelError


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that must not change."""
    return {
        "modes": [m.training for m in model.modules()],
        "values": {n: t.detach().clone() for n, t in model.state_dict(keep_vars=True).items()},
        "tensors": {n: id(t) for n, t in model.state_dict(keep_vars=True).items()},
        "grads": {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        "requires": [p.requires_grad for p in model.parameters()],
        "hooks": [
            tuple(map(len, (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._forward_hooks_always_called)))
            for m in model.modules()
        ],
        "attributes": {n: sorted(vars(t)) for n, t in model.state_dict(keep_vars=True).items()},
        "vars": [sorted(vars(m)) for m in model.modules()],
        "global hooks": (
            len(module_hooks._global_forward_hooks), len(module_hooks._global_forward_pre_hooks),
            len(module_hooks._global_backward_hooks), len(module_hooks._global_forward_hooks_always_called),
        ),
        "torch": torch.random.get_rng_state(),
        "numpy": [*np.random.get_state()[1].tolist(), np.random.get_state()[2]],
        "random": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "grad mode": torch.is_grad_enabled(),
        "modes active": torch._C._len_torch_function_stack(),
    }  # fmt: skip


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else bool(a == b)


def unchanged(before: dict[str, Any], model: nn.Module) -> None:
    after = state(model)
    assert [key for key in before if not same(before[key], after[key])] == []


def mixed() -> nn.Module:
    """Modes that differ by module, a frozen weight, gradients, hooks, and randomness in the forward."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.d(s.n(s.a(x)))
        return s.h(pool(y * (1 + random.random() + np.random.rand() + torch.rand(()))))

    model = net(forward, a=conv(3, 8), n=nn.BatchNorm2d(8), d=nn.Dropout(0.5), h=head(8), c=torch.zeros(3))
    model.train()
    model.n.eval()
    model.a.weight.requires_grad_(False)
    model.h.register_forward_hook(lambda *a: None)
    model.h.weight.grad = torch.ones_like(model.h.weight)
    return model


VERBS: dict[str, Callable[[nn.Module], object]] = {
    "trace": lambda m: prunus.trace(m, image()),
    "prune": lambda m: prunus.prune(m, image(), target="channels=50%"),
    "cost": lambda m: prunus.cost(m, image()),
}


@pytest.mark.parametrize("verb", VERBS)
def test_left_as_found(verb: str) -> None:
    model = mixed()
    torch.manual_seed(5)
    before = state(model)
    VERBS[verb](model)
    unchanged(before, model)


@pytest.mark.parametrize("verb", ["trace", "prune"])
@pytest.mark.parametrize("training_only", [False, True])
def test_left_as_found_after_an_exception_in_the_forward(verb: str, training_only: bool) -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.n(s.a(x))
        if s.training or not training_only:
            s.n.num_batches_tracked += 7
            torch.rand(3)
            raise KeyError("missing piece")
        return s.h(pool(y))

    model = net(forward, a=conv(3, 8), n=nn.BatchNorm2d(8), h=head(8)).train()
    before = state(model)
    with pytest.raises(ExampleError, match="missing piece"):
        VERBS[verb](model)
    unchanged(before, model)


def test_left_as_found_after_a_failed_op() -> None:
    model = chain().train()
    before = state(model)
    with pytest.raises(ExampleError):
        prunus.trace(model, image(1, 5, 8, 8))
    unchanged(before, model)


def test_the_example_is_left_as_it_was() -> None:
    example = image().requires_grad_()
    value = example.detach().clone()
    prunus.prune(chain(), example, target="channels=50%")
    assert torch.equal(example, value) and vars(example) == {}
    assert example.requires_grad and example.grad is None


def test_a_gradient_of_the_example_is_left_as_it_was() -> None:
    example = image().requires_grad_()
    given = example.grad = torch.ones_like(example)
    prunus.prune(chain(), example, target="channels=50%")
    assert example.grad is given and torch.equal(given, torch.ones_like(given))


def test_the_users_hooks_run_and_may_change_what_passes() -> None:
    model = chain()
    seen = []
    model[0].register_forward_hook(lambda m, a, out: seen.append(tuple(out.shape)) or out * 2)
    small = prunus.prune(model, image(), target="channels=50%")
    assert seen and small.proof is not None and small.proof.worst < 1e-12
    assert len(small.model[0]._forward_hooks) == 1


def test_what_is_cut_in_inference_mode_can_be_trained() -> None:
    model = chain()
    with torch.inference_mode():
        small = prunus.prune(model, torch.randn(2, 3, 8, 8), "macs=60%")
        made = chain()
    small.model.train()(image()).sum().backward()
    assert small.proof is not None and small.proof.holds
    with pytest.raises(ModelError, match=r"0\.weight was made under torch\.inference_mode"):
        prunus.prune(made, image(), "macs=60%")


@pytest.mark.parametrize(
    ("outer", "gradients"), [(torch.no_grad, False), (torch.enable_grad, True), (torch.inference_mode, False)]
)
def test_a_function_of_the_users_has_gradients_as_around_the_call(outer: Callable[[], Any], gradients: bool) -> None:
    model, seen = chain(), set[bool]()

    def evaluate(_: nn.Module) -> float:
        seen.add(torch.is_grad_enabled())
        return 0.0

    with outer():
        prunus.prune(model, image(), "macs=60%", "sensitivity", evaluate=evaluate)
    assert seen == {gradients}
