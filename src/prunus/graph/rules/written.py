"""`x[part] = value`: what is written into tensors, and what that demands of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter

from ..blank import blank, met, written
from ..labels import along, compress, places, spelled, spread, varying, vector
from ..record import Call
from .layout import FIXED_PLACE, partial
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
        partial(call, plane, compress(plane[part]))
        mine.append(spread(plane[part], shape))
    join(call, shape, [(target[part], mine), (value, [spread(p, shape) for p in given])])
    return []


set_item.statement = True  # type: ignore[attr-defined]


def filled(call: Call, target: Tensor, part: Any, given: Sequence[Tensor]) -> None:
    """`x[part] = value`, x of one number: it takes the channels of the value, where they go to the whole of an axis."""
    shape = target[part].shape
    planes: list[Tensor] = []
    for plane in given:
        wide = spread(plane, shape)
        axes = varying(wide)
        axis = whole(target, part, axes[0]) if len(axes) == 1 else None
        if axis is None:
            call.book.pin(plane, "it is written into a part of another tensor")
            continue
        met(call, target, along(vector(wide, axes[0]), axis, target.shape))
        planes.append(along(vector(wide, axes[0]), axis, target.shape))
    written(call.tracer, target)
    call.tracer.mark(target, planes, "it has a fixed width")


def whole(target: Tensor, part: Any, axis: int) -> int | None:
    """The axis of `target` of which `target[part]` has all entries, in order, along its own `axis`."""
    for own, n in enumerate(target.shape):
        if own in places(target, part):
            continue
        got = compress(along(torch.arange(n), own, target.shape)[part])
        if varying(got) == (axis,) and torch.equal(vector(got, axis), torch.arange(n)):
            return own
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
