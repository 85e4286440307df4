"""Trials until none finds trouble: splits are read in other ways, and what stays in the way is linked or pinned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnknownName
from ..graph.coupling import VALUES, Coupling, Group
from ..graph.further import with_further
from ..graph.labels import Book
from ..graph.splits import HEADS, NEITHER, WIDTH, Choice, Site, Splits
from ..graph.trace import Traced, observe
from ..outline import Outline
from .proof import Trouble
from .trial import cut_trial, differs, elsewhere, trial, units

SAME = "the code takes its width for that of the other"
SUSPECTS = 12  # more groups than this are not tried one by one

Entries = tuple[tuple[str, str, int], Tensor]
"""Of a group on one of its axes."""


@dataclass
class Settling:
    """A trace under choices for the splits, with what earlier trials pinned: by tensor, axis and entries."""

    model: nn.Module
    example: Any
    pin: Sequence[str | nn.Module]
    options: dict[str, list[Choice]]  # by class of module: what is still to be tried, the first one now
    sites: Sequence[Site] = ()
    held: list[tuple[tuple[str, str, int], Tensor, str]] = field(default_factory=list)
    tied: list[tuple[Entries, Entries]] = field(default_factory=list)  # groups that are as wide as each other
    outline: Outline | None = None
    further: Sequence[Any] = ()

    def traced(self) -> Traced:
        choices = {kind: left[0] for kind, left in self.options.items()}
        splits = Splits.of(self.sites, choices)
        traced = observe(self.model, self.example, pin=self.pin, splits=splits, outline=self.outline)
        traced = with_further(traced, self.further, pin=self.pin, splits=splits)
        for key, positions, why in self.held:
            if key in traced.book.axes:
                traced.book.pin(traced.book.axes[key].ids[positions], why)
        for one, other in self.tied:
            tie(traced.book, one, other)
        return traced

    def hold(self, traced: Traced, group: Group, why: str) -> None:
        traced.pin(group, why)
        for m in group.members:
            if m.axis != VALUES:
                self.held.append((("tensor", m.tensor, m.axis), torch.from_numpy(m.positions), why))

    def link(self, traced: Traced, groups: Sequence[Group]) -> None:
        """These groups keep the same number of channels."""
        one, *others = [entries(group) for group in groups]
        for other in others:
            tie(traced.book, one, other)
            self.tied.append((one, other))

    def next(self, found: Trouble) -> bool:
        """Take the next choice for the modules in which a trial failed. False where none is left there."""
        sites = [] if found.where is None else [site for site in self.sites if site.known]
        kinds = {site.kind for site in sites if not found.where or inside(found.where, site.path)}
        moved = [kind for kind in kinds if len(self.options.get(kind, ())) > 1]
        for kind in moved:
            del self.options[kind][0]
            if self.options[kind][0].keep == NEITHER:
                self.options[kind] = [Choice(NEITHER, why=found.why)]
        return bool(moved)

    def barren(self, traced: Traced) -> bool:
        """Where a choice leaves nothing of a split to prune, take the next one. False where none is left."""
        channels = traced.channels(traced.coupling())
        free = {s.kind for s in traced.sites if bool((channels[s.ids.clamp(min=0)] >= 0).any())}
        moved = [
            kind
            for kind, left in self.options.items()
            if kind not in free and len(left) > 1 and left[1].keep != NEITHER and left[0].keep != NEITHER
        ]
        for kind in moved:
            del self.options[kind][0]
        return bool(moved)


def entries(group: Group) -> Entries:
    m = next(m for m in group.members if m.axis != VALUES)
    return ("tensor", m.tensor, m.axis), torch.from_numpy(m.positions)


def tie(book: Book, one: Entries, other: Entries) -> None:
    """Two groups keep the same share of their widths."""
    if one[0] in book.axes and other[0] in book.axes:
        a, b = (book.axes[key].ids[positions].reshape(-1) for key, positions in (one, other))
        book.links.append((a, b, SAME))


def inside(path: str, module: str) -> bool:
    """Whether an op of the module `path` ran for `module`."""
    return path == module or not module or path.startswith(module + ".")


def settle(
    model: nn.Module,
    example: Any,
    pin: Sequence[str | nn.Module],
    attention: str = HEADS,
    outline: Outline | None = None,
    further: Sequence[Any] = (),
) -> Coupling:
    """Trace, then pin what a trial cut shows to be written down or computed with as a number.

    `outline` is run in place of the model, as far as it goes. `further` are more examples. `attention` says what goes
    first where an attention allows both: "heads" or "width" (the same slots of each head).
    """
    wish = choices(attention)
    traced = with_further(first(model, example, pin, outline), further, pin=pin)
    kinds = dict.fromkeys(site.kind for site in traced.sites if site.known)
    options = {kind: list(wish) for kind in kinds}
    now = Settling(model, example, pin, options, traced.sites, outline=traced.outline, further=further)
    if kinds:
        traced = now.traced()
        while now.barren(traced):
            traced = now.traced()
    coupling = traced.coupling()
    while coupling.groups and (
        found := trial(traced, coupling, example) or elsewhere(traced, coupling, further) or differs(traced, example)
    ):
        if now.next(found):
            traced = now.traced()
            while now.barren(traced):
                traced = now.traced()
        else:
            alone = guilty(traced, coupling, example, found)
            for mine in alike(coupling, alone):
                if linked := mates(traced, coupling, example, mine):
                    now.link(traced, [coupling.groups[g] for g in linked])
                for g in mine if not linked else ():
                    now.hold(traced, coupling.groups[g], found.why)
            for g in [] if alone else found.groups or near(coupling, found.where):
                now.hold(traced, coupling.groups[g], found.why)
        coupling = traced.coupling()
    return traced.coupling() if any(factor.sure for factor in traced.book.folds.values()) else coupling


def first(model: nn.Module, example: Any, pin: Sequence[str | nn.Module], outline: Outline | None) -> Traced:
    """The trace of an outline of the model; of the model itself where it has none, or reads values on its way."""
    if outline is not None:
        try:
            return observe(model, example, pin=pin, outline=outline)
        except UnknownName:
            raise
        except Exception:
            pass
    return observe(model, example, pin=pin)


def choices(attention: str) -> list[Choice]:
    """What is tried for an attention, in this order; the wish first, and first without a link to the stream."""
    if attention not in (HEADS, WIDTH):
        raise UnknownName.of("attention", attention, (HEADS, WIDTH))
    order = (HEADS, WIDTH) if attention == HEADS else (WIDTH, HEADS)
    tried = [Choice(keep, linked) for keep in order for linked in (False, True)]
    return [*tried, Choice(NEITHER)]


def near(coupling: Coupling, where: str | None) -> Sequence[int]:
    """Groups with entries in the module in which a trial failed, else in the one around it, else all."""
    path = where
    while path:
        found = [g for g, group in enumerate(coupling.groups) if any(inside(m.tensor, path) for m in group.members)]
        if found:
            return found
        path = path.rpartition(".")[0]
    return range(len(coupling.groups))


def guilty(traced: Traced, coupling: Coupling, example: Any, found: Trouble) -> Sequence[int]:
    """Of the groups that a trial blames, those that make trouble when they alone are cut. Where none does, others are
    tried: an op may fail for what an unknown op before it read."""
    blamed = found.groups or near(coupling, found.where)
    channels = traced.channels(coupling)
    for suspects in (blamed, range(len(coupling.groups))):
        alone = [unit for unit in units(coupling) if unit & {*suspects}] if len(suspects) <= SUSPECTS else []
        alone = [unit for unit in alone if cut_trial(traced, coupling, channels, example, unit)]
        if alone:
            return sorted({g for unit in alone for g in unit})
    return []


def alike(coupling: Coupling, groups: Sequence[int]) -> list[list[int]]:
    """Groups by width and smallest step; linked ones by themselves."""
    linked = {g for mine in coupling.links for g in mine}
    found: dict[tuple[int, ...], list[int]] = {}
    for g in groups:
        group = coupling.groups[g]
        found.setdefault((g,) if g in linked else (-1, group.width, group.step), []).append(g)
    return list(found.values())


def mates(traced: Traced, coupling: Coupling, example: Any, groups: Sequence[int]) -> list[int]:
    """These groups, and one more of their width if need be, where they make no trouble as long as all of them shrink
    alike; none where there are no such."""
    every = range(len(coupling.groups))
    others = next((its for its in alike(coupling, every) if {*groups} <= {*its} and len(its) > 1), [])
    more = [g for g in others if g not in groups]
    channels = traced.channels(coupling)
    for extra in ([], *([g] for g in more if len(more) <= SUSPECTS)):
        mine = sorted([*groups, *extra])
        if 1 < len(mine) <= SUSPECTS and cut_trial(traced, coupling, channels, example, frozenset(mine)) is None:
            return mine
    return []
