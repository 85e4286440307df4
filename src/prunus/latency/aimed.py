"""A budget of measured latency: predict, select, cut, measure, correct.

A model of tables (`model`) predicts seconds for every width; selection (`prunus.select`) follows the order of the
scores until the prediction is within a limit. The cut is then measured against the dense network, in turns. Where it
takes longer than asked, or much less, the limit is corrected and all is repeated: it goes to where the line through
what was measured of the nearest cuts on both sides of the aim, over what was predicted of them, meets the aim. The
dense network is the first on the side above; where none is below, the line is that of the two nearest above, and where
that never meets the aim the next cut is the smallest there is.

The aim is a point below what is asked, since a median is above its aim as often as below. A cut counts as met where its
measured median is at or under what was asked, and as done where it is at most three points under, of the dense latency.
Of several that are met the slowest is kept. ROUNDS cuts are measured at most, less where a round gives a cut that was
measured before. A cut that is to be kept is measured again in fresh processes (`fresh`), where the runtime has files to
give them, and what they say replaces what this process said of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..cutting import Kept
from ..errors import InputError, TargetError
from ..graph.coupling import Coupling
from ..plan import plan_for
from ..select import Floats, least_possible, to_budget
from ..state import as_found
from ..surgery import apply
from ..target import Seconds, Target
from ..timing import Latency, Spread, Timing
from .machine import Source, machine, timed
from .measure import milliseconds
from .model import calibrated
from .pairs import DRAWS, QUIET, Sample, across
from .runners import FILES
from .settings import batch_of, calls_of
from .tables import wanted

ROUNDS = 6
AIM, BAND = 0.01, 0.03
"""Of the dense latency: how far below what is asked a round aims, and how far below it a cut is done."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One cut that was measured, here or in fresh processes. value: what is compared with what is asked, a ratio or
    seconds, with its interval."""

    kept: Kept
    limit: float
    predicted: float
    samples: tuple[Sample, ...]
    value: Spread
    final: bool = False

    @property
    def dense(self) -> float:
        """Median seconds of the dense network."""
        return float(np.median([np.median(sample.seconds[:, 0]) for sample in self.samples]))


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked, in the unit of the target: a part of the dense latency, or seconds. whole: the dense latency."""

    most: float
    whole: float
    absolute: bool

    def value(self, samples: Sequence[Sample]) -> Spread:
        """Of a pair of networks."""
        return seconds_of(samples) if self.absolute else ratio_of(samples)

    def met(self, trial: Trial) -> bool:
        return trial.value.median <= self.most

    def done(self, trial: Trial) -> bool:
        return self.met(trial) and trial.value.median >= self.most - BAND * self.whole

    def text(self, value: float) -> str:
        share = f"{100 * value / self.whole:.2f} %"
        return f"{1e3 * value:.3g} ms ({share})" if self.absolute else share


