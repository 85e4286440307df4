"""Trace a model in eval and train mode and solve what is coupled."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..outline import Outline
from ..state import as_found, example_tensors, modules_of, seeded, tensors_of, uncollected, unwrapped
from .assemble import assemble
from .coupling import VALUES, Coupling, Group, solve
from .forward import outputs, run, shapes_alone, stored_statistics, traceable
from .labels import Book
from .plain import Plainly
from .record import Op, Tracer
from .residual import Residual, ancestors, residuals
from .rules import table
from .splits import Site, Splits
from .told import telling
from .watch import MODE, Reads, read_inside
from .whole import hold, shared_storage


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
    passes: tuple[Pass, ...]  # in eval and in train mode (one, where no code asks), of the example and each further one
    sites: tuple[Site, ...] = ()  # splits of a channel axis
    outline: Outline | None = None  # what was run in place of the model
    plain: bool = False  # no width was said by a number, nor could have been

    def pin(self, group: Group, why: str) -> None:
        """Keep a group of an earlier solution whole."""
        for m in group.members:
            if m.axis != VALUES:
                self.book.pin(self.book.axes["tensor", m.tensor, m.axis].ids[torch.from_numpy(m.positions)], why)

    @uncollected()
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


@uncollected()
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
    hollow = outline is not None
    reads: Reads = set()
    plain = hollow
    with as_found(one, values=not hollow), telling(one), torch.no_grad():
        for training in (False, True):
            if training and hollow and MODE not in {name for _, name in reads}:
                passes += passes
                break
            book.forward = int(training)
            tracer = Plainly(one, book, table(), execute, splits or Splits(), strict=hollow, outline=hollow)
            with read_inside() if hollow else contextlib.nullcontext(reads) as found_read:
                out, recorded = passed(tracer, one, sample, training)
            reads |= found_read
            plain &= tracer.plain and not tracer.unknown
            passes.append(recorded)
            unknown |= tracer.unknown
            sites += tracer.sites
            if not training:
                made = {op for t in outputs(out) if (op := tracer.label(t).op) is not None}
                sizes = {name: p.numel() for name, p in tensors_of(model, buffers=False).items()}
                every = residuals(tracer.ops, tracer.entered, made, sizes)
                found = tuple(r for r in every if replaceable(r, tracer, book))
    hold(model, book, pin)
    shared_storage(model, book)
    samples = inputs[0].shape[0] if inputs[0].dim() else 1
    plain &= all(name == MODE for _, name in reads)
    return Traced(model, book, found, tuple(unknown), samples, tuple(passes), tuple(sites), outline, plain)


def passed(tracer: Tracer, model: nn.Module, example: Any, training: bool) -> tuple[Any, Pass]:
    """One forward in a mode: what the model returned, which is pinned, and what was recorded."""
    for _, module in modules_of(model):
        module.training = training
    seeded()
    taken = len(tracer.book.parts)
    out = run(tracer, model, example)
    for tensor in outputs(out):
        for plane in tracer.label(tensor).planes:
            tracer.book.pin(plane, "it is the model's output")
    decides(tracer, {op for t in outputs(out) if (op := tracer.label(t).op) is not None})
    return out, Pass(tracer.ops, tracer.book.parts[taken:])


def decides(tracer: Tracer, results: Set[int]) -> None:
    """Pin what layers make that only decide which way the code goes, as the head of an early exit does on a sample that
    is not sure enough: on others it is an output."""
    live = ancestors(tracer.ops, results)
    todo = [op for op in tracer.escaped if op is not None]
    seen = set(todo)
    while todo:
        at = todo.pop()
        if at < 0 or at in live:
            continue
        op = tracer.ops[at]
        axes = (tracer.book.axes.get(("tensor", name, place)) for name in op.tensors for place in (0, 1))
        made = [axis.ids for axis in axes if axis is not None and axis.role == "out"]
        for ids in made:
            tracer.book.pin(ids, "it decides which way the code goes")
        new = set() if made else {k for k in op.inputs if k is not None} - seen
        seen |= new
        todo += new


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
        axis, ids = made.channels()
        if ids is None or len(made.taken) != len(made.shape):
            return False
        pairs = [p for d, p in enumerate(zip(made.taken, made.shape, strict=True)) if d != axis]
        if any(b == 0 or -(-a // -(-a // b)) != b for a, b in pairs):
            return False
        ratio = ",".join(str(-(-a // b)) for a, b in pairs)
        found.append((path, axis, f"{ratio};{made.items}", ids.clone()))
    for path, axis, role, ids in found:
        book.count("zero", path, axis, role, ids)
    return True
