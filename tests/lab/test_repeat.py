"""A recipe with several seeds: which they are, what is left behind, what happens when one fails; on the digits."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import prunus
from prunus.cli import main
from prunus.engine.history import Epoch
from prunus.errors import InputError, PrunusError, StorageError
from prunus.lab import chain
from prunus.lab.environment import without_places_in
from prunus.lab.explain import toml
from prunus.lab.recipe import load
from prunus.lab.repeat import repeated
from prunus.lab.run import Finished
from prunus.lab.runs import entries, find, flat
from prunus.lab.shares import Shares

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NET = """
from torch import nn

def small():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10),
    )
"""
Go = Callable[..., Finished]


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "nets.py").write_text(NET, encoding="utf-8")
    some = {"epochs": 1, "batch_size": 32, "lr": 0.1}
    return {
        "name": "tiny",
        "model": {"name": f"{tmp_path / 'nets.py'}:small"},
        "data": {"path": "digits", "limit": 160},
        "train": some,
        "prune": {"target": "macs=60%"},
        "finetune": some,
    }


@pytest.fixture
def go(tmp_path: Path) -> Go:
    def call(recipe: Any, *overrides: str, lines: list[str] | None = None, **more: Any) -> Finished:
        told = [] if lines is None else lines
        return prunus.run(recipe, overrides, out=tmp_path / "runs", progress=False, say=told.append, **more)

    return call


def breaking(monkeypatch: pytest.MonkeyPatch, seeds: set[int], error: BaseException) -> None:
    """Let the cut of these seeds end in an error."""
    cut = chain.cut

    def breaks(bench: chain.Bench, *places: Any) -> None:
        if bench.runtime.seed in seeds:
            raise error
        cut(bench, *places)

    monkeypatch.setattr(chain, "cut", breaks)


def test_which_seeds(raw: dict[str, Any]) -> None:
    def seeds(repeat: int | None, *words: str) -> tuple[int, ...]:
        return repeated(load(raw, words), repeat)

    assert seeds(None) == (0,) and seeds(3) == (0, 1, 2) and seeds(2, "seed=7") == (7, 8)
    assert seeds(4, "seeds=[3, 1]") == (3, 1, 4, 5) and seeds(1, "seeds=[3, 1]") == (3,)
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="at least 1"):
            repeated(load(raw), wrong)  # type: ignore[arg-type]


def test_three_seeds_and_what_they_leave(raw: dict[str, Any], go: Go) -> None:
    finished = go(raw, repeat=3)
    assert finished.seeds == (0, 1, 2) and finished.failed == ()
    for stage in ("cut", "finetuned"):
        for metric, name in (("top1", stage), ("top5", f"{stage} top5"), ("loss", f"{stage} loss")):
            values = [one.results["test"][stage][metric] for one in finished.chains]
            found = finished.summary[name]
            assert found["n"] == 3 and found["mean"] == pytest.approx(statistics.mean(values))
            assert found["sd"] == pytest.approx(statistics.stdev(values))
            assert found["best"] == (min(values) if metric == "loss" else max(values))
            half = 4.302653 * statistics.stdev(values) / 3**0.5
            assert found["high"] == pytest.approx(statistics.mean(values) + half, abs=1e-4)
    told = json.loads((finished.folder / "summary.json").read_text("utf-8"))
    assert told["seeds"] == [0, 1, 2] and [one["folder"] for one in told["runs"]] == ["seed-0", "seed-1", "seed-2"]
    again = go(raw, repeat=4)
    assert [{done.status for done in one.stages if done.folder} for one in again.chains] == [{"reused"}] * 3 + [{"ran"}]
    (entry,) = entries(find([finished.folder]))
    assert [run.seed for run in entry.done] == [0, 1, 2, 3]
    assert entry.by_seed("finetuned")[1] == finished.chains[1].results["accuracy"]["finetuned"]


def test_a_run_folder_tells_all_and_no_places(raw: dict[str, Any], go: Go, tmp_path: Path) -> None:
    folder = go(raw, repeat=1).folder / "seed-0"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        *("recipe.toml", "environment.json", "run.json", "plan.json", "state.json", "log.txt", "done.json"),
        *("metrics-baseline.jsonl", "metrics-finetune.jsonl"),
        *("model.safetensors", "networks/baseline.safetensors", "networks/prune.safetensors"),
    }
    resolved = tomllib.loads((folder / "recipe.toml").read_text("utf-8"))
    results = json.loads((folder / "run.json").read_text("utf-8"))["results"]
    assert flat(resolved) == flat(results["settings"]) and resolved["seed"] == 0 and "seeds" not in resolved
    assert load(resolved | {"model": raw["model"]}).finetune == load(raw).finetune
    environment = json.loads((folder / "environment.json").read_text("utf-8"))
    assert {"prunus", "torch", "numpy", "python"} <= set(environment["versions"])
    assert environment["hardware"]["threads"] >= 1 and set(environment["git"]) == {"here", "prunus"}
    assert json.loads((folder / "state.json").read_text("utf-8"))["status"] == "done"
    log = (folder / "log.txt").read_text("utf-8")
    assert "prune: cutting to macs=60% by magnitude" in log and "run: written to seed-0" in log
    for name in ("recipe.toml", "environment.json", "state.json", "log.txt"):
        assert str(tmp_path) not in (folder / name).read_text("utf-8")
    assert results["before"]["macs"] > results["after"]["macs"] > 0


def test_a_seed_that_fails_is_told_of_and_the_rest_go_on(
    raw: dict[str, Any], go: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    with monkeypatch.context() as patched:
        breaking(patched, {1}, RuntimeError("no luck in /home/me/nets.py"))
        finished = go(raw, repeat=3, lines=lines)
    assert [one.seed for one in finished.chains] == [0, 2] and finished.summary["cut"]["n"] == 2
    (failed,) = finished.failed
    assert str(failed) == "seed 1 failed at prune: RuntimeError: no luck in /home/me/nets.py"
    assert any(line.startswith(str(failed)) for line in lines)
    assert "/home" not in (finished.folder / "summary.json").read_text("utf-8")
    (entry,) = entries(find([finished.folder]))
    assert [(run.seed, run.status) for run in entry.runs] == [(0, "done"), (1, "failed"), (2, "done")]
    assert entry.runs[1].why == "prune: RuntimeError: no luck in nets.py"
    mended = go(raw, repeat=3)
    statuses = [[done.status for done in one.stages if done.folder] for one in mended.chains]
    assert statuses == [["reused"] * 4, ["reused", "ran", "ran", "ran"], ["reused"] * 4]
    assert mended.failed == () and mended.summary["cut"]["n"] == 3


def test_what_ends_all_seeds(raw: dict[str, Any], go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        breaking(patched, {0, 1}, RuntimeError("no luck"))
        with pytest.raises(PrunusError, match=r"all 2 seeds failed: seed 0 failed at prune.*seed 1 failed at prune"):
            go(raw, repeat=2)
        with pytest.raises(RuntimeError, match="no luck"):
            go(raw, "name=alone")
    with monkeypatch.context() as patched:
        breaking(patched, {0, 1}, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            go(raw, "name=stopped", repeat=2)
    with pytest.raises(InputError):  # what the first seed finds wrong with the recipe the others would find too
        go(raw, "name=wrong", "prune.target=macs=0.01%", repeat=2)
    found = {(run.name, run.seed): run.status for run in find([go(raw, "name=good", repeat=1).folder.parent])}
    assert found[("stopped", 0)] == "pending" and found[("stopped", 1)] == "pending"
    assert found[("alone", 0)] == "failed" and found[("wrong", 0)] == "failed" and found[("good", 0)] == "done"


def test_the_verb_says_so_with_its_exit_code(
    raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "tiny.toml").write_text(toml(raw), encoding="utf-8")
    words = ["run", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "runs"), "--repeat", "2"]
    with monkeypatch.context() as patched:
        breaking(patched, {1}, RuntimeError("no luck"))
        assert main([*words, "--json"]) == 1
        answer = json.loads(capsys.readouterr().out)
        assert answer["seeds"] == [0, 1] and [one["seed"] for one in answer["runs"]] == [0]
        assert answer["failed"] == [{"seed": 1, "stage": "prune", "why": "RuntimeError: no luck"}]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "95 % interval" in text and "finetuned top5" in text
    assert main([*words[:-1], "0"]) == 2 and "at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("written to /home/me/runs/a", "written to a"),
        ("cannot write '/home/John Doe/a b.json': full", "cannot write 'a b.json': full"),
        ('see "C:\\Users\\me\\x.pt".', 'see "x.pt".'),
        ("~/nets.py:small is broken", "nets.py:small is broken"),
        ("12 images/s, 1/2, and/or a / b, runs/a/b", "12 images/s, 1/2, and/or a / b, runs/a/b"),
    ],
)
def test_sentences_without_places(text: str, bare: str) -> None:
    assert without_places_in(text) == bare


def test_a_home_with_a_space_in_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/John Doe")
    assert without_places_in("written to /home/John Doe/runs/a, at last") == "written to a, at last"


def test_shares_of_a_resumed_training(tmp_path: Path) -> None:
    """Of three lines the two of past epochs are kept, and the next one follows."""

    class Hook:
        def left(self) -> dict[str, float]:
            return {"macs": 0.25}

    def epoch(n: int) -> Epoch:
        return Epoch(n, 1.0, 0.0, 0.1, 1.0, 1.0)

    path = tmp_path / "shares.jsonl"
    path.write_text("".join(f'{{"epoch": {n}, "macs": 0.{n}}}\n' for n in (1, 2, 3)), "utf-8")
    shares = Shares(path, Hook())
    shares.start([epoch(1), epoch(2)])
    shares.epoch(epoch(3), 4)
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert lines == [{"epoch": 1, "macs": 0.1}, {"epoch": 2, "macs": 0.2}, {"epoch": 3, "macs": 0.25}]
    with pytest.raises(StorageError, match=r"shares\.jsonl"):
        Shares(tmp_path / "nowhere" / "shares.jsonl", Hook()).start([])
