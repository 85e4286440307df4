"""benchmarks/equal_latency.py: a tiny run that is not repeated, and the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus.api
from prunus.latency.machine import machine


class Tiny:
    """A network that runs at once, and what is measured of its cuts made up."""

    target, method, figure, options = "latency=70%", "magnitude", "top-1", ("epochs",)

    def __init__(self, options: Any) -> None:
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())
        self.net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)).eval()

    def dense(self) -> nn.Module:
        return self.net

    def example(self) -> Tensor:
        return torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))

    def measured(self, net: nn.Module, seed: int) -> dict[str, Any]:
        assert net(self.example()).shape == (1, 4)
        return {"before": 10.0, "after": 50.0 + seed + next(net.parameters()).shape[0] / 32}


def test_it_runs_and_a_second_start_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import equal_latency

    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(equal_latency.SUBJECTS, "tiny", Tiny)
    monkeypatch.setattr(equal_latency, "TRIES", 2)
    monkeypatch.setattr(prunus.api, "machine", lambda runtime, model: replaced(runtime, model))
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- equal_latency: begin -->\n<!-- equal_latency: end -->\nb\n")
    words = ["--networks", "tiny", "--runtime", "eager", "--runtime-threads", "1", "--seconds", "0.2", "--seeds", "0,1"]
    words += ["--folder", str(tmp_path), "--results", str(tmp_path / "found.jsonl"), "--page", str(page)]
    assert equal_latency.main([*words, "--report"]) == 2 and "no records" in capsys.readouterr().err
    assert equal_latency.main(words) == 0
    records = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [r.get("seed", "cuts") for r in records] == ["cuts", 0, 0, 1, 1]
    (cuts, *_) = records
    assert cuts["proofs"] and 0 < cuts["macs"]["macs"] < 1 and cuts["ratio"]["macs"]["median"] > 0
    capsys.readouterr()
    assert equal_latency.main([*words, "--report"]) == 0
    out = capsys.readouterr().out
    assert "->" not in out and out.count("| tiny | ") == 2 and out in page.read_text() + "\n"
    assert len((tmp_path / "found.jsonl").read_text().splitlines()) == 5
    assert equal_latency.main(["--networks", "other"]) == 2


def replaced(runtime: str, model: nn.Module) -> Any:
    from dataclasses import replace

    return replace(machine(runtime, model), seconds=1.0, processes=2)


def test_the_difference_is_paired_by_seed() -> None:
    """Two cuts of which one is a point better with every seed."""
    import equal_latency

    options = equal_latency.parser().parse_args([])
    records = [
        {**equal_latency.tuned_key("resnet56", kind, seed, options), "after": 60.0 + 10 * seed + (kind == "latency")}
        for seed in (0, 1, 2)
        for kind in ("macs", "latency")
    ]
    a, b = (equal_latency.of_seeds(records, "resnet56", kind, options) for kind in ("latency", "macs"))
    assert [x["after"] - y["after"] for x, y in zip(a, b, strict=True)] == [1.0, 1.0, 1.0]
