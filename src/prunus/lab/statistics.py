"""Figures over seeds: mean, spread, Student's interval, and the paired test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev

from prunus.errors import InputError
from prunus.student import LEVEL, beyond, quantile

__all__ = ["Pairing", "Spread", "paired"]


@dataclass(frozen=True)
class Spread:
    """A figure over n seeds. sd: the sample's. low, high: the LEVEL interval of the mean. None for one seed."""

    n: int
    best: float
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[float], *, least: bool = False) -> Spread:
        """least: the smallest value is the best. Raises InputError for no values, and for those that are not finite."""
        if not values or not all(map(math.isfinite, values)):
            raise InputError("a spread is of one or more finite numbers")
        n, mean, best = len(values), fmean(values), min(values) if least else max(values)
        if n == 1:
            return cls(n, best, mean)
        sd = stdev(values)
        half = quantile(n - 1) * sd / math.sqrt(n)
        return cls(n, best, mean, sd, mean - half, mean + half)

    def as_dict(self) -> dict[str, float | None]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Pairing:
    """Differences b - a over the seeds that both have. p: of the two-sided paired t-test, where all differences are the
    same of the sign test; None for one pair."""

    seeds: tuple[int, ...]
    difference: Spread
    p: float | None

    @property
    def told_apart(self) -> bool:
        """Whether the test finds a difference."""
        return self.p is not None and self.p < 1 - LEVEL


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Pairing | None:
    """Compare two sets of figures by seed; None where no seed is in both."""
    seeds = tuple(sorted(set(a) & set(b)))
    if not seeds:
        return None
    found = Spread.of([b[seed] - a[seed] for seed in seeds])
    if found.sd is None:
        return Pairing(seeds, found, None)
    least = 1e-9 * max(abs(one) for figures in (a, b) for one in figures.values())
    if found.sd <= least:  # always the same difference: no noise to hold it against
        return Pairing(seeds, found, 1.0 if abs(found.mean) <= least else 2 * 0.5**found.n)
    t = found.mean / (found.sd / math.sqrt(found.n))
    return Pairing(seeds, found, beyond(t, found.n - 1))
