"""Take what belongs to the dense network over to the small one: optimizer state, averaged weights."""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_map

from .errors import InputError
from .graph.coupling import VALUES
from .plan import Bools
from .result import Loaded, Pruned
from .state import tensors_of, unwrapped
from .surgery import apply
from .surgery.cut import check_fingerprint, folded, gathered, renumbered

__all__ = ["transfer_"]

Cuts = dict[str, dict[int, Bools]]
"""By name of a tensor and axis: which entries stay."""

T = TypeVar("T")


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

    dense: the model that was pruned, bare or wrapped; needed where `small` was loaded or the model is gone. Raises
    InputError for an optimizer without parameters of that model, and for state that has neither one value nor the
    parameter's shape; PlanError for a `dense` that `small` was not cut from.
    """
    if not isinstance(small, (Pruned, Loaded)):
        raise InputError(f"transfer_ needs what prune, finish or load returned, not {type(small).__name__}")
    if isinstance(kept, torch.optim.Optimizer):
        _optimizer(kept, small, _origin(small, dense))
    elif isinstance(kept, AveragedModel):
        kept.module = apply(kept.module, small.plan)
    elif isinstance(kept, MutableMapping):
        _table(kept, small)
    else:
        hint = "; cut a module with prunus.apply(module, small.plan)" if isinstance(kept, nn.Module) else ""
        raise InputError(f"transfer_ takes an optimizer, an AveragedModel or a dict, not {type(kept).__name__}{hint}")


def _origin(small: Pruned | Loaded, dense: nn.Module | None) -> nn.Module:
    source = None if isinstance(small, Loaded) else small.source
    found = dense if dense is not None else source() if source is not None else None
    if found is None:
        raise InputError("the model that was pruned is gone; pass it: transfer_(optimizer, small, dense)")
    found = unwrapped(found)
    check_fingerprint(found, small.plan.fingerprint)
    return found


def _optimizer(optimizer: torch.optim.Optimizer, small: Pruned | Loaded, dense: nn.Module) -> None:
    names: dict[Tensor, str] = {parameter: name for name, parameter in dense.named_parameters()}
    after = dict(small.model.named_parameters(remove_duplicate=False))
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not any(parameter in names for parameter in held):
        raise InputError("the optimizer holds no parameter of the model that was pruned")
    cuts = _cuts(small)
    state = {
        names[parameter]: _entries(names[parameter], parameter, found, cuts)
        for parameter, found in optimizer.state.items()
        if parameter in names
    }
    for group in optimizer.param_groups:  # nothing is changed before all of it is known to fit
        old = list(group["params"])
        stays = [p not in names or names[p] in after for p in old]
        if len(group.get("param_names", ())) == len(old):
            group["param_names"] = [n for n, keep in zip(group["param_names"], stays, strict=True) if keep]
        # In place: L-BFGS keeps this list under another name too.
        group["params"][:] = [after[names[p]] if p in names else p for p, keep in zip(old, stays, strict=True) if keep]
        for parameter in old:
            if parameter in names:
                optimizer.state.pop(parameter, None)
    for name, found in state.items():
        if name in after:
            optimizer.state[after[name]] = found


def _entries(name: str, parameter: Tensor, state: dict[str, Any], cuts: Cuts) -> dict[str, Any]:
    """The state of one parameter, its tensors cut as the parameter is, those in lists and tables too."""

    def cut(key: str, value: Any) -> Any:
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            return gathered(value, cuts.get(name, {}))
        if isinstance(value, Tensor) and value.numel() > 1:
            raise InputError(
                f"the optimizer keeps {key} of shape {tuple(value.shape)} for {name}, whose shape is "
                f"{tuple(parameter.shape)}; only state of the same shape can be cut with it"
            )
        return value

    return {key: tree_map(partial(cut, key), value) for key, value in state.items()}


def _cuts(small: Pruned | Loaded) -> Cuts:
    """What is cut of each tensor under every name that it has. A plan cuts a tensor under one of them."""
    found: Cuts = {}
    for (name, axis), mask in small.plan.masks().items():
        if not mask.all():
            found.setdefault(name, {})[axis] = mask
    return _tied(found, small)


def _tied(found: dict[str, T], small: Pruned | Loaded) -> dict[str, T]:
    """With what is said of one name said of all names of its tensor."""
    names: dict[int, list[str]] = {}
    for name, tensor in tensors_of(small.model).items():
        names.setdefault(id(tensor), []).append(name)
    known = {name: value for same in names.values() for value in (found.get(n) for n in same) for name in same if value}
    return found | known


def _table(table: MutableMapping[str, Tensor], small: Pruned | Loaded) -> None:
    after, plan = tensors_of(small.model), small.plan
    wrong = [name for name in table if name not in plan.fingerprint]
    if wrong:
        raise InputError(f"{wrong[0]!r} is no tensor of the model that was pruned")
    for name in list(table):
        shape = plan.fingerprint[name][0]
        if tuple(table[name].shape) != shape:
            raise InputError(f"{name} has the shape {tuple(table[name].shape)} in this dict, and {shape} in the model")
    factors: dict[str, dict[int, Any]] = {}
    for (name, axis), factor in plan.factors().items():
        factors.setdefault(name, {})[axis] = factor
    cuts, factors = _cuts(small), _tied(factors, small)
    for name in list(table):
        if name not in after:  # it went with a dropped branch
            del table[name]
            continue
        tensor = table[name]
        for axis, factor in factors.get(name, {}).items():
            tensor = folded(tensor, axis, factor)
        masks = dict(cuts.get(name, {}))
        values = masks.pop(VALUES, None)
        table[name] = gathered(tensor if values is None else renumbered(tensor, values), masks)
