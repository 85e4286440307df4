"""How the scales γ of batch norms and the norms of filters are spread, before and after sparsity training.

histograms.jsonl   one JSON object for each kind and moment: {"kind", "when", "low", "high", "counts"}, the counts of
                   bins of one width from low to high, which both moments of a kind share
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunus.errors import StorageError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["HISTOGRAMS", "KINDS", "counted", "values_of", "write"]

HISTOGRAMS = "histograms.jsonl"

KINDS = {"gamma": "|γ| of batch norms", "filter": "L2 norm of a convolution's filters"}

BINS = 40


def values_of(model: nn.Module) -> dict[str, Tensor]:
    """Of each kind that the model has, all values in one vector, on the CPU: |γ| of each channel of batch norms with
    an affine part, and the L2 norm of the weights of each filter of convolutions."""
    import torch
    from torch import nn

    found: dict[str, list[Tensor]] = {}
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor):
            continue
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            found.setdefault("gamma", []).append(weight.detach().abs())
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            found.setdefault("filter", []).append(weight.detach().flatten(1).norm(dim=1))
    kinds = [kind for kind in KINDS if kind in found]
    return {kind: torch.cat([part.float().cpu().reshape(-1) for part in found[kind]]) for kind in kinds}


def counted(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """The lines: both moments of a kind in the bins that hold all values of both that are finite."""
    import torch

    lines = []
    for kind in before:
        both = {"before": before[kind], "after": after[kind]}
        finite = torch.cat([values[values.isfinite()] for values in both.values()])
        low, high = (0.0, float(finite.max())) if finite.numel() else (0.0, 1.0)
        high = high if high > low else low + 1
        for when, values in both.items():
            counts = torch.histc(values[values.isfinite()], BINS, low, high)
            lines.append({"kind": kind, "when": when, "low": low, "high": high, "counts": counts.int().tolist()})
    return lines


def write(folder: Path, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Write histograms.jsonl. Raises StorageError."""
    text = "".join(json.dumps(line) + "\n" for line in counted(before, after))
    try:
        (folder / HISTOGRAMS).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {str(folder / HISTOGRAMS)!r}: {error.strerror or error}") from error
