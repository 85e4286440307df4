"""benchmarks/latency_table.py and latency_target.py: tiny runs that are not repeated, and the verdict."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import prunus.api
from prunus.latency.machine import machine

NET = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),
    )
"""


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "nets.py").write_text(NET)


def words(tmp_path: Path, name: str) -> list[str]:
    page = tmp_path / "page.md"
    page.write_text(f"a\n<!-- {name}: begin -->\n<!-- {name}: end -->\nb\n")
    how = ["--side", "12", "--runtime", "eager", "--threads", "1", "--seconds", "0.2", "--page", str(page)]
    return ["--models", f"{tmp_path}/nets.py:small", *how, "--results", str(tmp_path / "found.jsonl")]


def test_the_table_of_half_the_macs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from latency_table import main

    given = words(tmp_path, "latency_table")
    assert main([*given, "--report"]) == 2 and "no records" in capsys.readouterr().err
    assert main(given) == 0 and "done" in capsys.readouterr().out
    assert main(given) == 0
    out = capsys.readouterr().out
    assert "done" not in out and "| dense against itself |" in out and "nets.py:small | " in out
    assert main([*given, "--report"]) == 0
    assert "nets.py:small | " in (tmp_path / "page.md").read_text()
    assert len((tmp_path / "found.jsonl").read_text().splitlines()) == 1


def test_a_target_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both steps as their processes take them, in this one."""
    from latency_target import main

    monkeypatch.setattr(
        prunus.api, "machine", lambda runtime, model: replace(machine(runtime, model), seconds=1.0, processes=2)
    )
    given = [*words(tmp_path, "latency_target"), "--folder", str(tmp_path), "--pause", "0", "--repeats", "1"]
    given += ["--target", "latency=80%"]
    for step in ("cut", "1"):
        assert main([*given, "--one", f"{tmp_path}/nets.py:small", step]) == 0, capsys.readouterr().err
    assert main(given) == 0
    out = capsys.readouterr().out
    assert "done" not in out and "| process 1 |" in out
    assert re.search(r"\| (yes|no) \| [01] of 1 \|$", out.strip())


@pytest.mark.parametrize(
    ("asked", "medians", "told"),
    [("60%", [0.63, 0.5], "yes"), ("60%", [0.631, 0.5], "no"), ("60%", [0.5, None], ""), ("4ms", [0.5], "")],
)
def test_the_verdict(asked: str, medians: list[float | None], told: str) -> None:
    from latency_target import verdict

    assert verdict({"asked": asked}, [None if m is None else {"ratio": {"median": m}} for m in medians]) == told


def test_later_medians_against_the_interval() -> None:
    from latency_target import inside

    stated = {"measured": {"median": 0.58, "low": 0.57, "high": 0.6}}
    assert inside(stated, [{"ratio": {"median": m}} for m in (0.57, 0.569, 0.6)]) == "2 of 3"
    assert inside(stated, [None]) == ""
