"""How long tracing, choosing and cutting take: Prunus beside Torch-Pruning on torchvision's models.

    python benchmarks/graph_speed.py                       # the dozen models of DEFAULT that the results lack
    python benchmarks/graph_speed.py --all                 # every torchvision classifier
    python benchmarks/graph_speed.py --growth              # the CIFAR ResNets of 110, 560 and 1202 layers
    python benchmarks/graph_speed.py --report              # only the page

Each model runs in a process of its own with random weights and one image. The tools take turns, so that what else the
machine does falls on both. Timed of Prunus: `trace`, magnitude scores, the choice for half of the MACs, and the cut
with its replay, without the proof. Timed of Torch-Pruning, as it documents its use: the constructor of `BasePruner`
with `GroupMagnitudeImportance(p=2)`, the classifier ignored, which traces the model, and one `step()`. It has no target
in MACs: a first run at 30 % of the channels, which is not timed, gives the ratio that leaves about half. The result
must run. Then Prunus prunes once with its proof, and the largest memory is taken of that and of one dense forward: as
`model(x)` runs, which keeps what a backward needs, and without gradients.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from options import add_results, each_apart, parser_of
from pages import write
from records import Record, append, made_apart, read

DEFAULT = """
resnet18 resnet50 vgg16_bn densenet121 densenet169 densenet201 mobilenet_v2 mobilenet_v3_large efficientnet_b0
regnet_y_400mf convnext_tiny googlenet mnasnet1_0
""".split()
TENTH = ("vgg16_bn", "densenet169", "densenet201")
"""Where Prunus may take a tenth of Torch-Pruning's time at most."""
DEPTHS = (110, 560, 1202)
LIMIT = 1800
"""Seconds that one model may take."""


def build(name: str) -> tuple[Any, Any]:
    """The model, in eval mode, and one image of the size that it was made for."""
    import torch
    import torchvision

    torch.manual_seed(0)
    options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    side = getattr(model, "image_size", None) or (299 if name == "inception_v3" else 224)
    return model, torch.randn(1, 3, side, side)


def prunus_once(model: Any, example: Any) -> dict[str, float]:
    """Seconds by stage, and the share of the MACs that is left."""
    import prunus
    from prunus.cutting import cut, within
    from prunus.methods import Magnitude
    from prunus.methods.score import scores_of
    from prunus.target import Target

    goal = Target(macs=0.5)
    marks = [time.perf_counter()]
    coupling = prunus.trace(model, example)
    marks.append(time.perf_counter())
    kept, _ = within(coupling, scores_of(Magnitude(), model, coupling, 0), goal)
    marks.append(time.perf_counter())
    small = cut(model, example, coupling, kept, check=False, goal=goal)
    marks.append(time.perf_counter())
    found = {stage: b - a for stage, a, b in zip(("trace", "select", "cut"), marks, marks[1:], strict=False)}
    return found | {"seconds": marks[-1] - marks[0], "left": small.after.macs / small.before.macs}


def torch_pruning_once(model: Any, example: Any, ratio: float) -> dict[str, float]:
    """Seconds, and the share of the MACs that is left. The model is copied first, since it is pruned in place."""
    import torch
    import torch_pruning as tp  # type: ignore[import-untyped]

    import prunus

    small = copy.deepcopy(model)
    start = time.perf_counter()
    pruner = tp.pruner.BasePruner(
        small,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[m for m in small.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 1000],
    )
    pruner.step()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "left": prunus.cost(small, example).macs / prunus.cost(model, example).macs}


def halving(left: float, ratio: float) -> float:
    """The share of channels to remove for half of the MACs, where removing `ratio` leaves `left` of them."""
    power = math.log(left) / math.log(1 - ratio) if 0 < left < 1 else 2.0
    return float(min(0.9, 1 - 0.5 ** (1 / power)))


