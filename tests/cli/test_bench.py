"""`prunus bench`: one network, a network and its cut, a run and the network it was cut from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunus.cli import main

Ask = Callable[..., Any]
QUICK = ("--seconds", "0.1", "--threads", "1")


def test_dense_against_pruned(ask: Ask, file: str) -> None:
    answer = ask("bench", f"{file}:small", "--input", "1,8,8", "--target", "macs=50%", "--batch", "1,4", *QUICK)
    assert [row["batch"] for row in answer["rows"]] == [1, 4] and 0.4 < answer["macs"] <= 0.5
    for row in answer["rows"]:
        assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
        assert row["images_per_second"][0] == pytest.approx(row["batch"] / row["dense"]["median"])
    assert {"layers", "hardware", "threads", "versions", "verdict"} <= set(answer)


def test_a_run_is_timed_against_what_it_was_cut_from(ask: Ask, file: str, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    ask("prune", f"{file}:small", "--input", "1,8,8", "--target", "macs=50%", "--out", out)
    answer = ask("bench", "--from", out, *QUICK)
    assert answer["macs"] <= 0.5 and answer["rows"][0]["pruned"] is not None


def test_people_read_a_table_and_a_verdict(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", f"{file}:small", "--input", "1,8,8", "--target", "macs=50%", "--layers", "2", *QUICK]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "dense/itself" in out and "layer, eager" in out and "of the MACs" in out


def test_wrong_words(refused: Callable[..., str], file: str, tmp_path: Path, ask: Ask) -> None:
    words = ("bench", f"{file}:small", "--input", "1,8,8")
    assert "eager" in refused(*words, "--runtime", "eagr")
    assert "at least 1" in refused(*words, "--batch", "1,0")
    out = str(tmp_path / "run")
    ask("prune", f"{file}:small", "--input", "1,8,8", "--target", "macs=50%", "--out", out)
    assert "leave out --target" in refused("bench", "--from", out, "--target", "macs=50%")
