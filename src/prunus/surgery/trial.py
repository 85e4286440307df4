"""A trial cut before any promise: widths written into the code or into attributes show themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ExampleError
from ..graph.coupling import Coupling
from ..graph.forward import run
from ..graph.labels import Book, Check
from ..graph.record import Op, Tracer
from ..graph.rules import table
from ..graph.trace import Pass, Traced
from ..plan import Plan, plan_for
from ..select import removal_order
from ..state import fresh, same_draws
from .cut import apply
from .masked import channel_ids, masked_tracer, neutral, removed_ids
from .proof import TOLERANCE, Trouble, as_double, default_dtype, doubled, eval_gap, groups_of, own_dtype, ran, trouble
from .unfold import exact

WRITTEN = "its width is written down in the code or in an attribute"
NUMBER = "its width is used as a number"
ROUNDING = 5e-6  # what two ways of adding up leave in single precision; a scale that is off leaves far more


def units(coupling: Coupling) -> list[frozenset[int]]:
    """Groups that shrink together."""
    linked = [frozenset(linked) for linked in coupling.links]
    return linked + [frozenset([g]) for g in range(len(coupling.groups)) if not any(g in mine for mine in linked)]


def trial(traced: Traced, coupling: Coupling, example: Any) -> Trouble | None:
    """Take the smallest steps, run the result and hold it against the dense run, unless it cannot but be the same."""
    if traced.plain:
        return None
    channels = traced.channels(coupling)
    for cut in cuts(traced, coupling, channels):
        found = cut_trial(traced, coupling, channels, example, cut)
        if found:
            return found
    return None


def elsewhere(traced: Traced, coupling: Coupling, examples: Sequence[Any]) -> Trouble | None:
    """What a network of which every group lost one step does otherwise on further examples than the dense one."""
    if not examples:
        return None
    plan, channels = step_plan(coupling), traced.channels(coupling)
    small = apply(traced.model, plan)
    for k, example in enumerate(examples, start=1):
        for training in (False, True):
            found, tracer = trouble(small, plan, example, training)
            if found:
                return replace(found, why=f"{WRITTEN}: {found.why}")
            forward = 2 * k + training
            for other in sliced(traced.passes[forward], tracer, channels, plan):
                return other
            numbers = list(computed(traced, forward, tracer, channels, plan))
            if numbers and not by_value(traced.model, small, plan, example, training):
                return numbers[0]
    return None


def cuts(traced: Traced, coupling: Coupling, channels: Tensor) -> Iterator[frozenset[int]]:
    """The sets of groups that trials cut: all; and where channel axes are split into heads, or code says widths by
    numbers, so many that any two groups (or links) are told apart: if it mixes them up, it may run as long as both
    shrink alike. Without heads those suffice that a view was told the width of, each told apart from all others too."""
    yield frozenset(range(len(coupling.groups)))
    every = units(coupling)
    codes = list(enumerate(every))
    if not any(site.known for site in traced.sites):
        said = spoken(traced, coupling, channels)
        codes = list(enumerate((unit for unit in every if unit & said), start=1))
    for bit in range(max((code for code, _ in codes), default=0).bit_length()):
        yield frozenset(g for code, unit in codes if code >> bit & 1 for g in unit)


def spoken(traced: Traced, coupling: Coupling, channels: Tensor) -> frozenset[int]:
    """Groups of which a view was given the width as a number."""
    said = [channels[ids[ids >= 0]] for ids in traced.book.spoken]
    return frozenset(groups_of(step_plan(coupling, frozenset()), said))


def cut_trial(
    traced: Traced, coupling: Coupling, channels: Tensor, example: Any, cut: frozenset[int]
) -> Trouble | None:
    """Cut some groups by one step and run the result: in both modes where all are cut and code asks for the mode, else
    in eval mode."""
    plan = step_plan(coupling, cut)
    outline = traced.outline
    small = apply(traced.model if outline is None else outline.model, plan)
    sample = example if outline is None else outline.example
    both = len(cut) == len(coupling.groups) and traced.passes[1] is not traced.passes[0]
    for training, dense in enumerate(traced.passes[: 1 + both]):
        found, tracer = trouble(small, plan, sample, bool(training), outline is not None, strict=outline is not None)
        if found:
            return replace(found, why=f"{WRITTEN}: {found.why}")
        for other in sliced(dense, tracer, channels, plan):
            return other
        found_numbers = list(computed(traced, training, tracer, channels, plan))
        if found_numbers and not (outline is None and by_value(traced.model, small, plan, example, bool(training))):
            return found_numbers[0]
    return None


def step_plan(coupling: Coupling, cut: frozenset[int] | None = None) -> Plan:
    """The plan that takes the smallest step from every group, or from some."""
    kept = []
    for g, group in enumerate(coupling.groups):
        if cut is not None and g not in cut:
            kept.append(np.arange(group.width))
            continue
        order, _ = removal_order(group, np.zeros(group.width))
        kept.append(np.sort(order[group.step if group.width - group.step >= group.floor else 0 :]))
    return plan_for(coupling, kept)


def sliced(dense: Pass, cut: Tracer, channels: Tensor, plan: Plan) -> Iterator[Trouble]:
    """Ops that take a part of a channel axis must take the same channels, less the removed ones."""
    removed = removed_ids(plan)
    if len(dense.parts) != len(cut.book.parts):
        return
    for before, after in zip(dense.parts, cut.book.parts, strict=True):
        want = torch.where(before >= 0, channels[before.clamp(min=0)], -2).reshape(-1)
        if not bool((want >= 0).any() | (after >= 0).any()):
            continue
        stays = (want < 0) | ~removed[want.clamp(min=0)]
        want, got = want[stays], after.reshape(-1)
        if want.shape != got.shape or not torch.equal(want.clamp(min=-2), got.clamp(min=-2)):
            yield Trouble(f"{WRITTEN}: a part of fixed size is taken of it", groups_of(plan, [want, got]))


def computed(traced: Traced, forward: int, cut: Tracer, channels: Tensor, plan: Plan) -> Iterator[Trouble]:
    """Numbers that an op computes with must not depend on the widths, unless they are softmax scales that the rows of
    a weight can make up for."""
    dense = traced.passes[forward]
    if [op.name for op in dense.ops] != [op.name for op in cut.ops]:
        return
    removed = removed_ids(plan)
    for index, (before, after) in enumerate(zip(dense.ops, cut.ops, strict=True)):
        if before.numbers != after.numbers and not (
            before.name == after.name and scales(traced.book, (forward, index), before, after, channels, removed)
        ):
            where = f"{after.name} in {after.path or 'forward'}"
            yield Trouble(f"{NUMBER}: {where} computes with it", groups_of(plan, after.planes), after.path)


def by_value(model: nn.Module, small: nn.Module, plan: Plan, example: Any, training: bool) -> bool:
    """Whether all numbers that ops compute with follow from values, as the number of boxes that a detector samples
    does: then the masked network, whose widths are the dense ones, computes with those of the cut network."""
    for double in (True, False):  # in their own dtype where the model takes no float64
        try:
            masked, cut = both_ran(model, small, plan, fresh(example), training, double)
        except ExampleError:
            continue
        return [(op.name, op.numbers) for op in masked.ops] == [(op.name, op.numbers) for op in cut.ops]
    return False


def both_ran(
    model: nn.Module, small: nn.Module, plan: Plan, example: Any, training: bool, double: bool
) -> tuple[Tracer, Tracer]:
    """What the masked and the cut network recorded in one forward."""
    with same_draws(model), default_dtype(torch.float64 if double else torch.get_default_dtype()):
        wide, narrow = (as_double(model), as_double(small)) if double else (model, small)
        sample = doubled(example) if double else example
        if double:
            exact(small, model, narrow, plan)
        masked, _ = masked_tracer(wide, plan, double=double)
        ran(wide, lambda: run(masked, wide, sample), training=training)
        ids, _ = channel_ids(plan, kept_only=True)
        cut = Tracer(narrow, Check(ids), table(), lambda call: neutral(call.func, call.args, call.kwargs, double))
        ran(narrow, lambda: run(cut, narrow, sample), training=training)
    return masked, cut


def scales(book: Book, at: tuple[int, int], before: Op, after: Op, channels: Tensor, removed: Tensor) -> bool:
    """Whether a number that differs between the dense and the cut run is a softmax scale that follows a width, and
    rows of a weight can make up for it. They do from now on."""
    for factor in book.folds.values():
        if at in factor.at and len(before.numbers) == len(after.numbers) == 1 and after.numbers[0]:
            mine = channels[factor.width.clamp(min=0)]
            stays = (factor.width < 0) | (mine < 0) | ~removed[mine.clamp(min=0)]
            want = math.sqrt(int(stays.sum()) / stays.numel())
            ratio = before.numbers[0] / after.numbers[0]
            if math.isclose(1 / ratio if "div" in before.name else ratio, want, rel_tol=1e-9):
                factor.sure = True
                return True
    return False


def differs(traced: Traced, example: Any) -> Trouble | None:
    """Where attention is cut, one step of every group is held against the masked network before it is promised."""
    if not traced.book.folds and not any(site.known for site in traced.sites):
        return None
    coupling = traced.coupling()
    if not coupling.folds and not any(site.known for site in traced.sites):
        return None
    plan = step_plan(coupling)
    small = apply(traced.model, plan)
    if own_dtype(traced.model, small, plan, example) <= ROUNDING:
        return None
    gap = eval_gap(traced.model, small, plan, example)
    return None if gap <= TOLERANCE else Trouble("the cut network differs from the masked one", (), "")
