"""What a run leaves behind, read back: the same network, or one clear refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from prunus.engine.data import Data, Split
from prunus.errors import CheckpointError, InputError
from prunus.lab import folder
from prunus.lab.folder import Description

GREY = Description("resnet20", 10, (1, 8, 8), (0.3,), (0.4,), None, 1)


def test_a_cut_network_comes_back(tmp_path: Path) -> None:
    dense, example = folder.build(GREY), torch.randn(2, 1, 8, 8)
    small = prunus.prune(dense, example, target="macs=40%", method="random")
    folder.write(folder.ready(str(tmp_path / "a" / "run")), small.model, small.plan, GREY, {"accuracy": 1.0})
    description, plan, weights = folder.read(tmp_path / "a" / "run")
    assert description == GREY
    again = folder.rebuild(description, plan, weights)
    assert torch.equal(small.model.eval()(example), again.eval()(example))
    assert prunus.cost(again, example).macs == small.after.macs
    assert folder.read(tmp_path / "a" / "run" / "model.safetensors")[0] == GREY


def test_a_whole_network_has_no_plan(tmp_path: Path) -> None:
    model = folder.build(GREY)
    small = prunus.prune(model, torch.randn(1, 1, 8, 8), target="macs=60%")
    folder.write(tmp_path, small.model, small.plan, GREY, {})
    folder.write(tmp_path, model, None, GREY, {})  # written over what was there
    description, plan, weights = folder.read(tmp_path)
    assert plan is None and not (tmp_path / "plan.json").exists()
    state = folder.rebuild(description, plan, weights).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_tied_and_strided_weights_are_written(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Conv2d(4, 4, 3))
    model[1].weight = model[0].weight
    model[2].to(memory_format=torch.channels_last)
    folder.write(tmp_path, model, None, Description("none"), {})
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())


def test_a_class_keeps_its_number(tmp_path: Path) -> None:
    def data(*names: str) -> Data:
        part = Split(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]))
        return Data(part, part, len(names), (0.5,), (0.5,), "pets", names)

    described = Description("resnet20", 3, (3, 4, 4), class_names=("ant", "cat", "dog"))
    folder.write(tmp_path, nn.Linear(1, 1), None, described, {})
    known = folder.read(tmp_path)[0]
    assert known == described
    with pytest.raises(InputError, match="pets has 'cat' as class 0, and the run of --from knows it as 1"):
        folder.check_classes(known, data("cat", "dog"))
    for names in (("ant", "cat"), ("ant", "cat", "dog", "eel"), ("Ant", "Cat"), ("dog", "dog")):
        folder.check_classes(known, data(*names))
    folder.check_classes(Description("resnet20"), data("cat", "dog"))


def test_a_folder_without_a_name_is_refused() -> None:
    with pytest.raises(InputError, match="is empty"):
        folder.ready("")


def test_settings_survive(tmp_path: Path) -> None:
    described = Description("path/file.py:net", None, (3, 224, 224), (0.1, 0.2, 0.3), (1.0, 1.0, 1.0), (256, 224))
    folder.write(tmp_path, nn.Linear(1, 1), None, described, {"seed": 3})
    assert folder.read(tmp_path)[0] == described
    assert json.loads((tmp_path / "run.json").read_text("utf-8"))["results"] == {"seed": 3}


def test_what_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no run\.json"):
        folder.read(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        folder.read(tmp_path / "nowhere")
    (tmp_path / "run.json").write_text('{"format": "prunus-run-2"}', "utf-8")
    with pytest.raises(CheckpointError, match="this version reads 'prunus-run-1'"):
        folder.read(tmp_path)


def test_weights_of_another_network(tmp_path: Path) -> None:
    folder.write(tmp_path, nn.Linear(2, 2), None, GREY, {})
    with pytest.raises(CheckpointError, match="does not fit ResNet"):
        folder.rebuild(*folder.read(tmp_path))
