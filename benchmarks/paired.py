"""Two tools on the same seeds: differences paired by seed, t-intervals, the table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from pages import all_versions, every, seeds_of, spread
from records import Record

from prunus.errors import InputError

TOOLS = ("torch-pruning", "prunus")
STAGES = (("cut", "after the cut"), ("finetuned", "after fine-tuning"))
ALLOWED = 0.3
"""Points of accuracy that Prunus may be behind at the far end of the interval."""

# Two-sided 95 % quantiles of Student's t for 1 … 20 degrees of freedom.
T95: tuple[float, ...] = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
T95 += (2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)


@dataclass(frozen=True)
class Interval:
    """Mean of paired differences, half the width of its 95 % interval (infinite for one pair), pairs."""

    mean: float
    half: float
    n: int

    @classmethod
    def of(cls, differences: Sequence[float]) -> Interval:
        n = len(differences)
        if not 1 <= n <= len(T95) + 1:
            raise InputError(f"an interval needs 1 to {len(T95) + 1} pairs, not {n}")
        half = T95[n - 2] * stdev(differences) / math.sqrt(n) if n > 1 else math.inf
        return cls(mean(differences), half, n)

    @property
    def deficit(self) -> float:
        """How far behind the interval reaches; negative where all of it is ahead."""
        return self.half - self.mean

    def __str__(self) -> str:
        if math.isinf(self.half):
            return "one pair"
        return f"{self.mean - self.half:+.2f} … {self.mean + self.half:+.2f}"


@dataclass(frozen=True)
class Pairs:
    """The records of one row, both tools, of the seeds that both have."""

    row: str
    theirs: Mapping[int, Record]
    ours: Mapping[int, Record]

    @property
    def seeds(self) -> list[int]:
        return sorted(set(self.theirs) & set(self.ours))

    def values(self, tool: str, stage: str) -> list[float]:
        records = self.theirs if tool == TOOLS[0] else self.ours
        return [records[seed]["accuracy"][stage] for seed in self.seeds]

    def interval(self, stage: str) -> Interval:
        theirs, ours = (self.values(tool, stage) for tool in TOOLS)
        return Interval.of([b - a for a, b in zip(theirs, ours, strict=True)])

    def left(self, tool: str) -> float:
        """Mean MACs that remain, in percent."""
        records = self.theirs if tool == TOOLS[0] else self.ours
        return mean(100.0 * int(records[seed]["macs"]) / int(records[seed]["dense_macs"]) for seed in self.seeds)


def pairs(records: Sequence[Record], row: str) -> Pairs:
    """Of several records of one seed the last counts."""
    found: dict[str, dict[int, Record]] = {tool: {} for tool in TOOLS}
    for record in records:
        if record["row"] == row:
            found[record["tool"]][record["seed"]] = record
    return Pairs(row, found[TOOLS[0]], found[TOOLS[1]])


def table(records: Sequence[Record], rows: Sequence[str], seeds: Sequence[int]) -> str:
    """Accuracy in percent, differences in points, Prunus minus Torch-Pruning."""
    lines = [
        "| row | MACs left: Torch-Pruning, Prunus | stage | Torch-Pruning | Prunus | difference | 95 % interval "
        f"| deficit at its far end | under {ALLOWED} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        both = pairs([r for r in records if r["seed"] in set(seeds)], row)
        n = len(both.seeds)
        name = row if n == len(seeds) else f"{row} (incomplete: {n} of {len(seeds)} seeds)"
        if not n:
            lines.append(f"| {name} |" + " |" * 8)
            continue
        for stage, words in STAGES:
            found = both.interval(stage)
            last = stage == STAGES[-1][0]
            cells = [
                name,
                f"{both.left(TOOLS[0]):.2f} %, {both.left(TOOLS[1]):.2f} %",
                words,
                *(spread(both.values(tool, stage)) for tool in TOOLS),
                f"{found.mean:+.2f}",
                str(found),
                f"{found.deficit:.2f}" if found.n > 1 else "unknown",
                ("yes" if found.deficit < ALLOWED else "no") if last and n == len(seeds) and found.n > 1 else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def conditions(records: Sequence[Record]) -> str:
    """What the figures depend on, read from the records."""
    off = [r["differs"] for r in records if r["tool"] == TOOLS[0]]
    proven = [r["proof"] for r in records if r["tool"] == TOOLS[1]]
    return "\n".join(
        (
            f"- Hardware: {every(records, 'hardware')}",
            f"- Versions: {all_versions(records)}",
            f"- Seeds: {seeds_of(records)}",
            f"- Dense network: {every(records, 'dense_accuracy')} %, {every(records, 'dense_macs')} MACs",
            f"- Prunus's cuts: {sum(proven)} of {len(proven)} proven. Torch-Pruning's networks against Prunus's cut "
            f"to the same channels: largest relative difference {max(off, default=0.0):.1e} (float32)",
        )
    )
