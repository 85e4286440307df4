"""The verbs run, recipe and train: the bundled recipe from end to end, what they print, and how they stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shared import ROOT

import prunus.engine.watch
from prunus.cli import main

Ask = Callable[..., Any]
DIGITS = str(ROOT / "recipes" / "digits-resnet20-slimming.toml")


def test_the_digits_recipe_in_small(ask: Ask, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("run", DIGITS, "--smoke", "--out", str(tmp_path))
    answer = ask(*words)
    (one,) = answer["runs"]
    assert [(stage["name"], stage["status"]) for stage in one["stages"]] == [
        (name, "ran") for name in ("baseline", "sparsity", "prune", "finetune", "evaluate")
    ]
    assert one["left"]["macs"] <= 0.5 and one["verified"] is True
    assert answer["summary"]["finetuned"]["mean"] == one["accuracy"]["finetuned"]
    again = ask(*words)
    assert {stage["status"] for stage in again["runs"][0]["stages"]} == {"reused"}
    changed = ask(*words, "--set", "finetune.lr=.01")
    assert [s["name"] for s in changed["runs"][0]["stages"] if s["status"] == "ran"] == ["finetune", "evaluate"]
    folder = str(tmp_path / "digits-resnet20-slimming-smoke")
    assert ask("cost", "--from", folder)["macs"] == changed["runs"][0]["after"]["macs"]
    assert main([*words, "--skip", "finetune"]) == 0
    captured = capsys.readouterr()
    assert "finetune: skipped, asked for" in captured.err and "baseline: reused" in captured.err
    assert "accuracy on the test part" in captured.out and folder in captured.out


def test_show(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask("recipe", "show", DIGITS, "--set", "train.epochs=7", "--set", "finetune=")
    assert answer["settings"]["train"]["epochs"] == 7 and answer["stages"]["finetune"] == "skipped: no [finetune]"
    assert "slimming, lam=0.01" in answer["stages"]["sparsity"]
    assert main(["recipe", "show", DIGITS]) == 0
    text = capsys.readouterr().out
    assert "[train]\nepochs = 6\n" in text and "taught by the network at full size" in text


def test_check_and_time(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask("recipe", "check", DIGITS, "--smoke", "--time")
    assert "1 x 8 x 8" in answer["found"]["data"] and "of the macs stay" in answer["found"]["prune"]
    assert [price["stage"] for price in answer["time"]] == ["baseline", "sparsity", "finetune"]
    for price in answer["time"]:
        seconds = price["epochs"] * (price["steps"] * price["seconds_a_step"] + price["validation"])
        assert price["hours"] == pytest.approx(seconds / 3600) and 0 < price["seconds_a_step"] < 5
    assert answer["hours"] == pytest.approx(sum(price["hours"] for price in answer["time"]))


def test_schema(ask: Ask) -> None:
    assert ask("recipe", "schema") == json.loads((ROOT / "recipes" / "schema.json").read_text("utf-8"))


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["run", "nowhere.toml"], ["nowhere.toml", "cannot be read"]),
        (["run", DIGITS, "--set", "train.epoch=1"], ["train.epoch: unknown; did you mean 'epochs'"]),
        (["run", DIGITS, "--skip", "prun"], ["'prun'", "did you mean 'prune'"]),
        (["run", DIGITS, "--from-stage", "tune"], ["'tune'", "finetune, prune"]),
        (["recipe", "chek", DIGITS], ["'chek'", "did you mean 'check'"]),
        (["recipe", "check"], ["no recipe"]),
        (["recipe", "check", DIGITS, "--set", "prune.target=macs=0.001%"], ["macs", "smallest"]),
        (["recipe", "check", DIGITS, "--set", "data.path=no/such/folder"], ["no/such/folder"]),
        (["recipe", "check", DIGITS, "--set", "model.name=resnet65"], ["'resnet65'", "did you mean 'resnet56'"]),
        (["recipe", "check", DIGITS, "--set", "model.classes=3"], ["3 outputs for 10 classes"]),
        (["recipe", "check", DIGITS, "--set", "sparsity.method=random"], ["options.lam: unknown"]),
        (
            ["recipe", "check", DIGITS, "--set", "sparsity.method=random", "--set", "sparsity.options="],
            ["'random' has no training part", "slimming"],
        ),
        (["train", "resnet20", "--data", "digits", "--resume"], ["--resume", "--out"]),
        (["train", "resnet20", "--data", "digits", "--option", "lam=1"], ["--option", "--method"]),
        (["train", "resnet20", "--data", "digits", "--method", "random", "--epochs", "1"], ["'random'", "slimming"]),
        (["train", "resnet20", "--data", "digits", "--validation", "1"], ["--validation", "'1'"]),
        (["train", "resnet20", "--data", "digits", "--selection", "best"], ["selection='best'", "validation"]),
    ],
)
def test_wrong_words(
    words: list[str], parts: list[str], refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused(*words)
    assert [part for part in parts if part not in line] == [], line


def interrupting(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: object, done: object, epochs: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prunus.engine.watch.JsonLines, "epoch", stop)


def test_an_interrupted_run_says_how_to_go_on(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ["run", DIGITS, "--smoke", "--set", f"model.name={file}:small", "--out", str(tmp_path / "runs"), "--json"]
    with monkeypatch.context() as patched:
        interrupting(patched)
        assert main(words) == 130
    error = capsys.readouterr().err
    assert error == "prunus run: interrupted; the same command goes on from the last checkpoint\n"
    assert main(words) == 0


def test_train_resumes(ask: Ask, file: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path / "net")
    words = ("train", f"{file}:small", "--data", "digits", "--batch-size", "64", "--epochs", "2", "--out", out)
    with pytest.MonkeyPatch.context() as patched:
        interrupting(patched)
        assert main([*words, "--json"]) == 130
    assert capsys.readouterr().err == "prunus train: interrupted; the same words and --resume go on from here\n"
    answer = ask(*words, "--resume")
    assert [epoch["epoch"] for epoch in answer["epochs"]] == [1, 2]
    straight = ask(*words[:-1], str(tmp_path / "straight"))
    assert straight["accuracy"] == answer["accuracy"]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("net", "straight")]
    assert weights[0] == weights[1]


def test_train_with_a_method_and_a_teacher(ask: Ask, file: str, tmp_path: Path) -> None:
    dense, small, better = (str(tmp_path / name) for name in ("dense", "small", "better"))
    data = ("--data", "digits", "--batch-size", "64", "--lr", ".1")
    sparse = ("--method", "slimming", "--option", "lam=.01", "--validation", ".1", "--selection", "best")
    answer = ask("train", f"{file}:small", *data, "--epochs", "2", *sparse, "--out", dense)
    assert answer["method"] == "slimming" and answer["selection"] == "validation" and answer["best"] in (1, 2)
    assert all(epoch["penalty"] > 0 for epoch in answer["epochs"])
    assert (tmp_path / "dense" / "metrics.jsonl").read_text("utf-8").count("\n") == 2
    ask("prune", "--from", dense, "--data", "digits", "--target", "macs=50%", "--method", "slimming", "--out", small)
    taught = ask("finetune", "--from", small, *data, "--epochs", "1", "--teacher", dense, "--distil-weight", ".9")
    alone = ask("finetune", "--from", small, *data, "--epochs", "1", "--out", better)
    assert taught["accuracy"]["before"] == alone["accuracy"]["before"]
    assert taught["epochs"][0]["loss"] != alone["epochs"][0]["loss"]
