"""`prunus prune --method weights`, and --rounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from prunus.cli import main

Ask = Callable[..., Any]
WEIGHTS = ("0.weight", "3.weight", "8.weight")
N = 72 + 1152 + 160


def test_prune_leaves_zeros_that_stay_through_later_training(ask: Ask, file: str, tmp_path: Path) -> None:
    out, again = str(tmp_path / "thin"), str(tmp_path / "again")
    training = ("--data", "digits", "--batch-size", "256", "--lr", "0.05")
    answer = ask(
        *("prune", f"{file}:small", *training, "--method", "weights", "--target", "weights=30%"),
        *("--finetune-epochs", "1", "--out", out),
    )
    assert sum(layer["nonzero"] for layer in answer["sparsity"]["layers"]) == int(0.3 * N)
    assert answer["after"]["params"] == answer["before"]["params"]
    assert answer["sparsity"]["bytes_on_disk"]["deflated"] < answer["sparsity"]["bytes_on_disk"]["dense"]
    found = load_file(Path(out) / "model.safetensors")
    assert sum(int(found[name].count_nonzero()) for name in WEIGHTS) == int(0.3 * N)
    ask("finetune", "--from", out, *training, "--epochs", "1", "--hold-zeros", "--out", again)
    held = load_file(Path(again) / "model.safetensors")
    assert all(((held[name] == 0) == (found[name] == 0)).all() for name in WEIGHTS)
    assert any((held[name] != found[name]).any() for name in WEIGHTS)
    assert ask("prune", "--from", again, "--target", "channels=50%")["after"]["params"] < answer["after"]["params"]


def test_a_row_for_each_number_of_rounds(ask: Ask, file: str, tmp_path: Path) -> None:
    out = tmp_path / "series"
    answer = ask(
        *("prune", f"{file}:small", "--data", "digits", "--batch-size", "256", "--method", "weights"),
        *("--rounds", "1,2", "--finetune-epochs", "1", "--out", str(out)),
    )
    assert (answer["target"], answer["rate_of"]) == ("weights=30%", "remaining")
    assert [row["rounds"] for row in answer["rows"]] == [0, 1, 2]
    left = [sum(x["nonzero"] for x in row["sparsity"]["layers"]) for row in answer["rows"][1:]]
    assert left == [415, 124]  # ⌊.3 · 1384⌋, ⌊.3 · 415⌋
    for r, row in ((1, answer["rows"][1]), (2, answer["rows"][2])):
        measured = ask("eval", "--from", str(out / f"rounds-{r}"), "--data", "digits")
        assert measured["top1"] == pytest.approx(row["top1"])
    found = json.loads((out / "rounds-2" / "run.json").read_text("utf-8"))
    assert found["results"]["rounds"] == 2


def test_the_table_names_what_the_rate_is_of(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("prune", f"{file}:small", "--data", "digits", "--batch-size", "256", "--method", "weights")
    assert main([*words, "--rounds", "1", "--finetune-epochs", "1", "--option", "rate_of=whole"]) == 0
    shown = capsys.readouterr().out
    assert "weights=30% of the whole, in the last round" in shown
    assert "top-1 (rounds/epochs/batch)" in shown and "(1/1/256)" in shown and "dense" in shown
    assert main([*words[:2], *words[-2:], "--input", "1,8,8", "--option", "pattern=2:4"]) == 0
    shown = capsys.readouterr().out
    assert "do not speed up dense kernels" in shown and "2:4" in shown and "without the 2:4 pattern: 0.weight" in shown


def test_a_run_tells_its_data_and_its_epochs(
    ask: Ask, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    """`prunus train …`, then `prunus prune --from RUN --method weights --rounds 1,2`."""
    run = str(tmp_path / "dense")
    ask("train", f"{file}:small", "--data", "digits", "--batch-size", "256", "--epochs", "2", "--out", run)
    answer = ask("prune", "--from", run, "--method", "weights", "--rounds", "1,2", "--batch-size", "256")
    assert answer["data"] == "digits" and [row["epochs"] for row in answer["rows"]] == [0, 2, 2]
    assert main(["eval", "--from", run]) == 0
    assert "data: digits, on which the run of --from was trained" in capsys.readouterr().err
    told = json.loads((Path(run) / "run.json").read_text("utf-8"))
    for name in ("data.py:loaders", "someone/else", 3):  # neither code nor another's set on a hub
        told["results"]["data"] = name
        (Path(run) / "run.json").write_text(json.dumps(told), encoding="utf-8")
        assert "no data; give --data" in refused("eval", "--from", run)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--method", "weights"], ["nothing says how much stays"]),
        (["--method", "weights", "--target", "macs=50%"], ["macs=", "weights=30%"]),
        (["--target", "weights=30%"], ["single weights", "the method 'weights'"]),
        (["--method", "weights", "--rounds", "1,x"], ["'1,x' is no list of rounds", "1,3,5"]),
        (["--method", "weights", "--rounds", "1"], ["--finetune-epochs"]),
        (["--method", "weights", "--rewind", "x"], ["--rounds"]),
        (["--method", "l1", "--rounds", "1", "--target", "macs=50%"], ["rounds are for the method 'weights'"]),
    ],
)
def test_wrong_words_get_one_line(words: list[str], parts: list[str], refused: Callable[..., str]) -> None:
    line = refused("prune", "resnet20", "--input", "3,32,32", *words)
    assert all(part in line for part in parts), line
