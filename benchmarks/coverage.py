"""Which models Prunus prunes: all of torchvision, and one small variant of every timm family. Writes docs/coverage.md.

    python benchmarks/coverage.py                            # all that the results file lacks; hours on two cores
    python benchmarks/coverage.py --only torchvision/resnet
    python benchmarks/coverage.py --report                   # only the page

Each model runs in a process of its own, with random weights and with scales, shifts and statistics of the norms drawn
anew, so that a wrong cut cannot pass. It is pruned to half of its MACs with magnitude scores and with three random
plans, and by the smallest step of every group at once, so that no group that can shrink goes untried. All five are
proven in eval and in train mode. It takes one training step afterwards; or it is refused with a reason.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from options import add_results, each_apart, parser_of
from records import Record, append, made_apart, read

KINDS = ("classification", "segmentation", "detection", "video")
LIMIT = 900
"""Seconds that one model may take."""
USUAL = 0.9
"""Share of the MACs that can be pruned in most models; where it is less, the page says what is pinned."""
SIDE = 128
"""Pixels of an image's side, where the model takes any: less than usual, since proofs run in float64."""
LARGE, MEDIUM = 512, 224
"""Pixels: a model of one size above `LARGE` is made for `MEDIUM`."""


def names(kind: str = "") -> list[tuple[str, str]]:
    """(kind, name) of every model of a kind, or of all; torchvision first."""
    import torchvision

    models = torchvision.models
    parts = {"classification": models, **{kind: getattr(models, kind) for kind in KINDS[1:]}}

    def work(name: str) -> float:
        return float(models.get_model_weights(name).DEFAULT.meta["_ops"])

    found = [
        (part, f"torchvision/{name}")
        for part, module in parts.items()
        for name in sorted(models.list_models(module=module), key=work)
        if kind in ("", part)
    ]
    return found + [("timm", f"timm/{name}") for name in (smallest() if kind in ("", "timm") else ())]


def smallest() -> list[str]:
    """The variant with the fewest parameters of each timm family, counted without memory."""
    import timm
    import torch

    found = []
    for family in timm.list_modules():
        sizes = []
        for name in timm.list_models(module=family):
            try:
                with torch.device("meta"):
                    model = timm.create_model(name, pretrained=False)
            except Exception:  # a variant that needs weights, other packages or real memory
                continue
            sizes.append((sum(p.numel() for p in model.parameters()), name))
        if sizes:
            found.append(min(sizes)[1])
    return found


def build(kind: str, name: str, side: int = SIDE) -> tuple[Any, Any]:
    """The model and an example of a size that it takes. side: pixels of an image where the model takes any."""
    import torch

    torch.manual_seed(0)
    library, _, short = name.partition("/")
    if library == "timm":
        import timm

        model = timm.create_model(short, pretrained=False)
        channels, *usual = model.pretrained_cfg.get("input_size", (3, 224, 224))
        small = torch.randn(1, channels, *(min(one, side) for one in usual))
        if takes(model, small):
            return model, small
        if max(usual) > LARGE:  # of one size, which the maker may change
            model, usual = timm.create_model(short, pretrained=False, img_size=MEDIUM), [MEDIUM, MEDIUM]
        return model, torch.randn(1, channels, *usual)
    import torchvision

    options: dict[str, Any] = {"weights": None}
    if kind in ("segmentation", "detection"):
        options["weights_backbone"] = None
    if short in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    model = torchvision.models.get_model(short, **options)
    for part in (model, getattr(model, "roi_heads", None)):
        if hasattr(part, "score_thresh"):
            part.score_thresh = 1e-3  # random weights are sure of no box; scores of 0 are ties, and of no order
    if kind == "detection" and not short.startswith("ssd"):  # those of one size stay at it
        model.transform.min_size, model.transform.max_size = (160,), 320
    if kind == "video":
        usual = 112 if "resnet" in short or "mc3" in short or "r2plus1d" in short or "r3d" in short else 224
        return model, torch.randn(1, 3, 16 if "mvit" in short or short == "s3d" else 8, usual, usual)
    if kind == "detection":
        if short.startswith("keypoint"):
            target = {"keypoints": torch.rand(1, 17, 3) * 90 + 5}
        else:
            target = {"masks": torch.ones(1, 160, 160, dtype=torch.uint8)} if short.startswith("mask") else {}
        boxes = torch.tensor([[20.0, 20.0, 120.0, 120.0]])
        target |= {"boxes": boxes, "labels": torch.tensor([1])}
        return model, ([torch.rand(3, 160, 160)], [target])
    side = {"inception_v3": 299, "maxvit_t": 224}.get(short) or getattr(model, "image_size", None) or side
    return model, torch.randn(1, 3, side, side)


