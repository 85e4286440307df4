"""benchmarks/nuclear_refresh.py: its verdict, and a tiny run that is not repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def record(row: str, seed: int, width: int, top1: float) -> dict[str, Any]:
    widths = [["a", 10, width], ["b", 20, 20]]
    size = {"macs": 50, "dense_macs": 100}
    return {"row": row, "seed": seed, "widths": widths, "accuracy": {"trained": top1, "cut": top1}, **size}


@pytest.mark.parametrize(
    ("widths", "top1", "good"),
    [
        ((6, 7, 8), (89.9, 90.4, 90.9), "yes"),
        ((2, 3, 4), (90.0, 90.5, 91.0), "no"),  # widths: 40 % of one of two groups, twice as much as any two seeds
        ((6, 7, 8), (88.9, 89.4, 89.9), "no"),  # 1.1 points where seeds deviate by .5
    ],
)
def test_a_difference_counts_beside_that_of_the_seeds(
    widths: tuple[int, ...], top1: tuple[float, ...], good: str
) -> None:
    from nuclear_refresh import ALWAYS, DEFAULT, NONE, table

    given = [record(DEFAULT, seed, 6 + seed, 90.0 + seed / 2) for seed in range(3)]
    given += [record(ALWAYS, seed, width, top) for seed, (width, top) in enumerate(zip(widths, top1, strict=True))]
    found = table([*given, record(NONE, 0, 10, 92.0)])
    assert found.endswith(f"Within the spread of the seeds: {good}")
    assert "seeds of one refresh by 6.7" in found and "default and no term by 20.0" in found
    assert f"default and every step differ by {5 * abs(6 - widths[0]):.1f} at equal seeds" in found
    assert f"is {90.5 - top1[1]:+.2f} points; the deviation over seeds is 0.50" in found


def test_one_seed_says_nothing_of_the_spread() -> None:
    from nuclear_refresh import ALWAYS, DEFAULT, table

    found = table([record(DEFAULT, 0, 6, 90.0), record(ALWAYS, 0, 6, 90.0)])
    assert "Within the spread" not in found and "two that both rows have" in found


def test_it_runs_and_a_second_start_runs_nothing(tmp_path: Path, images: list[str], weights: list[str]) -> None:
    from nuclear_refresh import WORDS, main

    page = tmp_path / "page.md"
    page.write_text("<!-- nuclear_refresh: begin -->\n<!-- nuclear_refresh: end -->\n")
    given = [*weights, *images, "--epochs", "1", "--target", "macs=70%", "--seeds", "3", "--device", "cpu"]
    given += ["--results", str(tmp_path / "r.jsonl"), "--page", str(page)]
    assert main(given) == 0
    found = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [r["row"] for r in found] == list(WORDS)
    assert all(r["proof"] and r["macs"] <= 0.7 * r["dense_macs"] for r in found)
    assert str(tmp_path) not in (tmp_path / "r.jsonl").read_text()
    before = (tmp_path / "r.jsonl").read_text()
    assert main(given) == 0
    assert (tmp_path / "r.jsonl").read_text() == before
    assert main([*given, "--report"]) == 0
    assert "| no nuclear term |" in page.read_text() and "resnet20 to macs=70%" in page.read_text()
    assert main([*given, "--report", "--epochs", "2"]) == 2
