"""The axes of a sweep: how they are written, the cross product, the names; and the space of a search."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweeps import recipe

from prunus.errors import InputError
from prunus.lab.grid import Axis, axes, parted, points
from prunus.lab.recipe import Recipe, load
from prunus.lab.space import Range, Space


@pytest.fixture
def base(tmp_path: Path) -> Recipe:
    return load(recipe(tmp_path))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("prune.target=macs=50%,macs=30%", ("macs=50%", "macs=30%")),
        ('prune.target="macs=50%,round=8",macs=30%', ("macs=50%,round=8", "macs=30%")),
        ("prune.target='macs=50%,round=8'", ("macs=50%,round=8",)),
        ("train.steps=[0.5, 0.75],[0.9]", ([0.5, 0.75], [0.9])),
        ("prune.options={p = 1},{p = 2}", ({"p": 1}, {"p": 2})),
        ("finetune.teacher=true,false", (True, False)),
        ("train.lr=.1,1e-2", (0.1, 0.01)),
        ('prune.rates="[0.45]*7+[0.0]","[0.5]*8"', ("[0.45]*7+[0.0]", "[0.5]*8")),
    ],
)
def test_values_of_an_axis(text: str, values: tuple[object, ...]) -> None:
    (axis,) = axes([text])
    assert axis == Axis((text.partition("=")[0],), values)


@pytest.mark.parametrize("text", ["train.lr", "train.lr=", "train.lr=1,", "=1", "seed=1,2", "a..b=1", "train.lr=1,1"])
def test_what_is_no_axis(text: str) -> None:
    with pytest.raises(InputError, match="--grid"):
        axes([text])


def test_quotes_and_brackets_that_are_left_open() -> None:
    assert parted("a,[b,(c,d)],'e,f'") == ["a", "[b,(c,d)]", "'e,f'"]
    for text in ("'a,b", "[1,2", "1],2"):
        with pytest.raises(InputError, match="left open"):
            parted(text)
    with pytest.raises(InputError, match="given twice"):
        axes(["train.lr=1", "train.lr+finetune.lr=2"])


def test_the_cross_product_in_order(base: Recipe) -> None:
    found = points(base, axes({"prune.target": ["macs=60%", "macs=40%"], "train.lr+finetune.lr": [0.1, 0.2]}))
    assert [point.name for point in found] == [
        *("target-macs-60-lr-0.1", "target-macs-60-lr-0.2"),
        *("target-macs-40-lr-0.1", "target-macs-40-lr-0.2"),
    ]
    last = found[-1].recipe
    assert last.train is not None and last.finetune is not None and last.prune is not None
    assert (last.train.lr, last.finetune.lr, str(last.prune.target)) == (0.2, 0.2, "macs=40%")
    assert last.name == "tiny-target-macs-40-lr-0.2" and found[-1].values["train.lr+finetune.lr"] == 0.2


def test_names_that_would_be_the_same_are_told_apart(base: Recipe) -> None:
    names = [point.name for point in points(base, axes({"prune.target": ["macs=60%", "macs=60 %"]}))]
    assert len(set(names)) == 2 and all(name.startswith("target-macs-60-") for name in names)
    both = points(base, axes({"train.epochs": [1], "finetune.epochs": [2]}))
    assert both[0].name == "train.epochs-1-finetune.epochs-2"


def test_options_of_the_method_by_a_short_name(base: Recipe, tmp_path: Path) -> None:
    (point,) = points(load(recipe(tmp_path), ["prune.method=fpgm"]), axes({"prune.p": [1.0]}))
    assert point.recipe.prune is not None and point.recipe.prune.options == {"p": 1.0}
    gates = {"method": "gates", "target": "macs=60%", "epochs": 2}
    raw = {**recipe(tmp_path), "sparsity": gates, "prune": {"method": "gates", "target": "macs=60%"}}
    (point,) = points(load(raw), axes({"prune.alpha_mac": [5]}))
    assert point.recipe.sparsity is not None and point.recipe.sparsity.options == {"alpha_mac": 5}
    assert point.recipe.prune is not None and point.recipe.prune.options == {"alpha_mac": 5}
    with pytest.raises(InputError, match=r"prune\.alpha_mack: unknown"):
        points(base, axes({"prune.alpha_mack": [5]}))


def test_a_point_that_cannot_work_is_named(base: Recipe) -> None:
    with pytest.raises(InputError, match=r"at train\.lr=0\.1, prune\.target=mac=50%: .*target"):
        points(base, axes(["train.lr=0.1", "prune.target=mac=50%"]))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("train.lr=0.001..1:log", Range(("train.lr",), 0.001, 1, log=True)),
        ("train.lr=1e-3...5", Range(("train.lr",), 0.001, 0.5)),
        ("train.epochs=2..10", Range(("train.epochs",), 2, 10, whole=True)),
        ("prune.target=macs=30%..70%", Range(("prune.target",), 30, 70, whole=True, before="macs=", after="%")),
        ("prune.target=macs=.5..0.7", Range(("prune.target",), 0.5, 0.7, before="macs=")),
    ],
)
def test_ranges(text: str, found: Range) -> None:
    assert Range.read(text) == found
    assert Range.read(f"{found.name}={found.text}") == found


def test_values_of_ranges_and_what_is_none() -> None:
    assert Range.read("a.b=macs=30%..70%").value(41) == "macs=41%"
    assert Range.read("a.b=2..10").value(3) == 3 and Range.read("a.b=0.1..1").value(0.123456789) == 0.123456789
    for text in ("a.b=1", "a.b=1..1", "a.b=2..1", "a.b=0..1:log", "a.b=30%..70", "a.b=1..2:lin", "seed=1..2"):
        with pytest.raises(InputError, match="--range"):
            Range.read(text)


def test_the_space() -> None:
    space = Space.of({"a.b": (0.5, 2.0, "log"), "a.c": "1..3"}, {"a.d": ["x", [1, 2]]})
    assert space.ranges[0].log and space.ranges[1].whole
    assert space.corners() == [{"a.b": 0.5, "a.c": 1, "a.d": "x"}, {"a.b": 2.0, "a.c": 3, "a.d": [1, 2]}]
    assert space.values({"a.b": 1.0, "a.c": 2, "a.d": "[1, 2]"}) == {"a.b": 1.0, "a.c": 2, "a.d": [1, 2]}
    with pytest.raises(InputError, match="--range or --choice"):
        Space.of((), ())
    with pytest.raises(InputError, match="given twice"):
        Space.of(["a.b=1..2"], ["a.b=1,2"])
