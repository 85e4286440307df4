"""What a step minimises before penalties: the task's loss, the user's own, or a mix with a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.engine.config import Fit
from prunus.engine.runtime import Runtime
from prunus.engine.task import Task, logits
from prunus.errors import ExampleError, InputError, UnknownName

__all__ = ["Loss", "attention_transfer", "distillation", "objective_of"]

Loss = Callable[[nn.Module, Any], Tensor]


def objective_of(
    model: nn.Module, task: Task, loss: Loss | None, teacher: nn.Module | None, config: Fit, runtime: Runtime
) -> Loss:
    """(what to call, batch) -> the loss before penalties. `model` is the bare module, whose features are guided."""
    if loss is not None:
        if teacher is not None:
            raise InputError("a loss of your own and a teacher do not combine; distil inside the loss")
        return loss

    def supervised(net: nn.Module, batch: Any) -> Tensor:
        return task.loss(task.forward(net, batch), batch)

    if teacher is None:
        return supervised
    wise, distil = runtime.place(teacher), config.distil
    weight, features = distil.weight, distil.features
    if features and runtime.compile:
        raise InputError("distil.features needs compile=False: a compiled network runs no hooks")
    teacher.eval()

    def distilled(net: nn.Module, batch: Any) -> Tensor:
        with _maps(model, features) as learnt:
            output = task.forward(net, batch)
        with torch.no_grad(), _maps(teacher, features) as shown:
            taught = logits(task.forward(wise, batch))
        student = logits(output)
        if student.shape != taught.shape:
            raise ExampleError(f"the teacher gives {tuple(taught.shape)}, the model {tuple(student.shape)}")
        value = (1 - weight) * task.loss(output, batch) + weight * distillation(student, taught, distil.temperature)
        for name in features:
            value = value + distil.feature_weight * attention_transfer(learnt[name], shown[name])
        return value

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


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """‖Q_S/‖Q_S‖ − Q_T/‖Q_T‖‖₂, mean over the batch, Q = Σ over channels of the squared map, as a vector of positions.

    Zagoruyko & Komodakis 2017 (arXiv:1612.03928), equation 2, with p = 2. Maps are (N, C, …); C may differ.
    """
    if student.shape[:1] + student.shape[2:] != teacher.shape[:1] + teacher.shape[2:] or student.ndim < 3:
        raise ExampleError(
            f"features of shape {tuple(student.shape)} and {tuple(teacher.shape)} cannot be compared; "
            "needed: (N, channels, positions …), alike but for the channels"
        )
    q_s, q_t = (F.normalize(x.float().pow(2).sum(dim=1).flatten(1), dim=1) for x in (student, teacher))
    apart: Tensor = torch.linalg.vector_norm(q_s - q_t, dim=1)
    return apart.mean()


@contextmanager
def _maps(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of the named modules during a forward pass inside."""
    found: dict[str, Tensor] = {}

    def noting(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            found[name] = output

        return note

    modules = dict(model.named_modules())
    unknown = [name for name in names if name not in modules]
    if unknown:
        raise UnknownName.of("module", unknown[0], modules)
    handles = [modules[name].register_forward_hook(noting(name)) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
