"""From what was recorded and solved to the coupling that users see."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError
from ..state import tensors_of, ties
from .coupling import (
    VALUES,
    Attribute,
    Coupling,
    Form,
    Group,
    Ints,
    Member,
    Pinned,
    Solved,
    Work,
    Zero,
    form_of,
    layer,
    positions_of,
)
from .flow import flow
from .folds import folds_of
from .labels import Book
from .links import sets

if TYPE_CHECKING:
    from .trace import Traced


def assemble(traced: Traced, solved: Solved, blocks: Mapping[int, Ints]) -> Coupling:
    """The public result."""
    model, book = traced.model, traced.book
    members: list[list[Member]] = [[] for _ in solved.roots]
    forms: dict[tuple[str, str, int], Form] = {}
    attributes, zeros = [], []
    known: dict[tuple[int, int, int], Form] = {}  # many axes share one vector of ids
    for key, axis in book.axes.items():
        vector = (axis.ids.data_ptr(), axis.ids.numel(), axis.ids.stride(0))
        if vector not in known:
            known[vector] = form_of(axis, solved)
        forms[key] = known[vector]
        if axis.kind == "attribute" and forms[key].terms:
            attributes.append(Attribute(axis.owner, axis.role, axis.place, forms[key]))
        elif axis.kind == "zero":
            ratio, _, items = axis.role.partition(";")
            sizes = tuple(map(int, ratio.split(","))) if ratio else ()
            zeros.append(Zero(axis.owner, axis.place, sizes, forms[key], int(items)))
        elif axis.kind in {"tensor", "values"}:
            place = axis.place if axis.kind == "tensor" else VALUES
            for g, positions in positions_of(axis, solved).items():
                members[g].append(Member(axis.owner, place, axis.role, positions))
    named, parameters = tensors_of(model), dict(model.named_parameters())
    tensors = {
        name: tuple(forms.get(("tensor", name, d), Form(n)) for d, n in enumerate(p.shape))
        for name, p in parameters.items()
    }
    pinned = pins(book, solved)
    groups: list[Group] = []
    single: list[Pinned] = []
    keep: dict[int, int] = {}
    for g, its in enumerate(members):
        if solved.roots[g].size == 1:
            single.append(Pinned(title(its), 1, "it is the only channel of its layer"))
            continue
        keep[g] = len(groups)
        groups.append(Group(title(its), int(solved.roots[g].size), tuple(its), blocks.get(g)))

    def renumbered(form: Form) -> Form:
        fixed = form.fixed + sum(times for g, times in form.terms if g not in keep)
        return Form(fixed, tuple((keep[g], times) for g, times in form.terms if g in keep))

    for entries, count in book.floors:
        owners = np.unique(solved.group[entries.numpy()])
        owner = keep.get(int(owners[0])) if owners.size == 1 else None  # of several, the others may be enough
        if owner is not None:
            least = -(-count * groups[owner].width // entries.numel())
            groups[owner] = replace(groups[owner], least=max(groups[owner].least, least))
    links = [tuple(sorted(keep[g] for g in linked)) for linked in sets(book, solved)]
    for linked in links:
        share = math.gcd(*(groups[g].width // groups[g].parts for g in linked))
        for g in linked:
            groups[g] = replace(groups[g], unit=groups[g].width // share)
    return Coupling(
        groups=unique_names(groups),
        pinned=(*pinned, *single),
        unknown_ops=traced.unknown,
        unreached=unreached(traced),
        blocks=traced.residuals,
        zeros=tuple(replace(z, width=renumbered(z.width)) for z in zeros),
        work=tuple(Work(t.path, t.op, t.times, tuple(renumbered(forms[k]) for k in t.factors)) for t in book.terms),
        tensors={name: tuple(map(renumbered, fs)) for name, fs in tensors.items()},
        attributes=tuple(replace(a, form=renumbered(a.form)) for a in attributes),
        samples=traced.samples,
        fixed_macs=0,
        links=tuple(sorted(links)),
        folds=tuple(replace(f, width=renumbered(f.width)) for f in folds_of(book, solved)),
        steps=flow(traced.passes[0].ops, {term.op for term in book.terms}),
        fingerprint={n: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for n, t in named.items()},
        tied=ties(named),
    )


def title(members: Sequence[Member]) -> str:
    """A group is called after its first producer, else after its first tensor."""
    made = [m for m in members if m.role == "out"] or list(members)
    return layer(made[0].tensor)


def unique_names(groups: list[Group]) -> tuple[Group, ...]:
    """Groups of one layer are told apart by the entries they own on its axis."""
    total, seen = Counter(g.name for g in groups), Counter[str]()
    found = []
    for group in groups:
        found.append(group if total[group.name] == 1 else replace(group, name=f"{group.name}:{seen[group.name]}"))
        seen[group.name] += 1
    return tuple(found)


def pins(book: Book, solved: Solved) -> tuple[Pinned, ...]:
    """One entry for each layer axis that holds pinned channels, with the first reason."""
    found: dict[tuple[str, str], Pinned] = {}
    for axis in book.axes.values():
        if axis.kind != "tensor" or axis.role not in {"out", "in", "operand", "index"}:
            continue
        ids = axis.ids.numpy()
        stuck = solved.root[ids][solved.pinned[solved.root[ids]]]
        if stuck.size:
            side = {"out": "outputs", "in": "inputs"}.get(axis.role, f"axis {axis.place}")
            key = (layer(axis.owner) if side in {"outputs", "inputs"} else axis.owner, side)
            found.setdefault(key, Pinned(f"{key[0]} {side}", int(stuck.size), solved.reason[int(stuck[0])]))
    return tuple(found.values())


def unreached(traced: Traced) -> tuple[str, ...]:
    """The layers, or names of single parameters, that no op of any forward read."""
    named, book = tensors_of(traced.model), traced.book
    read = {name for one in traced.passes for op in one.ops for name in op.tensors}
    read |= {axis.owner for axis in book.axes.values() if axis.kind in {"tensor", "values"}}
    known = {id(named[name]) for name in read if name in named}
    return tuple(
        dict.fromkeys(layer(n) for n, p in traced.model.named_parameters() if p.numel() and id(p) not in known)
    )


def nothing(coupling: Coupling) -> ModelError:
    """Why a model has nothing to prune."""
    reasons = list(dict.fromkeys(f"{p.name}: {p.reason}" for p in coupling.pinned))
    why = "; ".join(reasons[:3]) if reasons else "no convolution or linear layer was reached"
    return ModelError(f"nothing to prune in this model ({why})")
