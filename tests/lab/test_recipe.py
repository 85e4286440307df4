"""Recipes: what is refused and in which words, overrides, the published schema, and the recipes of the repository."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from shared import ROOT

from prunus.engine.config import Augment, Fit
from prunus.errors import InputError, MissingExtra, TargetError, UnknownName
from prunus.lab.check import check
from prunus.lab.explain import explained, toml
from prunus.lab.recipe import Finetune, Recipe, Sparsity, load, only_fit, override, plain, read
from prunus.lab.schema import described, json_schema

RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
SHAPES = {"digits": (1, 8, 8), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "imagenet": (3, 224, 224)}

RAW: dict[str, Any] = {
    "name": "tiny",
    "model": {"name": "resnet20"},
    "data": {"validation": 0.1},
    "train": {"epochs": 2, "steps": [1], "schedule": "steps", "augment": {"crop": 1}},
    "sparsity": {"epochs": 1, "options": {"lam": 1e-3}},
    "prune": {"target": "macs=50%", "method": "slimming"},
    "finetune": {"epochs": 3, "selection": "best", "teacher": True},
    "smoke": {"train": {"epochs": 1}, "finetune.epochs": 1, "data.limit": 100},
}


def test_sections_are_the_settings_themselves() -> None:
    recipe = load(RAW)
    assert recipe.train == Fit(epochs=2, steps=(1.0,), schedule="steps", augment=Augment(crop=1))
    assert recipe.sparsity == Sparsity(epochs=1, options={"lam": 1e-3})
    assert recipe.finetune == Finetune(epochs=3, selection="best", teacher=True)
    assert only_fit(recipe.finetune) == Fit(epochs=3, selection="best")
    assert (recipe.all_seeds, recipe.selection) == ((0,), "validation")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("train.epoch=3", ["train.epoch: unknown", "did you mean 'epochs'"]),
        ("trian.epochs=3", ["trian: unknown", "did you mean 'train'"]),
        ("train.augment.crp=1", ["train.augment.crp: unknown", "did you mean 'crop'"]),
        ("finetune.teachers=true", ["finetune.teachers: unknown", "did you mean 'teacher'"]),
        ("prune.options.lamb=1", ["prune: options.lamb: unknown", "did you mean 'lam'"]),
        ("smoke.train.epoch=3", ["smoke: train.epoch: unknown", "did you mean 'epochs'"]),
        ("data.zebra=1", ["data.zebra: unknown", "allowed: path, mean"]),
        ("train.epochs=2.5", ["train.epochs: 2.5 is not allowed", "a whole number"]),
        ("train.epochs=many", ['train.epochs: "many" is not allowed', "a whole number"]),
        ("train.nesterov=1", ["train.nesterov: 1 is not allowed", "true or false"]),
        ("train.lr=fast", ['train.lr: "fast" is not allowed', "a number"]),
        ("train.steps=3", ["train.steps: 3 is not allowed", "a list, each entry a number"]),
        ("train.schedule=cosin", ['train.schedule: "cosin" is not allowed', '"cosine", "steps", "onecycle"']),
        ("data.resize=[1,2,3]", ["data.resize: [1, 2, 3] is not allowed", "a list of 2"]),
        ("train=3", ["train: 3 is not allowed", "a table"]),
        ("model.name=", ["model.name: missing", "text"]),
        ("model=", ["model: missing", "a table"]),
        ("name=a/b", ["name: 'a/b'", "folder"]),
        ("name=stages", ["name: 'stages'", "holds no runs"]),
        ("name=networks", ["name: 'networks'", "holds no runs"]),
        (f"name={'x' * 300}", ["200 bytes"]),
        ("train.lr=inf", ["train: lr=inf must be finite"]),
        ("train.momentum=2", ["train: momentum=2.0", "0.0..1.0"]),
        ("data.validation=1", ["data: validation=1.0"]),
        ("data.validation=0", ["finetune.selection: 'best'", "data.validation"]),
        ("data.selection=published", ["data: selection='published'", "validation"]),
        ("seeds=[1,1]", ["seeds: [1, 1]", "different"]),
        ("runtime.seed=1", ["runtime.seed: not here", "seeds = [0, 1]"]),
        ("runtime.precision=bf17", ['runtime.precision: "bf17"', '"bf16"']),
        ("sparsity.options={lam=-1}", ["sparsity: options: slimming: lam=-1"]),
        ("trackers=[tensorbord]", ["--set 'trackers=[tensorbord]'", "no TOML"]),
        ("trackers=['tensorbord']", ["unknown tracker 'tensorbord'", "did you mean 'tensorboard'"]),
        ("checkpoint_every=-1", ["checkpoint_every: -1"]),
        ("train.epochs=[", ["--set 'train.epochs=['", "no TOML"]),
        ("train.epochs", ["--set 'train.epochs'", "NAME=VALUE"]),
        ("train..epochs=1", ["--set 'train..epochs=1'", "NAME=VALUE"]),
    ],
)
def test_what_is_wrong_is_named_by_its_path(text: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        load(RAW, [text])
    assert [part for part in parts if part not in str(caught.value)] == [], caught.value


def test_errors_keep_their_kind() -> None:
    with pytest.raises(UnknownName, match="prune: unknown method 'slimmin'; did you mean 'slimming'"):
        load(RAW, ["prune.method=slimmin"])
    with pytest.raises(TargetError, match="did you mean 'macs'"):
        load(RAW, ["prune.target=mac=50%"])
    with pytest.raises(InputError, match="seed and seeds"):
        load(RAW, ["seed=1", "seeds=[2,3]"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=10", 10),
        ("a.b=1e-3", 1e-3),
        ("a.b=.01", 0.01),
        ("a.b=-5.", -5.0),
        ("a.b=true", True),
        ("a.b=[1, 2]", [1, 2]),
        ("a.b=../shared/data/cifar10", "../shared/data/cifar10"),
        ('a.b="10"', "10"),
        ("a.b=macs=50%", "macs=50%"),
        ("a.b = x ", "x"),
        ("a.b=1\nc=2", "1\nc=2"),
    ],
)
def test_values_of_set(text: str, value: object) -> None:
    assert override({"a": {"c": 1}}, text) == {"a": {"c": 1, "b": value}}


def test_set_merges_tables_and_takes_away() -> None:
    assert override({"a": {"b": 1, "c": 2}}, "a={b=3}") == {"a": {"b": 3, "c": 2}}
    assert override({"a": {"b": 1, "c": 2}}, "a.b=") == {"a": {"c": 2}}
    assert override({"a": {"b": 1}}, "a=") == {}
    assert load(RAW, ["prune.target=", 'prune.rates="[0.5]*12"']).prune.rates == "[0.5]*12"  # type: ignore[union-attr]


def test_names_of_layers_are_not_parted_at_dots() -> None:
    rates = {"layer1.0": 0.5}
    raw = {**RAW, "prune": {"rates": rates}, "smoke": {"prune": {"rates": {"layer2.0": 0.1}}}}
    assert load(raw, smoke=True).prune.rates == {**rates, "layer2.0": 0.1}  # type: ignore[union-attr]
    assert load(raw, ['prune.rates={"layer1.0"=0.2}']).prune.rates == {"layer1.0": 0.2}  # type: ignore[union-attr]


def test_the_smoke_variant() -> None:
    small, whole = load(RAW, smoke=True), load(RAW)
    assert small.name == "tiny-smoke" and small.smoke == {}
    assert small.train is not None and small.finetune is not None and whole.train is not None
    assert (small.train.epochs, small.finetune.epochs, small.data.limit) == (1, 1, 100)
    assert (whole.train.epochs, whole.data.limit) == (2, None)
    assert load(whole, smoke=True) == small and load(plain(whole)) == whole


def test_settings_come_back() -> None:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    recipe = load(RAW, ["seeds=[0,3]", "prune.rates=", "prune.target={macs=0.5,round_to=8}"])
    assert load(plain(recipe)) == load(RAW, ["seeds=[0,3]", "prune.target=macs=50%,round=8"])
    assert load(tomllib.loads(toml(plain(recipe)))) == load(plain(recipe))


def test_a_file_that_is_missing_or_no_toml(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "nowhere.toml")
    (tmp_path / "bad.toml").write_text("a = = 1", encoding="utf-8")
    with pytest.raises(InputError, match=r"bad\.toml is no TOML: .*line 1"):
        read(tmp_path / "bad.toml")


def test_without_pydantic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic", None)
    with pytest.raises(MissingExtra, match=r'pip install "prunus\[lab\]"'):
        load(RAW)


def test_the_published_schema_is_this_one() -> None:
    """`prunus recipe schema > recipes/schema.json` brings it up to date."""
    published = json.loads((ROOT / "recipes" / "schema.json").read_text("utf-8"))
    assert published == json_schema()
    fit = published["$defs"]["Fit"]["properties"]
    assert fit["schedule"]["enum"] == ["cosine", "steps", "onecycle"] and "warm-up" in fit["warmup"]["description"]
    assert published["$defs"]["Fit"]["additionalProperties"] is False
    assert "seed" not in published["$defs"]["Runtime"]["properties"]


def test_fields_are_described_where_they_are_defined() -> None:
    texts = described(Finetune)
    assert "full size" in texts["teacher"] and "warm-up" in texts["warmup"]
    assert set(described(Recipe)) == set(Recipe.__dataclass_fields__)


def test_the_recipes_are_there() -> None:
    assert {path.stem for path in RECIPES} >= {
        "cifar10-resnet20",
        "cifar10-resnet20-slimming",
        "cifar10-resnet56",
        "cifar10-resnet110",
        "digits-resnet20-slimming",
        *(f"imagenet-{name}" for name in ("alexnet", "resnet18", "resnet34", "vgg16_bn", "mobilenet_v2")),
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_can_work(path: Path) -> None:
    """All that can be seen without the data: it parses, the network builds, the method attaches, the target is met."""
    assert path.read_text("utf-8").startswith("#:schema ./schema.json\n")
    recipe = load(path)
    assert recipe.name == path.stem
    assert load(path, smoke=True).name == f"{path.stem}-smoke"
    assert dict(explained(recipe))["model"].startswith(recipe.model.name)
    shape = SHAPES[recipe.data.path]
    side = recipe.data.resize if isinstance(recipe.data.resize, int) else shape[1]
    found = dict(check(recipe, torch.randn(1, shape[0], side, side)))
    assert "macs" in found["model"]
    assert ("prune" in found) == (recipe.prune is not None)


def test_two_recipes_share_their_baseline() -> None:
    plain_, slimming = (load(ROOT / "recipes" / f"cifar10-resnet20{name}.toml") for name in ("", "-slimming"))
    assert (plain_.train, plain_.data, plain_.runtime) == (slimming.train, slimming.data, slimming.runtime)


def test_what_is_no_recipe() -> None:
    with pytest.raises(InputError, match="a recipe is a file, a table or a Recipe, not int"):
        load(3)  # type: ignore[arg-type]
