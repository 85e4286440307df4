"""examples/imagenet_weights.py: which weights are asked for, and when the head is a new one. Nothing is fetched."""

from __future__ import annotations

from typing import Any

import pytest
import torchvision
from shared import ROOT
from torch import nn

from prunus.models import resolve

FILE = ROOT / "examples" / "imagenet_weights.py"


def fetched(name: str, weights: str) -> nn.Module:
    """In place of torchvision's: the classifier alone, with the weights' name for a mark."""
    model = nn.Module()
    if name.startswith("resnet"):
        model.fc = nn.Linear(8, 1000)
    else:
        model.classifier = nn.Sequential(*(nn.Linear(8, 1000) for _ in range(7 if name != "mobilenet_v2" else 2)))
    model.mark = (name, weights)  # type: ignore[assignment]
    return model


@pytest.mark.parametrize("name", ["alexnet", "mobilenet_v2", "resnet18", "resnet34", "resnet50", "vgg16_bn"])
def test_the_head_is_new_where_the_classes_are_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.models, "get_model", fetched)
    small: Any = resolve(f"{FILE}:{name}", 100)
    kept: Any = resolve(f"{FILE}:{name}", 1000)
    linear = [[m for m in model.modules() if isinstance(m, nn.Linear)][-1] for model in (small, kept)]
    assert [head.out_features for head in linear] == [100, 1000] and linear[0].in_features == 8
    assert small.mark == kept.mark == (name, "IMAGENET1K_V1")
