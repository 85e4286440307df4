"""From a `Fit` to a torch optimizer, and the learning rate of each step."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunus.engine.config import Fit
from prunus.engine.schedule import cosine, multistep, onecycle
from prunus.errors import ModelError

__all__ = ["factor", "optimizer", "parameter_groups", "set_rate"]


def parameter_groups(
    model: nn.Module, weight_decay: float, decay_norms: bool, special: Collection[int] = ()
) -> list[dict[str, Any]]:
    """Trainable parameters in one or two groups: those of at most one axis (norms, biases, gates) get no decay.

    special: ids of parameters that are left out.
    """
    trainable = [p for p in model.parameters() if p.requires_grad and id(p) not in special]
    if decay_norms or not weight_decay:
        return [{"params": trainable, "weight_decay": weight_decay}]
    groups = (
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    )
    return [group for group in groups if group["params"]]


def optimizer(model: nn.Module, config: Fit, extra: Sequence[dict[str, Any]] = ()) -> torch.optim.Optimizer:
    """The optimizer that `config` names. Raises ModelError for a model without trainable parameters.

    extra: groups of parameters that hooks bring along, such as gates, with settings of their own (weight_decay, or
    `lr_scale`, a factor on the learning rate). A parameter that is among them and in the model counts there only.
    """
    special = {id(p) for group in extra for p in group["params"]}
    groups = parameter_groups(model, config.weight_decay, config.decay_norms, special) + [
        {"weight_decay": 0.0, **group} for group in extra
    ]
    if not any(group["params"] for group in groups):
        raise ModelError(f"{type(model).__name__} has no trainable parameters")
    fused = all(fusible(p) for group in groups for p in group["params"])
    made: torch.optim.Optimizer
    if config.optimizer == "adamw":
        made = torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=fused or None)
    else:
        made = torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused or None
        )
    if fused:
        made.register_step_pre_hook(lay_out)
    return made


def fusible(parameter: Tensor) -> bool:
    """Whether torch's fused step, one pass over the memory, updates such a parameter. Of a large linear layer on a CPU
    it takes a tenth of the time of the usual one."""
    plain = type(parameter) in (nn.Parameter, Tensor) and parameter.layout == torch.strided
    dense = plain and torch.empty_like(parameter, device="meta").stride() == parameter.stride()
    return dense and parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda")


def lay_out(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Before a fused step: gradients and state lie in memory as their parameters do. On the CPU torch 2.15 takes that
    for granted and does not look; what a checkpoint gives back is contiguous, whatever it was. Sparse gradients, of
    embeddings, which a fused step does not take, become dense."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None and p.grad.layout != torch.strided:
                p.grad = p.grad.to_dense()
            if p.grad is not None and not lies_like(p.grad, p):
                p.grad = torch.empty_like(p, requires_grad=False).copy_(p.grad)
            state = optimizer.state.get(p, {})
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == p.shape and not lies_like(value, p):
                    state[name] = torch.empty_like(p, dtype=value.dtype, requires_grad=False).copy_(value)


def lies_like(tensor: Tensor, parameter: Tensor) -> bool:
    """Whether equal places in memory are equal places of both."""
    if tensor.stride() == parameter.stride():
        return True
    steps = zip(tensor.shape, tensor.stride(), parameter.stride(), strict=True)
    return all(size == 1 or a == b for size, a, b in steps)


def factor(config: Fit, step: int, steps_per_epoch: int) -> float:
    """What the base rate is multiplied by at `step`, counted from 0 over the whole training."""
    warmup = round(config.warmup * steps_per_epoch)
    if config.schedule == "steps":
        return multistep(step, [round(s * steps_per_epoch) for s in config.steps], config.gamma, warmup)
    shape = onecycle if config.schedule == "onecycle" else cosine
    return shape(step, config.epochs * steps_per_epoch, warmup)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group this learning rate, times its `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
