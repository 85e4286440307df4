"""The steps that prune() and attached methods share: what is coupled, what a budget keeps, the proven cut."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from .asked import check_example, further, names, the_model
from .costs import Cost, cost
from .costs.measure import Counts, batch_of, counts
from .errors import TargetError
from .graph.coupling import Coupling
from .outline import Outline, outlined
from .plan import Plan, plan_for
from .result import Pruned
from .select import Costs, to_budget
from .state import plain_table, uncollected, unwrapped
from .surgery import Proof, apply, replay, verify
from .surgery.droppable import droppable
from .surgery.settle import settle
from .surgery.stored import same_state
from .target import AUTO, Target

__all__ = ["Kept", "counted", "cut", "in_one", "proven", "remarks", "trace", "within"]

Kept = Sequence[npt.NDArray[np.int64]]

SLIGHT = 1e-3
"""Of the whole cost: what two ways of counting it may differ by."""

UNEVEN = 1e-3
"""Of the example's macs: how far so many first samples may be from them. Tables that all samples share are less."""


def cut(
    dense: nn.Module,
    example: Any,
    coupling: Coupling,
    kept: Kept,
    *,
    drop: tuple[str, ...] = (),
    check: bool = True,
    goal: Target | None = None,
    notes: tuple[str, ...] = (),
    examples: Sequence[Any] = (),
) -> Pruned:
    """Cut a copy of `dense` down to the kept ids of each group, replay, and prove it. Raises ProofError."""
    plan = plan_for(coupling, kept, drop)
    small, proof, outline = checked(dense, plan, example, check, examples)
    known = coupling.counts if isinstance(coupling.counts, Counts) else None
    before = cost(dense, example, known=known)
    after = cost(small, example, whole=in_one(coupling), outline=outline.model if outline else None)
    notes = recounted(goal, coupling, before, after, notes)
    return Pruned(small, plan, before, after, coupling, proof, goal, notes, weakref.ref(dense))


class Remark(str):
    """What the granularity allowed of a budget, by the costs that widths are chosen by."""

    kind: str
    share: float


def recounted(
    goal: Target | None, coupling: Coupling, before: Cost, after: Cost, notes: tuple[str, ...]
) -> tuple[str, ...]:
    """The notes, with another one where the cut network costs something else than what its widths were chosen by: the
    work of ops that have no rule for it counts there as in the whole network, and code may depend on values."""
    if goal is None or goal.latency is not None:
        return notes
    dense = {kind: float(v) for kind, v in Costs.of(coupling)(np.array(coupling.widths, np.int64)).items()}
    for kind, limit in goal.limits(dense).items():
        if kind not in ("macs", "params") or not dense[kind] or not getattr(before, kind):
            continue
        asked, got = limit / dense[kind], getattr(after, kind) / getattr(before, kind)
        said = next((note for note in notes if isinstance(note, Remark) and note.kind == kind), None)
        if got > asked + SLIGHT or (said is not None and abs(got - said.share) > SLIGHT):
            why = "missed, since" if got > asked + SLIGHT else "since"
            notes = (
                *(note for note in notes if note is not said),
                f"{kind}: {100 * got:.2f} % got, {100 * asked:.2f} % asked; {why} not all that it costs was known when "
                "the widths were chosen",
            )
    return notes


def proven(
    dense: nn.Module, plan: Plan, example: Any, *, check: bool = True, examples: Sequence[Any] = ()
) -> tuple[nn.Module, Proof | None]:
    """A cut copy of `dense`, and the proof that it computes what the masked one computes. Raises ProofError."""
    return checked(dense, plan, example, check, examples)[:2]


def checked(
    dense: nn.Module, plan: Plan, example: Any, check: bool, examples: Sequence[Any] = ()
) -> tuple[nn.Module, Proof | None, Outline | None]:
    """As `proven`, with the outline of the copy, where it has one."""
    with uncollected():
        small = apply(dense, plan)
        same_state(unwrapped(dense), small, plan)
        outline = outlined(small, example)
    replay(small, plan, example, outline)
    for one in examples:
        replay(small, plan, one)
    return small, verify(dense, small, plan, example, examples=examples) if check else None, outline


