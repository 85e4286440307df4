"""Networks of torchvision at half the macs and at 40 % of the parameters: on budget and proven, with lively statistics.

Families whose members are all large are built smaller; their full sizes take minutes. The auxiliary head of
Inception v3 accepts nothing below 299 pixels, so it runs here without.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn
from zoo import image, lively

import prunus


def named(name: str, **options: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from torchvision import models

        return getattr(models, name)(num_classes=10, **options)

    return make


def resnext() -> nn.Module:
    """ResNeXt-50 32x4d with one block a stage."""
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [1, 1, 1, 1], num_classes=10, groups=32, width_per_group=4)


def densenet() -> nn.Module:
    """DenseNet-121 with three layers a block."""
    from torchvision.models import DenseNet

    return DenseNet(32, (3, 3, 3, 3), 64, num_classes=10)


def vgg() -> nn.Module:
    """The features of VGG-11 with batch norm, a quarter as wide, and one linear layer."""
    from torchvision.models.vgg import make_layers

    widths = [16, "M", 32, "M", 64, 64, "M", 128, 128, "M", 128, 128, "M"]
    return nn.Sequential(make_layers(widths, batch_norm=True), nn.Flatten(), nn.Linear(128, 10))


def convnext() -> nn.Module:
    """ConvNeXt-T half as wide, with one block a stage and two in the third."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    stages = [CNBlockConfig(48, 96, 1), CNBlockConfig(96, 192, 1), CNBlockConfig(192, 384, 2)]
    return ConvNeXt([*stages, CNBlockConfig(384, None, 1)], num_classes=10)


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 with at most two blocks a stage."""
    from torchvision.models import MobileNetV2

    stages = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2], [6, 64, 2, 1], [6, 96, 1, 1], [6, 160, 2, 2], [6, 320, 1, 1]]
    return MobileNetV2(num_classes=10, inverted_residual_setting=stages)


def shufflenet() -> nn.Module:
    """ShuffleNetV2 x0.5 with two units a stage."""
    from torchvision.models import ShuffleNetV2

    return ShuffleNetV2([2, 2, 2], [24, 48, 96, 192, 1024], num_classes=10)


def efficientnet() -> nn.Module:
    """EfficientNet-B0 with one block a stage and two in the second and the third."""
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    rows = [(1, 3, 1, 32, 16, 1), (6, 3, 2, 16, 24, 2), (6, 5, 2, 24, 40, 2), (6, 3, 2, 40, 80, 1)]
    rows += [(6, 5, 1, 80, 112, 1), (6, 5, 2, 112, 192, 1), (6, 3, 1, 192, 320, 1)]
    return EfficientNet([MBConvConfig(*row) for row in rows], dropout=0.2, num_classes=10)


def regnet(se_ratio: float | None) -> Callable[[], nn.Module]:
    """RegNet 400MF with 9 blocks instead of 16 or 22; Y squeezes and excites, X does not."""

    def make() -> nn.Module:
        from torchvision.models.regnet import BlockParams, RegNet

        params = BlockParams.from_init_params(depth=9, w_0=24, w_a=44.0, w_m=2.5, group_width=16, se_ratio=se_ratio)
        return RegNet(params, num_classes=10)

    return make


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (named("resnet18"), 32),
    "resnext": (resnext, 32),
    "densenet": (densenet, 32),
    "googlenet": (named("googlenet", aux_logits=True, init_weights=False), 64),
    "inception_v3": (named("inception_v3", aux_logits=False, init_weights=False), 75),
    "mobilenet_v2": (mobilenet_v2, 32),
    "mobilenet_v3_small": (named("mobilenet_v3_small"), 32),
    "efficientnet": (efficientnet, 32),
    "mnasnet": (named("mnasnet0_5"), 32),
    "shufflenet_v2": (shufflenet, 32),
    "squeezenet": (named("squeezenet1_1"), 32),
    "regnet_x": (regnet(None), 64),
    "regnet_y": (regnet(0.25), 64),
    "convnext": (convnext, 32),
    "vgg": (vgg, 32),
}
# The two budgets take the same path; these go through both.
BOTH = ("resnet18", "densenet", "mobilenet_v2", "shufflenet_v2", "squeezenet")
ROWS = [(name, "macs", 0.5) for name in MODELS] + [(name, "params", 0.4) for name in BOTH]


@pytest.mark.parametrize(("name", "kind", "left"), ROWS)
def test_on_budget_and_proven(name: str, kind: str, left: float) -> None:
    make, size = MODELS[name]
    small = prunus.prune(lively(make()), image(1, 3, size, size), target=f"{kind}={left:.0%}", method="random")
    assert left - 0.005 < getattr(small.after, kind) / getattr(small.before, kind) <= left
    assert sum(p.numel() for p in small.model.parameters()) == small.after.params
    assert small.proof is not None and small.proof.worst < 1e-8
    assert small.coupling.unknown_ops == ()
    assert small.notes == ()
