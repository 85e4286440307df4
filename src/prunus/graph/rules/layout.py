"""Ops that move, repeat or drop positions: the same call is replayed on the planes."""

from __future__ import annotations

import functools
import math
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_iter

from ..blank import MOVED, blank, met, zeros
from ..labels import ZERO, along, compress, places, resized, spelled, varying, vector
from ..record import Call
from ..splits import Source, carried, chained, said, split, spoken
from ..told import Told
from .pointwise import join

FIXED_PLACE = "it is sliced at a fixed place"
FIXED_SIZES = "takes it apart into pieces of fixed sizes"


def replay(call: Call, out: Tensor) -> list[Tensor]:
    """View, permute, expand, flip …: the call itself, on each plane. Blocks of a split axis keep the same slots."""
    x, rest = call.args[0] if call.args else call.kwargs["input"], call.args[1:]
    named = {k: v for k, v in call.kwargs.items() if k != "input"}
    if isinstance(call.get(1, "dtype"), torch.dtype):
        return list(call.label(x).planes) if out.shape == x.shape else refused(call, x)
    func = torch.reshape if call.func is Tensor.view else call.func
    if func is torch.reshape:  # planes need not be contiguous where their tensor is
        rest, named = (out.shape,), {}
    source = carried(call, x, out, lambda plane: func(plane, *rest, **named))
    planes = [regular(call, p, compress(func(p, *rest, **named)), source, out) for p in call.label(x).planes]
    for plane in planes:
        spoken(call, plane)
    return apart(call, planes)


replay.repeats = MOVED  # type: ignore[attr-defined]


def apart(call: Call, planes: list[Tensor]) -> list[Tensor]:
    """Where axes became one, channels that are pinned anyway give way to others that run along it."""
    for axis in {d for p in planes for d in varying(p)} if len(planes) > 1 else ():
        mine = [p for p in planes if axis in varying(p)]
        if len(mine) > 1:
            free = [p for p in mine if not call.book.stays(p)] or mine[:1]
            gone = [p for p in mine if not any(p is q for q in free)]
            planes = [p for p in planes if not any(p is q for q in gone)]
    return planes


def refused(call: Call, x: Tensor) -> list[Tensor]:
    call.pin(x, f"{call.name} reads it as another type")
    return []


def regular(call: Call, before: Tensor, after: Tensor, source: Source | None, out: Tensor) -> Tensor:
    """Where one axis became several, positions stay apart along one of them and are tied along the others."""
    axes = varying(after)
    if len(axes) > max(1, len(varying(before))):
        free = split(call, after, axes, source, out)
        for axis in axes:
            if axis != free:
                call.book.tie(after, axis)
                after = after.narrow(axis, 0, 1).expand(after.shape)
    return after


def pixel_shuffle(call: Call, out: Tensor) -> list[Tensor]:
    """Each output channel is made of r² consecutive input channels, which go together."""
    planes = []
    for plane in call.label(call.args[0]).planes:
        after = compress(F.pixel_shuffle(plane, call.get(1, "upscale_factor")))
        for axis in (-1, -2):
            call.book.tie(after, axis)
            after = after.narrow(axis, 0, 1).expand(after.shape)
        planes.append(after)
    return planes


