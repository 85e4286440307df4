"""Folded factors in a proof: float64 values of what was rounded, and gradients per unfolded weight."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import ProofError
from ..plan import Bools, Floats, Plan

ROUNDING = 4.0  # roundings of the tensor's dtype that a factor may cost


def exact(small: nn.Module, dense: nn.Module, narrow: nn.Module, plan: Plan) -> None:
    """Give the float64 copy `narrow` of the cut network the products that `small` holds rounded to its own dtype.

    The cut network must hold them to within rounding. Raises ProofError where it does not.
    """
    masks, whole, own, twin = plan.masks(), tensors(dense), tensors(small), tensors(narrow)
    for (name, axis), factor in plan.factors().items():
        if name not in own:
            continue
        want = kept_entries(whole[name].detach().double() * shaped(factor, axis, whole[name]), name, masks)
        eps = torch.finfo(own[name].dtype).eps
        if want.shape != own[name].shape or not torch.allclose(own[name].double(), want, rtol=ROUNDING * eps, atol=0):
            raise ProofError(f"{name} of the cut network does not hold the softmax scale that was folded into it")
        with torch.no_grad():
            twin[name].copy_(want)


def unfolded(gradient: Tensor, name: str, plan: Plan, masks: Mapping[tuple[str, int], Bools]) -> Tensor:
    """The gradient of a folded tensor as one of the tensor before folding: times the factors."""
    for (tensor, axis), factor in plan.factors().items():
        if tensor == name:
            mask = masks.get((name, axis))
            gradient = gradient * shaped(factor if mask is None else factor[mask], axis, gradient)
    return gradient


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def shaped(factor: Floats, axis: int, like: Tensor) -> Tensor:
    line = torch.from_numpy(factor).to(like.device)
    return line.reshape([-1 if d == axis else 1 for d in range(like.dim())])


def kept_entries(tensor: Tensor, name: str, masks: Mapping[tuple[str, int], Bools]) -> Tensor:
    """Entries of a tensor of the dense model that the plan keeps, the tensor itself where it keeps all.

    They are taken along all axes at once: the largest tensor may be most of a model, and a copy of it between the axes
    most of the memory of a proof.
    """
    kept = kept_lines(name, masks, tensor.dim(), tensor.device)
    if not kept:
        return tensor
    first, last = min(kept), max(kept)
    if first == last:
        return tensor.index_select(first, kept[first])
    between = [
        kept.get(axis, torch.arange(tensor.shape[axis], device=tensor.device)) for axis in range(first, last + 1)
    ]
    return tensor[(slice(None),) * first + torch.meshgrid(*between, indexing="ij")]


def kept_lines(name: str, masks: Mapping[tuple[str, int], Bools], axes: int, device: torch.device) -> dict[int, Tensor]:
    """The indices of the entries that the plan keeps, for each of so many axes that it cuts."""
    lines = {axis: masks[name, axis] for axis in range(axes) if (name, axis) in masks}
    return {axis: torch.from_numpy(line.nonzero()[0]).to(device) for axis, line in lines.items() if not line.all()}
