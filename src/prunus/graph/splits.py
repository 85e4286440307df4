"""Splits of a channel axis into heads and widths of heads, and the weights whose rows reach an attention.

`view(b, n, 3, heads, width)` leaves one choice: whole heads go, or the same slots of every head. Which axis means the
heads shows where a matrix product is batched along it. The choice is made for each class of modules, see `Choice`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import CodeType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_iter

from ..configs import entries, is_config
from .labels import Book, Check, Label, along, compress, spelled, varying, vector
from .told import Told

if TYPE_CHECKING:
    from .record import Call, Tracer

HEADS, WIDTH, NEITHER = "heads", "width", "neither"
OF_HEADS = re.compile(r"(^|_)(num|n)_?(\w+_)?(heads?|groups)$|heads$|^(n_?)?[hH]$")
OF_WIDTH = re.compile(
    r"dim|width|channel|embd|embed|feature|hidden|inner|planes|d_model|size|head_|^d_?([hkqv]|head)$|^(h_?)?[dD]$"
)
OF_PLACES = re.compile(r"window|patch|image|img|grid|seq|token|max_|vocab|stride|kernel|block|chunk|context|crop|batch")


@dataclass(frozen=True)
class Choice:
    """How the splits of a class of modules are read: what goes, whether the product of heads and width follows what
    the projection reads, and why neither may go."""

    keep: str
    linked: bool = False
    why: str = ""


@dataclass(eq=False)
class Site:
    """One split: the entries of the weight behind it, shaped as the axes that they were split into."""

    path: str
    nth: int
    kind: str
    ids: Tensor
    reads: Tensor | None
    heads: int | None = None  # the axis of `ids` along which a matrix product is batched
    width: int | None = None  # the axis of `ids` along which it runs

    @property
    def known(self) -> bool:
        """Whether both axes were found, and differ."""
        return self.heads is not None and self.width is not None and self.heads != self.width


@dataclass(frozen=True)
class Splits:
    """What an earlier trace found of the splits, by module path and number, and the choice by class of module."""

    sites: Mapping[tuple[str, int], Site] = field(default_factory=dict)
    choices: Mapping[str, Choice] = field(default_factory=dict)

    @classmethod
    def of(cls, sites: Sequence[Site], choices: Mapping[str, Choice]) -> Splits:
        """Sites of several passes: the first that knows its axes counts."""
        found: dict[tuple[str, int], Site] = {}
        for site in sites:
            at = (site.path, site.nth)
            if site.heads is not None and site.width is not None:
                found.setdefault(at, site)
        return cls(found, choices)


@dataclass(frozen=True, eq=False)
class Source:
    """Where a tensor comes from: `plane` has the entries of the weight that made it; `rows` those that it is
    proportional to (None where it is not), `width` the channels of which a product was the sum."""

    plane: Tensor | None
    rows: Tensor | None
    reads: Tensor | None = None
    width: Tensor | None = None
    sites: tuple[Site, ...] = ()


def source(call: Call, x: Tensor) -> Source | None:
    """The source of a tensor; a vector of parameters is its own."""
    found = call.tracer.sources.get(x)
    name = call.tracer.names.get(id(x))
    if found is None and name is not None and x.dim() == 1 and x not in call.tracer.labels and x.is_floating_point():
        ids = call.book.axis(name, 0, x.shape[0], "operand")
        return Source(ids, ids)
    return found


def carried(call: Call, x: Tensor, out: Tensor, how: Callable[[Tensor], Tensor]) -> Source | None:
    """A layout op moves the source of `x` to its result as it moves the values."""
    found = None if isinstance(call.book, Check) else source(call, x)
    if found is None or found.plane is None:
        return None
    plane = compress(how(found.plane))
    rows = plane if found.rows is found.plane else None if found.rows is None else compress(how(found.rows))
    moved = replace(found, plane=plane, rows=rows)
    call.tracer.sources[out] = moved
    return moved


def followed(call: Call, x: Tensor, out: Tensor) -> None:
    """A depthwise convolution: its result has the entries of its operand, and is not proportional to them."""
    found = call.tracer.sources.get(x)
    if found is not None and found.plane is not None and varying(found.plane) == (x.dim() - out.dim() + 1,):
        call.tracer.sources[out] = replace(found, plane=along(vector(found.plane, 1), 1, out.shape), rows=None)


def chained(call: Call, tensors: Sequence[Tensor], dim: int, out: Tensor) -> None:
    """`cat`: the sources follow each other, where there is one for every tensor."""
    found = [] if isinstance(call.book, Check) else [source(call, t) for t in tensors]
    known = [s for s in found if s is not None]
    planes = [s.plane for s in known if s.plane is not None]
    if planes and len(planes) == len(tensors):
        rows = [s.rows for s in known if s.rows is not None]
        sites = {id(site): site for s in known for site in s.sites}
        last = joined(rows, dim, out) if len(rows) == len(planes) else None
        call.tracer.sources[out] = Source(joined(planes, dim, out), last, known[0].reads, sites=tuple(sites.values()))


def joined(planes: Sequence[Tensor], dim: int, out: Tensor) -> Tensor:
    """Planes along an axis, without spelling out the axes along which none of them varies."""
    used = {dim}.union(*(varying(plane) for plane in planes))
    small = [p[tuple(slice(None) if d in used else slice(0, 1) for d in range(p.dim()))] for p in planes]
    return compress(torch.cat(small, dim).expand(out.shape))


def inherited(call: Call, out: Tensor) -> None:
    """An op on each position alone: the result has the entries of its first operand. It is proportional to them where
    the op copies, multiplies by what does not depend on them, or adds what is proportional to the same."""
    sources = call.tracer.sources
    operands = [a for a in (*call.args, *call.kwargs.values()) if isinstance(a, Tensor)]
    first = next((x for x in operands if x in sources and x.shape == out.shape), None)
    if first is None or out in sources:
        return
    name = call.func.__name__.strip("_")
    mine, others = sources[first], [sources.get(x) for x in operands if x is not first]
    linear = name in PROPORTIONAL and not any(others) and (first is operands[0] or "div" not in name)
    if name in SUM and len(others) == 1 and isinstance(others[0], Source):
        rows = others[0].rows
        linear = (
            mine.rows is not None
            and rows is not None
            and torch.equal(spelled(mine.rows).unique(), spelled(rows).unique())
        )
    sources[out] = mine if linear else replace(mine, rows=None)


def scaled(call: Call, x: Tensor) -> None:
    """A number multiplies what is proportional to the rows of a weight: should the number follow the width of a head,
    the rows can make up for it."""
    found = call.tracer.sources.get(x)
    if found is None or found.rows is None or isinstance(call.book, Check):
        return
    width = found.width
    if width is None:
        width = next((vector(p, -1) for p in call.label(x).planes if x.dim() - 1 in varying(p)), None)
    if width is not None:
        call.book.fold(found.rows, width, (call.book.forward, call.index))


def product(call: Call, a: Tensor, out: Tensor, shared: Tensor) -> None:
    """A matrix product is proportional to the rows behind its first operand."""
    source = call.tracer.sources.get(a)
    if source is not None and source.rows is not None and bool((shared >= 0).any()):
        call.tracer.sources[out] = Source(None, torch.unique(spelled(source.rows)), None, shared)


def batched(call: Call, x: Tensor, along: Collection[int] | None = None) -> None:
    """A matrix product shows which axes of a split are heads and which are widths. It is batched `along` these axes,
    all but the last two where nothing is said."""
    source = call.tracer.sources.get(x)
    if source is None or source.plane is None or x.dim() < 3:
        return
    if source.rows is not None and call.func is not F.scaled_dot_product_attention:
        call.tracer.weighed.add(int(spelled(source.rows).min()))
    for axis in varying(source.plane):
        line = torch.unique_consecutive(vector(source.plane, axis))[:2]
        for site in source.sites:
            places = [(site.ids == value).nonzero()[:1] for value in line]  # the first: heads may follow a batch
            if len(places) == 2 and all(map(len, places)):
                moved = (places[0] != places[1]).nonzero()[:, 1].tolist()
                if len(moved) == 1:
                    if axis in (range(x.dim() - 2) if along is None else along):
                        site.heads = moved[0] if site.heads is None else site.heads
                    else:
                        site.width = moved[0] if site.width is None else site.width


def split(call: Call, after: Tensor, axes: tuple[int, ...], source: Source | None, out: Tensor) -> int:
    """The axis of a split along which channels stay apart; they are tied along the others."""
    tracer, book = call.tracer, call.book
    sizes = sizes_of(call, after)
    last = next((axis for axis in axes if sizes and sizes[axis] == -1), axes[-1])  # what the code leaves open
    if isinstance(book, Check) or source is None or source.plane is None:
        return last
    nth = tracer.split.setdefault(call.path, 0)
    tracer.split[call.path] += 1
    kind = kind_of(call)
    ids = source.plane[tuple(slice(None) if d in axes else 0 for d in range(after.dim()))]
    site = Site(call.path, nth, kind, ids, source.reads)
    tracer.sites.append(site)
    tracer.sources[out] = replace(source, sites=(*source.sites, site))
    known, choice = tracer.splits.sites.get((call.path, nth)), tracer.splits.choices.get(kind)
    if known is None or known.heads is None or known.width is None:
        return last
    if choice is None or not known.known:
        return axes[known.width]
    if choice.keep == NEITHER:
        book.pin(after, choice.why)
        return axes[known.width]
    free = axes[known.heads if choice.keep == HEADS else known.width]
    stated(call, after, axes, known, free, choice)
    return free


def stated(call: Call, after: Tensor, axes: tuple[int, ...], site: Site, free: int, choice: Choice) -> None:
    """Attributes of the module that state the number that stays along `free`, or heads × width; and the link."""
    assert site.heads is not None and site.width is not None
    both = {axes[site.heads], axes[site.width]}
    line = torch.unique(vector(after, free))
    area = torch.unique(after[tuple(slice(None) if d in both else 0 for d in range(after.dim()))])
    mine = is_heads if choice.keep == HEADS else is_width
    for name in (*numbers(call, line.numel()), *settings(call, line.numel())):
        if mine(name.rpartition(".")[2]):
            state(call.book, call.path, name, line)
    for name in (*numbers(call, area.numel()), *settings(call, area.numel())):
        if is_width(name.rpartition(".")[2]):
            state(call.book, call.path, name, area)
    if choice.linked and site.reads is not None and site.reads.numel() == area.numel():
        call.book.links.append((line, site.reads, "heads × width must stay what the projection reads"))


def state(book: Book, path: str, name: str, ids: Tensor, place: int = 0) -> None:
    """An attribute states how many these are; if it states others too, both keep the same share."""
    known = book.axes.get(("attribute", f"{path}:{name}", place))
    if known is not None and known.ids.shape == ids.shape and not torch.equal(known.ids, ids):
        book.links.append((known.ids, ids, f"{name} of {path or 'the model'} states both widths"))
    book.count("attribute", path, place, name, ids)


def said(tracer: Tracer, number: Any, ids: Tensor) -> bool:
    """Whether a number in the code is an attribute of a module, which states from now on how many these are."""
    if not isinstance(number, Told) or number != ids.numel() or isinstance(tracer.book, Check):
        return False
    around = [path for _, path, _ in tracer.stack]
    if number.path not in around and not number.path.startswith(f"{around[-1]}." if around[-1] else ""):
        return False  # a cache of the user's own may hold the number of another module
    state(tracer.book, number.path, number.name, ids, number.place)
    return True


def compared(tracer: Tracer, number: Told, tensor: Tensor, label: Label) -> None:
    """An attribute that code holds against the size of the only axis of channels of that size."""
    name = number.name.rpartition(".")[2]
    if is_heads(name) or OF_PLACES.search(name):
        return
    axes = {axis: plane for plane in label.planes if len(varying(plane)) == 1 for axis in varying(plane)}
    found = [vector(plane, axis) for axis, plane in axes.items() if tensor.shape[axis] == int(number)]
    if len(found) == 1:
        said(tracer, number, found[0])


def kind_of(call: Call) -> str:
    """The class of the running module."""
    return f"{type(call.module).__module__}.{type(call.module).__qualname__}"


def is_heads(name: str) -> bool:
    return OF_HEADS.search(name) is not None


def is_width(name: str) -> bool:
    return bool(OF_WIDTH.search(name)) and not (is_heads(name) or OF_PLACES.search(name))


def numbers(call: Call, value: int) -> list[str]:
    """Attributes of the running module that are this number."""
    return [name for name, held in vars(call.module).items() if whole(held) and held == value]


def settings(call: Call, value: int) -> list[str]:
    """Entries of the running module's settings that are this number, and that the code of its class reads."""
    kind: Any = type(call.module)
    read, found = read_by(kind), []
    for name, held in vars(call.module).items():
        if name in read and is_config(name, held):
            found += [f"{name}.{key}" for key, v in entries(held).items() if key in read and v == value and whole(v)]
    return found


