"""`Fit`: every setting of a training, in one frozen dataclass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from prunus.errors import InputError, UnknownName

__all__ = ["Fit"]

Schedule = Literal["cosine", "steps"]
Optimizer = Literal["sgd", "adamw"]


@dataclass(frozen=True)
class Fit:
    """How to train. Raises InputError for a value that makes no sense.

    epochs, batch_size, lr      the base rate is multiplied by the schedule's factor at every step
    optimizer                   "sgd" (momentum, nesterov) or "adamw" (momentum is its first beta)
    weight_decay, decay_norms   decay spares norms, biases and every other parameter of at most one axis, unless
                                decay_norms is set; the papers' recipes mostly decay everything
    schedule                    "cosine" to 0, or "steps": times gamma at each epoch of `steps` (none: constant)
    warmup                      epochs of linear warm-up; may be a fraction
    clip                        largest gradient norm over all parameters
    crop, flip                  augmentation of data held in memory: padding of a random crop, random mirror
    drop_last                   leave out a last, smaller batch; a last single image always is (for batch norm)
    temperature, teacher_weight distillation: (1 - weight) · loss + weight · T² · KL(teacher ‖ student)
    """

    epochs: int = 1
    batch_size: int = 128
    lr: float = 0.1
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    decay_norms: bool = False
    schedule: Schedule = "cosine"
    steps: tuple[float, ...] = ()
    gamma: float = 0.1
    warmup: float = 0.0
    clip: float | None = None
    crop: int = 0
    flip: bool = False
    drop_last: bool = False
    temperature: float = 4.0
    teacher_weight: float = 0.5

    def __post_init__(self) -> None:
        for what, value, allowed in (
            ("optimizer", self.optimizer, get_args(Optimizer)),
            ("schedule", self.schedule, get_args(Schedule)),
        ):
            if value not in allowed:
                raise UnknownName.of(what, value, allowed)
        for name, low, high in (
            ("epochs", 0, math.inf),
            ("batch_size", 1, math.inf),
            ("lr", 0.0, math.inf),
            ("momentum", 0.0, 1.0),
            ("weight_decay", 0.0, math.inf),
            ("warmup", 0.0, math.inf),
            ("crop", 0, math.inf),
            ("teacher_weight", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(
                    f"{name}={value} must be " + (f"at least {low}" if high == math.inf else f"in {low}..{high}")
                )
        for name in ("clip", "gamma", "temperature"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name}={value} must be above 0")
        if self.nesterov and not self.momentum:
            raise InputError("nesterov needs a momentum above 0")
        if self.steps and self.schedule != "steps":
            raise InputError(f"steps={self.steps} needs schedule='steps', not {self.schedule!r}")
