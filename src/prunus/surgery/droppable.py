"""Which residual branches can be replaced by zero: the network is run without them before that is promised.

An outline tells most of them, since of many an op it is known that it makes zeros of zeros. Where one of a branch is
not among these, the network runs with values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ExampleError
from ..graph.coupling import Coupling
from ..graph.forward import run, shapes_alone, stored_statistics
from ..graph.labels import ByIdentity, Check
from ..graph.record import SUMS, Call, Tracer
from ..graph.residual import Residual
from ..outline import Outline
from ..plan import plan_for
from ..state import as_found, copied, kept_values, modules_of, seeded, tensors_in, tensors_of, uncollected
from .cut import drop

MADE = frozenset("new_zeros zeros_like".split())
KEPT = frozenset(
    """
    view reshape permute transpose flatten unflatten contiguous squeeze unsqueeze expand clone detach to float double
    neg roll narrow __getitem__ relu relu_ dropout dropout1d dropout2d dropout3d div div_ __truediv__ __itruediv__
    """.split()
)
PRODUCTS = frozenset("mul mul_ __mul__ __rmul__ __imul__".split())
"""Ops by name: what makes zeros, what makes zeros of a first operand that is zero, and of either."""


@dataclass
class Sums:
    """Executes a shortened network and notes at which sums the branch is a zero that the shortcut absorbs."""

    wanted: dict[tuple[str, int], int]  # path, number of the sum -> the place of the branch
    hollow: bool = False  # an outline is run
    zero: dict[tuple[str, int], None] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    empty: ByIdentity = field(default_factory=ByIdentity)  # tensors of an outline that are zero

    def __call__(self, call: Call) -> Any:
        if call.func.__name__ in SUMS and len(call.args) == 2:
            nth = self.seen.get(call.path, 0)
            self.seen[call.path] = nth + 1
            at = (call.path, nth)
            operand = self.wanted.get(at)
            if operand is not None:
                branch, other = call.args[operand], call.args[1 - operand]
                if isinstance(branch, Tensor) and isinstance(other, Tensor) and self.absorbs(other, branch):
                    self.zero[at] = None
        if not self.hollow:
            return stored_statistics(call)
        zero = self.stays_zero(call)
        found = shapes_alone(call)
        if zero and isinstance(found, Tensor):
            self.empty[found] = True
        elif any(t in self.empty for t in tensors_in((found, call.kwargs.get("out"), self.assigned(call)))):
            self.empty = ByIdentity()  # written in place, and who knows of which tensors this is a view
        return found

    def assigned(self, call: Call) -> Any:
        """What a statement writes to, as `x[0] = y` does, and does not return."""
        return call.args[0] if call.func.__name__ == "__setitem__" else None

    def stays_zero(self, call: Call) -> bool:
        """Whether a call on an outline gives zeros."""
        name = call.func.__name__
        if name in MADE:
            return True
        if name in PRODUCTS:
            return any(isinstance(x, Tensor) and x in self.empty for x in call.args)
        first = call.args[0] if call.args else call.kwargs.get("input")
        return name in KEPT and isinstance(first, Tensor) and first in self.empty

    def absorbs(self, shortcut: Tensor, branch: Tensor) -> bool:
        """Whether adding the branch gives the shortcut."""
        try:
            shape = torch.broadcast_shapes(shortcut.shape, branch.shape)
        except RuntimeError:
            return False
        return shape == shortcut.shape and (branch in self.empty if self.hollow else not bool(branch.any()))


class Runner(Tracer):
    """Knows where an op runs, and labels nothing."""

    def follow(self, call: Call, out: Any, results: list[Tensor]) -> None:
        return


def droppable(model: nn.Module, example: Any, coupling: Coupling, outline: Outline | None = None) -> Coupling:
    """The coupling with those residual blocks only that can go, and why the others cannot. The model is left as it is.
    `outline` is that of the model on the example."""
    stuck = {r.name: "" for r in coupling.blocks}
    if outline is not None:
        stuck = settled(outline.model, outline.example, coupling, coupling.blocks, hollow=True)
    if stuck:
        stuck = settled(model, example, coupling, [r for r in coupling.blocks if r.name in stuck])
    return replace(
        coupling,
        blocks=tuple(r for r in coupling.blocks if r.name not in stuck),
        undroppable={**coupling.undroppable, **stuck},
    )


def settled(
    model: nn.Module, example: Any, coupling: Coupling, blocks: Sequence[Residual], hollow: bool = False
) -> dict[str, str]:
    """The names of the blocks that cannot go, and why."""
    stuck: dict[str, str] = {}
    rest = list(blocks)
    while rest:
        inner = {r.name for r in rest if any(r.ops < other.ops for other in rest)}
        outer = [r for r in rest if r.name not in inner]
        rest = [r for r in rest if r.name in inner]
        while outer:
            good, why = passing(model, example, coupling, outer, hollow)
            bad = [r for r in outer if r.name not in good]
            if not good and bad:  # code of one kind fails alike
                kind = kind_of(model, bad[0])
                stuck |= {r.name: why for r in bad if kind_of(model, r) == kind}
                bad = [r for r in bad if r.name not in stuck]
            outer = bad
    return stuck


def kind_of(model: nn.Module, residual: Residual) -> tuple[type, int, int]:
    """Blocks with the same are written by the same line of code."""
    return type(model.get_submodule(residual.path)), residual.nth, residual.operand


@uncollected()
def passing(
    model: nn.Module, example: Any, coupling: Coupling, blocks: Sequence[Residual], hollow: bool
) -> tuple[set[str], str]:
    """Of blocks that are dropped together, the names of those whose sum was reached with a zero from the branch, and
    why others were not."""
    why = "what stands for its modules does not reach the sum as zeros"
    plan = plan_for(coupling, [range(width) for width in coupling.widths], [r.name for r in blocks])
    shared = {id(t): t for t in tensors_of(model).values()}
    short = copied(model, {**shared, **{id(v): v for v in kept_values(m for _, m in modules_of(model))}})
    for branch in plan.dropped:
        drop(short, branch, plan.widths)
    sums = Sums({(r.path, r.nth): r.operand for r in blocks}, hollow)
    with as_found(short, values=not hollow), torch.no_grad():
        for _, module in modules_of(short):
            module.training = False
        seeded()
        try:
            run(Runner(short, Check({}), {}, sums, outline=hollow), short, example)
        except ExampleError as error:
            why = f"the network does not run without it: {str(error).partition(': ')[2]}"
    return {r.name for r in blocks if (r.path, r.nth) in sums.zero}, why
