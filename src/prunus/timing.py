"""Seconds as a budget: what selection is told of them, and what a cut to a latency reports.

Seconds are not monotone in a width: 63 channels may take longer than 64. So "the first cut within the budget" is found
by looking at every step of the order, and "nothing fits back" is said of runs of steps: no run of at most RUN removed
steps of one group (linked groups together), last taken first, can be restored within the budget. A run that ends at a
width that kernels like is thus restored even where its first channel alone would cost too much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

RUN = 16
"""Steps that may come back together. Vectors of floats are 4, 8 or 16 long."""
CHUNK = 256
"""Cuts that are looked at together; bounds the memory."""


@dataclass(frozen=True)
class Spread:
    """Of many turns: the median, and the quartiles around it or its 95 % interval, as the field that holds it says."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Timing:
    """A budget of seconds, as a model predicts them.

    seconds: of many cuts at once, (cuts, groups) kept widths -> (cuts,). limit: the most, in the model's seconds.
    dense: seconds of the dense network, of which a target's percentage is a part.
    """

    seconds: Callable[[Ints], Floats]
    limit: float
    dense: float

    def fits(self, widths: Ints) -> bool:
        """Whether one cut is within the limit."""
        return float(self.seconds(widths[None])[0]) <= self.limit


@dataclass(frozen=True)
class Latency:
    """What a cut to a latency came to.

    asked: the budget, "60%" or "4ms". predicted: pruned over dense, by the model of tables. measured: the same,
    measured in turns, median and 95 % interval. dense: median seconds of one call of the dense network in these turns,
    pruned: median and 95 % interval of the median. holds: whether the measured median is at or under what was asked.
    points: layer timings that the tables rest on, timed: those that no cache had. rounds: cuts that were measured.
    processes: fresh ones that the last measurement was made in. 0: in the process that pruned. Else medians are those
    of the processes' medians, and an interval is where one more process is expected with 95 % (`student.one_more`), and
    at least what may be added to every call while a machine counts as quiet (`latency.aimed.ratio_of`).
    """

    asked: str
    predicted: float
    measured: Spread
    dense: float
    pruned: Spread
    holds: bool
    runtime: str
    threads: int
    batch: int
    device: str
    hardware: str
    versions: Mapping[str, str] = field(hash=False)
    rounds: int = 1
    points: int = 0
    timed: int = 0
    processes: int = 0

    def __str__(self) -> str:
        m = self.measured
        return (
            f"latency: {self.asked} asked, {100 * self.predicted:.2f} % predicted, {100 * m.median:.2f} % measured "
            f"[{100 * m.low:.2f}, {100 * m.high:.2f}], {1e3 * self.dense:.3g} ms -> {1e3 * self.pruned.median:.3g} ms "
            f"({self.runtime}, {self.threads} thread{'' if self.threads == 1 else 's'}, batch {self.batch}, "
            f"{self.device}, {self.hardware}; {self.rounds} round{'' if self.rounds == 1 else 's'}"
            f"{f', {self.processes} processes' if self.processes else ''})"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "versions": dict(self.versions)}


def chunks(path: Callable[[int, int], Ints], start: int, stop: int) -> Iterator[tuple[int, Ints]]:
    """The widths after `start`, …, `stop` steps, some at a time. path(a, b): those after a, …, b − 1 steps."""
    for a in range(start, stop + 1, CHUNK):
        yield a, path(a, min(a + CHUNK, stop + 1))


def first_within(timing: Timing, path: Callable[[int, int], Ints], start: int, stop: int) -> int | None:
    """The fewest steps from `start` on after which the limit holds; None where it never does."""
    for a, widths in chunks(path, start, stop):
        fits = timing.seconds(widths) <= timing.limit
        if fits.any():
            return a + int(np.argmax(fits))
    return None


def least_seconds(timing: Timing, path: Callable[[int, int], Ints], start: int, stop: int) -> float:
    """The smallest prediction after `start`, …, `stop` steps."""
    return min(float(timing.seconds(widths).min()) for _, widths in chunks(path, start, stop))


def regained(
    widths: Ints, dense: Ints, units: Ints, groups: Ints, sizes: Ints, fits: Callable[[Ints], bool], timing: Timing
) -> Ints:
    """Give back runs of removed steps that fit, shortest first, the last taken first, until none does.

    units, groups, sizes: of every step that was taken, in order: its unit, and what it takes of which groups (rows are
    filled up with a group of none). dense: the widths before the first of them. fits: the other budgets, which are
    monotone: what they refuse they refuse with more.
    """
    mine = {int(u): np.flatnonzero(units == u) for u in np.unique(units)}
    ends = {u: np.cumsum(sizes[at, 0]) for u, at in mine.items()}
    left = {u: int(np.searchsorted(ends[u], (dense - widths)[groups[at[0], 0]], "right")) for u, at in mine.items()}
    refused: set[int] = set()
    while True:
        runs = [(u, mine[u][max(0, n - RUN) : n][::-1]) for u, n in left.items() if n and u not in refused]
        runs.sort(key=lambda run: -int(run[1][0]))
        if not runs:
            return widths
        seconds = timing.seconds(
            widths + np.concatenate([given_back(at, groups, sizes, widths.size) for _, at in runs])
        )
        start, changed = 0, False
        for u, at in runs:
            good = np.flatnonzero(seconds[start : start + at.size] <= timing.limit)
            start += at.size
            if not good.size:
                continue
            count = int(good[0]) + 1
            trial = widths + given_back(at[:count], groups, sizes, widths.size)[-1]
            if not fits(trial):
                refused.add(u)
            elif timing.fits(trial):
                widths, changed = trial, True
                left[u] -= count
        if not changed:
            return widths


def given_back(steps: Ints, groups: Ints, sizes: Ints, count: int) -> Ints:
    """What each group regains after one, two, … of these steps: (steps, groups)."""
    found = np.zeros((steps.size, count + 1), np.int64)
    np.add.at(found, (np.arange(steps.size)[:, None], groups[steps]), sizes[steps])
    return np.cumsum(found, axis=0)[:, :count]
