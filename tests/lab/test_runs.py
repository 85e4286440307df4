"""Run folders: found, read, filtered, gathered by seed, and what differs between them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from runfolders import SETTINGS, begun, made

from prunus.cli import main
from prunus.errors import InputError, UnknownName
from prunus.lab.runs import differences, entries, find, read, where


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two seeds of a, and of b one that is done, one that failed, one that was stopped."""
    made(tmp_path, "a", 0, finetuned=85.0)
    made(tmp_path, "a", 1, finetuned=87.0)
    made(tmp_path, "b", 0, finetuned=91.0, macs=700, prune={"target": "macs=70%", "method": "slimming"})
    begun(tmp_path, "b", 1, error="ProofError: differs", prune={"target": "macs=70%", "method": "slimming"})
    begun(tmp_path, "b", 2, prune={"target": "macs=70%", "method": "slimming"})
    return tmp_path


def test_every_run_is_found_once(root: Path) -> None:
    shutil.copytree(root / "a" / "seed-0", root / "stages" / "baseline-0123")  # what stages leave are no runs
    found = find([root, root / "a"])
    assert [(run.name, run.seed, run.status) for run in found] == [
        ("a", 0, "done"),
        ("a", 1, "done"),
        ("b", 0, "done"),
        ("b", 1, "failed"),
        ("b", 2, "pending"),
    ]
    assert found[3].why == "finetune: ProofError: differs" and found[3].fields["prune.method"] == "slimming"
    assert found[0].figures["finetuned"] == 85.0 and found[0].figures["macs left"] == 50.0
    assert found[0].figures["drop"] == 5.0 and found[0].figures["minutes"] == 1.5
    with pytest.raises(InputError, match="is no folder"):
        find([root / "nowhere"])
    (root / "empty").mkdir()
    with pytest.raises(InputError, match="no run in"):
        find([root / "empty"])


def test_runs_are_found_through_links(root: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "linked").symlink_to(root)
    (here / "circle").symlink_to(here)
    assert [(run.name, run.seed) for run in find([here])] == [(run.name, run.seed) for run in find([root])]


def test_seeds_that_are_announced_are_pending(root: Path) -> None:
    (root / "a" / "summary.json").write_text(json.dumps({"recipe": "a", "seeds": [0, 1, 2, 3]}), "utf-8")
    (entry,) = entries(find([root / "a"]))
    assert [(run.seed, run.status) for run in entry.runs] == [
        *((0, "done"), (1, "done")),
        *((2, "pending"), (3, "pending")),
    ]


def test_runs_are_gathered_by_settings(root: Path) -> None:
    made(root / "other", "a", 1, finetuned=10.0)  # a copy of a seed from another machine
    made(root / "other", "a", 5, finetuned=10.0)
    made(root / "changed", "a", 0, train={"epochs": 9, "lr": 0.1})
    found = entries(find([root]))
    assert {entry.name: [run.seed for run in entry.runs] for entry in found} == {
        "a": [0, 1, 5],
        "b": [0, 1, 2],
        "a #2": [0],
    }
    assert found[0].by_seed("finetuned") == {0: 85.0, 1: 87.0, 5: 10.0}


def test_a_seed_that_was_run_alone_first_counts_once(tmp_path: Path) -> None:
    folder = made(tmp_path, "a", 0)
    (folder / "done.json").write_text('{"key": "k"}', "utf-8")
    for path in list(folder.iterdir()):
        shutil.copy(path, folder.parent)
    assert [run.folder for run in find([tmp_path])] == [folder]


def test_what_a_run_must_meet(root: Path) -> None:
    runs = find([root])

    def seeds(*conditions: str) -> list[tuple[str, int | None]]:
        return [(run.name, run.seed) for run in where(runs, conditions)]

    assert seeds("prune.method=slimming", "status=done") == [("b", 0)]
    assert seeds("finetuned>=87") == [("a", 1), ("b", 0)] and seeds("macs-left<60", "seed!=0") == [("a", 1)]
    assert seeds("finetune.epochs=2.0") == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)]
    assert seeds("prune.target=macs=50%") == [("a", 0), ("a", 1)]
    with pytest.raises(InputError, match="> compares numbers, and 'slimming' is none"):
        seeds("prune.method>slimming")
    with pytest.raises(UnknownName, match=r"did you mean 'finetune\.epochs'"):
        seeds("finetune.epoch=2")
    with pytest.raises(InputError, match="is no condition"):
        seeds("finetune.epochs")


def test_settings_that_differ(root: Path) -> None:
    runs = find([root])
    assert differences(runs[:2]) == {"seed": (0, 1)}
    assert differences((runs[0], runs[2])) == {
        "name": ("a", "b"),
        "prune.target": ("macs=50%", "macs=70%"),
        "prune.method": ("magnitude", "slimming"),
    }


def test_a_stage_that_one_lacks_is_told_by_what_is_unusual(tmp_path: Path) -> None:
    usual = {"method": "gates", "epochs": 4, "lr": 0.3, "momentum": 0.9, "rates_layout": "published", "steps": []}
    made(tmp_path, "a", 0)
    made(tmp_path, "b", 0, sparsity=usual)
    assert set(differences(find([tmp_path]))) == {"name", "sparsity.method", "sparsity.epochs", "sparsity.lr"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"results": 3}', "\x00", '{"results": {"accuracy": 7, "test": [1]}}'])
def test_a_damaged_folder_is_no_error(tmp_path: Path, text: str) -> None:
    folder = made(tmp_path, "a", 0)
    (folder / "run.json").write_text(text, "utf-8")
    run = read(folder)
    assert run is not None and run.figures == {} and run.environment == {}
    assert run.status == ("done" if "accuracy" in text else "damaged")
    assert len(entries([run])) == 1


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    folder = made(tmp_path, "a", 0, finetuned=float("nan"), before=float("inf"))
    run = read(folder)
    assert run is not None and "finetuned" not in run.figures and run.figures["cut"] == 40.0


def test_the_verb(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(root), "--sort", "finetuned", "--columns", "finetune.lr", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [(run["name"], run["seed"]) for run in answer["runs"]][:3] == [("b", 0), ("a", 1), ("a", 0)]
    assert answer["runs"][0]["columns"] == {"finetune.lr": SETTINGS["finetune"]["lr"]}
    assert main(["runs", str(root), "--sort", "macs left"]) == 0
    text = capsys.readouterr().out
    assert text.index("\na ") < text.index("\nb ") and "ProofError: differs" in text
    assert main(["runs", str(root), "--where", "status=done", "--diff", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"]["seed"] == [0, 1, 0]
    for words, part in ((["--sort", "finetund"], "finetuned"), (["--where", "seed=9", "--diff"], "two runs")):
        assert main(["runs", str(root), *words]) == 2
        assert part in capsys.readouterr().err


@pytest.mark.parametrize("given", [3, [None]])
def test_what_is_no_folder(given: object) -> None:
    with pytest.raises(InputError, match=r"runs are folders, as text or a pathlib\.Path, not (int|NoneType)"):
        find(given)  # type: ignore[arg-type]
