"""Sweeps over a grid on the digits: run folders, what fails, what is shared, what is lost and begun again."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from sweeps import Go, Inside

import prunus
from prunus.cli import main
from prunus.errors import InputError, UnknownName
from prunus.lab import chain, crew
from prunus.lab import sweep as sweeping
from prunus.lab.crew import Carry, Here, jobs_here, take_turns
from prunus.lab.errand import Ended, Errand
from prunus.lab.explain import toml
from prunus.lab.grid import axes, points
from prunus.lab.recipe import load
from prunus.lab.runs import entries, find, read
from prunus.lab.stages import Busy, Place, claimed, in_turn

GRID = {"prune.target": ["macs=60%", "macs=40%"], "prune.method": ["l1", "random"]}


def test_a_grid_with_two_seeds(raw: dict[str, Any], go: Go, inside: Inside, tmp_path: Path) -> None:
    lines: list[str] = []
    targets = ["macs=60%", "macs=40%"]
    swept = go(raw, grid={"prune.target": targets}, repeat=2, lines=lines)
    assert len(swept.points) == 2 and swept.failed == () and len(lines) == 4 and "(4 of 4, " in lines[-1]
    found = entries(find([swept.folder]))
    assert {entry.name: [run.seed for run in entry.done] for entry in found} == {
        "tiny-target-macs-60": [0, 1],
        "tiny-target-macs-40": [0, 1],
    }
    assert sorted(
        path.name.partition("-")[0] for path in (tmp_path / "runs" / "stages").iterdir() if path.is_dir()
    ) == [
        *("baseline",) * 2,
        *("evaluate",) * 4,
        *("finetune",) * 4,
        *("prune",) * 4,
    ]
    alone = prunus.run(raw, ["prune.target=macs=40%", "name=alone"], out=tmp_path, progress=False)
    assert alone.results["test"] == swept.points[1].finished.results["test"]
    told = json.loads((swept.folder / "target-macs-40" / "summary.json").read_text("utf-8"))
    assert told["seeds"] == [0, 1] and told["summary"]["finetuned"]["n"] == 2
    book = json.loads((swept.folder / "sweep.json").read_text("utf-8"))
    assert book["asked"]["grid"] == {"prune.target": targets} and len(book["points"]) == 2
    assert book["points"][0]["runs"] == {"0": "done", "1": "done"}
    rows = prunus.report(swept.folder, columns=["prune.target"]).rows
    assert [(row["status"], row["n"], row["prune.target"]) for row in rows] == [
        ("done", 2, target) for target in sorted(targets)
    ]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("model.safetensors")}
    more = go(raw, grid={"prune.target": [*targets, "macs=80%"]}, repeat=2)
    assert {path: path.stat().st_mtime_ns for path in before} == before and len(more.points) == 3


def test_the_order_keeps_runs_that_share_a_baseline_apart(raw: dict[str, Any]) -> None:
    drawn = points(load(raw), axes(GRID))
    found = sweeping.arranged([(point, seed) for point in drawn for seed in (0, 1)])
    assert [seed for _, seed in found] == [0, 1] * 4 and len(set((p.name, s) for p, s in found)) == 8


def test_one_run_fails_and_the_rest_go_on(
    raw: dict[str, Any], go: Go, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = chain.cut

    def breaks(bench: chain.Bench, *places: Any) -> None:
        assert bench.recipe.prune is not None
        if bench.recipe.prune.method == "random":
            raise RuntimeError("no luck in /home/me/nets.py")
        cut(bench, *places)

    grid = {"prune.method": ["random", "l1", "fpgm"]}
    with monkeypatch.context() as patched:
        patched.setattr(chain, "cut", breaks)
        swept = go(raw, grid=grid)
    ((name, failed),) = swept.failed
    assert (name, failed.stage) == ("method-random", "prune") and "no luck" in failed.why
    assert [run.status for run in find([swept.folder])] == ["done", "done", "failed"]
    assert "/home" not in json.dumps(swept.as_dict()["points"])
    (row,) = (row for row in prunus.report(swept.folder).rows if row["run"] == "tiny-method-random")
    assert row["status"] == "failed" and row["asked"] == "macs=60%"
    inside.made.clear()
    again = go(raw, grid=grid)
    assert again.failed == () and {run.status for run in find([swept.folder])} == {"done"}


def test_runs_to_come_are_pending(raw: dict[str, Any], go: Go, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Stops(Inside):
        def carry_out(self, seat: int, errand: Errand) -> Ended:
            if self.made:
                raise KeyboardInterrupt
            return super().carry_out(seat, errand)

    with monkeypatch.context() as patched:
        patched.setattr(sweeping, "_crew", lambda *words: Stops())
        with pytest.raises(KeyboardInterrupt):
            go(raw, grid=GRID)
    found = prunus.report(tmp_path / "runs").rows
    assert sorted(row["status"] for row in found) == ["done", "pending", "pending", "pending"]
    assert {row["asked"] for row in found} == {"macs=60%", "macs=40%"}


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({}, "either a grid"),
        ({"grid": GRID, "search": 3}, "either a grid"),
        ({"grid": GRID, "storage": "sqlite:///x.db"}, "belong to a search"),
        ({"grid": GRID, "jobs": 0}, "jobs=0"),
        ({"grid": {"prune.target": "macs=50%"}}, "a list of values"),
        ({"grid": {"prune.target": ["macs=50%", "mac=40%"]}}, "at prune.target=mac=40%"),
        ({"grid": GRID, "on": "rays"}, "did you mean 'ray'"),
    ],
)
def test_what_is_refused_before_anything_runs(
    raw: dict[str, Any], go: Go, tmp_path: Path, more: dict[str, Any], text: str
) -> None:
    with pytest.raises((InputError, UnknownName), match=text):
        go(raw, **more)
    assert not (tmp_path / "runs" / "tiny").exists()


def test_a_folder_is_swept_by_one_at_a_time(raw: dict[str, Any], go: Go, inside: Inside, tmp_path: Path) -> None:
    with claimed(Place("sweep", "", tmp_path / "runs" / "tiny")), pytest.raises(Busy, match="another run is at work"):
        go(raw, grid=GRID)
    assert inside.made == []


def test_patience() -> None:
    """Work that is another's for two looks is done at the third; without patience at the first it is refused."""
    looks = []

    def work() -> int:
        looks.append(1)
        if len(looks) < 3:
            raise Busy("wait")
        return 7

    with pytest.raises(Busy):
        in_turn(work, False)
    assert in_turn(work, True) == 7 and len(looks) == 3


