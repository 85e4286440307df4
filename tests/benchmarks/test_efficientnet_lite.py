"""benchmarks/efficientnet_lite.py: its table by hand, and a tiny run with another network that is not repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn


def build() -> tuple[nn.Module, str]:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).eval(), "0" * 12


def record(seed: int, repair: str, agreement: float, top1: float) -> dict[str, Any]:
    counts = {"macs": 80, "dense_macs": 100, "params": 150, "dense_params": 200}
    found = {"agreement": agreement, "top1": top1, "dense_top1": 75.0}
    return {"target": "macs=80%", "seed": seed, "repair": repair, **counts, **found}


def test_the_table_by_hand() -> None:
    from efficientnet_lite import table

    records = [record(0, "none", 10.0, 8.0), record(0, "statistics", 60.0, 55.0), record(1, "statistics", 64.0, 57.0)]
    lines = table(records, ["macs=80%", "macs=70%"], ["none", "statistics"]).splitlines()
    assert lines[2:] == [
        "| macs=80% | 80.00 % | 75.00 % | none | 10.00 % | 8.00 % | 67.00 |",
        "| macs=80% | 80.00 % | 75.00 % | statistics | 62.00 ± 2.83 % | 56.00 ± 1.41 % | 19.00 |",
        "| macs=70% | | | none | | | |",
        "| macs=70% | | | statistics | | | |",
    ]


def test_it_runs_and_a_second_start_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from efficientnet_lite import main

    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 256, (40, 3, 8, 8), dtype=np.uint8), np.arange(40) % 4
    np.savez(tmp_path / "data.npz", x_train=x[:4], y_train=y[:4], x_test=x, y_test=y)
    results = tmp_path / "results.jsonl"
    words = ["--data", str(tmp_path / "data.npz"), "--resize", "8,8", "--results", str(results)]
    words += ["--targets", "macs=60%", "--repairs", "none;reconstruct,statistics"]
    words += ["--calibrate", "24", "--seeds", "0,1", "--batch-size", "8"]
    assert main(words, build) == 0
    found = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
    assert [(r["seed"], r["repair"], r["measured"]) for r in found] == [
        *((0, "none", 16), (0, "reconstruct,statistics", 16)),
        *((1, "none", 16), (1, "reconstruct,statistics", 16)),
    ]
    assert [r["proof"] for r in found] == [True, None, True, None]
    assert len({r["macs"] for r in found}) == 1  # the same cut in every row
    assert found[1]["agreement"] != found[0]["agreement"]
    page = tmp_path / "page.md"
    page.write_text("<!-- efficientnet_lite: begin -->\n<!-- efficientnet_lite: end -->\n")
    assert main(words, build) == 0 and main([*words, "--report", "--page", str(page)], build) == 0
    assert len(results.read_text("utf-8").splitlines()) == 4
    assert "reconstruct, statistics" in page.read_text() and str(tmp_path) not in page.read_text()


def test_wrong_input_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from efficientnet_lite import main

    results = ["--results", str(tmp_path / "none.jsonl")]
    x, y = np.zeros((4, 3, 8, 8), dtype=np.uint8), np.arange(4)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    data = ["--data", str(tmp_path / "data.npz"), "--resize", "8,8"]
    for words, part in ((["--repairs", "glue"], "glue"), (data, "--calibrate 256"), (["--report"], "no records")):
        assert main([*words, *results], build) == 2
        err = capsys.readouterr().err
        assert part in err and err.count("\n") == 1, err
