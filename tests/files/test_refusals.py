"""Files that are no saved network, or not of this one: each is refused in one line, and no mutation gets through."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from saved import Make, Net, small
from shared import ROOT
from torch import nn

import prunus
from prunus.errors import CheckpointError, InputError, ModelError, PlanError, PrunusError, StorageError
from prunus.models import build


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "small.safetensors"


class Wider(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 6)


class Untied(Net):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(8, 8, 1)


class Hooked(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(lambda module, state, *_: state.update(on=~state["on"]))


@pytest.mark.parametrize(
    ("fresh", "kind", "told"),
    [
        (Wider, PlanError, r"does not fit Wider: the plan belongs to another model: head\.\w+ is \(6"),
        (lambda: build("resnet20"), PlanError, "does not fit ResNet: the plan belongs to another model: no tensor a.b"),
        (Untied, CheckpointError, r"does not fit Untied: 1 of another shape or kind \(c\.weight"),
        (Hooked, CheckpointError, "on is not what the file holds, since Hooked ties it .* or changes it"),
        (lambda: nn.LazyLinear(3), ModelError, "weight of the dense network has no shape yet"),
        (lambda: Net, ModelError, "load takes the dense network, a torch.nn.Module, not type"),
    ],
)
def test_a_wrong_constructor_is_refused(fresh: Make, kind: type[PrunusError], told: str, path: Path) -> None:
    prunus.save(small(), path)
    with pytest.raises(kind, match=told) as error:
        prunus.load(path, fresh())
    assert "\n" not in str(error.value)


def test_a_cut_network_is_no_dense_one(path: Path) -> None:
    cut = small()
    prunus.save(cut, path)
    with pytest.raises(PlanError, match=r"does not fit Net: the plan belongs to another model: a\.bias is"):
        prunus.load(path, cut.model)


def test_tied_weights_that_differ_are_refused(path: Path) -> None:
    from prunus.files.file import write

    cut = small()
    state = dict(cut.model.state_dict()) | {"c.weight": cut.model.get_parameter("c.weight") + 1}
    write(path, state, {"plan": cut.plan.to_json()})
    with pytest.raises(CheckpointError, match=r"b\.weight is not what the file holds, since Net ties it to another"):
        prunus.load(path, Net())


def test_dtypes_that_are_none_are_refused(path: Path) -> None:
    from prunus.files.file import write

    cut = small()
    for dtypes in ({"scale": "load"}, {"scale": "nothing"}, {"scale": 3}, ["scale"]):
        write(path, cut.model.state_dict(), {"plan": cut.plan.to_json(), "dtypes": dtypes})
        with pytest.raises(CheckpointError, match=r"is damaged: (its dtypes|.* of 'scale' is no dtype)"):
            prunus.load(path, Net())


@pytest.mark.parametrize("name", ["", None, 3, "a\0b"])
def test_what_names_no_file_is_refused(name: Any) -> None:
    cut = small()
    for call in (lambda: prunus.save(cut, name), lambda: prunus.load(name, Net())):
        with pytest.raises(InputError, match=r"^path.* (names no file|is text or a pathlib\.Path, not)"):
            call()
    with pytest.raises(CheckpointError, match="cannot be read: File name too long"):
        prunus.load("x" * 300, Net())


def test_a_lazy_network_is_not_saved(path: Path) -> None:
    with pytest.raises(ModelError, match="weight of LazyLinear has no shape yet; run the network once before save"):
        prunus.save(nn.LazyLinear(3), path, base=small())


def test_numbers_of_another_kind_are_refused(path: Path) -> None:
    from prunus.files.file import write

    cut = small()
    for name, value in (("on", torch.ones(5)), ("head.bias", torch.ones(5, dtype=torch.int32))):
        write(path, {**cut.model.state_dict(), name: value}, {"plan": cut.plan.to_json()})
        with pytest.raises(CheckpointError, match=rf"1 of another shape or kind \({name}: \w+ in the file, \w+ in the"):
            prunus.load(path, Net())


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def test_names_with_line_breaks_are_told_in_one_line(path: Path) -> None:
    from prunus.files.file import write

    cut = small()
    plan = cut.plan.to_json()
    odd = {**plan, "fingerprint": {**plan["fingerprint"], "a\nb": [[1], "float32"]}}
    for state, content in (
        ({"a\nb": torch.ones(1)}, {"plan": plan}),
        ({}, {"plan": plan, "masks": {"a\nb": ""}}),
        ({}, {"plan": odd}),
        ({}, {"plan": {**plan, "format": "a\nb"}}),
    ):
        write(path, {**cut.model.state_dict(), **state}, content)
        with pytest.raises(InputError, match=r"(a b|a\\nb|no tensor a)") as error:
            prunus.load(path, Net())
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda p: None, "there is no file"),
        (lambda p: p.mkdir(), "is a folder; give the file that prunus.save wrote"),
        (lambda p: os.mkfifo(p), "is not a file"),
        (lambda p: put(p, b""), "is empty"),
        (lambda p: put(p, b"{}"), "no safetensors file, or damaged at its beginning"),
        (
            lambda p: put(p, b"\x80\x02cos\nsystem\n(Vtouch executed\ntR."),
            "is a pickle, which is not read since it could",
        ),
        (lambda p: torch.save(Net().state_dict(), p), "is a zip archive, such as torch.save writes"),
        (
            lambda p: save_file(dict(nn.Linear(2, 2).state_dict()), p),
            "was not written by prunus.save: its header names",
        ),
        (lambda p: save_file({"x": torch.ones(1)}, p, {"prunus": "["}), "its header is no JSON"),
        (lambda p: save_file({"x": torch.ones(1)}, p, {"prunus": "[" * 100_000}), "its header is no JSON"),
        (lambda p: save_file({"x": torch.ones(1)}, p, {"prunus": "{}"}), "its header does not say what it holds"),
        (
            lambda p: save_file({"x": torch.ones(1)}, p, {"prunus": '{"format": "prunus-saved-2", "content": {}}'}),
            "is of format 'prunus-saved-2'; this version reads 'prunus-saved-1'",
        ),
    ],
)
def test_what_is_no_saved_network(make: Callable[[Path], object], told: str, path: Path) -> None:
    make(path)
    with pytest.raises(CheckpointError, match=told) as error:
        prunus.load(path, Net())
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_file_cut_short_is_refused(path: Path) -> None:
    prunus.save(small(), path)
    whole = path.read_bytes()
    for size in (4, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"cut short|damaged"):
            prunus.load(path, Net())


def test_a_plan_that_did_not_make_the_network_is_not_saved(path: Path) -> None:
    cut = small()
    cut.model.head = nn.Linear(3, 2)
    with pytest.raises(
        PlanError, match=r"this plan did not make this network: head.bias is \(2,\), and \(5,\) by the plan"
    ):
        prunus.save(cut, path)
    cut.model.extra = nn.Linear(2, 2)
    with pytest.raises(PlanError, match=r"extra\.bias is \(2,\), and gone by the plan"):
        prunus.save(cut, path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("given", "base", "told"),
    [
        (3, None, "save takes what prune, finish or load returned, or a module, not int"),
        (Net(), "plan.json", "base is what prune or load returned, or a Plan, not str"),
    ],
)
def test_what_save_does_not_take(given: Any, base: Any, told: str, path: Path) -> None:
    with pytest.raises(InputError, match=told):
        prunus.save(given, path, base=base)


def test_tensors_that_no_file_holds(path: Path) -> None:
    plan = small().plan
    for change, told in (
        (lambda net: net.to("meta"), "is on the meta device and has no values to save"),
        (lambda net: setattr(net, "on", net.on.to_sparse()), r"on is no plain tensor \(sparse_coo\)"),
        (lambda net: setattr(net, "on", net.on.to(torch.complex128)), "safetensors cannot hold these tensors"),
        (
            lambda net: setattr(Net, "get_extra_state", lambda self: {"a": 1}),
            "_extra_state of the state dict is no tensor",
        ),
    ):
        model = prunus.apply(Net(), plan)
        change(model)
        try:
            with pytest.raises(CheckpointError, match=told):
                prunus.save(model, path, base=plan)
        finally:
            Net.__dict__.get("get_extra_state") and delattr(Net, "get_extra_state")
    assert not path.exists()


def test_a_full_disk_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = small()
    prunus.save(cut, path)
    before = path.read_bytes()
    prunus.save(cut, path)
    assert path.read_bytes() == before  # the same network is the same file

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="could not be written: No space left on device; a file that was there is"):
        prunus.save(cut, path)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
    with pytest.raises(StorageError, match="No such file or directory"):
        prunus.save(cut, path.parent / "nowhere" / "small.safetensors")


# mutations ------------------------------------------------------------------------------------------------------------
def test_a_hundred_mutations_are_refused_or_load_what_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(tmp_path)
    from fuzz import MUTATIONS, fuzz

    found, longest = fuzz(tmp_path, 9 * len(MUTATIONS), seed=7)
    assert sum(sum(counts.values()) for counts in found.values()) >= 100 and len(found) == len(MUTATIONS)
    faults = {said for counts in found.values() for said in counts} - {"refused", "as saved", "as forged"}
    assert faults == set() and longest < 10 and not (tmp_path / "executed").exists()
    for kind in ("flip body", "truncate", "insert", "delete", "foreign"):
        assert found[kind]["refused"] == 9, kind
    assert found["forged body"]["as forged"] > 4  # a digest is no signature


def test_the_fuzzer_sees_a_wrong_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import fuzz

    good, path = fuzz.goods(tmp_path)[0], tmp_path / "x.safetensors"
    assert fuzz.verdict(good, "flip body", good.content, path) == "as saved"
    bad = fuzz.forged_body(good.content, random.Random(1))
    assert fuzz.verdict(good, "forged body", bad, path) == "as forged"
    assert fuzz.verdict(good, "flip body", bad, path) == "a wrong model"
    monkeypatch.setattr(prunus, "load", lambda *_: 1 / 0)
    assert fuzz.verdict(good, "plan", good.content, path) == "ZeroDivisionError: division by zero"
