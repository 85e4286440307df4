"""Searches with Optuna on the digits: what is chosen by, what is given up, what goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sweeps import Go, Inside

import prunus
from prunus.engine.history import Epoch
from prunus.errors import InputError, UnknownName
from prunus.lab import judge
from prunus.lab import sweep as sweeping
from prunus.lab.errand import Ended, Errand
from prunus.lab.judge import Judge, Stopped, sqlite, study_of
from prunus.lab.runs import find, read
from prunus.lab.space import Range

optuna = pytest.importorskip("optuna", reason="optuna is not installed")


def test_two_objectives_on_the_validation_part(raw: dict[str, Any], go: Go, inside: Inside) -> None:
    space = {"ranges": {"prune.target": "macs=30%..90%"}, "choices": {"prune.method": ["l1", "random"]}}
    swept = go(raw, search=3, **space)
    assert [point.name for point in swept.points] == ["trial-0000", "trial-0001", "trial-0002"]
    found = {}
    for point in swept.points:
        results = point.finished.results
        validation = results["validation"]["finetuned"]
        assert validation["n"] == 61 and results["test"]["finetuned"]["n"] == 320
        assert point.objectives == {"accuracy": validation["top1"], "macs": results["after"]["macs"]}
        assert results["settings"]["prune"]["target"] == point.values["prune.target"]
        found[point.name] = validation["top1"], -results["after"]["macs"]
    best = {
        name
        for name, (a, b) in found.items()
        if not any(c >= a and d >= b and (c, d) != (a, b) for c, d in found.values())
    }
    assert set(swept.front) == best
    made = len(inside.made)
    again = go(raw, search=3, **space)
    assert len(inside.made) == made and again.front == swept.front and len(again.points) == 3
    assert again.points[0].objectives == swept.points[0].objectives
    assert len(go(raw, search=4, **space).points) == 4 and len(inside.made) == made + 1


def test_a_trial_that_was_left_in_the_middle_goes_on(
    raw: dict[str, Any], go: Go, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Stops(Inside):
        def carry_out(self, seat: int, errand: Errand) -> Ended:
            if len(self.made) == 1:
                raise KeyboardInterrupt
            return super().carry_out(seat, errand)

    space = {"ranges": {"finetune.lr": (0.01, 0.5, "log")}, "objectives": ("accuracy",)}
    monkeypatch.setattr(sweeping, "_crew", lambda *words: Stops())
    with pytest.raises(KeyboardInterrupt):
        go(raw, search=2, **space)
    book = json.loads((tmp_path / "runs" / "tiny" / "sweep.json").read_text("utf-8"))
    drawn = book["points"][1]["values"]
    crew = Inside()
    monkeypatch.setattr(sweeping, "_crew", lambda *words: crew)
    swept = go(raw, search=2, **space)
    assert len(crew.made) == 1 and swept.points[1].values == drawn and len(swept.points) == 2
    assert {run.status for run in find([swept.folder])} == {"done"}


def test_the_judge_gives_up_what_is_below_the_median(tmp_path: Path) -> None:
    """Five trials reach 50, 60, 70, 80, 90 after their first epoch: 70 is in order, 69 is not."""
    address = sqlite(tmp_path)
    study = study_of(address, "s", ("accuracy",), 0)

    def epoch(n: int, top1: float | None) -> Epoch:
        return Epoch(n, 1.0, 0.0, 0.1, 1.0, 1.0, metrics=top1)

    def judged() -> Judge:
        return Judge(address, "s", study.ask().number, ("accuracy",))

    for value in (50.0, 60.0, 70.0, 80.0, 90.0):
        one = judged()
        one.epoch(epoch(1, value), 3)
        study.tell(one.trial, value)
    fair, poor = judged(), judged()
    fair.epoch(epoch(1, 70.0), 3)
    fair.epoch(epoch(1, 10.0), 3)  # a resumed epoch is not reported twice
    with pytest.raises(Stopped, match="after epoch 1 of 3"):
        poor.epoch(epoch(1, 69.0), 3)
    late = judged()
    late.epoch(epoch(3, 1.0), 3)  # nothing is left to be saved
    late.epoch(epoch(1, None), 3)
    judge._known.cache_clear()


def test_hopeless_trials_are_stopped(
    raw: dict[str, Any], go: Go, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second trial is told to stop; its other seed is not begun."""
    epoch = Judge.epoch

    def strict(self: Judge, done: Epoch, epochs: int) -> None:
        epoch(self, done, epochs)
        if self.trial == 1 and done.epoch == 1:
            raise Stopped("below the median")

    monkeypatch.setattr(Judge, "epoch", strict)
    space = {"ranges": {"finetune.lr": (0.01, 0.5)}, "objectives": ("accuracy",)}
    swept = go(raw, "finetune.epochs=2", search=2, repeat=2, **space)
    assert [point.stopped for point in swept.points] == ["", "below the median"] and swept.failed == ()
    assert swept.front == ("trial-0000",) and len(inside.made) == 3
    assert [inside.made[k].judge is None for k in range(3)] == [False, True, False]
    runs = [read(swept.folder / "trial-0001" / f"seed-{seed}") for seed in (0, 1)]
    assert [run.status for run in runs if run] == ["stopped", "stopped"]
    assert runs[1] is not None and "seed 0 stopped" in runs[1].why
    study = optuna.load_study(study_name="tiny", storage=sqlite(swept.folder))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED"]
    assert study.trials[0].intermediate_values.keys() == {1}
    (row,) = (row for row in prunus.report(swept.folder).rows if row["run"] == "tiny-trial-0001")
    assert "stopped" in row["status"]


