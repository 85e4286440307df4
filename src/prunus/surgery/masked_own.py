"""Ops with a rule of the user's own, in the masked network."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..errors import InputError
from ..graph.labels import varying, vector
from ..graph.own import Taught, unwatched
from ..graph.record import Call

if TYPE_CHECKING:
    from .masked import Masking

Kind = Callable[["Masking", Call], Any]


def own(mask: Masking, call: Call, rule: Taught, base: Kind | None, sums: tuple[Kind, ...]) -> Any:
    """The op as the rule says that it reads removed channels. `base` is how the op that it is like does."""
    if rule.reads == "zeros" or base in sums:
        args, kwargs = tree_map(functools.partial(mask.zeroed, call), (call.args, call.kwargs))
        return body(mask, call, args, kwargs)
    if rule.reads == "kept":
        return over_kept(mask, call, rule)
    if base is None:
        return body(mask, call, call.args, call.kwargs)

    @functools.wraps(rule.like or call.func)  # the kinds tell ops by their names
    def stand_in(*args: Any, **kwargs: Any) -> Any:
        return body(mask, call, args, kwargs)

    return base(mask, replace(call, func=stand_in))


def body(mask: Masking, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The op itself, with dropout off and in the precision of the proof."""
    from .masked import Neutral

    with unwatched(), Neutral(mask.double):
        return call.func(*args, **kwargs)


def over_kept(mask: Masking, call: Call, rule: Taught) -> Any:
    """The op over the kept entries of its operands, put back to their places in its result."""
    whole = body(mask, call, call.args, call.kwargs)
    if not isinstance(whole, Tensor) or rule.owner:
        raise InputError(f'the rule for {rule.name} says reads="kept", which is for functions with one result')
    if not mask.counted:
        args, kwargs = tree_map(functools.partial(mask.zeroed, call), (call.args, call.kwargs))
        return body(mask, call, args, kwargs)
    args, kwargs = tree_map(functools.partial(compact, mask, call), (call.args, call.kwargs))
    out = body(mask, call, args, kwargs)
    for plane in rule(call, whole):
        for axis in varying(plane):
            keep = kept(mask, plane, axis)
            if out.shape[axis] != whole.shape[axis]:
                out = mask.back(out, whole, axis, keep.to(out.device))
    return out


def compact(mask: Masking, call: Call, value: Any) -> Any:
    """A tensor without its removed entries."""
    if not isinstance(value, Tensor):
        return value
    out = value
    for plane in call.label(value).planes:
        for axis in varying(plane):
            keep = kept(mask, plane, axis)
            if keep.numel() < value.shape[axis] == out.shape[axis]:
                mask.compacted.setdefault(call.path or "forward")
                out = out.index_select(axis, keep.to(out.device))
    return out


def kept(mask: Masking, plane: Tensor, axis: int) -> Tensor:
    """Indices along an axis of the entries that are not removed, read at position 0 of all others."""
    line = vector(plane, axis)
    return torch.nonzero((line < 0) | ~mask.removed[line.clamp(min=0)]).reshape(-1)
