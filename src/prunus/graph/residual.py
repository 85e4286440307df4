"""Residual branches: sums of a shortcut and a branch with parameters of its own."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from .record import Entered, Op

FORWARD = "forward"  # the name of a sum in the forward of the model itself


@dataclass(frozen=True)
class Residual:
    """A branch that can be replaced by zero."""

    name: str
    path: str  # the module in which the sum runs
    nth: int  # which of the sums that run there
    operand: int  # the place of the branch in the sum
    ops: frozenset[int]  # the ops that go: those of the modules; what the code does between them stays
    tensors: tuple[str, ...]  # the parameters that go
    modules: tuple[str, ...]  # the largest modules that lie in the branch, in the order in which they run
    projected: bool  # the shortcut has parameters of its own


@dataclass(frozen=True)
class Reads:
    """Who reads what, among the ops that the model's outputs depend on."""

    ops: Sequence[Op]
    live: Set[int]
    readers: Mapping[int, Set[int]]
    users: Mapping[str, Set[int]]

    @classmethod
    def of(cls, ops: Sequence[Op], results: Set[int]) -> Reads:
        """`results` are the ops that made the outputs."""
        live = ancestors(ops, results)
        readers: dict[int, set[int]] = {made: {len(ops)} for made in results}
        users: dict[str, set[int]] = {}
        for k in live:
            for made in ops[k].inputs:
                if made is not None:
                    readers.setdefault(made, set()).add(k)
            for tensor in ops[k].tensors:
                users.setdefault(tensor, set()).add(k)
        return cls(ops, live, readers, users)

    def sides(self, a: int, b: int) -> tuple[set[int], set[int]] | None:
        """The ops that only one of two values depends on. None where nothing is behind both."""
        if a == b:
            return None
        colour = {a: 1, b: 2}
        found: tuple[set[int], set[int]] = (set(), set())
        heap, single, met = sorted((-a, -b)), 2, False
        while heap and single:
            at = -heapq.heappop(heap)
            mine = colour[at]
            met |= mine == 3
            if mine != 3:
                single -= 1
                if at >= 0:
                    found[mine - 1].add(at)
            for made in self.ops[at].inputs if at >= 0 else ():
                if made is None:
                    continue
                old = colour.get(made, 0)
                colour[made] = old | mine
                if not old:
                    heapq.heappush(heap, -made)
                    single += mine != 3
                elif old != 3 and old | mine == 3:
                    single -= 1
        return found if met or 3 in colour.values() else None

    def plain(self, top: int, side: Set[int]) -> bool:
        """Whether a value reaches what lies behind both sides without meeting a parameter: a shortcut does. Zeros of
        its sizes are no value."""
        todo, seen = [top], {top}
        while todo:
            at = todo.pop()
            if at not in side:
                return True
            if not self.ops[at].tensors and self.ops[at].name != "new_zeros":
                new = {made for made in self.ops[at].inputs if made is not None} - seen
                seen |= new
                todo += new
        return False

    def leading(self, to: int, by: int, within: Set[int]) -> set[int]:
        """Ops whose values reach the outputs only through `to`, which op `by` alone reads."""
        branch: set[int] = set()
        heap = [-to]
        seen = {to}
        while heap:
            at = -heapq.heappop(heap)
            if at in within and self.readers.get(at, set()) <= (branch or {by}):
                branch.add(at)
                for made in self.ops[at].inputs:
                    if made is not None and made not in seen:
                        seen.add(made)
                        heapq.heappush(heap, -made)
        return branch

    def weight(self, side: Set[int], sizes: Mapping[str, int]) -> tuple[int, int]:
        """How many of these ops have parameters, and how many numbers those hold."""
        named = [self.ops[i].tensors for i in side]
        return sum(map(bool, named)), sum(sizes.get(t, 0) for t in {t for ts in named for t in ts})


