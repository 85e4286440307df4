"""The page about a traced network: its groups coloured, what is pinned and why, what has no rule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from prunus.graph.coupling import VALUES, layer
from prunus.graph.inspect import ties as ties_of
from prunus.lab.lanes import Chip, Lanes, Row
from prunus.lab.page import Page, Section, Table

if TYPE_CHECKING:
    from prunus.graph import Coupling
    from prunus.graph.flow import Step

__all__ = ["page_of"]


def page_of(coupling: Coupling, name: str) -> Page:
    """Everything that `prunus.trace` found in the network `name`."""
    channels = sum(coupling.widths)
    lead = (
        f"{len(coupling.groups)} groups with {channels:,} channels; {100 * coupling.prunable:.1f} % of the "
        "multiply-accumulates are in ops that can shrink."
    )
    sections = [
        Section(
            "The network",
            "One row a layer, top to bottom. A line leads from each result to what reads it and has the colour of its "
            "group: lines and figures of one colour lose the same channels. Grey cannot be pruned. On the right, the "
            "share of all multiply-accumulates.",
            Lanes(rows(coupling)),
        ),
        Section("Groups", "Channels that share these layers go together.", _groups(coupling)),
    ]
    if coupling.pinned:
        why = tuple((p.name, f"{p.width:,}", p.reason) for p in coupling.pinned)
        sections.append(Section("What cannot be pruned", "", Table(("pinned", "channels", "why"), why, prose=(2,))))
    if coupling.unknown_ops:
        table = Table(("op",), tuple((op,) for op in coupling.unknown_ops))
        sections.append(Section("Ops without a rule", "Every channel that meets one of them is pinned.", table))
    if coupling.unreached:
        table = Table(("layer",), tuple((name,) for name in coupling.unreached))
        told = "No example runs through them. They stay as they are, also where what comes before them is cut."
        sections.append(Section("Not reached", told, table))
    if coupling.blocks:
        blocks = tuple((b.name, ", ".join(b.modules)) for b in coupling.blocks)
        table = Table(("block", "what goes"), blocks, prose=(1,))
        sections.append(Section("Residual blocks", "Each can be dropped whole.", table))
    if coupling.undroppable:
        table = Table(("block", "why"), tuple(coupling.undroppable.items()), prose=(1,))
        sections.append(Section("Residual blocks that stay", "", table))
    return Page(f"{name}: what is coupled", lead, tuple(sections))


def rows(coupling: Coupling) -> tuple[Row, ...]:
    """The steps of the forward, with the groups on either side."""
    sides = _sides(coupling)
    counted = {work.op: 0 for work in coupling.work}
    for work in coupling.work:
        counted[work.op] += int(work.times * math.prod(form(coupling.widths) for form in work.factors))
    total = max(1, coupling.fixed_macs + sum(counted.values()))
    found: list[Row] = []
    for step in coupling.steps:
        taken, made = (_chips(coupling, step, sides, side, step.op in counted) for side in ("in", "out"))
        group = made[0].group if made else None
        if not made and step.inputs:
            group = found[step.inputs[0]].group
        share = counted.get(step.op, 0) / total
        found.append(Row(_title(step), _kind(step.name), group, step.inputs, taken, made, share))
    return tuple(found)


def _sides(coupling: Coupling) -> Mapping[tuple[str, str], tuple[int, ...]]:
    """The groups on the reading and on the producing side of each tensor. What a norm scales, it produces."""
    found: dict[tuple[str, str], dict[int, None]] = {}
    for g, group in enumerate(coupling.groups):
        for m in group.members:
            side = "in" if m.role == "in" or m.axis == VALUES else "out"  # the values of an index name what is read
            found.setdefault((m.tensor, side), {})[g] = None
    return {key: tuple(groups) for key, groups in found.items()}


def _chips(
    coupling: Coupling, step: Step, sides: Mapping[tuple[str, str], tuple[int, ...]], side: str, weighs: bool
) -> tuple[Chip, ...]:
    """The groups on one side of a step; where a layer that weighs has none, the pinned width of its weight."""
    groups = dict.fromkeys(g for tensor in step.tensors for g in sides.get((tensor, side), ()))
    if groups:
        named = [coupling.groups[g] for g in groups]
        return tuple(Chip(f"{g.width}", n, f"group {g.name}") for n, g in zip(groups, named, strict=True))
    shape = coupling.fingerprint[step.tensors[0]][0] if step.tensors else ()
    if len(shape) < 2 or not weighs:
        return ()
    return (Chip(f"{shape[0] if side == 'out' else shape[1]}", None, "pinned"),)


def _groups(coupling: Coupling) -> Table:
    table = []
    for group in coupling.groups:
        ties = ties_of(group)
        table.append((group.name, f"{group.width}", f"{group.step}", "; ".join(ties)))
    return Table(("group", "width", "step", "what it ties"), tuple(table), prose=(3,))


def _title(step: Step) -> str:
    """The layer whose tensors the step uses, or the module in which it runs."""
    if not step.tensors:
        return step.path or "forward"
    return layer(step.tensors[0])


def _kind(name: str) -> str:
    return name.rpartition(".")[2]
