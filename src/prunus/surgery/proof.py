"""The proof: the cut network computes what the masked one computes, on the user's own model and example."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..errors import ExampleError, ProofError
from ..graph.coupling import VALUES
from ..graph.labels import Check
from ..graph.record import Tracer
from ..graph.rules import table
from ..graph.trace import outputs, run, shapes_alone, stored_statistics
from ..outline import Outline
from ..plan import Plan
from ..state import as_found, call_model, copied, example_tensors, fresh, modules_of, same_draws, seeded, unwrapped
from .masked import Neutral, channel_ids, masked_tracer
from .unfold import exact, kept_entries, unfolded

TOLERANCE = 1e-8  # of the largest value of what is compared
BATCH = 4
NO_BACKWARD = "no gradients were compared, since the model has no backward"
SMALL = 1e-3  # a gradient this much below the largest one is compared relative to the largest


@dataclass(frozen=True)
class Proof:
    """Largest differences between the masked and the cut network, each relative to the largest value compared.

    The float64 differences `eval`, `train` (outputs with batch statistics), `statistics` (running statistics after one
    train forward) and `gradients` (of kept entries, one backward) decide. `fp32` is the eval difference in the model's
    own dtype. `statistics_shift` is the distance to the plainly zeroed network, caused by `shifted_by`. The proof
    holds for the control path of the given example.
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

    @property
    def worst(self) -> float:
        return max(self.eval, self.train, self.statistics, self.gradients)

    @property
    def holds(self) -> bool:
        return self.worst <= self.tolerance

    def __str__(self) -> str:
        verdict = "proven" if self.holds else "NOT equal"
        text = (
            f"masked == cut: {verdict}; eval {self.eval:.1e}, train {self.train:.1e}, running statistics "
            f"{self.statistics:.1e}, gradients {self.gradients:.1e} (float64, limit {self.tolerance:.0e}); "
            f"own dtype {self.fp32:.1e}"
        )
        if self.shifted_by:
            text += f"; {self.statistics_shift:.1e} from the plainly zeroed network ({', '.join(self.shifted_by[:3])})"
        return "; ".join((text, *self.notes))


@dataclass(frozen=True)
class Trouble:
    """Why a cut network does not run as its plan says, and the groups involved."""

    why: str
    groups: tuple[int, ...]
    where: str | None = None  # the module in which it showed


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


def verify(model: nn.Module, small: nn.Module, plan: Plan, example: Any, *, tolerance: float = TOLERANCE) -> Proof:
    """Compare the masked network, made from `model` and `plan`, with the cut network `small`.

    Both run as float64 copies, in eval and in train mode (batch statistics, the same seed, dropout off, at least 4
    samples), with one backward. Neither argument is changed. Raises ProofError above `tolerance`.
    """
    with same_draws(model):
        proof = compare(unwrapped(model), small, plan, fresh(example), tolerance)
    if not proof.holds:
        raise ProofError(f"the cut network differs from the masked one ({proof}); the model was left untouched")
    return proof


def eval_gap(dense: nn.Module, small: nn.Module, plan: Plan, example: Any) -> float:
    """The difference of the outputs in eval mode alone, in float64."""
    with same_draws(dense), default_dtype(torch.float64):
        wide, narrow, sample = as_double(unwrapped(dense)), as_double(small), doubled(fresh(example))
        exact(small, wide, narrow, plan)
        tracer, _ = masked_tracer(wide, plan, double=True)
        reference = ran(wide, lambda: run(tracer, wide, sample), training=False)
        return compared(reference, ran(narrow, lambda: neutral_run(narrow, sample, True), training=False), "outputs")


def doubled(example: Any) -> Any:
    return tree_map(lambda v: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v, example)


