"""Run a model's own forward once and hand every torch call to a rule.

A torch function mode sees each call as the user wrote it; a dispatch mode beneath is the witness for what it cannot see
(scripted functions, C++ composites). Labels live in a weak table, so the model and its tensors are not touched.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakTensorKeyDictionary

from ..errors import ExampleError
from ..state import modules_of, tensors_in, tensors_of
from .blank import Blank, kept, made, numbers, plain, sizes_alone, written, zeros
from .labels import Book, ByIdentity, Check, Label, Places, compress, varying, vector
from .opened import opened
from .own import watched
from .splits import Site, Splits, compared, inherited
from .told import HEARD, Told

Rule = Callable[["Call", Any], Any]


@dataclass
class Call:
    """One call of a torch function: what a rule needs to know."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    module: nn.Module
    path: str
    tracer: Tracer
    index: int

    @property
    def book(self) -> Book:
        return self.tracer.book

    def get(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by position or keyword."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def label(self, tensor: Tensor) -> Label:
        return self.tracer.label(tensor)

    def read(self, tensor: Tensor, axis: int) -> Tensor:
        """The ids of an operand along one axis, where the op mixes or weighs them."""
        return self.tracer.read(tensor, axis)

    def axis(self, tensor: Tensor, axis: int, role: str) -> Tensor:
        """The ids of one axis of a parameter. role: "out" of what it makes, "in" of what it reads, "scale", "shift"."""
        return self.tracer.axis(tensor, axis, role)

    @property
    def name(self) -> str:
        return op_name(self.func)

    def pin(self, tensor: Tensor, why: str) -> None:
        for plane in self.label(tensor).planes:
            self.book.pin(plane, why)


@dataclass(frozen=True)
class Op:
    """What stays of a call when the forward is over: who made its operands, and in which module call it ran."""

    name: str
    path: str
    calls: tuple[int, ...]  # the enclosing module calls, outermost first
    inputs: tuple[int | None, ...]
    tensors: tuple[str, ...]
    joins: bool  # an elementwise sum of two activations
    numbers: tuple[float, ...] = ()  # Python numbers that the op computed with
    planes: tuple[Tensor, ...] = ()  # of the operands, where there are such numbers


@dataclass(frozen=True)
class Entered:
    """One call of one module: its path and the op index at which it began."""

    path: str
    start: int
    parent: int | None


@dataclass(frozen=True, eq=False)
class Made:
    """Shapes in and out of a module's last call, and the label of its output. `items`: how many values it returned, the
    output first; 0 for the output alone."""

    taken: tuple[int, ...]
    shape: tuple[int, ...]
    label: Label
    items: int = 0

    def channels(self) -> tuple[int, Tensor | None]:
        """The channel axis of the output, and the ids along it; none where it has several or none."""
        planes = [p for p in self.label.planes if len(varying(p)) == 1]
        axis = varying(planes[0])[0] if planes else 0
        return axis, vector(planes[0], axis) if planes else None


def op_name(func: Callable[..., Any]) -> str:
    """The public name of a torch function."""
    if isinstance(func, torch._ops.OpOverload):
        return f"{func} (called below Python)"
    return str(resolve_name(func) or getattr(func, "__name__", func))


@dataclass
class Tracer(TorchFunctionMode):
    """Follows one forward and asks `rules` for the label of each result."""

    model: nn.Module
    book: Book
    rules: Mapping[Any, Rule]
    execute: Callable[[Call], Any] | None = None
    splits: Splits = field(default_factory=Splits)
    strict: bool = False  # a rule that fails ends the forward
    outline: bool = False  # the model holds no values
    ops: list[Op] = field(default_factory=list)
    entered: list[Entered] = field(default_factory=list)
    unknown: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self.names: dict[int, str] = {}
        self.paths: dict[int, str] = {}
        for name, tensor in tensors_of(self.model).items():
            self.names.setdefault(id(tensor), name)
        for path, module in modules_of(self.model):
            self.paths.setdefault(id(module), path)
        convs = [m for _, m in modules_of(self.model) if isinstance(m, nn.modules.conv._ConvNd)]
        # Axes after the second are no channels: of weights, and of what a parametrisation makes them of.
        self.kernels = {id(p) for m in convs for p in m.parameters() if p.dim() == len(m.kernel_size) + 2}
        # The activations of an outline take no memory and may stay; all others go when the model lets go of them.
        self.labels: MutableMapping[Tensor, Label] = ByIdentity() if self.outline else WeakTensorKeyDictionary()
        self.sources: MutableMapping[Tensor, Any] = ByIdentity() if self.outline else WeakTensorKeyDictionary()
        self.blanks: MutableMapping[Tensor, Blank] = ByIdentity() if self.outline else WeakTensorKeyDictionary()
        self.weighed: set[int] = set()  # first rows behind the operands of products
        self.tight: dict[int, Tensor] = {}  # planes of an outline that were looked at
        self.sites: list[Site] = []
        self.escaped: list[int | None] = []  # the ops that made what the code reads as numbers
        self.split: dict[str, int] = {}  # how many splits ran in a module
        self.failed_in: str | None = None  # the module in which an op raised or received ids in another order
        self.made: dict[str, Made] = {}
        self.failed: tuple[Tensor, ...] = ()  # operands of the op that raised
        self.stack: list[tuple[nn.Module, str, int | None]] = [(self.model, "", None)]
        self.depth = 0
        self.sized: weakref.ref[Tensor] | None = None  # whose shape the code read last

    # labels ---------------------------------------------------------------------------------------------------------
    def label(self, tensor: Tensor) -> Label:
        """What is known of a tensor. A parameter used as an operand gets ids on each of its axes."""
        found = self.labels.get(tensor)
        if found is not None:
            for plane in found.places:
                self.book.pin(plane, "the places of its largest or smallest entries are read")
            return found
        name = self.names.get(id(tensor))
        if name is None:
            return Label(why="it meets a tensor that is neither parameter, buffer nor traced activation")
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return Label(why=f"it meets the integer buffer {name}")
        planes = []
        for axis, length in enumerate(tensor.shape[:2] if id(tensor) in self.kernels else tensor.shape):
            if length > 1:
                ids = self.book.axis(name, axis, length, "operand")
                planes.append(ids.reshape([-1 if d == axis else 1 for d in range(tensor.dim())]).expand(tensor.shape))
        return Label(tuple(planes), why=f"{name} has width 1 there")

    def axis(self, tensor: Tensor, axis: int, role: str) -> Tensor:
        """The ids of one axis of a parameter, buffer or labelled tensor."""
        axis %= tensor.dim()
        name = self.names.get(id(tensor))
        if name is not None and tensor not in self.labels:
            return self.book.axis(name, axis, tensor.shape[axis], role)
        return self.read(tensor, axis)

    def read(self, tensor: Tensor, axis: int) -> Tensor:
        """The ids of an activation along one axis, where an op mixes or weighs them. Irregular labels are tied."""
        axis %= tensor.dim()
        label = self.label(tensor)
        for plane in label.planes:
            axes = varying(plane)
            if axis in axes:
                for other in axes:
                    if other != axis:
                        self.book.tie(plane, other)
                for mate in label.planes:
                    if mate is not plane and axis in varying(mate):
                        for both in (plane, mate):
                            self.book.pin(both, "it shares an axis with other channels")
                return plane[tuple(slice(None) if d == axis else 0 for d in range(plane.dim()))]
        ids = zeros(self, tensor, axis)
        return self.book.fixed(label.why, tensor.shape[axis]) if ids is None else ids

    def mark(self, tensor: Tensor, planes: tuple[Tensor, ...] | list[Tensor], why: str) -> None:
        if isinstance(planes, Places):
            self.labels[tensor] = Label((), why, len(self.ops) - 1, tuple(planes))
            return
        kept = []
        for given in planes:
            plane = given if id(given) in self.tight else compress(given)
            if id(plane) in self.tight or varying(plane):
                kept.append(plane)
                if self.outline:
                    self.tight[id(plane)] = plane
            elif plane.numel():
                self.book.pin(plane.reshape(-1)[:1], "it is the only channel of its layer")
        self.labels[tensor] = Label(tuple(kept), why, len(self.ops) - 1)

    # the mode -------------------------------------------------------------------------------------------------------
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in SIZES:
            self.sized = weakref.ref(args[0])
            return func(*args, **(kwargs or {}))
        module, path, _ = self.stack[-1]
        inner = opened(func)
        if inner is not None:  # a function of many ops: each is seen on its own
            try:
                with self:
                    return inner(*args, **(kwargs or {}))
            except Exception:
                self.failed_in = self.failed_in or path
                raise
        call = Call(func, args, kwargs or {}, module, path, self, len(self.ops))
        self.depth += 1
        try:
            out = self.execute(call) if self.execute else func(*args, **call.kwargs)
            results = tensors_in(out)
            if results or getattr(self.rules.get(func), "statement", False):
                with torch._C._DisableTorchDispatch():  # the witness need not see what the rules do
                    self.follow(call, out, results)
            elif (name := getattr(func, "__name__", "")) in ESCAPES | COMPARED:
                for value in tensors_in((args, call.kwargs)):
                    self.escaped.append(self.label(value).op)
                    if name in ESCAPES:
                        call.pin(value, "its values leave torch")
            return out
        finally:
            self.depth -= 1

    def follow(self, call: Call, out: Any, results: list[Tensor]) -> None:
        operands = tensors_in((call.args, call.kwargs))
        if not operands or sizes_alone(call, operands):
            made(call, out)
            if numbers(call, ()):
                self.note(call, operands, {}, None)
            return
        before = {id(t): self.label(t) for t in operands if t in self.labels}
        rule = self.rules.get(call.func) or self.rules.get(op_name(call.func))
        self.note(call, operands, before, rule)
        if rule is None or (call.kwargs.get("out") is not None and not getattr(rule, "into", False)):
            self.refuse(f"{call.name} in {call.path or 'forward'}", operands, results)
            return
        try:
            planes = rule(call, out)
        except Exception as error:  # arguments the rule was not written for: no guess, but the name of the op
            if self.strict:
                self.failed, self.failed_in = tuple(operands), call.path
                shapes = ", ".join(str(tuple(t.shape)) for t in operands)
                raise ExampleError(f"no rule: in {call.path or 'forward'}, {call.name} on {shapes}: {error}") from error
            self.refuse(f"{call.name} in {call.path or 'forward'} ({type(error).__name__}: {error})", operands, results)
            return
        if isinstance(self.book, Check) and self.book.clash is not None and self.failed_in is None:
            self.failed_in = call.path
        if isinstance(out, Tensor):
            planes = [planes]
            if getattr(rule, "inherits", False):
                inherited(call, out)
        unknown = (self.label(t) for t in operands if id(t) not in self.names)
        why = next((label.why for label in unknown if not label.planes), "it is computed from fixed widths")
        for tensor, its in zip(results, planes, strict=True):
            self.mark(tensor, its, why)
            if tensor._is_view() and id(tensor) in before:  # written in place: the base keeps its own planes
                old = {varying(p) for p in before[id(tensor)].planes}
                for plane in its:
                    if varying(plane) and varying(plane) not in old:
                        self.book.pin(plane, f"{call.name} writes it into a view of another tensor")
        if self.blanks or call.func.__name__.startswith("new_"):
            kept(call, rule, operands, results)

    def note(self, call: Call, operands: list[Tensor], labels: Mapping[int, Label], rule: Rule | None) -> None:
        made = tuple(found.op if (found := labels.get(id(t))) is not None else None for t in operands)
        used = tuple(self.names[id(t)] for t in operands if id(t) in self.names and id(t) not in labels)
        chain = tuple(i for _, _, i in self.stack[1:] if i is not None)
        given = (*call.args, *call.kwargs.values()) if getattr(rule, "computes", False) else ()
        used_numbers = plain(given) + numbers(call, operands)
        planes = tuple(p for t in operands for p in self.label(t).planes) if used_numbers else ()
        joins = getattr(rule, "joins", False) and call.func.__name__ in SUMS and len(call.args) == 2
        self.ops.append(Op(call.func.__name__, call.path, chain, made, used, joins, used_numbers, planes))

    def refuse(self, what: str, operands: list[Tensor], results: list[Tensor]) -> None:
        """An op without a rule: pin all it saw and name it."""
        seen = False
        for tensor in operands:
            for plane in self.label(tensor).planes:
                seen = True
                self.book.pin(plane, f"no rule for {what}")
        if seen:
            self.unknown.setdefault(what)
        for tensor in results:
            self.labels[tensor] = Label(why=f"no rule for {what}", op=len(self.ops) - 1)
            written(self, tensor)

    def heard(self, number: Told) -> None:
        """The code holds an attribute against a size, most likely of the tensor whose shape it read last."""
        tensor = self.sized() if self.sized is not None and not self.depth else None
        if tensor is not None and tensor in self.labels:
            with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
                self.sized = None  # what compares below is not the user's code
                compared(self, number, tensor, self.labels[tensor])

    # module calls ---------------------------------------------------------------------------------------------------
    def enter(self, module: nn.Module, args: Any) -> None:
        path = self.paths.get(id(module))
        if path is not None:
            self.entered.append(Entered(path, len(self.ops), self.stack[-1][2]))
            self.stack.append((module, path, len(self.entered) - 1))
            if isinstance(module, nn.Transformer) and args:  # it compares this with what it is given
                with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
                    self.book.count("attribute", path, 0, "d_model", self.read(args[0], -1))

    def leave(self, module: nn.Module, args: Any, *rest: Any) -> None:
        *kwargs, out = rest  # after an exception torch leaves the keywords out
        if len(self.stack) > 1 and self.stack[-1][0] is module:
            path = self.stack.pop()[1]
            given = tensors_in(args) or tensors_in(kwargs)
            taken = given[0] if given else None
            items = len(out) if type(out) is tuple else 0
            out = out[0] if items else out
            if isinstance(out, Tensor) and taken is not None and not isinstance(self.book, Check):
                with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
                    self.made[path] = Made(tuple(taken.shape), tuple(out.shape), self.label(out), items)

    @contextlib.contextmanager
    def watching(self) -> Iterator[Tracer]:
        """Record what runs inside."""
        pre, heard = module_hooks.register_module_forward_pre_hook(self.enter), HEARD.set(self.heard)
        post = module_hooks.register_module_forward_hook(self.leave, with_kwargs=True, always_call=True)
        try:
            with watched(), Witness(self), self:
                yield self
        finally:
            HEARD.reset(heard)
            pre.remove()
            post.remove()
            module_hooks._global_forward_hooks_with_kwargs.pop(post.id, None)  # `remove` leaves it behind


ESCAPES = frozenset({"numpy", "tolist", "item", "__array__", "__float__", "__int__", "__bool__", "__dlpack__"})
ESCAPES |= {"__index__", "__complex__", "is_nonzero"}
COMPARED = frozenset({"equal", "allclose"})
SIZES = frozenset([Tensor.dim, Tensor.size, Tensor.numel, Tensor.is_floating_point])
SIZES |= {getattr(Tensor, name).__get__ for name in ("shape", "ndim")}
"""They tell what is no value."""
SUMS = frozenset({"add", "add_", "__add__", "__iadd__", "__radd__"})


class Witness(TorchDispatchMode):
    """Sees what ran without passing the function mode, and pins it."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tracer = tracer

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.tracer.depth == 0:
            operands = [t for t in tree_iter((args, kwargs or {})) if isinstance(t, Tensor) and self.labelled(t)]
            results = [t for t in tree_iter(out) if isinstance(t, Tensor)]
            if operands and results:
                what = f"{op_name(func)} in {self.tracer.stack[-1][1] or 'forward'}"
                self.tracer.depth += 1
                try:
                    self.tracer.refuse(what, operands, results)
                finally:
                    self.tracer.depth -= 1
        return out

    def labelled(self, tensor: Tensor) -> bool:
        return tensor in self.tracer.labels or id(tensor) in self.tracer.names