def within(
    coupling: Coupling,
    scores: Sequence[npt.NDArray[np.float64]],
    goal: Target,
    drop: tuple[str, ...] = (),
    scope: str | None = None,
) -> tuple[Kept, tuple[str, ...]]:
    """The ids of each group that a budget keeps, and what is to be said of it. Raises TargetError."""
    if goal.blocks not in (0, AUTO) and not drop:
        raise TargetError(
            f"blocks={goal.blocks}: this training ranks channels alone; drop blocks in a cut of their own"
        )
    kept = to_budget(coupling, scores, goal, drop, scope=scope)
    return kept, remarks(coupling, goal, [len(k) for k in kept], drop)


def trace(
    model: nn.Module,
    example: Any,
    *,
    pin: str | nn.Module | Iterable[str | nn.Module] = (),
    attention: str = "heads",
    examples: Iterable[Any] = (),
) -> Coupling:
    """What is coupled in `model`: groups, what is pinned and why, unknown ops. Changes nothing.

    A trial cut of one step from every group shows which widths are written down as numbers; those groups are pinned
    too. `attention` says what goes where an attention allows both: whole "heads", or "width" (the same slots of every
    head). `examples` are further ones, of other sizes or for other branches of the code. Raises ExampleError,
    ModelError, UnknownName.
    """
    dense, example = the_model(model), plain_table(example)
    check_example(example)
    more = further(examples)
    outline = outlined(dense, example)
    settled = settle(dense, example, names(pin), attention, outline, more)
    settled = droppable(dense, example, settled, outline)
    for one in more:
        settled = droppable(dense, one, settled)
    return counted(settled, dense, example, outline)


def counted(coupling: Coupling, model: nn.Module, example: Any, outline: Outline | None = None) -> Coupling:
    """The coupling with what `cost` counts beside it: ops without a rule of their own are fixed work. Where the first
    sample is no equal part of the example, as the first step where steps come before the batch, all count together."""
    found = counts(model, example, outline=None if outline is None else outline.model)
    coupling, sample = replace(coupling, counts=found), sum(found.by_module.values())
    if coupling.macs() == sample:
        return coupling
    all_samples = found if found.per == "example" else counts(model, example, whole=True)
    whole = sum(all_samples.by_module.values())
    fixed = max(0, whole - replace(coupling, samples=1).macs())
    if found.per == "sample" and abs(whole - batch_of(example) * sample) > UNEVEN * whole:
        return replace(coupling, counts=all_samples, fixed_macs=fixed, samples=1)
    return replace(coupling, fixed_macs=fixed, samples=max(1, round(whole / sample)) if sample else 1)


def in_one(coupling: Coupling) -> bool:
    """Whether all samples of the example are counted together."""
    return isinstance(coupling.counts, Counts) and coupling.counts.per == "example"


def remarks(coupling: Coupling, goal: Target, widths: list[int], drop: tuple[str, ...]) -> tuple[str, ...]:
    """What the granularity allowed, where it is more than half a percent of the dense cost below the budget. A latency
    has remarks of its own, and where it decides the other budgets are not reached."""
    if goal.latency is not None:
        return ()
    dense = Costs.of(coupling)(np.array(coupling.widths, np.int64))
    got = Costs.of(coupling, drop)(np.array(widths, np.int64))
    limits = goal.limits({kind: float(v) for kind, v in dense.items()})
    slack = {kind: (limit - got[kind]) / dense[kind] for kind, limit in limits.items()}
    if not slack or min(slack.values()) <= 0.005:
        return ()
    tight = min(slack, key=lambda kind: slack[kind])
    found = Remark(
        f"{tight}: {100 * got[tight] / dense[tight]:.2f} % got, {100 * limits[tight] / dense[tight]:.2f} % asked; "
        "the steps that are left are larger than the difference"
    )
    found.kind, found.share = tight, got[tight] / dense[tight]
    return (found,)
