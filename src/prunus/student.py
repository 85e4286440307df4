"""Student's t, from the regularised incomplete beta function: P(|T| > t) = I_x(ν/2, 1/2) with x = ν / (ν + t²); its
continued fraction after Lentz (DLMF 8.17.22)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from .errors import InputError

__all__ = ["LEVEL", "beyond", "one_more", "quantile"]

LEVEL = 0.95
"""Of every interval; a paired test calls a difference one below 1 - LEVEL."""


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


def one_more(values: Sequence[float]) -> tuple[float, float]:
    """Where one more value of the same kind lies with probability LEVEL: mean ± t · sd · sqrt(1 + 1/n), the prediction
    interval of a normal sample (Hahn & Meeker 1991, section 4.7). Raises InputError for fewer than two."""
    n = len(values)
    if n < 2:
        raise InputError(f"{n} values say nothing of one more")
    off = quantile(n - 1) * stdev(values) * math.sqrt(1 + 1 / n)
    return fmean(values) - off, fmean(values) + off
