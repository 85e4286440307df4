"""The proof: the cut network computes what the masked one computes, on the user's own model and example."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..errors import ExampleError, ProofError
from ..graph.forward import outputs, run, shapes_alone, stored_statistics
from ..graph.labels import Check
from ..graph.record import Tracer
from ..graph.rules import table
from ..memory import twin
from ..outline import Outline
from ..plan import Plan
from ..state import as_found, copied, example_tensors, fresh, modules_of, same_draws, seeded, uncollected, unwrapped
from .differences import compared, finite_size
from .masked import Masking, channel_ids, masked_tracer, neutral_run
from .samples import Way, enough
from .stored import same_values
from .train_step import Step, failure, has_backward, masked_step
from .unfold import exact

Taken = TypeVar("Taken")
TOLERANCE = 1e-8  # of the largest value of what is compared


@dataclass(frozen=True)
class Proof:
    """Largest differences between the masked and the cut network, each relative to the largest value compared.

    The float64 differences `eval`, `train` (outputs with batch statistics), `statistics` (running statistics after one
    train forward) and `gradients` (of kept entries, one backward) decide. `fp32` is the eval difference in the model's
    own dtype. `statistics_shift` is the distance to the plainly zeroed network, caused by `shifted_by`. The proof
    holds for the ways that so many `examples` take through the code.
    """

    eval: float
    train: float
    statistics: float
    gradients: float
    fp32: float
    statistics_shift: float = 0.0
    shifted_by: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    tolerance: float = TOLERANCE
    examples: int = 1

    @property
    def worst(self) -> float:
        return max(self.eval, self.train, self.statistics, self.gradients)

    @property
    def holds(self) -> bool:
        return self.worst <= self.tolerance

    def __str__(self) -> str:
        verdict = "proven" if self.holds else "NOT equal"
        ways = "the way of the example" if self.examples == 1 else f"the ways of {self.examples} examples"
        text = (
            f"masked == cut: {verdict} on {ways}; eval {self.eval:.1e}, train {self.train:.1e}, running statistics "
            f"{self.statistics:.1e}, gradients {self.gradients:.1e} (float64, limit {self.tolerance:.0e}); "
            f"own dtype {self.fp32:.1e}"
        )
        if self.shifted_by and self.statistics_shift > self.tolerance:
            text += f"; {self.statistics_shift:.1e} from the plainly zeroed network ({', '.join(self.shifted_by[:3])})"
        return "; ".join((text, *self.notes))


@dataclass(frozen=True)
class Trouble:
    """Why a cut network does not run as its plan says, and the groups involved."""

    why: str
    groups: tuple[int, ...]
    where: str | None = None  # the module in which it showed


@uncollected()
def trouble(
    small: nn.Module,
    plan: Plan,
    example: Any,
    training: bool = False,
    outline: bool = False,
    strict: bool = False,
) -> tuple[Trouble | None, Tracer]:
    """Run the cut network once on kept ids: does every op receive them in the order in which its entries were
    gathered? `small` may be an outline; a rule that fails counts as a failure of the run where that is `strict`.
    """
    ids, _ = channel_ids(plan, kept_only=True)
    check = Check(ids)
    tracer = Tracer(
        small, check, table(), shapes_alone if outline else stored_statistics, strict=strict, outline=outline
    )
    with same_draws(small) if outline else as_found(small), torch.no_grad():
        for _, module in modules_of(small):
            module.training = training
        seeded()
        try:
            run(tracer, small, example)
        except ExampleError as error:
            planes = [plane for t in tracer.failed for plane in tracer.label(t).planes]
            why = f"the cut network does not run {str(error).partition(': ')[2]}"
            at = tracer.failed_in or (tracer.ops[-1].path if tracer.ops else None)
            return Trouble(why, groups_of(plan, planes), at), tracer
    if check.clash:
        return Trouble(
            f"the cut is not legal: {check.clash}", groups_of(plan, check.clashing), tracer.failed_in
        ), tracer
    return None, tracer


def groups_of(plan: Plan, ids: Sequence[Tensor]) -> tuple[int, ...]:
    """The groups that these channel ids belong to."""
    starts = torch.tensor([0, *itertools.accumulate(g.width for g in plan.groups)])
    found = {
        g for t in ids for g in (torch.searchsorted(starts, t[t >= 0].reshape(-1), right=True) - 1).unique().tolist()
    }
    return tuple(sorted(found))


def replay(small: nn.Module, plan: Plan, example: Any, outline: Outline | None = None) -> None:
    """The cheapest self-check, see `trouble`, on an outline of the cut network as far as that goes. Raises ProofError
    with the module and the op."""
    if outline and trouble(outline.model, plan, outline.example, outline=True, strict=True)[0] is None:
        return
    found, _ = trouble(small, plan, example)
    if found:
        names = ", ".join(plan.groups[g].name for g in found.groups[:3])
        raise ProofError(found.why + (f" (groups {names})" if names else ""))


def verify(
    model: nn.Module,
    small: nn.Module,
    plan: Plan,
    example: Any,
    *,
    examples: Sequence[Any] = (),
    tolerance: float = TOLERANCE,
) -> Proof:
    """Compare the masked network, made from `model` and `plan`, with the cut network `small`.

    Both run as float64 copies, in eval and in train mode (batch statistics, the same seed, dropout and stochastic
    depth off; one sample where more would say nothing, else up to four, see `samples.enough`), with one backward, on
    the example and each of the further `examples`; the worst differences count. Neither argument is changed. Raises
    ProofError above `tolerance`, and where a tensor of `small` does not hold the kept entries.
    """
    dense = unwrapped(model)
    same_values(dense, small, plan)
    with same_draws(model):
        found = [compare(dense, small, plan, fresh(one), tolerance) for one in (example, *examples)]
    proof = replace(worst_of(found), examples=len(found))
    if not proof.holds:
        raise ProofError(f"the cut network differs from the masked one ({proof}); the model was left untouched")
    return proof


def worst_of(proofs: Sequence[Proof]) -> Proof:
    """Several proofs as one: the largest of each difference, and all that was noted. Of one, the proof itself."""
    if len(proofs) == 1:
        return proofs[0]
    worst = {name: max(getattr(p, name) for p in proofs) for name in ("eval", "train", "statistics", "gradients")}
    return replace(
        proofs[0],
        **worst,
        fp32=max(p.fp32 for p in proofs),
        statistics_shift=max(p.statistics_shift for p in proofs),
        shifted_by=tuple(dict.fromkeys(name for p in proofs for name in p.shifted_by)),
        notes=tuple(dict.fromkeys(note for p in proofs for note in p.notes)),
        seconds=sum(p.seconds for p in proofs),
    )


def eval_gap(dense: nn.Module, small: nn.Module, plan: Plan, example: Any) -> float:
    """The difference of the outputs in eval mode alone, in float64."""
    dense = unwrapped(dense)

    def gap(sample: Any) -> float:
        reference = masked_eval(as_double(dense), plan, sample)[0]
        narrow = as_double(small)
        exact(small, dense, narrow, plan)
        return compared(reference, ran(narrow, lambda: neutral_run(narrow, sample, True), training=False), "outputs")

    with same_draws(dense), default_dtype(torch.float64):
        return taken_double(fresh(example), gap)


def doubled(example: Any) -> Any:
    return tree_map(lambda v: widened(v) if isinstance(v, Tensor) else v, example)


def widened(tensor: Tensor) -> Tensor:
    """In double precision, integers as they are."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def compare(dense: nn.Module, small: nn.Module, plan: Plan, example: Any, tolerance: float) -> Proof:
    """The differences, whatever they are."""
    start = time.perf_counter()
    notes: list[str] = []
    with default_dtype(torch.float64):
        # One float64 copy at a time: of the masked network stays what the cut one is compared with.
        sample, (reference, shift, shifted_by, step) = reference_of(dense, plan, example, notes)
        narrow = as_double(small)
        exact(small, dense, narrow, plan)
        result = ran(narrow, lambda: neutral_run(narrow, sample, True), training=False)
        in_eval = compared(reference, result, "eval outputs")
        if not any(t.numel() for t in reference):
            notes.append("the outputs in eval mode are empty: only the train step was compared")
        elif not any(finite_size(t) if t.dtype.is_floating_point or t.is_complex() else t.any() for t in reference):
            notes.append("the outputs in eval mode are zero or no numbers: they say nothing")
        in_train, statistics, gradients = step.against(narrow, plan, notes)
        # Masking copies what it masks, so the masked network may have a backward where the model has none.
        if step.backward and failure(notes) and has_backward(as_double(dense), step):
            raise ProofError(f"the cut network has no backward{failure(notes)}; the model has one")
    own = own_dtype(dense, small, plan, example)
    return Proof(
        in_eval,
        in_train,
        statistics,
        gradients,
        own,
        shift,
        shifted_by,
        tuple(notes),
        time.perf_counter() - start,
        tolerance,
    )


