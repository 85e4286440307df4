"""Timing in turns. A machine's speed drifts, so networks that are compared take turns, and each ratio is of neighbours.

A turn runs every network, in an order that is reversed from turn to turn (AB BA AB …), so that a steady drift favours
none. A network is called once untimed in its turn, and then until BLOCK is over: the first call finds caches full of
another network, and says more about that than about its own. The interval of a ratio is a bootstrap over turns (Efron
1979) of the median of their ratios, with a fixed seed.

What else runs on a machine, or on the host of a virtual one, only ever adds, and often to every call alike for some
seconds: a ratio then says more about that. So ratios are of quiet turns, in which all networks together took at most
QUIET times what they take in the fastest tenth of the turns; of the fastest quarter where those are fewer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..errors import InputError
from ..student import one_more
from ..timing import Spread

__all__ = ["Sample", "Spread", "across", "interleaved", "quiet", "quiet_among", "ratio_of", "spread_of"]

Floats = npt.NDArray[np.float64]
Call = Callable[[], object]

DRAWS = 2000
"""Of the bootstrap."""
BLOCK = 0.03
"""Seconds that a network is timed for in a turn, at least."""
QUIET = 1.1
LEAST = 11
"""Turns that say something."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Seconds of one call of each network, (turns, networks)."""

    seconds: Floats

    def of(self, k: int) -> Spread:
        """Network k alone."""
        return spread_of(self.seconds[:, k])

    @property
    def whole_turns(self) -> Floats:
        """Seconds of a call of any network, for each turn: the geometric mean, so that no network counts for more."""
        logs: Floats = np.log(self.seconds).mean(axis=1)
        return np.exp(logs)

    def ratio(self, over: int, under: int) -> Spread:
        """Network `over` against network `under`: the median of the turns' ratios, with its 95 % interval."""
        return ratio_of(self.seconds[:, over], self.seconds[:, under])


def quiet(sample: Sample) -> Sample:
    """The turns in which nothing else was at work, as far as the others tell."""
    took = sample.whole_turns
    tenth, quarter = np.quantile(took, (0.1, 0.25))
    return Sample(sample.seconds[took <= max(QUIET * tenth, quarter)])


def quiet_among(samples: Sequence[Sample]) -> list[Sample]:
    """Of several processes that timed the same, those that had LEAST quiet turns by the measure of all, or where they
    made few half of theirs, with these."""
    limit = QUIET * np.quantile(np.concatenate([sample.whole_turns for sample in samples]), 0.1)
    calm = [(sample, sample.whole_turns <= limit) for sample in samples]
    return [Sample(sample.seconds[at]) for sample, at in calm if at.sum() >= min(LEAST, at.size / 2)]


def across(medians: Floats, least: float = 0.0) -> Spread:
    """Of processes that measured the same: the median of their medians, which are positive, and where one more is
    expected, no nearer than `least` to either side."""
    low, high = one_more(medians.tolist())
    middle = float(np.median(medians))
    return Spread(middle, max(0.0, min(low, middle - least)), max(high, middle + least))


def spread_of(values: Floats) -> Spread:
    """Median and quartiles."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return Spread(float(median), float(low), float(high))


def ratio_of(over: Floats, under: Floats, *, seed: int = 0) -> Spread:
    """The median of pairwise ratios and its 95 % bootstrap interval."""
    ratios = over / under
    draw = np.random.default_rng(seed)
    medians = np.median(ratios[draw.integers(0, ratios.size, (DRAWS, ratios.size))], axis=1)
    low, high = np.percentile(medians, (2.5, 97.5))
    return Spread(float(np.median(ratios)), float(low), float(high))


def interleaved(
    calls: Sequence[Call],
    *,
    seconds: float = 3.0,
    warm: float = 0.5,
    least: int = LEAST,
    block: float = BLOCK,
    sync: Call | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Sample:
    """Time the calls in turns for about so many seconds, and for `least` turns at least.

    Each is first called for `warm` seconds. A call that is shorter than `block` seconds is repeated within its turn
    until they last that long, and divided. sync: waits for the device. Raises InputError for settings that measure
    nothing.
    """
    if not calls or seconds <= 0 or least < 3:
        raise InputError(f"nothing to time: {len(calls)} networks, {seconds} seconds, {least} turns")
    wait = sync or (lambda: None)

    def timed(call: Call, times: int) -> float:
        wait()
        start = clock()
        for _ in range(times):
            call()
        wait()
        return (clock() - start) / times

    with torch.no_grad():
        repeats = []
        for call in calls:
            end, fastest = clock() + warm, np.inf
            while True:
                fastest = min(fastest, timed(call, 1))
                if clock() >= end:
                    break
            repeats.append(max(1, int(np.ceil(block / max(fastest, 1e-9) - 1e-6))))
        rows: list[list[float]] = []
        end = clock() + seconds
        while len(rows) < least or clock() < end:
            order = range(len(calls)) if len(rows) % 2 == 0 else reversed(range(len(calls)))
            row = [0.0] * len(calls)
            for k in order:
                calls[k]()
                row[k] = timed(calls[k], repeats[k])
            rows.append(row)
    return Sample(np.array(rows))
