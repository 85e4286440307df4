"""Places picked by an index, and places that are added to: along other axes than that of the index, channels pass."""

from __future__ import annotations

import torch
from torch import Tensor

from ..blank import blank
from ..labels import resized, varying
from ..record import Call
from .pointwise import flat, join

CHOSEN = "its channels are chosen by an index"


def passing(call: Call, x: Tensor, dim: int, shape: torch.Size | list[int]) -> list[Tensor]:
    """The planes of `x` that run along other axes than `dim`, carried to a shape; the others are pinned."""
    planes = []
    for plane in call.label(x).planes:
        axes = varying(plane)
        if dim in axes or any(x.shape[d] != shape[d] for d in axes):
            call.book.pin(plane, CHOSEN)
        else:
            planes.append(resized(plane, [d for d in range(x.dim()) if d not in axes], shape))
    return planes


def chosen(call: Call, out: Tensor) -> list[Tensor]:
    """`index_select`: whole entries of one axis."""
    x = call.get(0, "input")
    return passing(call, x, call.get(1, "dim") % x.dim(), out.shape)


def gathered(call: Call, out: Tensor) -> list[Tensor]:
    """`gather`: out[i][c] = x[index[i][c]][c], so the index runs along the channels as the result does."""
    x, index, dim = call.get(0, "input"), call.get(2, "index"), call.get(1, "dim")
    return along_both(call, out, dim % out.dim(), [x, index])


def put(call: Call, out: Tensor) -> list[Tensor]:
    """`index_add`, `index_copy`: entries of one axis are added to, or replaced."""
    return along_both(call, out, call.get(1, "dim") % out.dim(), [call.get(0, "input"), call.get(3, "source")])


def scattered(call: Call, out: Tensor) -> list[Tensor]:
    """`scatter`, `scatter_add`: x[index[i][c]][c] gets source[i][c]."""
    operands = [call.get(0, "input"), call.get(2, "index"), call.get(3, "src")]
    return along_both(call, out, call.get(1, "dim") % out.dim(), [t for t in operands if isinstance(t, Tensor)])


def along_both(call: Call, out: Tensor, dim: int, operands: list[Tensor]) -> list[Tensor]:
    """Operands that meet entry by entry along all axes but `dim`."""
    met = []
    for t in operands:
        repeated = set(range(t.dim())) if blank(call.tracer, t) else {dim, *flat(t)}
        planes = passing(call, t, dim, out.shape)
        probe = torch.empty([1 if d in repeated else n for d, n in enumerate(t.shape)], device="meta")
        met.append((probe, planes))
    return join(call, out.shape, met)
