"""The coverage benchmark: a row of a model, a refusal, and what the page says of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn


class Halves(nn.Module):
    """Half of its width is written down, the other layer is free."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.mid = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(4, 16, 3)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.norm(self.stem(x))[:, :4]).relu().mean((2, 3))
        return self.head(x)  # type: ignore[no-any-return]


def row_of(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    import coverage

    monkeypatch.setattr(coverage, "build", lambda kind, name, **how: (model, torch.randn(1, 3, 12, 12)))
    return coverage.row("classification", "own/model")


def test_a_row_and_its_place_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    import coverage

    pytest.importorskip("torchvision")
    pytest.importorskip("timm")
    found = row_of(Halves(), monkeypatch)
    assert found["status"] == "pruned" and found["worst"] < 1e-8
    assert 0 < found["stepped"] <= found["worst"] and 0.45 < found["left"] <= 0.5
    text = "\n".join(coverage.page([found | {"prunable": 0.4}]))
    assert "| classification | 1 | 1 | 0 | 0 |" in text
    assert "- model, 40 %: " in text and "it meets the model's input" in text
    assert "can be pruned" not in "\n".join(coverage.page([found | {"prunable": 0.9}]))


def test_a_model_that_is_refused_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    found = row_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), monkeypatch)
    assert found["status"] == "refused" and "nothing to prune" in found["why"]


def test_what_a_proof_costs_is_held_to_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    import coverage
    import proof_cost

    pytest.importorskip("torchvision")
    monkeypatch.setattr(coverage, "build", lambda kind, name, **how: (Halves(), torch.randn(1, 3, 12, 12)))
    found = proof_cost.row("classification", "torchvision/own")
    assert 0 < found["forward"] < found["proven"] and min(found["bare_bytes"], found["forward_bytes"]) > 0
    quick = found | {"proven": 25 * found["forward"], "forward": 1.0, "prune_bytes": 4, "forward_bytes": 1}
    assert proof_cost.over(quick) == []
    assert proof_cost.over(quick | {"proven": 30.1, "prune_bytes": 5}) == ["time", "memory"]
    assert proof_cost.over(quick | {"proven": 30.1, "forward": 2.0}) == []
    refused = {"model": "torchvision/other", "refused": "no channels"}
    text = "\n".join(proof_cost.page([quick | {"proven": 31.0}, refused]))
    assert "forwards: own" in text and "memory: none" in text and "- other: no channels" in text
