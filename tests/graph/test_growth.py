"""Work grows with the number of ops, and hardly with the number of channels. Counted in calls, not in seconds."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import image

import prunus
from prunus.cutting import cut, within
from prunus.graph.own import op
from prunus.graph.record import Tracer
from prunus.graph.trace import observe
from prunus.graph.watch import read_inside
from prunus.methods import Magnitude
from prunus.methods.score import scores_of
from prunus.models.resnet import ResNet
from prunus.outline import outlined
from prunus.target import Target


def calls(work: Callable[[], Any]) -> int:
    """Calls of functions, Python's own and those of its libraries."""
    profile = cProfile.Profile()
    profile.enable()
    work()
    profile.disable()
    return pstats.Stats(profile).total_calls  # type: ignore[attr-defined,no-any-return]


def pruned(model: nn.Module, example: Tensor) -> None:
    """Trace, scores, choice and cut, without the proof."""
    goal = Target(macs=0.5)
    coupling = prunus.trace(model, example)
    kept, _ = within(coupling, scores_of(Magnitude(), model, coupling, 0), goal)
    cut(model, example, coupling, kept, check=False, goal=goal)


def plain(width: int) -> nn.Module:
    """Three convolutions of a width."""
    layers: list[nn.Module] = []
    for i in range(3):
        layers += [nn.Conv2d(width if i else 3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


def test_calls_grow_linearly_with_depth() -> None:
    taken = {}
    for depth in (20, 56, 92):
        net = ResNet(depth).eval()
        pruned(net, image())  # what is done once a process
        taken[depth] = calls(lambda net=net: pruned(net, image()))  # type: ignore[misc]
    first, second = taken[56] - taken[20], taken[92] - taken[56]
    assert second < 1.05 * first, taken


def test_calls_do_not_grow_with_width() -> None:
    """32 times as many channels; sizes of steps and what a budget restores may differ a little."""
    taken = []
    for width in (8, 256):
        net = plain(width).eval()
        pruned(net, image())
        taken.append(calls(lambda net=net: pruned(net, image())))  # type: ignore[misc]
    assert taken[1] < 1.2 * taken[0], taken


def test_forwards_that_a_cut_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the tracer: one to trace, one of the trial cut, one without the blocks, one replay; without a block and a
    number that may be a width, two; where code asks for its mode, two to trace. Values are computed in none."""
    made = []
    start = Tracer.__post_init__

    def counted(self: Tracer) -> None:
        made.append(self.outline)
        start(self)

    monkeypatch.setattr(Tracer, "__post_init__", counted)
    pruned(ResNet(20).eval(), image())
    assert made == [True] * 4
    made.clear()
    pruned(plain(8).eval(), image())
    assert made == [True] * 2
    made.clear()
    pruned(Asking().eval(), image())
    assert made == [True] * 3


class Asking(nn.Module):
    """Another path in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3), nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y + self.c(x) if self.training else y).mean((2, 3))


def test_what_train_mode_alone_couples_is_seen() -> None:
    (group,) = prunus.trace(Asking().eval(), image()).groups
    assert {member.tensor for member in group.members} >= {"a.weight", "c.weight"}


class OwnNorm(nn.BatchNorm2d):
    """With a forward of its own that asks."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.training else x * 1)


class Around(nn.Module):
    """Asks for the mode of a norm inside, or for nothing."""

    def __init__(self, asks: bool) -> None:
        super().__init__()
        self.n, self.c, self.asks = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), asks

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.n(x if self.asks and self.n.training else x * 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("make", "asks"),
    [
        (lambda: nn.BatchNorm2d(3), False),
        (lambda: OwnNorm(3), True),
        (lambda: Around(asks=False), False),
        (lambda: Around(asks=True), True),
    ],
)
def test_who_asks_for_a_mode(make: Callable[[], nn.Module], asks: bool) -> None:
    """Torch's own norms do the same to channels in both modes; of other code that asks, for whose mode it may be,
    nothing is known. Afterwards a mode is a plain attribute again."""
    module = make()
    with read_inside() as found:
        module.eval()
        with read_inside():
            pass
        module(image())
    assert found == ({(__name__, "training")} if asks else set())
    assert vars(module)["training"] is False and not hasattr(nn.Module, "training")
    with pytest.raises(AttributeError), read_inside():
        nn.Module.__new__(nn.Module).training  # noqa: B018


class Reading(nn.Module):
    """Reads a value on its way, so that there is nothing to run but the model."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y if float(x.abs().max()) > 0 else -y).mean((2, 3))


