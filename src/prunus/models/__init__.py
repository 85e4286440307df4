"""The bundled reference nets, and the models that names mean."""

from __future__ import annotations

from prunus.models.checkpoint import load_weights
from prunus.models.densenet import DENSENET40_WIDTHS, DenseNet, densenet40
from prunus.models.inception import GOOGLENET_WIDTHS, GoogLeNet, googlenet
from prunus.models.lookup import build, check_source, maker, names, resolve
from prunus.models.mobilenet import MOBILENETV1_WIDTHS, MobileNetV1, mobilenetv1
from prunus.models.rates import rate_order
from prunus.models.resnet import ResNet, resnet20, resnet32, resnet44, resnet56, resnet110, resnet_widths
from prunus.models.shortcut import Shortcut, take
from prunus.models.vgg import VGG, VGG16_WIDTHS, vgg16, vgg16_hrank

__all__ = [
    "DENSENET40_WIDTHS",
    "GOOGLENET_WIDTHS",
    "MOBILENETV1_WIDTHS",
    "VGG",
    "VGG16_WIDTHS",
    "DenseNet",
    "GoogLeNet",
    "MobileNetV1",
    "ResNet",
    "Shortcut",
    "build",
    "check_source",
    "densenet40",
    "googlenet",
    "load_weights",
    "maker",
    "mobilenetv1",
    "names",
    "rate_order",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet_widths",
    "resolve",
    "take",
    "vgg16",
    "vgg16_hrank",
]
