"""Apply a plan: the same module with fewer entries in its tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import PlanError
from ..graph.coupling import VALUES, Form
from ..graph.record import unwrapped
from ..plan import Dropped, Plan


class Zero(nn.Module):
    """Stands for a dropped branch: zeros with `width` entries on `axis`, every other axis divided by `ratio`."""

    def __init__(self, axis: int, width: int, ratio: tuple[int, ...]) -> None:
        super().__init__()
        self.axis, self.width, self.ratio = axis, width, ratio

    def extra_repr(self) -> str:
        return f"axis={self.axis}, width={self.width}, ratio={self.ratio}"

    def forward(self, x: Tensor) -> Tensor:
        sizes = [
            -(-n // r) for n, r in zip((n for d, n in enumerate(x.shape) if d != self.axis), self.ratio, strict=True)
        ]
        return x.new_zeros([*sizes[: self.axis], self.width, *sizes[self.axis :]])


def apply(model: nn.Module, plan: Plan) -> nn.Module:
    """A cut copy of `model`, which is left as it is.

    Hooks, ties, dtypes, devices, memory formats and requires_grad are kept; gradients are not. Raises PlanError where
    the plan belongs to another model.
    """
    model = unwrapped(model)
    check_fingerprint(model, plan.fingerprint)
    small = copy.deepcopy(model)
    for branch in plan.dropped:
        drop(small, branch, plan.widths)
    tensors = dict(small.named_parameters(remove_duplicate=False)) | dict(small.named_buffers(remove_duplicate=False))
    masks = plan.masks()
    for (name, axis), mask in masks.items():
        if name in tensors and not mask.all():
            tensor = tensors[name]
            if axis == VALUES:
                tensor.data = renumbered(tensor, mask)
            else:
                tensor.data = gathered(tensor, axis, mask)
    for parameter in small.parameters():
        parameter.grad = None
    modules = dict(small.named_modules())
    for attribute in plan.attributes:
        if attribute.path in modules:
            remember(modules[attribute.path], attribute.name, attribute.place, attribute.form, plan.widths)
    return small


def check_fingerprint(model: nn.Module, fingerprint: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    """The plan's tensors are the model's, name by name and shape by shape."""
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    missing, extra = fingerprint.keys() - tensors.keys(), tensors.keys() - fingerprint.keys()
    if missing or extra:
        first = sorted(missing or extra)[0]
        raise PlanError(f"the plan belongs to another model: {'no' if missing else 'unexpected'} tensor {first}")
    for name, (shape, _) in fingerprint.items():
        if tuple(tensors[name].shape) != shape:
            raise PlanError(f"the plan belongs to another model: {name} is {tuple(tensors[name].shape)}, not {shape}")


def gathered(tensor: Tensor, axis: int, mask: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Tensor:
    """Kept entries along an axis, in the memory format of the tensor."""
    keep = torch.from_numpy(np.flatnonzero(mask)).to(tensor.device)
    cut = tensor.detach().index_select(axis, keep)
    for rank, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if tensor.dim() == rank and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=layout):
            return cut.contiguous(memory_format=layout)
    return cut.contiguous()


def renumbered(index: Tensor, mask: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Tensor:
    """An index into channels of which some are gone: their entries become -1, the others count the kept ones."""
    place = torch.from_numpy(np.where(mask, np.cumsum(mask) - 1, -1)).to(index)
    limit = place.numel()
    known = (index >= 0) & (index < limit)
    shift = limit - int(mask.sum())
    return torch.where(known, place[index.clamp(0, limit - 1)], torch.where(index >= limit, index - shift, index))


def remember(module: nn.Module, name: str, place: int, form: Form, widths: tuple[int, ...]) -> None:
    """Set an attribute, or one entry of a tuple, to a width."""
    old, value = getattr(module, name, None), int(form(widths))
    if isinstance(old, (tuple, list)):
        setattr(module, name, type(old)([*old[:place], value, *old[place + 1 :]]))
    elif old is not None:
        setattr(module, name, value)


def drop(model: nn.Module, branch: Dropped, widths: tuple[int, ...]) -> None:
    """Replace a residual branch by zero."""
    last = Zero(branch.zero.axis, int(branch.zero.width(widths)), branch.zero.ratio)
    for path in branch.modules:
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, last if path == branch.modules[-1] else nn.Identity())
