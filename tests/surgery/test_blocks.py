"""Residual branches replaced by zero: what goes, what stays, and that it is exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from zoo import image, lively, residual

import prunus
from prunus.errors import UnknownName
from prunus.models.dropped import ZeroAttention


def network(name: str) -> nn.Module:
    from torchvision import models

    if name == "resnet50":  # with one block in the stages that are not looked at
        return lively(models.ResNet(models.resnet.Bottleneck, [1, 1, 3, 1], num_classes=10))
    return lively(getattr(models, name)(num_classes=10))


# parameters of the branch alone: convolutions without bias, two numbers a channel for each norm
BRANCHES = [
    ("resnet18", "layer1.1", 2 * 9 * 64 * 64 + 4 * 64),
    ("resnet18", "layer2.0", 9 * (64 * 128 + 128 * 128) + 4 * 128),
    ("resnet50", "layer1.0", 64 * 64 + 9 * 64 * 64 + 64 * 256 + 2 * (64 + 64 + 256)),
    ("resnet50", "layer3.2", 1024 * 256 + 9 * 256 * 256 + 256 * 1024 + 2 * (256 + 256 + 1024)),
]


@pytest.mark.parametrize(("name", "block", "params"), BRANCHES)
def test_what_goes_is_the_branch(name: str, block: str, params: int) -> None:
    model = network(name)
    small = prunus.prune(model, image(1, 3, 32, 32), drop=[block], check=name == "resnet18")
    assert small.before.params - small.after.params == params
    assert sum(p.numel() for p in small.model.parameters()) == small.after.params
    assert [d.name for d in small.plan.dropped] == [block]

    # the same by hand: a branch whose last norm gives zero
    last = "bn2" if name == "resnet18" else "bn3"
    norm = model.get_submodule(f"{block}.{last}")
    with torch.no_grad():
        norm.weight.zero_()
        norm.bias.zero_()
    x = image(2, 3, 32, 32)
    assert torch.allclose(model.eval()(x), small.model.eval()(x), rtol=1e-4, atol=1e-5)


def test_macs_of_a_dropped_block_of_resnet18() -> None:
    # layer3.1 at 32 px: 256 channels on 2 x 2 positions, two 3 x 3 convolutions
    small = prunus.prune(network("resnet18"), image(1, 3, 32, 32), drop=["layer3.1"], check=False)
    assert small.before.macs - small.after.macs == 2 * 9 * 256 * 256 * 4


def test_every_block_at_once_and_channels_too() -> None:
    model = residual()
    small = prunus.prune(model, image(), target="channels=60%", drop=["1", "2"], method="random")
    assert small.proof is not None and small.proof.worst < 1e-12
    width = dict((name, now) for name, _, now in small.rows())["0"]
    assert small.after.params == 28 * width + 5 * width + 5
    assert small.model(image(3, 3, 8, 8)).shape == (3, 5)


def test_a_budget_counts_what_the_dropped_blocks_saved() -> None:
    small = prunus.prune(residual(), image(), target="macs=40%", drop=["2"], method="random")
    assert 0.35 < small.after.macs / small.before.macs <= 0.4
    assert small.proof is not None and small.proof.worst < 1e-12


def test_an_unknown_block_is_named() -> None:
    with pytest.raises(UnknownName, match=r"unknown residual block '3'.*allowed: 1, 2"):
        prunus.prune(residual(), image(), drop=["3"])


class Encoder(nn.Module):
    """torch's own transformer layers, which take fused kernels where nothing needs gradients."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True, norm_first=norm_first)
        self.stem = nn.Linear(16, 32)
        self.body = nn.TransformerEncoder(layer, 3, enable_nested_tensor=not norm_first)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        h: Tensor = self.body(self.stem(x), src_key_padding_mask=padding)
        return self.head(h.mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("norm_first", [True, False])
def test_torchs_transformer_layers_lose_attention_and_mlps(norm_first: bool) -> None:
    """Without gradients too, where torch would take a kernel that reads weights which are gone, and with padding."""
    torch.manual_seed(0)
    model, x = Encoder(norm_first).eval(), torch.randn(3, 10, 16)
    padding = torch.zeros(3, 10, dtype=torch.bool)
    padding[1, 6:] = True
    small = prunus.prune(model, x, "macs=60%", drop=["body.layers.0#0", "body.layers.1#1", "body.layers.2#0"])
    net = small.model
    assert isinstance(net.body.layers[0].self_attn, ZeroAttention) and not net.training
    assert small.after.macs <= 0.6 * small.before.macs
    for inputs in ((x,), (x, padding)):
        with torch.no_grad():
            plain = net(*inputs)
        torch.testing.assert_close(plain, net(*inputs).detach())

    # the same by hand: attention and MLPs that give zero
    whole = prunus.prune(model, x, drop=["body.layers.0#0", "body.layers.1#1", "body.layers.2#0"]).model
    for i, layer in enumerate(model.body.layers):
        last = layer.linear2 if i == 1 else layer.self_attn.out_proj
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    torch.testing.assert_close(whole(x, padding), model(x, padding))
    assert model.body.layers[0].activation_relu_or_gelu  # the user's model is as it was

    again = prunus.prune(net, x, "macs=60%")
    assert again.after.macs <= 0.6 * small.after.macs
