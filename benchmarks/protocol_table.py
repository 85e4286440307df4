"""The tables of `protocol.py`: means, deviations and intervals over seeds, and a verdict against random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from pages import made_on, seeds_of
from paired import Interval
from protocol_rows import CONTROL, Row
from records import Record

WORDS = {
    "control": "control",
    "scratch": "control",
    "score": "score",
    "search": "search",
    "trained": "sparsity training",
    "repair": "repair",
}
HEAD = (
    "method",
    "kind",
    "epochs before and after the cut",
    "MACs left",
    "parameters left",
    "before",
    "after the cut",
    "fine-tuned",
    "against random",
    "95 % interval",
    "verdict",
    "seconds: choosing, training",
)


def page_text(
    command: str,
    found: Mapping[float, Mapping[str, Sequence[Record]]],
    rows: Sequence[Row],
    seeds: Sequence[int],
) -> str:
    """What is written to the page: the command, the conditions, a table a target."""
    every = [r for by in found.values() for records in by.values() for r in records]
    parts = [f"Command: `{command}`", "", conditions(every)]
    for percent, by in found.items():
        if any(by.values()):
            parts += ["", f"**At most {percent:g} % of the MACs**", "", *table(by, rows, seeds)]
    return "\n".join(parts)


def table(found: Mapping[str, Sequence[Record]], rows: Sequence[Row], seeds: Sequence[int]) -> list[str]:
    """A line a row. Differences are points, paired by seed with the row `random`."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    control = {r["seed"]: r["accuracy"]["finetuned"] for r in found.get(CONTROL, ())}
    for row in rows:
        records = found.get(row.name, ())
        n = len(records)
        name = row.name if n == len(seeds) else f"{row.name} (incomplete: {n} of {len(seeds)} seeds)"
        if not n:
            lines.append(f"| {name} | {WORDS[row.kind]} |" + " |" * (len(HEAD) - 2))
            continue
        own = {r["seed"]: r["accuracy"]["finetuned"] for r in records}
        pairs = [own[seed] - control[seed] for seed in sorted(own) if seed in control]
        apart = Interval.of(pairs) if pairs and row.name != CONTROL else None
        before = [r["accuracy"]["before"] for r in records]
        cells = [
            name,
            WORDS[row.kind],
            "{}, {}".format(*records[0]["epochs"]),
            f"{mean(100 * r['macs'] / r['dense']['macs'] for r in records):.2f} %",
            f"{mean(100 * r['params'] / r['dense']['params'] for r in records):.2f} %",
            "" if row.kind == "scratch" else spread(before),
            spread([r["accuracy"]["cut"] for r in records]),
            spread(list(own.values())),
            "" if apart is None else f"{apart.mean:+.2f}",
            "" if apart is None else str(apart),
            verdict(apart),
            ", ".join(f"{mean(r['seconds'][part] for r in records):.0f}" for part in ("choosing", "training")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def spread(values: Sequence[float]) -> str:
    """Mean, standard deviation and the 95 % interval of the mean; one number where all are equal."""
    if len(set(values)) == 1:
        return f"{values[0]:.2f}"
    half = Interval.of(values).half
    return f"{mean(values):.2f} ± {stdev(values):.2f} ({mean(values) - half:.2f} … {mean(values) + half:.2f})"


def verdict(apart: Interval | None) -> str:
    """What the interval of the differences to random allows to say."""
    if apart is None or apart.n < 2:
        return ""
    if abs(apart.mean) <= apart.half:
        return "not distinguishable"
    return "better" if apart.mean > 0 else "worse"


def conditions(records: Sequence[Record]) -> str:
    """What the figures depend on, read from the records."""
    how, dense = records[0]["settings"]["training"], records[0]["dense"]
    return "\n".join(
        (
            f"- {records[0]['settings']['model']}, {dense['macs']:,.0f} MACs, {dense['params']:,.0f} parameters, "
            f"{dense['accuracy']:.2f} % on the test images, in float32 as all figures below",
            f"- SGD at {how['lr']:g} with a cosine, batch {how['batch_size']}, momentum {how['momentum']:g}, weight "
            f"decay {how['weight_decay']:g}, crop by {how['crop']} and mirror, {how['precision']}",
            f"- Mean ± standard deviation (95 % t-interval of the mean) over the seeds "
            f"{seeds_of(records)}; differences are paired by seed",
            f"- Cuts proven: {sum(r['proof'] for r in records)} of {len(records)}",
            made_on(records),
        )
    )
