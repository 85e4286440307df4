"""A coupling as a tree in text, and as a table for a notebook."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable

from .coupling import Coupling, Group, layer


def ties(group: Group) -> list[str]:
    """The layers that produce and that read the channels of a group."""
    made = list(dict.fromkeys(layer(m.tensor) for m in group.members if m.role == "out"))
    read = list(dict.fromkeys(layer(m.tensor) for m in group.members if m.role == "in"))
    rest = [layer(m.tensor) for m in group.members if m.role in {"scale", "statistic", "operand", "index"}]
    other = [name for name in dict.fromkeys(rest) if name not in made and name not in read]
    lines = []
    for title, names in (("made by", made), ("read by", read), ("passes", other)):
        if names:
            lines.append(f"{title} {', '.join(names[:6])}" + (f", … ({len(names)} in all)" if len(names) > 6 else ""))
    if group.parts > 1:
        each = "one" if group.step == group.parts else group.step // group.parts
        lines.append(f"goes {group.step} at a time, {each} from each of {group.parts} equal blocks")
    elif group.step > 1:
        lines.append(f"goes {group.step} at a time")
    return lines


def block_shares(coupling: Coupling) -> list[float]:
    """For each residual block the share of the dense MACs that goes with it."""
    sizes: dict[int, int] = {}
    for work in coupling.work:
        size = work.times * math.prod(form(coupling.widths) for form in work.factors)
        sizes[work.op] = sizes.get(work.op, 0) + int(size)
    whole = max(1, coupling.fixed_macs + sum(sizes.values()))
    return [sum(sizes.get(op, 0) for op in block.ops) / whole for block in coupling.blocks]


def page(coupling: Coupling) -> str:
    """The same for a notebook."""

    def items(lines: Iterable[str]) -> str:
        return "".join(f"<li>{html.escape(line)}</li>" for line in lines)

    head, *_ = tree(coupling).partition("\n")
    rows = "".join(
        f"<tr><td>{html.escape(g.name)}</td><td>{g.width}</td><td>{html.escape('; '.join(ties(g)))}</td></tr>"
        for g in coupling.groups
    )
    rest = [f"linked, and keep the same share: {', '.join(coupling.groups[g].name for g in x)}" for x in coupling.links]
    shares = zip(coupling.blocks, block_shares(coupling), strict=True)
    rest += [f"can be dropped: {block.name} ({100 * share:.1f} % of the MACs)" for block, share in shares]
    rest += [f"pinned: {p.name} ({p.width}): {p.reason}" for p in coupling.pinned]
    rest += [f"no rule: {op}" for op in coupling.unknown_ops]
    rest += [f"not reached: {name}" for name in coupling.unreached]
    table = f"<table><tr><th>group</th><th>width</th><th>ties</th></tr>{rows}</table>"
    return f"<p>{html.escape(head)}</p>{table}<ul>{items(rest)}</ul>"


def tree(coupling: Coupling) -> str:
    """Groups with widths and what they tie, what is pinned and why, ops without a rule, blocks that can be dropped."""
    share = f"{100 * coupling.prunable:.0f} % of the MACs are in ops that can shrink"
    lines = [f"{len(coupling.groups)} groups, {sum(coupling.widths):,} channels; {share}"]
    for group in coupling.groups:
        lines.append(f"├─ {group.name}  {group.width}")
        lines += [f"│    {line}" for line in ties(group)]
    for linked in coupling.links:
        lines.append(f"linked, and keep the same share: {', '.join(coupling.groups[g].name for g in linked)}")
    if coupling.blocks:
        lines.append(f"{len(coupling.blocks)} residual blocks that can be dropped")
        shares = zip(coupling.blocks, block_shares(coupling), strict=True)
        lines += [f"├─ {block.name}  {100 * share:.1f} % of the MACs" for block, share in shares]
    if coupling.undroppable:
        lines.append(f"{len(coupling.undroppable)} residual blocks that cannot be dropped")
        lines += [f"├─ {name}: {why}" for name, why in coupling.undroppable.items()]
    lines.append(f"{len(coupling.pinned)} pinned")
    lines += [f"├─ {p.name}  {p.width}: {p.reason}" for p in coupling.pinned]
    if coupling.unknown_ops:
        lines.append(f"{len(coupling.unknown_ops)} ops without a rule")
        lines += [f"├─ {op}" for op in coupling.unknown_ops]
    if coupling.unreached:
        lines.append(f"{len(coupling.unreached)} layers that the example does not reach, and that stay as they are")
        lines += [f"├─ {name}" for name in coupling.unreached]
    return "\n".join(lines)