def columns(call: Call, out: Tensor) -> list[Tensor]:
    """`F.unfold`: every channel becomes as many neighbours as a window has places."""
    x = call.get(0, "input")
    planes = []
    for plane in call.label(x).planes:
        if x.dim() != 4 or varying(plane) != (1,):
            call.book.pin(plane, "its places are laid out as columns")
            continue
        ids = vector(plane, 1).repeat_interleave(out.shape[1] // x.shape[1])
        planes.append(ids[None, :, None].expand(out.shape))
    return planes


def folded(call: Call, out: Tensor) -> list[Tensor]:
    """`F.fold`: as many channels as a window has places, which go together, become one."""
    x = call.get(0, "input")
    planes = []
    for plane in call.label(x).planes:
        if x.dim() != 3 or varying(plane) != (1,):
            call.book.pin(plane, "its columns are laid out as places")
            continue
        ids = vector(plane, 1).reshape(out.shape[1], -1)
        call.book.tie(ids, 1)
        planes.append(ids[None, :, :1, None].expand(out.shape))
    return planes


def pieces(call: Call, out: Any) -> Any:
    """`chunk`, `split`, `tensor_split`, `unbind`: along a channel axis every piece keeps equally many."""
    x, rest = call.args[0] if call.args else call.kwargs["input"], call.args[1:]
    named = {k: v for k, v in call.kwargs.items() if k != "input"}
    results: list[list[Tensor]] = [[] for _ in out]
    unbinds = call.func.__name__ == "unbind"
    dim = call.get(1 if unbinds else 2, "dim", 0) % x.dim()
    for plane in call.label(x).planes:
        if dim in varying(plane):
            if unbinds:
                call.book.pin(plane, f"{call.name} {FIXED_SIZES}")
            else:
                apart_by(call, x, dim, [piece.shape[dim] for piece in out])
        for its, piece in zip(results, call.func(plane, *rest, **named), strict=True):
            its.append(compress(piece))
            call.book.part(its[-1])

    def piece_of(plane: Tensor, k: int) -> Tensor:
        taken: Tensor = call.func(plane, *rest, **named)[k]
        return taken

    for k, piece in enumerate(out):
        carried(call, x, piece, functools.partial(piece_of, k=k))
    return results


pieces.repeats = MOVED  # type: ignore[attr-defined]


def apart_by(call: Call, x: Tensor, dim: int, sizes: list[int]) -> None:
    """Equal pieces keep equally many. Of unequal ones those may shrink whose sizes are attributes of modules, which
    follow; where none is, each keeps its share of the whole. A packed weight keeps equally many of its smallest piece
    and of every part of that size."""
    ids = call.tracer.read(x, dim)
    given = call.get(1, "split_size_or_sections", call.kwargs.get("split_size", call.kwargs.get("split_sizes")))
    told = list(given) if isinstance(given, (tuple, list)) else [given] * len(sizes)
    told = sizes if call.func.__name__ in ("chunk", "tensor_split") else told
    rows, least = ids.split(sizes), min(sizes)
    if len(set(sizes)) == 1 or (id(x) in call.tracer.names and all(size % least == 0 for size in sizes)):
        if len(ids) > least > 0:
            call.book.evenly(ids.reshape(-1, least))
        said(call.tracer, told[0], rows[0])
        return
    alike: dict[Any, list[Tensor]] = {}
    if not any(isinstance(size, Told) for size in told) and by_share(call, ids, *accumulate(sizes)):
        return
    for row, size in zip(rows, told if len(told) == len(sizes) else sizes, strict=True):
        at = (size.path, size.name, size.place) if isinstance(size, Told) else None
        if at in alike or said(call.tracer, size, row):
            alike.setdefault(at, []).append(row)
        else:
            call.book.pin(row, f"{call.name} {FIXED_SIZES}")
    for its in alike.values():
        if len(its) > 1:
            call.book.evenly(torch.stack(its))


def index(call: Call, out: Tensor) -> list[Tensor]:
    """`x[...]`, `narrow`, `select`: on a channel axis only equal parts may be taken, and no fixed entries."""
    x, planes = call.args[0], []
    if out.numel() and not any(isinstance(t, Tensor) for t in tree_iter(call.args[1:])):
        carried(call, x, out, lambda plane: call.func(plane, *call.args[1:], **call.kwargs))
    masked = any(isinstance(t, Tensor) and t.dtype == torch.bool for t in tree_iter(call.args[1:]))
    masks = places(x, call.args[1]) if masked else set()
    for plane in call.label(x).planes:
        if masks and masks & set(varying(plane)):
            call.book.pin(plane, "it is selected by a mask of values")
            continue
        if not out.numel():
            call.book.pin(plane, "nothing is taken of it, so nothing shows what follows from it")
            continue
        after = compress(call.func(plane, *call.args[1:], **call.kwargs))
        call.book.part(after)
        if not between(call, x, plane):
            partial(call, plane, after)
        if varying(after):
            planes.append(after)
    return planes


index.repeats = MOVED  # type: ignore[attr-defined]


def between(call: Call, x: Tensor, plane: Tensor) -> bool:
    """Whether a channel axis is sliced between places that attributes of modules say, which follow what is kept."""
    axes, part = varying(plane), call.args[1] if call.func is Tensor.__getitem__ else None
    parts = list(part) if isinstance(part, tuple) else [part]
    if len(axes) != 1 or any(isinstance(p, (Tensor, list)) for p in parts):
        return False
    for k, item in enumerate(parts):
        if item is Ellipsis:
            rest = x.dim() - sum(p is not None and p is not Ellipsis for p in parts)
            parts[k : k + 1] = [slice(None)] * rest
            break
    parts = [p for p in parts if p is not None]
    its = parts[axes[0]] if axes[0] < len(parts) else None
    if not isinstance(its, slice) or its.step not in (None, 1):
        return False
    ends = [end for end in (its.start, its.stop) if end]
    line = vector(plane, axes[0])
    return bool(ends) and all([said(call.tracer, end, line[:end]) for end in ends])


def partial(call: Call, before: Tensor, after: Tensor) -> None:
    """What taking a part of a channel axis demands of it."""
    taken, had = torch.unique(spelled(after)), torch.unique(spelled(before))
    if taken.numel() == had.numel():
        axes = varying(after)
        if len(axes) == 1 and not torch.equal(taken, had.sort().values):
            call.book.pin(before, FIXED_PLACE)
        return
    axes = varying(before)
    line = before[tuple(slice(None) if d == axes[-1] else 0 for d in range(before.dim()))]
    kept = after[tuple(slice(None) if d in varying(after) else 0 for d in range(after.dim()))]
    start = int((line == kept.reshape(-1)[0]).nonzero()[0])
    end = start + kept.numel()
    if not (len(axes) == kept.dim() == 1 and torch.equal(line[start:end], kept) and by_share(call, line, start, end)):
        call.book.pin(before, FIXED_PLACE)


def by_share(call: Call, line: Tensor, *places: int) -> bool:
    """Whether the places that divide an axis may be shares of its width, as `width // 8` is: equal parts, of which the
    places are multiples, then keep equally many. Places that are written down as numbers show in a trial cut."""
    size = math.gcd(line.numel(), *places)
    if 1 < size < line.numel():
        call.book.evenly(line.reshape(-1, size))
    return size > 1


def concatenated(call: Call, out: Tensor) -> list[Tensor]:
    """`cat`, `stack`: along a channel axis the ids follow each other; along any other axis they are united. What has
    nothing on the axis of a `cat` may have something on another way, so what it meets stays."""
    tensors = list(call.get(0, "tensors"))
    dim = call.get(1, "dim", call.kwargs.get("axis", 0)) % out.dim()
    stacking = call.func.__name__ == "stack"
    tensors = [t for t in tensors if stacking or t.dim() == out.dim()]
    filled = [t for t in tensors if stacking or t.shape[dim]]
    for t in filled if len(filled) < len(tensors) else ():
        call.pin(t, "it meets an empty tensor, of which nothing shows what it may hold")
    tensors = filled
    if not tensors:
        return []
    ranks = [tuple(p.unsqueeze(dim) if stacking else p for p in call.label(t).planes) for t in tensors]
    shapes = [[*t.shape[:dim], 1, *t.shape[dim:]] if stacking else list(t.shape) for t in tensors]
    across = [[p for p in planes if dim not in varying(p)] for planes in ranks]
    probe = [*out.shape[:dim], 1, *out.shape[dim + 1 :]]
    operands = [
        (t.unsqueeze(dim) if stacking else t, [p.narrow(dim, 0, 1) for p in planes])
        for t, planes in zip(tensors, across, strict=True)
        if planes or not blank(call.tracer, t)
    ]
    for t in tensors:
        for _, planes in operands if blank(call.tracer, t) else ():
            for plane in planes:
                met(call, t, (plane.squeeze(dim) if stacking else plane.expand(out.shape)))
    fixed = [t for t, planes in zip(tensors, across, strict=True) if not planes and not blank(call.tracer, t)]
    for _, planes in operands:
        for plane in planes if fixed else ():
            call.book.pin(plane, call.label(fixed[0]).why)
    result = [p.expand(out.shape) for p in join(call, probe, [(t.narrow(dim, 0, 1), ps) for t, ps in operands])]
    if any(dim in varying(p) for planes in ranks for p in planes):
        rows = []
        for t, given, shape in zip(tensors, ranks, shapes, strict=True):
            mine = [p for p in given if dim in varying(p)]
            own = None if mine or stacking else zeros(call.tracer, t, dim)
            if own is not None:
                mine = [along(own, dim, shape)]
            rows.append(mine[0] if mine else call.book.fixed(call.label(t).why, 1).expand(shape))
        result.append(small_cat(rows, dim).expand(out.shape))
    if not stacking:
        chained(call, tensors, dim, out)
    return result


def small_cat(rows: list[Tensor], dim: int) -> Tensor:
    """Concatenate planes without spelling out the axes along which none of them varies."""
    used = {dim}.union(*(varying(row) for row in rows))
    return torch.cat(
        [row[tuple(slice(None) if d in used else slice(0, 1) for d in range(row.dim()))] for row in rows], dim
    )


def padded(call: Call, out: Tensor) -> list[Tensor]:
    """`F.pad`: on a channel axis constant padding adds positions that are no channel."""
    x, widths = call.get(0, "input"), list(call.get(1, "pad"))
    mode = call.get(2, "mode", "constant")
    touched = {x.dim() - 1 - k // 2 for k, width in enumerate(widths) if width}
    planes = []
    for plane in call.label(x).planes:
        if not touched & set(varying(plane)):
            planes.append(resized(plane, touched, out.shape))
        elif mode == "constant" and min(widths) >= 0:
            planes.append(compress(F.pad(plane, widths, value=ZERO)))
        else:
            call.book.pin(plane, f"it is padded with mode {mode}")
    return planes


REPLAY = """
view view_as reshape reshape_as permute transpose transpose_ swapaxes swapdims movedim moveaxis t flatten unflatten
ravel squeeze squeeze_ unsqueeze unsqueeze_ expand expand_as repeat tile flip fliplr flipud channel_shuffle
pixel_unshuffle diagonal atleast_1d atleast_2d atleast_3d repeat_interleave adjoint
""".split()

PIECES = "chunk split tensor_split unbind split_with_sizes unsafe_chunk unsafe_split".split()
INDEX = ["__getitem__", "narrow", "select"]
PROPERTIES = "T mT H mH data real imag".split()
