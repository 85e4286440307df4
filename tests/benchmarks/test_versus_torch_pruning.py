"""benchmarks/versus_torch_pruning.py: its statistics, and a tiny run of both tools."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from prunus.errors import InputError


def record(tool: str, seed: int, cut: float, finetuned: float) -> dict[str, Any]:
    accuracy = {"cut": cut, "finetuned": finetuned}
    return {"tool": tool, "row": "L2", "seed": seed, "macs": 49, "dense_macs": 100, "accuracy": accuracy}


def test_the_interval_is_students() -> None:
    from paired import Interval

    found = Interval.of([0.1, 0.3, -0.1, 0.2, 0.0])  # mean .1, sd .15811, half = 2.776 * .15811 / sqrt(5)
    assert found.mean == pytest.approx(0.1)
    assert found.half == pytest.approx(0.19629, abs=1e-5)
    assert found.deficit == pytest.approx(0.09629, abs=1e-5)
    assert math.isinf(Interval.of([0.5]).half)
    with pytest.raises(InputError, match="1 to 21 pairs, not 0"):
        Interval.of([])


def test_the_table_pairs_seeds_and_marks_what_is_incomplete() -> None:
    from paired import table

    records = [record("torch-pruning", s, 10.0, 92.0 + s) for s in range(3)]
    records += [record("prunus", s, 10.5, 92.5 + s) for s in range(2)]
    text = table(records, ["L2", "random"], (0, 1, 2))
    assert "L2 (incomplete: 2 of 3 seeds)" in text and "random (incomplete: 0 of 3 seeds)" in text
    assert "| 92.50 ± 0.71 | 93.00 ± 0.71 | +0.50 |" in text
    assert "yes" not in text
    whole = table([*records, record("prunus", 2, 10.5, 94.5)], ["L2"], (0, 1, 2))
    assert "incomplete" not in whole
    assert whole.splitlines()[-1].endswith("| +0.50 ... +0.50 | -0.50 | yes |".replace("...", "…"))


def trained_again(shared: list[str]) -> dict[str, float]:
    """Prunus's network of the random row, fine-tuned although Torch-Pruning's is the same."""
    from records import read
    from versus_torch_pruning import ROWS, Cut, beside, job_of, measured, ours, parser

    options = parser().parse_args(shared)
    job = job_of(options)
    made = ours(job, ROWS[2], 0, beside(read(options.results), ROWS[2], 0, job.settings()))
    assert made.facts.pop("finetuned_as") is not None
    found: dict[str, float] = measured(job, Cut(made.model, {}, made.facts), 0, 0.0)["accuracy"]
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_both_tools_run_and_a_second_start_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], images: list[str], weights: list[str]
) -> None:
    pytest.importorskip("torch_pruning", reason="needs torch-pruning (benchmarks/requirements.txt)")
    from versus_torch_pruning import main

    page = tmp_path / "page.md"
    page.write_text("<!-- versus_torch_pruning: begin -->\n<!-- versus_torch_pruning: end -->\n")
    shared = ["--model", "resnet20", *weights, *images, "--epochs", "1", "--seeds", "0"]
    shared += ["--results", str(tmp_path / "r.jsonl"), "--page", str(page)]
    shared += ["--rows", "l2:global,random:local", "--device", "cpu", "--no-compile"]
    assert main(shared) == 0
    theirs, ours, drawn, taken = map(json.loads, (tmp_path / "r.jsonl").read_text().splitlines())
    assert (theirs["tool"], ours["tool"]) == ("torch-pruning", "prunus")
    assert ours["macs"] <= theirs["macs"] <= 0.5 * theirs["dense_macs"]
    assert theirs["macs"] - ours["macs"] < 0.005 * theirs["dense_macs"]
    assert theirs["differs"] < 1e-5 and ours["proof"]
    assert (drawn["widths"], drawn["accuracy"]) == (taken["widths"], taken["accuracy"]) and taken["macs"] < taken[
        "dense_macs"
    ]
    assert (ours["trained"], drawn["trained"], taken["trained"]) == (True, True, False)
    again = trained_again(shared)
    assert again == taken["accuracy"]
    assert str(tmp_path) not in (tmp_path / "r.jsonl").read_text()
    capsys.readouterr()
    assert main([*shared, "--report"]) == 0
    assert "seed 0" not in capsys.readouterr().out
    before = (tmp_path / "r.jsonl").read_text()
    assert main(shared) == 0
    assert (tmp_path / "r.jsonl").read_text() == before
    assert "49." in page.read_text() or "48." in page.read_text()
