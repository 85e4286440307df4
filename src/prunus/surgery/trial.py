"""A trial cut before any promise: widths written into the code or into attributes show themselves, and are pinned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..graph.coupling import Coupling
from ..graph.record import Tracer
from ..graph.trace import Pass, Traced, observe
from ..plan import Plan, plan_for
from ..select import removal_order
from .cut import apply
from .masked import channel_ids
from .proof import Trouble, groups_of, trouble

WRITTEN = "its width is written down in the code or in an attribute"
NUMBER = "its width is used as a number"


def settle(model: nn.Module, example: Any, pin: Sequence[str | nn.Module]) -> Coupling:
    """Trace, then pin what a trial cut shows to be written down or computed with as a number."""
    traced = observe(model, example, pin=pin)
    coupling = traced.coupling()
    while coupling.groups and (found := trial(traced, coupling, example)):
        for g in found.groups or range(len(coupling.groups)):
            traced.pin(coupling.groups[g], found.why)
        coupling = traced.coupling()
    return coupling


def trial(traced: Traced, coupling: Coupling, example: Any) -> Trouble | None:
    """Take the smallest step from every group, run the result in both modes and hold it against the dense run."""
    kept = []
    for group in coupling.groups:
        order, _ = removal_order(group, np.zeros(group.width))
        kept.append(np.sort(order[group.step if group.step < group.width else 0 :]))
    plan = plan_for(coupling, kept)
    small = apply(traced.model, plan)
    channels = traced.channels(coupling)
    for training, dense in enumerate(traced.passes):
        found, tracer = trouble(small, plan, example, bool(training))
        if found:
            return Trouble(f"{WRITTEN}: {found.why}", found.groups)
        for other in (*sliced(dense, tracer, channels, plan), *computed(dense, tracer, plan)):
            return other
    return None


def sliced(dense: Pass, cut: Tracer, channels: Tensor, plan: Plan) -> Iterator[Trouble]:
    """Ops that take a part of a channel axis must take the same channels, less the removed ones."""
    _, removed = channel_ids(plan, kept_only=True)
    if len(dense.parts) != len(cut.book.parts):
        return
    for before, after in zip(dense.parts, cut.book.parts, strict=True):
        want = torch.where(before >= 0, channels[before.clamp(min=0)], -2).reshape(-1)
        stays = (want < 0) | ~removed[want.clamp(min=0)]
        want, got = want[stays], after.reshape(-1)
        if want.shape != got.shape or not torch.equal(want.clamp(min=-2), got.clamp(min=-2)):
            yield Trouble(f"{WRITTEN}: a part of fixed size is taken of it", groups_of(plan, [want, got]))


def computed(dense: Pass, cut: Tracer, plan: Plan) -> Iterator[Trouble]:
    """Numbers that an op computes with must not depend on the widths."""
    if [op.name for op in dense.ops] != [op.name for op in cut.ops]:
        return
    for before, after in zip(dense.ops, cut.ops, strict=True):
        if before.numbers != after.numbers:
            where = f"{after.name} in {after.path or 'forward'}"
            yield Trouble(f"{NUMBER}: {where} computes with it", groups_of(plan, after.planes))
