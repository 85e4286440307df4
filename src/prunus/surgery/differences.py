"""How far two lists of tensors are apart: the sizes by which a proof is judged."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ProofError

LARGE, VECTORS = 1 << 20, 4
"""Of a gradient with so many entries no more is kept than its products with so many vectors."""
FILL = 1e4  # from here on a number may stand for infinity
SMALL = 1e-3  # a gradient this much below the largest one is compared relative to the largest


def long_rows(shape: Sequence[int]) -> bool:
    """Whether a gradient of this shape is large and has long rows: of others a sketch says less."""
    return math.prod(shape) >= max(LARGE, 16 * shape[0] if shape else 0)


def worth_sketching(gradient: Tensor) -> bool:
    """Whether a gradient is large, has long rows, and is finite."""
    return long_rows(gradient.shape) and math.isfinite(size_of(gradient))


def sketch(gradient: Tensor) -> Tensor:
    """Each row of a large gradient in a few numbers, its products with random vectors: rows that differ anywhere by δ
    differ there by about δ or more (R. Freivalds, Probabilistic machines can use less running time, 1977)."""
    rows = gradient.reshape(len(gradient), -1)
    return rows @ vectors(rows)


def vectors(rows: Tensor) -> Tensor:
    """The random vectors for rows of this length, the same whenever they are asked for."""
    draw = torch.Generator().manual_seed(rows.shape[1])
    return torch.randn(rows.shape[1], VECTORS, generator=draw, dtype=torch.float64).to(rows)


def buffer_difference(wide: dict[str, Tensor], narrow: dict[str, Tensor]) -> float:
    """The largest difference of buffers, relative to the larger of the buffer's own largest entry and a thousandth of
    the largest of all: a mean that is zero but for rounding says nothing."""
    pairs = [(a, narrow[name]) for name, a in wide.items() if name in narrow]
    sizes = [finite_size(a) if a.is_floating_point() or a.is_complex() else 0.0 for a, _ in pairs]
    least = SMALL * max(sizes, default=0.0)
    return max((difference(a, b, max(size, least)) for (a, b), size in zip(pairs, sizes, strict=True)), default=0.0)


def compared(reference: list[Tensor], result: list[Tensor], what: str) -> float:
    """The largest difference of lists of outputs. Raises ProofError where they have other lengths or shapes."""
    if len(reference) != len(result):
        raise ProofError(f"{what}: the masked network returns {len(reference)} tensors, the cut one {len(result)}")
    return max((difference(a, b) for a, b in zip(reference, result, strict=True)), default=0.0)


def difference(a: Tensor, b: Tensor, scale: float | None = None) -> float:
    """max|a − b| over the largest |a|, or over `scale`."""
    if a.shape != b.shape:
        raise ProofError(f"shapes differ: masked {tuple(a.shape)}, cut {tuple(b.shape)}")
    if not a.is_floating_point() and not a.is_complex():
        return 0.0 if torch.equal(a, b) else math.inf
    a, b = a.detach(), b.detach()
    return relative(size_of(minus(a, b)), measure(a, b) if scale is None else scale)


def measure(a: Tensor, b: Tensor) -> float:
    """max|a| of the finite entries, but for large ones that are the same in both where others are left: the numbers
    that fill in for −∞ would hide any difference of the others."""
    size = finite_size(a)
    if size < FILL:
        return size
    return finite_size(a[(a != b) | (a.abs() < FILL)]) or size


def relative(gap: float, size: float) -> float:
    """gap / size; infinite where there is a gap and nothing to measure it by."""
    if gap == 0:
        return 0.0
    return gap / size if size > 0 and gap == gap else math.inf


def minus(a: Tensor, b: Tensor, *, in_place: bool = False) -> Tensor:
    """a − b; 0 where both are the same infinity, or no number. `in_place` says that `a` may be overwritten."""
    if a.shape != b.shape:
        raise ProofError(f"shapes differ: masked {tuple(a.shape)}, cut {tuple(b.shape)}")
    if in_place and math.isfinite(size_of(b)):
        return a.sub_(b)
    gap = a - b
    if math.isfinite(size_of(gap)):
        return gap
    return gap.masked_fill_((a == b) | (a.isnan() & b.isnan()), 0.0)


def size_of(tensor: Tensor) -> float:
    """max|a|, 0 of nothing; no number where an entry is none."""
    return float(torch.linalg.vector_norm(tensor.detach(), math.inf)) if tensor.numel() else 0.0


def finite_size(tensor: Tensor) -> float:
    """max|a| of the finite entries: an infinite one, as in an attention mask, is no measure for the others."""
    size = size_of(tensor)
    return size if math.isfinite(size) else size_of(tensor[tensor.isfinite()])


def gap_size(tensor: Tensor) -> float:
    """max|a|, infinite where an entry is no number: `max` would pass it over."""
    size = size_of(tensor)
    return size if size == size else math.inf
