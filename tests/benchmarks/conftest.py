"""The scripts of benchmarks/ can be imported, and those about CIFAR find a small data set and a network's weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from shared import ROOT

from prunus.models import resolve


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """The option --data, with the same 40 images of ten classes in both parts."""
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 256, (40, 3, 32, 32), np.uint8), np.arange(40) % 10
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return ["--data", str(tmp_path / "data.npz")]


@pytest.fixture
def weights(tmp_path: Path) -> list[str]:
    """The option --weights, with random ones of a resnet20 for ten classes."""
    torch.manual_seed(0)
    torch.save(resolve("resnet20", 10).state_dict(), tmp_path / "net.pt")
    return ["--weights", str(tmp_path / "net.pt")]
