"""Tensors of one number throughout, as `torch.zeros` makes them: starts of a scan, targets of a scatter.

They have no channels of their own. An op on each position takes the channels of what they meet, and what is written
into them brings its own. Only their size must follow: one that is written down fails in the trial cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter

from .labels import Check, varying, vector
from .splits import said

if TYPE_CHECKING:
    from .record import Call, Rule, Tracer

ZEROS = frozenset({"zeros", "new_zeros", "zeros_like", "zero_"})
MAKERS = ZEROS | {"ones", "full", "empty", "new_ones", "new_full", "new_empty", "ones_like", "full_like", "empty_like"}
MOVES = frozenset({"clone", "contiguous", "detach", "to", "type", "type_as", "float", "double", "half", "bfloat16"})
FILLED = frozenset({"tensor", "as_tensor", "scalar_tensor", "full", "new_full", "full_like", "new_tensor", "fill_"})
SUMMED = frozenset({"sum", "cumsum", "count_nonzero", "norm", "vector_norm", "logsumexp", "prod"})
"""Functions by what becomes of a number: it fills a result, is moved, is given, or is added up."""
MOVED = "as they are"
"""What `repeats` is of a rule by which entries move, and of no other."""


@dataclass
class Store:
    """The memory that views of one another share."""

    written: bool = False


@dataclass(eq=False)
class Blank:
    """What is known of such a tensor. `sizes`: what each axis was told to be, where that is known; `lines`: the ids of
    axes that were met."""

    store: Store
    zero: bool = False
    sizes: tuple[Any, ...] = ()
    lines: dict[int, Tensor] = field(default_factory=dict)


def blank(tracer: Tracer, tensor: Tensor) -> Blank | None:
    """What is known of a tensor that is one number throughout; None for any other."""
    found = tracer.blanks.get(tensor)
    return None if found is None or found.store.written else found


def sizes_alone(call: Call, operands: Sequence[Tensor]) -> bool:
    """Whether tensors are given as sizes of what is made, one number each, as recurrent layers do on packed batches."""
    given = call.func.__name__ in {"zeros", "ones", "empty"}
    return given and all(t.dim() == 0 and not t.is_floating_point() for t in operands)


def made(call: Call, out: Any) -> None:
    """A call that reads no tensor but for its sizes."""
    name = call.func.__name__
    if isinstance(out, Tensor) and out.dim() and name in MAKERS:
        told = [v for v in tree_iter((call.args, call.kwargs.get("size", ()))) if isinstance(v, int)][: out.dim()]
        sizes = tuple(told) if tuple(told) == tuple(out.shape) else ()
        call.tracer.blanks[out] = Blank(Store(), name in ZEROS, sizes)


def kept(call: Call, rule: Rule | None, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
    """What a call leaves of them: results that hold one number too, and tensors that do so no more."""
    tracer, name = call.tracer, call.func.__name__
    first = operands[0]
    if name.startswith("new_") and name in MAKERS and not tracer.label(results[0]).planes:
        sizes = call.args[1:] if isinstance(call.get(1, "size"), int) else call.get(1, "size", ())
        same = isinstance(sizes, (tuple, list)) and tuple(sizes) == tuple(results[0].shape)
        tracer.blanks[results[0]] = Blank(Store(), name in ZEROS, tuple(sizes) if same else ())
        return
    read = operands[:1] if name in MOVES else operands  # `to` and `type_as` take no numbers of another tensor
    same = getattr(rule, "repeats", False) and all(blank(tracer, t) for t in read)
    for result in results:
        if same:
            before = tracer.blanks[first]
            store = before.store if shares(result, first) else Store()
            zero = name in ZEROS or (before.zero and (name in MOVES or getattr(rule, "repeats", "") == MOVED))
            sizes = before.sizes if name in MOVES and result.shape == first.shape else ()
            if result is not first or name not in MOVES:
                tracer.blanks[result] = Blank(store, zero, sizes)
        else:
            written(tracer, result)


def shares(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are views of the same memory; `detach` and `.data` give some that say nothing of it."""
    try:
        return a is b or a.untyped_storage()._cdata == b.untyped_storage()._cdata
    except (RuntimeError, NotImplementedError):  # sparse tensors and those inside `vmap` tell nothing
        return True


def written(tracer: Tracer, tensor: Tensor) -> None:
    """The tensor, and what shares its memory, holds other numbers from now on."""
    found = tracer.blanks.get(tensor)
    if found is not None:
        found.store.written = True


def numbers(call: Call, operands: Sequence[Tensor]) -> tuple[float, ...]:
    """The numbers that a call makes entries of, or sums up as many times as there are entries."""
    name, found = call.func.__name__, []
    if name in FILLED:
        given = call.args[1:] if name in {"full", "full_like", "new_tensor", "fill_"} else call.args
        given = (call.get(2, "fill_value"),) if name == "new_full" else given
        given = tuple(tuple(v) if isinstance(v, torch.Size) else v for v in given)
        found = list(tree_iter((given, call.kwargs.get("fill_value"), call.kwargs.get("data"))))
    elif name in SUMMED:
        found = [n for t in operands if blank(call.tracer, t) for n in t.shape]
    return plain(found)


def plain(values: Iterable[Any]) -> tuple[float, ...]:
    """The numbers among values. What is no number is taken for infinite: it equals itself then."""
    found = (float(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool))
    return tuple(v if v == v else math.inf for v in found)


def line(tracer: Tracer, tensor: Tensor, axis: int) -> Tensor | None:
    """Ids along one axis of a tensor of one number, the same at every call; None where they are not handed out."""
    found = None if isinstance(tracer.book, Check) else blank(tracer, tensor)
    if found is None:
        return None
    axis %= tensor.dim()
    if axis not in found.lines:
        found.lines[axis] = tracer.book.loose(tensor.shape[axis])
        if found.sizes:
            said(tracer, found.sizes[axis], found.lines[axis])
    return found.lines[axis]


def zeros(tracer: Tracer, tensor: Tensor, axis: int) -> Tensor | None:
    """The ids along an axis that an op reads of zeros: of what it makes of them they change nothing."""
    found = blank(tracer, tensor)
    return line(tracer, tensor, axis) if found is not None and found.zero else None


def met(call: Call, tensor: Tensor, plane: Tensor) -> None:
    """An op on each position meets channels with a tensor of one number: it is as wide as they are many."""
    axes = varying(plane)
    axis = axes[0] - plane.dim() + tensor.dim() if axes else -1
    if len(axes) == 1 and axis >= 0 and tensor.shape[axis] == plane.shape[axes[0]]:
        ids = line(call.tracer, tensor, axis)
        if ids is not None:
            call.book.unite(vector(plane, axes[0]), ids)
            call.book.spoken.append(vector(plane, axes[0]).clone())  # a trial shows what said the size
