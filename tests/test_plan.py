"""Plans as data: written, read back, edited by hand, composed; and everything that is no plan refused as PlanError."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus
from prunus.errors import InputError, PlanError, StorageError, UnknownName
from prunus.models import build
from prunus.plan import Plan
from prunus.surgery import verify

EXAMPLE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """A grouped convolution, a group norm, a residual block, a flatten with 4 entries a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 12, 1, groups=2)
        self.norm = nn.GroupNorm(2, 12)
        self.branch = Branch()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.grouped(torch.relu(self.stem(x)))))
        return self.head(self.pool(self.branch(x)).flatten(1))  # type: ignore[no-any-return]


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(12, 6, 1), nn.Conv2d(6, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(torch.relu(self.one(x)))  # type: ignore[no-any-return]


@cache
def small() -> nn.Module:
    torch.manual_seed(0)
    return Small()


@cache
def pruned() -> prunus.Pruned:
    return prunus.prune(small(), EXAMPLE, "macs=60%", "random")


@cache
def without_branch() -> prunus.Pruned:
    return prunus.prune(small(), EXAMPLE, "macs=60%", "random", drop=["branch"])


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(v, right[k]) for k, v in left.items()) and str(a) == str(b)


def equal(a: Plan, b: Plan) -> bool:
    return a.to_json() == b.to_json()


# there and back -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [pruned, without_branch])
def test_json_there_and_back(make: Any, tmp_path: Path) -> None:
    plan = make().plan
    text = json.dumps(plan.to_json())
    again = Plan.from_json(json.loads(text))
    assert equal(plan, again) and json.dumps(again.to_json()) == text
    assert (again.kept, again.widths, again.attributes, again.dropped) == (
        plan.kept, plan.widths, plan.attributes, plan.dropped,
    )  # fmt: skip
    assert dict(again.fingerprint) == dict(plan.fingerprint)
    for g, h in zip(plan.groups, again.groups, strict=True):
        assert (g.name, g.width, g.step) == (h.name, h.width, h.step)
        for m, n in zip(g.members, h.members, strict=True):
            assert (m.tensor, m.axis, m.role) == (n.tensor, n.axis, n.role)
            np.testing.assert_array_equal(m.positions, n.positions)
    assert plan.masks().keys() == again.masks().keys()
    plan.save(tmp_path / "plan.json")
    assert equal(Plan.load(tmp_path / "plan.json"), plan)
    assert same(prunus.apply(small(), Plan.load(str(tmp_path / "plan.json"))), make().model)


@pytest.mark.parametrize("name", ["resnet20", "densenet40", "googlenet"])
def test_json_of_bundled_nets(name: str) -> None:
    model = build(name)
    found = prunus.prune(model, torch.randn(1, 3, 32, 32), "macs=60%", "random", check=False)
    again = Plan.from_json(json.loads(json.dumps(found.plan.to_json())))
    assert equal(again, found.plan)
    assert same(prunus.apply(model, again), found.model)


def test_a_plan_applies_to_other_weights_and_dtypes() -> None:
    fresh = Small().half()
    cut = prunus.apply(fresh, pruned().plan)
    cut.load_state_dict(pruned().model.state_dict())
    assert next(cut.parameters()).dtype == torch.float16
    assert [p.shape for p in cut.parameters()] == [p.shape for p in pruned().model.parameters()]


# editing --------------------------------------------------------------------------------------------------------------
def test_a_kept_list_edited_by_hand() -> None:
    """Editing one list is enough: the members, the attributes and the flattened head follow."""
    data = json.loads(json.dumps(pruned().plan.to_json()))
    for group in data["groups"]:
        if group["name"] == "branch.one":
            group["kept"] = [1, 4]
        if group["name"] == "grouped":
            group["kept"] = [0, 1, 7, 11] if group["blocks"] and group["width"] == 12 else group["kept"]
    plan = Plan.from_json(data)
    cut = prunus.apply(small(), plan)
    assert cut.get_submodule("branch.one").out_channels == cut.get_submodule("branch.two").in_channels == 2
    wide = small().state_dict()
    grouped = dict(zip((g.name for g in plan.groups), plan.kept, strict=True))["grouped"]
    assert cut.get_submodule("norm").num_channels == len(grouped) == 4
    assert cut.get_submodule("head").in_features == 4 * len(grouped)
    weight = wide["branch.two.weight"][list(grouped)][:, [1, 4]]
    assert torch.equal(cut.state_dict()["branch.two.weight"], weight)
    columns = [4 * c + k for c in grouped for k in range(4)]
    assert torch.equal(cut.state_dict()["head.weight"], wide["head.weight"][:, columns])
    assert verify(small(), cut, plan, EXAMPLE).holds


