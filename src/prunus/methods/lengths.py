"""Weights whose length a norm undoes: the function depends on w / ‖w‖ alone, up to the norm's ε."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from ..graph.coupling import Coupling
from ..graph.flow import norm_after

ScaleFree = tuple[Tensor, nn.Module]
"""A weight, and the norm behind it."""


def scale_free(model: nn.Module, coupling: Coupling) -> list[ScaleFree]:
    """The trainable weights of linear layers and convolutions that run once and whose result one norm alone reads. A
    bias takes part in what the norm divides by, except by batch statistics, which take it off."""
    modules = dict(model.named_modules())
    found: list[ScaleFree] = []
    uses = Counter(name for step in coupling.steps for name in step.tensors)
    for step in coupling.steps:
        layer, name = modules.get(step.path), f"{step.path}.weight"
        if not isinstance(layer, nn.Linear | _ConvNd) or step.tensors[:1] != (name,) or uses[name] > 1:
            continue
        weight, after = layer._parameters.get("weight"), norm_after(coupling.steps, step.op)
        if weight is None or not weight.requires_grad or after is None:
            continue
        norm = modules.get(after.path)
        if norm is not None and (layer.bias is None or after.name == "batch_norm"):
            found.append((weight, norm))
    return found


def undone(norm: nn.Module) -> bool:
    """Whether a norm divides by what it sees: not by running statistics."""
    return not isinstance(norm, _NormBase) or norm.training or norm.running_mean is None


def length_of(w: Tensor) -> Tensor:
    """‖w‖₂, a scalar in float32 or wider."""
    return torch.linalg.vector_norm(w, dtype=torch.promote_types(w.dtype, torch.float32))  # type: ignore[no-any-return]
