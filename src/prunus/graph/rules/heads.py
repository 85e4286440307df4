"""Attention as one call: `F.scaled_dot_product_attention`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..labels import Check, along, spelled, varying, vector
from ..record import Call
from ..splits import batched
from .pointwise import join

TOKENS = "it runs along the tokens of an attention"
SCALE = "the softmax scale follows the width of its head, and no weight and bias can make up for it"


def attention(call: Call, out: Tensor) -> list[Tensor]:
    """softmax(q kᵀ / √width) v: q and k share the width, all three the heads. Where the scale follows the width, the
    rows behind q make up for it, or those behind k."""
    q, k, v = (call.get(i, n) for i, n in enumerate(("query", "key", "value")))
    mask, scale, grouped = call.get(3, "attn_mask"), call.kwargs.get("scale"), call.kwargs.get("enable_gqa", False)
    behind = None if isinstance(call.book, Check) else unread(call, q, k)
    for t in (q, k, v):
        batched(call, t)
    wide, deep = call.tracer.read(q, -1), call.tracer.read(v, -1)
    call.book.unite(wide, call.tracer.read(k, -1))
    if scale is None and bool((wide >= 0).any()) and not isinstance(call.book, Check):
        if behind is None:
            call.book.pin(wide, SCALE)
        else:
            call.book.fold(behind, wide)
    lead = [*torch.broadcast_shapes(*((q.shape[:-2],) if grouped else (t.shape[:-2] for t in (q, k, v)))), 1, 1]
    planes = join(call, lead, [repeated(call, t, q if grouped else t, lead) for t in (q, k, v)])
    if isinstance(mask, Tensor):
        planes = masked(call, mask, lead, planes)
    line = next((vector(p, axis) for p in planes for axis in varying(p)), None)
    vectors = [] if line is None else [line]
    times = k.shape[-2] * out.numel() // out.shape[-1] // (1 if line is None else line.numel())
    for width in (wide, deep):
        call.book.work(call.path, call.index, times, [*vectors, width])
    planes = [p.expand(out.shape) for p in planes]
    return [*planes, along(deep, out.dim() - 1, out.shape)] if bool((deep >= 0).any()) else planes


def unread(call: Call, *operands: Tensor) -> Tensor | None:
    """The rows behind the first of the operands of which they are known and no product has read them before, as that of
    queries with a table of relative positions does: what is folded into rows changes whatever else reads them."""
    sources = [found for x in operands if (found := call.tracer.sources.get(x)) is not None]
    known: list[Tensor] = [found.rows for found in sources if found.rows is not None]
    return next((rows for rows in known if int(spelled(rows).min()) not in call.tracer.weighed), None)


def repeated(call: Call, t: Tensor, q: Tensor, lead: list[int]) -> tuple[Tensor, list[Tensor]]:
    """The planes of t that run along its batch axes; k and v with fewer heads are repeated as the op does."""
    planes = []
    for plane in call.label(t).planes:
        axes = varying(plane)
        if t.dim() - 2 in axes:
            call.book.pin(plane, TOKENS)
        elif t.dim() - 1 not in axes:
            times = q.shape[-3] // t.shape[-3]
            small = plane.narrow(-1, 0, 1).narrow(-2, 0, 1)
            planes.append(small.repeat_interleave(times, -3) if times > 1 else small)
    shape = [*q.shape[:-2], 1, 1]
    return torch.empty(shape, device="meta"), planes


def masked(call: Call, mask: Tensor, lead: list[int], planes: list[Tensor]) -> list[Tensor]:
    """A mask or bias may have its own entries for each head."""
    mine = []
    for plane in call.label(mask).planes:
        if set(varying(plane)) & {mask.dim() - 1, mask.dim() - 2}:
            call.book.pin(plane, TOKENS)
        else:
            mine.append(plane.narrow(-1, 0, 1).narrow(-2, 0, 1))
    blank = torch.empty([*mask.shape[:-2], 1, 1], device="meta")
    return join(call, lead, [(torch.empty(lead, device="meta"), planes), (blank, mine)])
