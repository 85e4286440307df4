"""benchmarks/weights_table.py: rounds one at a time are the rounds of one series, and nothing is done twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from prunus.lab import folder
from prunus.lab.job import Cut
from prunus.lab.rounds import rounds


def words(tmp_path: Path, images: list[str]) -> list[str]:
    (tmp_path / "page.md").write_text("<!-- weights_table: begin -->\n<!-- weights_table: end -->\n")
    given = ["--models", "resnet20", "--classes", "12", *images, "--resize", "32"]
    given += ["--later-lr", "0.0003", "--epochs", "1", "--rounds", "1,3", "--batch-size", "16", "--device", "cpu"]
    given += ["--out", str(tmp_path / "out"), "--results", str(tmp_path / "r.jsonl")]
    return [*given, "--page", str(tmp_path / "page.md")]


def test_the_steps_are_those_of_one_series_and_are_done_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], images: list[str]
) -> None:
    from weights_table import job_of, main, parser

    given = words(tmp_path, images)
    assert main(given) == 0
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    by: dict[str, Any] = {line["step"]: line for line in lines}
    series_of = {scope: [f"{scope}round {r}" for r in (1, 2, 3)] for scope in ("", "local ")}
    assert list(by) == ["dense", *series_of[""], *series_of["local "], "fpgm"]
    assert by["fpgm"]["proof"] and by["fpgm"]["macs"] <= 0.5 * by["fpgm"]["dense_macs"]

    job = job_of(parser().parse_args(given))
    cut = Cut(method="weights", options={"include": ["biases"]})
    net = folder.rebuild(*folder.read(job.place("resnet20", "dense")))
    series = rounds(net, job.data.example(), cut, (1, 3), data=job.data, after=job.again, runtime=job.runtime)
    expected = list(series)
    # 269,852 parameters with 12 classes, 1,376 of them of norms.
    assert [by[step]["nonzero"] for step in ("dense", "round 1", "round 3")] == [row.nonzero for row, _ in expected]
    assert [by[step]["kept"] for step in ("round 1", "round 3")] == [int(0.3 * 268476), int(0.027 * 268476)]
    last, thin = folder.rebuild(*folder.read(job.place("resnet20", "round 3"))), expected[-1][1]
    assert thin is not None
    assert all(torch.equal(a, b) for a, b in zip(last.parameters(), thin.model.parameters(), strict=True))
    assert [by[step]["kept"] for step in series_of["local "]] == [by[step]["kept"] for step in series_of[""]]
    local = folder.rebuild(*folder.read(job.place("resnet20", "local round 3")))
    shares = {n: float((p != 0).float().mean()) for n, p in local.named_parameters() if p.ndim > 1}
    assert all(abs(share - 0.027) < 0.004 for share in shares.values()), shares

    capsys.readouterr()
    before = (tmp_path / "r.jsonl").read_text()
    assert main([*given, "--report"]) == 0
    assert "round 1:" not in capsys.readouterr().out
    assert main(given) == 0
    assert (tmp_path / "r.jsonl").read_text() == before
    page = (tmp_path / "page.md").read_text()
    assert f"(1/1/16) | {by['round 1']['nonzero']:,} |" in page and f"(3/1/16) | {by['round 3']['nonzero']:,} |" in page
    assert "| fpgm, macs=50% |" in page and "Points lost in the first round: resnet20" in page
    assert f"| weights, scope=local | {by['local round 3']['top1']:.2f} (3/1/16) |" in page
    assert "--scopes" not in page and "--rounds 1,3 --batch-size 16 --later-lr 0.0003`" in page
    assert str(tmp_path) not in page + before

    shutil.rmtree(tmp_path / "out")
    assert main([*given, "--rounds", "1,4"]) == 2
    assert "is gone; remove the record" in capsys.readouterr().err
