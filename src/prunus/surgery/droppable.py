"""Which residual branches can be replaced by zero: the network is run without them before that is promised."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ExampleError
from ..graph.coupling import Coupling
from ..graph.forward import run, stored_statistics
from ..graph.labels import Check
from ..graph.record import SUMS, Call, Tracer
from ..graph.residual import Residual
from ..plan import plan_for
from ..state import as_found, copied, modules_of, seeded, tensors_of
from .cut import drop


@dataclass
class Sums:
    """Executes a shortened network and notes at which sums the branch is a zero that the shortcut absorbs."""

    wanted: dict[tuple[str, int], int]  # path, number of the sum -> the place of the branch
    zero: dict[tuple[str, int], None] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)

    def __call__(self, call: Call) -> Any:
        if call.func.__name__ in SUMS and len(call.args) == 2:
            nth = self.seen.get(call.path, 0)
            self.seen[call.path] = nth + 1
            at = (call.path, nth)
            operand = self.wanted.get(at)
            if operand is not None:
                branch, other = call.args[operand], call.args[1 - operand]
                if isinstance(branch, Tensor) and isinstance(other, Tensor) and absorbs(other, branch):
                    self.zero[at] = None
        return stored_statistics(call)


def absorbs(shortcut: Tensor, branch: Tensor) -> bool:
    """Whether adding the branch gives the shortcut."""
    try:
        shape = torch.broadcast_shapes(shortcut.shape, branch.shape)
    except RuntimeError:
        return False
    return shape == shortcut.shape and not bool(branch.any())


def droppable(model: nn.Module, example: Any, coupling: Coupling) -> Coupling:
    """The coupling with those residual blocks only that can go. The model is left as it is."""
    fine: set[str] = set()
    rest = list(coupling.blocks)
    while rest:
        inner = {r.name for r in rest if any(r.ops < other.ops for other in rest)}
        outer = [r for r in rest if r.name not in inner]
        rest = [r for r in rest if r.name in inner]
        while outer:
            good = passing(model, example, coupling, outer)
            fine |= good
            bad = [r for r in outer if r.name not in good]
            if not good and bad:  # code of one kind fails alike
                kind = kind_of(model, bad[0])
                bad = [r for r in bad if kind_of(model, r) != kind]
            outer = bad
    return replace(coupling, blocks=tuple(r for r in coupling.blocks if r.name in fine))


def kind_of(model: nn.Module, residual: Residual) -> tuple[type, int, int]:
    """Blocks with the same are written by the same line of code."""
    return type(model.get_submodule(residual.path)), residual.nth, residual.operand


def passing(model: nn.Module, example: Any, coupling: Coupling, blocks: Sequence[Residual]) -> set[str]:
    """Of blocks that are dropped together, the names of those whose sum was reached with a zero from the branch."""
    plan = plan_for(coupling, [range(width) for width in coupling.widths], [r.name for r in blocks])
    shared = {id(t): t for t in tensors_of(model).values()}
    short = copied(model, {**shared, **{id(v): v for v in activations(model)}})
    for branch in plan.dropped:
        drop(short, branch, plan.widths)
    sums = Sums({(r.path, r.nth): r.operand for r in blocks})
    with as_found(short), torch.no_grad():
        for _, module in modules_of(short):
            module.training = False
        seeded()
        with contextlib.suppress(ExampleError):
            run(Tracer(short, Check({}), {}, sums), short, example)
    return {r.name for r in blocks if (r.path, r.nth) in sums.zero}


def activations(model: nn.Module) -> list[Tensor]:
    """Tensors that modules keep as attributes, which need not be copied."""
    return [v for _, m in modules_of(model) for v in vars(m).values() if isinstance(v, Tensor)]
