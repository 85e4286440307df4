"""Exact integer costs of kept widths: linear forms, multiplied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..graph.coupling import Coupling, Form

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Costs:
    """Costs of all widths at once: Σ times × Π (fixed + A · widths), for MACs and for parameters."""

    fixed: Ints  # (forms,)
    entries: tuple[Ints, Ints, Ints]  # of A that are not 0: form, group, value
    terms: Mapping[str, tuple[Ints, Ints]]  # kind -> times (n,), forms (n, k); form 0 is the constant 1
    constant: Mapping[str, int]
    samples: Mapping[str, int]
    counts: Ints  # (groups,): 1 where the group's channels count, 0 where it went with a dropped branch

    def __call__(self, widths: Ints) -> dict[str, int]:
        """Absolute cost of each kind at these kept widths."""
        form, group, value = self.entries
        sizes = self.fixed.copy()
        np.add.at(sizes, form, value * widths[group])
        found = {
            kind: (self.constant[kind] + int((times * sizes[forms].prod(axis=1)).sum())) // self.samples[kind]
            for kind, (times, forms) in self.terms.items()
        }
        return found | {"channels": int(widths @ self.counts)}

    @property
    def matrix(self) -> Ints:
        """A, (forms, groups)."""
        dense = np.zeros((self.fixed.size, self.counts.size), np.int64)
        np.add.at(dense, self.entries[:2], self.entries[2])
        return dense

    @classmethod
    def of(cls, coupling: Coupling, dropped: Sequence[str] = ()) -> Costs:
        """The costs of a coupling, some of its residual branches dropped."""
        ops, tensors, groups = coupling.without(dropped)
        forms: dict[Form, int] = {Form(1): 0}

        def column(factors: Sequence[Form]) -> list[int]:
            return [forms.setdefault(form, len(forms)) for form in factors]

        macs = [(w.times, column(w.factors)) for w in coupling.work if w.op not in ops]
        params = [(1, column(fs)) for name, fs in coupling.tensors.items() if name not in tensors]
        found = [(row, g, times) for form, row in forms.items() for g, times in form.terms]
        rows, groups_, times = np.array(found, np.int64).reshape(-1, 3).T
        return cls(
            np.array([f.fixed for f in forms], np.int64),
            (rows, groups_, times),
            {"macs": table(macs), "params": table(params)},
            {"macs": coupling.fixed_macs, "params": 0},
            {"macs": coupling.samples, "params": 1},
            np.array([g not in groups for g in range(len(coupling.groups))], np.int64),
        )


def table(rows: Sequence[tuple[int, list[int]]]) -> tuple[Ints, Ints]:
    """Times and form indices, padded with the constant 1."""
    width = max((len(forms) for _, forms in rows), default=0)
    return (
        np.array([times for times, _ in rows], np.int64),
        np.array([forms + [0] * (width - len(forms)) for _, forms in rows], np.int64).reshape(len(rows), width),
    )
