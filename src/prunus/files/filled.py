"""Tensors of a file into a network: each fits, has the dtype of the file, and is afterwards what the file says."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ModelError
from .file import first_line

__all__ = ["fill", "redress"]


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put the tensors into the model, in place. `path` is named in errors.

    Ties, devices, memory formats and requires_grad stay; tensors on the meta device move to the CPU. Floats take the
    width that they have in the file; other kinds must be the model's own. Raises CheckpointError for tensors that do
    not fit, ModelError where the model has a tensor without values that the file does not hold.
    """
    check_fit(tensors, model.state_dict(), f"{path} does not fit {type(model).__name__}")
    realise(model, tensors)
    held = model.state_dict(keep_vars=True)  # under the names that the model's own hooks give
    full = OrderedDict(tensors)
    full._metadata = getattr(model.state_dict(), "_metadata", {})  # type: ignore[attr-defined]
    try:
        for name, value in tensors.items():
            if held[name].dtype != value.dtype:
                held[name].data = held[name].detach().to(value.dtype)
        model.load_state_dict(full)
    except Exception as error:  # a module's own loading hook may raise anything
        raise CheckpointError(f"{path} cannot be loaded: {first_line(error)}") from error
    for name, value in model.state_dict().items():
        if not same_bytes(value, tensors[name]):
            raise CheckpointError(
                f"{path} cannot be loaded: {name} is not what the file holds, since {type(model).__name__} ties it to "
                "another tensor or changes it in a loading hook"
            )


def redress(model: nn.Module, dtypes: Mapping[str, torch.dtype]) -> None:
    """Give floating buffers that no state dict has these dtypes, in place; others keep theirs."""
    stored = model.state_dict().keys()
    for name, buffer in model.named_buffers(remove_duplicate=False):
        wanted = dtypes.get(name, buffer.dtype)
        if name not in stored and wanted != buffer.dtype and buffer.is_floating_point() and wanted.is_floating_point:
            buffer.data = buffer.detach().to(wanted)


def check_fit(tensors: Mapping[str, Tensor], expected: Mapping[str, object], what: str) -> None:
    """The same names, shapes and kinds of numbers."""
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    other = []
    for name in expected.keys() & tensors.keys():
        own, given = expected[name], tensors[name]
        if not isinstance(own, Tensor):
            other.append(f"{name}: {type(own).__name__} in the model")
        elif own.shape != given.shape:
            other.append(f"{name}: {tuple(given.shape)} in the file, {tuple(own.shape)} in the cut model")
        elif own.dtype != given.dtype and not (own.is_floating_point() and given.is_floating_point()):
            other.append(f"{name}: {given.dtype} in the file, {own.dtype} in the model".replace("torch.", ""))
    faults = (("missing", missing), ("unexpected", unexpected), ("of another shape or kind", sorted(other)))
    if any(names for _, names in faults):
        told = (
            f"{len(names)} {kind} ({', '.join(names[:2])}{', …' if len(names) > 2 else ''})"
            for kind, names in faults
            if names
        )
        raise CheckpointError(" ".join(f"{what}: {'; '.join(told)}".split()))  # a name may hold line breaks


def realise(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give what is on the meta device memory on the CPU, tied tensors the same one."""
    made: dict[int, Tensor] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, tensor in (*module._parameters.items(), *module._buffers.items(), *vars(module).items()):
            if not isinstance(tensor, Tensor) or not tensor.is_meta:
                continue
            full = f"{path}.{name}" if path else name
            if full not in tensors and id(tensor) not in made:
                raise ModelError(
                    f"{full} is on the meta device and in no file, since no state dict has it; use the CPU"
                )
            if id(tensor) not in made:
                empty = torch.empty_like(tensor, device="cpu")
                trained = tensor.requires_grad
                made[id(tensor)] = nn.Parameter(empty, trained) if isinstance(tensor, nn.Parameter) else empty
            own: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, vars(module))
            next(table for table in own if name in table)[name] = made[id(tensor)]


def same_bytes(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree in dtype, shape and every bit."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    a, b = (t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
    return torch.equal(a, b)