def takes(model: Any, example: Any) -> bool:
    """Whether a model computes something from an input of this size; some are made for one size."""
    import torch

    try:
        with torch.no_grad():
            model.eval()(example)
    except (AssertionError, RuntimeError, ValueError):
        return False
    return True


def row(kind: str, name: str) -> dict[str, Any]:
    """Everything about one model, in this process."""
    import torch

    import prunus
    from prunus.cutting import cut, proven, within
    from prunus.graph.assemble import nothing
    from prunus.methods import Magnitude, Random
    from prunus.methods.score import scores_of
    from prunus.surgery.trial import step_plan
    from prunus.target import Target
    from prunus.testing import check_model, lively

    model, example = build(kind, name)
    lively(model, example=example if kind == "detection" else None)
    found: dict[str, Any] = {"kind": kind, "model": name, "parameters": sum(p.numel() for p in model.parameters())}
    with torch.no_grad():
        found["forward"] = timed(lambda: model.eval()(*(example if isinstance(example, tuple) else (example,))))
    start = time.perf_counter()
    try:
        coupling = prunus.trace(model, example)
        found["trace"] = time.perf_counter() - start
        found |= {
            "prunable": coupling.prunable,
            "groups": len(coupling.groups),
            "unknown": list(coupling.unknown_ops)[:8],
            "pinned": sorted({pin.reason for pin in coupling.pinned})[:8],
        }
        if not coupling.groups:
            raise nothing(coupling)
        start = time.perf_counter()
        goal = Target(macs=0.5)
        kept, _ = within(coupling, scores_of(Magnitude(), model, coupling, 0), goal)
        found["select"] = time.perf_counter() - start
        start = time.perf_counter()
        small = cut(model, example, coupling, kept, check=False, goal=goal)
        found["cut"] = time.perf_counter() - start
        found["left"] = small.after.macs / small.before.macs
        start = time.perf_counter()
        checked = check_model(model, example, goal)
        found["proof"] = checked.pruned.proof.seconds
        worst = [checked.pruned.proof.worst]
        for seed in range(3):
            kept, _ = within(coupling, scores_of(Random(), model, coupling, seed), goal)
            worst.append(cut(model, example, coupling, kept, goal=goal).proof.worst)
        _, proof = proven(model, step_plan(coupling), example)
        assert proof is not None
        found["stepped"] = proof.worst
        worst.append(proof.worst)
        found |= {"status": "pruned", "worst": max(worst), "notes": list(checked.pruned.proof.notes)}
    except prunus.errors.InputError as error:
        found |= {"status": "refused", "why": str(error)[:300]}
    except Exception as error:
        found |= {"status": "failed", "why": f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"}
    scale = 1024 if sys.platform == "linux" else 1
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    return found


def timed(call: Any) -> float:
    """Seconds of the second call."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def run(options: argparse.Namespace) -> None:
    """Every model that the results file lacks."""
    done = {found["model"] for found in read(options.results)}
    for kind, name in names(options.kind):
        if options.only not in name or name in done:
            continue
        found, why = made_apart(__file__, ["--one", kind, name], LIMIT)
        found = found or {"kind": kind, "model": name, "status": "failed", "why": why}
        append(options.results, found)
        print(f"{found['model']}: {found['status']} {found.get('why', '')}", flush=True)


def page(rows: Sequence[Record]) -> Iterator[str]:
    """docs/coverage.md."""
    import timm
    import torch
    import torchvision

    yield "# Coverage"
    yield ""
    yield (
        f"`python benchmarks/coverage.py`; torch {torch.__version__}, torchvision {torchvision.__version__}, timm "
        f"{timm.__version__}, Python {platform.python_version()}, CPU, {os.cpu_count()} cores (shared); seed 0, random "
        "weights, norms drawn anew (of detectors around the example's activations), macs=50%, magnitude scores and "
        "three random plans, and a plan that takes the smallest step of every group; images of "
        f"{SIDE} pixels where a model takes that (detectors 160, video from 112), else its usual size "
        f"({MEDIUM} where that is above {LARGE})."
    )
    yield ""
    yield "| | models | pruned, exact, on budget | refused | failed |"
    yield "|---|---|---|---|---|"
    for kind in (*KINDS, "timm"):
        mine = [r for r in rows if r["kind"] == kind]
        counts = [sum(r["status"] == status for r in mine) for status in ("pruned", "refused", "failed")]
        yield f"| {kind} | {len(mine)} | {counts[0]} | {counts[1]} | {counts[2]} |"
    yield ""
    yield (
        "*prunable*: share of the MACs in ops of which a side can shrink. *difference*: the largest of the proofs' "
        "relative differences, over all five plans, eval and train; refused above 1e-8. Seconds: "
        "one dense forward, trace with its trial cuts, selection, cut, proof, on a machine with other work. A model "
        "that has no row has not been run yet: the script goes on where it was."
    )
    for kind in (*KINDS, "timm"):
        mine = [r for r in rows if r["kind"] == kind]
        if not mine:
            continue
        yield f"\n## {kind}\n"
        yield "| model | left | prunable | difference | forward | trace | select | cut | proof | |"
        yield "|---|---|---|---|---|---|---|---|---|---|"
        for r in sorted(mine, key=lambda r: r["model"]):
            yield line(r)
    yield from pinned([r for r in rows if r.get("prunable", 1.0) < USUAL])


def pinned(rows: Sequence[Record]) -> Iterator[str]:
    """What keeps the MACs of these models."""
    if not rows:
        return
    yield f"\n## Less than {100 * USUAL:.0f} % can be pruned\n"
    for r in sorted(rows, key=lambda r: r["prunable"]):
        yield f"- {r['model'].partition('/')[2]}, {100 * r['prunable']:.0f} %: {'; '.join(r['pinned'])}"


def line(r: Record) -> str:
    """One row of a table."""
    name = r["model"].partition("/")[2]
    if r["status"] != "pruned":
        return f"| {name} |" + " |" * 8 + f" {r['status']}: {r['why'].replace('|', '/')} |"
    times = " | ".join(f"{r[stage]:.1f}" for stage in ("forward", "trace", "select", "cut", "proof"))
    said = f"no rule: {', '.join(r['unknown'][:2])}" if r["unknown"] else ""
    return f"| {name} | {100 * r['left']:.2f} % | {100 * r['prunable']:.0f} % | {r['worst']:.0e} | {times} | {said} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page; 0."""
    made = parser_of(__doc__)
    made.add_argument("--only", default="", help="models whose name contains this")
    made.add_argument("--kind", default="", help=f"of {', '.join((*KINDS, 'timm'))}")
    add_results(made, __file__, "coverage.md")
    made.add_argument("--one", nargs=2, metavar=("KIND", "NAME"), help=argparse.SUPPRESS)
    options = made.parse_args(argv)

    def written() -> None:
        options.page.write_text("\n".join(page(read(options.results))) + "\n", "utf-8")

    return each_apart(options, lambda: row(*options.one), run, written)


if __name__ == "__main__":
    raise SystemExit(main())