def to_latency(
    dense: nn.Module,
    example: Any,
    coupling: Coupling,
    scores: Sequence[Floats],
    goal: Target,
    drop: tuple[str, ...] = (),
    *,
    scope: str | None = None,
    source: Source | None = None,
) -> tuple[Kept, Latency, tuple[str, ...]]:
    """The channels that a budget with a latency keeps, what it came to, and what is to be said of it.

    source: what tells times, by default this machine with the runtime of `goal.on`. Raises TargetError with the
    smallest possible latency as it was measured, where that is above what was asked; UnknownName, InputError.
    """
    source = source or machine(goal.on, dense)
    with as_found(dense), torch.no_grad():
        dense.eval()
        calls = calls_of(dense, example, coupling)
        points = timed(source, wanted(calls.layers))
        notes: list[str] = []
        call = source.call(dense, example)
        turns = source.pair(call, call).seconds
        whole, fastest = float(np.median(turns)), float(turns.min())  # layers are timed by their fastest turns too
        folds = source.runtime in FILES
        calling = points.calling * (1 if folds else calls.count - len(calls.layers))  # tables of torch have their calls
        passing = points.entry * (calls.unfolded if folds else calls.entries)
        model = calibrated(calls, coupling, points.layer, fastest, calling, passing)
        timing = Timing(model.without(drop, coupling), fastest, fastest)

        def small(kept: Kept) -> nn.Module:
            return apply(dense, plan_for(coupling, kept, drop)).eval()

        def measured(kept: Kept) -> Sample:
            return source.pair(call, source.call(small(kept), example))

        def again(kept: Kept) -> list[Sample]:
            try:
                return source.pairs(dense, small(kept), example)
            except InputError as error:
                notes.append(f"latency: measured in this process alone: {error}")
                return []

        budget = goal.latency
        absolute = isinstance(budget, Seconds)
        most = budget.value if isinstance(budget, Seconds) else float(budget or 0)
        goal.limits({**dict.fromkeys(goal.budgets, 2**62), "latency": whole})  # a time above the dense one is refused
        asked = Asked(most, whole if absolute else 1.0, absolute)
        search = Search(coupling, scores, goal, drop, scope, timing, asked, measured, again)
        trials = search.trials()
        best = search.settled(trials)
    conditions = source.conditions()
    found = Latency(
        asked=str(Target(latency=budget)).partition("=")[2],
        predicted=best.predicted / fastest,
        measured=ratio_of(best.samples),
        dense=best.dense,
        pruned=seconds_of(best.samples),
        holds=asked.met(best),
        runtime=source.runtime,
        threads=source.threads,
        batch=batch_of(example),
        device=source.device,
        hardware=str(conditions.get("hardware", "")),
        versions=dict(conditions.get("versions", {})),
        rounds=len(trials),
        points=points.points,
        timed=points.fresh,
        processes=len(best.samples) if len(best.samples) > 1 else 0,
    )
    return best.kept, found, (*points.notes, *dict.fromkeys(notes), *remarks(best, asked, len(trials)))


@dataclass(frozen=True, eq=False)
class Search:
    """The rounds. measured: makes the cut of these channels and times it against the dense network; again: the same in
    fresh processes, or nothing."""

    coupling: Coupling
    scores: Sequence[Floats]
    goal: Target
    drop: tuple[str, ...]
    scope: str | None
    timing: Timing
    asked: Asked
    measured: Callable[[Kept], Sample]
    again: Callable[[Kept], list[Sample]]

    def trials(self) -> list[Trial]:
        """Cuts with what they were measured at, in order. Raises TargetError."""
        asked, dense = self.asked, self.timing.dense
        least = least_possible(self.coupling, self.scores, self.goal, self.drop, self.timing, self.scope)
        aim = asked.most if asked.most >= asked.whole else max(asked.most - AIM * asked.whole, 0.5 * asked.most)
        limit = aim * dense / asked.whole
        found: list[Trial] = []
        known: set[tuple[int, ...]] = set()
        while len(found) < ROUNDS:
            limit = max(limit, least)
            kept = to_budget(
                self.coupling,
                self.scores,
                self.goal,
                self.drop,
                scope=self.scope,
                timing=replace(self.timing, limit=limit),
            )
            widths = tuple(ids.size for ids in kept)
            if widths in known:
                break
            known.add(widths)
            samples = (self.measured(kept),)
            predicted = float(self.timing.seconds(np.array([widths], np.int64))[0])
            trial = Trial(kept, limit, predicted, samples, asked.value(samples))
            if asked.done(trial):
                trial = self.confirmed(trial)
            found.append(trial)
            if asked.done(trial) or (asked.most >= asked.whole and widths == self.coupling.widths):
                break
            if limit <= least and not asked.met(trial):
                if not any(map(asked.met, found)):
                    raise impossible(asked, trial)
                break
            limit = corrected([(t.predicted, t.value.median) for t in found], (dense, asked.whole), aim)
        return found

    def confirmed(self, trial: Trial) -> Trial:
        """The same cut with what fresh processes say of it, where there are any."""
        samples = tuple(self.again(trial.kept)) or trial.samples
        return replace(trial, samples=samples, value=self.asked.value(samples), final=True)

    def settled(self, trials: list[Trial]) -> Trial:
        """The one to keep: chosen by its last measurement."""
        while True:
            best = chosen(trials, self.asked)
            if best.final:
                return best
            trials[trials.index(best)] = self.confirmed(best)


