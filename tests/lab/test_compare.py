"""Two runs or two plans side by side: the figures by hand, the verdict in words, the channels that both keep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from runfolders import begun, made
from torch import nn

import prunus
from prunus.cli import main
from prunus.errors import InputError, PlanError


def runs(root: Path, name: str, accuracies: dict[int, float], **more: object) -> Path:
    for seed, value in accuracies.items():
        made(root, name, seed, finetuned=value, **more)  # type: ignore[arg-type]
    return root / name


def test_a_difference_is_found_with_enough_seeds(tmp_path: Path) -> None:
    """Differences 1.0, 1.2, 0.8, 1.0: mean 1, sd √(.08/3) = .1633; 3.182 · .1633 / 2 = .2598 on both sides."""
    a = runs(tmp_path, "a", {0: 90.0, 1: 80.0, 2: 85.0, 3: 70.0})
    b = runs(tmp_path, "b", {0: 91.0, 1: 81.2, 2: 85.8, 3: 71.0}, macs=490)
    found = prunus.compare(a, b)
    assert found.verdict.startswith(
        "b is better than a: +1.00 points of fine-tuned accuracy (95 % interval +0.74 … +1.26"
    )
    assert "paired over 4 seeds" in found.verdict and "at 49.00 % of the macs against 50.00 %" in found.verdict
    assert prunus.compare(b, a).verdict.startswith("a is worse than b: -1.00")
    figure = next(figure for figure in found.figures if figure.name == "finetuned")
    assert figure.a is not None and figure.a.mean == pytest.approx(81.25) and figure.a.n == 4
    assert found.settings == {} and found.notes == ()


def test_the_same_means_without_pairs_would_not_tell(tmp_path: Path) -> None:
    """The same figures, in an order in which the seeds do not go together."""
    a = runs(tmp_path, "a", {0: 90.0, 1: 80.0, 2: 85.0, 3: 70.0})
    b = runs(tmp_path, "b", {0: 71.0, 1: 85.8, 2: 81.2, 3: 91.0})
    verdict = prunus.compare(a, b).verdict
    assert verdict.startswith("b and a are not distinguishable: +1.00 points") and "over 4 seeds" in verdict


def test_too_few_seeds(tmp_path: Path) -> None:
    a, b = runs(tmp_path, "a", {0: 90.0}), runs(tmp_path, "b", {0: 95.0, 1: 95.0})
    assert "from 1 seed nothing can be told" in prunus.compare(a, b).verdict
    c = runs(tmp_path, "c", {7: 90.0})
    assert "no seed is in both" in prunus.compare(a, c).verdict
    begun(tmp_path, "a", 1)
    assert prunus.compare(a, b).notes == ("a: 1 of 2 seeds are not done and do not count",)


def test_groups_and_settings(tmp_path: Path) -> None:
    a = made(tmp_path, "a", 0, widths=(("conv1", 8, 4), ("conv2", 16, 16))).parent
    made(tmp_path, "a", 1, widths=(("conv1", 8, 5), ("conv2", 16, 16)))
    b = made(tmp_path, "b", 0, widths=(("conv1", 8, 8), ("fc", 4, 2)), prune={"target": "macs=50%", "method": "fpgm"})
    found = prunus.compare(a, b)
    assert [(g.name, g.dense, g.a, g.b) for g in found.groups] == [
        ("conv1", 8, 4.5, 8.0),
        ("conv2", 16, 16.0, None),
        ("fc", 4, None, 2.0),
    ]
    assert found.settings == {"prune.method": ("magnitude", "fpgm")}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 2, 1))


def plans(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two plans with known kept lists, and the second cut saved with its weights."""
    model, example = net(), torch.randn(1, 1, 8, 8)
    one = prunus.prune(model, example, widths={"0": 4, "2": 8}).plan.keep("0", [0, 1, 2, 3]).keep("2", list(range(8)))
    two = one.keep("0", [2, 3, 4]).keep("2", list(range(4, 16)))
    one.save(tmp_path / "one.json")
    two.save(tmp_path / "two.json")
    prunus.save(prunus.apply(model, two), tmp_path / "two.safetensors", base=two)
    return tmp_path / "one.json", tmp_path / "two.json", tmp_path / "two.safetensors"


def test_two_plans_channel_by_channel(tmp_path: Path) -> None:
    one, two, saved = plans(tmp_path)
    found = prunus.compare(one, two)
    assert [(g.name, g.dense, g.a, g.b, g.shared) for g in found.groups] == [("0", 8, 4, 3, 2), ("2", 16, 8, 12, 4)]
    assert "one.json keeps 12 channels and two.json 15, 6 of them the same ones; 0 of 2 groups" in found.verdict
    assert prunus.compare(one, saved).groups == found.groups


def test_plans_of_runs_are_read_where_they_lie(tmp_path: Path) -> None:
    one, two, _ = plans(tmp_path)
    for name, plan in (("a", one), ("b", two)):
        folder = made(tmp_path, name, 0, widths=(("0", 8, 4), ("2", 16, 8)))
        (folder / "plan.json").write_bytes(plan.read_bytes())
    assert [g.shared for g in prunus.compare(tmp_path / "a", tmp_path / "b").groups] == [2.0, 4.0]
    assert [g.shared for g in prunus.compare(tmp_path / "a" / "seed-0", two).groups] == [2, 4]


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    a = made(tmp_path, "a", 0).parent
    begun(tmp_path, "b", 0)
    made(tmp_path, "c", 0)
    with pytest.raises(InputError, match="no run is done"):
        prunus.compare(a, tmp_path / "b")
    with pytest.raises(InputError, match="holds 3 runs with different settings"):
        prunus.compare(a, tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        prunus.compare(a, tmp_path / "nowhere")
    (tmp_path / "bad.json").write_text("{}", "utf-8")
    with pytest.raises(PlanError):
        prunus.compare(tmp_path / "bad.json", tmp_path / "bad.json")
    with pytest.raises(InputError, match="there is no plan"):
        prunus.compare(a / "nowhere", tmp_path / "bad.json")


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = runs(tmp_path, "a", {0: 90.0, 1: 80.0}), runs(tmp_path, "b", {0: 91.0, 1: 81.2})
    assert main(["compare", str(a), str(b)]) == 0
    text = capsys.readouterr().out
    assert "95 % interval" in text and text.strip().splitlines()[-1].startswith("b ") and "conv2" in text
    assert main(["compare", str(a), str(b), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["names"] == ["a", "b"] and answer["groups"][0]["name"] == "conv1"
    assert main(["compare", str(a), "nowhere"]) == 2


def test_plans_in_memory(tmp_path: Path) -> None:
    """Two cuts of eight channels that keep 0-3 and 2-5: two are the same."""
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    one = prunus.prune(net, torch.randn(1, 1, 6, 6), widths={"0": 4}, check=False)
    a, b = one.plan.keep("0", [0, 1, 2, 3]), one.plan.keep("0", [2, 3, 4, 5])
    found = prunus.compare(a, b)
    assert (found.groups[0].dense, found.groups[0].a, found.groups[0].b, found.groups[0].shared) == (8, 4, 4, 2)
    assert found.verdict.startswith("a keeps 4 channels and b 4, 2 of them the same ones")
    b.save(tmp_path / "second.json")
    assert prunus.compare(one, tmp_path / "second.json").names == ("a", "second.json")
    with pytest.raises(InputError, match="compare takes run folders, files with plans, or plans, not int"):
        prunus.compare(3, a)  # type: ignore[arg-type]
