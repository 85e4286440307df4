"""The one call: what it promises, what it refuses and in which words, and that the user's model stays as it was."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from zoo import EXAMPLE
from zoo import classifier as net

import prunus
from prunus.errors import InputError, ModelError, ProofError, PrunusError, UnknownName
from prunus.target import Target


class State:
    """All of a model that a user could see change."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.tensors = {k: (v, v.detach().clone()) for k, v in self.named(model)}
        self.flags = [(m, m.training, str(m)) for m in model.modules()]
        self.grads = {
            k: (p.requires_grad, None if p.grad is None else p.grad.clone()) for k, p in model.named_parameters()
        }
        self.rng = self.random_states()

    @staticmethod
    def random_states() -> tuple[list[int], list[int], object]:
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]

    @staticmethod
    def named(model: nn.Module) -> list[tuple[str, Tensor]]:
        return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]

    def check(self) -> None:
        now = dict(self.named(self.model))
        assert now.keys() == self.tensors.keys()
        for name, (tensor, value) in self.tensors.items():
            assert now[name] is tensor
            torch.testing.assert_close(tensor, value, rtol=0, atol=0, equal_nan=True)
        for module, training, text in self.flags:
            assert module.training == training and str(module) == text
            assert not module._forward_hooks and not module._forward_pre_hooks
        for name, p in self.model.named_parameters():
            required, grad = self.grads[name]
            assert p.requires_grad == required and (p.grad is None) == (grad is None)
            assert grad is None or (p.grad is not None and torch.equal(p.grad, grad))
        assert self.rng == self.random_states()


def in_use() -> nn.Sequential:
    """A model in the middle of training: mixed modes, gradients, a frozen layer."""
    model = net().train()
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    model[1].eval()
    model[3].requires_grad_(False)
    return model


# what is promised -----------------------------------------------------------------------------------------------------
def test_the_result() -> None:
    model = net()
    small = prunus.prune(model, EXAMPLE, target="macs=50%", method="magnitude")
    assert type(small.model) is type(model) and small.proof is not None and small.proof.holds
    assert small.before == prunus.cost(model, EXAMPLE) and small.after == prunus.cost(small.model, EXAMPLE)
    assert 0.495 <= small.after.macs / small.before.macs <= 0.5 or small.notes
    assert small.rows() == [("0", 16, small.plan.widths[0]), ("3", 12, small.plan.widths[1])]
    assert small.model[0].out_channels == small.plan.widths[0] == small.model[1].num_features  # type: ignore[index]
    assert small.model[9].in_features == small.plan.widths[1]  # type: ignore[index]
    assert small.target == Target(macs=0.5)


@pytest.mark.parametrize(
    "target",
    ["macs=50%", "params=40%", "channels=70%", "macs=60%,params=60%,channels=60%", "macs=9k", "macs=50%,round=4"],
)
@pytest.mark.parametrize("method", ["magnitude", "l1", "slimming", "random", "uniform"])
def test_every_budget_with_every_method(target: str, method: str) -> None:
    model = net()
    small = prunus.prune(model, EXAMPLE, target, method)
    limits = Target.parse(target).limits({"macs": small.before.macs, "params": small.before.params, "channels": 28})
    got = {"macs": small.after.macs, "params": small.after.params, "channels": sum(small.plan.widths)}
    assert all(got[kind] <= limit for kind, limit in limits.items())
    assert small.proof is not None and small.proof.holds


def test_a_target_in_either_form() -> None:
    text = prunus.prune(net(), EXAMPLE, "macs=50%,min=3")
    made = prunus.prune(net(), EXAMPLE, prunus.Target(macs=0.5, min_channels=3))
    assert text.plan.to_json() == made.plan.to_json()


def test_the_same_call_gives_the_same_plan() -> None:
    for method in ("magnitude", "random"):
        plans = [prunus.prune(net(), EXAMPLE, "macs=50%", method, seed=7).plan.to_json() for _ in range(2)]
        assert plans[0] == plans[1]
    one, two = (prunus.prune(net(), EXAMPLE, "macs=50%", "random", seed=s).plan for s in (0, 1))
    assert one.kept != two.kept


