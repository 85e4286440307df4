"""Trace a model in eval and train mode and solve what is coupled."""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from ..errors import ExampleError, ModelError, PrunusError, UnknownName
from ..outline import Outline, shape_of
from ..state import (
    as_found,
    call_model,
    example_tensors,
    fresh,
    modules_of,
    seeded,
    tensors_of,
    ties,
    uncheckpointed,
    unwrapped,
)
from .coupling import (
    VALUES,
    Attribute,
    Coupling,
    Form,
    Group,
    Ints,
    Member,
    Pinned,
    Solved,
    Work,
    Zero,
    form_of,
    layer,
    positions_of,
    solve,
)
from .flow import flow
from .folds import folds_of
from .labels import Book
from .links import sets
from .record import Call, Op, Tracer, op_name
from .residual import Residual, residuals
from .rules import table
from .splits import Site, Splits
from .told import telling

BATCH_NORM_TRAINING = 5


def stored_statistics(call: Call) -> Any:
    """Batch norm in train mode reads its stored statistics while a model is traced, so that one sample is enough."""
    if call.func is F.batch_norm and call.get(BATCH_NORM_TRAINING, "training", False):
        x, mean, var = call.args[0], call.get(1, "running_mean"), call.get(2, "running_var")
        if mean is None:
            shape = (1, x.shape[1])
            mean, var = x.new_zeros(shape[1]), x.new_ones(shape[1])
        return F.batch_norm(x, mean, var, call.get(3, "weight"), call.get(4, "bias"), False)
    return call.func(*call.args, **call.kwargs)


def shapes_alone(call: Call) -> Any:
    """The result of a call on an outline."""
    with torch._C._DisableTorchDispatch():  # the witness looks at what runs outside of calls
        found = shape_of(call.func, call.args, call.kwargs)
        return stored_statistics(call) if found is None else found


def run(tracer: Tracer, model: nn.Module, example: Any) -> Any:
    """One forward under the tracer. What goes wrong inside is told with the module, the op and the shapes."""
    at: list[str] = []
    tracer.failed = ()
    given_execute = tracer.execute
    inner = given_execute or (lambda call: call.func(*call.args, **call.kwargs))

    def execute(call: Call) -> Any:
        try:
            return inner(call)
        except PrunusError:
            raise
        except Exception:
            shapes = [tuple(t.shape) for t in tree_iter((call.args, call.kwargs)) if isinstance(t, Tensor)]
            tracer.failed = tuple(t for t in tree_iter((call.args, call.kwargs)) if isinstance(t, Tensor))
            tracer.failed_in = call.path
            at.append(f"in {call.path or 'forward'}, {op_name(call.func)} on {', '.join(map(str, shapes))}")
            raise

    tracer.execute = execute
    try:
        given = fresh(example)
        for tensor in example_tensors(given):
            tracer.mark(tensor, (), "it meets the model's input")
        with tracer.watching(), uncheckpointed():
            return call_model(model, given)
    except PrunusError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in example_tensors(example))
        where = f" {at[0]}:" if at else ""
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExampleError(f"the model refuses the example {shapes}:{where} {line}") from error
    finally:
        tracer.execute = given_execute  # the closure holds the tracer, which would outlive this call


def traceable(model: nn.Module) -> nn.Module:
    """The model itself; what cannot be traced is refused by name with a ModelError."""
    for path, module in model.named_modules():
        kind = type(module).__name__
        where = f"{path or 'the model'} is a {kind}"
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(f"{where}: scripted modules cannot be cut; pass the eager model")
        if "FullyShardedDataParallel" in kind or kind.startswith("FSDP"):
            raise ModelError(f"{where}: gather the parameters first, then prune the plain module")
        if ".quantized" in type(module).__module__ and type(module).__module__.startswith("torch."):
            raise ModelError(f"{where}: prune before quantising")
    return model


