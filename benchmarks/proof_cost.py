"""What a proven cut takes on every model of torchvision, beside one forward: seconds and memory.

    python benchmarks/proof_cost.py                            # all that the results file lacks
    python benchmarks/proof_cost.py --only torchvision/regnet
    python benchmarks/proof_cost.py --report                   # only the page

Each model runs in a process of its own, with random weights and one image of its usual size (classification and
segmentation 224 pixels, detectors 160, video from 112), norms with scales and statistics of their own. It is pruned
once to half of its MACs with its proof. Memory is what the process grew by at most: with that, with one forward
`model(x)`, which keeps what a backward needs, and with one without gradients.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import coverage
from graph_speed import proven, seconds_of
from options import add_results, each_apart, parser_of
from pages import write
from records import Record, append, made_apart, read

LIMIT = 1800
"""Seconds that one model may take."""
SECONDS, FORWARDS, MEMORY = 30.0, 25.0, 4.0
"""The limits: seconds or forwards, whichever is more, and the memory of the model with one forward."""


def row(kind: str, name: str) -> dict[str, Any]:
    """Everything about one model, in this process."""
    import torch

    from prunus.errors import InputError
    from prunus.state import call_model
    from prunus.testing import lively

    model, example = coverage.build(kind, name, side=224)
    lively(model, example=example if kind == "detection" else None)
    model.eval()
    found: dict[str, Any] = {"kind": kind, "model": name, "parameters": sum(p.numel() for p in model.parameters())}
    with torch.no_grad():
        call_model(model, example)
        found["forward"] = seconds_of(lambda: call_model(model, example))
    try:
        return found | proven(model, example)
    except InputError as error:
        return found | {"refused": str(error)[:300]}


def run(options: argparse.Namespace) -> None:
    """Every model that the results file lacks."""
    done = {found["model"] for found in read(options.results)}
    for kind in coverage.KINDS:
        for _, name in coverage.names(kind):
            if options.only not in name or name in done:
                continue
            found, why = made_apart(__file__, ["--one", kind, name], LIMIT)
            append(options.results, found or {"kind": kind, "model": name, "failed": why})
            print(name, f"{found['proven']:.1f} s" if found and "proven" in found else why or "refused", flush=True)


def over(r: Record) -> list[str]:
    """The limits that a model is above."""
    slow = r["proven"] > max(SECONDS, FORWARDS * r["forward"])
    large = "prune_bytes" in r and r["prune_bytes"] > MEMORY * r["forward_bytes"]
    return ["time"] * slow + ["memory"] * large


def page(rows: Sequence[Record]) -> Iterator[str]:
    """The verdict, and a line for each model that is above a limit or takes long."""
    import torch
    import torchvision

    import prunus

    done = [r for r in rows if "proven" in r]
    yield (
        f"Command: `python benchmarks/proof_cost.py`. Prunus {prunus.__version__}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, Python {platform.python_version()}; CPU, "
        f"{os.cpu_count()} cores; one image."
    )
    yield ""
    times, sizes = (
        [r["proven"] for r in done],
        [r["prune_bytes"] / r["forward_bytes"] for r in done if "prune_bytes" in r],
    )
    if done:
        yield (
            f"- {len(done)} models: {median(times):.1f} s at the median, {max(times):.0f} s at most; "
            + (f"{median(sizes):.1f} times the memory at the median, {max(sizes):.1f} at most" if sizes else "")
        )
    for limit, what in (
        ("time", f"{SECONDS:g} s and over {FORWARDS:g} forwards"),
        ("memory", f"{MEMORY:g} times the memory"),
    ):
        above = [r["model"].partition("/")[2] for r in done if limit in over(r)]
        yield f"- Over {what}: {', '.join(above) or 'none'}"
    for r in rows:
        if "proven" not in r:
            yield f"- {r['model'].partition('/')[2]}: {r.get('refused') or r['failed']}"
    yield ""
    yield (
        "The slowest, and what is over a limit. *memory*: in times of the model with one forward `model(x)`; *without "
        "gradients*: with one under `no_grad`."
    )
    yield ""
    yield "| model | million parameters | forward, s | with proof, s | forwards | memory | without gradients |"
    yield "|---|---|---|---|---|---|---|"
    slowest = sorted(done, key=lambda r: -r["proven"])[:12]
    for r in [*slowest, *(r for r in done if over(r) and r not in slowest)]:
        memory = " | ".join(f"{r['prune_bytes'] / r[k]:.1f}" if k in r else "" for k in ("forward_bytes", "bare_bytes"))
        yield (
            f"| {r['model'].partition('/')[2]} | {r['parameters'] / 1e6:.1f} | {r['forward']:.2f} | {r['proven']:.1f} "
            f"| {r['proven'] / r['forward']:.0f} | {memory} |"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page; 0."""
    made = parser_of(__doc__)
    made.add_argument("--only", default="", help="models whose name contains this")
    add_results(made, __file__)
    made.add_argument("--one", nargs=2, metavar=("KIND", "MODEL"), help=argparse.SUPPRESS)
    options = made.parse_args(argv)
    return each_apart(
        options,
        lambda: row(*options.one),
        run,
        lambda: write(options.page, "proof_cost", "\n".join(page(read(options.results)))),
    )


if __name__ == "__main__":
    raise SystemExit(main())