def taken_double(example: Any, call: Callable[[Any], Taken]) -> Taken:
    """What a call makes of the example in double precision; of all but one of its tensors where the model wants that
    one in its own dtype, as some want their targets. Raises ExampleError."""
    refused: ExampleError | None = None
    for sample in (doubled(example), *nearly_doubled(example)):
        try:
            return call(sample)
        except ExampleError as error:
            refused = refused or error.with_traceback(None)  # which would keep the networks of this attempt
    assert refused is not None
    raise refused


def reference_of(dense: nn.Module, plan: Plan, example: Any, notes: list[str]) -> tuple[Any, MaskedSide]:
    """The example as the masked network takes it, and what that makes of it."""

    way = enough(dense, example)

    def made(sample: Any) -> tuple[Any, MaskedSide, list[str]]:
        own = list[str]()
        return sample, masked_side(dense, plan, sample, own, way), own

    sample, side, said = taken_double(example, made)
    notes += said
    return sample, side


def nearly_doubled(example: Any) -> Iterator[Any]:
    """The example in double precision but for one tensor, for each that there is beside others."""
    low = [t for t in example_tensors(example) if t.is_floating_point() and t.dtype != torch.float64]
    for one in low if len(low) > 1 else ():
        yield tree_map(lambda v, one=one: widened(v) if isinstance(v, Tensor) and v is not one else v, example)


