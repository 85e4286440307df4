"""The verb that times."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from prunus.cli import options as opt
from prunus.cli.verb import Reply, Verb
from prunus.errors import InputError

if TYPE_CHECKING:
    from prunus.latency import Bench, Row

__all__ = ["BENCH"]


def bench_options(parser: argparse.ArgumentParser) -> None:
    """Options of `bench`."""
    opt.add_model(parser)
    opt.add_input(parser)
    group = parser.add_argument_group("what is timed")
    group.add_argument("--target", metavar="T", help="prune MODEL to this first, and time it against the dense one")
    group.add_argument(
        "--runtime",
        type=opt.names,
        default=("eager",),
        metavar="A,B",
        help="eager, channels_last, compiled, onnxruntime, openvino (default eager)",
    )
    group.add_argument("--batch", type=opt.sizes, default=(1,), metavar="A,B", help="batch sizes (default 1)")
    group.add_argument("--threads", type=opt.positive, metavar="N", help="of the CPU (default: as torch chooses)")
    group.add_argument("--seconds", type=opt.number, default=3.0, metavar="S", help="for each row (default 3)")
    group.add_argument("--layers", type=opt.whole, default=0, metavar="N", help="show the N slowest layers")
    group.add_argument("--device", default="cpu", help="cpu, or cuda where there is one (default cpu)")


def bench(options: argparse.Namespace) -> Reply:
    """Latency of a model, or of the dense and the pruned one in turns."""
    from prunus.cli.source import source
    from prunus.lab import folder
    from prunus.lab.job import Cut, make
    from prunus.latency import bench as measured

    options.data = None
    given, _ = source(options)
    dense, pruned = given.model, None
    if given.plan is not None:
        if options.target is not None:
            raise InputError("--from brings a network that is cut already; leave out --target")
        dense, pruned = folder.build(given.description), given.model
    elif options.target is not None:
        pruned = make(dense, given.example, Cut(target=options.target, check=False)).model
    found = measured(
        dense,
        given.example,
        pruned,
        runtimes=options.runtime,
        batches=options.batch,
        threads=options.threads,
        device=options.device,
        seconds=options.seconds,
    )
    answer = {"model": given.description.model, **asdict(found)}
    for shown, row in zip(answer["rows"], found.rows, strict=True):
        shown["images_per_second"] = row.images_per_second
    return Reply(answer, lambda: _show(given.description.model, found, options.layers))


def _show(model: str, found: Bench, layers: int) -> None:
    from prunus.cli.show import say, table
    from prunus.latency.measure import ratio_text, versions_text

    def cells(row: Row) -> tuple[str, ...]:
        one, two = (None if s is None else f"{1e3 * s.median:.3g}" for s in (row.dense, row.pruned))
        rates = "/".join(f"{rate:,.0f}" for rate in row.images_per_second if rate is not None)
        peaks = "/".join(f"{peak / 2**20:.1f}" for peak in row.peak if peak is not None)
        ratio = "" if row.ratio is None else ratio_text(row.ratio)
        return (f"{row.runtime}, batch {row.batch}", one or "", two or "", ratio, ratio_text(row.noise), rates, peaks)

    head = (model, "ms", "pruned, ms", "ratio", "dense/itself", "images/s", "peak MiB")
    table(head, map(cells, found.rows))
    if layers:
        slow: Any = found.layers[:layers]
        times = (
            (f"{x.name} ({x.kind})", f"{1e3 * x.dense:.3g}", f"{1e3 * x.pruned:.3g}", f"{x.ratio:.2f}") for x in slow
        )
        table(("layer, eager", "dense, ms", "pruned, ms", "ratio"), times)
    for line in (*found.verdict, *(line for row in found.rows for line in row.busy)):
        say(line)
    say(f"{found.hardware}, {found.threads} threads, {found.device}; {versions_text(found.versions)}")
    say("times are medians, brackets 95 % intervals of the median ratio of quiet turns; peak: beside the weights")


BENCH = Verb(
    "bench",
    "Time a model, dense and pruned in turns.",
    "prunus bench torchvision/resnet18 --input 3,224,224 --target macs=50% --batch 1,8 --layers 5",
    bench_options,
    bench,
)
