"""How long a pair of networks is timed: until the ratio is known, and for longer where the machine is busy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from prunus.latency import Sample
from prunus.latency.aimed import Asked, Trial, remarks
from prunus.latency.machine import Machine
from prunus.latency.pairs import LEAST, Call, Spread


class Clock:
    """Time goes on in calls alone."""

    def __init__(self, noise: float) -> None:
        self.now, self.noise, self.calls = 0.0, noise, 0
        self.draw = np.random.default_rng(0)

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float) -> Call:
        def call() -> None:
            self.calls += 1
            self.now += seconds * float(np.exp(self.noise * self.draw.standard_normal()))

        return call


@pytest.mark.parametrize(("noise", "least", "most"), [(0.0, 0.0, 0.5), (0.015, 0.3, 1.4), (0.9, 3.9, 4.6)])
def test_a_busy_machine_is_given_time(noise: float, least: float, most: float) -> None:
    """In times of `seconds`: quiet, a little noise, and half of the turns twice as long."""
    clock = Clock(noise)
    machine = Machine("eager", 1, seconds=10.0, turns=10_000, clock=clock)
    found = machine.pair(clock.taking(0.1), clock.taking(0.06))
    assert least < clock.now / 10.0 <= most
    assert 0.58 < found.ratio(1, 0).median < 0.62 or noise > 0.5


def test_turns_are_limited_likewise() -> None:
    clock = Clock(0.9)
    found = Machine("eager", 1, seconds=1e6, turns=30, clock=clock).pair(clock.taking(100.0), clock.taking(60.0))
    assert clock.calls >= 4 * 120  # two networks, each once untimed in its turn
    assert 30 <= len(found.seconds) < 100  # the quiet ones


def test_a_few_quiet_turns_do_not_end_it() -> None:
    """Of the first eleven turns two or three are quiet, and their ratios are all alike."""
    clock, calls = Clock(0.0), [0]

    def taking(seconds: float) -> Call:
        def call() -> None:
            calls[0] += 1
            clock.now += seconds + (0.001 * calls[0] if 24 < calls[0] < 60 else 0.0)

        return call

    found = Machine("eager", 1, seconds=20.0, turns=10_000, clock=clock).pair(taking(0.1), taking(0.06))
    assert len(found.seconds) >= LEAST and found.ratio(1, 0).median == pytest.approx(0.6)


def test_a_wide_interval_is_told_of() -> None:
    """Of a cut that is met by its median."""
    rows = np.array([[1.0, 0.59]] * 11)
    asked = Asked(0.6, 1.0, False)
    trial = Trial([], 0.0, 0.0, (Sample(rows),), asked.value([Sample(rows)]))
    assert remarks(trial, asked, 1) == ()
    (told,) = remarks(replace(trial, value=replace(trial.value, high=0.7)), asked, 1)
    assert "reaches to 70.00 %" in told and "busy" in told
    (told,) = remarks(replace(trial, value=Spread(0.4, 0.0, 2.3)), asked, 1)
    assert "40.00 % measured" in told and "reaches to 230.00 %" in told and "busy" in told
