"""Prune torchvision's classifiers to macs=50% and params=40%, each proven in eval and train mode; write docs/zoo.md.

    python benchmarks/zoo.py                     # all rows, one process each
    python benchmarks/zoo.py --models resnet18   # some of them

Weights are random; scales, shifts and running statistics of the norms are drawn at random first, so that a wrong cut
cannot pass.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

from options import HERE, parser_of
from records import made_apart

MODELS = """
vgg16_bn resnet18 resnet50 resnet152 resnext50_32x4d wide_resnet50_2 densenet121 densenet201 googlenet inception_v3
mobilenet_v2 mobilenet_v3_large mobilenet_v3_small efficientnet_b0 mnasnet1_0 shufflenet_v2_x1_0 squeezenet1_0
regnet_x_400mf regnet_y_400mf convnext_tiny
""".split()
TARGETS = ("macs=50%", "params=40%")
SMALLEST = {"inception_v3": 299}  # its auxiliary head needs this much


def lively(model: object) -> None:
    """Norms with scales, shifts and statistics that differ by channel."""
    import torch
    from torch import nn

    assert isinstance(model, nn.Module)
    draw = torch.Generator().manual_seed(0)
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_(0, 0.1, generator=draw)
            module.running_var.uniform_(0.5, 1.5, generator=draw)
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=draw)
            nn.init.normal_(module.bias, 0, 0.1, generator=draw)


def row(name: str, side: int) -> dict[str, object]:
    """Both targets on one model, in this process."""
    import torch
    import torchvision

    import prunus

    torch.manual_seed(0)
    options = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    model = torchvision.models.get_model(name, weights=None, **options)
    lively(model)
    side = max(side, SMALLEST.get(name, 0))
    example = torch.randn(1, 3, side, side)
    found: dict[str, object] = {"model": name, "side": side}
    for target in TARGETS:
        start = time.perf_counter()
        small = prunus.prune(model, example, target)
        assert small.proof is not None
        kind = target.partition("=")[0]
        found[target] = {
            "got": getattr(small.after, kind) / getattr(small.before, kind),
            "worst": small.proof.worst,
            "seconds": time.perf_counter() - start,
            "pinned": len(small.coupling.pinned),
            "unknown": len(small.coupling.unknown_ops),
        }
    return found


def page(rows: list[dict[str, object]], command: str) -> str:
    """The table, with what it was measured on."""
    import torch
    import torchvision

    lines = [
        "# Torchvision classifiers, pruned and proven",
        "",
        f"`{command}`; torch {torch.__version__.partition('+')[0]}, torchvision "
        f"{torchvision.__version__.partition('+')[0]}, Python {platform.python_version()}, CPU with "
        f"{torch.get_num_threads()} threads; seed 0, random weights, randomised norms, magnitude scores.",
        "",
        "*left*: what remains of the dense cost. *difference*: the largest of the proof's float64 differences between "
        "the masked and the cut network (eval and train outputs, running statistics, gradients), relative; the proof "
        "refuses above 1e-8. "
        "*seconds*: trace, selection, cut and proof, on a shared machine.",
        "",
        "| model | input | macs=50%: left | difference | seconds | params=40%: left | difference | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for found in rows:
        cells = [str(found["model"]), str(found["side"])]
        for target in TARGETS:
            it = found.get(target)
            if isinstance(it, dict):
                cells += [f"{100 * it['got']:.2f} %", f"{it['worst']:.0e}", f"{it['seconds']:.0f}"]
            else:
                cells += [str(found.get("error", "failed")), "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--side", type=int, default=128, help="height and width of the example")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "zoo.md")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(row(options.one, options.side)))
        return 0
    rows = []
    for name in options.models:
        found, why = made_apart(__file__, ["--one", name, "--side", str(options.side)])
        rows.append(found or {"model": name, "side": options.side, "error": why})
        print(rows[-1], flush=True)
    command = "python benchmarks/zoo.py" + (f" --side {options.side}" if options.side != 128 else "")
    options.out.write_text(page(rows, command))
    return int(any("error" in found for found in rows))


if __name__ == "__main__":
    raise SystemExit(main())