def test_keep() -> None:
    plan = pruned().plan.keep("branch.one", [5, 0, 2])
    assert dict(zip((g.name for g in plan.groups), plan.kept, strict=True))["branch.one"] == (0, 2, 5)
    assert verify(small(), prunus.apply(small(), plan), plan, EXAMPLE).holds
    with pytest.raises(UnknownName, match=r"unknown group 'branch\.on'; did you mean 'branch\.one'"):
        plan.keep("branch.on", [1])


@pytest.mark.parametrize(
    ("kept", "text"),
    [
        ([], "keeps no channel"),
        ([0, 6], "within 0 … 5"),
        ([-1, 2], "within 0 … 5"),
        ([1, 1], "ascending"),
        ([2, 1], "ascending"),
        ([0.0, 1.0], "no whole number"),
        ([True], "no whole number"),
        (["1"], "no whole number"),
        ("12", "no whole number"),
        (None, "malformed"),
        (3, "malformed"),
    ],
)
def test_kept_lists_that_mean_nothing(kept: Any, text: str) -> None:
    data = copy.deepcopy(pruned().plan.to_json())
    next(g for g in data["groups"] if g["name"] == "branch.one")["kept"] = kept
    with pytest.raises(PlanError, match=text):
        Plan.from_json(data)


def test_blocks_are_respected() -> None:
    """One channel more in the first half of the grouped convolution than in the second."""
    plan = pruned().plan
    group = next(g for g in plan.groups if g.name == "grouped")
    assert group.blocks is not None and (group.width, group.step) == (12, 2)
    first, second = (np.flatnonzero(group.blocks == b).tolist() for b in (0, 1))
    assert plan.keep("grouped", [*first[:2], *second[:2]]).widths
    with pytest.raises(PlanError, match="every one of its 2 blocks must keep equally many channels"):
        plan.keep("grouped", [*first[:2], *second[:1]])