def row(name: str, repeats: int) -> dict[str, Any]:
    """Everything about one model, in this process."""
    import torch

    model, example = build(name)
    found: dict[str, Any] = {"model": name, "threads": torch.get_num_threads(), "repeats": repeats}
    with torch.no_grad():
        model(example)
        found["forward"] = seconds_of(lambda: model(example))
    other: str | None = None
    ratio = 0.3
    try:
        ratio = halving(torch_pruning_once(model, example, ratio)["left"], ratio)
    except Exception as error:  # what Torch-Pruning raises on a model that it does not handle
        other = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
    prunus_once(model, example)
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(prunus_once(model, example))
        if other is None:
            theirs.append(torch_pruning_once(model, example, ratio))
    for key in ("trace", "select", "cut", "seconds", "left"):
        found[key] = median(run[key] for run in ours)
    if other is None:
        found |= {f"tp_{key}": median(run[key] for run in theirs) for key in ("seconds", "left")}
        found |= {"ratio": found["seconds"] / found["tp_seconds"], "channels": ratio}
    return found | {"tp_failed": other} | proven(model, example)


def proven(model: Any, example: Any) -> dict[str, Any]:
    """Seconds of a `prune` with its proof, and memory in bytes: of the model with that prune, with one forward, and
    with one forward without gradients."""
    import torch

    import prunus
    from prunus.state import call_model

    size = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    forward = most(lambda: call_model(model, example))
    with torch.no_grad():
        bare = most(lambda: call_model(model, example))
    start = time.perf_counter()
    pruning = memory_of(lambda: prunus.prune(model, example, "macs=50%"))
    found: dict[str, Any] = {"proven": time.perf_counter() - start}
    if forward is not None and bare is not None and pruning is not None:
        found |= {"prune_bytes": size + pruning, "forward_bytes": size + forward, "bare_bytes": size + bare}
    return found


