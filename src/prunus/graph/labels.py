"""Channel ids on tensors.

A *plane* is an int64 tensor of ids with the shape of the activation it labels, stride 0 along every axis on which the
id does not vary. A tensor may carry several planes that vary along different axes (a weight used as an operand has one
for each of its axes). Layout ops are replayed, the same call, on the planes.

Values below zero are no channels: -1 is a constant zero that padding put there, -2-k is a position that can never be
removed, for reason k.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

ZERO = -1


@dataclass(frozen=True)
class Label:
    """The planes of one tensor, the op that made it, why an axis without a plane is fixed, and the planes of which it
    tells places."""

    planes: tuple[Tensor, ...] = ()
    why: str = "it has a fixed width"
    op: int | None = None
    places: tuple[Tensor, ...] = ()


class Places(list[Tensor]):
    """The planes of an operand of which a result tells places, as that of `max` does: pinned as soon as it is used."""


def varying(plane: Tensor) -> tuple[int, ...]:
    """Axes along which the ids of a plane vary."""
    steps = plane.stride()
    return tuple([d for d, size in enumerate(plane.shape) if size > 1 and steps[d]])


def compress(plane: Tensor) -> Tensor:
    """The same plane with stride 0 wherever the ids do not vary."""
    if not plane.numel():
        return plane
    axes = varying(plane)
    if len(axes) == 1:
        line = vector(plane, axes[0]).numpy()
        return plane if line[0] != line[-1] or (line != line[0]).any() else plane.narrow(axes[0], 0, 1).expand_as(plane)
    shape, small = plane.shape, spelled(plane, axes)
    for axis in axes:
        first = small.narrow(axis, 0, 1)
        if bool(first.reshape(-1)[0] != small.narrow(axis, -1, 1).reshape(-1)[0]):
            continue
        if bool((small == first).all()):
            small, plane = first, plane.narrow(axis, 0, 1).expand(shape)
    return plane


def spelled(plane: Tensor, along: Sequence[int] | None = None) -> Tensor:
    """The ids of a plane, those that repeat along an axis once; `along`: the axes on which they vary."""
    axes = varying(plane) if along is None else along
    sizes = [size if d in axes else min(size, 1) for d, size in enumerate(plane.shape)]
    return plane.as_strided(sizes, plane.stride(), plane.storage_offset())


def vector(plane: Tensor, axis: int) -> Tensor:
    """Ids along one axis, read at position 0 of all others."""
    axis %= plane.dim()
    return plane.as_strided([plane.shape[axis]], [plane.stride(axis)], plane.storage_offset())


def paired(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs of ids that meet where two planes are broadcast together, each pair once. Raises RuntimeError where
    they cannot be."""
    a, b = torch.broadcast_tensors(a, b)
    sizes = [n if a.stride(d) or b.stride(d) else min(n, 1) for d, n in enumerate(a.shape)]
    a, b = (t.as_strided(sizes, t.stride(), t.storage_offset()) for t in (a, b))
    return a.reshape(-1), b.reshape(-1)


def along(ids: Tensor, axis: int, shape: Sequence[int]) -> Tensor:
    """A plane of the given shape that varies along one axis as `ids` does."""
    axis %= len(shape)
    return ids.reshape([-1 if d == axis else 1 for d in range(len(shape))]).expand(list(shape))


def spread(plane: Tensor, shape: Sequence[int]) -> Tensor:
    """A plane broadcast to a shape, as the elementwise op broadcasts its tensor."""
    if plane.dim() < len(shape):
        plane = plane.reshape([1] * (len(shape) - plane.dim()) + list(plane.shape))
    return plane if list(plane.shape) == list(shape) else plane.expand(list(shape))


def resized(plane: Tensor, axes: Iterable[int], shape: Sequence[int]) -> Tensor:
    """A plane that does not vary along `axes`, carried to a shape that differs from its own only there."""
    for d in axes:
        plane = plane.narrow(d, 0, 1)
    return plane.expand(list(shape))


def places(x: Tensor, part: Any) -> set[int]:
    """The axes of `x` along which a part of it is chosen by a tensor."""
    found: set[int] = set()
    items = list(part) if isinstance(part, tuple) else [part]
    taken = sum(0 if item is None or item is Ellipsis else rank(item) for item in items)
    axis = 0
    for item in items:
        if item is Ellipsis:
            axis += x.dim() - taken
        elif item is not None:
            if isinstance(item, (Tensor, list)):
                found |= set(range(axis, axis + rank(item)))
            axis += rank(item)
    return found


def rank(item: Any) -> int:
    """How many axes an item of an index takes."""
    return item.dim() if isinstance(item, Tensor) and item.dtype in (torch.bool, torch.uint8) else 1


