"""Norms, softmax, reductions and pooling: what they read along which axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from ..labels import Places, resized, varying
from ..record import Call
from .pointwise import elementwise, join

NORMS = (nn.LayerNorm, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.RMSNorm)


def affine(call: Call, x: Tensor, axis: int, given: Sequence[tuple[Tensor | None, int, str]]) -> Tensor:
    """Tie the ids of `x` along an axis to axes of the tensors of a norm."""
    read = call.tracer.read(x, axis)
    for tensor, place, role in given:
        if tensor is not None:
            call.book.unite(call.tracer.axis(tensor, place, role), read)
    return read


def batch_norm(call: Call, out: Tensor) -> list[Tensor]:
    """`F.batch_norm`, `F.instance_norm`: axis 1 to scale, shift and running statistics. Without running statistics, as
    weights are standardised with it, channels on other axes are read like those of a layer norm."""
    x = call.get(0, "input")
    mean, var, weight, bias = (
        call.get(i, n) for i, n in enumerate(("running_mean", "running_var", "weight", "bias"), start=1)
    )
    given = [(mean, 0, "statistic"), (var, 0, "statistic"), (weight, 0, "scale"), (bias, 0, "shift")]
    read = affine(call, x, 1, given)
    if mean is not None or call.func is not F.batch_norm:
        beside(call, x, 1)
    else:
        several(call, x)
    if isinstance(call.module, nn.modules.batchnorm._NormBase):
        call.book.count("attribute", call.path, 0, "num_features", read)
    return list(call.label(x).planes)


batch_norm.inherits = True  # type: ignore[attr-defined]


def several(call: Call, x: Tensor) -> None:
    """A deviation is that of two values at least."""
    for plane in call.label(x).planes:
        if set(varying(plane)) - {1}:
            line = plane.movedim(1, 0)[0].reshape(-1)
            if line.numel() and bool((line >= 0).all()):
                call.book.at_least(line, 2)


def beside(call: Call, x: Tensor, axis: int) -> None:
    """Channels that do not run along the norm's own axis take part in its statistics: they stay."""
    for plane in call.label(x).planes:
        if set(varying(plane)) - {axis}:
            call.book.pin(plane, f"{call.name} takes its statistics over it")


def layer_norm(call: Call, out: Tensor) -> list[Tensor]:
    """`F.layer_norm`, `F.rms_norm`: the last axes to scale and shift."""
    x, shape = call.get(0, "input"), tuple(call.get(1, "normalized_shape"))
    weight = call.get(2, "weight")
    bias = call.get(3, "bias") if call.func.__name__ == "layer_norm" else None
    for place in range(len(shape)):
        axis = x.dim() - len(shape) + place
        given = [(weight, place, "scale"), (bias, place, "shift")]
        read = affine(call, x, axis, [(t, p, r) for t, p, r in given if t is not None])
        if isinstance(call.module, (nn.LayerNorm, nn.RMSNorm)) and bool((read >= 0).any()):
            call.book.count("attribute", call.path, place, "normalized_shape", read)
    return list(call.label(x).planes)


layer_norm.inherits = True  # type: ignore[attr-defined]


def group_norm(call: Call, out: Tensor) -> list[Tensor]:
    """`F.group_norm`: equally many channels in every group."""
    x, groups = call.get(0, "input"), call.get(1, "num_groups")
    read = affine(call, x, 1, [(call.get(2, "weight"), 0, "scale"), (call.get(3, "bias"), 0, "shift")])
    beside(call, x, 1)
    if groups > 1:
        call.book.evenly(read.reshape(groups, -1))
    if isinstance(call.module, nn.GroupNorm):
        call.book.count("attribute", call.path, 0, "num_channels", read)
    return list(call.label(x).planes)


group_norm.computes = True  # type: ignore[attr-defined]


def softmax(call: Call, out: Tensor) -> list[Tensor]:
    """`softmax`, `normalize` …: read along an axis, written along it, to a tensor of the model where `out` is one."""
    x = call.args[0] if call.args else call.kwargs["input"]
    planes, into = list(call.label(x).planes), call.kwargs.get("out")
    return planes if into is None else join(call, out.shape, [(t, call.label(t).planes) for t in (x, into)])


softmax.inherits = True  # type: ignore[attr-defined]
softmax.into = True  # type: ignore[attr-defined]


def ordered(call: Call, out: Any) -> Any:
    """Ops in which neighbours or order matter (`cumsum`, `sort`, LRN): channels along their axis stay."""
    x = call.get(0, "input")
    name = call.func.__name__
    dim = 1 if "response" in name else (call.kwargs.get("dim", call.args[1] if len(call.args) > 1 else -1))
    dims = {d % x.dim() for d in ([dim] if isinstance(dim, int) else [-1])}
    if name in {"roll", "topk", "kthvalue"}:
        chosen = call.get(2, "dims", ()) if name == "roll" else call.get(2, "dim", -1)
        chosen = [chosen] if isinstance(chosen, int) else list(chosen)
        dims = {d % x.dim() for d in chosen} or set(range(x.dim()))
    planes = []
    for plane in call.label(x).planes:
        if dims & set(varying(plane)):
            call.book.pin(plane, f"the order of channels matters to {call.name}")
        else:
            planes.append(plane)
    results = [t for t in tree_iter(out) if isinstance(t, Tensor)]
    each = [[resized(p, dims, t.shape) for p in planes] for t in results]
    return each[0] if isinstance(out, Tensor) else each


