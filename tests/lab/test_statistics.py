"""Student's t against tables and closed forms; spreads and paired tests worked by hand."""

from __future__ import annotations

import math

import pytest

from prunus.errors import InputError
from prunus.lab.statistics import Spread, paired
from prunus.student import beyond, quantile

TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 19: 2.093, 30: 2.042, 120: 1.980}
"""Two-sided 95 % quantiles, as every textbook prints them."""


@pytest.mark.parametrize(("freedom", "t"), TABLE.items())
def test_quantiles_are_those_of_the_tables(freedom: int, t: float) -> None:
    assert quantile(freedom) == pytest.approx(t, abs=5e-4)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 2.5, 40.0])
def test_tails_of_one_and_two_degrees_have_a_closed_form(t: float) -> None:
    assert beyond(t, 1) == pytest.approx(1 - 2 * math.atan(t) / math.pi, abs=1e-13)
    assert beyond(-t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-13)


def test_many_degrees_are_the_normal_law() -> None:
    assert beyond(1.959964, 10**6) == pytest.approx(0.05, abs=1e-5)
    assert quantile(10**6, 0.99) == pytest.approx(2.5758, abs=1e-4)


def test_a_spread_by_hand() -> None:
    """91, 93, 95: mean 93, sd 2, and 4.303 · 2 / √3 = 4.968 on both sides."""
    found = Spread.of([91.0, 95.0, 93.0])
    assert (found.n, found.best, found.mean, found.sd) == (3, 95.0, 93.0, 2.0)
    assert found.low == pytest.approx(93 - 4.968, abs=1e-3) and found.high == pytest.approx(93 + 4.968, abs=1e-3)
    assert Spread.of([2.0, 1.0], least=True).best == 1.0
    assert Spread.of([5.0]) == Spread(1, 5.0, 5.0, None, None, None)
    for wrong in ([], [1.0, math.nan], [math.inf]):
        with pytest.raises(InputError):
            Spread.of(wrong)


def test_a_paired_test_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, sd 1, t = 2√3 = 3.464 with 2 degrees: p = 1 - t / √(2 + t²) = 0.0742."""
    found = paired({0: 10.0, 1: 20.0, 2: 30.0, 7: 1.0}, {2: 33.0, 1: 22.0, 0: 11.0, 8: 5.0})
    assert found is not None and found.seeds == (0, 1, 2) and found.difference.mean == 2.0
    t = 2 * math.sqrt(3)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-12) and not found.told_apart
    assert found.difference.low is not None and found.difference.low < 0 < 2 < (found.difference.high or 0)


def test_the_interval_and_the_test_agree() -> None:
    """0 lies at the end of the interval just where p is 0.05."""
    values = {0: 1.0, 1: 1.4, 2: 0.3, 3: 0.9}
    edge = Spread.of(list(values.values())).low
    assert edge is not None
    found = paired(values, dict.fromkeys(values, edge))
    assert found is not None and found.p == pytest.approx(0.05, abs=1e-9)


def test_what_cannot_be_tested() -> None:
    assert paired({0: 1.0}, {1: 2.0}) is None
    one = paired({0: 1.0}, {0: 2.0})
    assert one is not None and one.p is None and not one.told_apart
    same = paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert same is not None and same.p == 1.0
    shifted = paired({0: 1.0, 1: 2.0}, {0: 1.5, 1: 2.5})
    assert shifted is not None and shifted.p == 0.5 and not shifted.told_apart
    steps = {seed: 100 * (340 + seed) / 359 for seed in range(7)}  # always one image more, but for what rounding makes
    more = paired(steps, {seed: 100 * (341 + seed) / 359 for seed in steps})
    assert more is not None and more.p == 2 / 2**7 and more.told_apart
