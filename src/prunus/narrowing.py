"""The coupling of a network that was cut, without tracing it again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from .graph.coupling import Attribute, Coupling, Fold, Form, Group, Ints, Member, Zero
from .methods.score import tensors_of
from .plan import Plan
from .state import ties

__all__ = ["alive", "narrowed"]


def alive(coupling: Coupling, here: Coupling) -> list[int]:
    """For each group of the narrowed coupling, its index in the first one. Names are kept, so they tell."""
    index = {group.name: g for g, group in enumerate(coupling.groups)}
    return [index[group.name] for group in here.groups]


def narrowed(coupling: Coupling, plan: Plan, small: nn.Module) -> Coupling:
    """The coupling of `small`, which `plan` cut from the network of `coupling`: the same groups with what is left of
    them, without those that went with dropped branches."""
    tensors = tensors_of(small)
    masks = plan.masks()
    ops, lost, gone = coupling.without([d.name for d in plan.dropped])
    place = {g: k for k, g in enumerate(g for g in range(len(coupling.groups)) if g not in gone)}

    def rank(tensor: str, axis: int, positions: Ints) -> Ints:
        mask = masks.get((tensor, axis))
        return positions if mask is None else (np.cumsum(mask) - 1)[positions]

    def form(old: Form) -> Form:
        return Form(old.fixed, tuple((place[g], times) for g, times in old.terms if g in place))

    def group(g: int) -> Group:
        old, ids = coupling.groups[g], np.array(plan.kept[g], np.int64)
        members = tuple(
            Member(m.tensor, m.axis, m.role, rank(m.tensor, m.axis, m.positions[ids]))
            for m in old.members
            if m.tensor in tensors
        )
        return replace(old, width=ids.size, members=members, blocks=None if old.blocks is None else old.blocks[ids])

    def fold(old: Fold) -> Fold:
        mask = masks.get((old.tensor, old.axis))
        stay = old.positions if mask is None else old.positions[mask[old.positions]]
        return replace(old, positions=rank(old.tensor, old.axis, stay), width=form(old.width))

    def attribute(old: Attribute) -> Attribute:
        return replace(old, form=form(old.form))

    def zero(old: Zero) -> Zero:
        return replace(old, width=form(old.width))

    # The zeros of dropped branches are modules of the cut network, and remember a width.
    inside = {m for d in plan.dropped for m in d.modules}
    widths = [Attribute(z.path, "width", 0, z.width) for z in coupling.zeros if z.path in inside]
    followed = [a for a in (*coupling.attributes, *widths) if set(dict(a.form.terms)) <= place.keys()]
    links = [tuple(place[g] for g in linked if g in place) for linked in coupling.links]
    return replace(
        coupling,
        groups=tuple(group(g) for g in place),
        blocks=tuple(r for r in coupling.blocks if r.name not in {d.name for d in plan.dropped}),
        zeros=tuple(zero(z) for z in coupling.zeros),
        work=tuple(replace(w, factors=tuple(map(form, w.factors))) for w in coupling.work if w.op not in ops),
        tensors={name: tuple(map(form, fs)) for name, fs in coupling.tensors.items() if name not in lost},
        attributes=tuple(map(attribute, followed)),
        links=tuple(linked for linked in links if len(linked) > 1),
        folds=tuple(fold(f) for f in coupling.folds if f.tensor in tensors),
        fingerprint={n: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for n, t in tensors.items()},
        counts=None,
        tied=ties(tensors),
    )
