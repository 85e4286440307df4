"""Widths by an artificial bee colony. Lin et al. 2020, "Channel Pruning via Automatic Structure Search"
(arXiv:2001.08565), algorithm 1.

A food source is a structure: how many tenths of each group stay. Its fitness is what `evaluate` says of the network cut
so, after a short training if the user's function trains. In each cycle

- an employed bee changes a few entries j of every source i: x_j + R·(x_j − x_kj) for another source k, R in [−1, 1];
- as many onlookers do the same to sources drawn with probability 0.1 + 0.9·(f_i − f_min) / (f_max − f_min);
- the better of old and new stays; a source that `limit` trials did not better is given up for a random one.

Departures: the paper limits tenths and has no budget. Here a structure above the budget loses tenths, one group after
the other in a random order, until it is within; and unless the target says fill=no it gains tenths likewise while it
stays there, so that the search is among structures that use the budget. Entries are rounded, not truncated. Fitness may
be negative: probabilities count from the worst. Linked groups are one entry. Within a width the filters of largest
`base` score stay, L1 norm by default; the paper draws them (base="random"). Every group is searched, where the paper's
code leaves the residual streams of ResNets whole. What is found has the weights of the network that was searched, where
the paper goes on from those that the short training of the best structure left.

What was measured is kept, by structure, in `cache`: a search that was stopped does the same steps again, without the
measuring that was done, to the same end. Every measure starts from the same random state.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..errors import InputError
from ..graph.coupling import Coupling
from ..plan import plan_for
from ..select import Costs, Ints, impossible, steps_of, to_widths, units_of
from ..state import same_draws
from ..surgery import apply
from ..target import Target
from .measured import Measured
from .score import base_of, scores_of, worth

TENTHS = 10


@dataclass(frozen=True, eq=False)
class Space:
    """Structures: a width of every group for each food, tenths (entries,), and whether it is within the budget."""

    taken: tuple[tuple[Ints, Ints], ...]  # for each entry its groups, and what goes of them at 1 … 10 tenths
    dense: Ints
    fits: Callable[[Ints], bool]

    @classmethod
    def of(cls, coupling: Coupling, goal: Target) -> Space:
        """Raises TargetError where the smallest structure is above the budget."""
        costs, dense = Costs.of(coupling), np.array(coupling.widths, np.int64)
        limits = goal.limits({kind: float(v) for kind, v in costs(dense).items()})
        steps = [steps_of(group, np.zeros(group.width), goal) for group in coupling.groups]
        taken = []
        for unit in units_of(coupling, steps, frozenset()):
            gone = np.concatenate([np.zeros((1, len(unit.groups)), np.int64), unit.sizes.cumsum(axis=0)])
            at = np.searchsorted(unit.fractions, 1 - np.arange(1, TENTHS + 1) / TENTHS - 1e-9) + 1
            at[-1] = 0
            taken.append((unit.groups, gone[np.minimum(at, len(gone) - 1)]))

        def fits(widths: Ints) -> bool:
            now = costs(widths)
            return all(now[kind] <= limit for kind, limit in limits.items())

        made = cls(tuple(taken), dense, fits)
        least = made.widths(np.ones(len(taken), np.int64))
        if not fits(least):
            raise impossible(limits, costs(least), costs(dense))
        return made

    def widths(self, food: Ints) -> Ints:
        """Of every group."""
        found = self.dense.copy()
        for (groups, gone), tenths in zip(self.taken, food.tolist(), strict=True):
            found[groups] -= gone[tenths - 1]
        return found

    def repaired(self, food: Ints, draw: np.random.Generator, fill: bool) -> Ints:
        """The structure brought to the budget, in a random order of its entries."""
        found, order = food.copy(), draw.permutation(len(food))
        while not self.fits(self.widths(found)):
            for j in order:
                found[j] = max(1, found[j] - 1)
                if self.fits(self.widths(found)):
                    break
        open_ = order.tolist() if fill else []
        while open_:
            for j in list(open_):
                found[j] += 1
                if found[j] > TENTHS or not self.fits(self.widths(found)):
                    found[j] -= 1
                    open_.remove(j)
        return found


@dataclass
class Source:
    """A structure, what it is worth, and how many trials did not better it."""

    food: Ints
    fitness: float
    trials: int = 0


def colony(
    fitness: Callable[[Ints], float],
    repaired: Callable[[Ints], Ints],
    entries: int,
    draw: np.random.Generator,
    *,
    sources: int = 10,
    limit: int = 5,
    cycles: int = 50,
    changes: int = 2,
) -> Ints:
    """The food of largest fitness that was met: int64 (entries,), each of 1 … 10."""

    def met() -> Source:
        food = repaired(draw.integers(1, TENTHS + 1, entries))
        return Source(food, fitness(food))

    def visit(i: int) -> None:
        other = found[(i + 1 + int(draw.integers(len(found) - 1))) % len(found)]
        food, at = found[i].food.astype(float), draw.choice(entries, min(changes, entries), replace=False)
        food[at] += draw.uniform(-1, 1, len(at)) * (food[at] - other.food[at])
        new = repaired(np.clip(np.rint(food), 1, TENTHS).astype(np.int64))
        value = fitness(new)
        if value > found[i].fitness:
            found[i] = Source(new, value)
        else:
            found[i].trials += 1

    found = [met() for _ in range(sources)]
    best = max(found, key=lambda s: s.fitness)
    for _ in range(cycles):
        for i in range(sources):
            visit(i)
        for i in list(onlookers([s.fitness for s in found], draw)):
            visit(i)
        best = max([best, *found], key=lambda s: s.fitness)
        worn = max(range(sources), key=lambda i: found[i].trials)
        if found[worn].trials >= limit:
            found[worn] = met()
    return max([best, *found], key=lambda s: s.fitness).food


def onlookers(fitness: Sequence[float], draw: np.random.Generator) -> Iterator[int]:
    """Which source each of as many onlookers chooses, going round."""
    values = np.array(fitness)
    spread = float(values.max() - values.min())
    chance = 0.1 + 0.9 * ((values - values.min()) / spread if spread else np.ones(len(values)))
    sent = i = 0
    while sent < len(values):
        if draw.random() < chance[i]:
            sent += 1
            yield i
        i = (i + 1) % len(values)


@dataclass(frozen=True)
class ABC:
    """Artificial bee colony.

    sources, limit, cycles, changes: food sources, trials before one is given up, cycles, entries that a bee changes.
    base: what ranks the channels of one group, a method that needs weights alone. cache: a JSON file of what was
    measured; give each model and each way of measuring its own. epochs, lr: what the command line trains a structure
    for before it measures it; in Python that is up to `evaluate`, which gets a network of its own each time.
    """

    sources: int = 10
    limit: int = 5
    cycles: int = 50
    changes: int = 2
    base: str = "l1"
    cache: str = ""
    epochs: int = 2
    lr: float = 0.01
    scope: str | None = None
    needs: ClassVar[frozenset[str]] = frozenset({"evaluate"})

    def __post_init__(self) -> None:
        for name, least in (("sources", 2), ("limit", 1), ("cycles", 0), ("changes", 1), ("epochs", 0)):
            if getattr(self, name) < least:
                raise InputError(f"abc: {name}={getattr(self, name)} must be at least {least}")
        if not self.lr > 0:
            raise InputError(f"abc: lr={self.lr} must be above 0")

    def search(
        self,
        model: nn.Module,
        coupling: Coupling,
        goal: Target,
        *,
        evaluate: Callable[[nn.Module], float],
        seed: int = 0,
    ) -> tuple[Ints, ...]:
        """The kept channels of each group. Raises InputError where `evaluate` gives no finite number, and for a cache
        of another model."""
        ranks = scores_of(base_of(self.base, "abc"), model, coupling, seed)
        space, draw = Space.of(coupling, goal), np.random.default_rng(seed)
        known = Measured.of(self.cache, model, ranks)

        def fitness(food: npt.NDArray[np.int64]) -> float:
            widths = space.widths(food).tolist()

            def value() -> float:
                small = apply(model, plan_for(coupling, to_widths(coupling, ranks, widths)))
                with same_draws(model):
                    torch.manual_seed(seed)
                    random.seed(seed)
                    np.random.seed(seed % 2**32)
                    return worth(evaluate, small)

            return known.get(widths, value)

        food = colony(
            fitness,
            lambda some: space.repaired(some, draw, goal.fill),
            len(space.taken),
            draw,
            sources=self.sources,
            limit=self.limit,
            cycles=self.cycles,
            changes=self.changes,
        )
        return to_widths(coupling, ranks, space.widths(food).tolist())