def test_what_reads_values_is_run_itself() -> None:
    model = Reading().eval()
    coupling = prunus.trace(model, image())
    assert coupling.widths == (8,) and not coupling.unknown_ops
    small = prunus.prune(model, image(), "channels=50%")
    assert small.model.a.out_channels == 4 and small.proof is not None and small.proof.holds


@pytest.mark.parametrize("kind", ["attention", "norms", "pools"])
def test_an_outline_has_the_shapes_of_the_model(kind: str) -> None:
    """What is spared on the way of the meta device is what the model makes."""
    from prunus.outline import Shapes, outlined

    torch.manual_seed(0)
    model, x = {
        "attention": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.randn(2, 5, 8)),
        "norms": (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Hardswish(), nn.LayerNorm([8, 6, 6])),
            image(),
        ),
        "pools": (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(True), nn.AdaptiveAvgPool2d((3, 2)), nn.Softmax(1)),
            image(),
        ),
    }[kind]
    outline = outlined(model.eval(), x)
    assert outline is not None
    with torch.no_grad(), Shapes():
        found = outline.model(outline.example)
    want = model(x)
    assert found.is_meta and found.shape == want.shape and found.dtype == want.dtype


def test_an_outline_refuses_what_the_model_refuses() -> None:
    from prunus.outline import Shapes, outlined

    for wrong in (nn.BatchNorm2d(4), nn.GroupNorm(1, 4), nn.LayerNorm(5), nn.Linear(5, 2)):
        outline = outlined(wrong.eval(), image())
        assert outline is not None
        with pytest.raises((RuntimeError, ValueError)), torch.no_grad(), Shapes():
            outline.model(outline.example)


class Read(nn.Module):
    """Two convolutions, and between them what a forward does with widths."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.n = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3), nn.BatchNorm2d(8)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self, self.a(x))).mean((2, 3))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("between", "plain"),
    [
        (lambda s, y: s.n(y).relu(), True),
        (lambda s, y: torch.cat([y, y], 1)[:, :8], False),
        (lambda s, y: y * y, True),
        (lambda s, y: y * 8, False),  # a number that may be a width
        (lambda s, y: y if y.shape[1] == 8 else -y, False),
        (lambda s, y: y if len(y[0]) == 8 else -y, False),
        (lambda s, y: y if s.a.out_channels == 8 else -y, False),
        (lambda s, y: y if s.n.num_features == 8 else -y, False),
        (lambda s, y: y if s.a.groups == 1 else -y, False),
        (lambda s, y: y if s.b.weight.size(1) == 8 else -y, False),
        (lambda s, y: y if y.dim() == 4 else -y, True),
        (lambda s, y: y + y.new_zeros(8, 1, 1), False),
        (lambda s, y: F.conv2d(y, s.b.weight.new_ones(8, 1, 1, 1), groups=8), False),
        (lambda s, y: relu(y), False),  # of the user's own, whatever it is called
    ],
)
def test_what_may_say_a_width_is_tried(between: Callable[[Any, Tensor], Tensor], plain: bool) -> None:
    """A trial cut is spared where it could find nothing."""
    model = Read(between).eval()
    assert observe(model, image(), outline=outlined(model, image())).plain is plain
    if plain:
        small = prunus.prune(model, image(), "channels=50%")
        assert small.coupling.widths == (8,) and small.proof is not None and small.proof.holds


@op
def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)
