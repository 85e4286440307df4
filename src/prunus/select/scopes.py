"""Which steps compete in one ranking: all, those of one group, or those of isomorphic groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from ..graph.coupling import Coupling, Group
from .costs import Floats
from .steps import Unit


def ranks(coupling: Coupling, units: Sequence[Unit], scope: str) -> Floats:
    """Of each step, unit after unit, what the order of all goes by: its score where the scope is global; else the
    fraction of the channels in its ranking that are gone with it, so that all rankings lose the same fraction.

    Isomorphic groups lie on the same axes of the same kinds of tensors, however wide they are (G. Fang et al.,
    Isomorphic Pruning for Vision Models, ECCV 2024, section 3.2).
    """
    if scope == "global":
        return np.concatenate([u.scores for u in units])
    found = [u.fractions for u in units]
    if scope == "isomorphic":
        alike: dict[Hashable, list[int]] = {}
        for k, unit in enumerate(units):
            alike.setdefault(kind_of_unit(coupling, unit), []).append(k)
        for several in alike.values():
            if len(several) > 1:
                mine = shared_fractions(coupling, [units[k] for k in several])
                for k, fractions in zip(several, mine, strict=True):
                    found[k] = fractions
    return np.concatenate(found)


def shared_fractions(coupling: Coupling, units: Sequence[Unit]) -> list[Floats]:
    """For each step the fraction of all channels of these units that are gone with it, by the order of the scores."""
    counts = [u.scores.size for u in units]
    scores, sizes = np.concatenate([u.scores for u in units]), np.concatenate([u.sizes[:, 0] for u in units])
    which = np.repeat(np.arange(len(units)), counts)
    order = np.lexsort((np.concatenate([np.arange(n) for n in counts]), which, scores))
    fractions = np.empty(scores.size)
    width = sum(coupling.groups[int(u.groups[0])].width for u in units)
    fractions[order] = np.cumsum(sizes[order]) / width
    return np.split(fractions, np.cumsum(counts)[:-1])


def kind_of_unit(coupling: Coupling, unit: Unit) -> Hashable:
    """Equal for units of isomorphic groups."""
    return tuple(sorted((kind_of(coupling, coupling.groups[g]) for g in unit.groups.tolist()), key=repr))


def kind_of(coupling: Coupling, group: Group) -> Hashable:
    """Equal for isomorphic groups: how often they lie on which axis of a tensor of which name in its module and of how
    many axes, in which role; and whether parts of them keep equally many."""
    axes = Counter(
        (m.tensor.rpartition(".")[2], m.role, m.axis, len(coupling.fingerprint[m.tensor][0])) for m in group.members
    )
    return (group.blocks is not None, tuple(sorted(axes.items())))