def test_turns_end_with_the_first_error() -> None:
    class Two(Inside):
        size = 2
        gone = 0

        def close(self) -> None:
            Two.gone += 1

    left, lock = list(range(100)), threading.Lock()

    def turn(carry: Carry) -> bool:
        with lock:
            left.pop()
        if len(left) < 95:
            raise ValueError("enough")
        return True

    with pytest.raises(ValueError, match="enough"):
        take_turns(Two(), turn)
    assert Two.gone == 1 and 90 <= len(left) < 95


def test_how_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "devices", lambda: [])
    for cores, jobs in ((1, 1), (2, 2), (8, 2), (64, 16)):
        monkeypatch.setattr(crew, "cores", lambda cores=cores: cores)
        assert jobs_here("auto") == jobs
    monkeypatch.setattr(crew, "devices", lambda: ["0", "1", "2"])
    assert jobs_here("auto") == 3 and jobs_here("cpu") == 16


def test_processes_of_which_one_is_killed(
    raw: dict[str, Any], go: Go, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two real processes; one is killed in its second epoch. Its run goes on, and ends as if nothing had happened."""
    monkeypatch.setenv("PRUNUS_TEST_KILL", str(tmp_path / "killed"))
    swept = go(raw, grid={"prune.target": ["macs=60%"]}, repeat=2, jobs=2)
    assert (tmp_path / "killed").exists() and swept.failed == ()
    monkeypatch.delenv("PRUNUS_TEST_KILL")
    logs = [(run.folder / "log.txt").read_text("utf-8") for run in find([swept.folder])]
    assert sum("baseline: goes on, training 2 epochs" in log for log in logs) == 1
    alone = prunus.run(raw, out=tmp_path / "alone", repeat=2, progress=False, say=lambda line: None)
    for one, other in zip(swept.points[0].finished.chains, alone.chains, strict=True):
        assert one.results["test"] == other.results["test"]
        weights = [(chain.folder / "model.safetensors").read_bytes() for chain in (one, other)]
        assert weights[0] == weights[1]
    assert "says something" in "".join(path.read_text("utf-8") for path in swept.folder.glob("worker-*.log"))


def test_a_run_whose_process_dies_each_time_is_given_up(
    raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A worker that cannot even start."""
    monkeypatch.setattr("sys.executable", "/bin/false")
    place = tmp_path / "a" / "seed-0"
    place.mkdir(parents=True)
    here = Here(1, 1, tmp_path)
    ended = here.carry_out(0, Errand({}, str(tmp_path), str(place), str(tmp_path)))
    here.close()
    assert ended.status == "failed" and ended.why == "its process ended with 1, 3 times; see worker-1.log"
    run = read(place)
    assert run is not None and (run.status, run.why) == ("failed", f"begin: {ended.why}")


def test_the_verb(raw: dict[str, Any], inside: Inside, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(toml(raw), encoding="utf-8")
    words = ["sweep", str(tmp_path / "tiny.toml"), "--grid", "prune.target=macs=60%,macs=40%"]
    words += ["--out", str(tmp_path / "runs")]
    assert main([*words, "--json"]) == 0
    text = capsys.readouterr().out
    answer = json.loads(text[text.index("{") :])  # after what the network prints
    assert [point["name"] for point in answer["points"]] == ["target-macs-60", "target-macs-40"]
    assert [point["done"] for point in answer["points"]] == [[0], [0]]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "target-macs-40" in captured.out and "prunus report" in captured.out and "(2 of 2, " in captured.err
    assert main([*words, "--grid", "seeds=1,2"]) == 2 and "--repeat" in capsys.readouterr().err


def test_a_sweep_writes_over_no_run_of_other_settings(raw: dict[str, Any], go: Go, inside: Inside) -> None:
    first = go(raw, grid={"train.lr": [0.07]})
    second = go(raw, grid={"finetune.lr": [0.07]})
    names = [swept.points[0].finished.folder.name for swept in (first, second)]
    assert names[0] == "lr-0.07" and names[1].startswith("lr-0.07-") and len(find([first.folder])) == 2
    count = len(inside.made)
    assert [point.name for point in go(raw, grid={"train.lr": [0.07]}).points] == names[:1]
    assert [point.name for point in go(raw, grid={"finetune.lr": [0.07]}).points] == names[1:]
    assert len(find([first.folder])) == 2 and len(inside.made) == count + 2


def test_a_run_says_that_it_replaces_one_of_other_settings(raw: dict[str, Any], tmp_path: Path) -> None:
    lines: list[str] = []
    for rate in ("0.1", "0.05"):
        prunus.run(raw, [f"finetune.lr={rate}"], out=tmp_path, progress=False, say=lines.append)
    assert lines.count("run: replaces one of other settings") == 1
