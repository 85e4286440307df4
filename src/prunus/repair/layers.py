"""The layers that read removed channels, and what runs into and out of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from ..errors import DataError
from ..graph.coupling import Coupling
from ..graph.flow import norm_after
from ..methods.batches import called, inputs
from ..plan import Plan
from ..state import tensors_of

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True, eq=False)
class Work:
    """A dense network, the one that was cut from it, and what there is to repair it with."""

    dense: nn.Module
    small: nn.Module
    plan: Plan
    coupling: Coupling
    data: Iterable[Any] | None
    example: Any
    seed: int

    def batches(self, images: int) -> Iterator[Any]:
        """Model inputs, until there were so many samples."""
        assert self.data is not None
        seen = 0
        for batch in self.data:
            given = inputs(batch)
            seen += size_of(given)
            yield given
            if seen >= images:
                return
        if not seen:
            raise DataError("data gives no batch")


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that read channels which are gone. read, made: the entries that stay of its inputs and outputs, as
    booleans over the dense ones; factor: what the cut multiplied each kept output by, as softmax scales want it; norm:
    the batch norm that alone reads its output, if there is one."""

    name: str
    dense: nn.Linear | Convolution
    small: nn.Linear | Convolution
    read: Tensor
    made: Tensor
    factor: Tensor
    norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | None

    def shift(self, by: Tensor) -> bool:
        """Add to the outputs, given for every dense one: to the bias, or to what the batch norm takes off. False where
        there is neither."""
        by = by[self.made.to(by.device)] * self.factor.to(by.device)
        with torch.no_grad():
            if self.small.bias is not None:
                self.small.bias += by.to(self.small.bias)
            elif self.norm is not None and self.norm.running_mean is not None:
                self.norm.running_mean -= by.to(self.norm.running_mean)
            else:
                return False
        return True


def readers(work: Work) -> tuple[list[Reader], list[str]]:
    """Layers that read removed channels, in the order of the forward; and the names of others that did, which no
    repair here knows: grouped and transposed convolutions, recurrent layers, parametrised weights, weights used twice,
    parameters used by themselves, layers that run in training alone."""
    masks, factors = work.plan.masks(), work.plan.factors()
    dense, small = dict(work.dense.named_modules()), dict(work.small.named_modules())
    there = tensors_of(work.small)  # what went with a dropped branch needs no repair
    used = Counter(name for step in work.coupling.steps for name in step.tensors)
    read = {
        (m.tensor, m.axis): mask
        for m in (m for group in work.coupling.groups for m in group.members)
        if (m.role == "in" or (m.role == "operand" and m.axis == 1 and reads(dense, m.tensor)))
        and m.tensor in there
        and (mask := masks.get((m.tensor, m.axis))) is not None
        and not mask.all()
    }
    found: list[Reader] = []
    for step in work.coupling.steps:
        tensor = step.tensors[0] if step.tensors else ""
        mask = read.get((tensor, 1))
        if mask is None:
            continue
        name = tensor.removesuffix(".weight")
        one, other = dense.get(name), small.get(name)
        plain = isinstance(one, nn.Linear | Convolution) and type(one) is type(other)
        once = all(used[t] == 1 for t in step.tensors)
        if plain and getattr(one, "groups", 1) == 1 and once and "weight" in one._parameters:  # type: ignore[union-attr]
            length = work.plan.fingerprint[tensor][0][0]
            made = masks.get((tensor, 0), np.ones(length, np.bool_))
            factor = factors.get((tensor, 0), np.ones(length))[made]
            norm = _norm_after(work, step.op)
            entries = (torch.from_numpy(mask), torch.from_numpy(made), torch.from_numpy(factor))
            found.append(Reader(name, one, other, *entries, norm))  # type: ignore[arg-type]
    mended = {reader.name + ".weight" for reader in found}
    left = [tensor.rpartition(".")[0] or tensor for tensor, _ in read if tensor not in mended]
    return found, list(dict.fromkeys(left))


def reads(modules: Mapping[str, nn.Module], tensor: str) -> bool:
    """Whether this is the weight of a layer that reads along axis 1, whatever its forward does with it."""
    name, _, kind = tensor.rpartition(".")
    return kind == "weight" and isinstance(modules.get(name), nn.Linear | Convolution)


def _norm_after(work: Work, op: int) -> nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | None:
    step = norm_after(work.coupling.steps, op)
    if step is None or step.name != "batch_norm":
        return None
    norm = dict(work.small.named_modules()).get(step.tensors[0].rpartition(".")[0])
    return norm if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) else None


class _Reached(Exception):
    """The layer has run; the rest of the forward is not needed."""


class Unreached(Exception):
    """A layer does not run where its weights are read, as one whose weights a function is given, or this input does not
    reach it."""


def passing(model: nn.Module, layer: nn.Module, given: Any) -> tuple[Tensor, Tensor]:
    """What goes into a layer and what comes out of it, for one input of the model. Raises ExampleError where the model
    refuses that, Unreached."""
    caught: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        caught.extend((args[0] if args else kwargs["input"], out))
        raise _Reached

    handle = layer.register_forward_hook(hook, with_kwargs=True)
    try:
        called(model, given)
    except _Reached:
        pass
    finally:
        handle.remove()
    if not caught:
        raise Unreached
    return caught[0].detach(), caught[1].detach()


def channel_axis(layer: nn.Module, x: Tensor) -> int:
    """Where a layer has its channels."""
    return x.dim() - 1 if isinstance(layer, nn.Linear) else x.dim() - (len(layer.kernel_size) + 1)  # type: ignore[arg-type]


def on_axis(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """A vector along one axis of x."""
    return values.to(x.device).reshape([-1 if d == axis else 1 for d in range(x.dim())])


def size_of(given: Any) -> int:
    """How many samples an input of the model has. Raises DataError where no tensor says it."""
    size = next((t.shape[0] for t in tree_iter(given) if isinstance(t, Tensor) and t.dim()), None)
    if size is None:
        raise DataError("a batch holds no tensor with an axis of samples")
    return int(size)
