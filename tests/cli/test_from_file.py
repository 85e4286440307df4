"""--from and --weights with a file of prunus.save: what it says of itself, and what it may not say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import prunus
from prunus.files.file import content_of, write
from prunus.lab import folder
from prunus.models import build, resolve

Ask = Callable[..., Any]
NET = ("resnet20", "--classes", "4", "--input", "3,8,8")


@pytest.fixture
def run(ask: Ask, tmp_path: Path) -> Path:
    """The folder of a cut."""
    ask("prune", *NET, "--target", "macs=50%", "--method", "random", "--out", str(tmp_path / "run"))
    return tmp_path / "run"


def test_the_weights_of_a_run_can_leave_its_folder(run: Path, ask: Ask, tmp_path: Path) -> None:
    alone = tmp_path / "alone.safetensors"
    shutil.copyfile(run / "model.safetensors", alone)
    wanted = ask("cost", "--from", str(run))
    assert ask("cost", "--from", str(alone)) == wanted
    assert ask("cost", "--from", str(run / "model.safetensors")) == wanted
    state = folder.rebuild(*folder.read(run)).state_dict()
    loaded = prunus.load(alone, build("resnet20", 4)).model.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in state.items())


def test_a_file_is_cut_further_and_still_loads(run: Path, ask: Ask, tmp_path: Path) -> None:
    alone = tmp_path / "alone.safetensors"
    (run / "model.safetensors").rename(alone)
    ask("prune", "--from", str(alone), "--target", "macs=70%", "--out", str(tmp_path / "again"))
    loaded = prunus.load(tmp_path / "again" / "model.safetensors", build("resnet20", 4))
    again = folder.rebuild(*folder.read(tmp_path / "again")).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in loaded.model.state_dict().items())


def test_a_folder_of_before_is_read_as_before(run: Path, ask: Ask) -> None:
    wanted = ask("cost", "--from", str(run))
    weights = load_file(run / "model.safetensors")
    save_file(weights, run / "model.safetensors")
    assert content_of(run / "model.safetensors") is None
    assert ask("cost", "--from", str(run)) == wanted


def test_a_network_that_was_not_cut_has_no_plan(tmp_path: Path) -> None:
    model = build("resnet20", 4)
    folder.write(tmp_path, model, None, folder.Description("resnet20", 4, (3, 8, 8)), {})
    alone = tmp_path / "x.safetensors"
    (tmp_path / "model.safetensors").rename(alone)
    description, plan, weights = folder.read(alone)
    assert (description.classes, plan, weights) == (4, None, alone)
    loaded = prunus.load(alone, build("resnet20", 4))
    assert loaded.plan.groups == () and str(loaded) == "nothing was cut"
    assert all(torch.equal(value, loaded.model.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_file_runs_no_code_that_it_names(ask: Ask, refused: Callable[..., str], file: str, tmp_path: Path) -> None:
    model = f"{file}:small"
    ask("prune", model, "--input", "1,8,8", "--target", "macs=50%", "--out", str(tmp_path / "run"))
    alone = tmp_path / "alone.safetensors"
    shutil.copyfile(tmp_path / "run" / "model.safetensors", alone)
    told = refused("cost", "--from", str(alone))
    assert "code that a file may not have run; give it as MODEL, and --weights" in told and model in told
    wanted = ask("cost", "--from", str(tmp_path / "run"))
    words = ("--weights", str(alone), "--input", "1,8,8", "--target", "macs=80%", "--out", str(tmp_path / "again"))
    assert ask("prune", model, *words)["before"]["macs"] == wanted["macs"]
    prunus.load(tmp_path / "again" / "model.safetensors", resolve(model))  # both cuts, from the dense network


def test_a_file_of_python_says_no_model(refused: Callable[..., str], ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    cut = prunus.prune(build("resnet20"), torch.randn(1, 3, 8, 8), "macs=50%", check=False)
    prunus.save(cut, path)
    assert "not which network it was; give MODEL and --weights" in refused("cost", "--from", str(path))
    words = ("--weights", str(path), "--input", "3,8,8", "--target", "macs=90%")
    assert ask("prune", "resnet20", *words)["before"]["macs"] == cut.after.macs
    assert "the plan belongs to another model" in refused("prune", "resnet56", *words)


def test_damage_and_lies_are_refused(run: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    whole, alone = (run / "model.safetensors").read_bytes(), tmp_path / "alone.safetensors"
    for place in (alone, run / "model.safetensors"):
        place.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
        source = run if place.parent == run else place
        assert "is damaged: its content does not have the digest" in refused("cost", "--from", str(source))
    alone.write_bytes(whole)
    content = dict(content_of(alone) or {})
    for lie in ({"classes": 10**9}, {"input": [1 << 20, 1 << 20]}, {"classes": "x"}, {"model": 3}, {"stem": 10**9}):
        described = {**content["description"], **lie}
        write(alone, tensors(whole), {**content, "description": described})
        assert "is damaged: " in refused("cost", "--from", str(alone)), lie
    write(alone, tensors(whole), {**content, "description": {**content["description"], "model": "resnet56x"}})
    assert "unknown model 'resnet56x'" in refused("cost", "--from", str(alone))


def tensors(content: bytes) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    found: dict[str, torch.Tensor] = load(content)
    return found
