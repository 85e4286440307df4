"""From ids, unions and pins to groups of channels that must go together."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UnknownName
from .flow import Step
from .labels import Axis, Book
from .links import broken
from .residual import Residual

Ints = npt.NDArray[np.int64]
VALUES = -1  # the "axis" of a member whose values, not its length, follow the channels


@dataclass(frozen=True, eq=False)
class Member:
    """An axis of a tensor that a group shares: `positions[c]` are the entries that channel c owns on it."""

    tensor: str
    axis: int
    role: str  # "out" | "in" | "bias" | "scale" | "shift" | "statistic" | "index" | "operand"
    positions: Ints  # (width, entries a channel)


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that share one list of tensor axes. `blocks[c]` is the block of channel c where every block must keep
    equally many; `unit` channels go together with channels of linked groups; unless all stay, `least` do at least."""

    name: str
    width: int
    members: tuple[Member, ...]
    blocks: Ints | None = None
    unit: int = 1
    least: int = 1

    @property
    def parts(self) -> int:
        """How many blocks there are."""
        return 1 if self.blocks is None else int(self.blocks.max()) + 1

    @property
    def step(self) -> int:
        """How many channels the smallest removal takes."""
        return math.lcm(self.parts, self.unit)

    @property
    def floor(self) -> int:
        """The fewest channels that may stay."""
        return min(self.width, self.step * -(-self.least // self.step))

    def producers(self) -> tuple[str, ...]:
        """Names of the weights whose outputs these channels are."""
        return tuple(m.tensor for m in self.members if m.role == "out")


@dataclass(frozen=True)
class Form:
    """A width as a linear form: `fixed` plus `times` for every kept channel of a group."""

    fixed: int
    terms: tuple[tuple[int, int], ...] = ()

    def __call__(self, widths: Sequence[Any]) -> Any:
        """Value for the kept widths of all groups: integers, or tensors of soft widths."""
        return self.fixed + sum(times * widths[group] for group, times in self.terms)


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of one op, all samples of the example together: times × Π factors(widths)."""

    path: str
    op: int
    times: int
    factors: tuple[Form, ...]


@dataclass(frozen=True)
class Attribute:
    """An integer that a module remembers, and the width it states. `place` is its index where it is a tuple."""

    path: str
    name: str
    place: int
    form: Form


@dataclass(frozen=True, eq=False)
class Fold:
    """Entries of a tensor that are multiplied by √(kept / dense) of a width: a softmax scale that follows the width of
    a head then stays what it was."""

    tensor: str
    axis: int
    positions: Ints
    width: Form

    def factor(self, dense: Sequence[int], kept: Sequence[int]) -> float:
        """The factor for these widths of all groups."""
        return math.sqrt(self.width(kept) / self.width(dense))


@dataclass(frozen=True)
class Zero:
    """The shape of the zero that stands for a module `path` of a dropped branch: `width` on `axis`; every other axis is
    that of the input divided by `ratio`, rounded up. `items`: how many values the module returns in a tuple, the others
    None; 0 where it returns a tensor."""

    path: str
    axis: int
    ratio: tuple[int, ...]
    width: Form
    items: int = 0


@dataclass(frozen=True)
class Pinned:
    """Channels that may not be removed."""

    name: str
    width: int
    reason: str


@dataclass(frozen=True, eq=False)
class Coupling:
    """What is coupled in one model: groups that can be pruned, what is pinned and why, ops that had no rule, layers
    that no example reached."""

    groups: tuple[Group, ...]
    pinned: tuple[Pinned, ...]
    unknown_ops: tuple[str, ...]
    unreached: tuple[str, ...]  # layers that no example runs through: nothing in them is cut
    blocks: tuple[Residual, ...]
    zeros: tuple[Zero, ...]
    work: tuple[Work, ...]
    tensors: Mapping[str, tuple[Form, ...]]
    attributes: tuple[Attribute, ...]
    samples: int
    fixed_macs: int  # of ops that have no rule of their own, all samples together
    fingerprint: Mapping[str, tuple[tuple[int, ...], str]] = field(repr=False)
    links: tuple[tuple[int, ...], ...] = ()  # groups that keep the same share of their width
    folds: tuple[Fold, ...] = ()
    steps: tuple[Step, ...] = ()  # of the forward in eval mode
    tied: Mapping[str, str] = field(default_factory=dict, repr=False)  # other names of a tensor, and its first
    undroppable: Mapping[str, str] = field(default_factory=dict)  # residual blocks that cannot go, and why
    counts: object = field(default=None, repr=False)  # what `cost` counted of the dense network

    def __getitem__(self, name: str) -> Group:
        """A group by its name."""
        for group in self.groups:
            if group.name == name:
                return group
        raise UnknownName.of("group", name, [g.name for g in self.groups])

    def without(self, dropped: Sequence[str]) -> tuple[frozenset[int], frozenset[str], frozenset[int]]:
        """What goes with these residual branches: ops, tensors, and groups that live on such tensors alone and on whose
        width no op that stays depends."""
        gone = [r for r in self.blocks if r.name in set(dropped)]
        ops = frozenset(op for r in gone for op in r.ops)
        tensors = frozenset(t for r in gone for t in r.tensors)
        inside = tuple(f"{m}." for r in gone for m in r.modules)
        needed = {g for w in self.work if inside and w.op not in ops for f in w.factors for g, _ in f.terms}
        groups = frozenset(
            g
            for g, group in enumerate(self.groups)
            if inside and g not in needed and all(m.tensor.startswith(inside) for m in group.members)
        )
        return ops, tensors, groups

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(g.width for g in self.groups)

    @property
    def prunable(self) -> float:
        """The share of the MACs in ops of which a side can shrink."""
        sizes = [int(work.times * math.prod(f(self.widths) for f in work.factors)) for work in self.work]
        free = (any(form.terms for form in work.factors) for work in self.work)
        total = self.fixed_macs + sum(sizes)
        return sum(size for size, can in zip(sizes, free, strict=True) if can) / max(1, total)

    def macs(self, widths: Sequence[Any] | None = None, without: frozenset[int] = frozenset()) -> Any:
        """Multiply-accumulates of one sample at the given widths (integers or tensors), some ops left out."""
        widths = self.widths if widths is None else widths
        total: Any = self.fixed_macs
        for work in self.work:
            if work.op not in without:
                product: Any = work.times
                for form in work.factors:
                    product = product * form(widths)
                total = total + product
        return total // self.samples if isinstance(total, (int, np.integer)) else total / self.samples

    def params(self, widths: Sequence[Any] | None = None, without: frozenset[str] = frozenset()) -> Any:
        """Parameters at the given widths, shared ones once, some tensors left out."""
        widths = self.widths if widths is None else widths
        total: Any = 0
        for name, forms in self.tensors.items():
            if name not in without:
                product: Any = 1
                for form in forms:
                    product = product * form(widths)
                total = total + product
        return total

    def __str__(self) -> str:
        from .inspect import tree

        return tree(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from .inspect import page

        return page(self)


def components(size: int, a: Ints, b: Ints) -> Ints:
    """The smallest id of the component of each id, by hooking roots and halving paths."""
    root = np.arange(size, dtype=np.int64)
    while a.size:
        low, high = np.minimum(root[a], root[b]), np.maximum(root[a], root[b])
        open_ = low != high
        a, b, low, high = a[open_], b[open_], low[open_], high[open_]
        np.minimum.at(root, high, low)
        while not np.array_equal(upper := root[root], root):
            root = upper
    return root


@dataclass
class Solved:
    """Classes of ids, which are pinned and why, and the groups that the classes form."""

    root: Ints
    pinned: npt.NDArray[np.bool_]
    reason: dict[int, str]
    group: Ints  # by id: index of the group of its class, -1 where it has none
    channel: Ints  # by id: index of its class within the group
    roots: list[Ints]  # by group: the class of each channel


def solve(book: Book) -> tuple[Solved, dict[int, Ints]]:
    """Classes and groups. Demands for equal counts that no single group can honour become ties."""
    edges = [(a.numpy(), b.numpy()) for a, b in book.edges if a.numel()]
    while True:
        a = np.concatenate([e[0] for e in edges]) if edges else np.zeros(0, np.int64)
        b = np.concatenate([e[1] for e in edges]) if edges else np.zeros(0, np.int64)
        root = components(book.size, a, b)
        solved = grouped(book, root)
        blocks, more = honoured(book, solved)
        more += broken(book, solved, blocks)
        if not more:
            return solved, blocks
        edges = [(np.arange(book.size, dtype=np.int64), root), *more]


def grouped(book: Book, root: Ints) -> Solved:
    """Classes with the same list of axes, and as many entries on each, form a group."""
    pinned, reason = np.zeros(book.size, bool), {}
    for ids, why in book.pins:
        tops = np.unique(root[ids.numpy()])
        for top in tops[~pinned[tops]].tolist():
            reason[top] = why
        pinned[tops] = True
    # A number for each axis, added up over the entries that a class has on it.
    signature, owned = np.zeros(book.size, np.uint64), np.zeros(book.size, bool)
    mix = np.random.default_rng(0).integers(1, 2**63, size=len(book.axes), dtype=np.uint64) | np.uint64(1)
    axes = list(book.axes.values())
    sizes = [axis.ids.numel() for axis in axes]
    entries = np.concatenate([np.zeros(0, np.int64), *(axis.ids.numpy() for axis in axes)])
    live = entries >= 0
    tops = root[entries[live]]
    np.add.at(signature, tops, np.repeat(mix, sizes)[live])
    owned[tops[np.repeat(np.array([axis.kind == "tensor" for axis in axes], bool), sizes)[live]]] = True
    free = np.flatnonzero((root == np.arange(book.size)) & ~pinned & owned)
    group, channel = np.full(book.size, -1, np.int64), np.full(book.size, -1, np.int64)
    _, first_at, which = np.unique(signature[free], return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first_at))
    roots: list[Ints] = [np.zeros(0, np.int64)] * len(first_at)
    which = order[which.reshape(-1)]
    in_order, bounds = np.argsort(which, kind="stable"), np.cumsum(np.bincount(which, minlength=1))
    for g in range(len(roots)):
        roots[g] = free[in_order[bounds[g - 1] if g else 0 : bounds[g]]]
        group[roots[g]], channel[roots[g]] = g, np.arange(roots[g].size)
    return Solved(root, pinned, reason, group[root], channel[root], roots)


def honoured(book: Book, solved: Solved) -> tuple[dict[int, Ints], list[tuple[Ints, Ints]]]:
    """For each group the block of each channel; and the ties for demands that no one group can honour."""
    blocks: dict[int, Ints] = {}
    more: list[tuple[Ints, Ints]] = []
    for demand in book.even:
        ids = demand.numpy()
        if (ids < 0).any():
            stuck = ids[ids >= 0]
            if stuck.size and not solved.pinned[solved.root[stuck]].all():
                import torch

                book.pin(torch.from_numpy(np.unique(stuck)), "equal parts of it must stay, and one part is fixed")
                more.append((stuck[:1], stuck[:1]))
            continue
        tops = solved.root[ids]
        if (tops == tops[:1]).all():
            continue
        groups = np.unique(solved.group[ids])
        g = int(groups[0])
        distinct = np.unique(tops).size == tops.size
        if groups.size == 1 and g >= 0 and distinct and tops.size == solved.roots[g].size:
            mine = np.empty(tops.size, np.int64)
            mine[solved.channel[ids]] = np.arange(ids.shape[0])[:, None]
            agreed = agreement(blocks.get(g), mine)
            if agreed is not None:
                blocks[g] = agreed
                continue
        more.append((np.broadcast_to(ids[:1], ids.shape).reshape(-1), ids.reshape(-1)))
    return blocks, more


def agreement(old: Ints | None, new: Ints) -> Ints | None:
    """The finer of two partitions into blocks if it implies the other, else None."""
    if old is None:
        return new
    pairs = np.unique(np.stack([old, new], 1), axis=0)
    if len(pairs) == old.max() + 1:
        return old
    return new if len(pairs) == new.max() + 1 else None


def form_of(axis: Axis, solved: Solved) -> Form:
    """The length of an axis as a linear form of the groups' widths."""
    ids = axis.ids.numpy()
    groups = solved.group[ids[ids >= 0]]
    groups = groups[groups >= 0]
    if groups.size and (groups == groups[0]).all():
        found, counts = groups[:1], np.array([groups.size])
    else:
        found, counts = np.unique(groups, return_counts=True)
    terms = tuple((int(g), int(n) // solved.roots[g].size) for g, n in zip(found, counts, strict=True))
    return Form(ids.size - int(counts.sum()), terms)


def positions_of(axis: Axis, solved: Solved) -> dict[int, Ints]:
    """For each group on an axis, the entries that each of its channels owns: (width, entries)."""
    ids = axis.ids.numpy()
    group = np.where(ids >= 0, solved.group[np.maximum(ids, 0)], -1)
    found: dict[int, Ints] = {}
    alone = bool(group.size and group[0] >= 0 and (group == group[0]).all())
    for g in group[:1].tolist() if alone else np.unique(group[group >= 0]).tolist():
        places = np.flatnonzero(group == g)
        order = np.argsort(solved.channel[ids[places]], kind="stable")
        found[g] = places[order].reshape(solved.roots[g].size, -1)
    return found


def layer(tensor: str) -> str:
    """The module that holds a tensor, or computes with it what it holds."""
    path, parametrised, _ = tensor.partition(".parametrizations.")
    return path if parametrised else tensor.rpartition(".")[0] or tensor


def digest(fingerprint: Mapping[str, tuple[tuple[int, ...], str]]) -> str:
    """A short name of a model's tensors, their shapes and dtypes."""
    text = "\n".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in fingerprint.items())
    return hashlib.sha256(text.encode()).hexdigest()[:16]
