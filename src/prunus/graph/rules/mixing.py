"""Layers that sum over channels: convolution, linear, attention. They tie what they read to one axis of a weight and
give the result the ids of the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..labels import along, resized, varying, vector
from ..record import Call
from ..splits import followed, made_by
from . import heads


def pass_on(call: Call, x: Tensor, out: Tensor, mixed: Sequence[int], why: str) -> list[Tensor]:
    """Planes of `x` along axes that the op does not touch; those along `mixed` axes other than the last are pinned."""
    planes = []
    for plane in call.label(x).planes:
        axes = set(varying(plane))
        if axes & set(mixed[:-1]):
            call.book.pin(plane, why)
        elif not axes & set(mixed):
            planes.append(resized(plane, mixed, out.shape))
    return planes


def belongs(call: Call, weight: Tensor, kind: type | tuple[type, ...]) -> bool:
    """Whether the running module is of this kind and owns the weight, so that its attributes describe it."""
    # Not getattr: reading a parametrised weight runs its parametrisation.
    return isinstance(call.module, kind) and call.module._parameters.get("weight", weight) is weight


def convolution(call: Call, out: Tensor) -> list[Tensor]:
    """`F.conv1d/2d/3d`: groups tie slot j of every group; depthwise ties in to out."""
    x, weight, bias = call.get(0, "input"), call.get(1, "weight"), call.get(2, "bias")
    groups = call.get(6, "groups", 1)
    channel, book = x.dim() - weight.dim() + 1, call.book
    space = moved(call, weight, channel + 1)
    read = call.tracer.read(x, channel)
    made = call.tracer.axis(weight, 0, "out")
    kernel_stays(call, weight)
    positions = out.numel() // out.shape[channel] * math.prod(weight.shape[2:])
    depthwise = weight.shape[1] == 1 and groups == x.shape[channel] > 1
    if depthwise:
        book.unite(made.reshape(groups, -1), read.reshape(-1, 1))
        read_by = [made]
    else:
        slots = call.tracer.axis(weight, 1, "in")
        if groups > 1:
            book.unite(read.reshape(groups, -1), slots.reshape(1, -1))
            book.evenly(made.reshape(groups, -1))
        else:
            book.unite(read, slots)
        read_by = [made, slots]
    attributes(call, weight, nn.modules.conv._ConvNd, read, made, depthwise)
    if not depthwise:
        made_by(call, out, weight, bias, channel, read)
    elif weight.shape[0] == groups:
        followed(call, x, out)
    planes = finish(call, x, out, bias, made, channel, [*space, channel])
    counted(call, positions, read_by, planes[1:])
    return planes


def kernel_stays(call: Call, weight: Tensor) -> None:
    """A weight that is computed may carry channels along its kernel, where there are none to prune."""
    for plane in call.tracer.label(weight).planes if weight in call.tracer.labels else ():
        if set(varying(plane)) & set(range(2, weight.dim())):
            call.book.pin(plane, "it runs along the kernel of a convolution")


def counted(call: Call, times: int, vectors: list[Tensor], passed: Sequence[Tensor]) -> None:
    """The work of an op, done for every channel that passes along another axis."""
    for plane in passed:
        if len(varying(plane)) == 1:
            vectors = [*vectors, vector(plane, varying(plane)[0])]
            times //= vectors[-1].numel()
    call.book.work(call.path, call.index, times, vectors)


def moved(call: Call, weight: Tensor, first: int) -> list[int]:
    """Axes along which a convolution mixes neighbours, or changes the size: not those of a kernel of one in steps of
    one without padding."""
    rank = weight.dim() - 2
    step, pad = call.get(3, "stride", 1), call.get(4, "padding", 0)
    steps = [step] * rank if isinstance(step, int) else list(step) * (rank // len(step))
    pads = [pad] * rank if isinstance(pad, int) else [0] * rank if isinstance(pad, str) else list(pad)
    pads *= rank // len(pads)
    kernel = weight.shape[2:]
    return [first + d for d in range(rank) if (kernel[d], steps[d], pads[d]) != (1, 1, 0)]


def attributes(call: Call, weight: Tensor, kind: type, read: Tensor, made: Tensor, depthwise: bool) -> None:
    """What the module's repr and its later forwards say of its widths."""
    if belongs(call, weight, kind):
        call.book.count("attribute", call.path, 0, "in_channels", read)
        call.book.count("attribute", call.path, 0, "out_channels", made)
        if depthwise:
            call.book.count("attribute", call.path, 0, "groups", read)