def test_what_granularity_leaves_is_said() -> None:
    """One group of four channels: 70 % of the MACs cannot be had within half a percent."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    small = prunus.prune(model, EXAMPLE, "macs=70%")
    assert small.plan.widths == (2,)
    assert (
        len(small.notes) == 1 and "macs: 50.00 % got, 70.00 % asked" in small.notes[0] and small.notes[0] in str(small)
    )


def test_a_pruned_model_is_pruned_again() -> None:
    one = prunus.prune(net().eval(), EXAMPLE, "macs=50%")
    two = prunus.prune(one.model, EXAMPLE, "macs=50%")
    assert two.before == one.after and two.after.macs <= one.after.macs // 2
    assert torch.equal(prunus.apply(net().eval(), one.plan.then(two.plan))(EXAMPLE), two.model(EXAMPLE))


def test_pins() -> None:
    model = net()
    for pin in (["0"], ["0.weight"], [model[0]], ["[01]"]):
        small = prunus.prune(model, EXAMPLE, "channels=70%", pin=pin)
        assert [g.name for g in small.plan.groups] == ["3"]
        assert small.model[0].out_channels == 16  # type: ignore[index]
        assert any(p.reason == "asked by the user" for p in small.coupling.pinned)
    with pytest.raises(UnknownName, match="unknown module or tensor to pin 'conv9'"):
        prunus.prune(model, EXAMPLE, "macs=50%", pin=["conv9"])
    with pytest.raises(UnknownName, match="a Linear that is no module of this model"):
        prunus.prune(model, EXAMPLE, "macs=50%", pin=[nn.Linear(2, 2)])


def test_examples_of_three_kinds() -> None:
    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
            x = torch.relu(self.one(x))
            return self.two(x if shift is None else x + shift)  # type: ignore[no-any-return]

    x, shift = torch.randn(5, 6), torch.randn(5, 8)
    examples: list[Any] = [x, (x,), {"x": x}]
    for example in examples:
        assert prunus.prune(Takes(), example, "macs=50%").plan.widths == (4,)
    with pytest.raises(ModelError, match="it meets the model's input"):
        prunus.prune(Takes(), (x, shift), "macs=50%")


def test_a_model_that_takes_a_dict_is_given_a_tuple_of_one() -> None:
    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"logits": self.two(torch.relu(self.one(batch["x"])))}

    pruned = prunus.prune(Takes(), ({"x": torch.randn(5, 6)},), "macs=50%")
    assert pruned.plan.widths == (4,) and pruned.proof is not None and pruned.proof.holds


# models as they come --------------------------------------------------------------------------------------------------
def test_the_wrapped_model_is_unwrapped() -> None:
    small = prunus.prune(nn.DataParallel(net()), EXAMPLE, "macs=50%")
    assert isinstance(small.model, nn.Sequential)
    assert small.plan.to_json() == prunus.prune(net(), EXAMPLE, "macs=50%").plan.to_json()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    small = prunus.prune(net().to(dtype), EXAMPLE.to(dtype), "macs=50%")
    assert {p.dtype for p in small.model.parameters()} == {dtype}
    assert small.proof is not None and small.proof.holds
    assert small.model(EXAMPLE.to(dtype)).dtype == dtype


def test_channels_last_is_kept() -> None:
    model = net().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    small = prunus.prune(model, EXAMPLE.to(memory_format=torch.channels_last), "macs=50%")
    weight = small.model[3].weight  # type: ignore[index]
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def test_hooks_modes_and_frozen_weights_travel() -> None:
    model = in_use()
    calls: list[int] = []
    handle = model[3].register_forward_hook(lambda *_: calls.append(1))
    small = prunus.prune(model, EXAMPLE, "macs=50%").model
    calls.clear()
    small(torch.randn(2, 3, 8, 8))
    assert len(calls) == 1
    handle.remove()
    assert small.training and not small[1].training  # type: ignore[index]
    assert not small[3].weight.requires_grad and small[0].weight.requires_grad  # type: ignore[index]
    assert all(p.grad is None for p in small.parameters())


# the user's model -----------------------------------------------------------------------------------------------------
def failing_method() -> Any:
    class Fails:
        scope = None

        def score(self, *_: Any, **__: Any) -> Any:
            raise InputError("on purpose")

    return Fails()


@pytest.mark.parametrize(
    "call",
    [
        lambda m: prunus.prune(m, EXAMPLE, "macs=50%"),
        lambda m: prunus.prune(m, EXAMPLE, "macs=50%", "random"),
        lambda m: prunus.prune(m, EXAMPLE, rates="[0.5]*2"),
        lambda m: prunus.trace(m, EXAMPLE),
        lambda m: prunus.cost(m, EXAMPLE),
        lambda m: prunus.prune(m, EXAMPLE, "macs=10"),
        lambda m: prunus.prune(m, EXAMPLE, "macs=50%", failing_method()),
        lambda m: prunus.prune(m, torch.zeros(1, 4, 8, 8), "macs=50%"),
        lambda m: prunus.prune(m, torch.zeros(1, 3, 1, 1), "macs=50%"),
        lambda m: prunus.prune(m, EXAMPLE, rates="[0.5]*3"),
    ],
)  # fmt: skip
def test_the_users_model_is_left_as_it_was(call: Callable[[nn.Module], Any]) -> None:
    model = in_use()
    before = State(model)
    example = EXAMPLE.clone()
    try:
        call(model)
    except PrunusError as error:
        assert "\n" not in str(error)
    before.check()
    assert torch.equal(example, EXAMPLE)


def test_a_failed_proof_leaves_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from prunus import cutting

    def crooked(model: nn.Module, plan: prunus.Plan) -> nn.Module:
        small = honest(model, plan)
        with torch.no_grad():
            next(small.parameters())[0] += 1e-3
        return small

    honest = cutting.apply
    monkeypatch.setattr(cutting, "apply", crooked)
    model = in_use()
    before = State(model)
    with pytest.raises(ProofError, match=r"0.weight of the cut network does not hold the entries .*left untouched"):
        prunus.prune(model, EXAMPLE, "macs=50%")
    before.check()


@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_random_states_are_left_as_they_were(method: str) -> None:
    model = in_use()
    before = State(model)
    prunus.trace(model, EXAMPLE)
    prunus.cost(model, EXAMPLE)
    prunus.prune(model, EXAMPLE, "macs=50%", method, check=False)
    before.check()


# print ----------------------------------------------------------------------------------------------------------------
def test_the_table() -> None:
    small = prunus.prune(net(), EXAMPLE, "macs=50%")
    lines = str(small).splitlines()
    assert lines[0].split() == ["0", "16", "->", str(small.plan.widths[0])]
    assert lines[1].split() == ["3", "12", "->", str(small.plan.widths[1])]
    assert f"macs: {small.before.macs:,} -> {small.after.macs:,}" in str(small)
    assert "masked == cut: proven" in str(small) and "pinned: 9 outputs (4): it is the model's output" in str(small)
    assert repr(small) == str(small)
    assert "not proven" in str(prunus.prune(net(), EXAMPLE, "macs=50%", check=False))


def test_the_notebook_view_escapes_names() -> None:
    model = nn.Sequential()
    model.add_module("<b>&amp", nn.Conv2d(3, 8, 1))
    model.add_module("end", nn.Conv2d(8, 2, 1))
    page = prunus.prune(model, EXAMPLE, "channels=50%")._repr_html_()
    assert "&lt;b&gt;&amp;amp" in page and "<b>" not in page and page.count("<table>") == 1


def test_inspect_prints_what_trace_finds() -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        found = prunus.inspect(net(), EXAMPLE)
    assert out.getvalue() == f"{prunus.trace(net(), EXAMPLE)}\n" == f"{found}\n"
    assert "2 groups, 28 channels" in out.getvalue() and "3  12" in out.getvalue()
    assert found["3"].width == 12 and copy.copy(found).widths == (16, 12)


def test_attention_loses_heads_or_width() -> None:
    from torchvision.models import VisionTransformer

    def heads_and_width(attention: str) -> tuple[int, int]:
        torch.manual_seed(0)
        net = VisionTransformer(16, 8, 1, 4, 32, 64, num_classes=5)
        small = prunus.prune(net, torch.randn(1, 3, 16, 16), "macs=60%", attention=attention)
        assert small.proof is not None and small.proof.holds
        found = small.model.get_submodule("encoder.layers.encoder_layer_0.self_attention")
        assert isinstance(found, nn.MultiheadAttention)
        return found.num_heads, found.head_dim

    heads, width = heads_and_width("heads")
    assert heads < 4 and width == 8
    heads, width = heads_and_width("width")
    assert heads == 4 and width < 8
    with pytest.raises(PrunusError, match="unknown attention 'depth'"):
        prunus.prune(nn.Linear(4, 4), torch.randn(1, 4), "macs=60%", attention="depth")
