"""Does it matter that the nuclear term decomposes once in many steps? ResNet-20, CIFAR-10, gates to half of the MACs.

    python benchmarks/nuclear_refresh.py --weights resnet20-12fca82f.th --data cifar10/
    python benchmarks/nuclear_refresh.py --report

The same weights are trained with gates three times for every seed: with the default refresh of the nuclear term, with a
decomposition at every step, and without the term. Then the gates are extracted, with proof, and nothing is trained
after that. The distance of two runs is the mean over the groups of how much of a group's dense width their widths
differ by. The default refresh is good enough where, at equal seeds, its runs are no further from those of every step
than runs of other seeds are from each other, and their accuracies differ by no more than the seeds' do. Every finished
run is a line of the results file; what the file has is not run again. Seeds are the outer loop.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

from options import METHODS_PAGE, NOT_TOLD, add_network, add_results, add_training, carried_out, parser_of, typed, whole
from pages import made_on, publish, section, seeds_of, spread
from pretrained import NAMED, Start, sgd, start_of, told
from records import Record, append, as_json, hardware, known, versions, wanted

from prunus.engine.config import Fit
from prunus.methods import Gates

DEFAULT, ALWAYS, NONE = "default", "every step", "none"
WORDS = {
    DEFAULT: f"decomposed once in {Gates().refresh} steps (default)",
    ALWAYS: "decomposed at every step",
    NONE: "no nuclear term",
}


def rows(alpha: float) -> dict[str, Gates]:
    """The three trainings, the nuclear term weighed by `alpha`."""
    gates = Gates(alpha_nuc=alpha)
    return {DEFAULT: gates, ALWAYS: replace(gates, refresh=1), NONE: replace(gates, alpha_nuc=0.0)}


Widths = Sequence[tuple[str, int, int]]
"""Name, dense width and width of each group."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, then print the table. Exit code 2 for wrong input."""
    return carried_out(parser().parse_args(argv), run, report)


