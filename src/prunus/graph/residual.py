"""Residual branches: sums of a shortcut and a branch with parameters of its own, inside one module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .record import Entered, Op


@dataclass(frozen=True)
class Residual:
    """A branch that can be replaced by zero."""

    name: str
    path: str  # the module in which the sum runs
    nth: int  # which of the sums that run there
    operand: int  # the place of the branch in the sum
    ops: frozenset[int]  # the ops that go
    tensors: tuple[str, ...]  # the parameters that go
    modules: tuple[str, ...]  # the largest modules that lie in the branch, in the order in which they run
    projected: bool  # the shortcut has parameters of its own


def ancestors(ops: Sequence[Op], end: int | None, start: int) -> set[int]:
    """Ops at or after `start` that `end` depends on, itself included."""
    seen: set[int] = set()
    todo = [end]
    while todo:
        at = todo.pop()
        if at is not None and at >= start and at not in seen:
            seen.add(at)
            todo.extend(ops[at].inputs)
    return seen


def covered(ops: Sequence[Op], entered: Sequence[Entered], inside: str, branch: set[int]) -> tuple[str, ...]:
    """The largest modules below `inside` of which every op belongs to the branch, in the order in which they run."""
    total: dict[str, int] = {}
    mine: dict[str, int] = {}
    for k, op in enumerate(ops):
        for path in {entered[c].path for c in op.calls}:
            total[path] = total.get(path, 0) + 1
            mine[path] = mine.get(path, 0) + (k in branch)
    prefix = inside + "." if inside else ""
    whole = [p for p, n in mine.items() if n and n == total[p] and p != inside and p.startswith(prefix)]
    return tuple(p for p in whole if not any(p.startswith(q + ".") for q in whole))


def residuals(ops: Sequence[Op], entered: Sequence[Entered]) -> tuple[Residual, ...]:
    """Every sum in a module of which one operand is a branch that nothing else reads."""
    readers: dict[int, set[int]] = {}
    users: dict[str, set[int]] = {}
    for k, op in enumerate(ops):
        for made in op.inputs:
            if made is not None:
                readers.setdefault(made, set()).add(k)
        for tensor in op.tensors:
            users.setdefault(tensor, set()).add(k)
    found: list[Residual] = []
    sums: dict[str, int] = {}
    for k, op in enumerate(ops):
        if not op.joins:
            continue
        nth = sums.setdefault(op.path, 0)
        sums[op.path] += 1
        if len(op.inputs) != 2 or not op.calls:
            continue
        call = entered[op.calls[-1]]
        a, b = (ancestors(ops, made, call.start) for made in op.inputs)
        exclusive = (a - b, b - a)
        weight = tuple(sum(bool(ops[i].tensors) for i in side) for side in exclusive)
        if weight[0] == weight[1]:
            continue
        operand = int(weight[1] > weight[0])
        branch = exclusive[operand]
        escapes = any(readers.get(i, set()) - branch - {k} for i in branch)
        modules = covered(ops, entered, call.path, branch)
        tensors = tuple(dict.fromkeys(t for i in sorted(branch) for t in ops[i].tensors))
        gone = tuple(t for t in tensors if any(t.startswith(m + ".") for m in modules))
        if not escapes and gone and not any(users[t] - branch for t in gone):
            residual = Residual(call.path, call.path, nth, operand, frozenset(branch), gone, modules, min(weight) > 0)
            found.append(residual)
    names = [r.name for r in found]
    return tuple(
        r if names.count(r.name) == 1 else replace(r, name=f"{r.name}#{names[:i].count(r.name)}")
        for i, r in enumerate(found)
    )
