"""A model without its values: a copy on the meta device, run for shapes alone.

No convolution is computed, and nothing of an activation's size is held. Code that reads a value raises there, so what
an outline ran through depends on shapes and Python numbers only; whoever runs one runs the model itself where it
raises. Integers and booleans of the model keep their values, since they index.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from dis import get_instructions
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from .state import copied, modules_of, tensors_in, tensors_of

Args = tuple[Any, ...]
Shape = Callable[[Args, dict[str, Any]], Tensor | tuple[Tensor, ...] | None]
"""The result of a call, from the shapes of its arguments; None where the call itself must tell."""


@dataclass(frozen=True, eq=False)
class Outline:
    """A model and its example without values."""

    model: nn.Module
    example: Any


def outlined(model: nn.Module, example: Any, known: nn.Module | None = None) -> Outline | None:
    """The outline of a model on an example; None where there is none. `known`: that of the model alone."""
    if not all(map(hollow, tensors_in(example))):  # integers index, and may be out of bounds
        return None
    if known is not None:
        return Outline(known, tree_map(without_values, example))
    kinds: list[Any] = [type(module) for _, module in modules_of(model)]
    if any(issubclass(kind, torch.jit.ScriptModule) or caches(kind) for kind in kinds):
        return None
    held = (t for _, module in modules_of(model) for t in vars(module).values() if isinstance(t, Tensor))
    try:
        memo = {id(t): blank(t) for t in (*tensors_of(model).values(), *held) if hollow(t)}
        return Outline(copied(model, memo), tree_map(without_values, example))
    except Exception:  # whatever a user's module raises: then there is no outline of it
        return None


@lru_cache(maxsize=1024)
def caches(kind: type) -> bool:
    """Whether the forward of a module, or what that calls by name, writes to a dictionary of a Python module: tensors
    without values would stay there, and meet those of the model's next run."""
    queue, seen = [kind.forward], set[CodeType]()  # type: ignore[attr-defined]
    while queue:
        function = queue.pop()
        if not isinstance(function, FunctionType) or str(function.__module__).startswith("torch."):
            continue
        function = inspect.unwrap(function)
        code, known = function.__code__, function.__globals__
        if code in seen:
            continue
        seen.add(code)
        if any(isinstance(known.get(name), dict) for name in stored_in(code)):
            return True
        queue += [known[name] if name in known else getattr(kind, name, None) for name in code.co_names]
    return False


def stored_in(code: CodeType) -> set[str]:
    """Globals to which a function writes an item: nothing is stored or dropped between its load and the write."""
    found: set[str] = set()
    held: list[str] = []
    for step in get_instructions(code):
        if step.opname == "LOAD_GLOBAL":
            held.append(str(step.argval))
        elif step.opname == "STORE_SUBSCR":
            found.update(held)
            held = []
        elif step.opname.startswith(("STORE_", "POP_TOP", "RETURN", "POP_JUMP")):
            held = []
    return found


