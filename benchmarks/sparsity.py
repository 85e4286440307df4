"""Is the sparsity real? ResNet-20, CIFAR-10, published weights, a few epochs with each penalty and without one.

    python benchmarks/sparsity.py --weights resnet20-12fca82f.th --data cifar10/
    python benchmarks/sparsity.py --rows lasso --lam lasso=2.6e-3 --pin bn1,layer2.0.bn2,layer3.0.bn2 …
    python benchmarks/sparsity.py --report

Each row trains the same weights for the same epochs. Then every channel below a hundredth of the largest of its layer
is cut, with proof, and nothing is trained after that. What the cut channels still gave on average, such as the shift β
of a norm whose scale is zero, is folded into the layers that read them (`prunus.repair.Fold`); the table has both. A
channel's size is what the row's penalty shrinks: the sum of the scales of its norms for slimming, the norm of its whole
group of weights for all other rows. Every finished run is a line of the results file; what the file has is not run
again. Seeds are the outer loop.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
from options import METHODS_PAGE, add_network, add_results, add_training, carried_out, names, parser_of, whole
from pages import made_on, publish, section, seeds_of, spread
from pretrained import NAMED, Start, sgd, start_of, told
from records import Record, append, as_json, hardware, known, versions, wanted

from prunus.cutting import cut
from prunus.engine.config import Fit
from prunus.engine.data import batches
from prunus.engine.split import Split
from prunus.errors import InputError
from prunus.methods import SSL, Attached, Slimming
from prunus.methods.lasso_training import Training
from prunus.repair import Fold, mended

SMALL = 1e-2
"""A channel below this fraction of its layer's largest counts as gone."""

ROWS = ("none", "slimming", "lasso", "l2")
WORDS = {
    "none": "no penalty",
    "slimming": "slimming",
    "lasso": "group lasso",
    "l2": "squared form (`group_l2`)",
}
LAM = {"slimming": 2e-3, "lasso": 5e-3, "l2": 5e-3}
LEAST = {"channels": 30.0, "macs": 25.0}
"""Percent of the channels that must be gone, and of the MACs that cutting them must take."""
MOST = {"cut": 0.5, "penalty": 1.5}
"""Points that cutting may cost, and the penalty before it against the run without one."""


def method_of(row: str, lam: Mapping[str, float]) -> Slimming | SSL | None:
    """What a row trains with. The lasso counts bias and norm to a filter, so that all of a channel vanishes, and keeps
    the lengths that norms undo, since their shrinking would tell no channels apart."""
    if row == "none":
        return None
    if row == "slimming":
        return Slimming(lam=lam[row])
    if row == "l2":
        return SSL(lam=lam[row], affine=True, form="group_l2")
    return SSL(lam=lam[row], affine=True, solver="proximal", keep_length=True)


