"""benchmarks/method_cost.py: how a ratio is made, and a tiny run."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_what_happens_rarely_is_shared_out() -> None:
    from method_cost import ALWAYS, NUCLEAR, Cost, parser, rows, table, whole

    by = {row.name: row for row in rows()}
    found = {
        NUCLEAR: Cost([2.0] * 3, [1.0, 1.1, 1.2], [1.1], [4.0]),
        ALWAYS: Cost([2.0] * 3, [2.0, 2.1, 2.2], [2.1], [4.0]),
        "soft fpgm": Cost([2.0], [1.0], [1.0], [10.0]),
    }
    # An epoch of 100 steps takes 200 s: 4 s before it are .02, and one step in 50 takes 1.0 more.
    assert whole(by[NUCLEAR], found, 100) == pytest.approx((1.1 + 1.0 / 50 + 0.02, 0.02))
    assert whole(by["soft fpgm"], found, 100) == pytest.approx((1.05, 0.05))
    assert whole(by[NUCLEAR], {NUCLEAR: found[NUCLEAR]}, 100)[0] == pytest.approx(1.12)
    options = parser().parse_args(["--epoch-images", "12800"])
    line = table([by[NUCLEAR]], found, options)[-1]
    assert line == f"| {NUCLEAR} | 1.140 | 1.100, 1.100 | 0.0200 | 1.15 | yes | 6.9 |"
    found[NUCLEAR].ratios = [1.111, 1.111]
    assert "| 1.151 |" in table([by[NUCLEAR]], found, options)[-1]
    assert "| no |" in table([by[NUCLEAR]], found, options)[-1]


def test_every_row_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from method_cost import main, rows

    page = tmp_path / "page.md"
    page.write_text("<!-- method_cost: begin -->\n<!-- method_cost: end -->\n")
    given = ["--model", "resnet20", "--batch", "4", "--steps", "1", "--warm", "0", "--rounds", "1", "--device", "cpu"]
    assert main([*given, "--precision", "fp32", "--write", "--page", str(page)]) == 0
    text = page.read_text()
    assert all(f"| {row.name} |" in text for row in rows())
    assert "--batch 4" in text and str(tmp_path) not in text
    assert "fp32, channels_last, eager" in text
    capsys.readouterr()
    assert main(["--only", "fusion of rows"]) == 2
    assert "is in no row" in capsys.readouterr().err
