"""Timing in turns, on a clock of our own: what the medians and intervals are, and that drift favours none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from prunus.errors import InputError
from prunus.latency import interleaved, ratio_of, spread_of


class Clock:
    """Moves only when something runs; everything gets slower by `drift` a second."""

    def __init__(self, drift: float = 0.0) -> None:
        self.now, self.drift, self.order = 0.0, drift, list[str]()

    def __call__(self) -> float:
        return self.now

    def works(self, name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.order.append(name)
            self.now += seconds * (1 + self.drift * self.now)

        return call


def test_turns_are_reversed_and_ratios_are_those_of_neighbours() -> None:
    clock = Clock()
    sample = interleaved([clock.works("a", 0.02), clock.works("b", 0.01)], seconds=1, warm=0, clock=clock)
    # warmed up, then in each turn once untimed and as often as a block takes
    assert clock.order[:2] == ["a", "b"]
    assert "".join(clock.order[2:20]) == "aaa" + "bbbb" + "bbbb" + "aaa" + "aaa" + "b"
    assert sample.of(0).median == pytest.approx(0.02) and sample.of(1).median == pytest.approx(0.01)
    ratio = sample.ratio(1, 0)
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((0.5, 0.5, 0.5))


def test_drift_moves_the_times_and_not_the_ratio() -> None:
    clock = Clock(drift=0.2)
    sample = interleaved([clock.works("a", 0.02), clock.works("b", 0.01)], seconds=5, warm=0, clock=clock)
    spread = sample.of(0)
    assert spread.high > 1.2 * spread.low
    assert sample.ratio(1, 0).median == pytest.approx(0.5, rel=0.02)


def test_short_calls_are_repeated_within_a_turn() -> None:
    clock = Clock()
    sample = interleaved([clock.works("a", 1e-4)], seconds=0.01, warm=0, least=3, block=2e-3, clock=clock)
    assert len(clock.order) == 1 + 21 * len(sample.seconds)
    assert sample.of(0).median == pytest.approx(1e-4)


def test_a_call_that_finds_the_caches_of_another_network_is_not_timed() -> None:
    clock, last = Clock(), [""]

    def works(name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            clock.now += seconds * (1 if last[0] == name else 3)
            last[0] = name

        return call

    sample = interleaved([works("a", 0.02), works("b", 0.01)], seconds=1, clock=clock)
    assert sample.of(0).median == pytest.approx(0.02) and sample.ratio(1, 0).median == pytest.approx(0.5)


def test_there_are_enough_turns_however_short_the_time() -> None:
    clock = Clock()
    assert len(interleaved([clock.works("a", 1.0)], seconds=0.1, warm=0, least=11, clock=clock).seconds) == 11


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw, hits = np.random.default_rng(0), 0
    for _ in range(100):
        under = draw.lognormal(0, 0.1, 25)
        found = ratio_of(0.6 * under * draw.lognormal(0, 0.05, 25), under)
        hits += found.low <= 0.6 <= found.high
    assert 85 <= hits <= 100


def test_quartiles() -> None:
    spread = spread_of(np.arange(1.0, 6.0))
    assert (spread.low, spread.median, spread.high) == (2, 3, 4)


@pytest.mark.parametrize("words", [{"calls": []}, {"seconds": 0.0}, {"least": 2}])
def test_nothing_to_time_is_refused(words: dict[str, object]) -> None:
    with pytest.raises(InputError, match="nothing to time"):
        interleaved(**{"calls": [lambda: None], **words})  # type: ignore[arg-type]
