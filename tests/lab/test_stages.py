"""Stages: what makes a key, what a folder says of itself, and chains of stages on the bundled digits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prunus
from prunus.engine.config import Augment, Fit
from prunus.errors import InputError, PrunusError, UnknownName
from prunus.lab import chain
from prunus.lab.explain import toml
from prunus.lab.identity import of_data, of_model
from prunus.lab.recipe import Model, Source
from prunus.lab.run import Finished, run, without_places
from prunus.lab.stages import Place, claimed, differing, finish, state

NET = """
from torch import nn

def small():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )
"""


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, Any]:
    """A recipe of all stages for a small network, with seconds to run."""
    (tmp_path / "nets.py").write_text(NET, encoding="utf-8")
    some = {"batch_size": 16, "lr": 0.1}
    return {
        "name": "tiny",
        "model": {"name": f"{tmp_path / 'nets.py'}:small"},
        "data": {"path": "digits", "validation": 0.1, "limit": 300},
        "train": {"epochs": 2, **some},
        "sparsity": {"epochs": 1, "options": {"lam": 1e-2}, **some},
        "prune": {"target": "macs=60%", "method": "slimming"},
        "finetune": {"epochs": 1, "selection": "best", "teacher": True, **some},
    }


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs of every `fit` that is really called."""
    called: list[int] = []
    fit = chain.fit

    def counted(model: Any, data: Any, config: Fit, **more: Any) -> Any:
        called.append(config.epochs)
        return fit(model, data, config, **more)

    monkeypatch.setattr(chain, "fit", counted)
    return called


@pytest.fixture
def go(tmp_path: Path) -> Callable[..., Finished]:
    """Carry out a recipe below tmp_path/runs, in silence."""

    def call(recipe: Any, *overrides: str, lines: list[str] | None = None, **more: Any) -> Finished:
        told = [] if lines is None else lines
        return run(recipe, overrides, out=tmp_path / "runs", progress=False, say=told.append, **more)

    return call


def ran(finished: Finished) -> list[str]:
    return [done.name for done in finished.chains[0].stages if done.status == "ran"]


def test_a_key_is_made_of_what_is_not_at_its_default() -> None:
    assert differing(Fit()) == {}
    assert differing(Fit(epochs=3, steps=(1.0,), schedule="steps", augment=Augment(crop=4))) == {
        "epochs": 3,
        "schedule": "steps",
        "steps": [1.0],
        "augment": {"crop": 4},
    }


def test_data_is_known_by_content_and_not_by_place(tmp_path: Path) -> None:
    arrays = {"images": np.zeros((20, 8, 8), np.uint8), "labels": np.arange(20) % 2}
    np.savez(tmp_path / "a.npz", **arrays)
    shutil.copy(tmp_path / "a.npz", tmp_path / "b.npz")
    arrays["images"][3, 3, 3] = 1
    np.savez(tmp_path / "c.npz", **arrays)
    a, b, c = (of_data(Source(str(tmp_path / f"{name}.npz"))) for name in "abc")
    assert a == b != c
    assert of_data(Source("digits", workers=3)) == of_data(Source("digits"))
    assert of_data(Source("digits", validation=0.1)) != of_data(Source("digits"))


def test_data_is_known_by_what_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    for name in ("one", "two"):
        (tmp_path / name / "a").mkdir(parents=True)
        (tmp_path / name / "a" / "1.png").write_bytes(name.encode())
    link, found = tmp_path / "here" / "train", []
    for name in ("one", "two"):
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / name)
        found.append(of_data(Source(str(tmp_path / "here"))))
    assert found[0] != found[1]
    (tmp_path / "here" / ".DS_Store").write_bytes(b"")
    assert of_data(Source(str(tmp_path / "here"))) == found[1]


