"""The proof fails when a cut is wrong on purpose, and holds where it is right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Block, chain, conv, head, image, lively, net, pool, residual, tokens

import prunus
from prunus.errors import ProofError
from prunus.models import resnet20
from prunus.surgery import verify
from prunus.surgery.proof import TOLERANCE, compare


def attention() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        t = tokens(s.a(x))
        return s.h(s.o((s.q(t) @ s.k(t).transpose(1, 2)).softmax(-1) @ s.v(t)).relu().mean(1))

    return net(forward, a=conv(3, 8), q=head(8, 6), k=head(8, 6), v=head(8, 10), o=head(10, 9), h=head(9))


def flattened() -> nn.Module:
    return net(lambda s, x: s.h(s.a(x).relu().flatten(1)), a=conv(3, 6), h=head(384))


class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.h, self.aux = conv(3, 8), head(8), head(8)

    def forward(self, x: Tensor) -> object:
        y = pool(self.a(x).relu())
        return (self.h(y), self.aux(y)) if self.training else self.h(y)


def swapped(tensor: Tensor, axis: int, one: int = 0, other: int = 1) -> None:
    """Exchange two entries along an axis."""
    order = list(range(tensor.shape[axis]))
    order[one], order[other] = order[other], order[one]
    tensor.data = tensor.data.index_select(axis, torch.tensor(order))


def shifted_ties(small: nn.Module, model: nn.Module, plan: prunus.Plan) -> None:
    """The branch of block 1 keeps other channels than the shortcut it is added to."""
    kept = plan.masks()["1.b.weight", 0]
    other = torch.from_numpy(kept).roll(1)
    inner = torch.from_numpy(plan.masks()["1.b.weight", 1])
    small[1].b.weight.data = model[1].b.weight.data[other][:, inner]
    small[1].b.bias.data = model[1].b.bias.data[other]


def offset(small: nn.Module, model: nn.Module, plan: prunus.Plan) -> None:
    """The shortcut of stage 2 is padded one channel further."""
    index = small.layer2[0].shortcut.index
    index.copy_(index.roll(1))


def removed_statistic(small: nn.Module, model: nn.Module, plan: prunus.Plan) -> None:
    gone = int((~torch.from_numpy(plan.masks()["1.running_mean", 0])).nonzero()[0])
    small[1].running_mean[0] = model[1].running_mean[gone]


def severed(small: nn.Module, model: nn.Module, plan: prunus.Plan) -> None:
    small[2].register_forward_hook(lambda m, a, out: out.detach())


Break = Callable[[nn.Module, nn.Module, prunus.Plan], object]
BREAKS: dict[str, tuple[Callable[[], nn.Module], Break]] = {
    "one kept index": (chain, lambda s, m, p: swapped(s[3].weight, 1)),
    "one filter": (chain, lambda s, m, p: swapped(s[0].weight, 0, 1, 2)),
    "one bias": (chain, lambda s, m, p: swapped(s[3].bias, 0)),
    "one scale": (chain, lambda s, m, p: swapped(s[4].weight, 0)),
    "one running mean": (chain, lambda s, m, p: swapped(s[1].running_mean, 0)),
    "one running variance": (chain, lambda s, m, p: swapped(s[4].running_var, 0)),
    "the statistic of a removed channel": (chain, removed_statistic),
    "one tie": (residual, shifted_ties),
    "one padded offset": (lambda: lively(resnet20()), offset),
    "one column after flatten": (flattened, lambda s, m, p: swapped(s.h.weight, 1, 0, 64)),
    "one position after flatten": (flattened, lambda s, m, p: swapped(s.h.weight, 1, 0, 1)),
    "one query column": (attention, lambda s, m, p: swapped(s.q.weight, 1)),
    "one key row": (attention, lambda s, m, p: swapped(s.k.weight, 0)),
    "one value row": (attention, lambda s, m, p: swapped(s.v.weight, 0)),
    "the head of train mode": (lambda: lively(Auxiliary()), lambda s, m, p: swapped(s.aux.weight, 1)),
    "the momentum of a norm": (chain, lambda s, m, p: setattr(s[1], "momentum", 0.2)),
    "a gradient that does not flow": (chain, severed),
    "a weight by one part in a million": (chain, lambda s, m, p: s[3].weight.data[0, 0].mul_(1 + 1e-6)),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_cut_broken_on_purpose_is_refused(name: str) -> None:
    make, wrong = BREAKS[name]
    model = make()
    example = image(1, 3, 8, 8)
    right = prunus.prune(model, example, target="channels=60%", method="random", seed=4)
    assert right.proof is not None and right.proof.worst < 1e-12
    before = {k: v.clone() for k, v in model.state_dict().items()}
    wrong(right.model, model, right.plan)
    with pytest.raises(ProofError):
        verify(model, right.model, right.plan, example)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_each_part_of_the_proof_sees_what_only_it_can_see() -> None:
    model, example = chain(), image()
    right = prunus.prune(model, example, target="channels=60%", method="random")
    right.model[1].momentum = 0.2
    proof = compare(model, right.model, right.plan, example, TOLERANCE)
    assert proof.eval < 1e-12 and proof.train < 1e-12 and proof.gradients < 1e-12
    assert proof.statistics > 1e-3

    model = lively(Auxiliary())
    right = prunus.prune(model, example, target="channels=60%", method="random")
    swapped(right.model.aux.weight, 1)
    proof = compare(model, right.model, right.plan, example, TOLERANCE)
    assert proof.eval < 1e-12 and proof.train > 1e-3


def test_a_model_cut_by_another_plan_is_refused() -> None:
    model = chain()
    plan = prunus.prune(model, image(), target="channels=60%", method="random").plan
    fewer = plan.keep("0", plan.kept[0][1:])
    with pytest.raises(ProofError):
        verify(model, prunus.apply(model, fewer), plan, image())


@pytest.mark.parametrize(
    ("norm", "axis"),
    [(nn.LayerNorm(8), 1), (nn.RMSNorm(8), 1), (nn.GroupNorm(2, 8), 2)],
    ids=["layer norm", "rms norm", "group norm"],
)
def test_norms_that_count_channels_run_over_the_kept_ones(norm: nn.Module, axis: int) -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.a(x)
        return s.h(pool((s.n(y) if axis == 2 else s.n(y.transpose(1, 3)).transpose(1, 3)).relu()))

    model = net(forward, a=conv(3, 8), n=norm, h=head(8))
    small = prunus.prune(model, image(), target="channels=50%", method="random")
    assert small.proof is not None and small.proof.worst < 1e-12
    assert small.proof.shifted_by == ("n",)
    assert small.proof.statistics_shift > 1e-2
    assert "from the plainly zeroed network (n)" in str(small.proof)

    # the shift by hand: the dense model with the removed channels zeroed
    with torch.no_grad():
        gone = sorted(set(range(8)) - set(small.plan.kept[0]))
        model.double().a.weight[gone] = 0
        model.a.bias[gone] = 0
        model.h.weight[:, gone] = 0
        zeroed, cut = model.eval()(image().double()), small.model.double().eval()(image().double())
    assert float((zeroed - cut).abs().max() / cut.abs().max()) == pytest.approx(small.proof.statistics_shift, rel=1e-4)


def test_batch_norm_shifts_nothing() -> None:
    proof = prunus.prune(chain(), image(), target="channels=50%", method="random").proof
    assert proof is not None and proof.shifted_by == () and proof.statistics_shift == 0


class Depth(Block):
    """A block whose branch is left out at random in train mode, sample by sample."""

    def forward(self, x: Tensor) -> Tensor:
        from torchvision.ops import stochastic_depth

        return x + stochastic_depth(self.b(self.n(self.a(x)).relu()), 0.5, "row", self.training)


@pytest.mark.parametrize("seed", range(3))
def test_stochastic_depth_draws_the_same_in_both(seed: int) -> None:
    model = lively(nn.Sequential(conv(3, 8), Depth(8, 6), Depth(8, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(8)))
    small = prunus.prune(model, image(), target="channels=60%", method="random", seed=seed)
    assert small.proof is not None and small.proof.worst < 1e-12


def test_dropout_is_off_in_the_proof() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.h(F.dropout(pool(s.d(s.a(x).relu())), 0.5, training=True))

    model = net(forward, a=conv(3, 8), d=nn.Dropout2d(0.5), h=head(8)).train()
    small = prunus.prune(model, image(), target="channels=60%", method="random")
    assert small.proof is not None and small.proof.worst < 1e-12
    assert small.proof.fp32 < 1e-5


def test_without_a_common_batch_axis_norms_stay_in_eval_and_the_proof_says_so() -> None:
    model = net(lambda s, x, w: s.h(pool(s.n(s.a(x)) * w.sum())), a=conv(3, 8), n=nn.BatchNorm2d(8), h=head(8))
    small = prunus.prune(model, (image(), image(5, 4)), target="channels=60%", method="random")
    assert small.proof is not None and small.proof.worst < 1e-12
    assert small.proof.notes == ("the example cannot be made a batch of several: norms stayed in eval mode",)


def test_the_float32_difference_is_reported_beside() -> None:
    proof = prunus.prune(lively(resnet20()), image(1, 3, 32, 32), target="channels=60%", method="random").proof
    assert proof is not None and proof.worst < 1e-12 < proof.fp32 < 1e-5


def test_pruning_without_the_proof_is_said() -> None:
    small = prunus.prune(chain(), image(), target="channels=60%", check=False)
    assert small.proof is None and "not proven: check=False" in str(small)