def seconds_of(call: Callable[[], Any]) -> float:
    """Median of three."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return median(taken)


def memory_of(call: Callable[[], Any]) -> int | None:
    """Bytes by which the process grew at most; None where the system does not tell (it does on Linux). Memory that was
    freed before is given back first, where the C library can, since it would be used again unseen."""
    try:
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
    except OSError:
        call()
        return None
    call()
    return status("VmHWM") - before


def most(call: Callable[[], Any]) -> int | None:
    """The largest of three, since a small call may find all of its memory in what the process has."""
    found = [memory_of(call) for _ in range(3)]
    return max((size for size in found if size is not None), default=None)


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def growth(repeats: int) -> dict[str, Any]:
    """Median seconds of trace, choice and cut by the depth of a CIFAR ResNet. Depths take turns."""
    import torch

    from prunus.models.resnet import ResNet

    example = torch.randn(1, 3, 32, 32)
    nets = {depth: ResNet(depth).eval() for depth in DEPTHS}
    taken: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
    prunus_once(nets[DEPTHS[0]], example)
    for _ in range(repeats):
        for depth, net in nets.items():
            taken[depth].append(prunus_once(net, example)["seconds"])
    found = {str(depth): median(values) for depth, values in taken.items()}
    return {"model": "growth", "threads": torch.get_num_threads(), "repeats": repeats, "seconds": found}


def run(options: argparse.Namespace) -> None:
    """What the results file lacks, a process a model."""
    import torchvision

    names = list(DEFAULT)
    if options.all:
        names = list(torchvision.models.list_models(module=torchvision.models))
    names = [name for name in names if options.only in name] + (["growth"] if options.growth else [])
    done = {found["model"] for found in read(options.results)}
    for name in [name for name in names if name not in done]:
        found, why = made_apart(__file__, ["--one", name, "--repeats", str(options.repeats)], LIMIT)
        found = found or {"model": name, "failed": why}
        append(options.results, found)
        print(name, {key: value for key, value in found.items() if key in ("ratio", "seconds", "failed")}, flush=True)


def page(rows: Sequence[Record]) -> Iterator[str]:
    """The tables."""
    import torch
    import torchvision

    import prunus

    models = sorted((r for r in rows if r["model"] != "growth" and "failed" not in r), key=lambda r: r["model"])
    yield (
        f"Prunus {prunus.__version__}, Torch-Pruning 1.6.1, torch {torch.__version__}, torchvision "
        f"{torchvision.__version__}, Python {platform.python_version()}; CPU, {os.cpu_count()} cores; one image; "
        f"medians of {', '.join(sorted({str(r['repeats']) for r in models}))} runs in turn."
    )
    yield ""
    stages = "forward | trace | select | cut"
    yield f"| model | {stages} | Prunus | Torch-Pruning | ratio | with proof | memory | without gradients |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for r in models:
        times = " | ".join(f"{r[key]:.2f}" for key in ("forward", "trace", "select", "cut", "seconds"))
        other = f"{r['tp_seconds']:.2f} | {r['ratio']:.2f}" if r["tp_failed"] is None else "fails | "
        memory = " | ".join(
            f"{r['prune_bytes'] / r[key]:.1f}" if key in r else "" for key in ("forward_bytes", "bare_bytes")
        )
        yield f"| {r['model']} | {times} | {other} | {r['proven']:.1f} | {memory} |"
    yield ""
    yield (
        "Seconds. *with proof*: one `prune` with its proof. *memory*: the most that it took, in times of what the "
        "model and one forward `model(x)` take; *without gradients*: in times of the model and a forward under "
        "`no_grad`."
    )
    yield ""
    yield from verdicts(models)
    for r in rows:
        if r["model"] == "growth" and "failed" not in r:
            each = {depth: 1000 * value / int(depth) for depth, value in r["seconds"].items()}
            told = ", ".join(f"{value:.2f} ms at {depth}" for depth, value in each.items())
            yield (
                f"- CIFAR ResNets, by layer (medians of {r['repeats']}): {told}; largest over smallest "
                f"{max(each.values()) / min(each.values()):.2f} (limit 1.5)"
            )


def verdicts(rows: Sequence[Record]) -> Iterator[str]:
    """The limits that this benchmark is held to, and what it found."""
    both = [r for r in rows if r["tp_failed"] is None]
    if both:
        slow = [r["model"] for r in both if r["tp_seconds"] > 2 and r["ratio"] > 1]
        middle = median(r["ratio"] for r in both)
        yield f"- Median ratio over {len(both)} models that both handle: {middle:.2f} (limit 0.7)"
        yield f"- Slower where Torch-Pruning takes over 2 s: {', '.join(slow) or 'none'}"
    for name in TENTH:
        for r in both:
            if r["model"] == name:
                yield f"- {name}: {r['ratio']:.2f} of Torch-Pruning's time (limit 0.1)"
    late = [r["model"] for r in rows if r["proven"] > max(30.0, 25 * r["forward"])]
    large = [r["model"] for r in rows if "prune_bytes" in r and r["prune_bytes"] > 4 * r["forward_bytes"]]
    yield f"- Over 30 s and over 25 forwards with proof: {', '.join(late) or 'none'}"
    yield f"- Over four times the memory of the model and one forward: {', '.join(large) or 'none'}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page; 0."""
    made = parser_of(__doc__)
    made.add_argument("--all", action="store_true", help="every torchvision classifier")
    made.add_argument("--only", default="", help="models whose name contains this")
    made.add_argument("--growth", action="store_true", help="the CIFAR ResNets too")
    made.add_argument("--repeats", type=int, default=5)
    add_results(made, __file__)
    made.add_argument("--one", metavar="MODEL", help=argparse.SUPPRESS)
    options = made.parse_args(argv)
    return each_apart(
        options,
        lambda: growth(options.repeats) if options.one == "growth" else row(options.one, options.repeats),
        run,
        lambda: write(options.page, "graph_speed", "\n".join(page(read(options.results)))),
    )


if __name__ == "__main__":
    raise SystemExit(main())
