"""benchmarks/sparsity.py: its verdicts, and a tiny run that is not repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prunus.models import resolve


def record(row: str, trained: float, cut: float, gone: int, macs: int, seed: int = 0, pin: str = "") -> dict[str, Any]:
    accuracy = {"dense": 92.0, "trained": trained, "cut": cut - 5, "folded": cut}
    size = {"gone": gone, "channels": 100, "macs": macs, "dense_macs": 100}
    return {"row": row, "seed": seed, "lam": 0.1, "pin": pin.split(), "accuracy": accuracy, **size}


@pytest.mark.parametrize(
    ("trained", "cut", "gone", "macs", "verdict"),
    [
        (90.5, 90.1, 30, 75, "yes"),
        (90.4, 90.1, 30, 75, "no"),  # 1.6 points behind the run without penalty
        (90.5, 90.0, 30, 75, "no"),  # the cut costs half a point
        (90.5, 90.1, 29, 75, "no"),
        (90.5, 90.1, 30, 76, "no"),
    ],
)
def test_a_row_must_meet_all_four_conditions(trained: float, cut: float, gone: int, macs: int, verdict: str) -> None:
    from sparsity import table

    lines = table([record("none", 92.0, 92.0, 0, 100), record("lasso", trained, cut, gone, macs)], ["none", "lasso"])
    plain, lasso = lines.splitlines()[-2:]
    assert plain.endswith("|  |")
    assert lasso.endswith(f"| {verdict} |")
    assert f"| {trained - 92.0:+.2f} | {gone:.1f} % | {100 - macs:.1f} % |" in lasso


def test_without_the_plain_run_nothing_is_claimed() -> None:
    from sparsity import table

    lasso = record("lasso", 92.0, 92.0, 50, 50, seed=1)
    line = table([record("none", 92.0, 92.0, 0, 100), lasso], ["none", "lasso", "l2"]).splitlines()[-2]
    assert "| unknown |" in line and line.endswith("| no |")


def test_a_run_with_pins_has_a_line_of_its_own() -> None:
    from sparsity import table

    runs = [
        record("none", 92.0, 92.0, 0, 100),
        *(record("lasso", t, t, 40, 50, pin=p) for t, p in ((80, ""), (91, "bn1"))),
    ]
    free, pinned = table(runs, ["none", "lasso"]).splitlines()[-2:]
    assert free.startswith("| group lasso | 0.1 | 80") and free.endswith("| no |")
    assert pinned.startswith("| group lasso (`bn1` pinned) | 0.1 | 91") and pinned.endswith("| yes |")


def test_it_runs_and_a_second_start_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], images: list[str]
) -> None:
    from sparsity import main

    torch.manual_seed(0)
    net = resolve("resnet20", 10)
    with torch.no_grad():
        for name in ("layer1.0", "layer2.1"):  # two channels of each are gone already
            block = net.get_submodule(name)
            for tensor in (block.conv1.weight, block.bn1.weight, block.bn1.bias):
                tensor[:2] = 0
    torch.save(net.state_dict(), tmp_path / "net.pt")
    page = tmp_path / "page.md"
    page.write_text("<!-- sparsity: begin -->\n<!-- sparsity: end -->\n")
    given = ["--weights", str(tmp_path / "net.pt"), *images, "--epochs", "1"]
    given += ["--results", str(tmp_path / "r.jsonl"), "--page", str(page), "--device", "cpu", "--no-compile"]
    given += ["--rows", "lasso", "--lam", "lasso=1e-4"]
    assert main(given) == 0
    found = json.loads((tmp_path / "r.jsonl").read_text())
    assert (found["gone"], found["channels"], found["proof"]) == (4, 448, True)
    assert ["layer1.0.conv1", 16, 14] in found["groups"] and ["layer2.1.conv1", 32, 30] in found["groups"]
    assert found["macs"] < found["dense_macs"]
    accuracy = found["accuracy"]
    assert accuracy["folded"] == pytest.approx(accuracy["cut"]) == pytest.approx(accuracy["trained"])
    assert str(tmp_path) not in (tmp_path / "r.jsonl").read_text()
    capsys.readouterr()
    assert main([*given, "--report"]) == 0
    assert "seed 0" not in capsys.readouterr().out
    assert "group lasso | 0.0001" in page.read_text()
    before = (tmp_path / "r.jsonl").read_text()
    assert main(given) == 0
    assert (tmp_path / "r.jsonl").read_text() == before
    assert main([*given, "--rows", "laso"]) == 2
