"""Rules of the user's own for an op or a module, in force inside a `with` block.

    with rule(my_op, like=torch.relu):
        small = prunus.prune(model, example, "macs=50%")

Tracing, the trial cut, the replay and the masked network of the proof all look rules up in one table, so a rule is in
force in all of them or in none. A wrong rule makes a network that differs from the masked one, which runs the op itself
on all channels: the proof refuses it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function, resolve_name
from torch.utils._pytree import tree_iter

from ..errors import InputError, UnknownName

if TYPE_CHECKING:
    from .record import Call, Rule

__all__ = ["READING", "Own", "Taught", "known", "op", "rule", "taught", "unwatched", "watched"]

Func = TypeVar("Func", bound=Callable[..., Any])

READING = ("alone", "zeros", "kept")
BODY = "prunus_body"  # the attribute of what `op` returns


@dataclass(frozen=True, eq=False)
class Taught:
    """What is known of one function. `skip` leading arguments are no arguments of the op."""

    name: str
    like: Callable[..., Any] | None
    does: Rule | None
    args: Callable[..., tuple[Any, ...]] | None
    reads: str
    skip: int = 0
    owner: bool = False  # the first argument is the module, the second its parameters

    def plain(self, call: Call) -> Call:
        """The call with the arguments that the user wrote."""
        return replace(call, args=call.args[self.skip :])

    def __call__(self, call: Call, out: Any) -> Any:
        """The rule, as the tracer calls it."""
        from .rules import table

        if self.like is None:
            assert self.does is not None
            planes = self.does(self.plain(call), out)
        else:
            args, kwargs = call.args[self.skip :], call.kwargs
            if self.args is not None:
                args, kwargs = self.args(*call.args[:1] if self.owner else (), *args, **kwargs), {}
            rules = table()
            base = rules.get(self.like) or rules[resolve_name(self.like)]
            planes = base(replace(call, func=self.like, args=tuple(args), kwargs=dict(kwargs)), out)
        results = [out] if isinstance(out, Tensor) else [t for t in tree_iter(out) if isinstance(t, Tensor)]
        checked(self.name, results, [planes] if isinstance(out, Tensor) else planes)
        return planes

    computes = True  # numbers that it is given must not depend on a width


def checked(name: str, results: list[Tensor], planes: Any) -> None:
    """For each result a list of planes: int64, of its shape. Raises InputError."""
    if not isinstance(planes, (list, tuple)) or len(planes) != len(results):
        raise InputError(f"the rule for {name} must return a list of planes for each of its {len(results)} results")
    for tensor, its in zip(results, planes, strict=True):
        for plane in its if isinstance(its, (list, tuple)) else [its]:
            if not isinstance(plane, Tensor) or plane.dtype != torch.int64 or plane.shape != tensor.shape:
                shape = tuple(getattr(plane, "shape", ()))
                raise InputError(
                    f"the rule for {name} returned {shape}, not int64 planes of shape {tuple(tensor.shape)}"
                )


_TAUGHT: ContextVar[Mapping[Any, Taught]] = ContextVar("prunus_rules", default={})  # noqa: B039 (never changed)
_WATCHED: ContextVar[bool] = ContextVar("prunus_watched", default=False)


def taught() -> Mapping[Any, Taught]:
    """The rules in force, by the function that a torch function mode sees."""
    return _TAUGHT.get()


def known(func: Any) -> Taught | None:
    return _TAUGHT.get().get(func)


@contextmanager
def watched(on: bool = True) -> Iterator[None]:
    """While a tracer runs, ops with a rule in force show themselves as one call."""
    token = _WATCHED.set(on)
    try:
        yield
    finally:
        _WATCHED.reset(token)


def unwatched() -> Any:
    """Inside such an op, what it is made of runs as it is."""
    return watched(False)


def shown(key: Callable[..., Any], tensors: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Hand a call to the tracer as one of `key`; `key` itself where none looks."""
    found = tuple(t for t in tree_iter(tensors) if isinstance(t, Tensor))
    if _WATCHED.get() and key in _TAUGHT.get() and found and has_torch_function(found):
        return handle_torch_function(key, found, *args, **kwargs)
    return key(*args, **kwargs)


def op(func: Func) -> Func:
    """Make a Python function of tensors an op that `rule` can speak of. Without a rule in force nothing changes: the
    ops that it is made of are followed one by one."""

    @functools.wraps(func)
    def visible(*args: Any, **kwargs: Any) -> Any:
        return shown(func, (args, kwargs), args, kwargs)

    setattr(visible, BODY, func)
    return visible  # type: ignore[return-value]


