"""What a measurement says in words: whether the cut pays, why less than its MACs promise, and what would help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from .layers import Layer

if TYPE_CHECKING:
    from .measure import Row

HEAVY = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
SMALL = 200e-6
"""Seconds: below this a layer's time is mostly the overhead of calling it."""


def verdict_of(rows: Sequence[Row], layers: Sequence[Layer], macs: float, pruned: nn.Module) -> list[str]:
    """Sentences, the most important first."""
    lines = []
    for row in rows:
        if row.ratio is None:
            continue
        what = f"{row.runtime}, batch {row.batch}: {100 * macs:.0f} % of the MACs"
        if not row.told:
            lines.append(f"{what}, and no difference in time that this machine's noise lets one see")
            continue
        lines.append(f"{what} take {100 * row.ratio.median:.0f} % of the time")
    ratios = [row.ratio.median for row in rows if row.ratio is not None]
    if not ratios or min(ratios) <= macs + 0.05:
        return lines
    return lines + why(layers, macs, pruned) + helps(rows, pruned)


def why(layers: Sequence[Layer], macs: float, pruned: nn.Module) -> list[str]:
    """Where the time that did not go is."""
    total = sum(layer.pruned for layer in layers)
    if not total:
        return []
    kinds = dict(pruned.named_modules())
    light = sum(layer.pruned for layer in layers if not isinstance(kinds.get(layer.name), HEAVY))
    tiny = sum(layer.pruned for layer in layers if 0 < layer.pruned < SMALL)
    slow = [
        x for x in layers if isinstance(kinds.get(x.name), HEAVY) and x.ratio > macs + 0.2 and x.pruned > 0.02 * total
    ]
    lines = []
    if light > 0.25 * total:
        lines.append(
            f"{100 * light / total:.0f} % of the pruned network's time is in norms, activations and pools, which move "
            "memory and count no MACs"
        )
    if tiny > 0.25 * total:
        lines.append(
            f"{100 * tiny / total:.0f} % is in layers of less than {1e6 * SMALL:.0f} microseconds each, where the "
            "overhead of the call does not shrink with the width"
        )
    if slow:
        names = ", ".join(f"{x.name} ({100 * x.ratio:.0f} %)" for x in sorted(slow, key=lambda x: -x.pruned)[:3])
        lines.append(f"layers that shrank less in time than in MACs: {names}")
    odd, count = odd_widths(pruned)
    if odd:
        lines.append(f"{odd} of {count} layers have widths that are no multiple of 8, which fast kernels pad")
    return lines


def helps(rows: Sequence[Any], pruned: nn.Module) -> list[str]:
    """What to try next."""
    tried = {row.runtime for row in rows}
    odd, _ = odd_widths(pruned)
    lines = ["try round=8 in the target, for widths that kernels like"] if odd else []
    if "onnxruntime" not in tried and "openvino" not in tried:
        lines.append("try another runtime (onnxruntime, openvino): they fuse norms and activations into convolutions")
    if all(row.batch == 1 for row in rows):
        lines.append("try a larger batch, where overhead counts less, if your use has one")
    return lines


def odd_widths(model: nn.Module) -> tuple[int, int]:
    """Layers whose output is no multiple of 8, and all layers that weigh, the last one apart."""
    widths = [m.weight.shape[0] for m in model.modules() if isinstance(m, HEAVY)][:-1]
    return sum(width % 8 != 0 for width in widths), len(widths)
