"""One train step of the masked network and one of the cut: outputs, running statistics and gradients.

The two networks run one after the other. Gradients are taken as they come, and of the masked network only the entries
that the plan keeps, so that the largest models are proven in little more memory than a step of their own takes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ExampleError
from ..graph.coupling import VALUES
from ..graph.forward import outputs, run
from ..plan import Bools, Plan
from ..state import as_found, modules_of, seeded
from .differences import (
    SMALL,
    buffer_difference,
    compared,
    finite_size,
    gap_size,
    minus,
    relative,
    size_of,
    sketch,
    worth_sketching,
)
from .layers import Outer, Take, parted
from .masked import masked_tracer, neutral_run
from .samples import SAMPLES, Way, batched
from .unfold import kept_entries, kept_lines, unfolded

NO_BACKWARD = "no gradients were compared, since the model has no backward"


@dataclass(frozen=True, eq=False)
class Ahead:
    """What one train forward of the masked network left, of all norms and without gradients."""

    batch: Any
    outputs: list[Tensor]
    statistics: dict[str, Tensor]

    def against(self, narrow: nn.Module) -> tuple[float, float]:
        """The differences of the same forward of the cut network: of its outputs and of its running statistics."""
        with as_found(narrow):
            result = forwarded(narrow, lambda: neutral_run(narrow, self.batch, True))
            statistics = buffer_difference(self.statistics, dict(narrow.named_buffers()))
        return compared(self.outputs, result, "train outputs"), statistics


@dataclass(eq=False)
class Step:
    """What one train step of the masked network left. still: the norms that were in eval mode; ahead: a forward that
    was compared before, with norms that are not in it."""

    batch: Any
    still: frozenset[str] = frozenset()
    ahead: Ahead | None = None
    outputs: list[Tensor] = field(default_factory=list)
    statistics: dict[str, Tensor] = field(default_factory=dict)  # kept entries of buffers
    gradients: dict[str, Tensor] = field(default_factory=dict)  # of kept entries, or a sketch of them
    sizes: dict[str, float] = field(default_factory=dict)  # the largest of kept entries
    sketched: set[str] = field(default_factory=set)
    largest: float = 0.0  # of all gradients, those of removed entries too
    backward: bool = True  # whether it went through

    def against(self, narrow: nn.Module, plan: Plan, notes: list[str]) -> tuple[float, float, float]:
        """The differences of the same step of the cut network, whose gradients are subtracted from those kept here."""
        masks = plan.masks()
        sizes = {name: max(size, SMALL * self.largest) for name, size in self.sizes.items()}
        folded = {name for name, _ in plan.factors()}
        left: set[str] = set()
        lone = 0.0

        def take(name: str, gradient: Tensor | Outer) -> None:
            nonlocal lone
            if isinstance(gradient, Outer):
                straight = name in self.sketched and name not in folded
                got = gradient.sketch() if straight else unfolded(gradient.whole(), name, plan, masks)
            else:
                straight, got = False, unfolded(gradient, name, plan, masks)
            if name in self.gradients:
                left.add(name)
                got = sketch(got) if name in self.sketched and not straight else got
                self.gradients[name] = minus(self.gradients[name], got, in_place=True)
            else:
                lone = max(lone, gap_size(got))

        before = self.ahead.against(narrow) if self.ahead else (0.0, 0.0)
        result = stepped(narrow, lambda: neutral_run(narrow, self.batch, True), self.still, notes, take)
        in_train = max(before[0], compared(self.outputs, result, "train outputs"))
        statistics = max(before[1], buffer_difference(self.statistics, dict(narrow.named_buffers())))
        if failure(notes):
            return in_train, statistics, 0.0
        if not self.largest:
            notes.append("no gradients were compared: in the masked network there are none, or all are zero")
        for name, _ in narrow.named_parameters():
            if name in self.gradients and name not in left:
                lone = max(lone, gap_size(self.gradients[name]))
        gaps = [relative(size_of(self.gradients[name]), sizes[name]) for name in left]
        return in_train, statistics, max([*gaps, relative(lone, self.largest)])


def masked_step(renew: Callable[[], nn.Module], plan: Plan, sample: Any, way: Way, notes: list[str]) -> Step:
    """One train step of the masked network, made from the float64 copy that `renew` gives: on the example's own first
    samples if so many are enough and more would say nothing, else on a batch of four where it can be made one."""
    several = batched(sample, SAMPLES[-1])
    if way.count != SAMPLES[-1]:
        own = list[str]()
        with contextlib.suppress(ExampleError):
            wide = renew()
            ahead = masked_forward(wide, plan, several) if way.still else None
            found = taken_step(wide, plan, sample, batched(sample, way.count), own, way.still)
            if found.largest and not own:
                found.ahead = ahead
                return found
    return taken_step(renew(), plan, sample, several, notes)


def masked_forward(wide: nn.Module, plan: Plan, batch: Any) -> Ahead:
    """A train forward of the masked network, after which it is as it was."""
    tracer, _ = masked_tracer(wide, plan, double=True)
    with as_found(wide):
        made = forwarded(wide, lambda: run(tracer, wide, batch))
        return Ahead(batch, made, kept_buffers(wide, plan.masks()))


def forwarded(model: nn.Module, forward: Callable[[], Any]) -> list[Tensor]:
    """Outputs of one train forward without gradients; running statistics are left on the model."""
    in_train_mode(model, frozenset())
    with torch.no_grad():
        return [t.detach().clone() for t in outputs(forward())]


def in_train_mode(model: nn.Module, still: frozenset[str]) -> None:
    """All modules but these, with the random states of every step."""
    for name, module in modules_of(model):
        module.training = name not in still
    seeded()


def norms_of(model: nn.Module) -> frozenset[str]:
    """The modules that keep running statistics."""
    return frozenset(name for name, module in modules_of(model) if hasattr(module, "running_mean"))


def kept_buffers(wide: nn.Module, masks: Mapping[tuple[str, int], Bools]) -> dict[str, Tensor]:
    """Of each buffer of the masked network the entries that the plan keeps, but of those that hold channel numbers."""
    return {
        name: kept_entries(buffer, name, masks).clone()
        for name, buffer in wide.named_buffers()
        if buffer.numel() and (name, VALUES) not in masks
    }


def taken_step(
    wide: nn.Module, plan: Plan, sample: Any, batch: Any, notes: list[str], still: frozenset[str] = frozenset()
) -> Step:
    """The train step on a batch, or on the sample with norms in eval mode where there is none or it does not go. The
    network has no parameters afterwards."""
    masks = plan.masks()
    before = {name: buffer.clone() for name, buffer in wide.named_buffers()}
    found = Step(batch, still)

    def take(name: str, gradient: Tensor | Outer) -> None:
        if isinstance(gradient, Outer):
            size, few = gradient.size(), gradient.kept(kept_lines(name, masks, 2, gradient.read.device))
            if few.thin and math.isfinite(size):
                found.largest = max(found.largest, size)
                found.sizes[name], found.gradients[name] = few.size(), few.sketch()
                found.sketched.add(name)
                return
            gradient = gradient.whole()
        found.largest = max(found.largest, finite_size(gradient))
        kept = kept_entries(gradient, name, masks)
        found.sizes[name] = max(finite_size(kept), found.sizes.get(name, 0.0))
        if name in found.sketched or (name not in found.gradients and worth_sketching(kept)):
            kept = sketch(kept)
            found.sketched.add(name)
        found.gradients[name] = found.gradients[name] + kept if name in found.gradients else kept

    def step() -> list[Tensor]:
        tracer, _ = masked_tracer(wide, plan, double=True)
        return stepped(wide, lambda: run(tracer, wide, found.batch), found.still, notes, take)

    try:
        if batch is None:
            raise ExampleError("no batch axis")
        found.outputs = step()
    except ExampleError:  # an example without a batch axis, or a model that takes no other batch size
        notes.append("the example cannot be made a batch of several: norms stayed in eval mode")
        for name, buffer in wide.named_buffers():
            buffer.copy_(before[name])
        found = Step(sample, norms_of(wide))
        found.outputs = step()
    found.statistics = kept_buffers(wide, masks)
    found.backward = not failure(notes)
    return found


def has_backward(model: nn.Module, step: Step) -> bool:
    """Whether the same step of a network that nothing intercepts goes through."""
    notes = list[str]()
    stepped(model, lambda: neutral_run(model, step.batch, True), step.still, notes, lambda name, gradient: None)
    return not failure(notes)


def failure(notes: list[str]) -> str:
    """Why a backward failed, as noted."""
    return next((note[len(NO_BACKWARD) :] for note in notes if note.startswith(NO_BACKWARD)), "")


def stepped(
    model: nn.Module,
    forward: Callable[[], Any],
    still: frozenset[str],
    notes: list[str],
    take: Take,
) -> list[Tensor]:
    """Outputs of one train forward; running statistics are left on the model, gradients go to `take`."""
    in_train_mode(model, still)
    with torch.enable_grad(), taken(model, take) as in_factors:
        made = [torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in outputs(forward())]
        cotangent = torch.Generator().manual_seed(1)
        products = [
            (t * torch.randn(t.shape, generator=cotangent, dtype=torch.float64).to(t)).nan_to_num(0.0, 0.0, 0.0).sum()
            for t in made
            if t.is_floating_point() and t.requires_grad
        ]
        found = [t.detach() for t in made]
        try:
            if products:
                parted(products, in_factors)
                torch.stack(products).sum().backward()
        except RuntimeError as error:
            why = str(error).partition(". ")[0].splitlines()[0]
            if not failure(notes):
                notes.append(f"{NO_BACKWARD}: {why}")
    return found


@contextlib.contextmanager
def taken(model: nn.Module, take: Take) -> Iterator[Callable[[Tensor, Outer], None]]:
    """Hand each gradient over when it is ready, and keep neither it nor the parameter, which nothing else wants. Yields
    what takes a parameter's gradient in factors."""

    def hook(name: str) -> Callable[[Tensor], None]:
        def hand_over(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            if gradient is not None:
                parameter.data = parameter.new_empty(0)
                take(name, gradient.to_dense() if gradient.is_sparse else gradient)

        return hand_over

    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}

    def in_factors(parameter: Tensor, gradient: Outer) -> None:
        parameter.data = parameter.new_empty(0)
        take(names[id(parameter)], gradient)

    handles = [
        p.register_post_accumulate_grad_hook(hook(name)) for name, p in model.named_parameters() if p.requires_grad
    ]
    try:
        yield in_factors
    finally:
        for handle in handles:
            handle.remove()