def ancestors(ops: Sequence[Op], results: Set[int]) -> set[int]:
    """The ops that these results depend on, and they. What is written into a tensor counts as a result too."""
    todo = sorted(results)
    for op in ops:
        if op.name == "__setitem__" and len(set(op.inputs)) > 1:
            todo += [made for made in op.inputs if made is not None]
    live: set[int] = set()
    while todo:
        at = todo.pop()
        if at >= 0 and at not in live:
            live.add(at)
            todo.extend(made for made in ops[at].inputs if made is not None)
    return live


def covered(
    flow: Reads, entered: Sequence[Entered], times: Mapping[str, int], inside: str, branch: Set[int], by: int
) -> tuple[str, ...]:
    """The largest modules below `inside`, called once, of which every op belongs to the branch, as they run."""
    first, prefix = min(branch), inside + "." if inside else ""
    total: dict[str, int] = {}
    mine: dict[str, int] = {}
    calls: dict[str, set[int]] = {}
    for k in range(first, by + 1):
        for c in flow.ops[k].calls if k in flow.live else ():
            path = entered[c].path
            if path != inside and path.startswith(prefix):
                calls.setdefault(path, set()).add(c)
                total[path] = total.get(path, 0) + 1
                mine[path] = mine.get(path, 0) + (k in branch)
    whole = [
        p
        for p, n in mine.items()
        if n and n == total[p] and times[p] == 1 and all(entered[c].start >= first for c in calls[p])
    ]
    return tuple(p for p in whole if not any(p.startswith(q + ".") for q in whole))


def residuals(
    ops: Sequence[Op], entered: Sequence[Entered], results: Set[int], sizes: Mapping[str, int]
) -> tuple[Residual, ...]:
    """Every sum of which one operand is a branch that nothing else reads: the one that has parameters on every way to
    what lies behind both, or the heavier one where both have.

    `results` are the ops that made the outputs, `sizes` the numbers that a parameter holds.
    """
    flow = Reads.of(ops, results)
    times: dict[str, int] = {}
    for call in entered:
        times[call.path] = times.get(call.path, 0) + 1
    found: list[Residual] = []
    sums: dict[str, int] = {}
    for k, op in enumerate(ops):
        if not op.joins:
            continue
        nth = sums.setdefault(op.path, 0)
        sums[op.path] += 1
        if len(op.inputs) != 2 or None in op.inputs or not op.calls or k not in flow.live:
            continue
        sides = flow.sides(*(made for made in op.inputs if made is not None))
        if sides is None:
            continue
        weights = [flow.weight(side, sizes) for side in sides]
        plain = [flow.plain(made or 0, side) for made, side in zip(op.inputs, sides, strict=True)]
        if plain[0] == plain[1] and weights[0] == weights[1]:
            continue
        if any(not way and not count for way, (count, _) in zip(plain, weights, strict=True)):
            continue  # a constant, as what stands for a dropped branch
        operand = int(plain[0]) if plain[0] != plain[1] else int(weights[1] > weights[0])
        branch = flow.leading(op.inputs[operand] or 0, k, sides[operand])
        if not branch:
            continue
        call = next((entered[c] for c in reversed(op.calls) if entered[c].start <= min(branch)), entered[op.calls[0]])
        modules = covered(flow, entered, times, call.path, branch, k)
        tensors = dict.fromkeys(t for i in sorted(branch) for t in ops[i].tensors)
        gone = tuple(t for t in tensors if any(t.startswith(m + ".") for m in modules))
        if gone and not any(flow.users[t] - branch for t in gone):
            projected = not any(plain)
            name = call.path or FORWARD
            inside = frozenset(i for i in branch if any(entered[c].path in modules for c in ops[i].calls))
            found.append(Residual(name, op.path, nth, operand, inside, gone, modules, projected))
    return named(found)


def named(found: Sequence[Residual]) -> tuple[Residual, ...]:
    """Several branches of one module are told apart by their number."""
    names = [r.name for r in found]
    total: dict[str, int] = {}
    seen: dict[str, int] = {}
    for name in names:
        total[name] = total.get(name, 0) + 1
    told = []
    for r in found:
        seen[r.name] = seen.get(r.name, -1) + 1
        told.append(r if total[r.name] == 1 else replace(r, name=f"{r.name}#{seen[r.name]}"))
    return tuple(told)