class ByIdentity(MutableMapping[Tensor, Any]):
    """What is known of tensors, which it keeps."""

    def __init__(self) -> None:
        self.found: dict[int, tuple[Tensor, Any]] = {}

    def __getitem__(self, key: Tensor) -> Any:
        return self.found[id(key)][1]

    def get(self, key: Tensor, default: Any = None) -> Any:
        known = self.found.get(id(key))
        return default if known is None else known[1]

    def __contains__(self, key: object) -> bool:
        return id(key) in self.found

    def __setitem__(self, key: Tensor, value: Any) -> None:
        self.found[id(key)] = (key, value)

    def __delitem__(self, key: Tensor) -> None:
        del self.found[id(key)]

    def __iter__(self) -> Iterator[Tensor]:
        return iter([key for key, _ in self.found.values()])

    def __len__(self) -> int:
        return len(self.found)


@dataclass(frozen=True)
class Axis:
    """A vector of ids that a cut gathers or counts: axis of a tensor, attribute of a module, factor of a cost."""

    kind: str  # "tensor" | "attribute" | "work" | "values"
    owner: str
    place: int
    role: str
    ids: Tensor


@dataclass(frozen=True)
class Term:
    """Multiply-accumulates of one op: `times` for each combination of kept entries of the vectors `factors` names."""

    path: str
    op: int
    times: int
    factors: tuple[tuple[str, str, int], ...]


@dataclass
class Factor:
    """Rows that make up for a softmax scale that follows a width: √(kept / dense) is folded into them. Where a number
    in the code is that scale, `at` says where it was seen, and a trial cut shows whether it follows."""

    rows: Tensor
    width: Tensor
    at: set[tuple[int, int]] = field(default_factory=set)
    sure: bool = False


@dataclass
class Book:
    """What the rules say while a model is traced: ids handed out, ids united, ids pinned, demands for regularity."""

    size: int = 0
    edges: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    pins: list[tuple[Tensor, str]] = field(default_factory=list)
    even: list[Tensor] = field(default_factory=list)
    axes: dict[tuple[str, str, int], Axis] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    terms: list[Term] = field(default_factory=list)
    floors: list[tuple[Tensor, int]] = field(default_factory=list)  # of how many entries so many must stay
    parts: list[Tensor] = field(default_factory=list)
    links: list[tuple[Tensor, Tensor, str]] = field(default_factory=list)  # keep the same share, and why
    folds: dict[tuple[int, int], Factor] = field(default_factory=dict)
    beside: dict[str, Tensor] = field(default_factory=dict)  # weight -> the entries of what is added to its rows
    forward: int = 0  # which is running: the first in eval mode, in train mode, then those of further examples
    spoken: list[Tensor] = field(default_factory=list)  # channels whose number a view or a size was given

    def axis(self, owner: str, place: int, length: int, role: str) -> Tensor:
        """The ids of one axis of a parameter or buffer; new ones at the first call."""
        key = ("tensor", owner, place)
        if key not in self.axes:
            ids = torch.arange(self.size, self.size + length)
            self.size += length
            self.axes[key] = Axis("tensor", owner, place, role, ids)
        elif self.axes[key].role == "operand" != role:
            self.axes[key] = Axis("tensor", owner, place, role, self.axes[key].ids)
        return self.axes[key].ids

    def loose(self, length: int) -> Tensor:
        """Ids for an axis that no tensor has, such as that of zeros which the code makes."""
        self.size += length
        return torch.arange(self.size - length, self.size)

    def count(self, kind: str, owner: str, place: int, role: str, ids: Tensor) -> tuple[str, str, int]:
        """Remember a vector whose kept entries are counted (an attribute, a cost) or renumbered (values) by a cut."""
        key = (kind, f"{owner}:{role}", place)
        if key not in self.axes:
            large = ids.untyped_storage().nbytes() > 64 * ids.numel()  # a view would keep all of it
            self.axes[key] = Axis(kind, owner, place, role, ids.clone() if large else ids)
        return key

    def made(self, owner: str, name: str, length: int) -> Tensor | None:
        """Ids for an axis whose length is an attribute of a module; None where none are handed out."""
        key = ("attribute", f"{owner}:{name}", 0)
        if key not in self.axes:
            self.axes[key] = Axis("attribute", owner, 0, name, torch.arange(self.size, self.size + length))
            self.size += length
        return self.axes[key].ids

    def work(self, path: str, op: int, times: int, vectors: Sequence[Tensor]) -> None:
        """Count an op: `times` multiply-accumulates for each combination of entries of the vectors. Costs are those of
        the first forward."""
        if self.forward == 0:
            owner = f"{path}#{op}.{len(self.terms)}"  # an op may have several terms, as attention does
            keys = tuple(self.count("work", owner, i, "macs", v) for i, v in enumerate(vectors))
            self.terms.append(Term(path, op, times, keys))

    def fixed(self, why: str, length: int) -> Tensor:
        """`length` positions that can never be removed."""
        place = self.reasons.setdefault(why, len(self.reasons))
        return torch.full((1,), -2 - place).expand(length)

    def pin(self, ids: Tensor, why: str) -> None:
        """Forbid the removal of these ids."""
        found = torch.unique(spelled(ids))
        found = found[found >= 0]
        if found.numel():
            self.pins.append((found, why))

    def stays(self, ids: Tensor) -> bool:
        """Whether every one of these ids was pinned by name."""
        found = torch.unique(spelled(ids))
        found = found[found >= 0]
        return not found.numel() or bool(torch.isin(found, torch.cat([p for p, _ in self.pins] or [found[:0]])).all())

    def unite(self, a: Tensor, b: Tensor) -> None:
        """These ids go together, position by position. An id that meets a fixed position or a padded zero is pinned."""
        if a is b:
            return
        if a.dim() > 1 or a.shape != b.shape:
            a, b = paired(compress(a), compress(b))
        if (a.numpy() | b.numpy()).min(initial=0) >= 0:
            self.edges.append((a, b))
            return
        both = (a | b) >= 0
        self.edges.append((a[both], b[both]))
        for one, other in ((a, b), (b, a)):
            stuck = (one >= 0) & (other < 0)
            for value in torch.unique(other[stuck]).tolist():
                self.pin(one[stuck & (other == value)], self.reason(value))

    def reason(self, value: int) -> str:
        """Why a position below zero cannot be removed."""
        return (
            "it is added to channels that F.pad filled with zeros" if value == ZERO else list(self.reasons)[-2 - value]
        )

    def evenly(self, ids: Tensor) -> None:
        """Rows of ids (blocks, slots) of which equally many must stay in every row."""
        self.even.append(ids.reshape(ids.shape[0], -1).clone())

    def at_least(self, ids: Tensor, count: int) -> None:
        """So many of these entries must stay, whatever channels they belong to."""
        self.floors.append((ids.reshape(-1).clone(), count))

    def fold(self, rows: Tensor, width: Tensor, at: tuple[int, int] | None = None) -> None:
        """These rows may have to make up for a scale that follows a width, surely so where `at` is None."""
        rows = torch.unique(spelled(rows))
        found = self.folds.setdefault((int(rows[0]), rows.numel()), Factor(rows, width.clone()))
        if at is None:
            found.sure = True
        else:
            found.at.add(at)

    def part(self, plane: Tensor) -> None:
        """Remember what an op took of a channel axis: a cut must take the same, less what is gone."""
        self.parts.append(plane[tuple(slice(None) if d in varying(plane) else 0 for d in range(plane.dim()))].clone())

    def tie(self, ids: Tensor, axis: int = 0) -> None:
        """Ids that differ only in their position along `axis` go together."""
        self.unite(ids, ids.narrow(axis, 0, 1))


