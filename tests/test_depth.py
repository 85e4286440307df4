"""Residual blocks that go by their scores: so many of the lowest, or as many as pay for a budget."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Block, conv, head, image, lively, tokens

import prunus
from prunus.depth import bargains, lowest
from prunus.errors import TargetError
from prunus.graph.coupling import Coupling
from prunus.methods import Magnitude
from prunus.methods.blocks import block_scores
from prunus.methods.score import Floats
from prunus.models.dropped import Zero
from prunus.select import Costs, to_budget
from prunus.target import Target


class Layer(nn.Module):
    """A transformer layer as people write it: q, k and v by one projection, split in the forward."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(self.n1(x)).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        made = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, -1)
        x = x + self.out(made)
        return x + self.fc2(F.gelu(self.fc1(self.n2(x))))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 4, 4)
        self.layers = nn.Sequential(*(Layer(12, 2, 20) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(12), head(12)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.layers(tokens(self.patch(x)))).mean(1))
        return out


def vit() -> nn.Module:
    return lively(ViT())


def three() -> nn.Module:
    """A stem and three blocks of inner widths 6, 10 and 8; the weights of the second are the smallest."""
    net = lively(
        nn.Sequential(
            conv(3, 8), Block(8, 6), Block(8, 10), Block(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(8)
        )
    )
    with torch.no_grad():
        for k, size in (("1", 1.0), ("2", 0.1), ("3", 0.4)):
            for layer in ("a", "b"):
                net.get_submodule(f"{k}.{layer}").weight.mul_(size)  # type: ignore[operator, union-attr]
    return net


def resnet20() -> nn.Module:
    from prunus.models import build

    return lively(build("resnet20"))


NETS: dict[str, tuple[Callable[[], nn.Module], Tensor, int]] = {
    "resnet20": (resnet20, image(), 9),
    "vit": (vit, image(), 6),
    "user": (three, image(), 3),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("target", ["macs=50%,blocks=-2", "macs=50%,blocks=auto"])
def test_a_budget_with_blocks_is_met_and_proven(name: str, target: str) -> None:
    make, example, count = NETS[name]
    small = prunus.prune(make(), example, target)
    assert len(small.coupling.blocks) == count
    assert len(small.plan.dropped) == 2 or "auto" in target
    # a block is a large step: without channels that are worth less, the last one may leave the budget far behind
    assert (
        (0.45 if name == "resnet20" or (name, target[-2:]) == ("vit", "-2") else 0.25)
        < small.after.macs / small.before.macs
        <= 0.5
    )
    assert small.proof is not None and small.proof.worst < 1e-10
    again = prunus.apply(make(), type(small.plan).from_json(small.plan.to_json()))
    assert torch.equal(again.eval()(example), small.model.eval()(example))


@pytest.mark.parametrize("name", NETS)
def test_every_block_alone_is_what_it_says(name: str) -> None:
    """Costs after a drop are those of the forms, and of the tensors that are left."""
    make, example, _ = NETS[name]
    model = make()
    coupling = prunus.trace(model, example)
    for block in coupling.blocks[:: max(1, len(coupling.blocks) // 3)]:
        small = prunus.prune(model, example, drop=[block.name], check=name != "resnet20")
        want = Costs.of(coupling, [block.name])(np.array(coupling.widths))
        assert (small.after.macs, small.after.params) == (want["macs"], want["params"])
        assert name == "resnet20" or (small.proof is not None and small.proof.worst < 1e-10)


def by_hand(model: nn.Module) -> list[float]:
    """The scores of the blocks of `three`, from the definition: weights of the same filter shape are compared."""
    tensors = {n: p.detach().double() for n, p in model.named_parameters()}
    size = {n: float(sum((f**2).sum() for f in w) / len(w)) for n, w in tensors.items() if w.dim() == 4}
    first = np.mean([size[f"{k}.a.weight"] for k in "123"] + [size["3.b.weight"]])  # filters 8 x 3 x 3
    return [
        (size["1.a.weight"] / first + 1) / 2,  # the filters of b have 6, 10 and 8 inputs: the first two have no peer
        (size["2.a.weight"] / first + 1) / 2,
        (size["3.a.weight"] / first + size["3.b.weight"] / first) / 2,
    ]


def test_the_default_score_is_the_norm_of_the_weights_beside_their_peers() -> None:
    model = three()
    coupling = prunus.trace(model, image())
    assert block_scores(model, coupling) == pytest.approx(by_hand(model), rel=1e-12)


def test_the_two_lowest_go() -> None:
    model = three()
    scores = by_hand(model)
    small = prunus.prune(model, image(), "blocks=-2")
    names = [b.name for b in small.coupling.blocks]
    best = min(itertools.combinations(range(3), 2), key=lambda pair: sum(scores[k] for k in pair))
    assert sorted(d.name for d in small.plan.dropped) == [names[k] for k in best]
    assert small.plan.widths == small.plan.dense


class Own(Magnitude):
    """Magnitude with scores of blocks that keep the second."""

    def block_scores(self, model: nn.Module, coupling: Coupling, *, seed: int = 0) -> list[float]:
        return [0.5, 9.0, 0.25]


def test_a_method_may_bring_its_own_scores() -> None:
    small = prunus.prune(three(), image(), "macs=50%,blocks=-1", Own())
    assert [d.name for d in small.plan.dropped] == ["3"]
    both = prunus.prune(three(), image(), "blocks=-1", Own(), drop=["3"], check=False)
    assert [d.name for d in both.plan.dropped] == ["3", "1"]


def test_the_price_of_a_block_is_the_mean_score_of_its_channels() -> None:
    """One inner group carries all MACs of a block of `three`, so what a channel saves times the width is the block."""
    coupling = prunus.trace(three(), image())
    draw = np.random.default_rng(0)
    scores: list[Floats] = [draw.random(g.width) for g in coupling.groups]
    inner = {name: g for g, name in enumerate(g.name for g in coupling.groups)}
    means = [scores[inner[f"{k}.a"]].mean() for k in "123"]
    assert bargains(coupling, scores, np.ones(3))[0] == pytest.approx(means, rel=1e-3)
    price, worth = bargains(coupling, scores, np.array([1.0, 2.0, 3.0]))
    assert price == pytest.approx([means[0] / 2, means[1], means[2] * 1.5], rel=1e-3)
    assert worth == pytest.approx([means[0] / 2 * 6, means[1] * 10, means[2] * 1.5 * 8], rel=1e-3)


def threshold(coupling: Coupling, scores: list[Floats], price: Floats, limit: int) -> set[str]:
    """By brute force over the scores, lowest first: blocks and channels up to it go until the MACs fit."""
    for mark in np.unique(np.concatenate([price, *scores])):
        dropped = [b.name for b, p in zip(coupling.blocks, price, strict=True) if p <= mark]
        gone = coupling.without(dropped)[2]
        widths = [
            g.width if k in gone else max(1, int((scores[k] > mark).sum())) for k, g in enumerate(coupling.groups)
        ]
        if Costs.of(coupling, dropped)(np.array(widths))["macs"] <= limit:
            return set(dropped)
    raise AssertionError


def lost(coupling: Coupling, scores: list[Floats], worth: dict[str, float], dropped: list[str], share: float) -> float:
    """The sum of the scores of all that goes with these blocks dropped; infinite where no channels are enough."""
    try:
        kept = to_budget(coupling, scores, Target(macs=share), dropped)
    except TargetError:
        return float("inf")
    gone = coupling.without(dropped)[2]
    channels = sum(
        float(np.delete(s, k).sum()) for g, (s, k) in enumerate(zip(scores, kept, strict=True)) if g not in gone
    )
    return channels + sum(worth[name] for name in dropped)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
def test_blocks_compete_with_channels_in_one_order(seed: int, share: float) -> None:
    model = three()
    coupling = prunus.trace(model, image())
    scores = [np.random.default_rng(seed).random(g.width) for g in coupling.groups]

    class Given:
        scope = None

        def score(self, model: nn.Module, coupling: Coupling, *, seed: int = 0) -> tuple[Floats, ...]:
            return tuple(scores)

    price, worth = bargains(coupling, scores, block_scores(model, coupling))
    want = threshold(coupling, scores, price, int(share * coupling.macs()))
    small = prunus.prune(model, image(), f"macs={share:.0%},blocks=auto", Given(), check=False)
    got = {d.name for d in small.plan.dropped}
    order = [coupling.blocks[k].name for k in np.argsort(price)]
    assert got == set(order[: len(got)]) and got <= want
    assert small.after.macs <= share * small.before.macs
    # as many of the last blocks come back as leave the sum of the scores of what goes no larger
    losses = [
        lost(coupling, scores, dict(zip((b.name for b in coupling.blocks), worth, strict=True)), order[:n], share)
        for n in range(len(want) + 1)
    ]
    n = len(want)
    while n and losses[n - 1] <= losses[n] and losses[n - 1] < float("inf"):
        n -= 1
    assert len(got) == n


def test_a_cheap_block_goes_and_a_dear_one_stays() -> None:
    class Pick(Magnitude):
        def block_scores(self, model: nn.Module, coupling: Coupling, *, seed: int = 0) -> list[float]:
            return [0.001, 10.0, 10.0]

    small = prunus.prune(three(), image(), "macs=70%,blocks=auto", Pick())
    assert [d.name for d in small.plan.dropped] == ["1"]


def test_blocks_go_with_the_first_of_several_cuts() -> None:
    seen: list[int] = []
    small = prunus.prune(
        vit(), image(), "macs=40%,blocks=-2", steps=2, between=lambda net, k: seen.append(len(list(net.parameters())))
    )
    # what goes is two branches of a norm and two linear layers
    assert len(small.plan.dropped) == 2 and seen == [len(list(vit().parameters())) - 12]
    assert small.proof is not None and small.proof.worst < 1e-10 and small.after.macs <= 0.4 * small.before.macs


def test_no_block_lies_in_another() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(Block(8, 6), conv(8, 8), Block(8, 6))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x + self.body(x)
            return out

    model = lively(nn.Sequential(conv(3, 8), Deep(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(8)))
    coupling = prunus.trace(model, image())
    names = [b.name for b in coupling.blocks]
    assert sorted(names) == ["1", "1.body.0", "1.body.2"]
    score = np.array([{"1": 0.5, "1.body.0": 0.0, "1.body.2": 1.0}[n] for n in names])
    assert set(lowest(coupling, score, 2)) == {"1.body.0", "1.body.2"}
    with pytest.raises(TargetError, match="blocks=-3: 2 residual blocks can be dropped"):
        lowest(coupling, score, 3)
    small = prunus.prune(model, image(), drop=["1", "1.body.0"])
    assert small.proof is not None and small.proof.worst < 1e-12


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("blocks=-99", {}, "blocks=-99: 3 residual blocks can be dropped from this model"),
        ("blocks=-3", {"drop": ["1"]}, "2 residual blocks can be dropped from this model beside 1 in drop="),
        ("macs=50%,scope=local,blocks=auto", {}, "scope=local has no one ranking"),
        ("macs=50%,scope=isomorphic,blocks=auto", {}, "scope=isomorphic has no one ranking"),
        ("macs=50%,blocks=auto", {"method": "uniform"}, "scope=local has no one ranking"),
        ("macs=0.01%,blocks=auto", {}, "cannot be met"),
    ],
)
def test_refusals(target: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        prunus.prune(three(), image(), target, **options)  # type: ignore[arg-type]


def test_a_net_without_blocks_says_so() -> None:
    from zoo import chain

    with pytest.raises(TargetError, match="blocks=-1: no residual block can be dropped"):
        prunus.prune(chain(), image(), "blocks=-1")
    assert prunus.prune(chain(), image(), "macs=50%,blocks=auto").plan.dropped == ()


def test_inspect_shows_the_blocks_with_their_share() -> None:
    coupling = prunus.trace(three(), image())
    # 8 x 8 positions: the stem 27 * 8, the blocks 2 * 9 * 8 * inner, the classifier 40 once
    total = 64 * (27 * 8 + 144 * 24) + 40
    lines = str(coupling).splitlines()
    assert "3 residual blocks that can be dropped" in lines
    assert f"├─ 2  {100 * 64 * 1440 / total:.1f} % of the MACs" in lines


def test_a_method_in_a_training_drops_blocks_too() -> None:
    from prunus.methods import Slimming

    attached = Slimming().attach(three(), image(), "macs=50%,blocks=-2", 1)
    small = attached.finish()
    assert len(small.plan.dropped) == 2
    assert small.proof is not None and small.proof.worst < 1e-12


@pytest.mark.parametrize("name", ["resnet20", "user"])
def test_a_network_without_its_block_prunes_on_as_if_it_had_never_had_it(name: str) -> None:
    """What stands for the block is as wide as the stream that it is added to, and follows it."""
    make, example, _ = NETS[name]
    model = make()
    dense = prunus.trace(model, example)
    first = prunus.prune(model, example, "blocks=-1")
    coupling = prunus.trace(first.model, example)
    gone = {t.rpartition(".")[0] for d in first.plan.dropped for t in d.tensors}
    assert [g.name for g in coupling.groups] == [g.name for g in dense.groups if g.name not in gone]
    second = prunus.prune(first.model, example, widths={g.name: g.width // 2 for g in coupling.groups})
    assert second.proof is not None and second.proof.worst < 1e-10
    zeros = [module for module in second.model.modules() if isinstance(module, Zero)]
    assert [zero.width for zero in zeros] == [16 // 2 if name == "resnet20" else 8 // 2]
    whole = prunus.apply(model, first.plan.then(second.plan))
    assert torch.equal(whole.eval()(example), second.model.eval()(example))
    assert not any(isinstance(m, Zero) and m.width != zeros[0].width for m in whole.modules())


class Widening(nn.Module):
    """A block whose shortcut has a convolution of its own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b, self.p = conv(inputs, 6), conv(6, outputs), conv(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = (self.p(x) + self.b(self.a(x).relu())).relu()
        return y


def test_what_is_left_of_a_block_is_no_branch() -> None:
    model = lively(nn.Sequential(conv(3, 8), Widening(8, 12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(12)))
    first = prunus.prune(model, image(), "blocks=-1")
    assert "1.a.weight" in first.plan.dropped[0].tensors
    assert prunus.trace(first.model, image()).blocks == ()


class Turns(nn.Module):
    """Three branches, added in turn by one forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.f, self.h = conv(3, 8), nn.ModuleList(conv(8, 8) for _ in range(3)), head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        for branch in self.f:
            x = x + branch(x)
        return self.h(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_drops_of_one_name_are_as_many() -> None:
    model = lively(Turns())
    whole, net = None, model
    for _ in range(3):
        small = prunus.prune(net, image(), "blocks=-1")
        whole, net = small.plan if whole is None else whole.then(small.plan), small.model
    assert whole is not None
    assert len({d.name for d in whole.dropped}) == len(whole.dropped) == 3
    assert torch.equal(prunus.apply(model, whole).eval()(image()), net.eval()(image()))


def test_a_block_that_the_code_looks_into_stays_and_why_is_said() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(8, 12), nn.Linear(12, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            return x + self.outer(y if self.inner.bias is None else y.relu())

    model = lively(nn.Sequential(nn.Flatten(), nn.Linear(192, 8), Looks(), nn.Linear(8, 3)))
    coupling = prunus.trace(model, image())
    why = "the network does not run without it: 'Zero' object has no attribute 'bias'"
    assert coupling.blocks == () and coupling.undroppable == {"2": why}
    assert f"├─ 2: {why}" in str(coupling).splitlines()
    with pytest.raises(TargetError, match=f"no residual block can be dropped from this model; 2 stays: {why}"):
        prunus.prune(model, image(), "blocks=-1")
    with pytest.raises(TargetError, match=f"drop: 2 stays: {why}"):
        prunus.prune(model, image(), drop=["2"])
