"""A plan says what stays: plain data, enough on its own to cut a fresh copy of the model."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError, PlanError, StorageError, UnknownName
from .graph.coupling import VALUES, Attribute, Coupling, Fold, Group, Member, Zero

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Dropped:
    """A residual branch replaced by zero: the first of its modules starts it with zeros, the last gives them their
    shape; those between pass what they are given, or have shapes of their own (`inner`).
    """

    name: str
    path: str
    nth: int
    operand: int
    modules: tuple[str, ...]
    tensors: tuple[str, ...]
    zero: Zero
    inner: tuple[Zero, ...] = ()


@dataclass(frozen=True, eq=False)
class Plan:
    """What stays of a model.

    `kept[g]` lists the channels of `groups[g]` that stay, ascending. `fingerprint` maps each tensor of the dense model
    to its shape and dtype. `attributes` are the integers that modules remember, as linear forms of the kept widths.
    The groups of a tuple of `links` keep the same share of their widths; `folds` are factors of softmax scales. `tied`
    maps further names of a tensor to its first one; groups name a tensor once.
    """

    fingerprint: Mapping[str, tuple[tuple[int, ...], str]]
    groups: tuple[Group, ...]
    kept: tuple[tuple[int, ...], ...]
    attributes: tuple[Attribute, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    links: tuple[tuple[int, ...], ...] = ()
    folds: tuple[Fold, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group, kept in zip(self.groups, self.kept, strict=True):
            check_kept(group, kept)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(map(len, self.kept))

    @property
    def dense(self) -> tuple[int, ...]:
        return tuple(group.width for group in self.groups)

    def __str__(self) -> str:
        wide = max((len(group.name) for group in self.groups), default=0)
        rows = [
            f"{g.name:<{wide}}  {g.width:>5} -> {len(kept):>5}" for g, kept in zip(self.groups, self.kept, strict=True)
        ]
        return "\n".join([*rows, *(f"dropped: {d.name}" for d in self.dropped)] or ["nothing is cut"])

    __repr__ = __str__

    def factors(self) -> dict[tuple[str, int], Floats]:
        """For each axis (tensor, axis) of the dense model that folds scale, the factor of each entry."""
        found: dict[tuple[str, int], Floats] = {}
        for fold in self.folds:
            if fold.width(self.widths) != fold.width(self.dense):
                length = self.fingerprint[fold.tensor][0][fold.axis]
                line = found.setdefault((fold.tensor, fold.axis), np.ones(length))
                line[fold.positions] *= fold.factor(self.dense, self.widths)
        return found

    def keep(self, group: str, kept: Sequence[int]) -> Plan:
        """The same plan with another kept list for one group."""
        names = [g.name for g in self.groups]
        if group not in names:
            raise UnknownName.of("group", group, names)
        at = names.index(group)
        return replace(self, kept=(*self.kept[:at], whole_ids(group, kept), *self.kept[at + 1 :]))

    def masks(self) -> dict[tuple[str, int], Bools]:
        """The mask view: for each cut axis (tensor, axis) of the dense model, which entries stay."""
        found: dict[tuple[str, int], Bools] = {}
        for group, kept in zip(self.groups, self.kept, strict=True):
            gone = np.ones(group.width, bool)
            gone[list(kept)] = False
            for m in group.members:
                length = self.length(m)
                mask = found.setdefault((m.tensor, m.axis), np.ones(length, bool))
                mask[m.positions[gone].reshape(-1)] = False
        return found

    def length(self, member: Member) -> int:
        """Dense length of a member's axis; for the values of an index, how many there are."""
        if member.axis == VALUES:
            mine = [
                m.positions.max()
                for g in self.groups
                for m in g.members
                if (m.tensor, m.axis) == (member.tensor, VALUES)
            ]
            return int(max(mine)) + 1
        return self.fingerprint[member.tensor][0][member.axis]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor of the cut network; those of dropped branches are gone."""
        inside = tuple(f"{m}." for d in self.dropped for m in d.modules)
        found = {name: list(shape) for name, (shape, _) in self.fingerprint.items()}
        for (tensor, axis), mask in self.masks().items():
            if axis != VALUES:
                found[tensor][axis] = int(mask.sum())
        for name, first in self.tied.items():
            found[name] = found[first]
        return {name: tuple(shape) for name, shape in found.items() if not (inside and name.startswith(inside))}

    def then(self, second: Plan) -> Plan:
        """One plan for the dense model that does what this plan and then `second`, made for the cut model, do.

        Raises PlanError where `second` was made for another network than the one that this plan cuts.
        """
        from .composed import composed

        if not isinstance(second, Plan):
            raise PlanError(f"what follows a plan is another one, not {type(second).__name__}")
        return composed(self, second)

    def to_json(self) -> dict[str, Any]:
        """Plain data: numbers, strings, lists and dictionaries."""
        from .planfile import plan_json

        return plan_json(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """Read plain data. Raises PlanError, naming what is wrong, for anything that is no plan."""
        from .planfile import plan_from

        return plan_from(data)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON. Raises InputError for what is no path, StorageError where it cannot be written."""
        place, text = named(path), json.dumps(self.to_json())
        try:
            place.write_text(text)
        except OSError as error:
            raise StorageError(f"cannot write the plan {str(place)!r}: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan that `save` wrote. Raises PlanError; InputError for what is no path."""
        try:
            content = named(path).read_bytes()
        except OSError as error:
            raise PlanError(f"cannot read the plan {path}: {error.strerror}") from None
        try:
            data = json.loads(content)
        except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, numbers or nesting without end
            raise PlanError(f"{path} is no JSON: {str(error).splitlines()[0]}") from None
        return cls.from_json(data)


def named(path: object) -> Path:
    """Raises InputError for what names no file."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"path is text or a pathlib.Path, not {type(path).__name__}")
    return Path(path)


def whole_ids(group: str, kept: Any) -> tuple[int, ...]:
    """Channel ids, ascending, out of a list, an array or a tensor of them. Raises PlanError."""
    given = kept.tolist() if hasattr(kept, "tolist") else kept
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise PlanError(f"group {group}: kept channels are a list of whole numbers, not {type(kept).__name__}")
    ids = list(given)
    for k in ids:
        if isinstance(k, bool) or not isinstance(k, Integral):
            raise PlanError(f"group {group}: kept channels are whole numbers, not {k!r}")
    return tuple(sorted(map(int, ids)))


def check_kept(group: Group, kept: Sequence[int]) -> None:
    """Kept channels are ascending, within the group, at least one, and equally many in every block."""
    if len(kept) == 0:
        raise PlanError(f"group {group.name} keeps no channel; at least {group.floor} must stay")
    inside = min(kept) >= 0 and max(kept) < group.width
    ids = np.asarray(kept if inside else (), np.int64)
    if not inside or (np.diff(ids) <= 0).any():
        raise PlanError(f"group {group.name}: kept channels must be ascending and within 0 … {group.width - 1}")
    if len(ids) < group.floor:
        raise PlanError(f"group {group.name} keeps {len(ids)} of its channels; at least {group.floor} must stay")
    if group.blocks is not None:
        counts = np.bincount(group.blocks[ids], minlength=group.parts)
        if (counts != counts[0]).any():
            raise PlanError(
                f"group {group.name}: every one of its {group.parts} blocks must keep equally many channels"
            )


def check_links(plan: Plan) -> None:
    """Linked groups keep the same share of their widths. A plan is edited group by group, so `apply` asks this."""
    inside = tuple(f"{m}." for d in plan.dropped for m in d.modules)
    for linked in plan.links:
        alive = [
            g for g in linked if not inside or not all(m.tensor.startswith(inside) for m in plan.groups[g].members)
        ]
        for a, b in itertools.pairwise(alive):
            if plan.widths[a] * plan.dense[b] != plan.widths[b] * plan.dense[a]:
                told = " and ".join(f"{plan.groups[g].name} {plan.widths[g]} of {plan.dense[g]}" for g in (a, b))
                raise PlanError(f"linked groups must keep the same share of their channels, and the plan keeps {told}")


def following(
    coupling: Coupling, kept: Sequence[Sequence[int] | Ints], dropped: Sequence[str]
) -> Sequence[Sequence[int] | Ints]:
    """Groups that went with a dropped branch keep the share of the groups that they are linked to: code around the
    branch may still compute with their width."""
    gone = coupling.without(dropped)[2] if coupling.links else frozenset[int]()
    found = list(kept)
    for linked in coupling.links if gone else ():
        alive = [g for g in linked if g not in gone]
        for g in linked if alive else ():
            if g in gone:
                group = coupling.groups[g]
                share = group.width * len(kept[alive[0]]) // coupling.groups[alive[0]].width
                blocks = np.zeros(group.width, np.int64) if group.blocks is None else group.blocks
                rows = [np.flatnonzero(blocks == b)[: share // group.parts] for b in range(group.parts)]
                found[g] = np.sort(np.concatenate(rows))
    return found


def plan_for(coupling: Coupling, kept: Sequence[Sequence[int] | Ints], dropped: Sequence[str] = ()) -> Plan:
    """The plan that keeps these channels of each group and drops these residual branches."""
    zeros = {z.path: z for z in coupling.zeros}
    found = {r.name: r for r in coupling.blocks}
    drops = tuple(
        Dropped(
            *(r.name, r.path, r.nth, r.operand, r.modules, r.tensors, zeros[r.modules[-1]]),
            tuple(zeros[m] for m in r.modules[:-1] if m in zeros),
        )
        for r in (found[name] for name in dropped)
    )
    return Plan(
        coupling.fingerprint,
        coupling.groups,
        tuple(tuple(map(int, k)) for k in following(coupling, kept, dropped)),
        coupling.attributes,
        drops,
        coupling.links,
        coupling.folds,
        coupling.tied,
    )