def whole(value: object) -> bool:
    """Whether a value is an integer above one."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 1


def sizes_of(call: Call, out: Tensor) -> list[Any]:
    """What a view was given for each axis of its result; nothing where it was given something else."""
    given = [v for v in tree_iter((call.args[1:], call.kwargs)) if isinstance(v, int)]
    fits = len(given) == out.dim() and all(a in (-1, b) for a, b in zip(given, out.shape, strict=True))
    return given if fits else []


def spoken(call: Call, after: Tensor) -> None:
    """A view in which a width is given as a number. Where an attribute of the module is that number, and none of its
    code reads it, it tells others of the width, and follows; one that is read is `said`, or means something else."""
    if isinstance(call.book, Check) or kind_of(call) in call.tracer.splits.choices:  # there `stated` knows more
        return
    given = {v for v in tree_iter((call.args[1:], call.kwargs)) if isinstance(v, int)}
    sizes = sizes_of(call, after)
    for axis in varying(after):
        if after.shape[axis] not in given or (sizes and sizes[axis] == -1):
            continue
        call.book.spoken.append(vector(after, axis).clone())  # a view would keep the plane
        if sizes and said(call.tracer, sizes[axis], vector(after, axis)):
            continue
        kind: Any = type(call.module)
        told = [name for name in numbers(call, after.shape[axis]) if is_width(name)]
        of_another = getattr(sizes[axis], "name", None) if sizes else None  # the same number, out of a shared cache
        if len(told) == 1 and (told[0] not in read_by(kind) or told[0] == of_another):
            call.book.count("attribute", call.path, 0, told[0], vector(after, axis))


@lru_cache(maxsize=1024)
def read_by(kind: type) -> frozenset[str]:
    """The names that the code of a class reads, but for that which makes its modules."""
    found: set[str] = set()
    for base in kind.__mro__:
        if base.__module__.startswith("torch."):
            continue
        for name, value in vars(base).items():
            code = getattr(inspect.unwrap(value), "__code__", None) if callable(value) else None
            stack = [code] if isinstance(code, CodeType) and name != "__init__" else []
            while stack:
                one = stack.pop()
                found.update(one.co_names)
                stack += [c for c in one.co_consts if isinstance(c, CodeType)]
    return frozenset(found)


def made_by(call: Call, out: Tensor, weight: Tensor, bias: Tensor | None, axis: int, read: Tensor) -> None:
    """A projection: its result has the rows of its weight along an axis, and is proportional to them with what is
    added to them."""
    tracer = call.tracer
    name = tracer.names.get(id(weight))
    if isinstance(tracer.book, Check):
        return
    if weight in tracer.labels:  # computed, or a part of a packed weight
        ids = next((vector(p, 0) for p in call.label(weight).planes if varying(p) == (0,)), None)
        if ids is not None:
            plane = along(ids, axis, out.shape)
            tracer.sources[out] = Source(plane, plane if bias is None else None, read)
        return
    if name is None:
        return
    ids = tracer.book.axis(name, 0, weight.shape[0], "out")
    plane = ids.reshape([-1 if d == axis % out.dim() else 1 for d in range(out.dim())]).expand(out.shape)
    added = source(call, bias) if bias is not None else None
    known = bias is None or (added is not None and added.rows is not None and bool((added.rows >= 0).all()))
    if known and added is not None and added.rows is not None:
        tracer.book.beside[name] = added.rows.clone()
    tracer.sources[out] = Source(plane, plane if known else None, read)


PROPORTIONAL = frozenset(
    """contiguous clone detach to type type_as float double half bfloat16 mul rmul imul multiply div divide true_divide
    truediv itruediv neg""".split()
)
SUM = frozenset("add radd iadd sub rsub isub".split())
