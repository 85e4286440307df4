"""benchmarks/protocol.py: its verdicts, what a definition is, and a tiny run that is not repeated."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from prunus.errors import InputError
from prunus.methods import METHODS, Magnitude


def record(seed: int, finetuned: float) -> dict[str, Any]:
    accuracy = {"before": 93.0, "cut": 10.0 + seed, "finetuned": finetuned}
    dense = {"macs": 100, "params": 200, "accuracy": 93.0}
    seconds = {"choosing": 1.0, "training": 2.0}
    return {"seed": seed, "accuracy": accuracy, "macs": 49, "params": 80, "dense": dense, "seconds": seconds} | {
        "epochs": [0, 4]
    }


@pytest.mark.parametrize(
    ("ahead", "cells"),
    [
        # mean .2, sd .1, half = 4.303 * .1 / sqrt(3) = .248
        ((0.1, 0.2, 0.3), "| +0.20 | -0.05 … +0.45 | not distinguishable |"),
        ((0.2, 0.3, 0.4), "| +0.30 | +0.05 … +0.55 | better |"),
        ((-0.2, -0.3, -0.4), "| -0.30 | -0.55 … -0.05 | worse |"),
        ((0.3,), "| +0.30 | one pair |  |"),
    ],
)
def test_a_verdict_needs_the_whole_interval(ahead: tuple[float, ...], cells: str) -> None:
    from protocol_rows import chosen
    from protocol_table import table

    control = [record(s, 80.0 + s) for s in range(3)]
    mine = [record(s, 80.0 + s + d) for s, d in enumerate(ahead)]
    lines = table({"random": control, "lamp": mine}, chosen("random;lamp"), (0, 1, 2))
    assert cells in lines[-1]
    assert ("incomplete: 1 of 3 seeds" in lines[-1]) == (len(ahead) == 1)
    # mean 81, sd 1, half = 4.303 / sqrt(3); what is the same for all seeds is one number
    assert "| 49.00 % | 40.00 % | 93.00 | 11.00 ± 1.00 (8.52 … 13.48) | 81.00 ± 1.00 (78.52 … 83.48) |" in lines[2]
    assert "| control |" in lines[2] and "| 1, 2 |" in lines[2]
    alone = table({"lamp": mine}, chosen("lamp"), (0, 1, 2))[-1]
    assert alone.endswith("|  |  |  | 1, 2 |")


def test_a_definition_is_settings_and_code_without_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from protocol_rows import Row, digest

    monkeypatch.syspath_prepend(str(tmp_path))

    def of(package: str, words: str, code: str) -> str:
        """The digest of a class whose module imports `code` from one beside it."""
        place = tmp_path / package
        place.mkdir()
        (place / "__init__.py").write_text("")
        (place / "score.py").write_text(f"FIXED = {len(words)}\n")
        (place / "inner.py").write_text(f'def f(x):\n    """{words}"""\n    {code}\n')
        body = f"class M:\n    '{words}'\n    def g(self):\n        from .inner import f  # {words}\n"
        (place / "outer.py").write_text(f'"""{words}"""\nfrom .score import FIXED\n{body}        return f(FIXED)\n')
        return digest([importlib.import_module(f"{package}.outer").M()])

    first = of("made_1", "some words", "return x + 1")
    assert of("made_2", "other words, and more of them", "return x + 1") == first
    assert of("made_3", "some words", "return x + 2") != first
    plain = Row("a", "score", Magnitude())
    assert plain.definition() == Row("b", "control", Magnitude()).definition()
    assert plain.definition() != Row("a", "score", Magnitude(p=1)).definition()
    assert plain.definition() != Row("a", "repair", Magnitude(), repair=("fold",)).definition()
    assert plain.definition() != Row("a", "score", Magnitude(), target="max_rate=80%").definition()


def test_every_method_that_removes_channels_has_a_row() -> None:
    from protocol_rows import chosen, rows

    every = rows()
    assert len({row.name for row in every}) == len(every)
    used = {type(row.method) for row in every}
    # `weights` removes no channels; whatever is added to the table of methods must be added here.
    assert {type(method) for name, (method, _) in METHODS.items() if name != "weights"} <= used
    assert [row.epochs(4, 20) for row in chosen("random;slimming;small net*")] == [(0, 4), (0, 4), (0, 20), (2, 2)]
    assert chosen("gates, bounded")[0].goal(30.0) == "macs=30%,max_rate=80%"
    with pytest.raises(InputError, match="no row is called 'rendom'"):
        chosen("random;rendom")


@dataclass(frozen=True)
class Failing:
    scope: str | None = None

    def score(self, model: nn.Module, coupling: Any, *, seed: int = 0) -> Any:
        raise InputError("on purpose")


def test_it_runs_and_a_second_start_runs_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    images: list[str],
    weights: list[str],
) -> None:
    import protocol
    import protocol_rows

    page = tmp_path / "page.md"
    page.write_text("<!-- protocol: begin -->\n<!-- protocol: end -->\n")
    given = [*weights, *images, "--epochs", "2"]
    given += ["--results", str(tmp_path / "r.jsonl"), "--page", str(page), "--device", "cpu", "--targets", "50"]
    given += ["--only", "random;small net from scratch;slimming;l2, global, then fold", "--seeds", "0"]
    assert protocol.main(given) == 0
    by = {r["row"]: r for r in map(json.loads, (tmp_path / "r.jsonl").read_text().splitlines())}
    assert len(by) == 4 and all(r["proof"] and r["macs"] <= 0.5 * r["dense"]["macs"] for r in by.values())
    assert by["slimming"]["epochs"] == [1, 1] and by["random"]["epochs"] == [0, 2]
    assert by["slimming"]["accuracy"]["before"] is not None
    assert "repaired after the proof: fold" in by["l2, global, then fold"]["notes"]
    widths = dict(by["small net from scratch"]["widths"])
    assert widths["layer1.0.conv1"] / 16 == pytest.approx(widths["layer3.0.conv1"] / 64, abs=1 / 16)
    assert str(tmp_path) not in (tmp_path / "r.jsonl").read_text()
    capsys.readouterr()
    assert protocol.main([*given, "--report"]) == 0
    assert "| slimming | sparsity training | 1, 1 |" in page.read_text()
    before = (tmp_path / "r.jsonl").read_text()
    assert protocol.main(given) == 0
    assert (tmp_path / "r.jsonl").read_text() == before
    assert protocol.main([*given, "--only", "nothing"]) == 2

    made = protocol_rows.rows()
    extra = protocol_rows.Row("broken", "score", Failing())
    monkeypatch.setattr(protocol_rows, "rows", lambda: (extra, *made))
    assert protocol.main([*given, "--only", "broken;random"]) == 1, "the others are reported all the same"
    assert "seed 0  50 %  broken: InputError: on purpose" in capsys.readouterr().err
