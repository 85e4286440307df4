"""Pruning and int8 together: a CIFAR-10 ResNet with published weights, dense and cut, each in float and in int8.

    python benchmarks/int8.py --weights resnet20-12fca82f.th --data cifar10/
    python benchmarks/int8.py --report

The network is cut to a target and repaired from images of the train part, without training unless --epochs says so.
Both networks are exported to ONNX and quantized by ONNX Runtime with ranges from images of the train part; the test
part is measured with each of the four files. Then the four files are timed in turns in one process. A finished seed is
a line of the results file, and is not done again. With --formats onnx,pt2 the same accuracies are taken of torchao's
files, which are not timed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from options import LATENCY_PAGE, add_network, add_results, carried_out, names, parser_of, targets, typed, whole
from pages import made_on, publish, section, seeds_of, spread
from pretrained import Start, sgd, start_of
from records import Record, append, as_json, hardware, known, versions, wanted
from torch import Tensor, nn

import prunus
from prunus.engine.data import Data, batches
from prunus.engine.loop import fit
from prunus.engine.split import Split
from prunus.errors import InputError
from prunus.exporting import Int8
from prunus.latency import interleaved, quiet
from prunus.latency.runners import ort_session

ROWS = ("dense", "pruned", "dense, int8", "pruned, int8")
PACKAGES = {"onnx": ("onnx", "onnxruntime"), "pt2": ("torchao",)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, then print the table. Exit code 2 for wrong input."""
    return carried_out(parser().parse_args(argv), run, report)


def parser() -> argparse.ArgumentParser:
    made = parser_of(__doc__)
    add = made.add_argument
    add_network(made, "resnet20")
    both = ("macs=50%", "macs=50%,round=8")
    add("--targets", type=targets, default=both, help="'macs=50%%;macs=50%%,round=8'")
    add("--method", default="magnitude")
    add("--repair", type=names, default=("reconstruct", "statistics"))
    add("--repair-images", type=int, default=1024, help="of the train part (default 1024)")
    add("--calibrate", type=int, default=256, help="images of the train part for the ranges (default 256)")
    add("--epochs", type=int, default=0, help="of fine-tuning after the repair (default 0)")
    add("--formats", type=names, default=("onnx",), help="onnx,pt2 (default onnx)")
    add("--seeds", type=whole, default=(0,), help="which images: 0,1,2")
    add("--limit", type=int, default=0, help="measure on so many test images only; 0: all")
    add("--seconds", type=float, default=5.0, help="of timing (default 5)")
    add("--threads", type=int, default=1, help="of torch and of the timing; 0: as torch chooses")
    add_results(made, __file__, LATENCY_PAGE)
    return made


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What a result depends on beside the seed, as JSON gives it back."""
    kept = "model method repair repair_images calibrate epochs limit threads mean std formats"
    return as_json({name: getattr(options, name) for name in kept.split()} | {"data": Path(options.data).name})


def run(options: argparse.Namespace) -> None:
    """Every seed that the results file lacks."""
    wrong = [name for name in options.formats if name not in PACKAGES]
    if wrong or "onnx" not in options.formats:
        raise InputError(f"--formats {','.join(options.formats)}: give onnx, or onnx,pt2")
    start = start_of(options, 0)
    if options.limit:
        assert isinstance(start.data.test, Split)
        test = start.data.test.subset(torch.arange(options.limit))
        start = replace(start, data=replace(start.data, test=test))
    for seed in options.seeds:
        for target in options.targets:
            key = {"target": target, "seed": seed, "weights": start.digest, "settings": settings_of(options)}
            if known(options.results, key):
                continue
            record = {**key, **one(options, start, target, seed)}
            append(options.results, record)
            found = ", ".join(f"{row} {value:.2f}" for row, value in record["top1"]["onnx"].items())
            print(f"seed {seed}, {target}: {found}; {record['seconds']:.0f} s", flush=True)


def one(options: argparse.Namespace, start: Start, target: str, seed: int) -> dict[str, Any]:
    """Cut, repair, export four times, measure and time."""
    began, data, dense = time.perf_counter(), start.data, start.build()
    example = data.example()[:1]
    small = prunus.prune(
        dense,
        example,
        target,
        options.method,
        data=some(data, options.repair_images, seed),
        repair=options.repair,
        seed=seed,
    )
    if options.epochs:
        fit(small.model, data, sgd(options.epochs, 0.02), progress=False)
        small.model.eval()
    networks: dict[str, nn.Module] = {"dense": dense, "pruned": small.model}
    found: dict[str, Any] = {"top1": {}, "agreement": {}, "bytes": {}}
    with tempfile.TemporaryDirectory() as place:
        for format in options.formats:
            top1, agreement, sizes = {}, {}, {}
            for name, net in networks.items():
                path = Path(place) / f"{name}-int8.{format}"
                test = batches(data.test, batch_size=250, mean=data.mean, std=data.std)  # type: ignore[arg-type]
                goal = Int8(some(data, options.calibrate, seed), options.calibrate, test, measure=None, floor=0.0)
                done = prunus.export(net, example, path, int8=goal)
                assert done.int8 is not None and done.int8.top1 is not None
                top1[name], top1[f"{name}, int8"] = done.int8.top1
                sizes[name], sizes[f"{name}, int8"] = done.int8.float_bytes, done.bytes
                agreement[name] = done.int8.agreement
            found["top1"][format], found["bytes"][format] = top1, sizes
            found["agreement"][format] = agreement
        for name, net in networks.items():
            prunus.export(net, example, Path(place) / f"{name}.onnx")
        files = [Path(place) / f"{row.replace(', ', '-')}.onnx" for row in ROWS]
        found |= timed(files, example, options)
    return {
        **found,
        "macs": small.after.macs,
        "dense_macs": small.before.macs,
        "proof": small.proof is not None and small.proof.holds,
        "images": len(data.test),  # type: ignore[arg-type]
        "seconds": round(time.perf_counter() - began, 1),
        "versions": versions(*(name for format in options.formats for name in PACKAGES[format])),
        "hardware": with_vnni(hardware(torch.device("cpu"))),
    }


def some(data: Data, count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of so many images of the train part, drawn by the seed."""
    assert isinstance(data.train, Split)
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:count]
    return list(batches(data.train.subset(chosen), batch_size=64, mean=data.mean, std=data.std))


