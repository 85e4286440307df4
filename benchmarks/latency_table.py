"""Half of the MACs, any width and multiples of 8: how much of the time is left on ONNX Runtime?

    python benchmarks/latency_table.py
    python benchmarks/latency_table.py --models torchvision/resnet50 --seconds 60
    python benchmarks/latency_table.py --report

Dense network, cut, and cut with round=8 take turns in one run, and the dense network once more, which shows the noise.
Each network is a line of the results file; what the file has is not run again. Weights are random.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from options import LATENCY_PAGE, add_results, carried_out, parser_of
from pages import all_versions, every, publish
from records import Record, append, known

import prunus
from prunus.errors import InputError
from prunus.latency import RUNNERS, Spread, interleaved, quiet
from prunus.latency.measure import hardware, ratio_text, versions
from prunus.models import resolve

MODELS = ("torchvision/resnet50", "torchvision/vgg16_bn", "torchvision/mobilenet_v2")


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, then print the table. Exit code 2 for wrong input."""
    return carried_out(parser().parse_args(argv), run, report)


def parser() -> argparse.ArgumentParser:
    return latency_parser(__doc__, __file__, MODELS, target="macs=50%", seconds=120.0)


def latency_parser(
    words: str | None, script: str, models: Sequence[str], *, target: str, seconds: float
) -> argparse.ArgumentParser:
    """What `latency_table.py` and `latency_target.py` take."""
    made = parser_of(words)
    add = made.add_argument
    add("--models", nargs="+", default=list(models), metavar="MODEL")
    add("--side", type=int, default=224, help="pixels")
    add("--target", default=target)
    add("--runtime", default="onnxruntime", choices=sorted(RUNNERS))
    add("--threads", type=int, default=2)
    add("--seconds", type=float, default=seconds, help="of each measurement")
    add_results(made, script, LATENCY_PAGE)
    return made


def key_of(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a record is found by."""
    how = ("side", "target", "runtime", "threads")
    return {"model": name, **{word: getattr(options, word) for word in how}}


def conditions(name: str, options: argparse.Namespace, told: Sequence[Record]) -> str:
    """The line above a table. told: what names hardware and versions."""
    return (
        f"`python benchmarks/{name}.py`, {options.runtime}, {options.threads} threads, batch 1, {options.side} pixels, "
        f"`{options.target}`; {every(told, 'hardware')}; {all_versions(told)}. Brackets are 95 % intervals of "
        "the median ratio of quiet turns."
    )


def run(options: argparse.Namespace) -> None:
    """Every network that the results file lacks."""
    for name in options.models:
        key = key_of(name, options)
        if known(options.results, key):
            continue
        append(options.results, {**key, "seconds": options.seconds, **one(name, options)})
        print(f"{name}: done", flush=True)


def one(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Cut twice, and time all three in turns."""
    torch.manual_seed(0)
    dense = resolve(name).eval()
    x = torch.randn(1, 3, options.side, options.side)
    cuts = [prunus.prune(dense, x, f"{options.target}{more}", check=False) for more in ("", ",round=8")]
    nets = [dense, *(cut.model.eval() for cut in cuts)]
    calls = [RUNNERS[options.runtime][0](net, x, options.threads) for net in nets]
    every_turn = interleaved([*calls, calls[0]], seconds=options.seconds, warm=options.seconds / 60)
    sample = quiet(every_turn)
    return {
        "dense": vars(sample.of(0)),
        "any": {"macs": cuts[0].after.macs / cuts[0].before.macs, "ratio": vars(sample.ratio(1, 0))},
        "round8": {"macs": cuts[1].after.macs / cuts[1].before.macs, "ratio": vars(sample.ratio(2, 0))},
        "round8_over_any": vars(sample.ratio(2, 1)),
        "noise": vars(sample.ratio(3, 0)),
        "turns": len(every_turn.seconds),
        "quiet": len(sample.seconds),
        "hardware": hardware(torch.device("cpu")),
        "versions": {"Prunus": prunus.__version__, **versions([options.runtime])},
    }


def report(options: argparse.Namespace) -> None:
    publish(options, "latency_table", table(options))


def table(options: argparse.Namespace) -> str:
    """One line a network; the last of several records of one counts. Raises InputError where there is none."""
    found = {name: known(options.results, key_of(name, options)) for name in options.models}
    some = {name: record for name, record in found.items() if record is not None}
    if not some:
        raise InputError(f"{options.results} has no records with these settings")
    lines = [
        conditions("latency_table", options, list(some.values())),
        "",
        "| network | dense, ms | MACs | latency | MACs, round=8 | latency, round=8 | round=8 over any width "
        "| dense against itself |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in options.models:
        if name not in some:
            lines.append(f"| {name} (not measured) |" + " |" * 7)
            continue
        row = some[name]
        cells = [name, f"{1e3 * row['dense']['median']:.1f}"]
        for kind in ("any", "round8"):
            cells += [f"{100 * row[kind]['macs']:.2f} %", text(row[kind]["ratio"])]
        lines.append(f"| {' | '.join([*cells, text(row['round8_over_any']), text(row['noise'])])} |")
    return "\n".join(lines)


def text(spread: Mapping[str, float]) -> str:
    return ratio_text(Spread(**spread))


if __name__ == "__main__":
    sys.exit(main())
