"""`prunus prune` with methods that read data, settings of a method, and several cuts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Ask = Callable[..., Any]


def test_a_method_that_reads_data_in_steps(ask: Ask, file: str) -> None:
    words = ("prune", f"{file}:small", "--data", "digits", "--target", "macs=50%", "--device", "cpu")
    answer = ask(*words, "--method", "taylor", "--option", "batches=1", "--steps", "2", "--schedule", "cubic")
    assert answer["verified"] and answer["method"] == "taylor" and answer["left"]["macs"] <= 0.5
    assert answer == ask(
        *words, "--method", "taylor", "--option", "batches=1", "--steps", "2", "--schedule", "cubic"
    ) | {"proof": answer["proof"]}


def test_settings_of_a_method(ask: Ask, refused: Callable[..., str], file: str) -> None:
    words = ("prune", f"{file}:small", "--input", "1,8,8", "--target", "channels=50%")
    one, two = (ask(*words, "--option", f"p={p}")["widths"] for p in (1, 2))
    assert one != two or one == ask(*words, "--method", "l1")["widths"]
    assert "normalise" in refused(*words, "--option", "normalize=false")


def test_what_is_missing(refused: Callable[..., str], file: str) -> None:
    words = ("prune", f"{file}:small", "--input", "1,8,8", "--target", "macs=50%")
    assert "no data; give --data" in refused(*words, "--method", "taylor")
    assert "--steps" in refused(*words, "--steps", "0")
    assert "--schedule" in refused(*words, "--schedule", "square")


def test_repairs_follow_the_cut_and_are_noted(ask: Ask, file: str) -> None:
    words = ("prune", f"{file}:small", "--data", "digits", "--target", "macs=50%")
    plain, mended = ask(*words), ask(*words, "--repair", "reconstruct,statistics")
    assert plain["widths"] == mended["widths"] and mended["verified"]
    assert any("repaired after the proof: reconstruct, statistics" in note for note in mended["notes"])


def test_a_repair_without_data_is_refused(refused: Callable[..., str], file: str) -> None:
    words = ("prune", f"{file}:small", "--input", "1,8,8", "--target", "macs=50%")
    assert "no data; give --data" in refused(*words, "--repair", "statistics")
    assert "fold" in refused(*words, "--repair", "foil")


def test_a_latency_is_predicted_measured_and_reported(ask: Ask, file: str, tmp_path: Path, monkeypatch: Any) -> None:
    from dataclasses import replace

    import prunus.api
    from prunus.latency.machine import machine

    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        prunus.api, "machine", lambda runtime, model: replace(machine(runtime, model), seconds=1.0, processes=2)
    )
    answer = ask("prune", f"{file}:slow", "--input", "1,24,24", "--target", "latency=95%", "--on", "channels_last")
    found = answer["latency"]
    assert found["asked"] == "95%" and found["runtime"] == "channels_last"
    assert 0 < found["predicted"] < 1 and found["measured"]["low"] <= found["measured"]["high"]
    assert found["holds"] == (found["measured"]["median"] <= 0.95) and found["points"] > 0
    assert answer["target"] == "latency=95%,on=channels_last" and answer["verified"]
