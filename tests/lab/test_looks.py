"""What only some runs show: agreement of seeds, histograms, sensitivity, latency, the way to a budget."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from runfolders import begun, made
from sweeps import recipe
from torch import nn

import prunus
from prunus.lab.agreement import agreement, jaccard
from prunus.lab.histograms import counted, values_of
from prunus.lab.looks import histograms_of, latencies_of, looks_of
from prunus.lab.measured import latency, sensitivity
from prunus.lab.page import Table
from prunus.lab.reached import budget, met, of_training
from prunus.lab.runs import Entry, entries, find
from prunus.lab.spread import Histogram, Histograms, draw


def entry(root: Path) -> Entry:
    (found,) = entries(find([root]))
    return found


def lines(path: Path, *objects: Any) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in objects), "utf-8")


def test_agreement_by_hand(tmp_path: Path) -> None:
    """{0, 1} and {1, 2} share one of three; {0, 1} with itself all. Of 4 channels 2 and 2 share 1 by chance: 1 / 3."""
    for seed, ids in enumerate(([0, 1], [1, 2], [0, 1])):
        made(tmp_path, "a", seed, kept={"x": (4, ids), "whole": (3, [0, 1, 2])})
    (found,) = agreement(entry(tmp_path))
    assert (found.group, found.width, found.kept) == ("x", 4, 2.0)
    assert found.index == pytest.approx((1 / 3 + 1 + 1 / 3) / 3) and found.chance == pytest.approx(1 / 3)
    (section,) = looks_of(entry(tmp_path))
    assert isinstance(section.body, Table) and section.body.rows == (("x", "4", "2.0", "0.556", "0.333"),)
    assert jaccard(frozenset(), frozenset()) == 1.0 and jaccard(frozenset({1}), frozenset({2})) == 0.0


def test_no_agreement_without_two_plans_of_one_network(tmp_path: Path) -> None:
    made(tmp_path, "a", 0, kept={"x": (4, [0])})
    assert agreement(entry(tmp_path)) == []
    made(tmp_path, "a", 1, kept={"y": (4, [0])})
    assert agreement(entry(tmp_path)) == []
    folder = made(tmp_path, "a", 2, kept={"x": (4, [0])})
    (folder / "plan.json").write_text('{"groups": [{"name": "x", "width": "4", "kept": [[]]}]}', "utf-8")
    assert agreement(entry(tmp_path)) == []


def test_values_and_counts_of_a_network() -> None:
    """γ of 1, -2 and 3; filters of norms 5 and 10; 40 bins of .075 from 0 to 3."""
    net = nn.Sequential(nn.Conv2d(1, 2, (1, 2), bias=False), nn.BatchNorm2d(2), nn.BatchNorm1d(1), nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[3.0, 4.0], [6.0, 8.0]]).reshape(2, 1, 1, 2))
        net[1].weight.copy_(torch.tensor([1.0, -2.0]))
        net[2].weight.fill_(3.0)
    found = values_of(net)
    assert found["gamma"].tolist() == [1.0, 2.0, 3.0] and found["filter"].tolist() == [5.0, 10.0]
    before, after, *_ = counted(found, {"gamma": torch.tensor([0.0, float("nan"), 1.0]), "filter": found["filter"]})
    assert (before["when"], before["low"], before["high"], sum(before["counts"])) == ("before", 0.0, 3.0, 3)
    assert [k for k, count in enumerate(before["counts"]) if count] == [13, 26, 39]
    assert (after["counts"][0], after["counts"][13], sum(after["counts"])) == (1, 1, 2)
    assert counted({"gamma": torch.zeros(2)}, {"gamma": torch.zeros(2)})[0]["high"] == 1.0


def test_a_histogram_is_drawn_to_scale() -> None:
    html = draw(Histograms((Histogram("<g>", 0.0, 2.0, (0, 4), (1, 2)),)))
    bars = re.findall(r'<rect class="kept" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', html)
    (a, b) = [tuple(map(float, bar)) for bar in bars]
    assert b[3] == 2 * a[3] and b[0] - a[0] == pytest.approx(138, abs=0.1) and "<g>" not in html
    assert "1 … 2: 2, 4 before" in html and 'class="before"' in html


def test_the_way_to_a_budget(tmp_path: Path) -> None:
    """4 epochs of 500 steps; 70 % of the macs are left after the third: 1.5 thousand steps."""
    sparsity = {"method": "gates", "epochs": 4, "target": "macs=70%,params=150", "options": {"alpha_mac": 5}}
    folder = made(tmp_path, "a", 0, macs=650, sparsity=sparsity)
    content = json.loads((folder / "run.json").read_text("utf-8"))
    stage = {"name": "sparsity", "epochs": 4, "steps": 2000, "training_seconds": 120.0, "knobs": {"alpha_mac": 0.5}}
    content["results"]["stages"].insert(1, stage)
    content["results"]["conventions"] = {"thop": {"before": 2000, "after": 1400}}
    (folder / "run.json").write_text(json.dumps(content), "utf-8")
    shares = [(1, 0.9, 0.9), (2, 0.7, 0.8), (3, 0.7, 0.75), (4, 0.68, 0.7)]
    lines(folder / "shares-sparsity.jsonl", *({"epoch": e, "macs": m, "params": p} for e, m, p in shares))
    found = of_training(entry(tmp_path))
    assert found == {
        "minutes an epoch": pytest.approx(210 / 9 / 60),
        "prune epochs": 4,
        "fine-tune epochs": 2,
        "α": 0.5,
        "budget met, k steps": 1.5,
        "left at the end of training %": 68.0,
        "left after extraction %": 65.0,
    }
    assert budget(entry(tmp_path).first) == {"macs": 0.7, "params": 0.75}
    lines(folder / "shares-sparsity.jsonl", {"epoch": 1, "macs": 0.9, "params": 0.7}, {"epoch": "x"})
    assert met(entry(tmp_path).first) is None
    (row,) = prunus.report(tmp_path, columns=["macs-left-thop", "sparsity.options.alpha_mac"]).rows
    assert row["macs-left-thop"] == 70.0 and row["sparsity.options.alpha_mac"] == 5 and row["α"] == 0.5


def test_a_pending_run_says_what_is_known(tmp_path: Path) -> None:
    begun(tmp_path, "a", 0, sparsity={"method": "gates", "options": {"alpha_mac": 0.1}})
    (row,) = prunus.report(tmp_path).rows
    assert row["α"] == 0.1 and row["status"] == "pending" and "budget met, k steps" not in row


def test_measured_latency_and_sensitivity(tmp_path: Path) -> None:
    folder = made(tmp_path, "a", 0)
    assert latency(entry(tmp_path)) is None and sensitivity(entry(tmp_path)) is None
    row = {"runtime": "eager", "batch": 1, "dense": {"median": 0.004}, "pruned": {"median": 0.0025}}
    (folder / "latency.json").write_text(json.dumps({"rows": [row], "device": "cpu"}), "utf-8")
    curve = {"group": "conv1", "widths": [8, 4, 2], "values": [90.0, 80.0, 50.0]}
    broken = {"group": "b", "widths": [8], "values": []}
    (folder / "sensitivity.json").write_text(json.dumps({"dense": 90.0, "curves": [curve, broken]}), "utf-8")
    assert latency(entry(tmp_path)) == ("eager, batch 1, cpu", 4.0, 2.5)
    plots = sensitivity(entry(tmp_path))
    assert plots is not None and plots.level == 90.0
    assert [line.points for line in plots.lines] == [((0, 90.0), (50, 80.0), (75, 50.0))]
    (section,) = latencies_of([entry(tmp_path)], {"a": "run-1"})
    points = [(point.x, point.y, point.rival) for point in section.body.points]  # type: ignore[union-attr]
    assert points == [(2.5, 85.0, True), (4.0, 90.0, False)]
    prunus.report(tmp_path, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text("utf-8")
    assert "Accuracy against latency" in html and "a: 85.00 at 2.5<" in html and "conv1 (8)" in html
    for name in ("latency.json", "sensitivity.json"):
        (folder / name).write_text('{"rows": [3, {"dense": []}], "curves": [{"widths": [0], "values": [0]}]}', "utf-8")
    assert latency(entry(tmp_path)) is None and sensitivity(entry(tmp_path)) is None


def test_what_a_real_run_records(tmp_path: Path) -> None:
    """Slimming on the digits: γ and filters before and after, the knobs, the steps, the macs by other rules."""
    raw = recipe(tmp_path)
    sparsity = {"method": "slimming", "options": {"lam": 0.1}, "epochs": 2, "batch_size": 32, "lr": 0.1}
    raw |= {"sparsity": sparsity, "prune": {"method": "slimming", "target": "macs=60%"}}
    done = prunus.run(raw, out=tmp_path / "runs", progress=False, say=lambda line: None)
    (found,) = entries(find([done.folder]))
    gamma, filters = histograms_of(found.first).parts
    assert sum(gamma.before) == sum(gamma.after) == 8 and sum(filters.before) == sum(filters.after) == 8

    def middle(counts: tuple[float, ...]) -> float:
        return sum(k * count for k, count in enumerate(counts)) / sum(counts)

    assert middle(gamma.after) < middle(gamma.before)
    stage = next(stage for stage in done.results["stages"] if stage["name"] == "sparsity")
    assert stage["knobs"]["lam"] == 0.1 and stage["steps"] == 2 * 9 and stage["epochs"] == 2
    assert set(done.results["conventions"]) == {"thop", "ptflops", "thop-2020"}
    assert 0 < found.first.figures["macs left thop"] < 100
    names = {path.name for path in found.first.folder.iterdir()}
    assert "histograms-sparsity.jsonl" in names
    assert "histograms-sparsity.jsonl" in json.loads((found.first.folder / "done.json").read_text("utf-8"))["files"]
