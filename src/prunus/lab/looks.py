"""The sections of a report that only some runs fill: histograms, sensitivity, agreement of seeds, latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prunus.lab.agreement import agreement
from prunus.lab.columns import ended, spread
from prunus.lab.figures import number, sequence
from prunus.lab.histograms import HISTOGRAMS, KINDS
from prunus.lab.measured import latency, sensitivity
from prunus.lab.page import Section, Table
from prunus.lab.runs import Entry, Run
from prunus.lab.scatter import Point, Scatter
from prunus.lab.spread import Histogram, Histograms

__all__ = ["histograms_of", "latencies_of", "looks_of"]


def looks_of(entry: Entry) -> list[Section]:
    """Of one entry."""
    sections = []
    drawn = histograms_of(entry.first)
    if drawn.parts:
        seed = "" if entry.first.seed is None else f" Seed {entry.first.seed}."
        sections.append(Section(f"{entry.name}: before and after sparsity training", f"Counts of values.{seed}", drawn))
    plots = sensitivity(entry)
    if plots is not None:
        text = "One group is cut at a time; all others are whole, nothing is fine-tuned."
        sections.append(Section(f"{entry.name}: sensitivity", text, plots))
    alike = agreement(entry)
    if alike:
        rows = tuple(
            (one.group, str(one.width), f"{one.kept:.1f}", f"{one.index:.3f}", f"{one.chance:.3f}") for one in alike
        )
        mean = sum(one.index for one in alike) / len(alike)
        text = (
            "Jaccard index of the channels that two seeds keep, as a mean over the pairs of seeds; by chance: of "
            f"random choices of the same sizes. Mean over the groups: {mean:.3f}."
        )
        head = ("group", "width", "kept", "index", "by chance")
        sections.append(Section(f"{entry.name}: agreement of seeds", text, Table(head, rows)))
    return sections


def histograms_of(run: Run) -> Histograms:
    """What histograms-sparsity.jsonl of a run holds."""
    found: dict[str, dict[str, Mapping[str, object]]] = {}
    for line in run.lines(HISTOGRAMS.replace(".", "-sparsity.")):
        found.setdefault(str(line.get("kind")), {})[str(line.get("when"))] = line
    parts = []
    for kind, moments in found.items():
        lines = [moments.get(when, {}) for when in ("before", "after")]
        counts = [tuple(number(one) or 0.0 for one in sequence(line.get("counts"))) for line in lines]
        low, high = number(lines[1].get("low")), number(lines[1].get("high"))
        if low is not None and high is not None and high > low and counts[1]:
            parts.append(Histogram(KINDS.get(kind, kind), low, high, counts[0], counts[1]))
    return Histograms(tuple(parts))


def latencies_of(entries: Sequence[Entry], anchors: Mapping[str, str]) -> list[Section]:
    """Accuracy against measured latency; a plot for each way of measuring."""
    ways: dict[str, list[Point]] = {}
    for entry in entries:
        timed, name = latency(entry), ended(entry)
        found = None if name is None else spread(entry, name)
        if timed is None or found is None:
            continue
        way, dense, small = timed
        points = ways.setdefault(way, [])
        points.append(Point(entry.name, small, found.mean, found.low, found.high, anchors[entry.name]))
        whole = spread(entry, "before")
        if dense is not None and whole is not None and name != "before":
            label = f"{entry.name}, dense"
            points.append(Point(label, dense, whole.mean, whole.low, whole.high, anchors[entry.name], rival=False))
    return [
        Section(
            "Accuracy against latency",
            f"Measured with {way}: medians of one forward. Dashed: the Pareto front. Hollow: networks at full size.",
            Scatter(tuple(points), "milliseconds", "accuracy, %"),
        )
        for way, points in ways.items()
    ]
