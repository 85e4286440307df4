"""From a `Fit` to a torch optimizer, and the learning rate of each step."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from prunus.engine.config import Fit
from prunus.engine.schedule import cosine, multistep
from prunus.errors import ModelError

__all__ = ["factor", "optimizer", "parameter_groups"]


def parameter_groups(model: nn.Module, weight_decay: float, decay_norms: bool) -> list[dict[str, Any]]:
    """Trainable parameters in one or two groups: those of at most one axis (norms, biases, gates) get no decay."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    if decay_norms or not weight_decay:
        return [{"params": trainable, "weight_decay": weight_decay}]
    groups = (
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    )
    return [group for group in groups if group["params"]]


def optimizer(model: nn.Module, config: Fit) -> torch.optim.Optimizer:
    """The optimizer that `config` names. Raises ModelError for a model without trainable parameters."""
    groups = parameter_groups(model, config.weight_decay, config.decay_norms)
    if not any(group["params"] for group in groups):
        raise ModelError(f"{type(model).__name__} has no trainable parameters")
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def factor(config: Fit, step: int, steps_per_epoch: int) -> float:
    """What the base rate is multiplied by at `step`, counted from 0 over the whole training."""
    warmup = round(config.warmup * steps_per_epoch)
    if config.schedule == "steps":
        return multistep(step, [round(s * steps_per_epoch) for s in config.steps], config.gamma, warmup)
    return cosine(step, config.epochs * steps_per_epoch, warmup)
