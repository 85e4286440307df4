"""Networks of torchvision at half the macs and at 40 % of the parameters: on budget and proven, with lively statistics.

Families whose members are all large are built with fewer blocks; their full sizes take minutes. The auxiliary head of
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
    """The features of VGG-11 with batch norm, and one linear layer."""
    from torchvision.models import vgg11_bn

    return nn.Sequential(vgg11_bn().features, nn.Flatten(), nn.Linear(512, 10))


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (named("resnet18"), 32),
    "resnext": (resnext, 32),
    "densenet": (densenet, 32),
    "googlenet": (named("googlenet", aux_logits=True, init_weights=False), 64),
    "inception_v3": (named("inception_v3", aux_logits=False, init_weights=False), 75),
    "mobilenet_v2": (named("mobilenet_v2"), 32),
    "mobilenet_v3_small": (named("mobilenet_v3_small"), 32),
    "efficientnet_b0": (named("efficientnet_b0"), 32),
    "mnasnet": (named("mnasnet0_5"), 32),
    "shufflenet_v2": (named("shufflenet_v2_x0_5"), 32),
    "squeezenet": (named("squeezenet1_1"), 32),
    "regnet_x": (named("regnet_x_400mf"), 64),
    "regnet_y": (named("regnet_y_400mf"), 64),
    "convnext": (named("convnext_tiny"), 32),
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