def timed(files: Sequence[Path], example: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of one image, and ratios to the dense float network with their intervals, by row."""
    calls = []
    for file in [*files, files[0]]:  # the dense one twice: its ratio to itself is the noise
        session = ort_session(str(file), torch.get_num_threads(), in_turns=True)
        given = {session.get_inputs()[0].name: example.numpy()}
        calls.append(lambda session=session, given=given: session.run(None, given))
    sample = quiet(interleaved(calls, seconds=options.seconds))
    names = (*ROWS, "noise")
    ratios = {name: sample.ratio(k, 0) for k, name in enumerate(names) if k}
    return {
        "ms": {name: 1e3 * sample.of(k).median for k, name in enumerate(ROWS)},
        "ratio": {name: [one.median, one.low, one.high] for name, one in ratios.items()},
    }


def with_vnni(machine: str) -> str:
    """Whether the processor has instructions for int8 is said behind its name."""
    info = Path("/proc/cpuinfo")
    if not info.exists() or "vnni" not in info.read_text("utf-8"):
        return machine
    name, *rest = machine.rsplit(", ", 2)
    return ", ".join((name, "VNNI", *rest))


def report(options: argparse.Namespace) -> None:
    """Print the table of the records that were made with these options; with --report write it to the page too."""
    settings = settings_of(options)
    records = wanted(
        options.results,
        lambda r: r["settings"] == settings and r["seed"] in options.seeds and r["target"] in options.targets,
    )
    more = typed(options, parser(), ("weights", "data", "mean", "std", "results", "report", "page"))
    made = table(records, options.targets)
    publish(options, "int8", section(__file__, options, conditions(records), made, more))


def conditions(records: Sequence[Record]) -> str:
    """What the figures depend on, read from the records."""
    how, one = records[0]["settings"], records[0]
    noise = [r["ratio"]["noise"] for r in records]
    trained = f"then {how['epochs']} epochs" if how["epochs"] else "no training"
    return "\n".join(
        (
            f"- {how['model']}, cut by `{how['method']}`; {', '.join(how['repair'])} from {how['repair_images']} "
            f"images of the train part, {trained}",
            f"- Ranges from {how['calibrate']} images of the train part; {one['images']} test images measured",
            f"- Latency: ONNX Runtime, batch 1, files in turns; dense against itself "
            f"{', '.join(interval(found) for found in noise)}",
            f"- Seeds: {seeds_of(records)}. Cuts proven: {sum(r['proof'] for r in records)} of {len(records)}",
            made_on(records),
        )
    )


def table(records: Sequence[Record], targets: Sequence[str]) -> str:
    """A line for each target, format and network; the dense ones come again, since each target is timed by itself."""
    lines = [
        "| target, MACs left | file | network | top-1 | agreement with its float network | bytes | of the dense float "
        "file | ms | latency against the dense float file |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for target in targets:
        mine = [r for r in records if r["target"] == target]
        if not mine:
            lines.append(f"| {target} |" + " |" * 8)
            continue
        head = f"{target}, {mean(100 * r['macs'] / r['dense_macs'] for r in mine):.2f} %"
        lines += [
            f"| {head} | {' | '.join(cells(mine, format, row))} |"
            for format in mine[0]["settings"]["formats"]
            for row in ROWS
        ]
    return "\n".join(lines)


def cells(records: Sequence[Record], format: str, row: str) -> list[str]:
    """One file of one target."""
    base = mean(r["bytes"][format]["dense"] for r in records)
    size = mean(r["bytes"][format][row] for r in records)
    is_timed, name = format == "onnx", row.removesuffix(", int8")
    agreement = [100 * r["agreement"][format][name] for r in records] if name != row else []
    ratios: list[Mapping[str, Any]] = [r["ratio"] for r in records if is_timed and row in r["ratio"]]
    return [
        f".{format}",
        row,
        f"{spread([r['top1'][format][row] for r in records])} %",
        f"{spread(agreement)} %" if agreement else "",
        f"{size:,.0f}",
        f"{100 * size / base:.1f} %",
        f"{mean(r['ms'][row] for r in records):.3f}" if is_timed else "",
        ", ".join(interval(found[row]) for found in ratios),
    ]


def interval(found: Sequence[float]) -> str:
    return f"{found[0]:.3f} [{found[1]:.3f}, {found[2]:.3f}]"


if __name__ == "__main__":
    sys.exit(main())
