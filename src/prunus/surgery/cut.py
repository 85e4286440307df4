"""Apply a plan: the same module with fewer entries in its tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..configs import attributes, changed
from ..errors import PlanError
from ..graph.coupling import VALUES, Form
from ..graph.coupling import Zero as ZeroShape
from ..memory import room, twin
from ..models.dropped import Blank, Passed, Zero, ZeroAttention, unfused
from ..plan import Dropped, Plan, check_links
from ..state import copied, modules_of, tensors_of, unwrapped

Bools = npt.NDArray[np.bool_]


def apply(model: nn.Module, plan: Plan) -> nn.Module:
    """A cut copy of `model`, which is left as it is.

    Hooks, ties, dtypes, devices, memory formats and requires_grad are kept; gradients are not. Raises PlanError where
    the plan belongs to another model.
    """
    model = unwrapped(model)
    if not isinstance(plan, Plan):
        held = isinstance(getattr(plan, "plan", None), Plan)
        hint = "pass its .plan" if held else "read one with Plan.load(file) or Plan.from_json(data)"
        raise PlanError(f"a plan is a prunus.Plan, not {type(plan).__name__}; {hint}")
    check_fingerprint(model, plan.fingerprint)
    check_links(plan)
    # Parameters of the copy share the model's memory until they are cut; those that stay whole are copied last.
    own = [p for p in tensors_of(model, buffers=False).values() if type(p) is nn.Parameter]
    shared = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in own}
    small = copied(model, shared)
    whole = {id(shared[id(p)]): p.data_ptr() for p in own}
    for branch in plan.dropped:
        drop(small, branch, plan.widths)
    tensors = tensors_of(small)
    for (name, axis), factor in plan.factors().items():
        if name in tensors:
            tensors[name].data = folded(tensors[name].detach(), axis, factor)
    kept: dict[str, dict[int, Bools]] = {}
    for (name, axis), mask in plan.masks().items():
        if name in tensors and not mask.all():
            if axis != VALUES:
                kept.setdefault(name, {})[axis] = mask
            elif tensors[name].is_floating_point():
                raise PlanError(f"the plan renumbers {name}, which holds no indices")
            else:
                tensors[name].data = renumbered(tensors[name], mask)
    for name, masks in kept.items():
        tensors[name].data = gathered(tensors[name], masks)
    for parameter in small.parameters():
        parameter.grad = None
        if whole.get(id(parameter)) == parameter.data_ptr():
            parameter.data = twin(parameter.detach())
    modules = dict(modules_of(small))
    for attribute in plan.attributes:
        if attribute.path in modules:
            remember(modules[attribute.path], attribute.name, attribute.place, attribute.form, plan.widths)
    recompute(modules.values())
    renewed(small)
    return small


def renewed(small: nn.Module) -> None:
    """Modules with a `train` of their own drop there what they computed of their weights for eval mode, such as a table
    of attention biases: that of before the cut is none of the cut network's."""
    modules = [module for _, module in modules_of(small)]
    if any(type(module).train is not nn.Module.train for module in modules):
        modes = [(module, module.training) for module in modules]
        trained = [(parameter, parameter.requires_grad) for parameter in small.parameters()]
        small.train()
        for module, mode in modes:
            module.training = mode
        for parameter, is_trained in trained:  # some freeze a part of themselves there
            parameter.requires_grad_(is_trained)


@torch.no_grad()
def recompute(modules: Iterable[nn.Module]) -> None:
    """What hooks of the older `weight_norm` and `spectral_norm` put in the place of a weight, from the tensors of now.
    They do so before every forward; nobody should meet the weight of before the cut until then. On a GPU the weights of
    recurrent layers go into one block again."""
    for module in modules:
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                setattr(module, hook.name, hook.compute_weight(module))
            elif isinstance(hook, SpectralNorm):
                setattr(module, hook.name, hook.compute_weight(module, do_power_iteration=False))


