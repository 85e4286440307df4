"""Two plans as one: for the dense network, what a plan and then a second one, made for the network it cut, do.

Where the groups of the first plan can say all that the second removes, they do, with fewer channels. What the second
removes beside them, such as channels that were pinned the first time, follows as groups of its own in the places of the
dense network. Where the channels of one plan lie across those of the other (heads, then widths of heads), all groups of
the second follow; such a plan applies like any other, but the masked network of the proof is not made for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from .errors import PlanError
from .graph.coupling import Attribute, Fold, Form, Group, Ints, Member, Zero
from .plan import Bools, Dropped, Floats, Plan, check_links

Masks = dict[tuple[str, int], Bools]
Kept = tuple[tuple[int, ...], ...]


def composed(first: Plan, second: Plan) -> Plan:
    """One plan that does what `first` and then `second` do. Raises PlanError where `second` is of another network."""
    check_chain(first, second)
    masks = first.masks()
    whole = joined(first, second, first.kept, range(len(second.groups)), masks)
    try:
        kept = narrowed(first, second, masks)
        short = replace(first, kept=kept).masks()
        beside = [
            g
            for g, (group, ids) in enumerate(zip(second.groups, second.kept, strict=True))
            if not covered(lifted(group, masks), ids, short)
        ]
        found = joined(first, second, kept, beside, masks)
        check_links(found)
    except PlanError:  # channels that lie across each other: a group would keep none, or not the same share
        return whole
    return found if alike(found, whole) else whole


def check_chain(first: Plan, second: Plan) -> None:
    """The network that the first plan makes is the one that the second was made for."""
    given = {name: shape for name, (shape, _) in second.fingerprint.items()}
    if (found := differing(first, given)) is not None:
        name, here, there = found
        raise PlanError(
            f"the second plan was not made for the network that the first one cuts: {name} is {here or 'gone'} by the "
            f"first, and {there or 'not there'} by the second"
        )


def differing(plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, object, object] | None:
    """A tensor of which the shape is not what the plan makes: its name, and both shapes, None where there is none.

    A tensor of several names is cut under one of them in a plan; the others pass with the shape of one like them.
    """
    made, dense = plan.shapes(), {name: shape for name, (shape, _) in plan.fingerprint.items()}
    cut = {name for name, _ in plan.masks()} & made.keys()
    known = {(dense[name], made[name]) for name in cut}
    for name in sorted(made.keys() | shapes.keys()):
        tied = name in made and name not in cut and (dense[name], shapes.get(name)) in known
        if made.get(name) != shapes.get(name) and not tied:
            return name, made.get(name), shapes.get(name)
    return None


def narrowed(first: Plan, second: Plan, masks: Masks) -> Kept:
    """What stays of the first plan's channels where one goes as soon as the second removes an entry of it."""
    after, kept = second.masks(), []
    for group, mine in zip(first.groups, first.kept, strict=True):
        stays = np.ones(len(mine), bool)
        for m in group.members:
            later = after.get((m.tensor, m.axis))
            if later is not None:
                rank = np.cumsum(masks[m.tensor, m.axis]) - 1
                places = rank[m.positions[list(mine)]]
                inside = np.where(places < later.size, later[np.minimum(places, later.size - 1)], True)
                stays &= inside.all(axis=1)
        kept.append(tuple(np.asarray(mine)[stays].tolist()))
    return tuple(kept)


def lifted(group: Group, masks: Masks) -> Group:
    """A group of the cut network in the places of the dense one."""
    members = tuple(replace(m, positions=dense(m.positions, masks.get((m.tensor, m.axis)))) for m in group.members)
    return replace(group, members=members)


def dense(positions: Ints, mask: Bools | None) -> Ints:
    """Places among the kept entries as places among all; what lies beyond the mask was only shifted."""
    if mask is None:
        return positions
    places = np.flatnonzero(mask)
    beyond = positions - places.size + mask.size
    return np.where(positions < places.size, places[np.minimum(positions, places.size - 1)], beyond)