def reduced_axes(call: Call, x: Tensor) -> tuple[list[int], bool] | None:
    """Axes a reduction removes and whether it keeps them as 1; None where it is no reduction (`max(x, y)`)."""
    dim = call.kwargs.get("dim", call.kwargs.get("axis"))
    place = 2 if call.func.__name__ in {"norm", "linalg_norm", "linalg_vector_norm"} else 1
    if dim is None and len(call.args) > place:
        dim = call.args[place]
    if isinstance(dim, Tensor) or isinstance(call.kwargs.get("other"), Tensor):
        return None
    dims = list(range(x.dim())) if dim is None else ([dim] if isinstance(dim, int) else list(dim))
    dims = [d % max(x.dim(), 1) for d in dims] or list(range(x.dim()))
    keep = call.kwargs.get("keepdim", False)
    bools = [a for a in call.args[place + 1 :] if isinstance(a, bool)]
    return dims, bool(keep or (bools and bools[-1] and call.func.__name__ in WITH_KEEPDIM))


def reduction(call: Call, out: Any) -> Any:
    """`mean`, `sum`, `amax`, `var` …: the reduced axes go; a channel axis among them is read."""
    x = call.args[0] if call.args else call.kwargs["input"]
    found = reduced_axes(call, x)
    if found is None:
        return elementwise(call, out)
    dims, _ = found
    if call.func.__name__ in DEVIATIONS and call.kwargs.get("correction", 1) and call.kwargs.get("unbiased", True):
        deviates(call, x, dims)
    results = [t for t in tree_iter(out) if isinstance(t, Tensor)]
    planes, places = [], Places()
    for plane in call.label(x).planes:
        axes = set(varying(plane))
        if axes & set(dims):
            if len(results) > 1 and not results[1].is_floating_point():
                places.append(plane)
            for axis in axes - {max(axes & set(dims))}:
                call.book.tie(plane, axis)
            continue
        for d in sorted(dims, reverse=True):
            plane = plane.narrow(d, 0, 1) if results[0].dim() == x.dim() else plane.select(d, 0)
        planes.append(plane.expand(results[0].shape))
    return planes if isinstance(out, Tensor) else [planes, *(places or planes for _ in results[1:])]


def deviates(call: Call, x: Tensor, dims: Sequence[int]) -> None:
    """A deviation from the mean of a sample takes two values; where channels alone are reduced, two channels."""
    for plane in call.label(x).planes:
        axes = set(varying(plane)) & set(dims)
        if axes and all(d in axes or x.shape[d] == 1 for d in dims):
            line = plane[tuple(slice(None) if d in axes else 0 for d in range(plane.dim()))].reshape(-1)
            if bool((line >= 0).all()):
                call.book.at_least(line, 2)


def numbered(call: Call, out: Tensor) -> list[Tensor]:
    """`argmax`, `argmin`: the result is the number of an entry; channels along the axis stay."""
    x, dim = call.get(0, "input"), call.get(1, "dim")
    dims = range(x.dim()) if dim is None else [dim % max(x.dim(), 1)]
    for plane in call.label(x).planes:
        if set(dims) & set(varying(plane)):
            call.book.pin(plane, f"{call.name} tells which of them it is")
    return []


DEVIATIONS = {"std", "var", "std_mean", "var_mean"}
WITH_KEEPDIM = {"mean", "sum", "amax", "amin", "max", "min", "logsumexp", "var", "std", "prod", "norm", "any", "all"}


def pooled(call: Call, out: Any) -> Any:
    """Pooling and resampling: the axes after the channels change size; channels pass."""
    x = call.get(0, "input")
    results = [t for t in tree_iter(out) if isinstance(t, Tensor)]
    name = call.func.__name__
    rank = next((int(c) for c in name if c.isdigit()), None) or next(
        (int(c) for c in getattr(call.func, "__qualname__", "") if c.isdigit()), x.dim() - 2
    )
    space = list(range(x.dim() - rank, x.dim()))
    planes = []
    for plane in call.label(x).planes:
        if set(varying(plane)) & set(space):
            call.book.pin(plane, f"{call.name} mixes its neighbours")
        else:
            planes.append(resized(plane, space, results[0].shape))
    return planes if isinstance(out, Tensor) else [planes for _ in results]


def sampled(call: Call, out: Tensor) -> Any:
    """`grid_sample`: channels pass; what says where to read is not cut."""
    call.pin(call.get(1, "grid"), f"{call.name} reads at the places that it says")
    return pooled(call, out)


def unpooled(call: Call, out: Tensor) -> list[Tensor]:
    """`max_unpool1d/2d/3d`: entries go to the places that pooling noted, channel by channel."""
    x, places = call.get(0, "input"), call.get(1, "indices")
    planes = join(call, x.shape, [(t, call.label(t).planes) for t in (x, places)])
    rank = int(call.func.__name__[-2])
    space = range(x.dim() - rank, x.dim())
    for plane in planes:
        if set(varying(plane)) & set(space):
            call.book.pin(plane, f"{call.name} mixes its neighbours")
    return [resized(p, space, out.shape) for p in planes if not set(varying(p)) & set(space)]


NORM_RULES: dict[str, Any] = {
    "batch_norm": batch_norm,
    "instance_norm": batch_norm,
    "layer_norm": layer_norm,
    "rms_norm": layer_norm,
    "group_norm": group_norm,
}
SOFTMAX = "softmax log_softmax softmin normalize".split()
ORDERED = "cumsum cumprod sort argsort topk kthvalue local_response_norm roll median mode".split()
REDUCE = """
mean sum amax amin max min logsumexp var std prod norm vector_norm any all var_mean std_mean count_nonzero nanmean
""".split()
POOL = """
max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool1d lp_pool2d
max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices interpolate upsample upsample_nearest
upsample_bilinear
""".split()
