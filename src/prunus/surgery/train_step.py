"""One train step of the masked network and one of the cut: outputs, running statistics and gradients.

The two networks run one after the other. Gradients are taken as they come, and of the masked network only the entries
that the plan keeps, so that the largest models are proven in little more memory than a step of their own takes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..errors import ExampleError
from ..graph.coupling import VALUES
from ..graph.forward import outputs, run
from ..plan import Plan
from ..state import as_found, drawn, example_tensors, modules_of, seeded
from .differences import (
    SMALL,
    buffer_difference,
    compared,
    difference,
    finite_size,
    gap_size,
    minus,
    relative,
    size_of,
    sketch,
    worth_sketching,
)
from .masked import masked_tracer, neutral_run
from .unfold import kept_entries, unfolded

SAMPLES, NORMED = (1, 2, 4), 8
"""How many samples a train step may take: the fewest that give every batch norm so many values of each channel. Two are
normalised to ±1, whatever they are, and pass on no gradient."""
NO_BACKWARD = "no gradients were compared, since the model has no backward"


@dataclass(eq=False)
class Step:
    """What one train step of the masked network left. `batch` is None where norms stayed in eval mode."""

    outputs: list[Tensor] = field(default_factory=list)
    batch: Any = None
    statistics: dict[str, Tensor] = field(default_factory=dict)  # kept entries of buffers
    gradients: dict[str, Tensor] = field(default_factory=dict)  # of kept entries, or a sketch of them
    sizes: dict[str, float] = field(default_factory=dict)  # the largest of kept entries
    sketched: set[str] = field(default_factory=set)
    largest: float = 0.0  # of all gradients, those of removed entries too
    backward: bool = True  # whether it went through

    def against(self, narrow: nn.Module, plan: Plan, sample: Any, notes: list[str]) -> tuple[float, float, float]:
        """The differences of the same step of the cut network, whose gradients are subtracted from those kept here."""
        masks = plan.masks()
        sizes = {name: max(size, SMALL * self.largest) for name, size in self.sizes.items()}
        left: set[str] = set()
        lone = 0.0

        def take(name: str, gradient: Tensor) -> None:
            nonlocal lone
            got = unfolded(gradient, name, plan, masks)
            if name in self.gradients:
                left.add(name)
                got = sketch(got) if name in self.sketched else got
                self.gradients[name] = minus(self.gradients[name], got, in_place=True)
            else:
                lone = max(lone, gap_size(got))

        batch = sample if self.batch is None else self.batch
        result = stepped(narrow, lambda: neutral_run(narrow, batch, True), self.batch is not None, notes, take)
        in_train = compared(self.outputs, result, "train outputs")
        statistics = buffer_difference(self.statistics, dict(narrow.named_buffers()))
        if failure(notes):
            return in_train, statistics, 0.0
        if not self.largest:
            notes.append("no gradients were compared: in the masked network there are none, or all are zero")
        for name, _ in narrow.named_parameters():
            if name in self.gradients and name not in left:
                lone = max(lone, gap_size(self.gradients[name]))
        gaps = [relative(size_of(self.gradients[name]), sizes[name]) for name in left]
        return in_train, statistics, max([*gaps, relative(lone, self.largest)])


def masked_step(renew: Callable[[], nn.Module], plan: Plan, sample: Any, count: int, notes: list[str]) -> Step:
    """One train step of the masked network, made from the float64 copy that `renew` gives: on the example's own first
    samples if so many are enough and more would say nothing, else on a batch of four where it can be made one."""
    if count != SAMPLES[-1]:
        own = list[str]()
        with contextlib.suppress(ExampleError):
            found = taken_step(renew(), plan, sample, batched(sample, count), own)
            if found.largest and not own:
                return found
    return taken_step(renew(), plan, sample, batched(sample, SAMPLES[-1]), notes)


def taken_step(wide: nn.Module, plan: Plan, sample: Any, batch: Any, notes: list[str]) -> Step:
    """The train step on a batch, or on the sample with norms in eval mode where there is none or it does not go. The
    network has no parameters afterwards."""
    masks = plan.masks()
    before = {name: buffer.clone() for name, buffer in wide.named_buffers()}
    found = Step(batch=batch)

    def take(name: str, gradient: Tensor) -> None:
        found.largest = max(found.largest, finite_size(gradient))
        kept = kept_entries(gradient, name, masks)
        found.sizes[name] = max(finite_size(kept), found.sizes.get(name, 0.0))
        if name in found.sketched or (name not in found.gradients and worth_sketching(kept)):
            kept = sketch(kept)
            found.sketched.add(name)
        found.gradients[name] = found.gradients[name] + kept if name in found.gradients else kept

    tracer, _ = masked_tracer(wide, plan, double=True)
    try:
        if found.batch is None:
            raise ExampleError("no batch axis")
        found.outputs = stepped(wide, lambda: run(tracer, wide, found.batch), True, notes, take)
    except ExampleError:  # an example without a batch axis, or a model that takes no other batch size
        notes.append("the example cannot be made a batch of several: norms stayed in eval mode")
        for name, buffer in wide.named_buffers():
            buffer.copy_(before[name])
        found = Step()
        tracer, _ = masked_tracer(wide, plan, double=True)
        found.outputs = stepped(wide, lambda: run(tracer, wide, sample), False, notes, take)
    found.statistics = {
        name: kept_entries(buffer, name, masks).clone()
        for name, buffer in wide.named_buffers()
        if buffer.numel() and (name, VALUES) not in masks
    }
    found.backward = not failure(notes)
    return found


def enough(model: nn.Module, example: Any) -> int:
    """How many samples a train step takes: one where a batch shows no more than its samples do one by one, and that
    one gives every batch norm values enough; else two or four.

    Samples are apart where, with batch norms in eval mode, a train forward draws nothing at random, and what it makes
    of one sample, and of its buffers, is the same with others beside it. Where they are not, it takes four."""
    one = first_samples(example, 1)
    if one is None:
        return SAMPLES[-1]
    made = []
    with positions(model) as seen:
        for batch in (one, beside_others(one)):
            found = in_training(model, batch)
            if found is None:
                return SAMPLES[-1]
            made.append(found)
    (alone, left), (beside, also_left) = made
    apart = (
        len(alone) == len(beside)
        and all(
            a.shape[:1] == (1,) and b.shape == (4, *a.shape[1:]) and difference(a, b[1:2]) < rounding(a)
            for a, b in zip(alone, beside, strict=True)
        )
        and all(torch.equal(a, b) for a, b in zip(left, also_left, strict=True))
    )
    fewest = min(seen.values(), default=NORMED)
    return next((n for n in SAMPLES if apart and n * fewest >= NORMED), SAMPLES[-1])


def in_training(model: nn.Module, batch: Any) -> tuple[list[Tensor], list[Tensor]] | None:
    """Outputs of a train forward with batch norms in eval mode, and the buffers after it; None where something is drawn
    at random, or where the model does not take the batch."""
    with as_found(model), torch.no_grad():
        for module in model.modules():
            module.training = not hasattr(module, "running_mean")
        seeded()
        before = drawn(model)
        try:
            found = [t.clone() for t in outputs(neutral_run(model, batch, False))]
        except Exception:  # what a model raises that takes no such batch, or none without targets
            return None
        return (found, [buffer.clone() for buffer in model.buffers()]) if drawn(model) == before else None


@contextlib.contextmanager
def positions(model: nn.Module) -> Iterator[dict[str, int]]:
    """How many values of each channel a sample gives each module that keeps running statistics, none where it is not
    called with a tensor."""
    found: dict[str, int] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(module: nn.Module, args: tuple[Any, ...]) -> None:
            values = math.prod(args[0].shape[2:]) if args and isinstance(args[0], Tensor) else 0
            found[name] = min(found[name] or values, values)

        return note

    handles = []
    for name, module in modules_of(model):
        if hasattr(module, "running_mean"):
            found[name] = 0
            handles.append(module.register_forward_pre_hook(watch(name)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def rounding(tensor: Tensor) -> float:
    """What two ways of adding up may differ by, relative to the largest; no more than would hide that samples meet."""
    return min(torch.finfo(tensor.dtype).eps ** 0.5, 1e-3) if tensor.is_floating_point() else 1e-3


def beside_others(one: Any) -> Any:
    """A sample between others, more behind it than before: with noise, or whole numbers in another order."""
    noise = torch.Generator().manual_seed(0)

    def other(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value.roll(1, -1) if value.dim() > 1 else value
        size = value.detach().std(correction=0).item() or 1.0
        return value + 0.3 * size * torch.randn(value.shape, generator=noise, dtype=torch.float64).to(value)

    return tree_map(
        lambda v: torch.cat([other(v), v, other(v), other(v)]) if isinstance(v, Tensor) and v.dim() else v, one
    )


def has_backward(model: nn.Module, step: Step, sample: Any) -> bool:
    """Whether the same step of a network that nothing intercepts goes through."""
    batch, notes = sample if step.batch is None else step.batch, list[str]()
    stepped(model, lambda: neutral_run(model, batch, True), step.batch is not None, notes, lambda name, gradient: None)
    return not failure(notes)


def failure(notes: list[str]) -> str:
    """Why a backward failed, as noted."""
    return next((note[len(NO_BACKWARD) :] for note in notes if note.startswith(NO_BACKWARD)), "")


def samples_of(example: Any) -> set[int]:
    """How many samples the tensors of an example hold."""
    return {t.shape[0] for t in example_tensors(example) if t.dim()}


def first_samples(example: Any, count: int) -> Any:
    """At most so many samples of the example; None where it has no batch axis."""
    if len(samples_of(example)) != 1 or max(t.dim() for t in example_tensors(example)) < 2:
        return None
    return tree_map(lambda v: v[:count] if isinstance(v, Tensor) and v.dim() else v, example)


def batched(example: Any, count: int) -> Any:
    """The first samples of the example, repeated with noise up to so many; None where it has no batch axis."""
    few = first_samples(example, count)
    if few is None:
        return None
    noise = torch.Generator().manual_seed(0)

    def widen(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.dim():
            return value
        wide = value.repeat(-(-count // value.shape[0]), *[1] * (value.dim() - 1))[:count]
        if value.is_floating_point() and value.shape[0] < count:
            size = value.detach().std(correction=0).item() or 1.0
            extra = torch.randn(wide.shape, generator=noise, dtype=torch.float64).to(wide)
            extra[: value.shape[0]] = 0
            wide = wide + 0.3 * size * extra
        return wide

    return tree_map(widen, few)


def stepped(
    model: nn.Module,
    forward: Callable[[], Any],
    statistics: bool,
    notes: list[str],
    take: Callable[[str, Tensor], None],
) -> list[Tensor]:
    """Outputs of one train forward; running statistics are left on the model, gradients go to `take`."""
    for module in model.modules():
        module.training = statistics or not hasattr(module, "running_mean")
    seeded()
    with torch.enable_grad(), taken(model, take):
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
                torch.stack(products).sum().backward()
        except RuntimeError as error:
            why = str(error).partition(". ")[0].splitlines()[0]
            if not failure(notes):
                notes.append(f"{NO_BACKWARD}: {why}")
    return found


@contextlib.contextmanager
def taken(model: nn.Module, take: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Hand each gradient over when it is ready, and keep neither it nor the parameter, which nothing else wants."""

    def hook(name: str) -> Callable[[Tensor], None]:
        def hand_over(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            if gradient is not None:
                parameter.data = parameter.new_empty(0)
                take(name, gradient.to_dense() if gradient.is_sparse else gradient)

        return hand_over

    handles = [
        p.register_post_accumulate_grad_hook(hook(name)) for name, p in model.named_parameters() if p.requires_grad
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
