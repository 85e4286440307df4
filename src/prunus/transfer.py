"""Take what belongs to the dense network over to the small one: optimizer state, averaged weights."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .errors import InputError
from .plan import Plan
from .result import Loaded, Pruned
from .surgery import apply
from .surgery.cut import gathered

__all__ = ["transfer_"]


def transfer_(
    kept: torch.optim.Optimizer | AveragedModel | MutableMapping[str, Tensor],
    small: Pruned | Loaded,
    dense: nn.Module | None = None,
) -> None:
    """Make what was kept for the dense model fit `small.model`, in place.

    kept: an optimizer, which afterwards holds the small model's parameters in the same groups, with the state of the
    entries that stay (momentum, Adam's averages; step counts as they are); an AveragedModel; or a dict from names of
    parameters or buffers to tensors, such as a hand-written EMA. Gradients are not carried over. What a parameter of
    another model has in an optimizer is left alone.

    dense: the model that was pruned; needed where `small` was loaded or the model is gone. Raises InputError for an
    optimizer without parameters of that model, and for state that has neither one value nor the parameter's shape.
    """
    if isinstance(kept, torch.optim.Optimizer):
        _optimizer(kept, small, _origin(small, dense))
    elif isinstance(kept, AveragedModel):
        kept.module = apply(kept.module, small.plan)
    elif isinstance(kept, MutableMapping):
        _table(kept, small)
    else:
        raise InputError(f"transfer_ takes an optimizer, an AveragedModel or a dict, not {type(kept).__name__}")


def _origin(small: Pruned | Loaded, dense: nn.Module | None) -> nn.Module:
    source = None if isinstance(small, Loaded) else small.source
    found = dense if dense is not None else source() if source is not None else None
    if found is None:
        raise InputError("the model that was pruned is gone; pass it: transfer_(optimizer, small, dense)")
    return found


def _optimizer(optimizer: torch.optim.Optimizer, small: Pruned | Loaded, dense: nn.Module) -> None:
    names: dict[Tensor, str] = {parameter: name for name, parameter in dense.named_parameters()}
    after = dict(small.model.named_parameters(remove_duplicate=False))
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not any(parameter in names for parameter in held):
        raise InputError("the optimizer holds no parameter of the model that was pruned")
    state = {
        names[parameter]: _entries(names[parameter], parameter, found, small.plan)
        for parameter, found in optimizer.state.items()
        if parameter in names
    }
    for group in optimizer.param_groups:  # nothing is changed before all of it is known to fit
        old = group["params"]
        group["params"] = [after[names[p]] if p in names else p for p in old if p not in names or names[p] in after]
        for parameter in old:
            if parameter in names:
                optimizer.state.pop(parameter, None)
    for name, found in state.items():
        if name in after:
            optimizer.state[after[name]] = found


def _entries(name: str, parameter: Tensor, state: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The state of one parameter, its tensors cut as the parameter is."""
    found = {}
    for key, value in state.items():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            value = cut_like(name, value, plan)
        elif isinstance(value, Tensor) and value.numel() > 1:
            raise InputError(
                f"the optimizer keeps {key} of shape {tuple(value.shape)} for {name}, whose shape is "
                f"{tuple(parameter.shape)}; only state of the same shape can be cut with it"
            )
        found[key] = value
    return found


def cut_like(name: str, tensor: Tensor, plan: Plan) -> Tensor:
    """A tensor that is shaped like the dense one of this name, cut as that is."""
    for (owner, axis), mask in plan.masks().items():
        if owner == name and axis >= 0 and not mask.all():
            tensor = gathered(tensor, axis, mask)
    return tensor


def _table(table: MutableMapping[str, Tensor], small: Pruned | Loaded) -> None:
    after = small.model.state_dict()
    wrong = [name for name in table if name not in small.plan.fingerprint]
    if wrong:
        raise InputError(f"{wrong[0]!r} is no tensor of the model that was pruned")
    for name in list(table):
        shape = small.plan.fingerprint[name][0]
        if tuple(table[name].shape) != shape:
            raise InputError(f"{name} has the shape {tuple(table[name].shape)} in this dict, and {shape} in the model")
    for name in list(table):
        if name in after:
            table[name] = cut_like(name, table[name], small.plan)
        else:  # it went with a dropped branch
            del table[name]
