"""Every verb on small real work: the keys of its answer and the numbers in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared import SHARED, needs

from prunus.cli import main

Ask = Callable[..., Any]

SMALL_MACS = 8 * 64 * 9 + 16 * 16 * 8 * 9 + 16 * 10  # conv 8×8, conv 4×4, linear
SMALL_PARAMS = 8 * 9 + 8 + 16 + 16 * 8 * 9 + 16 + 32 + 170


def test_cost_counts_what_paper_and_pencil_count(ask: Ask, file: str) -> None:
    answer = ask("cost", f"{file}:small", "--input", "1,8,8")
    assert {"macs", "params", "bytes", "convention"} <= set(answer)
    assert (answer["macs"], answer["params"], answer["convention"]) == (SMALL_MACS, SMALL_PARAMS, "macs")
    assert answer["bytes"] == 4 * (SMALL_PARAMS + 48) + 2 * 8  # running statistics, and two int64 counters


def test_cost_by_convention_and_by_module(ask: Ask) -> None:
    assert ask("cost", "resnet56", "--input", "3,32,32")["macs"] == 125_485_696
    answer = ask("cost", "resnet20", "--input", "3,32,32", "--convention", "thop", "--by-module")
    assert answer["convention"] == "thop" and answer["macs"] > 40_551_424
    assert answer["by_module"]["conv1"] == 32 * 32 * 16 * 27


def test_cost_at_rates(ask: Ask, file: str) -> None:
    answer = ask("cost", f"{file}:small", "--input", "1,8,8", "--rates", "[0.5]+[0.75]")
    assert answer["macs"] == 4 * 64 * 9 + 16 * 4 * 4 * 9 + 4 * 10


@needs("spec", "accounting.json")
@pytest.mark.parametrize("net", ["vgg16", "resnet56"])
def test_cost_at_published_rates(net: str, ask: Ask) -> None:
    rows = json.loads((SHARED / "spec" / "accounting.json").read_text("utf-8"))["rows"]
    (row,) = (row for row in rows if row["row"] == f"{net} pruned")
    answer = ask("cost", net, "--input", "3,32,32", "--rates", row["cprate"], "--keep-rule", "float-truncate")
    assert (answer["macs"], answer["params"]) == (row["macs_only"], row["computed_params"])


def test_classes_set_the_size_of_the_classifier(ask: Ask) -> None:
    ten, hundred = (ask("cost", "resnet20", "--classes", n, "--input", "3,32,32") for n in ("10", "100"))
    assert hundred["params"] - ten["params"] == 90 * 65


def test_inspect(ask: Ask, file: str) -> None:
    answer = ask("inspect", f"{file}:small", "--input", "1,8,8")
    assert {"groups", "pinned", "unknown_ops"} <= set(answer)
    assert [(group["name"], group["width"]) for group in answer["groups"]] == [("0", 8), ("3", 16)]
    assert {"tensor": "3.weight", "axis": 1, "role": "in"} in answer["groups"][0]["ties"]
    assert answer["unknown_ops"] == []
    assert [pin["width"] for pin in answer["pinned"]] == [1, 10] and all(pin["reason"] for pin in answer["pinned"])


def test_inspect_rates_gives_the_published_order(ask: Ask) -> None:
    (order,) = ask("inspect", "resnet20", "--input", "3,32,32", "--rates")["rate_lists"]
    assert [entry["number"] for entry in order] == list(range(12))
    assert [entry["widths"] for entry in order] == [[16]] * 3 + [[32]] * 3 + [[64]] * 3 + [[16], [32], [64]]
    assert order[9]["groups"] == ["conv1"]


def test_models_and_methods(ask: Ask) -> None:
    assert {"resnet20", "resnet56", "resnet110", "vgg16", "googlenet", "densenet40", "mobilenetv1"} <= set(
        ask("models")["bundled"]
    )
    found = ask("models", "resnet18")
    assert "torchvision/resnet18" in found["torchvision"] and "timm/resnet18" in found["timm"]
    assert {"magnitude", "l1", "l2", "slimming", "random", "uniform"} <= {m["name"] for m in ask("methods")["methods"]}


def test_the_whole_chain(ask: Ask, file: str, tmp_path: Path) -> None:
    """Train, save, prune from what was saved, prune that again; every stage is read back with the same accuracy."""
    first, second, third = (str(tmp_path / name) for name in ("first", "second", "third"))
    data = ("--data", "digits", "--batch-size", "64")
    trained = ask("finetune", f"{file}:small", *data, "--epochs", "4", "--lr", ".1", "--out", first)
    assert trained["accuracy"]["finetuned"] > 80 > trained["accuracy"]["before"]
    assert ask("eval", "--from", first, *data)["top1"] == trained["accuracy"]["finetuned"]

    options = ("--method", "l1", "--finetune-epochs", "2", "--out", second)
    answer = ask("prune", "--from", first, *data, "--target", "macs=50%", *options)
    assert {"before", "after", "target", "verified", "pinned", "accuracy"} <= set(answer)
    assert answer["target"] == "macs=50%" and answer["verified"] is True
    assert answer["before"]["macs"] == SMALL_MACS and answer["after"]["macs"] <= SMALL_MACS / 2
    assert [width["dense"] for width in answer["widths"]] == [8, 16]
    accuracy = answer["accuracy"]
    assert accuracy["before"] == trained["accuracy"]["finetuned"]
    assert accuracy["finetuned"] > accuracy["cut"]
    assert ask("eval", "--from", second, *data)["top1"] == accuracy["finetuned"]
    assert ask("cost", "--from", second)["macs"] == answer["after"]["macs"]

    again = ask("prune", "--from", second, *data, "--target", "params=60%", "--out", third)
    assert again["before"]["params"] == answer["after"]["params"]
    assert ask("cost", "--from", third)["params"] == again["after"]["params"] <= 0.6 * answer["after"]["params"]
    assert ask("eval", "--from", f"{third}/model.safetensors", *data)["top1"] == again["accuracy"]["cut"]


def test_a_run_remembers_its_preprocessing(ask: Ask, file: str, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    words = ("--data", "digits", "--mean", ".25", "--std", ".5", "--target", "macs=80%", "--out", out)
    answer = ask("prune", f"{file}:small", *words)
    described = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["description"]
    assert (described["mean"], described["std"], described["input"]) == ([0.25], [0.5], [1, 8, 8])
    assert ask("eval", "--from", out, "--data", "digits")["top1"] == answer["accuracy"]["cut"]


def test_a_bundled_network_takes_grey_images(ask: Ask, tmp_path: Path) -> None:
    words = ("--data", "digits", "--epochs", "1", "--out", str(tmp_path / "run"))
    assert ask("train", "resnet20", *words)["accuracy"]["trained"] > 30
    answer = ask("prune", "--from", str(tmp_path / "run"), "--target", "macs=50%")
    assert answer["before"]["macs"] == 2_516_608 and answer["verified"]


def test_sensitivity_measures_each_group_and_draws(ask: Ask, file: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    words = ("--data", "digits", "--images", "100", "--at", "0.5", "--html", str(page))
    answer = ask("sensitivity", f"{file}:small", *words)
    assert [(curve["group"], curve["widths"]) for curve in answer["curves"]] == [("0", [8, 4]), ("3", [16, 8])]
    assert all(curve["values"][0] == answer["dense"] for curve in answer["curves"])
    assert page.read_text("utf-8").count("<figure>") == 2


def test_prune_without_data(ask: Ask, file: str) -> None:
    answer = ask("prune", f"{file}:small", "--input", "1,8,8", "--widths", "0=4,3=9", "--method", "random")
    assert answer["widths"] == [{"group": "0", "dense": 8, "kept": 4}, {"group": "3", "dense": 16, "kept": 9}]
    assert answer["accuracy"] == {"before": None, "cut": None, "finetuned": None}
    assert answer["out"] is None and answer["verified"] is True


def test_pins_rates_and_dropped_blocks(ask: Ask) -> None:
    where = ("resnet20", "--input", "3,16,16")
    pinned = ask("prune", *where, "--target", "macs=60%", "--pin", "layer1.*", "--method", "uniform")
    assert not [width["group"] for width in pinned["widths"] if width["group"].startswith("layer1")]
    assert [pin for pin in pinned["pinned"] if pin["name"].startswith("layer1")]
    rated = ask("prune", *where, "--rates", "layer3.*.conv1=.5", "--method", "uniform")
    assert [w["kept"] for w in rated["widths"] if w["kept"] != w["dense"]] == [32] * 3
    dropped = ask("prune", *where, "--drop", "layer2.1,layer3.2")
    assert dropped["dropped"] == ["layer2.1", "layer3.2"] and dropped["verified"] is True


def test_people_read_the_same(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", f"{file}:small", "--input", "1,8,8", "--target", "macs=50%"]) == 0
    text = capsys.readouterr().out
    assert f"{SMALL_MACS:,}" in text and "pinned" in text
    assert main(["inspect", f"{file}:small", "--input", "1,8,8"]) == 0
    assert "2 groups" in capsys.readouterr().out
    for words in (["models"], ["methods"], ["cost", "resnet20", "--input", "3,32,32", "--by-module"]):
        assert main(words) == 0
        assert capsys.readouterr().out.count("\n") > 3
    assert main(["eval", f"{file}:small", "--data", "digits"]) == 0
    assert "top-1" in capsys.readouterr().out


@needs("weights", "cifar10-resnet")
@needs("data", "cifar10")
def test_eval_prints_the_published_accuracy(ask: Ask) -> None:
    """resnet20 on CIFAR-10, fp32: 91.73 %."""
    weights = str(SHARED / "weights" / "cifar10-resnet" / "resnet20-12fca82f.th")
    words = ("--weights", weights, "--data", str(SHARED / "data" / "cifar10"))
    answer = ask("eval", "resnet20", *words, "--mean", ".485,.456,.406", "--std", ".229,.224,.225")
    assert round(answer["top1"], 2) == 91.73 and answer["n"] == 10_000


def test_a_factory_is_told_the_number_of_classes_where_it_can_be(tmp_path: Path, ask: Ask) -> None:
    file, data = tmp_path / "nets.py", tmp_path / "two.npz"
    np.savez(data, images=np.zeros((12, 4, 4), np.uint8), labels=np.arange(12) % 2)
    file.write_text(
        "from torch import nn\n"
        "def told(classes=10): return nn.Sequential(nn.Flatten(), nn.Linear(16, classes))\n"
        "def fixed(): return told()\n",
        encoding="utf-8",
    )
    for name, classes in (("told", 2), ("fixed", 10)):
        words = ("train", f"{file}:{name}", "--data", str(data), "--epochs", "1", "--device", "cpu")
        ask(*words, "--out", str(tmp_path / name))
        assert ask("cost", "--from", str(tmp_path / name))["params"] == 16 * classes + classes
        ask("eval", "--from", str(tmp_path / name), "--data", str(data))
    assert ask("cost", f"{file}:told", "--input", "1,4,4")["params"] == 170
