"""A trial cut before any promise: widths written into the code or into attributes show themselves, and are pinned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from ..graph.coupling import Coupling
from ..graph.trace import observe
from ..plan import plan_for
from ..select import removal_order
from .cut import apply
from .proof import Trouble, trouble


def trial(model: nn.Module, coupling: Coupling, example: Any) -> Trouble | None:
    """Take the smallest step from every group at once and run the result."""
    kept = []
    for group in coupling.groups:
        order, _ = removal_order(group, np.zeros(group.width))
        step = group.step if group.step < group.width else 0
        kept.append(np.sort(order[step:]))
    plan = plan_for(coupling, kept)
    return trouble(apply(model, plan), plan, example)


def settle(model: nn.Module, example: Any, pin: Sequence[str | nn.Module]) -> Coupling:
    """Trace, then pin what a trial cut shows to be written down as a number somewhere."""
    traced = observe(model, example, pin=pin)
    coupling = traced.coupling()
    while coupling.groups and (found := trial(traced.model, coupling, example)):
        for g in found.groups or range(len(coupling.groups)):
            traced.pin(coupling.groups[g], f"its width is written down in the code or in an attribute: {found.why}")
        coupling = traced.coupling()
    return coupling
