"""Ops that act on each position alone: they unite the ids that they broadcast together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter

from ...models.dropped import Zero
from ..blank import blank, met
from ..labels import ZERO, along, spelled, spread, varying
from ..record import Call
from ..splits import PROPORTIONAL, scaled


def join(call: Call, shape: Sequence[int], operands: Sequence[tuple[Tensor, Sequence[Tensor]]]) -> list[Tensor]:
    """Planes of the result of broadcasting `operands` (each a tensor with its planes) to `shape`."""
    wide = [[spread(plane, shape) for plane in planes] for _, planes in operands]
    result: list[Tensor] = []
    for i, mine in enumerate(wide):
        for plane in mine:
            axes = set(varying(plane))
            for j, (other, _) in enumerate(operands):
                sizes = [1] * (len(shape) - other.dim()) + list(other.shape)
                if i == j or all(sizes[d] == 1 for d in axes):
                    continue
                mates = [mate for mate in wide[j] if axes & set(varying(mate))]
                if not mates and blank(call.tracer, other):
                    met(call, other, plane)
                elif not mates and any(sizes[d] > 1 and d - len(shape) + other.dim() not in flat(other) for d in axes):
                    call.book.pin(plane, call.label(other).why)
                for mate in mates if i < j else ():
                    call.book.unite(plane, mate)
            merged = False
            for k, seen in enumerate(result):
                if axes & set(varying(seen)):
                    merged = True
                    if (spelled(seen).numpy() == ZERO).any():
                        result[k] = seen.where(seen != ZERO, plane)
            if not merged:
                result.append(plane)
    return result


def flat(tensor: Tensor) -> list[int]:
    """Axes along which a tensor is one entry, expanded."""
    strided = tensor.layout is torch.strided
    return [d for d, n in enumerate(tensor.shape) if strided and n > 1 and tensor.stride(d) == 0]


def elementwise(call: Call, out: Any) -> Any:
    """A function of its tensor arguments at each position, with broadcasting."""
    operands = [(t, call.label(t).planes) for t in tree_iter((call.args, call.kwargs)) if isinstance(t, Tensor)]
    if len(operands) == 1 and call.func.__name__.strip("_") in PROPORTIONAL:
        scaled(call, operands[0][0])
    if isinstance(out, Tensor):
        return join(call, out.shape, operands)
    return [join(call, t.shape, operands) for t in tree_iter(out) if isinstance(t, Tensor)]


elementwise.joins = True  # type: ignore[attr-defined]
elementwise.inherits = True  # type: ignore[attr-defined]
elementwise.repeats = True  # type: ignore[attr-defined]
elementwise.computes = True  # type: ignore[attr-defined]


def like(call: Call, out: Any) -> Any:
    """The planes of the first argument, whatever the other arguments are."""
    planes = call.label(call.get(0, "input")).planes
    return list(planes) if isinstance(out, Tensor) else [list(planes) for t in tree_iter(out) if isinstance(t, Tensor)]


like.inherits = True  # type: ignore[attr-defined]
like.repeats = True  # type: ignore[attr-defined]


def drawn(call: Call, out: Any) -> Any:
    """Random numbers for every entry: with fewer channels the others would be drawn differently."""
    call.pin(call.get(0, "input"), "random numbers are drawn for each of its channels")
    return like(call, out)


def fresh(call: Call, out: Any) -> Any:
    """A tensor made from sizes alone: nothing is known of its axes."""
    return [] if isinstance(out, Tensor) else [[] for t in tree_iter(out) if isinstance(t, Tensor)]


def new_zeros(call: Call, out: Tensor) -> list[Tensor]:
    """`new_zeros`; in what stands for a dropped branch it is as wide as the stream that it is added to."""
    module = call.module
    if isinstance(module, Zero) and out.shape[module.axis] == module.width:
        ids = call.book.made(call.path, "width", module.width)
        return [] if ids is None else [along(ids, module.axis, out.shape)]
    return []


def prelu(call: Call, out: Any) -> Any:
    """`F.prelu`: the slopes belong to axis 1."""
    x, weight = call.get(0, "input"), call.get(1, "weight")
    if weight.numel() > 1:
        ids = call.tracer.read(x, min(1, x.dim() - 1))
        call.book.unite(ids, call.tracer.axis(weight, 0, "scale"))
        if call.module._parameters.get("weight") is weight:
            call.book.count("attribute", call.path, 0, "num_parameters", ids)
    return list(call.label(x).planes)


def glu(call: Call, out: Any) -> Any:
    """`F.glu`: halves along `dim`, multiplied."""
    x, dim = call.get(0, "input"), call.get(1, "dim", -1)
    halves = [(out, [plane.chunk(2, dim)[k] for plane in call.label(x).planes]) for k in range(2)]
    return join(call, out.shape, halves)


def assign(call: Call, out: Any) -> Any:
    """`copy_`, `fill_`: the target keeps its own planes and takes the source's."""
    return elementwise(call, out)


assign.repeats = True  # type: ignore[attr-defined]


ELEMENTWISE = """
abs absolute acos add addcdiv addcmul alpha_dropout angle asin atan atan2 bitwise_and bitwise_not bitwise_or ceil celu
clamp clamp_max clamp_min clip conj copysign cos cosh deg2rad digamma div divide dropout dropout1d dropout2d dropout3d
elu eq erf erfc exp exp2 expm1 feature_alpha_dropout feature_dropout fix float_power floor floor_divide fmax fmin fmod
frac ge gelu greater greater_equal gt hardshrink hardsigmoid hardswish hardtanh hypot isfinite isinf isnan le
leaky_relu lerp less less_equal lgamma log log10 log1p log2 logaddexp logical_and logical_not logical_or logical_xor
logit logsigmoid lt masked_fill maximum minimum mish mul multiply nan_to_num ne neg negative not_equal positive pow
rad2deg reciprocal relu relu6 remainder round rsqrt rsub selu sgn sigmoid sign silu sin sinc sinh softplus
softshrink softsign sqrt square sub subtract tan tanh tanhshrink threshold true_divide trunc xlogy complex polar __add__
__radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__ __rmul__ __imul__ __truediv__ __rtruediv__ __itruediv__ __pow__
__rpow__ __neg__ __abs__ __lt__ __le__ __gt__ __ge__ __eq__ __ne__ __and__ __or__ __invert__ __floordiv__ __mod__
""".split()

LIKE = """
clone contiguous detach detach_ to type type_as float double half bfloat16 int long bool cpu cuda requires_grad_ alias
zeros_like ones_like empty_like full_like fill_ zero_
""".split()

DRAWN = "rand_like randn_like bernoulli normal_ uniform_ exponential_ gumbel_softmax rrelu".split()

FRESH = "new_ones new_empty new_full new_tensor one_hot bincount".split()
