"""Layers whose weight is computed from other tensors before it is used: weight norm, spectral norm, parametrisations
of the user's own.

A score that reads weights or gradients is told of the weight that the layer computes with, in a twin of the network
that has it as a parameter: the same function, so the same score as if there had never been a norm on its weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..graph.coupling import Coupling, Group, Member
from ..state import copied, modules_of, tensors_of

ROLES = ("out", "in")
"""Of the axes of a weight; of a transposed convolution the other way round."""


def computing(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules with such a weight, by their paths."""
    for path, module in modules_of(model):
        if parametrize.is_parametrized(module) or any(True for _ in hooks(module)):
            yield path, module


def hooks(module: nn.Module) -> Iterator[WeightNorm | SpectralNorm]:
    """Hooks of the older `weight_norm` and `spectral_norm`."""
    yield from (h for h in module._forward_pre_hooks.values() if isinstance(h, WeightNorm | SpectralNorm))


def sources(path: str, module: nn.Module) -> Iterator[tuple[str, str]]:
    """The computed tensors of a module, and of each the one of its originals that has its shape."""
    at = f"{path}." if path else ""
    for name, held in getattr(module, "parametrizations", {}).items():
        shape = getattr(module, name).shape
        mine = [own for own, t in held.named_parameters(recurse=False) if t.shape == shape]
        yield f"{at}{name}", f"{at}parametrizations.{name}.{mine[-1]}" if mine else ""
    for hook in hooks(module):
        yield f"{at}{hook.name}", f"{at}{hook.name}_{'v' if isinstance(hook, WeightNorm) else 'orig'}"


@torch.no_grad()
def spelled_out(model: nn.Module, coupling: Coupling) -> tuple[nn.Module, Coupling]:
    """The network with each computed weight as a parameter, and the coupling in which it stands for what it is computed
    from; both as given where no weight is computed."""
    if not any(True for _ in computing(model)):
        return model, coupling
    twin = copied(model)
    names: dict[str, tuple[str, nn.Module]] = {}
    for path, module in list(computing(twin)):
        training = module.training
        module.eval()  # a spectral norm takes a step in train mode
        names |= {source: (name, module) for name, source in sources(path, module)}
        plain(module)
        for hook in list(hooks(module)):
            (remove_weight_norm if isinstance(hook, WeightNorm) else remove_spectral_norm)(module, hook.name)
        module.train(training)
    own = tensors_of(twin)
    groups = tuple(replace(group, members=tuple(members(group, names, own))) for group in coupling.groups)
    forms = {names[name][0] if name in names else name: form for name, form in coupling.tensors.items()}
    return twin, replace(
        coupling,
        groups=groups,
        tensors={name: form for name, form in forms.items() if name in own},
        fingerprint={n: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for n, t in own.items()},
    )


def plain(module: nn.Module) -> None:
    """Parameters in the place of parametrisations. (torch's own `remove_parametrizations` changes the class, which the
    module of the user's model has too.)"""
    if not parametrize.is_parametrized(module):
        return
    names = list(module.parametrizations)  # type: ignore[arg-type]
    values = {name: getattr(module, name).detach().clone() for name in names}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value))


def members(group: Group, names: dict[str, tuple[str, nn.Module]], own: dict[str, Tensor]) -> Iterator[Member]:
    """The members of a group in the twin: what is gone from it left out."""
    for m in group.members:
        if m.tensor not in names:
            if m.tensor in own:
                yield m
            continue
        name, module = names[m.tensor]
        role = m.role
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear) and own[name].dim() > 1 and m.axis in (0, 1):
            role = ROLES[m.axis ^ isinstance(module, nn.modules.conv._ConvTransposeNd)]
        yield replace(m, tensor=name, role=role)
