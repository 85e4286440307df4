"""Plans as plain data, and back. Nothing a file says is trusted before it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import PlanError
from .graph.coupling import Attribute, Fold, Form, Group, Ints, Member, Zero
from .plan import Dropped, Plan

FORMAT = "prunus-plan-1"
MOST = 1 << 26  # entries of one axis
NAMED = 1 << 24  # values that an index names
LONGEST = 300  # characters of a refusal

Fingerprint = Mapping[str, tuple[tuple[int, ...], str]]


def plan_json(plan: Plan) -> dict[str, Any]:
    """Numbers, strings, lists and dictionaries. `tied` is there only where tensors have several names."""
    tied = {"tied": dict(plan.tied)} if plan.tied else {}
    return tied | {
        "format": FORMAT,
        "fingerprint": {n: [list(shape), dtype] for n, (shape, dtype) in plan.fingerprint.items()},
        "groups": [group_json(g, kept) for g, kept in zip(plan.groups, plan.kept, strict=True)],
        "attributes": [
            {"module": a.path, "name": a.name, "place": a.place, "width": form_json(a.form)} for a in plan.attributes
        ],
        "dropped": [dropped_json(d) for d in plan.dropped],
        "links": [list(linked) for linked in plan.links],
        "folded": [
            {"tensor": f.tensor, "axis": f.axis, "positions": f.positions.tolist(), "width": form_json(f.width)}
            for f in plan.folds
        ],
    }


def group_json(group: Group, kept: tuple[int, ...]) -> dict[str, Any]:
    return {
        "name": group.name,
        "width": group.width,
        "kept": list(kept),
        "blocks": None if group.blocks is None else group.blocks.tolist(),
        "unit": group.unit,
        "least": group.least,
        "members": [
            {"tensor": m.tensor, "axis": m.axis, "role": m.role, "positions": packed(m.positions)}
            for m in group.members
        ],
    }


def zero_json(zero: Zero) -> dict[str, Any]:
    width = form_json(zero.width)
    return {"module": zero.path, "axis": zero.axis, "ratio": list(zero.ratio), "width": width, "items": zero.items}


def dropped_json(drop: Dropped) -> dict[str, Any]:
    return {
        "name": drop.name,
        "module": drop.path,
        "nth": drop.nth,
        "operand": drop.operand,
        "modules": list(drop.modules),
        "tensors": list(drop.tensors),
        "zero": zero_json(drop.zero),
        "inner": [zero_json(zero) for zero in drop.inner],
    }


def plan_from(data: Mapping[str, Any]) -> Plan:
    """A plan from plain data. Raises PlanError for anything that is none."""
    try:
        if data["format"] != FORMAT:
            raise PlanError(f"this is no plan of format {FORMAT}: format is {data['format']!r}")
        fingerprint = fingerprint_from(data["fingerprint"])
        groups = tuple(group_from(g, fingerprint) for g in data["groups"])
        return Plan(
            fingerprint=fingerprint,
            groups=groups,
            kept=tuple(tuple(map(whole, g["kept"])) for g in data["groups"]),
            attributes=tuple(
                Attribute(str(a["module"]), str(a["name"]), whole(a["place"]), form_from(a["width"], len(groups)))
                for a in data["attributes"]
            ),
            dropped=tuple(dropped_from(d, len(groups)) for d in data["dropped"]),
            links=tuple(link_from(linked, len(groups)) for linked in data.get("links", [])),
            folds=tuple(fold_from(f, fingerprint, len(groups)) for f in data["folded"]),
            tied=tied_from(data.get("tied", {}), fingerprint),
        )
    except PlanError as error:
        raise PlanError(one_line(str(error))) from None
    except KeyError as error:
        raise PlanError(one_line(f"the plan lacks {error}")) from None
    except RecursionError:
        raise PlanError("the plan is malformed: it is nested without end") from None
    except (TypeError, ValueError, AttributeError, OverflowError, IndexError, MemoryError) as error:
        raise PlanError(one_line(f"the plan is malformed: {error}")) from None


def one_line(message: str) -> str:
    """What a file says may be long, and of many lines."""
    text = " ".join(message[: 2 * LONGEST].split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def tied_from(data: Mapping[str, Any], fingerprint: Fingerprint) -> dict[str, str]:
    """Further names of tensors, and the first one of each."""
    tied = {str(name): str(first) for name, first in data.items()}
    for name, first in tied.items():
        if name not in fingerprint or fingerprint.get(first) != fingerprint[name] or first in tied:
            raise PlanError(f"the plan is malformed: {name} is no other name of {first}")
    return tied


def fingerprint_from(data: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Names, shapes and dtypes of tensors."""
    return {str(n): (tuple(map(whole, s)), str(dtype)) for n, (s, dtype) in data.items()}


def whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise PlanError(f"the plan is malformed: {value!r} is no whole number")
    return value


