"""What the cut network stores, compared with the user's model entry by entry.

Outputs and gradients say nothing of a channel whose activation is zero, of memory that two networks share or of a flag
that only a later training reads. None of the code of the cut is used here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..configs import attributes
from ..errors import ProofError
from ..graph.coupling import VALUES
from ..models.dropped import is_unfused
from ..plan import Plan
from ..state import ATOMS, is_plain, modules_of, tensors_of, ties
from .unfold import kept_entries

HOOKS = tuple(name for name, value in vars(nn.Module()).items() if type(value) is OrderedDict and "hook" in name)


def same_values(dense: nn.Module, small: nn.Module, plan: Plan) -> None:
    """Every tensor of the cut network holds the kept entries, to the bit and in the dtype of the model. Softmax scales
    that are folded into a tensor are left to `unfold.exact`, renumbered indices to the outputs.

    Raises ProofError for the first tensor that does not.
    """
    whole, own, masks = tensors_of(dense), tensors_of(small), plan.masks()
    folded, first = {name for name, _ in plan.factors()}, ties(whole)
    for name, tensor in whole.items():
        cut = first.get(name, name)  # a plan cuts a tensor under the first of its names
        if name not in own:
            if not inside(name, plan):
                raise refused(f"the cut network has no tensor {name}")
            continue
        found = own[name]
        if found.dtype != tensor.dtype:
            raise refused(f"{name} of the cut network is {found.dtype}, that of the model {tensor.dtype}")
        if cut in folded or (cut, VALUES) in masks or tensor.is_meta or tensor.layout != torch.strided:
            continue
        want = kept_entries(tensor.detach(), cut, masks)
        if not alike(want, found.detach()):
            raise refused(f"{name} of the cut network does not hold the entries that the plan keeps")


def same_state(dense: nn.Module, small: nn.Module, plan: Plan) -> None:
    """A cut network that has not run is its model but for the widths: memory of its own, the same ties and
    requires_grad, and on every module the same mode, number of hooks and plain attributes.

    Raises ProofError for the first difference.
    """
    whole, own = tensors_of(dense), tensors_of(small)
    taken = {place for tensor in whole.values() if (place := memory(tensor))}
    first: dict[int, str] = {}
    for name, tensor in own.items():
        if memory(tensor) in taken:
            raise refused(f"{name} of the cut network shares memory with the model that was given")
        if name not in whole:
            continue
        if isinstance(tensor, nn.Parameter) and tensor.requires_grad != whole[name].requires_grad:
            raise refused(f"{name} of the cut network has requires_grad={tensor.requires_grad}, unlike the model")
        tied = first.setdefault(id(whole[name]), name)
        if own[tied] is not tensor:
            raise refused(f"{name} and {tied} are one tensor in the model, two in the cut network")
    told: dict[tuple[str, str], dict[int, int]] = {}
    for a in plan.attributes:
        told.setdefault((a.path, a.name), {})[a.place] = int(a.form(plan.widths))
    modules = dict(modules_of(dense))
    for path, module in modules_of(small):
        old = modules.get(path)
        if old is None or type(old) is not type(module):
            continue  # what stands for a dropped branch
        where = path or "the model"
        if module.training != old.training:
            raise refused(f"{where} is in {'train' if module.training else 'eval'} mode in the cut network alone")
        if any(len(vars(module)[name]) != len(vars(old)[name]) for name in HOOKS):
            raise refused(f"{where} has other hooks in the cut network than in the model")
        kind: Any = type(old)
        if not is_plain(kind) or not kind.__setstate__.__module__.startswith("torch."):
            continue  # its copy may hold what it likes
        mine = attributes(module)
        for name, value in attributes(old).items():
            want = stated(value, told.get((path, name), {}))
            if plan.dropped and is_unfused(module, name, mine.get(name)):
                continue
            if want is not None and mine.get(name) != want[0]:
                raise refused(f"{name} of {where} is {mine.get(name)} in the cut network, not {want[0]}")


def refused(what: str) -> ProofError:
    return ProofError(f"{what}; the model was left untouched")


def stated(value: object, told: Mapping[int, int]) -> tuple[object] | None:
    """What a plain attribute is after the cut, in a tuple; None for one that is not plain, or is no number. told: the
    width that the plan sets at each place of it."""
    if isinstance(value, (tuple, list)):
        if not all(type(item) in ATOMS and item == item for item in value):
            return None
        items = [told.get(i, item) for i, item in enumerate(value)]
        return (value if items == list(value) else type(value)(items),)  # one with names is made in another way
    if type(value) not in ATOMS or value != value:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return (next(iter(told.values()), value),)
    return (value,)


def inside(tensor: str, plan: Plan) -> bool:
    """Whether a tensor lies in a branch that the plan drops."""
    return any(tensor.startswith(path + ".") for branch in plan.dropped for path in branch.modules)


def memory(tensor: Tensor) -> int:
    """Where the storage of a tensor starts; 0 for one that has none, or nothing in it."""
    if tensor.is_meta or not tensor.numel() or tensor.layout != torch.strided:
        return 0
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # a tensor class of its own
        return 0


def alike(a: Tensor, b: Tensor) -> bool:
    """The same shape and the same entries; what is no number in one is none in the other."""
    if a.shape != b.shape:
        return False
    b = b.to(a.device)
    if a.is_floating_point() and a.element_size() == 1:  # of float8 nothing is computed
        a, b = a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)
    return torch.equal(a, b) or (
        (a.is_floating_point() or a.is_complex()) and bool(((a == b) | ((a != a) & (b != b))).all())
    )
