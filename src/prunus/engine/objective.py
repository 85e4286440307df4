"""What a step minimises before penalties: the task's loss, the user's own, or a mix with a teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.engine.config import Fit
from prunus.engine.runtime import Runtime
from prunus.engine.task import Task, logits
from prunus.errors import ExampleError, InputError

__all__ = ["Loss", "distillation", "objective_of"]

Loss = Callable[[nn.Module, Any], Tensor]


def objective_of(task: Task, loss: Loss | None, teacher: nn.Module | None, config: Fit, runtime: Runtime) -> Loss:
    """(model, batch) -> the loss before penalties."""
    if loss is not None:
        if teacher is not None:
            raise InputError("a loss of your own and a teacher do not combine; distil inside the loss")
        return loss

    def supervised(net: nn.Module, batch: Any) -> Tensor:
        return task.loss(task.forward(net, batch), batch)

    if teacher is None:
        return supervised
    wise, weight = runtime.place(teacher), config.teacher_weight
    teacher.eval()

    def distilled(net: nn.Module, batch: Any) -> Tensor:
        output = task.forward(net, batch)
        with torch.no_grad():
            taught = logits(task.forward(wise, batch))
        student = logits(output)
        if student.shape != taught.shape:
            raise ExampleError(f"the teacher gives {tuple(taught.shape)}, the model {tuple(student.shape)}")
        return (1 - weight) * task.loss(output, batch) + weight * distillation(student, taught, config.temperature)

    return distilled


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), mean over the batch (Hinton et al. 2015, section 2)."""
    t = temperature
    return (
        t
        * t
        * F.kl_div(
            F.log_softmax(student.float() / t, dim=1),
            F.log_softmax(teacher.float() / t, dim=1),
            reduction="batchmean",
            log_target=True,
        )
    )
