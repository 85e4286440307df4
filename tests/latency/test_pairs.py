"""Timing in turns, on a clock of our own: what the medians and intervals are, and that drift favours none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from prunus.errors import InputError
from prunus.latency import Sample, interleaved, ratio_of, spread_of
from prunus.latency.pairs import LEAST, across, quiet, quiet_among


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


def turns(count: int, more: float = 0.0) -> Sample:
    """Of 5 and 3 ms with a little noise, and so much more for every call."""
    draw = np.random.default_rng(count)
    return Sample((np.array([5e-3, 3e-3]) + more) * np.exp(0.01 * draw.standard_normal((count, 2))))


def test_what_adds_the_same_to_every_call_is_not_in_a_ratio() -> None:
    """Two thirds of the turns take 2 ms more: the median ratio of all is 5/7."""
    both = Sample(np.concatenate([turns(40).seconds, turns(80, 2e-3).seconds]))
    assert both.ratio(1, 0).median == pytest.approx(5 / 7, rel=0.02)
    calm = quiet(both)
    assert len(calm.seconds) == 40 and calm.ratio(1, 0).median == pytest.approx(0.6, rel=0.01)
    assert len(quiet(turns(40)).seconds) == 40
    wild = Sample(np.exp(2 * np.random.default_rng(0).standard_normal((100, 2))))
    assert len(quiet(wild).seconds) >= 25


def test_processes_that_found_the_machine_busy_do_not_count() -> None:
    samples = [turns(40), turns(41), turns(42, 2e-3), turns(43)]
    kept = quiet_among(samples)
    assert [len(sample.seconds) for sample in kept] == [40, 41, 43]
    late = Sample(np.concatenate([turns(50, 2e-3).seconds, turns(LEAST).seconds]))
    assert len(quiet_among([*samples, late])[-1].seconds) == LEAST
    assert [len(sample.seconds) for sample in quiet_among(samples[1:3])] == [41]
    slow = Sample(np.concatenate([turns(6).seconds, turns(5, 2e-3).seconds]))  # a network of seconds makes few turns
    assert [len(sample.seconds) for sample in quiet_among([slow, slow])] == [6, 6]


def test_where_one_more_process_is_expected() -> None:
    """Of 20,000 samples of five and one more, the interval holds 95 %."""
    draws = np.random.default_rng(0).normal(0.6, 0.01, (20_000, 6))
    off = 2.7764 * draws[:, :5].std(axis=1, ddof=1) * 1.2**0.5
    mean = draws[:, :5].mean(axis=1)
    assert np.mean(np.abs(draws[:, 5] - mean) <= off) == pytest.approx(0.95, abs=0.005)
    found = across(draws[0, :5])
    assert (found.low, found.high) == pytest.approx((mean[0] - off[0], mean[0] + off[0]), rel=1e-4)
    assert found.median == np.median(draws[0, :5])
    assert across(np.array([0.4, 0.4, 1.6])).low == 0.0
    with pytest.raises(InputError, match="1 values"):
        across(draws[0, :1])