def test_a_trial_that_fails_is_drawn_anew_another_time(
    raw: dict[str, Any], go: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(Inside):
        def carry_out(self, seat: int, errand: Errand) -> Ended:
            self.made.append(errand)
            return Ended("failed", "prune", "no luck")

    space = {"ranges": {"finetune.lr": (0.01, 0.5)}}
    crew = Fails()
    with monkeypatch.context() as patched:
        patched.setattr(sweeping, "_crew", lambda *words: crew)
        swept = go(raw, search=2, **space)
    assert len(crew.made) == 2 and len(swept.failed) == 2 and swept.front == ()
    monkeypatch.setattr(sweeping, "_crew", lambda *words: Inside())
    assert [point.name for point in go(raw, search=1, **space).points] == ["trial-0002"]


@pytest.mark.parametrize(
    ("overrides", "more", "text"),
    [
        (["data.validation="], {}, "chooses on the validation part; give one"),
        (["data.validation=", "data.selection=published"], {}, "has no place"),
        ([], {"objectives": ("speed",)}, "unknown objective 'speed'"),
        ([], {"objectives": ()}, "one or more"),
        ([], {"ranges": ()}, "--range or --choice"),
        ([], {"ranges": {"finetune.lr": "-1..1"}}, "finetune.lr=-1"),
        ([], {"choices": {"prune.method": ["l1", "l3"]}}, "prune.method=l3"),
        ([], {"storage": "sqlite:////nowhere/at/all.db"}, "the storage .sqlite. cannot be opened"),
    ],
)
def test_what_is_refused(
    raw: dict[str, Any], go: Go, inside: Inside, overrides: list[str], more: dict[str, Any], text: str
) -> None:
    given = {"ranges": {"finetune.lr": "0.01..1"}, **more}
    with pytest.raises((InputError, UnknownName), match=text):
        go(raw, *overrides, search=2, **given)
    assert inside.made == []


def test_storages(tmp_path: Path) -> None:
    study_of(f"journal:{tmp_path / 'log'}", "s", ("accuracy", "macs"), 0)
    assert (tmp_path / "log").exists()
    study_of(sqlite(tmp_path), "s", ("accuracy",), 0)
    with pytest.raises(InputError, match="was begun with 1 objective"):
        study_of(sqlite(tmp_path), "s", ("accuracy", "macs"), 0)
    with pytest.raises(InputError) as caught:
        study_of("postgresql://me:secret@nowhere.invalid/db", "s", ("accuracy",), 0)
    assert "secret" not in str(caught.value)


def test_a_study_goes_on_with_its_own_space_alone(raw: dict[str, Any], go: Go, inside: Inside) -> None:
    space = {"ranges": {"finetune.lr": (0.01, 0.5)}, "choices": {"prune.method": ["l1", "random"]}}
    go(raw, search=1, **space)
    more = {**space["ranges"], "finetune.momentum": (0.1, 0.9)}
    other = {"prune.method": ["l1", "random", "l2"]}
    for changed, name in (({"ranges": more}, "finetune.momentum"), ({"choices": other}, "prune.method")):
        with pytest.raises(InputError, match=f"begun with other ranges or choices of {name}"):
            go(raw, search=2, **{**space, **changed})
    swept = go(raw, search=1, study="wider", **{**space, "choices": other})
    assert [point.name for point in swept.points] == ["wider-trial-0000"] == list(swept.front)
    assert read(swept.folder / "trial-0000" / "seed-0") is not None


def test_whole_numbers_in_text_are_written_whole() -> None:
    one = Range.read("prune.target=params=300..2000000")
    assert one.value(2_000_000) == "params=2000000" and one.value(1_234_567) == "params=1234567"
    assert one.text == "params=300..2000000"