def parser() -> argparse.ArgumentParser:
    made = parser_of(__doc__)
    add = made.add_argument
    add_network(made, "resnet20")
    add("--target", default="macs=50%")
    add("--seeds", type=whole, default=(0, 1, 2), help="0,1,2")
    add("--epochs", type=int, default=6)
    add("--alpha", type=float, default=Gates().alpha_nuc, help="α of the nuclear term; its default may decide nothing")
    add("--lr", type=float, default=0.05)
    add_training(made, compile=False)
    add_results(made, __file__, METHODS_PAGE)
    return made


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What a result depends on beside row, seed and weights, as JSON gives it back."""
    how = told(sgd(options.epochs, options.lr), NAMED, options.compile)
    return as_json({"model": options.model, "target": options.target, "limit": options.limit, "training": how})


def run(options: argparse.Namespace) -> None:
    """Every (seed, row) that the results file lacks."""
    start, settings = start_of(options, options.limit), settings_of(options)
    for seed in options.seeds:
        for row, method in rows(options.alpha).items():
            key = {"row": row, "seed": seed, "method": repr(method), "weights": start.digest, "settings": settings}
            if known(options.results, key):
                continue
            record = {**key, **one(start, sgd(options.epochs, options.lr), method, options.target, seed)}
            append(options.results, record)
            found = record["accuracy"]
            print(
                f"seed {seed}  {WORDS[row]}: {found['trained']:.2f} -> {found['cut']:.2f} at "
                f"{100 * record['macs'] / record['dense_macs']:.2f} % of the MACs, {record['seconds']:.0f} s",
                flush=True,
            )


def one(start: Start, training: Fit, method: Gates, target: str, seed: int) -> dict[str, Any]:
    """Train with the gates, extract what they left open, measure before and after."""
    began, net, runtime = time.perf_counter(), start.build(), start.runtime(seed)
    runtime.settled(net)
    example = start.example().to(runtime.torch_device)
    attached = method.attach(net, example, target, training.epochs, seed=seed)
    start.train(net, training, seed, [attached])
    net.eval()
    trained = start.top1(net)
    small = attached.finish()
    return {
        "widths": [list(row) for row in small.rows()],
        "macs": small.after.macs,
        "dense_macs": small.before.macs,
        "proof": small.proof is not None and small.proof.holds,
        "accuracy": {"trained": trained, "cut": start.top1(small.model)},
        "seconds": round(time.perf_counter() - began, 1),
        "versions": versions(),
        "hardware": hardware(runtime.torch_device),
    }


def report(options: argparse.Namespace) -> None:
    """Print the table of the records that were made with these options; with --report write it to the page too."""
    settings = settings_of(options)
    mine = {row: repr(method) for row, method in rows(options.alpha).items()}
    records = wanted(
        options.results,
        lambda r: r["settings"] == settings and r["seed"] in options.seeds and r["method"] == mine.get(r["row"]),
    )
    more = typed(options, parser(), NOT_TOLD)
    publish(options, "nuclear_refresh", section(__file__, options, conditions(records, options), table(records), more))


def conditions(records: Sequence[Record], options: argparse.Namespace) -> str:
    """What the figures depend on."""
    how = records[0]["settings"]["training"]
    some = f", the first {options.limit:,} images of each part" if options.limit else ""
    return "\n".join(
        (
            f"- {options.model} to {options.target}, α of the nuclear term {options.alpha:g}: {how['epochs']} epochs "
            f"of SGD at {how['lr']:g} with a cosine, batch {how['batch_size']}, weight decay {how['weight_decay']:g}, "
            f"{how['precision']}{some}",
            f"- Seeds: {seeds_of(records)}. Cuts proven: {sum(r['proof'] for r in records)} of {len(records)}",
            made_on(records),
        )
    )


def table(records: Sequence[Record]) -> str:
    """A line a row, the distances between runs, and whether the default is good enough."""
    by = {row: {r["seed"]: r for r in records if r["row"] == row} for row in WORDS}
    lines = ["| nuclear term | top-1 before the cut | after it | MACs left |", "|---|---|---|---|"]
    for row, mine in by.items():
        if mine:
            stages = [spread([r["accuracy"][stage] for r in mine.values()]) for stage in ("trained", "cut")]
            left = fmean(100 * r["macs"] / r["dense_macs"] for r in mine.values())
            lines.append(f"| {WORDS[row]} | {stages[0]} | {stages[1]} | {left:.2f} % |")
    return "\n".join([*lines, "", *verdict(by)])


def verdict(by: Mapping[str, Mapping[int, Record]]) -> Iterable[str]:
    """The distances, and whether the default stays within the spread of the seeds."""
    seeds = sorted(by[DEFAULT].keys() & by[ALWAYS].keys())
    if len(seeds) < 2:
        return ["- Nothing is said of the spread over seeds: it takes two that both rows have"]
    within = [
        apart(by[row][a]["widths"], by[row][b]["widths"])
        for row in (DEFAULT, ALWAYS)
        for a, b in itertools.combinations(seeds, 2)
    ]
    across = [apart(by[DEFAULT][s]["widths"], by[ALWAYS][s]["widths"]) for s in seeds]
    none = [apart(by[DEFAULT][s]["widths"], by[NONE][s]["widths"]) for s in seeds if s in by[NONE]]
    top1 = {row: [by[row][s]["accuracy"]["cut"] for s in seeds] for row in (DEFAULT, ALWAYS)}
    gap = fmean(a - b for a, b in zip(top1[DEFAULT], top1[ALWAYS], strict=True))
    noise = max(map(stdev, top1.values()))
    lines = [
        f"- Widths, in percent of the dense ones: default and every step differ by {fmean(across):.1f} at equal seeds, "
        f"seeds of one refresh by {fmean(within):.1f}"
        + (f", default and no term by {fmean(none):.1f} at equal seeds" if none else ""),
        f"- Top-1 after the cut: default less every step is {gap:+.2f} points; the deviation over seeds is {noise:.2f}",
    ]
    good = fmean(across) <= fmean(within) and abs(gap) <= noise
    return [*lines, f"- Within the spread of the seeds: {'yes' if good else 'no'}"]


def apart(a: Widths, b: Widths) -> float:
    """The mean over the groups of their difference, in percent of the dense width."""
    one, other = ({name: (dense, width) for name, dense, width in rows} for rows in (a, b))
    return 100 * fmean(abs(one[name][1] - other[name][1]) / one[name][0] for name in one)


if __name__ == "__main__":
    sys.exit(main())