def group_from(data: Mapping[str, Any], fingerprint: Fingerprint) -> Group:
    name, width = str(data["name"]), whole(data["width"])
    if not 1 <= width <= MOST:
        raise PlanError(f"the plan is malformed: group {name} has width {width}")
    blocks = None if data["blocks"] is None else np.asarray(list(map(whole, data["blocks"])), np.int64)
    if blocks is not None and (blocks.shape != (width,) or blocks.min() < 0 or blocks.max() >= width):
        raise PlanError(f"the plan is malformed: the blocks of group {name} do not fit its width {width}")
    unit = whole(data.get("unit", 1))
    if unit < 1 or width % unit:
        raise PlanError(f"the plan is malformed: group {name} of width {width} goes {unit} at a time")
    least = whole(data.get("least", 1))
    if least < 1:
        raise PlanError(f"the plan is malformed: group {name} keeps at least {least} channels")
    members = tuple(member_from(m, width, fingerprint) for m in data["members"])
    if not members:
        raise PlanError(f"the plan is malformed: group {name} has no member")
    return Group(name, width, members, blocks, unit, least)


def link_from(data: Any, groups: int) -> tuple[int, ...]:
    linked = tuple(map(whole, data))
    if len(set(linked)) < 2 or any(not 0 <= g < groups for g in linked):
        raise PlanError("the plan is malformed: a link refers to a group that does not exist")
    return linked


def fold_from(data: Mapping[str, Any], fingerprint: Fingerprint, groups: int) -> Fold:
    tensor, axis = str(data["tensor"]), whole(data["axis"])
    if tensor not in fingerprint or not 0 <= axis < len(fingerprint[tensor][0]):
        raise PlanError(f"the plan is malformed: its fingerprint has no axis {axis} of {tensor}")
    positions = np.asarray(list(map(whole, data["positions"])), np.int64)
    if positions.size and (positions.min() < 0 or positions.max() >= fingerprint[tensor][0][axis]):
        raise PlanError(f"the plan is malformed: a factor lies outside {tensor}")
    return Fold(tensor, axis, positions, form_from(data["width"], groups))


def packed(positions: Ints) -> Any:
    """Positions as start, step by channel, step by entry and entries where they are regular, else spelled out."""
    width, entries = positions.shape
    start = int(positions[0, 0])
    across = int(positions[1, 0] - start) if width > 1 else 0
    within = int(positions[0, 1] - start) if entries > 1 else 0
    regular = start + across * np.arange(width)[:, None] + within * np.arange(entries)[None]
    if np.array_equal(regular, positions):
        return {"start": start, "channel": across, "entry": within, "entries": entries}
    return positions.tolist()


def member_from(data: Mapping[str, Any], width: int, fingerprint: Fingerprint) -> Member:
    tensor, axis, given = str(data["tensor"]), whole(data["axis"]), data["positions"]
    if tensor not in fingerprint or not -1 <= axis < len(fingerprint[tensor][0]):
        raise PlanError(f"the plan is malformed: its fingerprint has no axis {axis} of {tensor}")
    if isinstance(given, Mapping):
        entries = whole(given["entries"])
        if not 0 < entries * width <= (NAMED if axis < 0 else min(MOST, fingerprint[tensor][0][axis])):
            raise PlanError(f"the plan is malformed: {tensor} would have {entries * width} entries")
        steps = np.arange(width)[:, None] * whole(given["channel"]) + np.arange(entries)[None] * whole(given["entry"])
        positions = whole(given["start"]) + steps
    else:
        positions = np.asarray([list(map(whole, row)) for row in given], np.int64)
    limit = MOST if axis < 0 else fingerprint[tensor][0][axis]
    if limit > MOST:
        raise PlanError(f"the plan is malformed: axis {axis} of {tensor} has {limit} entries")
    if positions.ndim != 2 or positions.shape[0] != width or positions.min() < 0 or positions.max() >= limit:
        raise PlanError(f"the plan is malformed: positions of {tensor} do not fit a group of width {width}")
    return Member(tensor, axis, str(data["role"]), positions.astype(np.int64))


def form_json(form: Form) -> Any:
    return {"fixed": form.fixed, "groups": [list(t) for t in form.terms]}


def form_from(data: Mapping[str, Any], groups: int) -> Form:
    terms = tuple((whole(g), whole(n)) for g, n in data["groups"])
    if any(not 0 <= g < groups for g, _ in terms):
        raise PlanError("the plan is malformed: a width refers to a group that does not exist")
    return Form(whole(data["fixed"]), terms)


def dropped_from(data: Mapping[str, Any], groups: int) -> Dropped:
    modules = tuple(map(str, data["modules"]))
    if not modules:
        raise PlanError(f"the plan is malformed: dropped block {data['name']}")
    return Dropped(
        str(data["name"]),
        str(data["module"]),
        whole(data["nth"]),
        whole(data["operand"]),
        modules,
        tuple(map(str, data["tensors"])),
        zero_from(data["zero"], data["name"], groups),
        tuple(zero_from(zero, data["name"], groups) for zero in data.get("inner", [])),
    )


def zero_from(data: Mapping[str, Any], name: str, groups: int) -> Zero:
    ratio, axis, items = tuple(map(whole, data["ratio"])), whole(data["axis"]), whole(data.get("items", 0))
    if axis < 0 or axis > len(ratio) or items < 0 or any(r < 1 for r in ratio):
        raise PlanError(f"the plan is malformed: dropped block {name}")
    return Zero(str(data["module"]), axis, ratio, form_from(data["width"], groups), items)
