"""What a cut model looks like: its tensors, its modules, and that a plan in a file makes the same one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo import chain, conv, head, image, lively, net, pool, residual, tokens

import prunus
from prunus.errors import PlanError, UnknownName
from prunus.models import resnet20
from prunus.surgery.cut import gathered


def cut(model: nn.Module, target: str = "channels=50%", example: object = None) -> prunus.Pruned:
    return prunus.prune(model, image() if example is None else example, target=target, method="random", seed=3)


def equal(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("make", [chain, residual, lambda: lively(resnet20())], ids=["chain", "residual", "resnet20"])
def test_a_plan_from_a_file_makes_the_same_model(make: object, tmp_path: Path) -> None:
    model = make()
    small = cut(model, example=image(1, 3, 16, 16))
    small.plan.save(tmp_path / "plan.json")
    again = prunus.apply(make(), prunus.Plan.load(tmp_path / "plan.json"))
    assert equal(again, small.model)
    assert repr(again) == repr(small.model)
    assert torch.equal(again.eval()(image(1, 3, 16, 16)), small.model.eval()(image(1, 3, 16, 16)))


def test_the_kept_entries_are_the_dense_ones() -> None:
    model = chain()
    small = cut(model)
    first, second = (list(k) for k in small.plan.kept)
    assert len(first) + len(second) == 10
    assert torch.equal(small.model[0].weight, model[0].weight[first])
    assert torch.equal(small.model[1].running_var, model[1].running_var[first])
    assert torch.equal(small.model[3].weight, model[3].weight[second][:, first])
    assert torch.equal(small.model[3].bias, model[3].bias[second])
    assert torch.equal(small.model[8].weight, model[8].weight[:, second])
    assert torch.equal(small.model[8].bias, model[8].bias)
    assert model[3].weight.shape == (12, 8, 3, 3)


def test_columns_after_flatten_go_channel_by_channel() -> None:
    model = net(lambda s, x: s.h(s.a(x).flatten(1)), a=conv(3, 4), h=head(256))
    small = cut(model)
    (kept,) = small.plan.kept
    assert torch.equal(small.model.h.weight, model.h.weight.view(5, 4, 64)[:, list(kept)].flatten(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    model = chain().to(dtype)
    small = cut(model, example=image().to(dtype))
    assert {p.dtype for p in small.model.parameters()} == {dtype}
    assert small.model(image(2, 3, 8, 8).to(dtype)).dtype == dtype
    assert small.proof is not None and small.proof.worst < 1e-12
    assert small.proof.fp32 <= {torch.float64: 1e-12, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]


def test_memory_format_is_kept() -> None:
    model = chain().to(memory_format=torch.channels_last)
    small = cut(model, example=image().to(memory_format=torch.channels_last)).model
    for at in (0, 3):
        assert small[at].weight.is_contiguous(memory_format=torch.channels_last)
        assert not small[at].weight.is_contiguous()
    assert cut(chain()).model[3].weight.is_contiguous()


def test_requires_grad_modes_and_hooks_are_kept_and_gradients_are_not() -> None:
    model = chain().train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    seen = []
    model[4].register_forward_hook(lambda m, a, out: seen.append(out.shape[1]))
    small = cut(model)
    assert [m.training for m in small.model.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in small.model.parameters()] == [p.requires_grad for p in model.parameters()]
    assert all(p.grad is None for p in small.model.parameters())
    assert all(p.is_leaf for p in small.model.parameters())
    seen.clear()
    small.model(image(2, 3, 8, 8))
    assert seen == [small.plan.widths[1]]


def test_a_cut_model_trains() -> None:
    small = cut(residual()).model.train()
    step = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9)
    x, y = image(8, 3, 8, 8), torch.arange(8) % 5
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(small(x), y)
        step.zero_grad()
        loss.backward()
        step.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_the_numbers_in_repr_are_those_of_the_cut() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.p(s.bn(s.a(x)))
        y = s.t(s.d(y))
        y = s.gn(s.g(y)) + s.i(s.g(y))
        return s.h(s.rms(s.ln(s.f(tokens(y)))).mean(1))

    model = net(
        forward, a=conv(3, 8), bn=nn.BatchNorm2d(8), p=nn.PReLU(8), d=conv(8, 8, groups=8),
        t=nn.ConvTranspose2d(8, 16, 1),
        g=conv(16, 8, groups=2), gn=nn.GroupNorm(2, 8), i=nn.InstanceNorm2d(8, affine=True), f=nn.Linear(8, 12),
        ln=nn.LayerNorm(12), rms=nn.RMSNorm(12), h=head(12),
    )  # fmt: skip
    sizes = {"a": 4, "t": 6, "g": 4, "f": 7}
    small = prunus.prune(model, image(), widths=sizes, method="random")
    m = small.model
    assert small.proof is not None and small.proof.worst < 1e-12
    assert (m.a.in_channels, m.a.out_channels) == (3, 4)
    assert (m.bn.num_features, m.p.num_parameters, m.p.weight.numel()) == (4, 4, 4)
    assert (m.d.in_channels, m.d.out_channels, m.d.groups) == (4, 4, 4)
    # t's 16 outputs meet 2 groups of 8: 8 pairs, of which 6 stay
    assert (m.t.in_channels, m.t.out_channels) == (4, 12)
    assert (m.g.in_channels, m.g.out_channels, m.g.groups, m.g.weight.shape) == (12, 4, 2, (4, 6, 3, 3))
    assert (m.gn.num_groups, m.gn.num_channels, m.i.num_features) == (2, 4, 4)
    assert (m.f.in_features, m.f.out_features) == (4, 7)
    assert (m.ln.normalized_shape, m.rms.normalized_shape) == ((7,), (7,))
    assert (m.h.in_features, m.h.out_features) == (7, 5)
    assert repr(m.gn).startswith("GroupNorm(2, 4, ")


def test_keep_changes_one_group() -> None:
    model = chain()
    plan = cut(model).plan.keep("0", [7, 0, 2])
    small = prunus.apply(model, plan)
    assert torch.equal(small[0].weight, model[0].weight[[0, 2, 7]])
    proof = prunus.surgery.verify(model, small, plan, image())
    assert proof.worst < 1e-12
    with pytest.raises(UnknownName, match="unknown group '1'"):
        plan.keep("1", [0])


def test_masks_are_the_other_view_of_a_plan() -> None:
    plan = cut(chain()).plan.keep("0", [0, 5])
    masks = plan.masks()
    assert masks["0.weight", 0].tolist() == [True, False, False, False, False, True, False, False]
    assert (masks["3.weight", 1] == masks["0.weight", 0]).all()
    assert masks["1.running_var", 0].sum() == 2
    assert ("0.weight", 1) not in masks


@pytest.mark.parametrize("make", [chain, residual, lambda: lively(resnet20())], ids=["chain", "residual", "resnet20"])
def test_plans_compose(make: object) -> None:
    model = make()
    example = image(1, 3, 16, 16)
    first = prunus.prune(model, example, target="channels=70%", method="random", seed=1)
    second = prunus.prune(first.model, example, target="channels=60%", method="random", seed=2)
    both = first.plan.then(second.plan)
    assert both.widths == second.plan.widths
    assert equal(prunus.apply(model, both), second.model)
    assert prunus.surgery.verify(model, second.model, both, example).worst < 1e-12


def test_plans_with_dropped_blocks_compose() -> None:
    model = residual()
    first = prunus.prune(model, image(), drop=["1"])
    second = prunus.prune(first.model, image(), target="channels=60%", method="random")
    both = first.plan.then(second.plan)
    small = prunus.apply(model, both)
    assert equal(small, second.model)
    assert prunus.surgery.verify(model, small, both, image()).worst < 1e-12


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ([], "keeps no channel; at least 2"),
        ([0, 16], "within 0 … 15"),
        ([-1, 8], "within 0 … 15"),
        ([3, 3], "ascending"),
        ([0, 1], "every one of its 2 blocks must keep equally many"),
        ([0, 1, 8], "every one of its 2 blocks must keep equally many"),
    ],
)
def test_kept_lists_that_no_plan_can_have(kept: list[int], message: str) -> None:
    model = net(lambda s, x: s.h(pool(s.n(s.a(x)))), a=conv(3, 16), n=nn.GroupNorm(2, 16), h=head(16))
    plan = cut(model).plan
    assert plan.keep("a", [4, 12]).widths == (2,)
    with pytest.raises(PlanError, match=message):
        plan.keep("a", kept)


def test_a_plan_of_another_model_is_refused() -> None:
    plan = cut(chain()).plan
    with pytest.raises(PlanError, match=r"another model: no tensor 1\.m\.bias|another model: (no|unexpected) tensor"):
        prunus.apply(residual(), plan)
    wider = chain()
    wider[8] = nn.Linear(12, 7)
    with pytest.raises(PlanError, match=r"8\.weight is \(7, 12\), not \(5, 12\)"):
        prunus.apply(wider, plan)
    with pytest.raises(PlanError, match=r"0\.weight is \(\d, 3, 3, 3\), not \(8, 3, 3, 3\)"):
        prunus.apply(prunus.apply(chain(), plan), plan)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "malformed"),
        ("{}", "lacks 'format'"),
        ('{"format": "prunus-plan-9"}', "format is 'prunus-plan-9'"),
        ('{"format": "prunus-plan-1"}', "the plan lacks '[a-z]+'"),
    ],
)
def test_files_that_are_no_plan(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PlanError, match=message):
        prunus.Plan.load(path)
    with pytest.raises(PlanError, match="cannot read"):
        prunus.Plan.load(tmp_path / "none.json")


# what is gathered ----------------------------------------------------------------------------------------------------
INNER = ((), (1,), (9,), (2, 2), (3, 3))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_kept_entries_are_those_of_the_masks(data: st.DataObject) -> None:
    """In one pass or axis by axis, in runs or not, whatever the layout and the dtype."""
    run = data.draw(st.sampled_from([1, 3]))
    shape = (data.draw(st.integers(1, 5)), run * data.draw(st.integers(1, 5)), *data.draw(st.sampled_from(INNER)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int64]))
    tensor = torch.arange(math.prod(shape)).reshape(shape).to(dtype)
    if data.draw(st.booleans()) and tensor.dim() == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    masks = {}
    for axis in data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)):
        each = run if axis == 1 else 1
        kept = data.draw(st.lists(st.booleans(), min_size=shape[axis] // each, max_size=shape[axis] // each))
        masks[axis] = np.repeat(np.array(kept, bool), each)
    want = tensor.float().numpy()
    for axis, mask in masks.items():
        want = np.compress(mask, want, axis)
    cut = gathered(tensor, masks)
    assert cut.dtype == dtype and cut.float().numpy().tolist() == want.tolist()
    assert gathered(tensor.to("meta"), masks).shape == cut.shape
    if cut.numel() and tensor.dim() == 4 and not tensor.is_contiguous():
        assert cut.is_contiguous(memory_format=torch.channels_last)
