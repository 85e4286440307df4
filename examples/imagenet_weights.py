"""Networks of torchvision with ImageNet weights, as the starting point of a recipe.

    prunus run recipes/cifar100-vgg16-slimming.toml --set model.name=examples/imagenet_weights.py:vgg16_bn

The published systems on CIFAR-100 start so, with a new head. With 1000 classes the head is kept. torchvision fetches
the weights once and keeps them; Prunus itself fetches nothing.
"""

from __future__ import annotations

from torch import nn
from torchvision.models import get_model


def alexnet(classes: int = 1000) -> nn.Module:
    return _network("alexnet", "classifier.6", classes)


def mobilenet_v2(classes: int = 1000) -> nn.Module:
    return _network("mobilenet_v2", "classifier.1", classes)


def resnet18(classes: int = 1000) -> nn.Module:
    return _network("resnet18", "fc", classes)


def resnet34(classes: int = 1000) -> nn.Module:
    return _network("resnet34", "fc", classes)


def resnet50(classes: int = 1000) -> nn.Module:
    return _network("resnet50", "fc", classes)


def vgg16_bn(classes: int = 1000) -> nn.Module:
    return _network("vgg16_bn", "classifier.6", classes)


def _network(name: str, head: str, classes: int) -> nn.Module:
    """The network with the weights of the papers, and a head of its own where it has other classes."""
    model: nn.Module = get_model(name, weights="IMAGENET1K_V1")
    if classes != 1000:
        old = model.get_submodule(head)
        assert isinstance(old, nn.Linear)
        model.set_submodule(head, nn.Linear(old.in_features, classes))
    return model
