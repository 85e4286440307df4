"""Attention prunes: whole heads or widths of heads, with the stream around them, and what cannot be said is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import lively

import prunus
from prunus.errors import PlanError, TargetError
from prunus.graph.coupling import Coupling
from prunus.plan import Plan, plan_for
from prunus.select import to_budget, to_widths
from prunus.surgery import Proof, apply, verify
from prunus.surgery.settle import settle
from prunus.target import Target

TOKENS = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(3))


class Fused(nn.Module):
    """qkv in one projection, the width of a head from the number of channels that come in, fused attention."""

    def __init__(self, dim: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class Explicit(nn.Module):
    """Three projections, head counts and widths as attributes, a softmax over scaled products."""

    def __init__(self, dim: int = 16, heads: int = 4, width: int = 6) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size, self.all_head_size = heads, width, heads * width
        self.query, self.key, self.value = (nn.Linear(dim, heads * width) for _ in range(3))
        self.dense = nn.Linear(heads * width, dim)

    def shaped(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.num_attention_heads, self.attention_head_size).permute(0, 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.shaped(self.query(x)), self.shaped(self.key(x)), self.shaped(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(self.attention_head_size)
        mixed = torch.matmul(nn.functional.softmax(scores, dim=-1), v).permute(0, 2, 1, 3).contiguous()
        return self.dense(mixed.view(*mixed.shape[:-2], self.all_head_size))


class Kept(nn.Module):
    """The scale is an attribute, which a cut leaves alone; the temperature has an entry for each head."""

    def __init__(self, dim: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        attn = ((q * self.scale) @ k.transpose(-2, -1) * self.temperature).softmax(-1)
        return self.proj((attn @ v).transpose(1, 2).flatten(2))


class Grouped(nn.Module):
    """Grouped-query attention: four heads of queries read two of keys and values."""

    def __init__(self, dim: int = 16, heads: int = 4, kv_heads: int = 2, width: int = 5, native: bool = False) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim, self.native = heads, kv_heads, width, native
        self.q, self.k, self.v = (nn.Linear(dim, n * width) for n in (heads, kv_heads, kv_heads))
        self.o = nn.Linear(heads * width, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.num_heads, self.head_dim).transpose(1, 2)
        k, v = (p(x).view(b, n, self.num_kv_heads, self.head_dim).transpose(1, 2) for p in (self.k, self.v))
        if not self.native:
            times = self.num_heads // self.num_kv_heads
            k, v = (t[:, :, None].expand(-1, -1, times, -1, -1).reshape(b, self.num_heads, n, -1) for t in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.native)
        return self.o(out.transpose(1, 2).reshape(b, n, self.num_heads * self.head_dim))


class Written(Fused):
    """Heads and widths are numbers in the code."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(*x.shape[:2], 16))


class Multi(nn.Module):
    """torch's own module, self or cross attention, with or without the weights it can return."""

    def __init__(self, weights: bool = False, **options: Any) -> None:
        super().__init__()
        self.attn, self.weights = nn.MultiheadAttention(16, 4, batch_first=True, **options), weights

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x, x, x, need_weights=self.weights)[0]


