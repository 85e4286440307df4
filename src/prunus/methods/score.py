"""What a method is: one number a channel, low goes first; or a search for the channels themselves."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from numbers import Integral
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import DataError, InputError, TargetError
from ..graph.coupling import Coupling, Group, Member
from ..select import Costs
from ..state import as_found, same_draws
from ..target import Target
from .batches import Feed, Loss, checked_data, cross_entropy, is_pair
from .computed import spelled_out

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Method(Protocol):
    """Ranks the channels of every group of a traced model: `score(model, coupling, *, seed=0)` gives for each group its
    scores, float64 (width,).

    A method that wants more than weights says so in `needs`, a class attribute with some of "data", "loss", "evaluate",
    "example" and "scope"; its `score` then has keyword parameters of these names:

    data      batches as the user's iterable gives them, on the model's device; may be iterated again
    loss      `loss(model, batch)`, a scalar tensor; cross-entropy where the user gave none and batches are (x, y)
    evaluate  `evaluate(model)`, a float, higher is better
    example   the example that the model was traced with
    scope     "global" where scores of several groups compete in one ranking, "local" where each group has its own
    """

    @property
    def scope(self) -> str | None:
        """The scope the method demands, or None where the target decides."""
        ...

    @property
    def score(self) -> Callable[..., tuple[Floats, ...]]:
        """See above. Its keyword parameters are those of `needs`."""
        ...


class Search(Protocol):
    """Looks for the channels that stay: `search(model, coupling, goal, *, seed=0)` gives for each group their ids,
    within the goal, a Target. For the rest as `Method`, `needs` included."""

    @property
    def search(self) -> Callable[..., tuple[Ints, ...]]:
        """See above."""
        ...


@dataclass(frozen=True)
class Given:
    """What the user hands over beside the model. See `Method`."""

    data: Iterable[Any] | None = None
    loss: Loss | None = None
    evaluate: Callable[[nn.Module], float] | None = None
    example: Any = None
    scope: str = "global"

    def ranked(self, method: Any, goal: Target | None) -> Given:
        """With the scope in which the method's scores compete for this goal; without one, widths are given."""
        wanted = getattr(method, "scope", None) or ("local" if goal is None else goal.scope)
        return replace(self, scope="local" if wanted == "local" else "global")


NEEDS: Mapping[str, str] = {
    "data": "an iterable of batches, such as a DataLoader",
    "loss": "a function of the model and a batch that returns a scalar tensor",
    "evaluate": "a function of the model that returns a number, the higher the better",
    "example": "an input that the model accepts",
    "scope": "the scope of the ranking",
}


def searches(method: Any) -> bool:
    """Whether the method looks for channels instead of ranking them."""
    return callable(getattr(method, "search", None))


def worth(evaluate: Callable[[nn.Module], Any], model: nn.Module) -> float:
    """What `evaluate` says of a model, finite or not. Raises InputError for what is no number."""
    found = evaluate(model)
    try:
        return float(found.detach() if isinstance(found, Tensor) else found)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"evaluate returns a number, the higher the better, not {found!r:.60}") from None


def label(method: Any) -> str:
    """What a method is called in messages: GroupFisher is group_fisher."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(method).__name__).lower()


def needs_of(method: Any) -> frozenset[str]:
    """What the method wants beside the weights. Raises InputError for a wish that nothing here fulfils."""
    needs = getattr(method, "needs", ())
    if isinstance(needs, str):
        raise InputError(f"{label(method)}: needs is a set of names, such as {{{needs!r}}}, not {needs!r}")
    needs = frozenset(needs)
    if not needs <= NEEDS.keys():
        raise InputError(f"{label(method)} needs {', '.join(sorted(needs - NEEDS.keys()))}; known: {', '.join(NEEDS)}")
    return needs


def base_of(name: str, who: str) -> Method:
    """The method of a `base=`, which ranks the channels of a group for another method. Raises UnknownName, and
    InputError for one that needs more than weights, or ranks none."""
    from . import method_of

    base = method_of(name)
    if searches(base):
        raise InputError(f"{who}: base={name!r} looks for channels and ranks none")
    if needs := needs_of(base) & {"data", "evaluate"}:
        raise InputError(f"{who}: base={name!r} needs {', '.join(sorted(needs))}; a base ranks by weights alone")
    return cast("Method", base)


def check_knobs(method: Any) -> None:
    """Settings of a method that are said to be whole numbers are. Raises InputError."""
    for knob in fields(method) if is_dataclass(method) else ():
        value = getattr(method, knob.name)
        if knob.type not in ("int", int, "int | None") or (value is None and knob.type == "int | None"):
            continue
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise InputError(f"{label(method)}: {knob.name}={value!r} is no whole number")


def check_given(method: Any, given: Given, model: nn.Module) -> None:
    """All that the method needs is there and of the right kind. Raises InputError, before any work."""
    check_knobs(method)
    if given.data is not None:
        checked_data(given.data)
    for name in ("loss", "evaluate"):
        if getattr(given, name) is not None and not callable(getattr(given, name)):
            raise InputError(f"{name} is {NEEDS[name]}, not {type(getattr(given, name)).__name__}")
    needs = needs_of(method)
    for name, what in NEEDS.items():
        if name in needs and name != "loss" and getattr(given, name) is None:
            raise InputError(f"{label(method)} needs {name}=: {what}")
    if "loss" in needs and given.loss is None and given.data is not None:
        with same_draws(model), drawn_from(given.data, 0):
            first = next(iter(given.data), None)
        if first is None:
            raise DataError("data gives no batch")
        if not is_pair(first):
            raise InputError(f"{label(method)} needs loss=: {NEEDS['loss']}; the batches are no pairs (x, y)")


@contextmanager
def drawn_from(data: Any, seed: int) -> Iterator[None]:
    """Generators that a loader or its samplers have of their own start from the seed, and are put back."""
    holders = [data, getattr(data, "sampler", None), getattr(getattr(data, "batch_sampler", None), "sampler", None)]
    held = {id(g): g for one in holders if isinstance(g := getattr(one, "generator", None), torch.Generator)}
    states = [(g, g.get_state()) for g in held.values()]
    for generator, _ in states:
        generator.manual_seed(seed)
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


@contextmanager
def supplied(method: Any, model: nn.Module, seed: int, given: Given) -> Iterator[dict[str, Any]]:
    """The keyword arguments that the method needs. What is drawn inside, as by a loader that shuffles, starts from the
    seed; modes, buffers and random states of the model's process are then put back. Raises InputError."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise InputError(f"seed={seed!r} is no whole number of 0 or more")
    seed = int(seed)  # NumPy has integers of its own
    check_given(method, given, model)
    everything = {
        "data": None if given.data is None else Feed(given.data, model),
        "loss": given.loss or cross_entropy,
        "evaluate": given.evaluate,
        "example": given.example,
        "scope": given.scope,
    }
    with as_found(model), drawn_from(given.data, seed):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        yield {name: everything[name] for name in needs_of(method)}