def test_a_network_of_the_users_is_known_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "nets.py"
    file.write_text(NET, encoding="utf-8")
    before = of_model(Model(f"{file}:small"))
    file.write_text(NET + "\n# changed\n", encoding="utf-8")
    after = of_model(Model(f"{file}:small"))
    assert after != before
    file.write_text(NET + "\nimport parts\n", encoding="utf-8")
    found = []
    for text in ("width = 8", "width = 16"):
        (tmp_path / "parts.py").write_text(text, encoding="utf-8")
        found.append(of_model(Model(f"{file}:small")))
    assert found[0] != found[1], "what it imports from beside it counts"
    with pytest.raises(InputError, match=r"model\.weights: there is no file"):
        of_model(Model("resnet20", weights=str(tmp_path / "nowhere.pt")))


def test_what_a_folder_says_of_itself(tmp_path: Path) -> None:
    place = Place.below(tmp_path, "baseline", {"lr": 0.1})
    assert place.folder.name == f"baseline-{place.key[:12]}" and Place.below(tmp_path, "baseline", {"lr": 0.1}) == place
    assert Place.below(tmp_path, "baseline", {"lr": 0.2}).key != place.key
    assert state(place) == ("absent", "")
    with claimed(place):
        (place.folder / "checkpoints").mkdir()
        (place.folder / "weights").write_bytes(b"12345")
        assert state(place) == ("begun", "")
        finish(place, {"seconds": 1.0})
    assert state(place) == ("done", "") and not (place.folder / "checkpoints").exists()
    (place.folder / "weights").write_bytes(b"12346")
    assert state(place) == ("damaged", "weights is not what was written")
    (place.folder / "weights").unlink()
    assert state(place) == ("damaged", "weights is missing")
    for content, why in (("{", "cannot be read"), ("[]", "cannot be read"), ('{"key": "x"}', "another key")):
        (place.folder / "done.json").write_text(content, encoding="utf-8")
        assert state(place)[0] == "damaged" and why in state(place)[1]


def test_two_runs_do_not_share_a_folder_at_once(tmp_path: Path) -> None:
    place = Place.below(tmp_path, "baseline", 1)
    with claimed(place), pytest.raises(PrunusError, match="another run is at work on baseline"), claimed(place):
        pass
    with claimed(place):
        pass


def test_a_run_folder_leaves_other_files_alone(raw: dict[str, Any], go: Callable[..., Finished]) -> None:
    raw = {key: raw[key] for key in ("name", "model", "data", "train")}
    other = go(raw, skip=["evaluate"]).folder / "notes.txt"
    other.write_text("mine", encoding="utf-8")
    assert (other.parent / "metrics-baseline.jsonl").exists()
    go(raw, "prune.target=macs=60%", skip=["baseline"])
    assert other.read_text("utf-8") == "mine" and not (other.parent / "metrics-baseline.jsonl").exists()


def test_paths_of_this_machine_are_not_told() -> None:
    given = {"a": "/home/me/data/cifar10", "b": ["data/x", "/abs/nets.py:small"], "c": 3}
    assert without_places(given) == {"a": "cifar10", "b": ["data/x", "nets.py:small"], "c": 3}


def test_a_chain_is_done_once(raw: dict[str, Any], go: Callable[..., Finished], trainings: list[int]) -> None:
    lines: list[str] = []
    first = go(raw, lines=lines)
    assert ran(first) == ["baseline", "sparsity", "prune", "finetune", "evaluate"] and trainings == [2, 1, 1]
    results = first.results
    assert results["left"]["macs"] <= 0.6 and results["verified"] is True
    accuracy = results["accuracy"]
    assert min(accuracy["before"], accuracy["sparse"], accuracy["finetuned"]) > 25 and accuracy["cut"] > 5
    assert results["selection"] == "validation" and results["test"]["finetuned"]["n"] == 300
    assert [stage["name"] for stage in results["stages"]] == ran(first)
    assert all(stage["seconds"] > 0 and stage["versions"]["prunus"] for stage in results["stages"])
    assert (first.folder / "metrics-baseline.jsonl").read_text("utf-8").count("\n") == 2
    assert "/" not in json.dumps(results["settings"]).replace("tiny/", "")
    assert str(Path.home()) not in (first.folder / "run.json").read_text("utf-8")

    stamp = (first.folder / "run.json").stat().st_mtime_ns
    second = go(raw)
    assert ran(second) == [] and trainings == [2, 1, 1]
    assert second.results == results and (first.folder / "run.json").stat().st_mtime_ns == stamp

    changed = go(raw, "finetune.epochs=2")
    assert ran(changed) == ["finetune", "evaluate"] and trainings == [2, 1, 1, 2]
    assert changed.results["accuracy"]["cut"] == results["accuracy"]["cut"]

    retargeted = go(raw, "prune.target=macs=70%")
    assert ran(retargeted) == ["prune", "finetune", "evaluate"]
    assert retargeted.results["accuracy"]["sparse"] == results["accuracy"]["sparse"]

    assert ran(go(raw)) == [] and ran(go(raw, from_stage="finetune")) == ["finetune", "evaluate"]


