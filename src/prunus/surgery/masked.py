"""The masked network: full size, but every op that mixes channels reads only the kept ones.

Where zeros are neutral the removed entries read as zero; where channels are counted (norms over channels, means,
softmax) the op runs over the kept entries and its result is put back in place. Built by intercepting ops of the dense
model; shares no code with the cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map

from ..graph.coupling import VALUES
from ..graph.labels import Check, varying
from ..graph.opened import opened
from ..graph.own import known
from ..graph.record import SUMS, Call, Tracer
from ..graph.rules import functions, table
from ..graph.rules.norms import REDUCE, SOFTMAX, reduced_axes
from ..graph.rules.products import LIKENESS, axis_read
from ..graph.rules.recurrent import GATES, packed
from ..plan import Plan
from ..state import call_model, fresh, uncheckpointed
from .layers import OWN
from .masked_own import own

DROPOUT = frozenset(
    functions(
        ["dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"]
    )
)
SURVIVES = frozenset(functions(["bernoulli", "bernoulli_"]))  # as stochastic depth draws which branches stay
DROPS = 4  # the place of dropout_p in scaled dot-product attention
RECURRENT = frozenset(functions(GATES))
LOW = {torch.float32, torch.float16, torch.bfloat16}


def neutral(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], double: bool) -> Any:
    """A call with dropout and stochastic depth off and, on float64 copies, without casts to a lower precision."""
    if call in DROPOUT or call in SURVIVES:
        x = args[0] if args else kwargs["input"]
        if call in DROPOUT:
            return x
        return x.fill_(1) if call.__name__ == "bernoulli_" else torch.ones_like(x)
    if call is F.scaled_dot_product_attention:
        args = args if len(args) <= DROPS else (*args[:DROPS], 0.0, *args[DROPS + 1 :])
        kwargs = kwargs | {"dropout_p": 0.0} if "dropout_p" in kwargs else kwargs
    if call in RECURRENT:
        between = 6 if packed(args) else 5  # the place of its dropout
        args = (*args[:between], 0.0, *args[between + 1 :])
    if double:
        if call in {Tensor.float, Tensor.half, Tensor.bfloat16}:
            return args[0].double()
        args = tuple(raised(a) for a in args)
        kwargs = {k: raised(v) for k, v in kwargs.items()}
    made = OWN.get(call, call) if args else call
    try:
        return made(*args, **kwargs)
    except RuntimeError:  # a constant of the code, or a plain attribute, in the model's own dtype
        lifted = tree_map(widened, (args, kwargs)) if double and mixed((args, kwargs)) else None
        if lifted is None:
            raise
        return made(*lifted[0], **lifted[1])


def mixed(values: Any) -> bool:
    """Whether floating tensors are in double precision and below it."""
    kinds = {t.dtype for t in tree_iter(values) if isinstance(t, Tensor) and t.dtype.is_floating_point}
    return torch.float64 in kinds and bool(kinds & LOW)


def widened(value: Any) -> Any:
    """A tensor below double precision in double precision."""
    return value.double() if isinstance(value, Tensor) and value.dtype in LOW else value


def raised(value: Any) -> Any:
    """A dtype below float64 becomes float64, one below complex128 that."""
    if isinstance(value, torch.dtype) and value.is_complex:
        return torch.complex128
    return torch.float64 if isinstance(value, torch.dtype) and value in LOW else value


class Neutral(TorchFunctionMode):
    """Runs the cut network under the same conditions as the masked one."""

    def __init__(self, double: bool) -> None:
        super().__init__()
        self.double = double

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inner = opened(func)
        if inner is None:
            return neutral(func, args, kwargs or {}, self.double)
        with self:
            return inner(*args, **(kwargs or {}))


def neutral_run(model: nn.Module, example: Any, double: bool) -> Any:
    """One forward of the cut network."""
    given = fresh(example)
    with Neutral(double), uncheckpointed():
        return call_model(model, given)


def channel_ids(plan: Plan, kept_only: bool) -> tuple[dict[tuple[str, int], Tensor], Tensor]:
    """Ids of the channels on every axis of the dense (or the cut) model, and which ids are removed."""
    removed = removed_ids(plan)
    gone, start = removed.numpy(), 0
    ids: dict[tuple[str, int], npt.NDArray[np.int64]] = {}
    for group in plan.groups:
        mine = np.arange(start, start + group.width)[:, None]
        for m in group.members:
            if m.axis != VALUES:
                key = (m.tensor, m.axis)
                if key not in ids:
                    ids[key] = np.full(plan.length(m), -2)
                ids[key][m.positions] = mine
        start += group.width
    if kept_only:
        ids = {key: axis[(axis < 0) | ~gone[np.maximum(axis, 0)]] for key, axis in ids.items()}
    return {key: torch.from_numpy(axis) for key, axis in ids.items()}, removed


def removed_ids(plan: Plan) -> Tensor:
    """Which channels are removed, counted through all groups in order."""
    gone = [np.ones(group.width, bool) for group in plan.groups]
    for mask, kept in zip(gone, plan.kept, strict=True):
        mask[list(kept)] = False
    return torch.from_numpy(np.concatenate([*gone, np.zeros(0, bool)]))


@dataclass
class Masking:
    """Executes the calls of the dense model so that removed channels are never read."""

    removed: Tensor
    dropped: frozenset[tuple[str, int, int]]
    double: bool
    counted: bool = True  # evaluate counting ops over the kept entries; False: plain zeroing
    compacted: dict[str, None] = field(default_factory=dict)
    sums: dict[str, int] = field(default_factory=dict)

    def __call__(self, call: Call) -> Any:
        taught = known(call.func)
        if taught is not None:
            return own(self, call, taught, READS.get(taught.like), (sums_up, contracts, attends))
        kind = READS.get(call.func)
        if call.func.__name__ in SUMS and len(call.args) == 2:
            call = self.without_dropped(call)
        if kind is None:
            return neutral(call.func, call.args, call.kwargs, self.double)
        return kind(self, call)

    def run(self, call: Call, x: Tensor) -> Any:
        """The call with another first argument."""
        if call.args:
            return neutral(call.func, (x, *call.args[1:]), call.kwargs, self.double)
        return neutral(call.func, (), call.kwargs | {"input": x}, self.double)

    def gone(self, call: Call, tensor: Tensor) -> list[Tensor]:
        """For each plane, a mask of the entries that belong to removed channels, broadcastable to the tensor."""
        masks = []
        for plane in call.label(tensor).planes:
            axes = varying(plane)
            small = plane[tuple(slice(None) if d in axes else slice(0, 1) for d in range(plane.dim()))]
            mask = (small >= 0) & self.removed[small.clamp(min=0)]
            if bool(mask.any()):
                masks.append(mask.to(tensor.device))
        return masks

    def zeroed(self, call: Call, tensor: Any) -> Any:
        if isinstance(tensor, Tensor) and (tensor in call.tracer.labels or tensor is call.get(0, "input")):
            for mask in self.gone(call, tensor):
                tensor = tensor.masked_fill(mask, 0)
        return tensor

    def without_dropped(self, call: Call) -> Call:
        nth = self.sums.get(call.path, 0)
        self.sums[call.path] = nth + 1
        for operand in (0, 1):
            if (call.path, nth, operand) in self.dropped:
                other = call.args[1 - operand]
                args = (other, torch.zeros_like(other)) if operand else (torch.zeros_like(other), other)
                return replace(call, args=args)
        return call

    def kept(self, call: Call, x: Tensor, axis: int) -> Tensor | None:
        """Indices of the kept entries along an axis, None where all stay."""
        axis %= x.dim()
        stays: Tensor | None = None
        for mask in self.gone(call, x):
            if mask.shape[axis] > 1:
                line = ~mask.movedim(axis, 0).reshape(mask.shape[axis], -1)[:, 0]
                stays = line if stays is None else stays & line
        if stays is None:
            return None
        if self.counted:
            self.compacted.setdefault(call.path or "forward")
        return torch.nonzero(stays).reshape(-1)

    def back(self, small: Tensor, like: Tensor, axis: int, keep: Tensor) -> Tensor:
        """Put the entries of `small` back to their places along an axis."""
        shape = list(small.shape)
        shape[axis] = like.shape[axis]
        return small.new_zeros(shape).index_copy(axis, keep, small)

    def along(self, call: Call, x: Tensor, axes: Iterable[int]) -> Any:
        """The call over the kept entries of these axes of its first argument, its result back in place."""
        keeps = [(axis, keep) for axis in axes if (keep := self.kept(call, x, axis)) is not None]
        if not keeps or not self.counted:
            return self.run(call, self.zeroed(call, x) if keeps else x)
        undo = []
        for axis, keep in keeps:
            undo.append((axis, keep, x))
            x = x.index_select(axis, keep)
        out = self.run(call, x)
        for axis, keep, like in reversed(undo):
            out = self.back(out, like, axis, keep)
        return out


def sums_up(mask: Masking, call: Call) -> Any:
    """Convolution, linear, matmul: removed entries read as zero."""
    weight = unread(mask, call)
    rest = [mask.zeroed(call, a) for a in call.args[2 if weight is not None else 0 :]]
    kwargs = {k: mask.zeroed(call, v) for k, v in call.kwargs.items()}
    args = rest if weight is None else [call.args[0], weight, *rest]
    return neutral(call.func, tuple(args), kwargs, mask.double)


def unread(mask: Masking, call: Call) -> Tensor | None:
    """The weight of a convolution or linear layer with zeros where it meets removed channels: what comes out is the
    same, and a train step need not keep a copy of all that is read. None where that is no smaller."""
    if call.func not in LAYERS or len(call.args) < 2 or call.args[1].numel() >= call.args[0].numel():
        return None
    if call.args[1].dim() < 2:  # `F.linear` takes a vector
        return None
    x, weight = call.args[0], cast(Tensor, mask.zeroed(call, call.args[1]))
    hidden, axis = mask.gone(call, x), x.dim() - weight.dim() + 1
    if any(m.shape[axis] != m.numel() for m in hidden) or not math.isfinite(float(x.detach().abs().max())):
        return None
    groups = 1 if call.func is F.linear else call.get(6, "groups", 1)
    for m in hidden:
        lines = m.reshape(-1).expand(x.shape[axis]).reshape(groups, -1).repeat_interleave(weight.shape[0] // groups, 0)
        weight = weight.masked_fill(lines.reshape(*lines.shape, *[1] * (weight.dim() - 2)), 0)
    return weight


def contracts(mask: Masking, call: Call) -> Any:
    """Einsum: removed entries of every operand read as zero, since a letter may be summed in any of them. Recurrent
    layers: without its rows and biases a unit stays at zero, from step to step and from layer to layer."""

    def zero(value: Any) -> Any:
        for hidden in mask.gone(call, value) if isinstance(value, Tensor) else ():
            value = value.masked_fill(hidden, 0)
        return value

    return neutral(call.func, tree_map(zero, call.args), call.kwargs, mask.double)


def attends(mask: Masking, call: Call) -> Any:
    """Attention: removed entries of q, k and v read as zero, the scale stays that of the dense width."""
    args = tuple(mask.zeroed(call, a) if i < 3 else a for i, a in enumerate(call.args))
    kwargs = {k: mask.zeroed(call, v) if k in {"query", "key", "value"} else v for k, v in call.kwargs.items()}
    return neutral(call.func, args, kwargs, mask.double)


def over_last(mask: Masking, call: Call) -> Any:
    """Layer norm, RMS norm over the kept entries of the normalised axes."""
    x, shape = call.get(0, "input"), list(call.get(1, "normalized_shape"))
    affine = [call.get(2, "weight"), call.get(3, "bias") if call.func.__name__ == "layer_norm" else None]
    eps = call.kwargs.get("eps", call.args[-1] if isinstance(call.args[-1], float) else None)
    undo = []
    for place in range(len(shape)):
        axis = x.dim() - len(shape) + place
        keep = mask.kept(call, x, axis)
        if keep is None:
            continue
        if not mask.counted:
            x = mask.zeroed(call, x)
            continue
        undo.append((axis, keep, x))
        x = x.index_select(axis, keep)
        shape[place] = keep.numel()
        affine = [t if t is None else t.index_select(place, keep) for t in affine]
    named = {"weight": affine[0]} | ({"bias": affine[1]} if call.func.__name__ == "layer_norm" else {})
    named |= {} if eps is None else {"eps": eps}
    out = call.func(x, tuple(shape), **named)
    for axis, keep, like in reversed(undo):
        out = mask.back(out, like, axis, keep)
    return out


def over_groups(mask: Masking, call: Call) -> Any:
    """Group norm over the kept channels of each group."""
    x = call.get(0, "input")
    keep = mask.kept(call, x, 1)
    if keep is None or not mask.counted:
        return mask.run(call, mask.zeroed(call, x))
    weight, bias = (t if t is None else t.index_select(0, keep) for t in (call.get(2, "weight"), call.get(3, "bias")))
    eps = call.get(4, "eps", 1e-5)
    return mask.back(F.group_norm(x.index_select(1, keep), call.get(1, "num_groups"), weight, bias, eps), x, 1, keep)


def over_rest(mask: Masking, call: Call) -> Any:
    """Batch norm over the kept entries of all axes but the second."""
    x = call.get(0, "input")
    return mask.along(call, x, [0, *range(2, x.dim())] if call.get(1, "running_mean") is None else [])


def over_axis(mask: Masking, call: Call) -> Any:
    """Softmax and its like over the kept entries of their axis, or of their axes."""
    x, into = call.args[0] if call.args else call.kwargs["input"], call.kwargs.get("out")
    out = mask.along(replace(call, kwargs={k: v for k, v in call.kwargs.items() if k != "out"}), x, axes_of(call, x))
    return out if into is None else into.copy_(out)


def axes_of(call: Call, x: Tensor) -> list[int]:
    """What a softmax or a `normalize` runs over; where none is said, what torch takes, which goes by the axes that
    there are."""
    if call.func.__name__ == "normalize":
        dim = call.get(2, "dim", 1)
    else:
        dim = call.get(1, "dim", None)
        dim = (0 if x.dim() in {0, 1, 3} else 1) if dim is None else dim
    return [d % max(x.dim(), 1) for d in ([dim] if isinstance(dim, int) else dim)]


def reduces(mask: Masking, call: Call) -> Any:
    """Mean, sum, maximum … over the kept entries of the reduced axes."""
    x = call.args[0] if call.args else call.kwargs["input"]
    found = reduced_axes(call, x)
    read = x
    for axis in found[0] if found else ():
        keep = mask.kept(call, x, axis)
        if keep is not None:
            read = read.index_select(axis, keep) if mask.counted else mask.zeroed(call, x)
    return mask.run(call, read)


def compares(mask: Masking, call: Call) -> Any:
    """Similarities and distances over the kept entries of the axis that both operands are read along."""
    a, b, dim = call.args[0], call.args[1], axis_read(call)
    keep = mask.kept(call, a, dim)
    if keep is None or not mask.counted or b.shape[dim] != a.shape[dim]:
        return sums_up(mask, call)
    rest = tuple(t.index_select(dim, keep) for t in (a, b))
    return neutral(call.func, (*rest, *call.args[2:]), call.kwargs, mask.double)


SUM = """
conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear bilinear
matmul mm bmm mv dot vdot __matmul__ __rmatmul__ addmm baddbmm
""".split()


def reads() -> dict[Any, Callable[[Masking, Call], Any]]:
    from ..models.shortcut import take

    families: list[tuple[list[str], Callable[[Masking, Call], Any]]] = [
        (SUM, sums_up),
        (["einsum", "tensordot", "cdist", *GATES, *(f"{name}_cell" for name in GATES)], contracts),
        (["scaled_dot_product_attention"], attends),
        (list(LIKENESS), compares),
        (["layer_norm", "rms_norm"], over_last),
        (["batch_norm"], over_rest),
        (["group_norm"], over_groups),
        (SOFTMAX, over_axis),
        (REDUCE, reduces),
    ]
    return {take: sums_up} | {func: kind for names, kind in families for func in functions(names)}


READS = reads()
LAYERS = frozenset(functions(["conv1d", "conv2d", "conv3d", "linear"]))


def masked_tracer(model: nn.Module, plan: Plan, *, double: bool, counted: bool = True) -> tuple[Tracer, Masking]:
    """A tracer that runs the dense `model` as the masked network of the plan."""
    ids, removed = channel_ids(plan, kept_only=False)
    dropped = frozenset((d.path, d.nth, d.operand) for d in plan.dropped)
    masking = Masking(removed, dropped, double, counted)
    return Tracer(model, Check(ids), table(), masking), masking