def scores_of(
    method: Method, model: nn.Module, coupling: Coupling, seed: int, given: Given | None = None
) -> tuple[Floats, ...]:
    """What a method says, as float64 arrays. Raises InputError for a seed below 0, where `given` lacks a need, and for
    scores that are no numbers."""
    if "evaluate" not in needs_of(method):  # what measures cut networks cuts the user's own
        model, coupling = spelled_out(model, coupling)
    with supplied(method, model, seed, given or Given()) as wishes:
        found = method.score(model, coupling, seed=seed, **wishes)
    try:
        return tuple(np.asarray(s.detach().double().cpu() if isinstance(s, Tensor) else s, np.float64) for s in found)
    except (TypeError, ValueError):
        what = "the scores of every group, an array of numbers for each"
        raise InputError(f"{label(method)}: score returns {what}, not {found!r:.60}") from None


def found_by(
    method: Search, model: nn.Module, coupling: Coupling, goal: Target, seed: int, given: Given
) -> tuple[Ints, ...]:
    """What a search keeps, int64 and ascending. Raises InputError as `scores_of` does, and for a scope, which a search
    has none of; TargetError over the budget."""
    if (scope := getattr(method, "scope", None)) is not None:
        raise InputError(f"{label(method)} looks for channels and ranks none: scope={scope!r} says nothing to it")
    with supplied(method, model, seed, given) as wishes:
        kept = method.search(model, coupling, goal, seed=seed, **wishes)
    found = tuple(np.sort(np.asarray(ids, np.int64)) for ids in kept)
    costs = Costs.of(coupling)
    dense, got = costs(np.array(coupling.widths, np.int64)), costs(np.array([ids.size for ids in found], np.int64))
    for kind, limit in goal.limits({kind: float(value) for kind, value in dense.items()}).items():
        if got[kind] > limit:
            raise TargetError(f"{label(method)} found {kind}={got[kind]:,}, above the {limit:,.0f} that were asked for")
    return found


Roles = frozenset[str] | Callable[[Group], frozenset[str]]

AT_ONCE = 2**18
"""Entries of a tensor that are measured at once: few enough to stay in the cache, in double precision."""


def per_channel(
    coupling: Coupling,
    tensors: Mapping[str, Tensor],
    roles: Roles,
    measure: Callable[[Tensor], Tensor],
    layer: Callable[[Floats], Floats] | None = None,
) -> tuple[Floats, ...]:
    """Σ over the group's members in `roles`, which may depend on the group, of `measure`.

    It maps float64 rows, one an entry of the axis, to one new value a row, each by itself, and may write to the rows.
    `layer` is then given the values of all entries of the axis.
    """
    known: dict[tuple[str, int], Floats] = {}

    def values(member: Member) -> Floats:
        key = (member.tensor, member.axis)
        if key not in known:
            found = measured(tensors[member.tensor].detach().movedim(member.axis, 0), measure)
            known[key] = found if layer is None else layer(found)
        return known[key]

    def total(group: Group) -> Floats:
        score = np.zeros(group.width)
        counted = roles(group) if callable(roles) else roles
        for member in group.members:
            if member.role in counted:
                score += values(member)[member.positions].sum(axis=1)
        return score

    return tuple(total(group) for group in coupling.groups)


def measured(rows: Tensor, measure: Callable[[Tensor], Tensor]) -> Floats:
    """One value a row, some rows at a time, in one piece of memory."""
    each = max(1, AT_ONCE * len(rows) // max(1, rows.numel()))
    rows = rows[:, None] if rows.dim() == 1 else rows
    held = rows.new_empty((min(each, len(rows)), *rows.shape[1:]), dtype=torch.float64)
    found = [measure(held[: len(some)].copy_(some).flatten(1)) for some in rows.split(each)]
    return torch.cat(found).cpu().numpy()


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by every name they have."""
    with torch.no_grad():
        return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
