"""Which sums are residual branches that can be dropped: in torchvision's models, and as people write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Block, conv, head, image, lively, net, pool

import prunus
from prunus.graph.coupling import Coupling
from prunus.graph.trace import couple
from prunus.outline import outlined
from prunus.surgery.droppable import droppable


def found(model: nn.Module, example: Tensor) -> Coupling:
    """With the branches that can go, of which values say the same as an outline does."""
    coupling = couple(model, example)
    by_values = droppable(model, example, coupling)
    outline = outlined(model, example)
    assert outline is not None
    assert [r.name for r in droppable(model, example, coupling, outline).blocks] == [r.name for r in by_values.blocks]
    return by_values


def vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(16, 8, 3, 2, 16, 24, num_classes=5)


def swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer([2, 2], 8, [2, 2], [2, 2], [2, 2], stochastic_depth_prob=0.1, num_classes=5)


def swin_v2() -> nn.Module:
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

    return SwinTransformer(
        [2, 2], 8, [2, 2], [2, 2], [2, 2], block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2
    )


def convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 12, 2), CNBlockConfig(12, None, 3)], stochastic_depth_prob=0.1, num_classes=5)


def named(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from torchvision import models

        model: nn.Module = getattr(models, name)(num_classes=5)
        return model

    return make


# one branch a block, but two in a transformer layer; counted in the papers' tables of stages
LIBRARY: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (named("resnet18"), 8),
    "mobilenet_v2": (named("mobilenet_v2"), 10),
    "efficientnet_b0": (named("efficientnet_b0"), 9),
    "convnext": (convnext, 5),
    "vit": (vit, 6),
    "swin": (swin, 8),
    "swin_v2": (swin_v2, 8),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_torchvision(name: str) -> None:
    make, count = LIBRARY[name]
    model = make()
    side = {"vit": 16}.get(name, 32)
    coupling = found(model, image(1, 3, side, side))
    assert len(coupling.blocks) == count
    assert {r.projected for r in coupling.blocks} == ({True, False} if name == "resnet18" else {False})
    parameters = sum(p.numel() for p in model.parameters())
    # what stays is the stem, the head, projections between stages, and scales beside the branches
    assert coupling.params(without=coupling.without([r.name for r in coupling.blocks])[1]) < 0.75 * parameters


@pytest.mark.parametrize("name", ["vit", "swin", "convnext"])
def test_torchvision_proven(name: str) -> None:
    model = lively(LIBRARY[name][0]())
    example = image(1, 3, 16, 16)
    names = [r.name for r in found(model, example).blocks]
    small = prunus.prune(model, example, drop=names[:2])
    assert small.proof is not None and small.proof.worst < 1e-9
    assert small.after.params < small.before.params


class Wrapped(nn.Module):
    """ConvMixer's Residual: whatever it is given, beside the input."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x) + x
        return out


