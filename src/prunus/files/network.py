"""A cut network in one file, and back from the constructor of the dense one: `prunus.save` and `prunus.load`.

The file holds the state dict of the cut network as it is now, and the plan. Loading cuts a copy of the dense network by
the plan and puts the tensors in; the values of the dense network do not matter. What a state dict leaves out, such as
buffers that are not persistent, comes from the constructor and is cut with it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..composed import differing
from ..errors import CheckpointError, InputError, ModelError, PlanError
from ..plan import Plan
from ..planfile import fingerprint_from
from ..result import Loaded, Pruned
from ..state import unwrapped
from ..surgery import apply
from ..surgery.cut import check_fingerprint
from .file import Saved, first_line, read, the_path, write
from .filled import fill, redress

__all__ = ["load", "plan_of", "save", "write_network"]


def save(small: Pruned | Loaded | nn.Module, path: str | Path, *, base: Pruned | Loaded | Plan | None = None) -> None:
    """Write the current weights of a cut network, and its plan, into one safetensors file.

    small: what `prune`, `finish` or `load` returned. base: what came before, where the network had been cut already
    when it was pruned; the file then loads from the dense constructor all the same. `small` may also be a module, such
    as an averaged copy of the cut network; base then says how it was cut.

    The file appears under its name only when it is whole. Raises InputError for what is no cut network, PlanError where
    the plan does not lead to it, CheckpointError for tensors that a file cannot hold, StorageError where it cannot be
    written.
    """
    target = the_path(path)
    if not isinstance(small, (Pruned, Loaded, nn.Module)):
        raise InputError(f"save takes what prune, finish or load returned, or a module, not {type(small).__name__}")
    if not isinstance(base, (Pruned, Loaded, Plan, type(None))):
        raise InputError(f"base is what prune or load returned, or a Plan, not {type(base).__name__}")
    first = base if isinstance(base, Plan) or base is None else base.plan
    if isinstance(small, nn.Module):
        if first is None:
            raise InputError("a module alone does not say how it was cut; pass base=, what prune or load returned")
        model, plan, masks = unwrapped(small), first, masks_of(base)
    else:
        model, masks = unwrapped(small.model), masks_of(small)
        plan = small.plan if first is None else first.then(small.plan)
    check_made(model, plan)
    write_network(target, model, plan, masks=masks)


def load(path: str | Path, fresh_model: nn.Module) -> Loaded:
    """The cut network of a file: a copy of `fresh_model`, cut by the plan, with the file's tensors.

    fresh_model is what the constructor of the dense network returns. It is left as it is, and its values are not used,
    so it may be built under `torch.device("meta")`. The result has the device of fresh_model (the CPU for meta), its
    mode and its requires_grad, and the dtypes of the file. Nothing in the file is executed.

    Raises CheckpointError for a file that is missing, damaged, of another kind, or whose tensors do not fit; PlanError
    where fresh_model is not the network that was cut.
    """
    path = the_path(path)
    if not isinstance(fresh_model, nn.Module):
        raise ModelError(f"load takes the dense network, a torch.nn.Module, not {type(fresh_model).__name__}")
    dense = unwrapped(fresh_model)
    with torch.device("cpu"):  # a caller may still be in the context that made the model
        saved = read(path)
        small, plan = cut_by(saved, dense, path)
        redress(small, dtypes_of(saved, plan, path))
        fill(small, saved.tensors, path)
        return Loaded(small, plan, unpacked(saved, small, path))


def write_network(
    path: Path,
    model: nn.Module,
    plan: Plan | None,
    *,
    masks: Mapping[str, Tensor] | None = None,
    description: Mapping[str, Any] | None = None,
) -> None:
    """Write a file. plan: None for a network that was not cut. description: which network it is and its input."""
    content: dict[str, Any] = {} if plan is None else {"plan": plan.to_json()}
    if masks:
        content["masks"] = {name: packed(mask) for name, mask in masks.items()}
    if description is not None:
        content["description"] = dict(description)
    if beside := dtypes_beside(model, plan):
        content["dtypes"] = beside
    state: dict[str, Any] = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{name} of the state dict is no tensor but {type(value).__name__}, for torch.save")
    write(path, state, content)


def plan_of(content: Mapping[str, Any]) -> Plan | None:
    """The plan of a file; None where the network was not cut. Raises PlanError."""
    return Plan.from_json(content["plan"]) if "plan" in content else None


def cut_by(saved: Saved, dense: nn.Module, path: Path) -> tuple[nn.Module, Plan]:
    """A copy of the dense network, cut as the file says; and the plan."""
    named = dict(dense.named_parameters(remove_duplicate=False)) | dict(dense.named_buffers(remove_duplicate=False))
    check_shaped(named, "of the dense network", "load")
    if "plan" not in saved.content:
        shapes = {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in named.items()}
        plan = Plan(shapes, (), ())
        return apply(dense, plan), plan
    told = saved.content["plan"]
    try:
        # First of all the tensors: sizes that the model does not have are not believed.
        check_fingerprint(dense, fingerprint_from(told["fingerprint"]))
        plan = Plan.from_json(told)
        return apply(dense, plan), plan
    except PlanError as error:
        hint = ""
        if cut_before(told, named):
            hint = "; or where it had been cut before it was pruned, save it with base="
        raise PlanError(f"{path} does not fit {type(dense).__name__}: {first_line(error)}{hint}") from error
    except Exception as error:  # a plan that someone wrote may say anything
        raise PlanError(f"{path} holds a plan that cannot be applied: {first_line(error)}") from error


def cut_before(plan: Any, named: Mapping[str, Tensor]) -> bool:
    """Whether a plan may be for this network after an earlier cut: the same tensors, and some of them smaller."""
    try:
        told = {name: shape for name, (shape, _) in fingerprint_from(plan["fingerprint"]).items()}
    except Exception:  # it is refused for that
        return False
    pairs = [(shape, tuple(named[name].shape)) for name, shape in told.items() if name in named]
    smaller = all(len(a) == len(b) and all(x <= y for x, y in zip(a, b, strict=True)) for a, b in pairs)
    return smaller and any(a != b for a, b in pairs) and told.keys() <= named.keys()


def check_made(model: nn.Module, plan: Plan) -> None:
    """The plan leads to this network. What no state dict has, such as a cache, may have any shape."""
    named = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    check_shaped(named, f"of {type(model).__name__}", "save")
    stored, wanted = model.state_dict().keys(), plan.shapes()
    shapes = {n: tuple(t.shape) if n in stored else wanted.get(n, tuple(t.shape)) for n, t in named.items()}
    if (found := differing(plan, shapes)) is not None:
        name, should, is_ = found
        raise PlanError(
            f"this plan did not make this network: {name} is {is_ or 'not there'}, and {should or 'gone'} by the plan"
        )


def check_shaped(named: Mapping[str, Tensor], whose: str, verb: str) -> None:
    """Raises ModelError where a lazy module has not seen an input yet."""
    if lazy := [name for name, tensor in named.items() if is_lazy(tensor)]:
        raise ModelError(f"{lazy[0]} {whose} has no shape yet; run the network once before {verb}")


def dtypes_beside(model: nn.Module, plan: Plan | None) -> dict[str, str]:
    """The dtypes of floating buffers that no state dict has, where they are not those of the plan's dense network."""
    stored, planned = model.state_dict().keys(), {} if plan is None else plan.fingerprint
    loose = {name: b for name, b in model.named_buffers(remove_duplicate=False) if name not in stored}
    found = {name: str(b.dtype).removeprefix("torch.") for name, b in loose.items() if b.is_floating_point()}
    return {name: kind for name, kind in found.items() if name not in planned or planned[name][1] != kind}