def corrected(found: Sequence[tuple[float, float]], dense: tuple[float, float], aim: float) -> float:
    """The next limit, from pairs (predicted, measured) of the cuts and of the dense network."""
    above = sorted([pair for pair in found if pair[1] > aim] + [dense])
    below = [pair for pair in found if pair[1] <= aim and pair[0] < above[0][0]]
    if below:
        (p, v), (q, w) = max(below), above[0]
        return p + (aim - v) / (w - v) * (q - p)
    p, v = above[0]
    q, w = next((pair for pair in above if pair[0] > p and pair[1] > v), (0.0, 0.0))
    return max(0.0, p - (v - aim) * (q - p) / (w - v))


def chosen(trials: Sequence[Trial], asked: Asked) -> Trial:
    """The slowest of those that are met, else the fastest."""
    met = [trial for trial in trials if asked.met(trial)]
    if met:
        return max(met, key=lambda trial: trial.value.median)
    return min(trials, key=lambda trial: trial.value.median)


def remarks(trial: Trial, asked: Asked, rounds: int) -> tuple[str, ...]:
    """What to say of a cut that is not as asked."""
    value = trial.value
    got = f"latency: {asked.text(value.median)} measured, {asked.text(asked.most)} asked"
    if value.high > max(asked.most, value.median) + BAND * asked.whole:
        return (f"{got}, in an interval that reaches to {asked.text(value.high)}: the machine is busy, or uneven",)
    if asked.done(trial):
        return ()
    if asked.met(trial):
        return (f"{got}; no cut between was found in {rounds} rounds (widths, steps, other budgets)",)
    if value.low <= asked.most:
        return (f"{got}, which is within the interval of the measurement",)
    return (f"{got}, after {rounds} rounds; what was asked lies outside the interval of the measurement",)


def impossible(asked: Asked, trial: Trial) -> TargetError:
    """The refusal, with what the smallest network was measured at."""
    return TargetError(
        f"the target cannot be met: latency asks for at most {asked.text(asked.most)}, the smallest possible takes "
        f"{asked.text(trial.value.median)}, measured: {milliseconds(seconds_of(trial.samples))}"
    )


def ratio_of(samples: Sequence[Sample]) -> Spread:
    """Pruned over dense, of one process or of several.

    What adds δ to every call of both moves a ratio r by about (1 - r) · δ / dense. Turns count as quiet with a δ of up
    to QUIET - 1; half of that is what an interval over processes allows for at least.
    """
    ratios = [sample.ratio(1, 0) for sample in samples]
    if len(ratios) == 1:
        return ratios[0]
    medians = np.array([ratio.median for ratio in ratios])
    return across(medians, abs(1 - float(np.median(medians))) * (QUIET - 1) / 2)


def seconds_of(samples: Sequence[Sample]) -> Spread:
    """Of the pruned network, of one process or of several; see `ratio_of`."""
    if len(samples) == 1:
        return median_of(samples[0].seconds[:, 1])
    dense, pruned = np.array([np.median(sample.seconds, axis=0) for sample in samples]).T
    return across(pruned, float(np.median(dense)) * (QUIET - 1) / 2)


def median_of(values: Floats, *, seed: int = 0) -> Spread:
    """The median and its 95 % bootstrap interval."""
    draw = np.random.default_rng(seed)
    medians = np.median(values[draw.integers(0, values.size, (DRAWS, values.size))], axis=1)
    low, high = np.percentile(medians, (2.5, 97.5))
    return Spread(float(np.median(values)), float(low), float(high))
