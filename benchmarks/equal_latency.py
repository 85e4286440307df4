"""At equal latency: is a network that was cut for its latency better than one cut for its MACs?

    python benchmarks/equal_latency.py
    python benchmarks/equal_latency.py --networks resnet56 --seeds 0
    python benchmarks/equal_latency.py --report

A network is pruned to a share of its latency on ONNX Runtime. Then the share of the MACs is looked for, by halving an
interval, at which a cut by the same scores takes as long: the two cuts and the dense network take turns in one run. One
small image is over before its 57 convolutions are worth their calls, so ResNet-56 is timed on 16. Both cuts then get
the same, once a seed: ResNet-56 a short fine-tuning on CIFAR-10, EfficientNet-Lite0 a repair of its statistics from 256
unlabelled images and no training. Every step is a line of the results file; what the file has is not done again. The
cuts lie in --folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from efficientnet_lite import batches, images_of, network, percent, predictions
from efficientnet_lite import parser as lite_parser
from options import HERE, LATENCY_PAGE, add_network, add_results, add_threads, carried_out, names, parser_of, whole
from pages import made_on, publish, seeds_of, spread
from paired import Interval
from pretrained import Start, new_statistics, sgd, start_of
from records import Record, append, as_json, hardware, known, read, versions
from torch import Tensor, nn

import prunus
from prunus.engine.split import Split
from prunus.errors import InputError
from prunus.latency import RUNNERS, interleaved, quiet
from prunus.latency.measure import versions as runtime_versions
from prunus.plan import Plan
from prunus.surgery import verify

RESNET, LITE = "resnet56", "efficientnet_lite0"
KINDS = ("latency", "macs")
NEAR, TRIES = 0.01, 8
"""When two latencies are equal, and how many shares of the MACs are tried at most."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is missing, then print the tables. Exit code 2 for wrong input."""
    return carried_out(parser().parse_args(argv), run, report)


def parser() -> argparse.ArgumentParser:
    made = parser_of(__doc__)
    add = made.add_argument
    add("--networks", type=names, default=(RESNET, LITE))
    add_network(made, RESNET)
    add("--sample", default=lite_parser().get_default("data"), help="images for EfficientNet-Lite0")
    add("--runtime", default="onnxruntime", choices=sorted(RUNNERS))
    add("--runtime-threads", type=int, default=2)
    add("--seconds", type=float, default=10.0, help="of each measurement")
    add("--batch", type=int, default=16, help="images that ResNet-56 is timed on; EfficientNet-Lite0 is timed on one")
    add("--seeds", type=whole, default=(0, 1, 2), help="0,1,2")
    add("--epochs", type=int, default=2)
    add("--images", type=int, default=10_000, help="of the train part")
    add("--lr", type=float, default=0.02)
    add("--limit", type=int, default=0, help="use only so many images to measure accuracy (a smoke test)")
    add("--folder", type=Path, default=HERE.parent / "runs" / "equal_latency", help="where the plans lie")
    add_threads(made)
    add_results(made, __file__, LATENCY_PAGE)
    return made