def outputs(tree: Any, depth: int = 4) -> Iterator[Tensor]:
    """Every tensor a model returned, inside containers, dataclasses and plain objects."""
    for leaf in tree_iter(tree):
        if isinstance(leaf, Tensor):
            yield leaf
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            yield from outputs([getattr(leaf, f.name) for f in fields(leaf)], depth - 1)
        elif depth and hasattr(leaf, "__dict__") and not isinstance(leaf, (type, nn.Module)):
            yield from outputs(list(vars(leaf).values()), depth - 1)


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward: its ops, and what they took of channel axes."""

    ops: list[Op]
    parts: list[Tensor]


@dataclass
class Traced:
    """What tracing a model recorded. `pin` adds to it, `coupling` solves it."""

    model: nn.Module
    book: Book
    residuals: tuple[Residual, ...]
    unknown: tuple[str, ...]
    samples: int
    passes: tuple[Pass, ...]  # in eval and in train mode, of the example and then of each further one
    sites: tuple[Site, ...] = ()  # splits of a channel axis
    outline: Outline | None = None  # what was run in place of the model

    def pin(self, group: Group, why: str) -> None:
        """Keep a group of an earlier solution whole."""
        for m in group.members:
            if m.axis != VALUES:
                self.book.pin(self.book.axes["tensor", m.tensor, m.axis].ids[torch.from_numpy(m.positions)], why)

    def coupling(self) -> Coupling:
        solved, blocks = solve(self.book)
        return assemble(self, solved, blocks)

    def channels(self, coupling: Coupling) -> Tensor:
        """By id: the channel that it is, counted through all groups in order, -2 where it belongs to none."""
        found, start = torch.full((self.book.size,), -2), 0
        for group in coupling.groups:
            for m in group.members:
                if m.axis != VALUES:
                    ids = self.book.axes["tensor", m.tensor, m.axis].ids[torch.from_numpy(m.positions)]
                    found[ids] = torch.arange(start, start + group.width)[:, None]
            start += group.width
        return found


def observe(
    model: nn.Module,
    example: Any,
    *,
    pin: Sequence[str | nn.Module] = (),
    splits: Splits | None = None,
    outline: Outline | None = None,
) -> Traced:
    """Run `model` on `example` in eval and in train mode and record what its ops demand. Changes nothing.

    `example` is a tensor, a tuple of positional inputs or a dict of keyword inputs. `pin` names modules or tensors
    (globs allowed) that stay whole. `splits` says how channel axes are split into heads and widths. `outline` is run
    in place of the model. Raises ExampleError where the model refuses the example, ModelError where it cannot be
    traced.
    """
    model = traceable(unwrapped(model))
    one, sample = (model, example) if outline is None else (outline.model, outline.example)
    execute = stored_statistics if outline is None else shapes_alone
    book = Book()
    inputs = example_tensors(example)
    unknown: dict[str, None] = {}
    found: tuple[Residual, ...] = ()
    passes: list[Pass] = []
    sites: list[Site] = []
    with as_found(one, values=outline is None), telling(one), torch.no_grad():
        for training in (False, True):
            for _, module in modules_of(one):
                module.training = training
            book.forward = int(training)
            hollow = outline is not None
            tracer = Tracer(one, book, table(), execute, splits or Splits(), strict=hollow, outline=hollow)
            seeded()
            taken = len(book.parts)
            out = run(tracer, one, sample)
            passes.append(Pass(tracer.ops, book.parts[taken:]))
            for tensor in outputs(out):
                for plane in tracer.label(tensor).planes:
                    book.pin(plane, "it is the model's output")
            unknown |= tracer.unknown
            sites += tracer.sites
            if not training:
                made = {op for t in outputs(out) if (op := tracer.label(t).op) is not None}
                sizes = {name: p.numel() for name, p in model.named_parameters(remove_duplicate=False)}
                every = residuals(tracer.ops, tracer.entered, made, sizes)
                found = tuple(r for r in every if replaceable(r, tracer, book))
    hold(model, book, pin)
    shared_storage(model, book)
    samples = inputs[0].shape[0] if inputs[0].dim() else 1
    return Traced(model, book, found, tuple(unknown), samples, tuple(passes), tuple(sites), outline)


def couple(model: nn.Module, example: Any, *, pin: Sequence[str | nn.Module] = ()) -> Coupling:
    """What is coupled in `model`, found by running it on `example`; see `observe`."""
    return observe(model, example, pin=pin).coupling()


def replaceable(residual: Residual, tracer: Tracer, book: Book) -> bool:
    """Whether zeros of the right shapes can stand for the modules of the branch; if so, their widths are counted from
    now on. A module between that keeps the shape needs none: its input passes."""
    found = []
    for path in residual.modules:
        made = tracer.made.get(path)
        if made is None:
            return False
        if path != residual.modules[-1] and made.shape == made.taken and not made.items:
            continue
        if made.ids is None or len(made.taken) != len(made.shape):
            return False
        pairs = [p for d, p in enumerate(zip(made.taken, made.shape, strict=True)) if d != made.axis]
        if any(b == 0 or -(-a // -(-a // b)) != b for a, b in pairs):
            return False
        ratio = ",".join(str(-(-a // b)) for a, b in pairs)
        found.append((path, made.axis, f"{ratio};{made.items}", made.ids))
    for path, axis, role, ids in found:
        book.count("zero", path, axis, role, ids)
    return True


def hold(model: nn.Module, book: Book, pin: Sequence[str | nn.Module]) -> None:
    """Pin what the user asked to keep."""
    paths = {id(m): path for path, m in model.named_modules()}
    owners = sorted({axis.owner for axis in book.axes.values() if axis.kind == "tensor"})
    for wish in pin:
        if isinstance(wish, nn.Module) and id(wish) not in paths:
            raise UnknownName(f"pin: a {type(wish).__name__} that is no module of this model")
        pattern = paths[id(wish)] if isinstance(wish, nn.Module) else wish
        hit = [o for o in owners if fnmatch.fnmatch(o, pattern) or under(o, pattern)]
        if not hit and pattern not in paths.values():
            raise UnknownName.of("module or tensor to pin", pattern, [layer(o) for o in owners])
        for (kind, owner, _), axis in book.axes.items():
            if kind == "tensor" and owner in hit:
                book.pin(axis.ids, "asked by the user")


def under(tensor: str, pattern: str) -> bool:
    """Whether a tensor lies in a module that the pattern matches."""
    parts = tensor.split(".")
    return any(fnmatch.fnmatch(".".join(parts[:k]), pattern) for k in range(1, len(parts)))


def shared_storage(model: nn.Module, book: Book) -> None:
    """Different tensors on one piece of memory cannot be cut apart: pin them."""
    held: dict[int, set[int]] = {}
    names: dict[int, set[str]] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        where = tensor.untyped_storage().data_ptr()
        if where:
            held.setdefault(where, set()).add(id(tensor))
            names.setdefault(where, set()).add(name)
    crowded = {name for where, ids in held.items() if len(ids) > 1 for name in names[where]}
    for axis in list(book.axes.values()) if crowded else ():
        if axis.kind == "tensor" and axis.owner in crowded:
            book.pin(axis.ids, f"{axis.owner} shares its memory with another tensor")


def assemble(traced: Traced, solved: Solved, blocks: Mapping[int, Ints]) -> Coupling:
    """The public result."""
    model, book = traced.model, traced.book
    members: list[list[Member]] = [[] for _ in solved.roots]
    forms: dict[tuple[str, str, int], Form] = {}
    attributes, zeros = [], []
    known: dict[tuple[int, int, int], Form] = {}  # many axes share one vector of ids
    for key, axis in book.axes.items():
        vector = (axis.ids.data_ptr(), axis.ids.numel(), axis.ids.stride(0))
        if vector not in known:
            known[vector] = form_of(axis, solved)
        forms[key] = known[vector]
        if axis.kind == "attribute" and forms[key].terms:
            attributes.append(Attribute(axis.owner, axis.role, axis.place, forms[key]))
        elif axis.kind == "zero":
            ratio, _, items = axis.role.partition(";")
            sizes = tuple(map(int, ratio.split(","))) if ratio else ()
            zeros.append(Zero(axis.owner, axis.place, sizes, forms[key], int(items)))
        elif axis.kind in {"tensor", "values"}:
            place = axis.place if axis.kind == "tensor" else VALUES
            for g, positions in positions_of(axis, solved).items():
                members[g].append(Member(axis.owner, place, axis.role, positions))
    named, parameters = tensors_of(model), dict(model.named_parameters())
    tensors = {
        name: tuple(forms.get(("tensor", name, d), Form(n)) for d, n in enumerate(p.shape))
        for name, p in parameters.items()
    }
    pinned = pins(book, solved)
    groups: list[Group] = []
    single: list[Pinned] = []
    keep: dict[int, int] = {}
    for g, its in enumerate(members):
        if solved.roots[g].size == 1:
            single.append(Pinned(title(its), 1, "it is the only channel of its layer"))
            continue
        keep[g] = len(groups)
        groups.append(Group(title(its), int(solved.roots[g].size), tuple(its), blocks.get(g)))

    def renumbered(form: Form) -> Form:
        fixed = form.fixed + sum(times for g, times in form.terms if g not in keep)
        return Form(fixed, tuple((keep[g], times) for g, times in form.terms if g in keep))

    links = [tuple(sorted(keep[g] for g in linked)) for linked in sets(book, solved)]
    for linked in links:
        share = math.gcd(*(groups[g].width // groups[g].parts for g in linked))
        for g in linked:
            groups[g] = replace(groups[g], unit=groups[g].width // share)
    return Coupling(
        groups=unique_names(groups),
        pinned=(*pinned, *single),
        unknown_ops=traced.unknown,
        blocks=traced.residuals,
        zeros=tuple(replace(z, width=renumbered(z.width)) for z in zeros),
        work=tuple(Work(t.path, t.op, t.times, tuple(renumbered(forms[k]) for k in t.factors)) for t in book.terms),
        tensors={name: tuple(map(renumbered, fs)) for name, fs in tensors.items()},
        attributes=tuple(replace(a, form=renumbered(a.form)) for a in attributes),
        samples=traced.samples,
        fixed_macs=0,
        links=tuple(sorted(links)),
        folds=tuple(replace(f, width=renumbered(f.width)) for f in folds_of(book, solved)),
        steps=flow(traced.passes[0].ops, {term.op for term in book.terms}),
        fingerprint={n: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for n, t in named.items()},
        tied=ties(named),
    )


def title(members: Sequence[Member]) -> str:
    """A group is called after its first producer, else after its first tensor."""
    made = [m for m in members if m.role == "out"] or list(members)
    return layer(made[0].tensor)


def unique_names(groups: list[Group]) -> tuple[Group, ...]:
    """Groups of one layer are told apart by the entries they own on its axis."""
    total, seen = Counter(g.name for g in groups), Counter[str]()
    found = []
    for group in groups:
        found.append(group if total[group.name] == 1 else replace(group, name=f"{group.name}:{seen[group.name]}"))
        seen[group.name] += 1
    return tuple(found)


def pins(book: Book, solved: Solved) -> tuple[Pinned, ...]:
    """One entry for each layer axis that holds pinned channels, with the first reason."""
    found: dict[tuple[str, str], Pinned] = {}
    for axis in book.axes.values():
        if axis.kind != "tensor" or axis.role not in {"out", "in", "operand", "index"}:
            continue
        ids = axis.ids.numpy()
        stuck = solved.root[ids][solved.pinned[solved.root[ids]]]
        if stuck.size:
            side = {"out": "outputs", "in": "inputs"}.get(axis.role, f"axis {axis.place}")
            key = (layer(axis.owner) if side in {"outputs", "inputs"} else axis.owner, side)
            found.setdefault(key, Pinned(f"{key[0]} {side}", int(stuck.size), solved.reason[int(stuck[0])]))
    return tuple(found.values())


def nothing(coupling: Coupling) -> ModelError:
    """Why a model has nothing to prune."""
    reasons = list(dict.fromkeys(f"{p.name}: {p.reason}" for p in coupling.pinned))
    why = "; ".join(reasons[:3]) if reasons else "no convolution or linear layer was reached"
    return ModelError(f"nothing to prune in this model ({why})")
