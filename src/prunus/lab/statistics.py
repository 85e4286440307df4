"""Figures over seeds: mean, spread, Student's interval, and the paired test.

Student's t from the regularised incomplete beta function: P(|T| > t) = I_x(ν/2, 1/2) with x = ν / (ν + t²); its
continued fraction after Lentz (DLMF 8.17.22).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev

from prunus.errors import InputError

__all__ = ["LEVEL", "Pairing", "Spread", "beyond", "paired", "quantile"]

LEVEL = 0.95
"""Of every interval; a paired test calls a difference one below 1 - LEVEL."""


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
    """Differences b - a over the seeds that both have. p: of the two-sided paired t-test; None for one pair."""

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
    if found.sd == 0:  # always the same difference: no noise to hold it against
        return Pairing(seeds, found, 1.0 if found.mean == 0 else 0.0)
    t = found.mean / (found.sd / math.sqrt(found.n))
    return Pairing(seeds, found, beyond(t, found.n - 1))


def beyond(t: float, freedom: int) -> float:
    """P(|T| > |t|) for Student's T with so many degrees of freedom."""
    if freedom < 1:
        raise InputError(f"{freedom} degrees of freedom must be at least 1")
    return _beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def quantile(freedom: int, level: float = LEVEL) -> float:
    """The t with P(|T| <= t) = level, by bisection."""
    if not 0 < level < 1:
        raise InputError(f"level={level} must lie between 0 and 1")
    low, high = 0.0, 1.0
    while beyond(high, freedom) > 1 - level:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if beyond(middle, freedom) > 1 - level else (low, middle)
    return high


def _beta(x: float, a: float, b: float) -> float:
    """I_x(a, b)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):  # where the fraction converges fast; elsewhere by symmetry
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of I_x(a, b), to float64."""
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 + term * d, 1 + term / c
            d = 1 / (d if abs(d) > tiny else tiny)
            c = c if abs(c) > tiny else tiny
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value