def covered(group: Group, kept: Sequence[int], masks: Masks) -> bool:
    """Whether every entry that goes with this group is gone by the masks already."""
    gone = np.ones(group.width, bool)
    gone[list(kept)] = False

    def is_gone(m: Member) -> bool:
        mask, places = masks.get((m.tensor, m.axis)), m.positions[gone]
        return not places.size or (mask is not None and places.max() < mask.size and not mask[places].any())

    return all(is_gone(m) for m in group.members)


def joined(first: Plan, second: Plan, kept: Kept, beside: Sequence[int], masks: Masks) -> Plan:
    """The first plan with these kept lists, and these groups of the second behind its own."""
    names = [group.name for group in first.groups]
    place = {g: len(names) + n for n, g in enumerate(beside)}
    for g, group in enumerate(second.groups):
        if g not in place and group.name in names and len(kept[names.index(group.name)]) == len(second.kept[g]):
            place[g] = names.index(group.name)

    def form(old: Form) -> Form:
        """A width of the second plan; one that no groups here say is written as a number."""
        if any(g not in place for g, _ in old.terms):
            return Form(int(old(second.widths)))
        return Form(old.fixed, tuple((place[g], times) for g, times in old.terms))

    def zero(old: Zero) -> Zero:
        return replace(old, width=form(old.width))

    def dropped(old: Dropped) -> Dropped:
        return replace(old, zero=zero(old.zero), inner=tuple(map(zero, old.inner)))

    def fold(old: Fold) -> Fold:
        positions = dense(old.positions, masks.get((old.tensor, old.axis)))
        return Fold(old.tensor, old.axis, positions, form(old.width))

    groups, added = first.groups, tuple(lifted(second.groups[g], masks) for g in beside)
    added = tuple(replace(g, name=f"{g.name} (2)") if g.name in names else g for g in added)
    widths = tuple(map(len, (*kept, *(second.kept[g] for g in beside))))
    attributes = {key(a): a for a in first.attributes}
    later = {key(a): a for a in second.attributes}
    for name, attribute in attributes.items():
        value = int(later[name].form(second.widths) if name in later else attribute.form(first.widths))
        if int(attribute.form(widths)) != value:
            attributes[name] = replace(attribute, form=form(later[name].form) if name in later else Form(value))
    new = {name: replace(a, form=form(a.form)) for name, a in later.items() if name not in attributes}
    drops = {d.modules: d for d in first.dropped}
    for one in map(dropped, second.dropped):
        taken = {d.name for d in drops.values()}
        others = (f"{one.name} ({n})" for n in itertools.count(2))
        free = next(own for own in itertools.chain([one.name], others) if own not in taken)
        drops.setdefault(one.modules, replace(one, name=free))
    links = [tuple(dict.fromkeys(place[g] for g in linked)) for linked in second.links if set(linked) <= place.keys()]
    return Plan(
        first.fingerprint,
        (*groups, *added),
        (*kept, *(second.kept[g] for g in beside)),
        (*attributes.values(), *new.values()),
        tuple(drops.values()),
        tuple(dict.fromkeys((*first.links, *(linked for linked in links if len(linked) > 1)))),
        (*first.folds, *(fold(f) for f in second.folds if {g for g, _ in f.width.terms} & set(beside))),
        first.tied,
    )


def key(attribute: Attribute) -> tuple[str, str, int]:
    return attribute.path, attribute.name, attribute.place


def alike(one: Plan, other: Plan) -> bool:
    """Whether two plans for one network keep the same entries and fold the same factors into them."""
    mine, theirs, left, right = one.masks(), other.masks(), one.factors(), other.factors()
    return all(
        np.array_equal(gone(mine.get(axis)), gone(theirs.get(axis))) for axis in mine.keys() | theirs.keys()
    ) and all(
        np.allclose(of_kept(left.get(axis), mine.get(axis)), of_kept(right.get(axis), mine.get(axis)), 1e-12, 0)
        for axis in left.keys() | right.keys()
    )


def gone(mask: Bools | None) -> Ints:
    return np.zeros(0, np.int64) if mask is None else np.flatnonzero(~mask)


def of_kept(factor: Floats | None, mask: Bools | None) -> Floats:
    if factor is None:
        return np.ones(1)
    return factor if mask is None else factor[mask]