def rule(
    target: Any,
    *,
    like: Callable[..., Any] | None = None,
    does: Rule | None = None,
    args: Callable[..., tuple[Any, ...]] | None = None,
    reads: str = "alone",
) -> Own:
    """What an op does to channels, for `with rule(...):`.

    target: a function decorated with `op`, a function or custom op of torch, a torch.autograd.Function, or a class of
    modules, of which each call is then one op.
    like: a torch function that ties channels the same way, called with the same arguments, or with those that `args`
    makes of the op's own: `args=lambda module, x: (x, module.weight)`.
    does: or the rule itself. `does(call, out)` unites and pins ids through `call.read`, `call.axis` and `call.book`,
    and returns the planes of `out`, a list (one for each of several results); see `prunus.graph.along`.
    reads: beside `does`, what the op means by a removed channel: "alone", each position by itself; "zeros", a sum in
    which it adds nothing; "kept", it is counted (a mean, a norm), so the op runs over the kept ones.

    Raises InputError for a target whose calls cannot be seen, that has a rule, or that is said to do nothing.
    """
    name = str(getattr(target, "__qualname__", None) or getattr(target, "__name__", None) or target)
    if (like is None) == (does is None):
        raise InputError(f"rule for {name}: say what it does by like= (a torch function) or by does= (a function)")
    if reads not in READING:
        raise UnknownName.of("reads", str(reads), READING)
    if like is not None:
        check_like(name, target, like, args, reads)
    elif args is not None or not callable(does):
        raise InputError(f"rule for {name}: does= is a function of the call and its result, and args= goes with like=")
    about = Taught(name, like, does, args, reads)
    if isinstance(target, type) and issubclass(target, nn.Module):
        return Own(target, {}, about)
    if isinstance(target, type) and issubclass(target, torch.autograd.Function):
        return Own(target, {}, about)
    body = getattr(target, BODY, None)
    if body is not None:
        return Own(target, {body: about}, about)
    if isinstance(target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)) or is_of_torch(target):
        from .rules import table

        if table().get(target) is not None:
            raise InputError(f"{name} has a rule")
        return Own(target, {target: about}, about)
    raise InputError(f"calls of {name} cannot be seen; decorate it with @prunus.graph.op")


def is_of_torch(target: Any) -> bool:
    try:
        return callable(target) and resolve_name(target) is not None
    except (TypeError, ValueError):
        return False


def check_like(name: str, target: Any, like: Any, args: Any, reads: str) -> None:
    """A model to follow has a rule, and where it counts channels the op is called as it is. Raises InputError."""
    from .rules import table
    from .rules.norms import NORM_RULES, REDUCE, SOFTMAX

    title = getattr(like, "__name__", str(like))
    if not callable(like) or not (table().get(like) or (is_of_torch(like) and table().get(resolve_name(like)))):
        raise InputError(f"rule for {name}: {title} has no rule that it could follow")
    if reads != "alone":
        raise InputError(f"rule for {name}: reads= goes with does=; {title} says itself what it reads")
    counts = title in {*NORM_RULES, *REDUCE, *SOFTMAX}
    if counts and (args is not None or isinstance(target, type)):
        raise InputError(f"rule for {name}: {title} counts channels; give a function that is called as it is, or does=")


class Own:
    """A rule of the user's own: in force inside `with`, as often as wanted."""

    def __init__(self, target: Any, rules: Mapping[Any, Taught], about: Taught) -> None:
        self.target, self.rules, self.about = target, rules, about
        self.open: list[tuple[Token[Mapping[Any, Taught]], dict[str, Any]]] = []

    def __repr__(self) -> str:
        return f"rule({self.about.name})"

    def __enter__(self) -> Own:
        if any(found.name == self.about.name for found in taught().values()):
            raise InputError(f"two rules for {self.about.name} are in force")
        rules, methods = self.rules, dict[str, Any]()
        if isinstance(self.target, type):
            rules, methods = (of_module if issubclass(self.target, nn.Module) else of_function)(self.target, self.about)
        before = {name: vars(self.target).get(name) for name in methods}
        for name, method in methods.items():
            setattr(self.target, name, method)
        self.open.append((_TAUGHT.set({**taught(), **rules}), before))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        token, before = self.open.pop()
        _TAUGHT.reset(token)
        for name, method in before.items():
            if method is None:
                delattr(self.target, name)
            else:
                setattr(self.target, name, method)


def of_module(target: type[nn.Module], about: Taught) -> tuple[dict[Any, Taught], dict[str, Any]]:
    """The rules for a class of modules, and its forward while they are in force."""
    inner = target.forward

    def key(module: nn.Module, parameters: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        return inner(module, *args, **kwargs)

    @functools.wraps(inner)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        parameters = dict(self.named_parameters())
        return shown(key, (args, kwargs, parameters), (self, parameters, *args), kwargs)

    key.__name__ = key.__qualname__ = target.__name__
    return {key: replace(about, skip=2, owner=True)}, {"forward": forward}


def of_function(target: type[torch.autograd.Function], about: Taught) -> tuple[dict[Any, Taught], dict[str, Any]]:
    """The rules for an autograd function, called as `apply` now or as an `apply` that was kept earlier."""
    apply, inner = target.apply, target.forward
    skip = int(target.setup_context is torch.autograd.Function.setup_context)  # the context

    def whole(*args: Any, **kwargs: Any) -> Any:
        return apply(*args, **kwargs)

    def inside(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    for key in (whole, inside):
        key.__name__ = key.__qualname__ = target.__name__

    def applied(*args: Any, **kwargs: Any) -> Any:
        return shown(whole, (args, kwargs), args, kwargs)

    def forward(*args: Any, **kwargs: Any) -> Any:
        return shown(inside, (args[skip:], kwargs), args, kwargs)

    rules = {whole: about, inside: replace(about, skip=skip)}
    return rules, {"apply": staticmethod(applied), "forward": staticmethod(forward)}