MaskedSide = tuple[list[Tensor], float, tuple[str, ...], Step]


def masked_side(dense: nn.Module, plan: Plan, sample: Any, notes: list[str], way: Way) -> MaskedSide:
    """Of the masked network: outputs in eval mode, how far they are from those of the plainly zeroed one and because of
    which modules, and one train step."""
    copies = [as_double(dense)]
    reference, masking = masked_eval(copies[0], plan, sample)
    shift = 0.0
    if masking.compacted:
        shift = compared(reference, masked_eval(copies[0], plan, sample, counted=False)[0], "outputs")
    step = masked_step(lambda: copies.pop() if copies else as_double(dense), plan, sample, way, notes)
    return reference, shift, tuple(masking.compacted), step


def masked_eval(wide: nn.Module, plan: Plan, sample: Any, counted: bool = True) -> tuple[list[Tensor], Masking]:
    """Outputs of a float64 copy as the masked network, in eval mode."""
    tracer, masking = masked_tracer(wide, plan, double=True, counted=counted)
    return ran(wide, lambda: run(tracer, wide, sample), training=False), masking


def as_double(model: nn.Module) -> nn.Module:
    """A float64 copy with every parameter trainable where it can be."""
    twin = copied(model, {id(p): doubled_parameter(p) for p in model.parameters() if type(p) is nn.Parameter})
    twin._apply(widened)
    for parameter in twin.parameters():
        parameter.grad = None
        parameter.requires_grad_(True)
    return twin


def doubled_parameter(parameter: nn.Parameter) -> nn.Parameter:
    """In memory of its own."""
    data = parameter.detach()
    return nn.Parameter(twin(data, widened(data.new_empty(0)).dtype), parameter.requires_grad)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    old = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(old)


def ran(model: nn.Module, forward: Callable[[], Any], *, training: bool) -> list[Tensor]:
    """Outputs of one forward without gradients; the model's mode, buffers and random states are put back."""
    with as_found(model), torch.no_grad():
        seeded()
        for module in model.modules():
            module.training = training
        return [t.detach().clone() for t in outputs(forward())]


def own_dtype(dense: nn.Module, small: nn.Module, plan: Plan, example: Any) -> float:
    """The eval difference in the model's own dtype, for information; infinite where rounding changed the number of
    outputs, as it can that of the boxes which a detector lets through."""
    tracer, _ = masked_tracer(dense, plan, double=False)
    reference = ran(dense, lambda: run(tracer, dense, example), training=False)
    found = ran(small, lambda: neutral_run(small, example, False), training=False)
    try:
        return compared(reference, found, "eval outputs")
    except ProofError:
        return math.inf
