"""Forms that users copy from one another: what of them prunes, and what keeps them whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import conv, head, image, lively, net, pool, tokens

import prunus


def widths(coupling: prunus.Coupling) -> dict[str, int]:
    return {g.name: g.width for g in coupling.groups}


def reason(coupling: prunus.Coupling, name: str) -> str:
    return next(p.reason for p in coupling.pinned if p.name == name)


def cut(model: nn.Module, example: Any, target: str = "channels=60%") -> prunus.Pruned:
    small = prunus.prune(model, example, target, method="random")
    assert small.proof is not None and small.proof.worst < 1e-10
    assert small.coupling.macs(small.plan.widths) == small.after.macs  # what a budget is held to is what is counted
    return small


# the largest channel --------------------------------------------------------------------------------------------------
def spatial(s: nn.Module, y: Tensor) -> Tensor:
    """As CBAM: the largest channel by `max(1)`, whose places nobody reads."""
    return y * s.sp(torch.cat([y.mean(1, keepdim=True), torch.max(y, 1, keepdim=True)[0]], 1)).sigmoid()


def test_the_largest_of_channels_prunes_where_its_place_is_not_read() -> None:
    model = net(lambda s, x: s.h(pool(spatial(s, s.a(x).relu()))), a=conv(3, 16), sp=conv(2, 1, 7), h=head(16))
    assert widths(prunus.trace(model, image())) == {"a": 16}
    cut(model, image())


READ = {
    "looked up": lambda s, y: s.h(pool(y)) + s.e(y.mean((2, 3)).max(1).indices),
    "returned": lambda s, y: (s.h(pool(y)), y.max(1).indices),
    "a number": lambda s, y: s.h(pool(y)) * (1 + pool(y).max(1)[1].sum().item()),
    "compared": lambda s, y: s.h(pool(y)) * (y.min(1)[1] > 3).sum(),
}


@pytest.mark.parametrize("name", READ)
def test_and_stays_where_it_is(name: str) -> None:
    model = net(
        lambda s, x: READ[name](s, s.b(s.a(x).relu())), a=conv(3, 8), b=conv(8, 12), h=head(12), e=nn.Embedding(12, 5)
    )
    coupling = prunus.trace(model, image())
    assert widths(coupling) == {"a": 8}
    assert reason(coupling, "b outputs") == "the places of its largest or smallest entries are read"


def test_unpooling_puts_each_channel_where_pooling_found_it() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y, places = F.max_pool2d(s.a(x).relu(), 2, return_indices=True)
        return s.o(F.max_unpool2d(s.b(y).relu(), places, 2))

    model = net(forward, a=conv(3, 12), b=conv(12, 12), o=conv(12, 2))
    coupling = prunus.trace(model, image())
    assert widths(coupling) == {"a": 12}
    assert {m.tensor for m in coupling.groups[0].members if m.role == "out"} == {"a.weight", "b.weight"}
    cut(model, image())


# convolutions ---------------------------------------------------------------------------------------------------------
def over_time(**options: int) -> nn.Module:
    """Tokens mixed by a convolution of one, as in gMLP: channels run along its other axis."""
    return net(
        lambda s, x: s.h(s.c(s.e(x).relu()).relu().transpose(1, 2).mean(2)[:, :, None].mean(2)),
        e=head(6, 16), c=nn.Conv1d(8, 4, 1, **options), h=head(16),
    )  # fmt: skip


def test_a_convolution_of_one_lets_channels_pass_along_its_other_axis() -> None:
    model, x = over_time(), image(2, 8, 6)
    assert widths(prunus.trace(model, x)) == {"e": 16, "c": 4}
    small = cut(model, x)
    c, w = small.model.c.weight.shape[0], small.model.e.weight.shape[0]
    assert w < 16
    assert small.after.macs == 8 * 6 * w + 8 * c * w + 5 * w  # by hand


def test_a_wider_one_keeps_them() -> None:
    model = net(
        lambda s, x: s.h(s.c(s.e(x).relu()).relu().mean(1)), e=head(6, 16), c=nn.Conv1d(8, 4, 3, padding=1), h=head(16)
    )
    coupling = prunus.trace(model, image(2, 8, 6))
    assert widths(coupling) == {"c": 4}
    assert "mixes its neighbours" in reason(coupling, "e outputs")


class Standardised(nn.Conv2d):
    """Weight standardisation as it is copied: the deviation by a view, expanded to the weight."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = w - w.mean(dim=(1, 2, 3), keepdim=True)
        deviation = w.view(w.size(0), -1).std(dim=1).view(-1, 1, 1, 1) + 1e-5
        return F.conv2d(x, w / deviation.expand_as(w), self.bias, self.stride, self.padding)


