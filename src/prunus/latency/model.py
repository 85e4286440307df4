"""Predicted seconds of a cut: tables of layers, and a rest, calibrated on the dense network.

    t(widths) = s · (Σ_l table_l + Σ_w macs_w / v) + c + e · n · a(widths) / a(dense)

l: the layers that have a table. w: works without one (attention, matrix products, transposed convolutions), at v, the
MACs a second of the tables of the dense network. c: what calling costs, however small the network. e: seconds that one
op takes to pass over one entry, n: the entries that norms, activations, sums and pools make in the dense network (of a
runtime that folds norms and ReLUs into convolutions, without those), and a: those that the layers with a table make,
with which the n are taken to shrink. s makes the prediction for the dense network what was measured, its fastest turn:
layers of a network take longer than alone, since they find neither weights nor inputs in the cache, or less, where a
runtime reorders the input of a layer for that layer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..graph.coupling import Coupling, Form, Work
from .settings import Calls
from .tables import Lookup, Tables, tables_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Forms:
    """Linear forms of the widths of all groups."""

    fixed: Ints  # (forms,)
    matrix: Ints  # (groups, forms)

    def __call__(self, widths: Ints) -> Ints:
        """(cuts, groups) -> (cuts, forms)."""
        found: Ints = self.fixed + widths @ self.matrix
        return found

    @classmethod
    def of(cls, forms: Sequence[Form], groups: int) -> Forms:
        matrix = np.zeros((groups, len(forms)), np.int64)
        for column, form in enumerate(forms):
            for g, times in form.terms:
                matrix[g, column] += times
        return cls(np.array([form.fixed for form in forms], np.int64), matrix)


@dataclass(frozen=True, eq=False)
class Products:
    """Works without a table: times × Π of their factors."""

    times: Floats
    factors: tuple[Forms, ...]

    def __call__(self, widths: Ints) -> Floats:
        """Multiply-accumulates of each: (cuts, works)."""
        found = np.broadcast_to(self.times, (widths.shape[0], self.times.size))
        for forms in self.factors:
            found = found * forms(widths)
        return found

    @classmethod
    def of(cls, works: Sequence[Work], groups: int) -> Products:
        most = max((len(work.factors) for work in works), default=0)
        columns = [[*work.factors, *[Form(1)] * (most - len(work.factors))] for work in works]
        forms = tuple(Forms.of([column[k] for column in columns], groups) for k in range(most))
        return cls(np.array([work.times for work in works], np.float64), forms)


@dataclass(frozen=True, eq=False)
class Model:
    """Predicted seconds; see the equation above. ops: which op each layer and each other work is."""

    tables: Tables
    sides: tuple[Forms, Forms]
    others: Products
    speed: float  # v
    scale: float  # s
    calling: float  # c
    passing: float  # e · n
    positions: Floats  # (layers,)
    entries: float  # a(dense)
    ops: tuple[Ints, Ints]

    def __call__(self, widths: Ints, without: frozenset[int] = frozenset()) -> Floats:
        """Seconds at the kept widths of many cuts, (cuts, groups), some ops left out."""
        stay, also = (np.array([op not in without for op in ops.tolist()], np.float64) for ops in self.ops)
        inner, outer = (forms(widths) for forms in self.sides)
        layers = self.tables(inner, outer) @ stay
        others = self.others(widths) @ also / self.speed
        entries = outer @ (self.positions * stay)
        return np.asarray(self.scale * (layers + others) + self.calling + self.passing * entries / self.entries)

    def without(self, dropped: Sequence[str], coupling: Coupling) -> Callable[[Ints], Floats]:
        """The same with some residual branches dropped."""
        ops = coupling.without(dropped)[0]
        return lambda widths: self(widths, ops)


def calibrated(
    calls: Calls, coupling: Coupling, seconds: Lookup, dense: float, calling: float, passing: float
) -> Model:
    """A model whose prediction for the dense network is `dense` seconds. calling, passing: seconds of what it costs to
    call, and to pass over the entries of activations; together at most half of all where there are layers."""
    groups = len(coupling.groups)
    widths = np.array([coupling.widths], np.int64)
    tables = tables_of(calls.layers, seconds)
    sides = tuple(Forms.of([getattr(layer, side) for layer in calls.layers], groups) for side in ("inner", "outer"))
    others = Products.of(calls.others, groups)
    positions = np.array([layer.called.positions for layer in calls.layers], np.float64)
    ops = tuple(np.array([w.op for w in ws], np.int64) for ws in ([x.work for x in calls.layers], calls.others))
    layers = float(tables(*(side(widths) for side in sides)).sum())
    macs = float(Products.of([layer.work for layer in calls.layers], groups)(widths).sum())
    speed = macs / layers if layers else 1.0
    whole = layers + float(others(widths).sum()) / speed
    entries = float((sides[1](widths) @ positions)[0])
    if not whole or not entries:  # then nothing of the rest is known to shrink
        passing, entries = 0.0, entries or 1.0
    share = min(1.0, (0.5 if whole else 1.0) * dense / max(calling + passing, 1e-12))
    calling, passing = share * calling, share * passing
    scale = (dense - calling - passing) / whole if whole else 1.0
    calling = calling if whole else dense
    sizes = (speed, scale, calling, passing)
    return Model(tables, (sides[0], sides[1]), others, *sizes, positions, entries, (ops[0], ops[1]))