class Encoder(nn.Module):
    """A stream of width 16 with one attention and one MLP, and a classifier."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.embed, self.attn = nn.Linear(16, 16), attention
        self.norm1, self.norm2, self.head = nn.LayerNorm(16), nn.LayerNorm(16), nn.Linear(16, 5)
        self.mlp = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attn(self.norm1(x))
        return self.head((x + self.mlp(self.norm2(x))).mean(1))


def cut(model: nn.Module, example: Tensor, attention: str, share: float) -> tuple[nn.Module, Plan, Proof, Coupling]:
    """Prune to a share of the MACs by random scores; what `verify` says of it."""
    coupling = settle(model, example, (), attention)
    draw = torch.Generator().manual_seed(0)
    scores = [torch.rand(g.width, generator=draw).double().numpy() for g in coupling.groups]
    plan = plan_for(coupling, to_budget(coupling, scores, Target(macs=share)))
    small = apply(model, plan)
    assert prunus.cost(small, example).macs == coupling.macs(plan.widths)
    assert coupling.macs() == prunus.cost(model, example).macs
    return small, Plan.from_json(plan.to_json()), verify(model, small, plan, example), coupling


def widths(coupling: Coupling) -> dict[str, int]:
    return {g.name: g.width for g in coupling.groups}


def halved(model: nn.Module, example: Tensor, attention: str) -> tuple[nn.Module, Coupling]:
    """Keep half of every group, replayed from plain data."""
    coupling = settle(model, example, (), attention)
    scores = [torch.arange(g.width).double().numpy() for g in coupling.groups]
    half = [max(g.step, g.width // 2 // g.step * g.step) for g in coupling.groups]
    plan = Plan.from_json(plan_for(coupling, to_widths(coupling, scores, half)).to_json())
    small = apply(model, plan)
    proof = verify(model, small, plan, example)
    assert proof.worst < 1e-11 and proof.notes == ()
    return small, coupling


STYLES: dict[str, tuple[Callable[[], nn.Module], dict[str, int], dict[str, int], int]] = {
    # attributes after half of the heads went; after half of the width went; how many tensors the scale is folded into
    "fused": (Fused, {"num_heads": 2}, {"num_heads": 4}, 2),
    "explicit": (
        Explicit,
        {"num_attention_heads": 2, "attention_head_size": 6, "all_head_size": 12},
        {"num_attention_heads": 4, "attention_head_size": 3, "all_head_size": 12},
        2,
    ),
    "kept scale": (Kept, {"heads": 2, "scale": 0.5}, {"heads": 4, "scale": 0.5}, 0),
    "grouped": (
        Grouped,
        {"num_heads": 2, "num_kv_heads": 1, "head_dim": 5},
        {"num_heads": 4, "num_kv_heads": 2, "head_dim": 2}, 2
    ),
    "grouped, native": (
        lambda: Grouped(native=True),
        {"num_heads": 2, "num_kv_heads": 1, "head_dim": 5}, {"num_heads": 4, "num_kv_heads": 2, "head_dim": 2}, 2,
    ),
    "torch's": (
        Multi, {"num_heads": 2, "embed_dim": 8, "head_dim": 4}, {"num_heads": 4, "embed_dim": 8, "head_dim": 2}, 2
    ),
    "torch's, with weights": (
        lambda: Multi(weights=True),
        {"num_heads": 2, "embed_dim": 8, "head_dim": 4}, {"num_heads": 4, "embed_dim": 8, "head_dim": 2}, 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STYLES)
def test_heads_go_and_their_number_follows(name: str) -> None:
    make, after, _, _ = STYLES[name]
    small, coupling = halved(lively(Encoder(make())), TOKENS, "heads")
    found = vars(small.attn.attn if isinstance(small.attn, Multi) else small.attn)
    assert {key: found[key] for key in after} == after
    assert small.embed.out_features == 8 and small.mlp[0].out_features == 12
    assert coupling.folds == ()


@pytest.mark.parametrize("name", STYLES)
def test_widths_of_heads_go_and_the_scale_stays(name: str) -> None:
    make, _, after, folds = STYLES[name]
    small, coupling = halved(lively(Encoder(make())), TOKENS, "width")
    found = vars(small.attn.attn if isinstance(small.attn, Multi) else small.attn)
    assert {key: found[key] for key in after} == after
    assert len(coupling.folds) == folds
    assert small.embed.out_features == 8


def test_the_fold_is_the_root_of_the_share_that_stays() -> None:
    model = lively(Encoder(Multi()))
    small, _ = halved(model, TOKENS, "width")
    dense, cut_ = model.attn.attn, small.attn.attn
    assert torch.allclose(cut_.in_proj_weight[:2], dense.in_proj_weight[2:4, 8:] * 0.5**0.5)
    assert torch.equal(cut_.in_proj_weight[8:10], dense.in_proj_weight[18:20, 8:])


def test_an_attention_that_says_its_width_by_its_input_is_linked_to_the_stream() -> None:
    model = lively(Encoder(Fused()))
    coupling = settle(model, TOKENS, ())
    named = [tuple(coupling.groups[g].name for g in linked) for linked in coupling.links]
    assert named == [("embed", "attn.qkv")]
    assert {g.name: g.step for g in coupling.groups} == {"embed": 4, "attn.qkv": 1, "mlp.0": 1}
    scores = [torch.arange(g.width).double().numpy() for g in coupling.groups]
    kept = to_widths(coupling, scores, [8, 4, 24])
    assert list(map(len, kept)) == [8, 2, 24]  # the heads follow the stream
    with pytest.raises(TargetError, match="linked groups keep the same share"):
        to_widths(coupling, scores, [8, 1, 24])
    with pytest.raises(PlanError, match=r"embed 16 of 16 and attn\.qkv 2 of 4"):
        apply(model, plan_for(coupling, [range(16), [0, 1], range(24)]))


def test_every_linked_plan_within_a_budget_is_exact_and_gives_nothing_back() -> None:
    model = lively(Encoder(Fused()))
    for share in (0.9, 0.6, 0.35):
        _, plan, proof, coupling = cut(model, TOKENS, "heads", share)
        assert proof.holds and coupling.macs(plan.widths) <= share * coupling.macs()
        stream, heads, mlp = plan.widths
        assert stream == 4 * heads
        for more in ([stream, heads, mlp + 1], [stream + 4, heads + 1, mlp]):
            grown = more[0] <= 16 and more[2] <= 24
            assert not grown or coupling.macs(more) > share * coupling.macs()


def test_numbers_in_the_code_pin_the_attention_and_leave_the_rest() -> None:
    model = lively(Encoder(Written()))
    coupling = settle(model, TOKENS, ())
    assert set(widths(coupling)) == {"embed", "mlp.0"}
    why = next(p.reason for p in coupling.pinned if p.name == "attn.qkv outputs")
    assert "written down in the code or in an attribute" in why and "attn, torch.Tensor.reshape" in why
    _, _, proof, _ = cut(model, TOKENS, "heads", 0.8)
    assert proof.holds


def test_a_wrong_wish_is_refused() -> None:
    with pytest.raises(prunus.errors.UnknownName, match="attention"):
        settle(Encoder(Fused()), TOKENS, (), "depth")


@pytest.mark.parametrize("norm_first", [False, True])
def test_torch_encoder_layers(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=norm_first)
    model = lively(
        nn.Sequential(nn.Linear(16, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 5))
    )
    small, _, proof, coupling = cut(model, TOKENS, "heads", 0.5)
    assert proof.worst < 1e-11 and coupling.unknown_ops == ()
    assert small[1].layers[0].self_attn.num_heads < 4
    model.eval(), small.eval()
    with torch.no_grad():  # the fused path that torch takes outside of a trace
        assert small(TOKENS).shape == (2, 6, 5)


def torchvision_vit() -> tuple[nn.Module, Tensor]:
    models = pytest.importorskip("torchvision.models.vision_transformer")
    return models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10), torch.randn(1, 3, 32, 32)


def torchvision_swin(version: int) -> tuple[nn.Module, Tensor]:
    swin = pytest.importorskip("torchvision.models.swin_transformer")
    parts = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2} if version == 2 else {}
    model = swin.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=10, **parts)
    return model, torch.randn(1, 3, 32, 32)


def timm_model(name: str, size: int = 32, **options: Any) -> tuple[nn.Module, Tensor]:
    timm = pytest.importorskip("timm")
    return timm.create_model(name, num_classes=10, **options), torch.randn(1, 3, size, size)


PLAIN: dict[str, Any] = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 4, "patch_size": 8}
WINDOWS: dict[str, Any] = {
    "img_size": 32, "window_size": 4, "depths": (2, 2), "embed_dim": 16, "num_heads": (2, 4)
}  # fmt: skip
LIBRARIES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "torchvision vit": torchvision_vit,
    "torchvision swin": lambda: torchvision_swin(1),
    "torchvision swin v2": lambda: torchvision_swin(2),
    "timm vit": lambda: timm_model("vit_tiny_patch16_224", **PLAIN),
    "timm deit": lambda: timm_model("deit_tiny_distilled_patch16_224", **PLAIN),
    "timm swin": lambda: timm_model("swin_tiny_patch4_window7_224", **WINDOWS),
    "timm swin v2": lambda: timm_model("swinv2_tiny_window8_256", **WINDOWS),
    "timm beit": lambda: timm_model("beit_base_patch16_224", **PLAIN),
    "timm xcit": lambda: timm_model("xcit_nano_12_p8_224", depth=2, embed_dim=32, num_heads=4),
}


@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize("attention", ["heads", "width"])
@pytest.mark.parametrize("name", LIBRARIES)
def test_transformers_of_libraries(name: str, attention: str) -> None:
    torch.manual_seed(0)
    model, example = LIBRARIES[name]()
    small, plan, proof, coupling = cut(lively(model), example, attention, 0.4)
    assert proof.worst < 1e-10 and coupling.unknown_ops == ()
    free = sum(
        w.times * math.prod(f(coupling.widths) for f in w.factors)
        for w in coupling.work
        if any(f.terms for f in w.factors)
    )
    assert free >= 0.99 * coupling.macs() * coupling.samples  # every product has a side that can shrink
    assert coupling.macs(plan.widths) <= 0.4 * coupling.macs()
    heads = {n: m.num_heads for n, m in small.named_modules() if isinstance(vars(m).get("num_heads"), int)}
    before = {n: m.num_heads for n, m in model.named_modules() if isinstance(vars(m).get("num_heads"), int)}
    assert (heads != before) == (attention == "heads")


def test_a_position_table_follows_the_heads() -> None:
    torch.manual_seed(0)
    model, example = torchvision_swin(1)
    small, _, _, _ = cut(lively(model), example, "heads", 0.4)
    attn = small.features[3][0].attn
    assert attn.relative_position_bias_table.shape == (49, attn.num_heads) and attn.num_heads < 4


def test_one_head_leaves_the_other_stages_alone() -> None:
    """A module class whose attention has one head here and four there: heads go where there are several."""

    class Stages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.many, self.between = Fused(16, 1), Fused(16, 4), nn.Linear(16, 16)
            self.embed, self.head = nn.Linear(16, 16), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            x = self.between((x + self.one(x)).relu())
            return self.head((x + self.many(x)).mean(1))

    small, coupling = halved(lively(Stages()), TOKENS, "heads")
    links = [tuple(coupling.groups[g].name for g in linked) for linked in coupling.links]
    assert links == [("embed", "one.qkv"), ("between", "many.qkv")]
    assert (small.many.num_heads, small.one.num_heads, small.between.out_features) == (2, 1, 8)
    assert small.one.qkv.out_features == 3 * small.embed.out_features < 48  # the one head loses width with its stream


def test_a_local_budget_keeps_links() -> None:
    model = lively(Encoder(Fused()))
    coupling = settle(model, TOKENS, ())
    scores = [torch.arange(g.width).double().numpy() for g in coupling.groups]
    kept = to_budget(coupling, scores, Target(params=0.5, scope="local"))
    assert len(kept[0]) == 4 * len(kept[1]) < 16


@pytest.mark.parametrize(
    ("key", "value"),
    [("links", [[0, 9]]), ("links", [[1]]), ("folded", [{"tensor": "no", "axis": 0, "positions": [], "width": {}}])],
)
def test_a_plan_file_with_a_bad_link_or_factor_is_refused(key: str, value: Any) -> None:
    model = lively(Encoder(Fused()))
    coupling = settle(model, TOKENS, (), "width")
    data = plan_for(coupling, [range(g.width) for g in coupling.groups]).to_json()
    assert Plan.from_json(data).to_json() == data and data["folded"]
    with pytest.raises(PlanError, match="malformed"):
        Plan.from_json({**data, key: value})


class Called(nn.Module):
    """Heads and their width in attributes of any name."""

    def __init__(self, heads: str, width: str) -> None:
        super().__init__()
        self.names = heads, width
        setattr(self, heads, 4)
        setattr(self, width, 4)
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        h, d = (getattr(self, name) for name in self.names)
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, h, d).permute(2, 0, 3, 1, 4)
        return x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "names", [("num_heads", "head_dim"), ("h", "d_k"), ("H", "D"), ("n_h", "d_h"), ("nhead", "dh"), ("h", "d_head")]
)
def test_the_usual_names_of_heads_and_widths_are_known(names: tuple[str, str]) -> None:
    model = lively(nn.Sequential(nn.Linear(16, 16), Called(*names), nn.Linear(16, 3)))
    found = prunus.prune(model, TOKENS, widths={"1.qkv": 3})
    assert found.proof is not None and found.proof.holds
    assert [getattr(found.model[1], name) for name in names] == [3, 4]  # type: ignore[index]