@dataclass(frozen=True, eq=False)
class Job:
    """What all rows share."""

    start: Start
    training: Fit
    limit: int
    lam: Mapping[str, float]
    pin: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """What a result depends on beside row and seed, as JSON gives it back."""
        how = told(self.training, NAMED, self.start.compile)
        made = {"model": self.start.model, "weights": self.start.digest, "limit": self.limit, "small": SMALL}
        return as_json(made | {"training": how})


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, then print the table. Exit code 2 for wrong input."""
    return carried_out(parser().parse_args(argv), run, report)


def parser() -> argparse.ArgumentParser:
    made = parser_of(__doc__)
    add = made.add_argument
    add_network(made, "resnet20")
    add("--rows", default=",".join(ROWS), help="of " + ", ".join(ROWS))
    add("--lam", type=strengths, default={}, help="slimming=2e-3,lasso=5e-3,l2=5e-3")
    add("--pin", type=names, default=(), help="modules whose groups bear no penalty and are not cut: bn1,layer2.0.bn2")
    add("--seeds", type=whole, default=(0,), help="0,1,2")
    add("--epochs", type=int, default=6)
    add("--lr", type=float, default=0.05)
    add_training(made, compile=True)
    add_results(made, __file__, METHODS_PAGE)
    return made


def strengths(text: str) -> dict[str, float]:
    return {name: float(value) for name, _, value in (part.partition("=") for part in text.split(","))}


def rows_of(text: str) -> list[str]:
    wrong = [name for name in text.split(",") if name not in ROWS]
    if wrong:
        raise InputError(f"unknown row {wrong[0]!r} (allowed: {', '.join(ROWS)})")
    return text.split(",")


def job_of(options: argparse.Namespace) -> Job:
    wrong = [name for name in options.lam if name not in LAM]
    if wrong:
        raise InputError(f"--lam: {wrong[0]!r} has no penalty (allowed: {', '.join(LAM)})")
    training = sgd(options.epochs, options.lr, weight_decay=1e-4)
    return Job(start_of(options, options.limit), training, options.limit, {**LAM, **options.lam}, options.pin)


def run(options: argparse.Namespace) -> None:
    """Every (seed, row) that the results file lacks."""
    rows, job = rows_of(options.rows), job_of(options)
    settings = job.settings()
    for seed in options.seeds:
        for row in rows:
            method, pin = method_of(row, job.lam), list(job.pin)
            key = {"row": row, "seed": seed, "method": repr(method), "pin": pin, "settings": settings}
            if known(options.results, key):
                continue
            record = {**key, **one(job, row, seed)}
            append(options.results, record)
            accuracy = record["accuracy"]
            print(
                f"seed {seed}  {WORDS[row]}: {accuracy['dense']:.2f} -> {accuracy['trained']:.2f}, "
                f"{record['gone']} of {record['channels']} channels gone, cut to "
                f"{100 * record['macs'] / record['dense_macs']:.2f} % of the MACs: {accuracy['cut']:.2f}, "
                f"folded {accuracy['folded']:.2f}, "
                f"{record['seconds']:.0f} s",
                flush=True,
            )


def one(job: Job, row: str, seed: int) -> dict[str, Any]:
    """Train with the penalty, cut what is gone, measure before and after."""
    began, start = time.perf_counter(), job.start
    net, method = start.build(), method_of(row, job.lam)
    dense = start.top1(net)
    runtime, data = start.runtime(seed), start.data
    example = start.example().to(runtime.torch_device)
    runtime.settled(net)
    # Without a penalty: what measures the lasso's groups, and is no hook.
    attached = (method or SSL(affine=True)).attach(net, example, epochs=job.training.epochs, pin=job.pin, seed=seed)
    start.train(net, job.training, seed, [attached] if method else [])
    net.eval()
    found = sizes(attached)
    kept = [np.flatnonzero(size > SMALL * size.max()) if size.max() > 0 else np.arange(1) for size in found]
    trained = start.top1(net)
    small = cut(net, example, attached.coupling, kept)
    plain = start.top1(small.model)
    assert isinstance(data.train, Split)
    feed = batches(data.train, batch_size=256, mean=data.mean, std=data.std, shuffle=True, seed=seed)
    folded = mended(net, small, [Fold()], feed, example, seed)
    return {
        "lam": job.lam.get(row, 0.0),
        "groups": [[g.name, g.width, len(k)] for g, k in zip(attached.coupling.groups, kept, strict=True)],
        "channels": sum(attached.coupling.widths),
        "gone": sum(attached.coupling.widths) - sum(map(len, kept)),
        "macs": small.after.macs,
        "dense_macs": small.before.macs,
        "proof": small.proof is not None and small.proof.holds,
        "accuracy": {"dense": dense, "trained": trained, "cut": plain, "folded": start.top1(folded.model)},
        "seconds": round(time.perf_counter() - began, 1),
        "versions": versions(),
        "hardware": hardware(runtime.torch_device),
    }


def sizes(attached: Attached) -> list[np.ndarray[Any, Any]]:
    """For each group of channels how large each is now."""
    if isinstance(attached, Training):
        (norms,) = attached.norms()
        return [part.cpu().numpy() for part in norms.split(list(attached.coupling.widths))]
    return [np.asarray(score) for score in Slimming().score(attached.model, attached.coupling)]


def report(options: argparse.Namespace) -> None:
    """Print the table of the records that were made with these options, of every strength that the file has or of those
    that --lam names; with --report write it to the page too."""
    rows = rows_of(options.rows)
    training = (options.epochs, options.lr)
    records = wanted(
        options.results,
        lambda r: (
            r["row"] in rows
            and r["seed"] in options.seeds
            and r["lam"] == options.lam.get(r["row"], r["lam"])
            and (r["settings"]["model"], r["settings"]["limit"]) == (options.model, options.limit)
            and (r["settings"]["training"]["epochs"], r["settings"]["training"]["lr"]) == training
        ),
    )
    if any(r["settings"] != records[0]["settings"] for r in records):
        raise InputError(f"{options.results} mixes weights or training settings; a table needs one of each")
    more = f" --epochs {options.epochs} --lr {options.lr:g} --lam …" + " --pin …" * any(r["pin"] for r in records)
    publish(options, "sparsity", section(__file__, options, conditions(records), table(records, rows), more))


def table(records: Sequence[Record], rows: Sequence[str]) -> str:
    """A line a row and strength. The last column holds all four conditions against `LEAST` and `MOST`."""
    lines = [
        "| penalty | λ | top-1 after training | difference to none | channels gone | MACs that their cut "
        "takes | top-1 after the cut | and with means folded | the cut costs | all conditions met |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    plain = {r["seed"]: r["accuracy"]["trained"] for r in records if r["row"] == "none"}
    for row in rows:
        own = [r for r in records if r["row"] == row]
        for lam, pin in sorted({(r["lam"], tuple(r["pin"])) for r in own}):
            lines.append(line(row, lam, [r for r in own if (r["lam"], tuple(r["pin"])) == (lam, pin)], plain))
        if not own:
            lines.append(f"| {WORDS[row]} |" + " |" * 9)
    return "\n".join(lines)


def line(row: str, lam: float, records: Sequence[Record], plain: Mapping[int, float]) -> str:
    """The runs of one strength. plain: by seed, top-1 of the run without penalty."""
    mine = {r["seed"]: r for r in records}
    trained = [r["accuracy"]["trained"] for r in mine.values()]
    after, folded = ([r["accuracy"][stage] for r in mine.values()] for stage in ("cut", "folded"))
    gone = mean(100 * r["gone"] / r["channels"] for r in mine.values())
    macs = mean(100 - 100 * r["macs"] / r["dense_macs"] for r in mine.values())
    behind = mean(plain[s] - mine[s]["accuracy"]["trained"] for s in mine) if set(mine) <= set(plain) else None
    costs = mean(trained) - mean(folded)
    met = behind is not None and behind <= MOST["penalty"] and costs < MOST["cut"]
    met = met and gone >= LEAST["channels"] and macs >= LEAST["macs"]
    cells = [
        WORDS[row] + (f" ({', '.join(f'`{p}`' for p in records[0]['pin'])} pinned)" if records[0]["pin"] else ""),
        f"{lam:g}",
        spread(trained),
        "" if row == "none" else "unknown" if behind is None else f"{-behind:+.2f}",
        f"{gone:.1f} %",
        f"{macs:.1f} %",
        spread(after),
        spread(folded),
        f"{costs:.2f}",
        "" if row == "none" else "yes" if met else "no",
    ]
    return f"| {' | '.join(cells)} |"


def conditions(records: Sequence[Record]) -> str:
    """What the figures depend on, read from the records."""
    how = records[0]["settings"]["training"]
    dense = sorted({f"{r['accuracy']['dense']:.2f} %" for r in records})
    return "\n".join(
        (
            f"- {how['epochs']} epochs of SGD at {how['lr']:g} with a cosine, batch {how['batch_size']}, momentum "
            f"{how['momentum']:g}, weight decay {how['weight_decay']:g}, {how['precision']}; the network before: "
            f"{', '.join(dense)}",
            "- Once with each λ of the table, and with --pin where it says so",
            f"- Conditions: at least {LEAST['channels']:g} % of the channels below {SMALL:g} of their layer's largest; "
            f"their cut takes at least {LEAST['macs']:g} % of the MACs and costs under {MOST['cut']:g} points before "
            f"any fine-tuning; at most {MOST['penalty']:g} points behind the run without penalty",
            f"- Seeds: {seeds_of(records)}. Cuts proven: {sum(r['proof'] for r in records)} of {len(records)}",
            made_on(records),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