def finish(
    call: Call, x: Tensor, out: Tensor, bias: Tensor | None, made: Tensor, axis: int, mixed: Sequence[int]
) -> list[Tensor]:
    if bias is not None:
        call.book.unite(call.tracer.axis(bias, 0, "bias"), made)
    why = f"{call.name} mixes its neighbours"
    return [along(made, axis, out.shape), *pass_on(call, x, out, mixed, why)]


def transposed(call: Call, out: Tensor) -> list[Tensor]:
    """`F.conv_transpose1d/2d/3d`: the weight is (in, out / groups, …)."""
    x, weight, bias = call.get(0, "input"), call.get(1, "weight"), call.get(2, "bias")
    groups = call.get(6, "groups", 1)
    channel, book = x.dim() - weight.dim() + 1, call.book
    read = call.tracer.read(x, channel)
    book.unite(read, call.tracer.axis(weight, 0, "in"))
    kernel_stays(call, weight)
    positions = x.numel() // x.shape[channel] * math.prod(weight.shape[2:])
    depthwise = weight.shape[1] == 1 and groups == x.shape[channel] > 1
    if depthwise:
        made = read
        book.work(call.path, call.index, positions, [made])
    else:
        slots = call.tracer.axis(weight, 1, "out")
        made = slots.repeat(groups)
        if groups > 1:
            book.evenly(read.reshape(groups, -1))
        book.work(call.path, call.index, positions, [read, slots])
    attributes(call, weight, nn.modules.conv._ConvTransposeNd, read, made, depthwise)
    return finish(call, x, out, bias, made, channel, [*range(channel + 1, x.dim()), channel])


def linear(call: Call, out: Tensor) -> list[Tensor]:
    """`F.linear`: y = x Wᵀ + b over the last axis."""
    x, weight, bias = call.get(0, "input"), call.get(1, "weight"), call.get(2, "bias")
    read, slots = call.tracer.read(x, -1), call.tracer.axis(weight, -1, "in")
    call.book.unite(read, slots)
    if weight.dim() == 1:
        return pass_on(call, x.narrow(-1, 0, 1), out.unsqueeze(-1), [x.dim() - 1], "")
    made = call.tracer.axis(weight, 0, "out")
    made_by(call, out, weight, bias, -1, slots)
    if belongs(call, weight, nn.Linear):
        call.book.count("attribute", call.path, 0, "in_features", slots)
        call.book.count("attribute", call.path, 0, "out_features", made)
    planes = finish(call, x, out, bias, made, out.dim() - 1, [x.dim() - 1])
    counted(call, out.numel() // out.shape[-1], [made, slots], planes[1:])
    return planes


def embedding(call: Call, out: Tensor) -> list[Tensor]:
    """`F.embedding`, `F.embedding_bag`: rows are looked up, columns are channels."""
    weight = call.get(1, "weight")
    made = call.tracer.axis(weight, 1, "out")
    if call.get(3, "max_norm") is not None:
        call.book.pin(made, "its rows are held to a largest norm")
    if belongs(call, weight, (nn.Embedding, nn.EmbeddingBag)):
        call.book.count("attribute", call.path, 0, "embedding_dim", made)
    return [along(made, out.dim() - 1, out.shape)]


def taken(call: Call, out: Tensor) -> list[Tensor]:
    """`models.shortcut.take`: output o is input index[o], or zero where that is -1. Both sides prune on their own."""
    x, index = call.get(0, "x"), call.get(1, "index")
    name = call.tracer.names.get(id(index))
    if name is None:
        call.pin(x, "it is taken by an index that is no buffer")
        return []
    made = call.tracer.axis(index, 0, "index")
    call.book.count("values", name, 0, "index", call.tracer.read(x, 1))
    return [along(made, 1, out.shape), *pass_on(call, x, out, [1], "")]


def mixing_table() -> dict[str, Any]:
    """Rules by the name of the function."""
    return {
        **dict.fromkeys(("conv1d", "conv2d", "conv3d"), convolution),
        **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), transposed),
        "linear": linear,
        **dict.fromkeys(("embedding", "embedding_bag"), embedding),
        "scaled_dot_product_attention": heads.attention,
    }
