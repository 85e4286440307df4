"""Recipes that extend another: what is merged, what is refused, and that a run's recipe stands alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shared import ROOT

from prunus.cli import main
from prunus.errors import InputError
from prunus.lab.explain import toml
from prunus.lab.extends import merged
from prunus.lab.recipe import load, plain, read

BASE = """
name = "base"
[model]
name = "resnet20"
[data]
limit = 100
[train]
epochs = 4
augment = { crop = 1, flip = true }
[prune]
rates = { "layer1.*" = 0.5 }
[smoke]
train.epochs = 1
data.limit = 20
"""


def written(folder: Path, **files: str) -> Path:
    for name, text in {"base": BASE, **files}.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder


def test_tables_are_merged_and_anything_else_is_replaced(tmp_path: Path) -> None:
    one = 'extends = "base.toml"\nname = "one"\n[train]\nepochs = 6\naugment.flip = false\n'
    two = 'extends = "one.toml"\nname = "two"\n[prune]\nrates = { "layer2.*" = 0.25 }\n[smoke]\ndata.limit = 10\n'
    written(tmp_path, one=one, two=two)
    recipe, small = load(tmp_path / "two.toml"), load(tmp_path / "two.toml", smoke=True)
    assert recipe.train is not None and small.train is not None and recipe.prune is not None
    assert (recipe.name, recipe.train.epochs, recipe.data.limit) == ("two", 6, 100)
    assert (recipe.train.augment.crop, recipe.train.augment.flip) == (1, False)
    assert recipe.prune.rates == {"layer1.*": 0.5, "layer2.*": 0.25}  # dots in names of layers part nothing
    assert (small.name, small.train.epochs, small.data.limit) == ("two-smoke", 1, 10)
    assert load(tmp_path / "two.toml", ["train.epochs=9"]).train.epochs == 9  # type: ignore[union-attr]
    assert merged({"a": {"b": 1}}, {"a": 2}) == {"a": 2}
    assert load(tmp_path / "base.toml").name == "base"


def test_what_is_run_names_no_second_file(tmp_path: Path) -> None:
    written(tmp_path, one='extends = "base.toml"\nname = "one"\n')
    recipe = load(tmp_path / "one.toml")
    text = toml(plain(recipe))
    assert "extends" not in text and "base" not in text
    (tmp_path / "alone.toml").write_text(text, encoding="utf-8")
    assert load(tmp_path / "alone.toml") == recipe
    assert load(recipe, smoke=True) == load(tmp_path / "one.toml", smoke=True)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('extends = "../base.toml"\nname = "a"', ["a.toml: extends = '../base.toml'", "a .toml file beside it"]),
        ('extends = "/etc/passwd"\nname = "a"', ["extends = '/etc/passwd'"]),
        ('extends = "base.txt"\nname = "a"', ["extends = 'base.txt'"]),
        ('extends = ["base.toml"]\nname = "a"', ["extends = ['base.toml']"]),
        ('extends = "base.toml"', ["a.toml: name: missing", "one of its own"]),
        ('extends = "a.toml"\nname = "a"', ["in a circle: a.toml -> a.toml"]),
        ('extends = "b.toml"\nname = "a"', ["in a circle: a.toml -> b.toml -> a.toml"]),
        ('extends = "nowhere.toml"\nname = "a"', ["nowhere.toml", "cannot be read"]),
        ('extends = "base.toml"\nname = "a"\n[train]\nepoch = 3', ["train.epoch: unknown", "did you mean 'epochs'"]),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, parts: list[str]) -> None:
    written(tmp_path, a=text, b='extends = "a.toml"\nname = "b"')
    with pytest.raises(InputError) as caught:
        load(tmp_path / "a.toml")
    assert [part for part in parts if part not in str(caught.value)] == [], caught.value


def test_a_chain_has_an_end(tmp_path: Path) -> None:
    links = {f"r{n}": f'extends = "r{n + 1}.toml"\nname = "r{n}"' for n in range(9)}
    written(tmp_path, **links, r9=BASE)
    assert read(tmp_path / "r2.toml")["train"]["epochs"] == 4  # seven below it
    with pytest.raises(InputError, match="more than 8 deep"):
        read(tmp_path / "r0.toml")


def test_only_files_extend(tmp_path: Path) -> None:
    written(tmp_path)
    for given, overrides in (
        ({"extends": "base.toml", "name": "a"}, ()),
        (tmp_path / "base.toml", ("extends=b.toml",)),
    ):
        with pytest.raises(InputError, match="only a recipe's file can extend another"):
            load(given, overrides)


def test_the_schema_knows_it_and_show_prints_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads((ROOT / "recipes" / "schema.json").read_text("utf-8"))
    assert schema["properties"]["extends"]["type"] == "string"
    assert schema["anyOf"] == [{"required": ["name", "extends"]}, {"required": ["name", "model"]}]
    written(tmp_path, one='extends = "base.toml"\nname = "one"\n')
    assert main(["recipe", "show", str(tmp_path / "one.toml"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["recipe"], told["settings"]["model"]["name"]) == ("one", "resnet20")