# files and data that are no plan --------------------------------------------------------------------------------------
def test_files_that_are_no_plan(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot read the plan"):
        Plan.load(tmp_path / "absent.json")
    with pytest.raises(PlanError, match="cannot read the plan"):
        Plan.load(tmp_path)
    for text in ("", "{", "[1, 2]", "null", "3", '"plan"', "{}", '{"format": "prunus-plan-2"}', "NaN"):
        (tmp_path / "p.json").write_text(text)
        with pytest.raises(PlanError):
            Plan.load(tmp_path / "p.json")
    for content in (b"\xff\xfe\x00plan", b"[" * 100_000, b"1" * 10_000):
        (tmp_path / "p.json").write_bytes(content)
        with pytest.raises(PlanError):
            Plan.load(tmp_path / "p.json")


def paths(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested lists and dictionaries."""
    found = [at] if at else []
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        found += paths(value, (*at, key))
    return found


def put(data: Any, path: tuple[Any, ...], value: Any, delete: bool) -> Any:
    data = copy.deepcopy(data)
    parent = data
    for key in path[:-1]:
        parent = parent[key]
    if delete:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return data


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 40), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=4),
    st.lists(st.integers(-2, 12), max_size=4), st.just({}), st.just([[]]), st.just([[0, 1], [2]]),
)  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_mutated_plans_are_applied_or_refused(data: st.DataObject) -> None:
    whole = without_branch().plan.to_json()
    path = data.draw(st.sampled_from(paths(whole)))
    broken = put(whole, path, data.draw(JUNK), data.draw(st.booleans()))
    try:
        plan = Plan.from_json(broken)
    except PlanError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert equal(Plan.from_json(plan.to_json()), plan)
        try:
            prunus.apply(small(), plan)
        except PlanError as error:
            assert str(error)


# another model --------------------------------------------------------------------------------------------------------
def test_a_plan_of_another_model_is_refused() -> None:
    plan = pruned().plan
    with pytest.raises(PlanError, match="the plan belongs to another model"):
        prunus.apply(build("resnet20"), plan)
    wider = Small()
    wider.head = nn.Linear(48, 4)
    with pytest.raises(PlanError, match=r"head\.weight is \(4, 48\), not \(3, 48\)"):
        prunus.apply(wider, plan)
    with pytest.raises(PlanError, match="the plan belongs to another model"):
        prunus.apply(pruned().model, plan)
    assert same(small(), small())


# composing ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("second", ["macs=50%", "params=60%", "channels=80%"])
def test_plans_compose(second: str) -> None:
    one = pruned()
    two = prunus.prune(one.model, EXAMPLE, second, "random", seed=1)
    both = one.plan.then(two.plan)
    assert same(prunus.apply(small(), both), two.model)
    assert verify(small(), prunus.apply(small(), both), both, EXAMPLE).holds
    assert equal(Plan.from_json(json.loads(json.dumps(both.to_json()))), both)


@pytest.mark.parametrize("name", ["resnet20", "densenet40", "mobilenetv1"])
def test_plans_of_bundled_nets_compose(name: str) -> None:
    model, example = build(name), torch.randn(1, 3, 32, 32)
    one = prunus.prune(model, example, "macs=70%", "random", check=False)
    two = prunus.prune(one.model, example, "macs=50%", "random", seed=1, check=False)
    assert same(prunus.apply(model, one.plan.then(two.plan)), two.model)


def test_a_dropped_block_composes() -> None:
    one = pruned()
    two = prunus.prune(one.model, EXAMPLE, "macs=80%", "random", seed=1, drop=["branch"])
    assert same(prunus.apply(small(), one.plan.then(two.plan)), two.model)


# the mask view --------------------------------------------------------------------------------------------------------
def test_masks_count_what_is_kept() -> None:
    plan, cut = pruned().plan, pruned().model.state_dict()
    for (tensor, axis), mask in plan.masks().items():
        assert mask.dtype == bool and mask.sum() == cut[tensor].shape[axis]
        assert mask.size == small().state_dict()[tensor].shape[axis]


def test_keep_takes_arrays_and_tensors() -> None:
    for ids in (np.array([5, 0, 2]), torch.tensor([5, 0, 2]), [np.int64(5), 0, 2], range(0, 6, 3)):
        plan = pruned().plan.keep("branch.one", ids)  # type: ignore[arg-type]
        assert equal(Plan.from_json(json.loads(json.dumps(plan.to_json()))), plan)
    for ids, text in [(["a"], "whole numbers, not 'a'"), ([0.5, 1], "whole numbers"), ("01", "not str"), (5, "not int"),
                      ([True], "whole numbers"), ([10**30], "within 0 … 5"), (None, "not NoneType")]:  # fmt: skip
        with pytest.raises(PlanError, match=text):
            pruned().plan.keep("branch.one", ids)  # type: ignore[arg-type]


def test_refusals_are_one_short_line() -> None:
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    for value in ("a\nb", "x" * 10**6, nested):
        for place in ("name", "width", "kept", "blocks", "unit"):
            data = pruned().plan.to_json()
            data["groups"][0] |= {"width": 0, place: value} if place == "name" else {place: value}
            with pytest.raises(PlanError) as refusal:
                Plan.from_json(data)
            assert "\n" not in str(refusal.value) and len(str(refusal.value)) <= 300


def test_an_axis_without_end_is_refused_before_memory_is_asked_for() -> None:
    data = pruned().plan.to_json()
    name = data["groups"][0]["members"][0]["tensor"]
    data["fingerprint"][name][0][0] = 10**15
    with pytest.raises(PlanError, match=f"axis 0 of {name} has 1000000000000000 entries"):
        Plan.from_json(data)


class Tied(nn.Module):
    """Two layers with one weight; the second has a name of its own for it."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.one, self.two, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(self.i(x)).relu()).relu())  # type: ignore[no-any-return]


def test_shapes_under_every_name_of_a_tensor() -> None:
    model = Tied()
    small = prunus.prune(model, torch.randn(3, 4), "params=60%", "random")
    read = Plan.from_json(json.loads(json.dumps(small.plan.to_json())))
    assert read.tied == {"two.weight": "one.weight"} and small.plan.widths[0] < 6
    named = {name: tuple(p.shape) for name, p in small.model.named_parameters(remove_duplicate=False)}
    assert read.shapes() == small.plan.shapes() == named
    again = prunus.prune(small.model, torch.randn(3, 4), "params=70%", "random", seed=1)
    both = read.then(again.plan)
    assert both.tied == read.tied and both.shapes() == again.plan.shapes() != named
    assert same(prunus.apply(model, both), again.model)
    assert "tied" not in pruned().plan.to_json()  # a file says it only where there is something to say
    for tied in ({"two.weight": "i.weight"}, {"x": "one.weight"}, {"one.weight": "one.weight"}, [1], {"two.bias": "x"}):
        with pytest.raises(PlanError, match="malformed"):
            Plan.from_json(small.plan.to_json() | {"tied": tied})


def test_a_plan_that_cannot_be_written(tmp_path: Path) -> None:
    plan = Plan({}, (), ())
    with pytest.raises(StorageError, match=r"cannot write the plan .*No such file or directory"):
        plan.save(tmp_path / "nowhere" / "plan.json")
    for call in (plan.save, Plan.load):
        with pytest.raises(InputError, match=r"path is text or a pathlib\.Path, not NoneType"):
            call(None)  # type: ignore[arg-type]


def test_only_a_plan_follows_a_plan() -> None:
    with pytest.raises(PlanError, match="what follows a plan is another one, not int"):
        Plan({}, (), ()).then(3)  # type: ignore[arg-type]


def test_a_plan_prints_as_its_widths() -> None:
    plan = prunus.prune(Small(), EXAMPLE, widths={"branch.one": 3}, check=False).plan
    assert str(plan).splitlines()[2] == "branch.one      6 ->     3" and repr(plan) == str(plan)
    assert str(Plan({}, (), ())) == "nothing is cut"