class Add(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Project(nn.Module):
    """As Hugging Face's ViTOutput: the last layer of a branch, and the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = conv(12, 8)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        out: Tensor = self.dense(x) + shortcut
        return out


class Pair(nn.Module):
    """Returns a tuple, takes keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(8, 8)

    def forward(self, *, states: Tensor, scale: float = 1.0) -> tuple[Tensor, None]:
        return self.a(states) * scale, None


class PreActivation(nn.Module):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.n1, self.n2 = nn.BatchNorm2d(width_in), nn.BatchNorm2d(width_out)
        self.a, self.b = conv(width_in, width_out, stride=2), conv(width_out, width_out)
        self.short = nn.Conv2d(width_in, width_out, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.n1(x))
        out: Tensor = self.b(F.relu(self.n2(self.a(x))))
        out += self.short(x)
        return out


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    blocks: list[str]
    modules: list[tuple[str, ...]]


def between(run: Callable[..., Tensor], width: int = 8, **parts: nn.Module) -> Callable[[], nn.Module]:
    """conv c (8), what `run` does with it, pooled, linear h."""
    return lambda: net(lambda s, x: s.h(pool(run(s, s.c(x)))), c=conv(3, 8), h=head(width), **parts)


CASES: dict[str, Case] = {
    "in the forward of the model": Case(
        between(lambda s, y: y + s.b(s.a(y).relu()), a=conv(8, 12), b=conv(12, 8)), ["forward"], [("a", "b")]
    ),
    "a wrapper": Case(
        between(lambda s, y: s.w(y), w=Wrapped(nn.Sequential(conv(8, 8), nn.ReLU()))), ["w"], [("w.inner",)]
    ),
    "a module that adds": Case(
        between(lambda s, y: s.add(s.a(y), y).relu(), a=conv(8, 8), add=Add()), ["forward"], [("a",)]
    ),
    "a module that ends the branch and adds": Case(
        between(lambda s, y: s.p(s.a(y).relu(), y), a=conv(8, 12), p=Project()), ["forward"], [("a", "p.dense")]
    ),
    "a tuple by keywords": Case(
        between(lambda s, y: y + s.b(s.p(states=y)[0]), p=Pair(), b=conv(8, 8)), ["forward"], [("p", "b")]
    ),
    "pre-activation with a projection": Case(
        lambda: lively(
            nn.Sequential(conv(3, 8), PreActivation(8, 12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(12))
        ),
        ["1"],
        [("1.a", "1.n2", "1.b")],
    ),
    "two branches from one norm": Case(
        between(lambda s, y: (lambda z: y + s.a(z) + s.b(z))(s.n(y)), n=nn.BatchNorm2d(8), a=conv(8, 8), b=conv(8, 8)),
        ["forward#0", "forward#1"],
        [("a",), ("b",)],
    ),
    "an activation that is called twice": Case(
        between(lambda s, y: s.r(y + s.b(s.r(s.a(y)))), a=conv(8, 6), b=conv(6, 8), r=nn.ReLU()),
        ["forward"],
        [("a", "b")],
    ),
    "a pool and its reverse inside": Case(
        between(
            lambda s, y: y + F.interpolate(s.b(F.max_pool2d(s.a(y), 2)), scale_factor=2), a=conv(8, 6), b=conv(6, 8)
        ),
        ["forward"],
        [("a", "b")],
    ),
    "blocks in blocks": Case(
        between(lambda s, y: s.w(y), w=Wrapped(nn.Sequential(Block(8, 6), conv(8, 8)))),
        ["w.inner.0", "w"],
        [("w.inner.0.a", "w.inner.0.n", "w.inner.0.b", "w.inner.0.m"), ("w.inner",)],
    ),
    "what is not zero at zero": Case(between(lambda s, y: y + s.a(y).sigmoid(), a=conv(8, 8)), [], []),
    "weights that are used elsewhere": Case(between(lambda s, y: s.a(y + s.a(y)), a=conv(8, 8)), [], []),
    "a branch that is read elsewhere": Case(
        between(lambda s, y: (lambda b: (y + b) * b.sigmoid())(s.a(y)), a=conv(8, 8)), [], []
    ),
    "two branches of the same weight": Case(between(lambda s, y: s.a(y) + s.b(y), a=conv(8, 8), b=conv(8, 8)), [], []),
    "a sum with a parameter": Case(
        between(lambda s, y: s.a(y) + s.p, a=conv(8, 8), p=nn.Parameter(torch.ones(8, 1, 1))), [], []
    ),
    "attention and MLP side by side": Case(
        between(
            lambda s, y: (lambda z: y + s.b(s.a(z)) + s.d(z))(s.n(y)),
            n=nn.BatchNorm2d(8),
            a=conv(8, 6),
            b=conv(6, 8),
            d=conv(8, 8),
        ),
        ["forward#0", "forward#1"],
        [("a", "b"), ("d",)],
    ),
    "a branch that widens the shortcut": Case(
        between(lambda s, y: y.mean((2, 3), keepdim=True) + s.a(y), a=conv(8, 8)), [], []
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_blocks_as_people_write_them(name: str) -> None:
    case = CASES[name]
    model = case.make()
    coupling = found(model, image())
    assert [r.name for r in coupling.blocks] == case.blocks
    assert [r.modules for r in coupling.blocks] == case.modules
    for block in coupling.blocks:
        small = prunus.prune(model, image(), "channels=80%", "random", drop=[block.name])
        assert small.proof is not None and small.proof.worst < 1e-12
        assert not any(p.startswith(m + ".") for m in block.modules for p, _ in small.model.named_parameters())


def test_a_projection_stays() -> None:
    model = CASES["pre-activation with a projection"].make()
    small = prunus.prune(model, image(), drop=["1"])
    assert sorted({n.split(".")[1] for n, _ in small.model.named_parameters() if n.startswith("1.")}) == ["n1", "short"]


@pytest.mark.parametrize("view", [False, True])
def test_zeros_that_are_written_to_are_zeros_no_more(view: bool) -> None:
    """By a statement, or through a view."""

    def written(s: nn.Module, y: Tensor) -> Tensor:
        branch = s.a(y) * 1
        if view:
            branch.view(-1).add_(1)
        else:
            branch[0] = 1
        return y + branch

    assert not found(between(written, a=conv(8, 8))(), image()).blocks
