"""`x[part] = value`: what is written into tensors, and what that demands of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter

from ..blank import blank, line, met, written
from ..labels import along, compress, places, spelled, spread, varying, vector
from ..record import Call
from .layout import FIXED_PLACE, by_share, partial
from .pointwise import join

COMPUTED = "it is written at computed places"


def set_item(call: Call, out: Any) -> Any:
    """`x[part] = value`: what is written goes together with what it overwrites."""
    target, part, value = call.args
    planes = call.label(target).planes
    if not isinstance(value, Tensor):
        overwritten(call, target, part)
        return []
    shape, hit = target[part].shape, places(target, part)
    given = [p for p in call.label(value).planes if p.dim() <= len(shape)]
    if blank(call.tracer, target):
        filled(call, target, part, given)
        return []
    mine = []
    for plane in planes:
        if hit & set(varying(plane)):
            call.book.pin(plane, COMPUTED)
            continue
        taken = compress(plane[part])
        call.book.part(taken)
        partial(call, plane, taken)
        mine.append(spread(plane[part], shape))
    join(call, shape, [(target[part], mine), (value, [spread(p, shape) for p in given])])
    return []


set_item.statement = True  # type: ignore[attr-defined]


def filled(call: Call, target: Tensor, part: Any, given: Sequence[Tensor]) -> None:
    """`x[part] = value`, x of one number: it takes the channels of the value along the axis that they go to. Where they
    go to a part of it, the rest may be filled later, and stays a constant where it is not."""
    shape = target[part].shape
    planes: list[Tensor] = []
    for plane in given:
        wide = spread(plane, shape)
        axes = varying(wide)
        at = where(target, part, axes[0]) if len(axes) == 1 else None
        if at is None:
            call.book.pin(plane, "it is written into a part of another tensor")
            continue
        axis, start = at
        ids = vector(wide, axes[0])
        if ids.numel() == target.shape[axis]:
            met(call, target, along(ids, axis, target.shape))
        else:
            ids = amid(call, target, axis, start, ids)
        planes.append(along(ids, axis, target.shape))
    written(call.tracer, target)
    call.tracer.mark(target, planes, "it has a fixed width")


def amid(call: Call, target: Tensor, axis: int, start: int, ids: Tensor) -> Tensor:
    """The ids along an axis of a tensor of one number of which a part takes these."""
    end = start + ids.numel()
    row = line(call.tracer, target, axis)
    if row is None:  # a network already cut
        row = call.book.fixed("nothing was written there", target.shape[axis]).clone()
        row[start:end] = ids
        return row
    call.book.unite(row[start:end], ids)
    if not by_share(call, row, start, end):
        call.book.pin(row, FIXED_PLACE)
    return row


def where(target: Tensor, part: Any, axis: int) -> tuple[int, int] | None:
    """The axis of `target` of which `target[part]` has entries in order along its own `axis`, and the first of them.
    None where there is none, or some are left out between."""
    for own, n in enumerate(target.shape):
        if own in places(target, part):
            continue
        got = compress(along(torch.arange(n), own, target.shape)[part])
        if varying(got) == (axis,):
            taken = vector(got, axis)
            first = int(taken[0])
            if torch.equal(taken, torch.arange(first, first + taken.numel())):
                return own, first
    return None


def overwritten(call: Call, target: Tensor, part: Any) -> None:
    """`x[part] = 0`: a number goes to a part of a channel axis, or to places that are computed."""
    like = isinstance(part, Tensor) and part.dtype == torch.bool and part.shape == target.shape
    computed = set() if like else places(target, part)
    written(call.tracer, target)
    for plane in call.label(target).planes:
        if computed & set(varying(plane)):
            call.book.pin(plane, COMPUTED)
        elif not any(isinstance(t, Tensor) for t in tree_iter(part)):
            had, taken = (torch.unique(spelled(p)).numel() for p in (plane, compress(plane[part])))
            if taken < had:
                call.book.pin(plane, FIXED_PLACE)