def check_fingerprint(model: nn.Module, fingerprint: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    """The plan's tensors are the model's, name by name and shape by shape."""
    tensors = tensors_of(model)
    missing, extra = fingerprint.keys() - tensors.keys(), tensors.keys() - fingerprint.keys()
    if missing or extra:
        first = sorted(missing or extra)[0]
        raise PlanError(f"the plan belongs to another model: {'no' if missing else 'unexpected'} tensor {first}")
    for name, (shape, _) in fingerprint.items():
        if tuple(tensors[name].shape) != shape:
            raise PlanError(f"the plan belongs to another model: {name} is {tuple(tensors[name].shape)}, not {shape}")


def folded(tensor: Tensor, axis: int, factor: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Tensor:
    """Entries along an axis, times their factors, in the precision and memory format of the tensor."""
    line = torch.from_numpy(factor).to(tensor.device).reshape([-1 if d == axis else 1 for d in range(tensor.dim())])
    return (tensor.double() * line).to(tensor.dtype)


def gathered(tensor: Tensor, masks: Mapping[int, Bools]) -> Tensor:
    """Kept entries along some axes, in the memory format of the tensor; the tensor itself where there are no masks."""
    if not masks:
        return tensor
    tensor = tensor.detach()
    if tensor.is_meta:
        cut = tensor.new_empty([int(masks[d].sum()) if d in masks else n for d, n in enumerate(tensor.shape)])
    elif type(tensor) is Tensor and tensor.is_contiguous():
        cut = in_pieces(tensor, masks)
    else:
        cut = by_axis(tensor, masks)
    for rank, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if tensor.dim() == rank and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=layout):
            return cut.contiguous(memory_format=layout)
    return cut.contiguous()


def by_axis(tensor: Tensor, masks: Mapping[int, Bools]) -> Tensor:
    """Kept entries, one axis after the other."""
    for axis in sorted(masks):
        keep = torch.from_numpy(np.flatnonzero(masks[axis])).to(tensor.device)
        tensor = selected(tensor, axis, keep)
    return tensor


def selected(tensor: Tensor, axis: int, keep: Tensor) -> Tensor:
    """`index_select`, into memory that is quick to write."""
    if type(tensor) is not Tensor:
        return tensor.index_select(axis, keep)
    sizes = [keep.numel() if d == axis else n for d, n in enumerate(tensor.shape)]
    return torch.index_select(tensor, axis, keep, out=room(tensor, sizes))


PIECE = 8
"""Neighbouring entries that are worth a copy of their own."""


def in_pieces(tensor: Tensor, masks: Mapping[int, Bools]) -> Tensor:
    """Kept entries of a contiguous tensor, along all axes in one pass over the pieces of memory that stay whole: what
    lies behind the last of the axes and, where its entries stay in runs, as those of a flattened image do, runs."""
    last = max(masks)
    mask = masks[last]
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    run = int(np.gcd.reduce([mask.size, *edges.tolist()]))
    piece = run * math.prod(tensor.shape[last + 1 :])
    if piece < PIECE:
        return by_axis(tensor, masks)
    keep = {axis: np.flatnonzero(masks[axis]) for axis in masks}
    sizes = [keep[d].size if d in keep else n for d, n in enumerate(tensor.shape)]
    keep[last] = keep[last][::run] // run
    found = np.zeros(1, np.int64)
    for axis in range(last + 1):
        length = tensor.shape[axis] // (run if axis == last else 1)
        found = (found[:, None] * length + keep.get(axis, np.arange(length))).reshape(-1)
    places = torch.from_numpy(found).to(tensor.device)
    return selected(tensor.reshape(-1, piece), 0, places).reshape(sizes)


def renumbered(index: Tensor, mask: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Tensor:
    """An index into channels of which some are gone: their entries become -1, the others count the kept ones."""
    place = torch.from_numpy(np.where(mask, np.cumsum(mask) - 1, -1)).to(index)
    limit = place.numel()
    known = (index >= 0) & (index < limit)
    shift = limit - int(mask.sum())
    return torch.where(known, place[index.clamp(0, limit - 1)], torch.where(index >= limit, index - shift, index))


def remember(module: nn.Module, name: str, place: int, form: Form, widths: tuple[int, ...]) -> None:
    """Set an attribute, or one entry of a tuple, to a width. An entry of the module's settings (`config.heads`) is set
    in a copy of them, since others may share them."""
    old, value = attributes(module).get(name), int(form(widths))
    new: object = value
    if isinstance(old, (tuple, list)) and 0 <= place < len(old) and isinstance(old[place], int):
        new = type(old)([*old[:place], value, *old[place + 1 :]])
    elif old is None and name not in dir(module):
        return
    elif not isinstance(old, int) or isinstance(old, bool):
        raise PlanError(f"the plan sets {name} of a {type(module).__name__}, which is no width")
    owner, _, entry = name.partition(".")
    setattr(module, owner, changed(vars(module)[owner], {entry: new}) if entry else new)


def drop(model: nn.Module, branch: Dropped, widths: tuple[int, ...]) -> None:
    """Replace a residual branch by zero. What lies in a branch that is gone already is left alone."""
    zeros = {z.path: zero_for(model, z, int(z.width(widths))) for z in (branch.zero, *branch.inner)}
    zeros[branch.modules[-1]] = zeros[branch.zero.path]
    for path in branch.modules:
        parent, _, child = path.rpartition(".")
        owner = found_module(model, parent)
        if owner is not None and child in owner._modules:
            setattr(owner, child, zeros.get(path) or (Blank() if path == branch.modules[0] else Passed()))
            unfused(model, path)


def zero_for(model: nn.Module, zero: ZeroShape, width: int) -> Zero:
    """What stands for the module of that path."""
    module = found_module(model, zero.path)
    if isinstance(module, nn.MultiheadAttention):
        return ZeroAttention(zero.axis, width, zero.ratio, zero.items, module.batch_first)
    return Zero(zero.axis, width, zero.ratio, zero.items)


def found_module(model: nn.Module, path: str) -> nn.Module | None:
    """The module of that path; None where it lay in a branch that is gone."""
    module: nn.Module | None = model
    for name in filter(None, path.split(".")):
        module = None if module is None else module._modules.get(name)
    return module