def key_of(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What the cuts of a network are found by."""
    how = {"target": SUBJECTS[name].target, "method": SUBJECTS[name].method}
    how |= {"runtime": options.runtime, "batch": options.batch if name == RESNET else 1}
    return {"network": name, **how, "threads": options.runtime_threads}


def tuned_key(name: str, kind: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """What a measurement of a cut is found by."""
    how = {word: getattr(options, word) for word in ("limit", *SUBJECTS[name].options)}
    return as_json(key_of(name, options) | {"cut": kind, "seed": seed} | how)


def place(name: str, kind: str, options: argparse.Namespace) -> Path:
    told = "-".join(map(str, key_of(name, options).values())).replace("%", "").replace("=", "")
    return Path(options.folder) / f"{told}-{kind}.json"


def run(options: argparse.Namespace) -> None:
    """Everything that the results file lacks."""
    for name in options.networks:
        if name not in SUBJECTS:
            raise InputError(f"no network is called {name!r} (networks: {', '.join(SUBJECTS)})")
        subject = SUBJECTS[name](options)
        key = key_of(name, options) | {"step": "cuts"}
        if known(options.results, key) is None or not all(place(name, k, options).exists() for k in KINDS):
            found, plans = cuts(subject.dense(), subject.example(), name, options)
            for kind, plan in plans.items():
                place(name, kind, options).parent.mkdir(parents=True, exist_ok=True)
                plan.save(place(name, kind, options))
            append(options.results, {**key, **found})
        for seed in options.seeds:
            for kind in KINDS:
                key = tuned_key(name, kind, seed, options)
                if known(options.results, key) is None:
                    net = prunus.apply(subject.dense(), Plan.load(place(name, kind, options)))
                    record = {**key, **subject.measured(net, seed)}
                    append(options.results, record | {"versions": versions(), "hardware": machine()})
                    print(f"{name}, cut for {kind}, seed {seed}: {record['before']:.2f} -> {record['after']:.2f}")


def machine() -> str:
    return hardware(torch.device("cpu"))


def cuts(dense: nn.Module, x: Tensor, name: str, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Plan]]:
    """The cut for the latency, the cut for MACs that takes as long, and what was measured of both."""
    method = SUBJECTS[name].method
    first = prunus.prune(dense, x, f"{SUBJECTS[name].target},on={options.runtime}", method)
    runner = RUNNERS[options.runtime][0]
    calls = [runner(net.eval(), x, options.runtime_threads) for net in (dense, first.model)]
    low, high, share = 0.0, 100.0, 100.0 * first.after.macs / first.before.macs
    best: tuple[float, Any, Any] | None = None
    for _ in range(TRIES):
        second = prunus.prune(dense, x, f"macs={share:.3f}%", method, check=False)
        taken = [*calls, runner(second.model.eval(), x, options.runtime_threads), calls[0]]
        sample = quiet(interleaved(taken, seconds=options.seconds, warm=options.seconds / 20))
        ratio = sample.ratio(2, 1).median
        print(f"{name}, macs={share:.2f}%: {ratio:.3f} of the cut for the latency", flush=True)
        if best is None or abs(ratio - 1) < abs(best[0] - 1):
            best = ratio, second, sample
        if abs(ratio - 1) < NEAR:
            break
        low, high = (low, share) if ratio > 1 else (share, high)
        share = (low + high) / 2
    assert best is not None  # TRIES is above 0
    _, second, sample = best
    proof = verify(dense, second.model, second.plan, x)
    assert first.proof is not None and first.latency is not None  # both were asked for
    found = {
        "macs": {k: c.after.macs / c.before.macs for k, c in zip(KINDS, (first, second), strict=True)},
        "params": {k: c.after.params / c.before.params for k, c in zip(KINDS, (first, second), strict=True)},
        "ratio": {k: vars(sample.ratio(place, 0)) for k, place in zip(KINDS, (1, 2), strict=True)},
        "macs_over_latency": vars(sample.ratio(2, 1)),
        "noise": vars(sample.ratio(3, 0)),
        "dense": vars(sample.of(0)),
        "proofs": first.proof.holds and proof.holds,
        "versions": versions() | runtime_versions([options.runtime]),
        "hardware": machine(),
    }
    return found, {"latency": first.plan, "macs": second.plan}


class Resnet:
    """ResNet-56 with published weights on CIFAR-10, trained back for a short time."""

    target, method, figure, options = "latency=60%", "magnitude", "top-1", ("epochs", "images", "lr")

    def __init__(self, options: argparse.Namespace) -> None:
        start = start_of(argparse.Namespace(**vars(options), device="cpu", compile=False), 0)
        train, test = start.data.train, start.data.test
        assert isinstance(train, Split) and isinstance(test, Split)  # `start_of` refuses others
        test = test.subset(torch.arange(min(options.limit or len(test), len(test))))
        train = train.subset(torch.arange(min(options.images, len(train))))
        self.start: Start = replace(start, data=replace(start.data, train=train, test=test))
        self.training, self.batch = sgd(options.epochs, options.lr), options.batch

    def dense(self) -> nn.Module:
        return self.start.build()

    def example(self) -> Tensor:
        return self.start.example()[:1].repeat(self.batch, 1, 1, 1)

    def measured(self, net: nn.Module, seed: int) -> dict[str, Any]:
        """Top-1 after the cut and after the training, in percent."""
        before = self.start.top1(net)
        self.start.train(net, self.training, seed)
        return {"before": before, "after": self.start.top1(net)}


class Lite:
    """EfficientNet-Lite0 with ImageNet weights, its statistics taken anew from a few images."""

    target, method, figure, options = "latency=85%", "lamp", "agreement with the dense network", ()

    def __init__(self, options: argparse.Namespace) -> None:
        self.how = lite_parser().parse_args(["--data", str(options.sample), "--limit", str(options.limit)])
        self.how.calibrate = options.limit // 4 or self.how.calibrate
        self.images, self.labels = images_of(self.how)
        self.net, _ = network()
        self.whole: Tensor | None = None

    def dense(self) -> nn.Module:
        return self.net

    def example(self) -> Tensor:
        return batches(self.images[:1], self.how)[0]

    def measured(self, net: nn.Module, seed: int) -> dict[str, Any]:
        """Agreement with the dense network in percent after the cut and after the repair, on the images that did not
        repair; and top-1."""
        if self.whole is None:
            self.whole = predictions(self.net, self.images, self.how)
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))
        feed, rest = (
            batches(self.images[order[: self.how.calibrate]], self.how),
            order[self.how.calibrate :],
        )
        before = predictions(net, self.images[rest], self.how)
        after = predictions(new_statistics(net, feed), self.images[rest], self.how)
        agreed = {word: percent(found == self.whole[rest]) for word, found in (("before", before), ("after", after))}
        return agreed | {"top1": percent(after == self.labels[rest])}


SUBJECTS: dict[str, Any] = {RESNET: Resnet, LITE: Lite}


def report(options: argparse.Namespace) -> None:
    publish(options, "equal_latency", page(options))


def page(options: argparse.Namespace) -> str:
    """One line for each network and cut. Raises InputError where nothing was measured."""
    records = read(options.results)
    lines = [
        "| network | cut for | MACs | parameters | latency | measured | after the cut | after training or repair "
        "| cut for latency − cut for MACs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    used: list[Record] = []
    notes = []
    for name in options.networks:
        found = known(options.results, key_of(name, options) | {"step": "cuts"})
        if found is None:
            continue
        rows = {kind: of_seeds(records, name, kind, options) for kind in KINDS}
        used += [found, *rows["latency"], *rows["macs"]]
        what = SUBJECTS[name].figure
        for kind in KINDS:
            ratio, mine = found["ratio"][kind], rows[kind]
            cells = [name, f"`{found['target']}`" if kind == "latency" else "MACs", percents(found["macs"][kind])]
            cells += [
                percents(found["params"][kind]),
                f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]",
            ]
            cells += [what, *(spread([r[word] for r in mine]) if mine else "" for word in ("before", "after"))]
            pairs = [a["after"] - b["after"] for a, b in zip(*rows.values(), strict=False)]
            told = f"{Interval.of(pairs).mean:+.2f} ({Interval.of(pairs)})" if pairs and kind == "latency" else ""
            lines.append(f"| {' | '.join([*cells, told])} |")
        noise, gap = found["noise"], found["macs_over_latency"]
        notes.append(
            f"- {name}: channels by `{found['method']}`; batch {found['batch']}, {found['threads']} threads, dense "
            f"{1e3 * found['dense']['median']:.2f} ms; the cut for "
            f"MACs takes {gap['median']:.3f} [{gap['low']:.3f}, {gap['high']:.3f}] of the other's time; dense against "
            f"itself {noise['median']:.3f}; both cuts proven: {'yes' if found['proofs'] else 'no'}"
        )
    if not used:
        raise InputError(f"{options.results} has no records with these settings")
    seeds = seeds_of([r for r in used if "seed" in r])
    notes.append(
        f"- ResNet-56: {options.epochs} epochs of {options.images:,} images, SGD at {options.lr:g}. "
        f"EfficientNet-Lite0: statistics from 256 images, no training. "
        f"Seeds: {seeds}; intervals of 95 %, paired by seed"
    )
    return "\n".join(["Command: `python benchmarks/equal_latency.py`", "", *notes, made_on(used), "", *lines])


def of_seeds(records: Sequence[Record], name: str, kind: str, options: argparse.Namespace) -> list[Record]:
    """In the order of the seeds, the last of each."""
    keys = [tuned_key(name, kind, seed, options) for seed in options.seeds]
    found = [[r for r in records if all(r.get(k) == v for k, v in key.items())] for key in keys]
    return [some[-1] for some in found if some]


def percents(share: float) -> str:
    return f"{100 * share:.2f} %"


if __name__ == "__main__":
    sys.exit(main())
