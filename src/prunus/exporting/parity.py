"""What an exported network computes, held against the eager one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ExportError

LIMIT = 1e-4
"""The largest difference that is let pass, relative to the largest value of the output."""


@dataclass(frozen=True)
class Parity:
    """The largest difference from the eager network over `inputs` inputs of these batch sizes, in the outputs' unit and
    relative to the largest value of the output concerned."""

    absolute: float
    relative: float
    limit: float
    inputs: int
    batches: tuple[int, ...]

    def __str__(self) -> str:
        sizes = f", batches {', '.join(map(str, self.batches))}" if self.batches else ""
        return (
            f"exported == eager: max |difference| {self.absolute:.1e}, relative {self.relative:.1e} "
            f"(limit {self.limit:.0e}; {self.inputs} inputs{sizes})"
        )


def parity(
    format: str,
    want: Sequence[Sequence[Tensor]],
    got: Sequence[Sequence[Tensor]],
    batches: Sequence[int],
    limit: float,
) -> Parity:
    """Compare all outputs for all inputs; `batches` are the batch sizes of the inputs, where they have one.

    Raises ExportError with the format and the difference.
    """
    absolute = relative = 0.0
    for n, (ours, theirs) in enumerate(zip(want, got, strict=True)):
        where = f"on input {n + 1} of {len(want)}" + (f", batch {batches[n]}" if batches else "")
        if len(ours) != len(theirs):
            raise ExportError(
                f"{format}, parity: {len(theirs)} tensors came back {where}, and the eager has {len(ours)}"
            )
        for eager, exported in zip(ours, theirs, strict=True):
            if eager.shape != exported.shape:
                shapes = f"{tuple(exported.shape)}, not {tuple(eager.shape)}"
                raise ExportError(f"{format}, parity: the exported network returned {shapes} {where}")
            if eager.dtype != exported.dtype and format != "openvino":  # which is written in float32
                kinds = f"{exported.dtype}, not {eager.dtype}".replace("torch.", "")
                raise ExportError(f"{format}, parity: the exported network returned {kinds} {where}")
            apart, share = difference(eager, exported)
            if not share <= limit:
                raise ExportError(
                    f"{format}, parity: the exported network differs from the eager one by {apart:.1e}, relative "
                    f"{share:.1e}, {where} (limit {limit:.0e}); nothing was written"
                )
            absolute, relative = max(absolute, apart), max(relative, share)
    return Parity(absolute, relative, limit, len(want), tuple(dict.fromkeys(batches)))


def difference(eager: Tensor, exported: Tensor) -> tuple[float, float]:
    """The largest difference, and the same relative to the largest value; infinite where only one is finite."""
    if not eager.numel():
        return 0.0, 0.0
    ours, theirs = (t.detach().to(torch.complex128 if t.is_complex() else torch.float64) for t in (eager, exported))
    same = (ours == theirs) | (torch.isnan(ours) & torch.isnan(theirs))
    apart = torch.where(same, torch.zeros_like(ours), ours - theirs).abs()
    largest = float(ours.abs()[torch.isfinite(ours)].max()) if bool(torch.isfinite(ours).any()) else 0.0
    worst = float(torch.nan_to_num(apart, nan=float("inf")).max())
    return worst, worst / max(largest, torch.finfo(torch.float32).tiny) if worst else 0.0