def hollow(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def blank(tensor: Tensor) -> Tensor:
    found = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(found, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else found


def without_values(value: Any) -> Any:
    return blank(value) if isinstance(value, Tensor) else value


def shape_of(func: Callable[..., Any], args: Args, kwargs: dict[str, Any]) -> Any:
    """The call's result on tensors without values, where its shape is known without the slow way of the meta device;
    else None: make the call, which also tells what is wrong with its arguments."""
    known = shapes().get(func)
    return None if known is None else known(args, kwargs)


class Shapes(TorchFunctionMode):
    """Runs an outline for whoever counts its products, convolutions among them."""

    def __torch_function__(self, func: Any, types: Any, args: Args = (), kwargs: dict[str, Any] | None = None) -> Any:
        found = None if func in CONVOLUTIONS else shape_of(func, args, kwargs or {})
        return func(*args, **(kwargs or {})) if found is None else found


def given(args: Args, kwargs: dict[str, Any], place: int, name: str) -> Any:
    return args[place] if len(args) > place else kwargs.get(name)


def plain(tensor: Any) -> bool:
    """A tensor without values and of no class of its own."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.is_meta and hollow(tensor)


def empty(shape: Sequence[int], like: Tensor, strides: Sequence[int] | None = None) -> Tensor:
    """A new tensor without values; no dispatch mode need see it made."""
    with torch._C._DisableTorchDispatch():
        if strides is None:
            return torch.empty(shape, dtype=like.dtype, device="meta")
        return torch.empty_strided(shape, strides, dtype=like.dtype, device="meta")


def fresh_like(x: Tensor, dense: bool = True) -> Tensor:
    """Of the same shape, and laid out alike where x is dense."""
    return empty(x.shape, x, x.stride() if dense and 0 not in x.stride() else None)


def alone(args: Args, kwargs: dict[str, Any]) -> Tensor | None:
    """A function of each position, or one that reads some and leaves the shape."""
    x = args[0] if args else kwargs.get("input")
    if x is None or not plain(x) or kwargs.get("dtype") is not None or "out" in kwargs:
        return None
    if any(isinstance(a, (Tensor, torch.dtype)) for a in args[1:]):
        return None
    return x if kwargs.get("inplace") else fresh_like(x)


def itself(args: Args, kwargs: dict[str, Any]) -> Tensor | None:
    """In place, with a number or with a tensor that broadcasts."""
    found = pair(args, kwargs)
    return args[0] if found is not None and found.shape == args[0].shape else None


def pair(args: Args, kwargs: dict[str, Any]) -> Tensor | None:
    """Two operands that broadcast, or one and a number."""
    if len(args) != 2 or kwargs or not plain(args[0]):
        return None
    x, y = args
    if not plain(y):
        return fresh_like(x) if isinstance(y, (int, float)) else None
    if x.dtype != y.dtype or x.dim() != y.dim():
        return None
    if x.shape == y.shape:
        return fresh_like(x)
    fits = all(a == b or a == 1 or b == 1 for a, b in zip(x.shape, y.shape, strict=True))
    return empty([a if b == 1 else b for a, b in zip(x.shape, y.shape, strict=True)], x) if fits else None


def batch_norm(args: Args, kwargs: dict[str, Any]) -> Tensor | None:
    x = args[0]
    names = enumerate(("running_mean", "running_var", "weight", "bias"), start=1)
    tensors = [t for place, name in names if (t := given(args, kwargs, place, name)) is not None]
    fits = plain(x) and x.dim() > 1 and all(t.shape == (x.shape[1],) for t in tensors)
    return fresh_like(x) if fits else None


def layer_norm(args: Args, kwargs: dict[str, Any]) -> Tensor | None:
    x, shape = args[0], tuple(given(args, kwargs, 1, "normalized_shape"))
    tensors = [
        t for place, name in ((2, "weight"), (3, "bias")) if isinstance(t := given(args, kwargs, place, name), Tensor)
    ]
    fits = plain(x) and tuple(x.shape[-len(shape) :]) == shape and all(tuple(t.shape) == shape for t in tensors)
    return fresh_like(x, dense=False) if fits else None


def group_norm(args: Args, kwargs: dict[str, Any]) -> Tensor | None:
    x, groups = args[0], given(args, kwargs, 1, "num_groups")
    tensors = [t for place, name in ((2, "weight"), (3, "bias")) if (t := given(args, kwargs, place, name)) is not None]
    fits = plain(x) and x.dim() > 1 and groups > 0 and x.shape[1] % groups == 0
    fits = fits and all(t.shape == (x.shape[1],) for t in tensors)
    return fresh_like(x, dense=False) if fits else None


def convolution(args: Args, kwargs: dict[str, Any]) -> Tensor | None:
    """On a batch in the plain layout, padded by numbers."""
    if not args or any(name in kwargs for name in ("input", "weight")):
        return None
    x, weight, bias = args[0], args[1], given(args, kwargs, 2, "bias")
    if not plain(x) or not plain(weight) or not (bias is None or (plain(bias) and bias.dtype == x.dtype)):
        return None
    sides = weight.dim() - 2
    stride, padding, dilation = (
        by_side(given(args, kwargs, place, name), sides, usual)
        for place, name, usual in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
    )
    groups = given(args, kwargs, 6, "groups")
    groups = 1 if groups is None else groups
    if x.dtype != weight.dtype or x.dim() != weight.dim() or not x.is_contiguous() or not x.numel() * weight.numel():
        return None
    if x.shape[1] != groups * weight.shape[1] or weight.shape[0] % groups:
        return None
    if (bias is not None and bias.shape != weight.shape[:1]) or stride is None or padding is None or dilation is None:
        return None
    every = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    sizes = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in every]
    return empty((x.shape[0], weight.shape[0], *sizes), x) if min(sizes) > 0 else None


def by_side(value: Any, sides: int, usual: int) -> tuple[int, ...] | None:
    """One number for each side; None for words, such as those of a padding."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (usual if value is None else value,)
    if not all(isinstance(n, int) for n in values) or len(values) not in (1, sides):
        return None
    return values if len(values) == sides else values * sides


CONVOLUTIONS = frozenset((torch.conv1d, torch.conv2d, torch.conv3d, F.conv1d, F.conv2d, F.conv3d))


def linear(args: Args, kwargs: dict[str, Any]) -> Tensor | None:
    x, weight, bias = (given(args, kwargs, place, name) for place, name in enumerate(("input", "weight", "bias")))
    if bias is None or not (plain(x) and plain(weight) and plain(bias)) or bias.dtype != weight.dtype:
        return None
    return F.linear(x, weight) if bias.shape == weight.shape[:1] else None


def attention(args: Args, kwargs: dict[str, Any]) -> Tensor | None:
    """Two products in place of what the meta device decomposes."""
    if len(args) != 3 or not all(map(plain, args)) or kwargs.get("attn_mask") is not None or kwargs.get("enable_gqa"):
        return None
    q, k, v = args
    if not q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:
        return None
    found: Tensor = q @ k.transpose(-2, -1) @ v
    return found


def pooled(args: Args, kwargs: dict[str, Any]) -> Tensor | None:
    """Adaptive pooling to one size."""
    x, size = args[0], given(args, kwargs, 1, "output_size")
    sizes = (size, size) if isinstance(size, int) else tuple(size)
    if not plain(x) or x.dim() not in (3, 4) or len(sizes) != 2 or not all(isinstance(n, int) for n in sizes):
        return None
    return empty((*x.shape[:-2], *sizes), x) if x.numel() else None


def joined(args: Args, kwargs: dict[str, Any]) -> Tensor | None:
    tensors, dim = args[0], given(args, kwargs, 1, "dim")
    if not isinstance(tensors, (list, tuple)) or not tensors or "out" in kwargs or not all(map(plain, tensors)):
        return None
    first, dim = tensors[0], 0 if dim is None else dim
    if not isinstance(dim, int) or not -first.dim() <= dim < first.dim():
        return None
    sizes = [list(t.shape) for t in tensors]
    dim %= first.dim()
    total = sum(size.pop(dim) for size in sizes if len(size) == first.dim())
    if any(size != sizes[0] for size in sizes) or any(t.dtype != first.dtype for t in tensors):
        return None
    return empty((*sizes[0][:dim], total, *sizes[0][dim:]), first)


def taken(args: Args, kwargs: dict[str, Any]) -> Tensor | None:
    x, index = args
    return empty((x.shape[0], index.numel(), *x.shape[2:]), x) if plain(x) else None


def recurrent(args: Args, kwargs: dict[str, Any]) -> tuple[Tensor, ...] | None:
    """`lstm`, `gru` and their like on a padded batch: the meta device takes their steps one by one. The products of all
    steps are made as one for each matrix, for whoever counts them; with a projection its own as well."""
    if len(args) != 9 or kwargs or not isinstance(args[2], (list, tuple)) or not isinstance(args[8], bool):
        return None
    x, state, weights, _, layers, _, _, both, batch_first = args
    states = state if isinstance(state, (list, tuple)) else (state,)
    if not all(map(plain, (x, *states, *weights))) or x.dim() != 3 or any(s.dim() != 3 for s in states):
        return None
    ends, width = 1 + both, states[0].shape[-1]
    if not x.numel() or len(weights) % (layers * ends) or states[0].shape[1] != x.shape[0 if batch_first else 1]:
        return None
    first = x.reshape(-1, x.shape[-1])
    for w in weights:
        if w.dim() > 1:
            (first if w.shape[1] == first.shape[1] else empty((len(first), w.shape[1]), x)) @ w.t()
    sizes = (x.shape[1], x.shape[0]) if batch_first else x.shape[:2]
    out = empty((*sizes, ends * width), x)
    return (out.transpose(0, 1) if batch_first else out, *map(fresh_like, states))


@lru_cache(maxsize=1)
def shapes() -> dict[Any, Shape]:
    """What the meta device is slow at, by function."""
    from .models.shortcut import take

    def found(names: str, places: Iterable[Any] = (torch, Tensor, F, torch._C._nn)) -> list[Any]:
        return [func for name in names.split() for place in places if callable(func := getattr(place, name, None))]

    table: dict[Any, Shape] = {take: taken}
    for names, shape in (
        (ALONE, alone),
        ("add sub mul div __add__ __sub__ __mul__ __truediv__", pair),
        ("add_ sub_ mul_ div_ __iadd__ __isub__ __imul__ __itruediv__", itself),
        ("batch_norm", batch_norm),
        ("layer_norm rms_norm", layer_norm),
        ("group_norm", group_norm),
        ("conv1d conv2d conv3d", convolution),
        ("linear", linear),
        ("scaled_dot_product_attention", attention),
        ("adaptive_avg_pool2d", pooled),
        ("cat", joined),
        ("lstm gru rnn_tanh rnn_relu", recurrent),
    ):
        table |= dict.fromkeys(found(names), shape)
    return table


ALONE = """
relu relu6 hardtanh hardswish hardsigmoid sigmoid silu gelu mish elu selu celu leaky_relu softplus tanh dropout
dropout1d dropout2d dropout3d alpha_dropout feature_dropout softmax log_softmax
"""