def compare(dense: nn.Module, small: nn.Module, plan: Plan, example: Any, tolerance: float) -> Proof:
    """The differences, whatever they are."""
    start = time.perf_counter()
    notes: list[str] = []
    wide, narrow = as_double(dense), as_double(small)
    exact(small, wide, narrow, plan)
    sample = doubled(example)
    with default_dtype(torch.float64):
        tracer, masking = masked_tracer(wide, plan, double=True)
        reference = ran(wide, lambda: run(tracer, wide, sample), training=False)
        result = ran(narrow, lambda: neutral_run(narrow, sample, True), training=False)
        in_eval = compared(reference, result, "eval outputs")
        shift = 0.0
        if masking.compacted:
            plain, _ = masked_tracer(wide, plan, double=True, counted=False)
            shift = compared(reference, ran(wide, lambda: run(plain, wide, sample), training=False), "outputs")
        in_train, statistics, gradients = train_mode(wide, narrow, plan, sample, notes)
    own = own_dtype(dense, small, plan, example)
    return Proof(
        in_eval,
        in_train,
        statistics,
        gradients,
        own,
        shift,
        tuple(masking.compacted),
        tuple(notes),
        time.perf_counter() - start,
        tolerance,
    )


def as_double(model: nn.Module) -> nn.Module:
    """A float64 copy with every parameter trainable where it can be."""
    twin = copied(model, {id(p): doubled_parameter(p) for p in model.parameters() if type(p) is nn.Parameter}).double()
    for parameter in twin.parameters():
        parameter.grad = None
        parameter.requires_grad_(True)
    return twin


def doubled_parameter(parameter: nn.Parameter) -> nn.Parameter:
    """In memory of its own."""
    dtype = torch.float64 if parameter.is_floating_point() else parameter.dtype
    return nn.Parameter(parameter.detach().to(dtype, copy=True), parameter.requires_grad)


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


def neutral_run(model: nn.Module, example: Any, double: bool) -> Any:
    given = fresh(example)
    with Neutral(double):
        return call_model(model, given)


def difference(a: Tensor, b: Tensor, scale: float | None = None) -> float:
    """max|a − b| over the largest |a|, or over `scale`."""
    if a.shape != b.shape:
        raise ProofError(f"shapes differ: masked {tuple(a.shape)}, cut {tuple(b.shape)}")
    if not a.numel():
        return 0.0
    if not a.is_floating_point() and not a.is_complex():
        return 0.0 if torch.equal(a, b) else float("inf")
    a, b = a.detach(), b.detach()
    same = (a == b) | (a.isnan() & b.isnan())
    if bool(same.all()):
        return 0.0
    finite = a[a.isfinite()]
    size = scale if scale is not None else float(finite.abs().max()) if finite.numel() else 0.0
    gap = float((a - b)[~same].abs().max())
    return gap / size if size > 0 and gap == gap else float("inf")


def compared(reference: list[Tensor], result: list[Tensor], what: str) -> float:
    if len(reference) != len(result):
        raise ProofError(f"{what}: the masked network returns {len(reference)} tensors, the cut one {len(result)}")
    return max((difference(a, b) for a, b in zip(reference, result, strict=True)), default=0.0)