class Check(Book):
    """A book for a network already cut: axes carry the channels they kept, and uniting asserts that they agree."""

    def __init__(self, channels: dict[tuple[str, int], Tensor]) -> None:
        super().__init__()
        self.channels = channels
        self.size = 1 + max((int(ids.max()) for ids in channels.values() if ids.numel()), default=0)
        self.forward = 1  # counts nothing
        self.clash: str | None = None
        self.clashing: tuple[Tensor, ...] = ()

    def axis(self, owner: str, place: int, length: int, role: str) -> Tensor:
        ids = self.channels.get((owner, place))
        if ids is not None and ids.numel() != length:
            self.fail(f"{owner} has {length} entries on axis {place}, and {ids.numel()} channels stay", ids)
            ids = None
        if ids is None:
            return self.fixed(f"{owner} has no channel on axis {place}", length)
        return ids

    def unite(self, a: Tensor, b: Tensor) -> None:
        if a is b:
            return
        if a.dim() > 1 or a.shape != b.shape:
            try:
                a, b = paired(a, b)
            except RuntimeError as error:
                self.fail(str(error), a, b)
                return
        if not torch.equal(a, b) and bool(((a != b) & (a >= 0) & (b >= 0)).any()):
            self.fail("the kept channels arrive in another order than the entries that read them", a, b)

    def fail(self, why: str, *ids: Tensor) -> None:
        if self.clash is None:
            self.clash, self.clashing = why, ids

    def pin(self, ids: Tensor, why: str) -> None:
        return

    def count(self, kind: str, owner: str, place: int, role: str, ids: Tensor) -> tuple[str, str, int]:
        return (kind, owner, place)

    def made(self, owner: str, name: str, length: int) -> None:
        return

    def evenly(self, ids: Tensor) -> None:
        return