def test_weights_standardised_by_a_view_prune_on_both_sides() -> None:
    model = net(
        lambda s, x: s.h(pool(s.b(s.a(x).relu()).relu())),
        a=Standardised(3, 12, 3, padding=1), b=Standardised(12, 10, 3, padding=1), h=head(10),
    )  # fmt: skip
    assert widths(prunus.trace(model, image())) == {"a": 12, "b": 10}
    cut(model, image())


def test_the_axis_that_a_view_leaves_open_is_the_one_that_shrinks() -> None:
    def pairs(s: nn.Module, x: Tensor) -> Tensor:
        y = s.a(x).relu()
        y = y.view(y.shape[0], -1, 2, 8, 8)
        return s.h(pool(y[:, :, 0] * y[:, :, 1].sigmoid()))

    model = net(pairs, a=conv(3, 16), h=head(8))
    assert widths(prunus.trace(model, image())) == {"a": 8}
    small = cut(model, image())
    kept = small.plan.kept[0]
    member = next(m for m in small.plan.groups[0].members if m.tensor == "a.weight")
    assert member.positions[kept[0]].tolist() == [2 * kept[0], 2 * kept[0] + 1]


# attention ------------------------------------------------------------------------------------------------------------
class Transposed(nn.Module):
    """As Restormer: attention over channels, q, k and v behind a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.temperature = 4, nn.Parameter(torch.ones(4, 1, 1))
        self.qkv, self.dw, self.o = conv(16, 48, 1), conv(48, 48, groups=48), conv(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = (t.reshape(b, self.num_heads, c // self.num_heads, h * w) for t in self.dw(self.qkv(x)).chunk(3, 1))
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature
        return x + self.o((scores.softmax(-1) @ v).reshape(b, c, h, w))


def test_heads_are_seen_behind_a_depthwise_convolution() -> None:
    model = net(lambda s, x: s.h(pool(s.t(s.a(x)))), a=conv(3, 16), t=Transposed(), h=head(16))
    coupling = prunus.trace(model, image())
    assert widths(coupling) == {"a": 16, "t.qkv": 4}
    assert len(coupling.links) == 1  # c // heads: the stream goes with the heads
    small = cut(model, image()).model
    heads = small.t.num_heads
    assert small.t.temperature.shape[0] == heads < 4
    assert small.a.weight.shape[0] == 4 * heads and small.t.qkv.weight.shape[0] == 3 * 4 * heads


def test_an_encoder_with_a_decoder_of_torch() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.s, self.u, self.h = head(6, 16), head(5, 16), head(16, 3)
            self.t = nn.Transformer(16, 4, 1, 1, 24, batch_first=True)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.h(self.t(self.s(a), self.u(b)))

    model, example = lively(Pair()), (image(2, 7, 6), image(2, 5, 5))
    coupling = prunus.trace(model, example)
    linear = {f"t.{side}.layers.0.linear1": 24 for side in ("encoder", "decoder")}
    attention = {f"t.{of}": 4 for of in ("encoder.layers.0.self_attn", "decoder.layers.0.self_attn")}
    assert widths(coupling) == {"s": 16, **linear, **attention, "t.decoder.layers.0.multihead_attn": 4}
    small = cut(model, example).model
    layer = small.t.decoder.layers[0]
    assert small.t.d_model == small.s.weight.shape[0] == layer.multihead_attn.embed_dim < 16
    assert layer.multihead_attn.in_proj_weight.shape == (3 * small.t.d_model, small.t.d_model)


# two operands ---------------------------------------------------------------------------------------------------------
def test_compared_features_prune_together_and_are_counted_as_they_are() -> None:
    def forward(s: nn.Module, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        u, v = (pool(s.f(x).relu()) for x in (a, b))
        p, q = s.p(u).relu(), s.p(v).relu()
        return F.cosine_similarity(p, q), F.pairwise_distance(u, v, eps=0.1)

    model, example = net(forward, f=conv(3, 16), p=head(16, 12)), (image(2, 3, 8, 8), 1 - image(2, 3, 8, 8))
    assert widths(prunus.trace(model, example)) == {"f": 16, "p": 12}
    cut(model, example)  # with zeros in place of the removed the distance would count 0.1 for each


def test_a_number_by_which_one_layer_divides_pins_it_alone() -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.k = head(16, 16)

        def forward(self, t: Tensor) -> Tensor:
            y = self.k(t)
            return y - y.sum(-1, keepdim=True) / y.shape[-1]

    model = net(lambda s, x: s.h(s.m(tokens(s.a(x))).mean(1)), a=conv(3, 16), m=Centred(), h=head(16))
    coupling = prunus.trace(model, image())
    assert widths(coupling) == {"a": 16}
    assert "used as a number" in reason(coupling, "m.k outputs")
    cut(model, image())
