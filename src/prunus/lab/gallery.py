"""The page about many runs: a table, accuracy against cost, and a section for each run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prunus import __version__
from prunus.lab.columns import actual, asked, ended, spread, status
from prunus.lab.curves import Chart, Charts, Curve
from prunus.lab.figures import MEASURED, good, number, sequence, table
from prunus.lab.formats import cell, text_of
from prunus.lab.looks import latencies_of, looks_of
from prunus.lab.page import Bar, Facts, Page, Section, Table, Widths
from prunus.lab.reached import budget
from prunus.lab.runs import Entry, Run, differences
from prunus.lab.scatter import Point, Scatter

__all__ = ["charts_of", "page_of", "points_of"]

TRAININGS = ("baseline", "sparsity", "finetune")


def page_of(entries: Sequence[Entry], head: Sequence[str], rows: Sequence[Mapping[str, Any]], title: str) -> Page:
    """The page. head, rows: of the table; a row is of the entry that it names."""
    anchors = {entry.name: f"run-{number}" for number, entry in enumerate(entries, start=1)}
    cells = tuple(tuple(cell(name, row.get(name)) for name in head) for row in rows)
    prose = tuple(number for number, name in enumerate(head) if name in ("status", "selection", "asked", "actual"))
    links = tuple(anchors[row["run"]] for row in rows)
    runs = [run for entry in entries for run in entry.runs]
    done = sum(run.status == "done" for run in runs)
    published = any(str(run.results.get("selection", "")).startswith("published") for run in runs)
    lead = f"{len(entries)} {_many('recipe', entries)}, {len(runs)} {_many('run', runs)}, {done} of them done."
    lead += " Epochs of some were chosen on the test part: selection says which." if published else ""
    sections = [
        Section(
            "Results",
            "Accuracies in percent, means over the seeds; n, best, sd and the 95 % interval of the mean (low, high) "
            "are of the last network that was measured.",
            Table(tuple(head), cells, prose, links, wide=True),
        ),
        Section(
            "Accuracy against MACs",
            "Each point leads to its run. Bars: 95 % interval of the mean over the seeds. Dashed: the Pareto front, "
            "the runs that none with as few MACs beats. Hollow: networks at full size.",
            Scatter(points_of(entries, anchors), "MACs", "accuracy, %"),
        ),
    ]
    sections += latencies_of(entries, anchors)
    settings = differences([entry.first for entry in entries])
    for at, entry in enumerate(entries):
        sections += _of_entry(entry, anchors[entry.name], {name: row[at] for name, row in settings.items()})
    return Page(title, lead, tuple(sections), f"Written by prunus report, version {__version__}.")


def points_of(entries: Sequence[Entry], anchors: Mapping[str, str]) -> tuple[Point, ...]:
    """Each entry at the mean cost and accuracy of its last network, and each network at full size once."""
    points: list[Point] = []
    dense: dict[tuple[str, float, float], tuple[int, Point]] = {}
    for entry in entries:
        name, macs = ended(entry), spread(entry, "macs")
        if name is None or macs is None:
            continue
        link, before = anchors[entry.name], number(table(entry.first.results.get("before")).get("macs"))
        if name in ("cut", "finetuned"):
            found = spread(entry, name)
            assert found is not None
            points.append(Point(entry.name, macs.mean, found.mean, found.low, found.high, link))
        whole = spread(entry, "before")
        if whole is not None and before is not None:
            label = f"{text_of(entry.first.fields.get('model.name')) or entry.name}, dense"
            point = Point(label, before, whole.mean, whole.low, whole.high, link, rival=False)
            seeds = entry.by_seed("before")
            key = label, before, seeds[min(seeds)]  # entries that share a baseline, of which one may have more seeds
            if key not in dense or dense[key][0] < whole.n:
                dense[key] = whole.n, point
    return (*points, *(point for _, point in dense.values()))


def charts_of(entry: Entry) -> Charts:
    """Loss, validation and budget over the epochs of all trainings, a line for each seed."""
    runs = entry.done
    logs = {name: [run.lines(f"metrics-{name}.jsonl") for run in runs] for name in TRAININGS}
    stages: list[tuple[int, str]] = []
    before = 0
    for name, log in logs.items():
        if length := max(map(len, log), default=0):
            stages.append((before, name))
            before += length
    starts = {name: start for start, name in stages}
    charts = []
    for title, value in (("training loss", _loss), ("validation accuracy", _goodness)):
        curves = [
            Curve(_seed(run), _points([(start, logs[name][nth]) for name, start in starts.items()], value))
            for nth, run in enumerate(runs)
        ]
        if any(curve.points for curve in curves):
            charts.append(Chart(title, tuple(curves), tuple(stages)))
    for kind, level in budget(entry.first).items():
        start = starts.get("sparsity", 0)
        shares = []
        for run in runs:
            lines = [(number(x.get("epoch")), number(x.get(kind))) for x in run.lines("shares-sparsity.jsonl")]
            points = tuple((start + e, 100 * v) for e, v in lines if e is not None and v is not None)
            shares.append(Curve(_seed(run), points))
        if any(curve.points for curve in shares):
            text = f"budget {100 * level:g} %" if level is not None else ""
            drawn = None if level is None else 100 * level
            charts.append(Chart(f"{kind} left, %", tuple(shares), ((start, "sparsity"),), drawn, text))
    return Charts(tuple(charts))


def _of_entry(entry: Entry, anchor: str, settings: Mapping[str, Any]) -> list[Section]:
    """The facts of one entry, its widths, its curves. settings: those in which entries differ."""
    run = entry.first
    pairs = [("Status", status(entry)), ("Seeds", ", ".join(text_of(one.seed) for one in entry.runs))]
    pairs += [(f"{_seed(one)}, {one.status}", one.why) for one in entry.runs if one.why]
    end = ended(entry)
    found = None if end is None else spread(entry, end)
    if end is not None and found is not None:
        pairs.append((f"Accuracy, {MEASURED[end]}", _spread_text(found)))
    cost = spread(entry, "macs left")
    pairs += [("MACs left", f"{cost.mean:.2f} %")] if cost is not None else []
    pairs += [("Asked", asked(run) or ""), ("Actual", actual(entry) or "")]
    pairs += [
        (f"MACs left, {name.removeprefix('macs left ')}", f"{found_left.mean:.2f} %")
        for name in run.figures
        if name.startswith("macs left ") and (found_left := spread(entry, name)) is not None
    ]
    pairs.append(("Proven", _proven(entry)))
    pairs += [(name, text_of(value)) for name, value in settings.items() if name not in ("name", "seed")]
    for part in ("versions", "hardware"):
        pairs.append((part.capitalize(), text_of(table(run.environment.get(part)))))
    for place, state in table(run.environment.get("git")).items():
        pairs.append((f"Git, {place}", _git(table(state))))
    sections = [Section(entry.name, "", Facts(tuple((a, b) for a, b in pairs if b)), anchor)]
    bars = tuple(
        Bar(text_of(row.get("group")), int(dense), int(kept))
        for row in map(table, sequence(run.results.get("widths")))
        if (dense := number(row.get("dense"))) and (kept := number(row.get("kept"))) is not None
    )
    if bars:
        sections.append(Section(f"{entry.name}: widths", f"Of {_seed(run)}.", Widths(bars)))
    charts = charts_of(entry)
    if charts.charts:
        sections.append(Section(f"{entry.name}: training", "Over the epochs; a line for each seed.", charts))
    return [*sections, *looks_of(entry)]


def _points(
    logs: Sequence[tuple[int, Sequence[Mapping[str, Any]]]], value: Callable[[Mapping[str, Any]], float | None]
) -> tuple[tuple[float, float], ...]:
    """(epoch, value) of the lines that have one. logs: the epochs before, and the lines, of each stage."""
    pairs = [(float(start + nth), value(line)) for start, lines in logs for nth, line in enumerate(lines, start=1)]
    return tuple((x, y) for x, y in pairs if y is not None)


def _loss(line: Mapping[str, Any]) -> float | None:
    return number(line.get("loss"))


def _goodness(line: Mapping[str, Any]) -> float | None:
    return good(line.get("metrics"))


def _spread_text(found: Any) -> str:
    text = f"{found.mean:.2f} %"
    if found.sd is None:
        return f"{text}, one seed"
    return (
        f"{text}, sd {found.sd:.2f}, best {found.best:.2f}, 95 % interval {found.low:.2f} … {found.high:.2f}, "
        f"{found.n} seeds"
    )


def _proven(entry: Entry) -> str:
    said = [run.results["verified"] is True for run in entry.done if "verified" in run.results]
    return f"{sum(said)} of {len(said)} cuts" if said else ""


def _git(state: Mapping[str, Any]) -> str:
    commit = text_of(state.get("commit"))[:12]
    return commit + (" and changes" if commit and state.get("changed") else "")


def _seed(run: Run) -> str:
    return run.name if run.seed is None else f"seed {run.seed}"


def _many(word: str, things: Sequence[object]) -> str:
    return word if len(things) == 1 else f"{word}s"
