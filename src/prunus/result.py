"""What prune() returns, and what load() does."""

from __future__ import annotations

import html
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from .costs import Cost
from .graph.coupling import Coupling
from .plan import Plan
from .surgery import Proof
from .target import Target
from .timing import Latency


@dataclass(frozen=True, eq=False)
class Pruned:
    """The smaller model, the plan that makes it, costs before and after, and the proof.

    `model` is an ordinary module of the same class. `notes` say where granularity left a gap to the budget.
    """

    model: nn.Module
    plan: Plan
    before: Cost
    after: Cost
    coupling: Coupling
    proof: Proof | None
    target: Target | None = None
    notes: tuple[str, ...] = ()
    source: weakref.ref[nn.Module] | None = field(default=None, repr=False)
    """The dense model, as long as it lives; not kept in copies and pickles."""
    latency: Latency | None = None
    """Predicted and measured, where the target asked for a latency."""

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "source": None}

    def rows(self) -> list[tuple[str, int, int]]:
        """(group, width before, width after), in forward order; groups of dropped branches are gone."""
        gone = self.coupling.without([d.name for d in self.plan.dropped])[2]
        pairs = enumerate(zip(self.plan.groups, self.plan.kept, strict=True))
        return [(g.name, g.width, len(kept)) for i, (g, kept) in pairs if i not in gone]

    def facts(self) -> list[str]:
        """Costs, proof, pinned channels and notes, a line each."""
        whole = " of the whole example" if self.before.per == "example" else ""
        lines = [
            f"{kind}{whole if kind == 'macs' else ''}: {was:,} -> {now:,} ({100 * now / was:.2f} %)"
            for kind, was, now in (
                ("macs", self.before.macs, self.after.macs),
                ("params", self.before.params, self.after.params),
                ("bytes", self.before.bytes, self.after.bytes),
            )
            if was
        ]
        lines += [str(self.latency)] if self.latency else []
        lines += [str(self.proof)] if self.proof else ["not proven: check=False"]
        lines += [f"dropped: {d.name}" for d in self.plan.dropped]
        lines += [f"pinned: {p.name} ({p.width}): {p.reason}" for p in self.coupling.pinned]
        lines += [f"no rule: {op}" for op in self.coupling.unknown_ops]
        lines += [f"not reached by the example, and as it was: {name}" for name in self.coupling.unreached]
        return lines + [f"note: {note}" for note in self.notes]

    def __str__(self) -> str:
        wide = max((len(name) for name, _, _ in self.rows()), default=0)
        table = [f"{name:<{wide}}  {was:>5} -> {now:>5}" for name, was, now in self.rows()]
        return "\n".join([*table, *self.facts()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{was}</td><td>{now}</td></tr>" for name, was, now in self.rows()
        )
        facts = "".join(f"<li>{html.escape(line)}</li>" for line in self.facts())
        head = "<tr><th>group</th><th>width</th><th>kept</th></tr>"
        return f"<table>{head}{cells}</table><ul>{facts}</ul>"


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network that was cut before, back from a file.

    `plan` is what cut it from the dense one. `masks` are those of a network with zeros (`Thinned`): True where a weight
    stayed, by name; none for others.
    """

    model: nn.Module
    plan: Plan
    masks: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def rows(self) -> list[tuple[str, int, int]]:
        """(group, width before, width after); groups that lie in dropped branches alone are gone."""
        inside = tuple(f"{m}." for d in self.plan.dropped for m in d.modules)
        return [
            (group.name, group.width, len(kept))
            for group, kept in zip(self.plan.groups, self.plan.kept, strict=True)
            if not inside or not all(m.tensor.startswith(inside) for m in group.members)
        ]

    def __str__(self) -> str:
        wide = max((len(name) for name, _, _ in self.rows()), default=0)
        table = [f"{name:<{wide}}  {was:>5} -> {now:>5}" for name, was, now in self.rows()]
        table += [f"dropped: {d.name}" for d in self.plan.dropped]
        return "\n".join([*table, *(f"zeros in {name}" for name in self.masks)] or ["nothing was cut"])

    __repr__ = __str__