def dtypes_of(saved: Saved, plan: Plan, path: Path) -> dict[str, torch.dtype]:
    """The dtype of each tensor that the plan knows or the file names. Raises CheckpointError for what is no dtype."""
    told = saved.content.get("dtypes", {})
    if not isinstance(told, Mapping):
        raise CheckpointError(f"{path} is damaged: its dtypes are no table")
    found = {}
    for name, kind in {**{name: kind for name, (_, kind) in plan.fingerprint.items()}, **told}.items():
        dtype = getattr(torch, kind, None) if isinstance(kind, str) else None
        if not isinstance(dtype, torch.dtype):
            raise CheckpointError(f"{path} is damaged: {kind!r} of {name!r} is no dtype")
        found[name] = dtype
    return found


def masks_of(kept: object) -> Mapping[str, Tensor]:
    """The masks of a network with zeros; none for others."""
    return getattr(kept, "masks", {}) if isinstance(kept, (Pruned, Loaded)) else {}


def packed(mask: Tensor) -> str:
    """Eight entries of a mask a byte, as text."""
    return base64.b64encode(np.packbits(mask.detach().cpu().reshape(-1).numpy().astype(bool)).tobytes()).decode()


def unpacked(saved: Saved, small: nn.Module, path: Path) -> dict[str, Tensor]:
    """The masks of a file, each where its weight is. Raises CheckpointError for those of no weight, or another size."""
    own, found = dict(small.named_parameters(remove_duplicate=False)), {}
    told = saved.content.get("masks", {})
    if not isinstance(told, Mapping):
        raise CheckpointError(f"{path} is damaged: its masks are no table")
    for name, text in told.items():
        try:
            bits = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
        except (TypeError, ValueError, binascii.Error) as error:
            raise CheckpointError(f"{path} is damaged: the mask of {name!r} cannot be read") from error
        if name not in own or bits.size != -(-own[name].numel() // 8):
            raise CheckpointError(f"{path} holds a mask of {name!r} that does not fit the network")
        mask = torch.from_numpy(np.unpackbits(bits, count=own[name].numel()).astype(bool))
        found[name] = mask.reshape(own[name].shape).to(own[name].device)
    return found