def test_the_run_folder_gives_the_network_back(raw: dict[str, Any], go: Callable[..., Finished]) -> None:
    from prunus.engine.data import load
    from prunus.lab import folder

    finished = go(raw)
    description, plan, weights = folder.read(finished.folder)
    model = folder.rebuild(description, plan, weights)
    assert plan is not None
    data = chain.data_of(Source("digits", limit=300))
    assert prunus.evaluate(model, data).top1 == finished.results["accuracy"]["finetuned"]
    assert load("digits").mean != () and description.input == (1, 8, 8)


def test_a_damaged_stage_is_named_and_done_again(raw: dict[str, Any], go: Callable[..., Finished]) -> None:
    first = go(raw)
    prune = next(done for done in first.chains[0].stages if done.name == "prune")
    assert prune.folder is not None
    (Path(prune.folder) / "plan.json").write_text("{}", encoding="utf-8")
    lines: list[str] = []
    again = go(raw, lines=lines)
    assert ran(again) == ["prune"]
    assert any(line.startswith("prune: again (damaged: plan.json is not what was written)") for line in lines)
    assert again.results["accuracy"] == first.results["accuracy"]


def test_a_finished_run_is_replaced_whole_and_not_by_what_cannot_begin(
    raw: dict[str, Any], go: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = go(raw).folder
    files = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
    for wrong in ("model.name=resnet21", "data.path=nowhere"):
        with pytest.raises(PrunusError):
            go(raw, wrong)
        assert {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()} == files

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(chain, "finetune", stopped)
    with pytest.raises(KeyboardInterrupt):
        go(raw, "finetune.lr=0.05")
    assert not {"run.json", "model.safetensors", "plan.json", "done.json"} & {path.name for path in place.iterdir()}
    assert "lr = 0.05" in (place / "recipe.toml").read_text(encoding="utf-8")


def test_a_baseline_is_shared(raw: dict[str, Any], go: Callable[..., Finished], trainings: list[int]) -> None:
    go({key: raw[key] for key in ("name", "model", "data", "train")} | {"name": "first"})
    other = go(raw | {"name": "second"})
    assert ran(other) == ["sparsity", "prune", "finetune", "evaluate"] and trainings == [2, 1, 1]


def test_an_interrupted_stage_goes_on(
    raw: dict[str, Any], go: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the first of two epochs: the second run trains one, and ends as an uninterrupted run does."""
    raw = {key: raw[key] for key in ("name", "model", "data", "train")}
    whole = go(raw, "name=whole", "data.limit=301")
    start = chain.JsonLines.epoch

    def stops(self: Any, done: Any, epochs: int) -> None:
        start(self, done, epochs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(chain.JsonLines, "epoch", stops)
        with pytest.raises(KeyboardInterrupt):
            go(raw)
    lines: list[str] = []
    resumed = go(raw, lines=lines)
    assert any(line.startswith("baseline: goes on") for line in lines)
    assert (resumed.folder / "metrics-baseline.jsonl").read_text("utf-8").count("\n") == 2
    straight = go(raw, from_stage="baseline")
    weights = [(one.folder / "model.safetensors") for one in (resumed, straight)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert whole.results["accuracy"]["before"] is not None


def test_stages_are_skipped_for_a_reason(
    raw: dict[str, Any], go: Callable[..., Finished], trainings: list[int], tmp_path: Path
) -> None:
    first = go(raw, skip=["sparsity", "finetune"])
    assert ran(first) == ["baseline", "prune", "evaluate"]
    assert first.results["skipped"] == {"sparsity": "asked for", "finetune": "asked for"}
    assert first.results["accuracy"]["finetuned"] is None
    shutil.copy(Path(first.chains[0].stages[0].folder or "") / "model.safetensors", tmp_path / "dense.safetensors")
    second = go(raw | {"model": {**raw["model"], "weights": str(tmp_path / "dense.safetensors")}}, "sparsity=")
    why = {done.name: done.why for done in second.chains[0].stages if done.status == "skipped"}
    assert why == {"baseline": "the recipe brings weights", "sparsity": "the recipe has no [sparsity]"}
    assert second.results["accuracy"]["before"] == first.results["accuracy"]["before"]
    with pytest.raises(UnknownName, match="did you mean 'finetune'"):
        go(raw, skip=["finetun"])
    with pytest.raises(InputError, match="no stage is left"):
        go({key: raw[key] for key in ("name", "model")}, skip=["evaluate"])


def test_seeds_make_a_summary(raw: dict[str, Any], go: Callable[..., Finished]) -> None:
    raw = {key: raw[key] for key in ("name", "model", "data", "train")}
    finished = go(raw, "seeds=[0,1,2]")
    values = [one.results["accuracy"]["before"] for one in finished.chains]
    assert len(set(values)) > 1
    assert finished.summary["before"]["mean"] == pytest.approx(np.mean(values))
    assert finished.summary["before"]["sd"] == pytest.approx(np.std(values, ddof=1))
    assert [one.folder.name for one in finished.chains] == ["seed-0", "seed-1", "seed-2"]
    assert json.loads((finished.folder / "summary.json").read_text("utf-8"))["summary"] == finished.summary
    assert ran(go(raw, "seed=1")) == []


def test_published_selection_is_labelled(raw: dict[str, Any], go: Callable[..., Finished]) -> None:
    raw = {key: raw[key] for key in ("name", "model", "data", "train")}
    lines: list[str] = []
    words = ("data.validation=", "data.selection=published", "train.selection=best")
    finished = go(raw, *words, lines=lines)
    assert finished.results["selection"] == "published (test set)" == finished.as_dict()["selection"]
    assert all(line.endswith("[selection: published (test set)]") for line in lines) and len(lines) == 6
    metrics = [
        json.loads(line) for line in (finished.folder / "metrics-baseline.jsonl").read_text("utf-8").split("\n")[:-1]
    ]
    assert [epoch["metrics"]["selection"] for epoch in metrics] == ["published (test set)"] * 2
    best = max(epoch["metrics"]["goodness"] for epoch in metrics)
    assert finished.results["accuracy"]["before"] == pytest.approx(best)


def test_train_takes_a_recipe(raw: dict[str, Any]) -> None:
    from prunus.lab.recipe import load
    from prunus.models import resolve

    data = chain.data_of(Source("digits", limit=300))
    assert len(prunus.train(resolve(raw["model"]["name"]), data, load(raw), progress=False)) == 2
    assert len(prunus.train(resolve(raw["model"]["name"]), data, Fit(epochs=1), progress=False)) == 1
    with pytest.raises(InputError, match=r"has no \[train\]"):
        prunus.train(resolve(raw["model"]["name"]), data, load(raw, ["train="]), progress=False)


def test_two_processes_make_one_chain(raw: dict[str, Any], go: Callable[..., Finished], tmp_path: Path) -> None:
    """Only the first of them writes and speaks; what they made is whole, and reused by one process alone."""
    (tmp_path / "tiny.toml").write_text(toml(raw), encoding="utf-8")
    words = ["run", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "runs"), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "prunus", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {stage["status"] for stage in told["runs"][0]["stages"]} == {"ran"}
    again = go(raw)
    assert ran(again) == [] and again.results["accuracy"] == told["runs"][0]["accuracy"]