def batched(example: Any) -> Any:
    """The first samples of the example, repeated with noise up to a batch of four; None where it has no batch axis."""
    sizes = {t.shape[0] for t in example_tensors(example) if t.dim()}
    if len(sizes) != 1 or max(t.dim() for t in example_tensors(example)) < 2:
        return None
    noise = torch.Generator().manual_seed(0)

    def widen(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.dim():
            return value
        wide = value[:BATCH].repeat(-(-BATCH // value.shape[0]), *[1] * (value.dim() - 1))[:BATCH]
        if value.is_floating_point() and value.shape[0] < BATCH:
            size = value.detach().std(correction=0).item() or 1.0
            extra = torch.randn(wide.shape, generator=noise, dtype=torch.float64).to(wide)
            extra[: value.shape[0]] = 0
            wide = wide + 0.3 * size * extra
        return wide

    return tree_map(widen, example)


def train_mode(
    wide: nn.Module, narrow: nn.Module, plan: Plan, sample: Any, notes: list[str]
) -> tuple[float, float, float]:
    """Differences of outputs, running statistics and gradients of one train step."""
    buffers = {n: b.clone() for n, b in wide.named_buffers()}
    batch = batched(sample)
    tracer, _ = masked_tracer(wide, plan, double=True)
    try:
        if batch is None:
            raise ExampleError("no batch axis")
        reference = stepped(wide, lambda: run(tracer, wide, batch), True, notes)
    except ExampleError:  # an example without a batch axis, or a model that takes no other batch size
        notes.append("the example cannot be made a batch of four: norms stayed in eval mode")
        for name, buffer in wide.named_buffers():
            buffer.copy_(buffers[name])
        batch = None
        tracer, _ = masked_tracer(wide, plan, double=True)
        reference = stepped(wide, lambda: run(tracer, wide, sample), False, notes)
    forward = lambda: neutral_run(narrow, sample if batch is None else batch, True)  # noqa: E731
    result = stepped(narrow, forward, batch is not None, notes)
    in_train = compared(reference, result, "train outputs")
    masks = plan.masks()
    statistics = buffer_difference(wide, narrow, masks)
    if any(note.startswith(NO_BACKWARD) for note in notes):
        return in_train, statistics, 0.0
    return in_train, statistics, gradient_difference(wide, narrow, plan)


def buffer_difference(wide: nn.Module, narrow: nn.Module, masks: Mapping[tuple[str, int], Any]) -> float:
    """The largest difference of the kept entries of buffers, relative to the larger of the buffer's own largest entry
    and a thousandth of the largest of all: a mean that is zero but for rounding says nothing."""
    cut = dict(narrow.named_buffers())
    pairs = [
        (kept_entries(b, n, masks), cut[n])
        for n, b in wide.named_buffers()
        if n in cut and b.numel() and (n, VALUES) not in masks
    ]
    sizes = [float(a.abs().max()) if a.is_floating_point() else 0.0 for a, _ in pairs]
    least = SMALL * max((size for size in sizes if math.isfinite(size)), default=0.0)
    return max((difference(a, b, max(size, least)) for (a, b), size in zip(pairs, sizes, strict=True)), default=0.0)


def gradient_difference(wide: nn.Module, narrow: nn.Module, plan: Plan) -> float:
    """The largest difference of the gradients of kept entries, relative to the larger of the tensor's own largest
    gradient and a thousandth of the largest of all."""
    masks = plan.masks()
    grads = {n: p.grad for n, p in wide.named_parameters() if p.grad is not None}
    largest = max((float(g.abs().max()) for g in grads.values() if g.numel()), default=0.0)
    worst = 0.0
    for name, parameter in narrow.named_parameters():
        want = kept_entries(grads[name], name, masks) if name in grads else None
        got = parameter.grad if parameter.grad is None else unfolded(parameter.grad, name, plan, masks)
        if want is None and got is None:
            continue
        if want is None or got is None:
            lone = got if want is None else want
            assert lone is not None
            worst = max(worst, float(lone.abs().max()) / largest if largest else 0.0)
        else:
            worst = max(worst, difference(want, got, max(float(want.abs().max()), SMALL * largest)))
    return worst


def stepped(model: nn.Module, forward: Callable[[], Any], statistics: bool, notes: list[str]) -> list[Tensor]:
    """Outputs of one train forward; gradients and running statistics are left on the model."""
    for module in model.modules():
        module.training = statistics or not hasattr(module, "running_mean")
    seeded()
    with torch.enable_grad():
        made = list(outputs(forward()))
        cotangent = torch.Generator().manual_seed(1)
        products = [
            (t * torch.randn(t.shape, generator=cotangent, dtype=torch.float64).to(t)).nan_to_num(0.0, 0.0, 0.0).sum()
            for t in made
            if t.is_floating_point() and t.requires_grad
        ]
        try:
            if products:
                torch.stack(products).sum().backward()
        except RuntimeError as error:
            why = str(error).partition(". ")[0].splitlines()[0]
            if not any(note.startswith(NO_BACKWARD) for note in notes):
                notes.append(f"{NO_BACKWARD}: {why}")
    return [t.detach() for t in made]


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
