"""Every setting of a training, in frozen dataclasses: `Fit`, with `Augment` and `Distil` inside.

They are the Python arguments, the options of the command line and the sections of a recipe at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from prunus.errors import InputError, UnknownName

__all__ = ["Augment", "Distil", "Fit", "Optimizer", "Policy", "Schedule", "Selection"]

Schedule = Literal["cosine", "steps", "onecycle"]
Optimizer = Literal["sgd", "adamw"]
Policy = Literal["none", "randaugment", "autoaugment"]
Selection = Literal["last", "best"]

Bound = tuple[str, float, float]
"""A setting's name, and the least and the largest value that it may have."""


@dataclass(frozen=True)
class Augment:
    """What happens to training images. The draws of a sample depend on (seed, epoch, its place in the epoch) alone.

    crop            pixels of padding on each side for a random crop back to the old size
    flip            mirror half of the images
    policy          "randaugment" (`ops` random operations of strength `magnitude`, of 31) or "autoaugment" (the learned
                    policy for CIFAR-10)
    jitter          brightness, contrast and saturation each by a factor drawn from 1 ± jitter
    cutout          side in pixels of a square that is blanked at a random place
    mixup, cutmix   the α of a Beta(α, α) that mixes pairs of a batch, images and labels; both set: one by chance
    scale           images that are streamed from files: smallest area of a random resized crop (1: the centre crop)
    """

    crop: int = 0
    flip: bool = False
    policy: Policy = "none"
    ops: int = 2
    magnitude: int = 9
    jitter: float = 0.0
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    scale: float = 0.08

    def __post_init__(self) -> None:
        _known("policy", self.policy, get_args(Policy))
        _within(
            self,
            ("crop", 0, math.inf),
            ("ops", 1, 16),
            ("magnitude", 0, 30),
            ("jitter", 0.0, 1.0),
            ("cutout", 0, math.inf),
            ("mixup", 0.0, math.inf),
            ("cutmix", 0.0, math.inf),
            ("scale", 0.01, 1.0),
        )


@dataclass(frozen=True)
class Distil:
    """(1 - weight) · loss + weight · T² · KL(teacher ‖ student) + feature_weight · Σ attention transfer.

    features: modules, by the name they have in student and teacher, whose maps of channel energy are compared
    (Zagoruyko & Komodakis 2017, equation 2); the widths may differ, so that a cut network learns from the dense one.
    """

    temperature: float = 4.0
    weight: float = 0.5
    features: tuple[str, ...] = ()
    feature_weight: float = 1000.0

    def __post_init__(self) -> None:
        _above_zero(self, "temperature")
        _within(self, ("weight", 0.0, 1.0), ("feature_weight", 0.0, math.inf))


@dataclass(frozen=True)
class Fit:
    """How to train. Raises InputError for a value that makes no sense.

    epochs, batch_size, lr      one step of the optimizer sees batch_size samples, over all processes and accumulated
                                parts; the base rate is multiplied by the schedule's factor at every step
    optimizer                   "sgd" (momentum, nesterov) or "adamw" (momentum is its first beta)
    weight_decay, decay_norms   decay spares norms, biases and every other parameter of at most one axis, unless
                                decay_norms is set; the papers' recipes mostly decay everything
    schedule                    "cosine" to 0; "steps": times gamma at each epoch of `steps` (none: constant);
                                "onecycle": up to lr over `warmup` epochs (0: three tenths of all), then down to 0
    warmup                      epochs of linear warm-up; may be a fraction
    clip                        largest gradient norm over all parameters of the network
    accumulate                  parts that a batch is divided into, one after the other, to need less memory
    ema                         decay of an average of the weights, which is what is validated and left behind (0: none)
    label_smoothing             of the built-in classification
    drop_last                   leave out a last, smaller batch. One too small to give every part two samples always is
                                (for batch norm)
    selection                   which epoch's weights are left behind: the last, or the best in validation
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
    accumulate: int = 1
    ema: float = 0.0
    label_smoothing: float = 0.0
    drop_last: bool = False
    selection: Selection = "last"
    augment: Augment = field(default_factory=Augment)
    distil: Distil = field(default_factory=Distil)

    def __post_init__(self) -> None:
        _known("optimizer", self.optimizer, get_args(Optimizer))
        _known("schedule", self.schedule, get_args(Schedule))
        _known("selection", self.selection, get_args(Selection))
        _within(
            self,
            ("epochs", 0, math.inf),
            ("batch_size", 1, math.inf),
            ("lr", 0.0, math.inf),
            ("momentum", 0.0, 1.0),
            ("weight_decay", 0.0, math.inf),
            ("warmup", 0.0, math.inf),
            ("accumulate", 1, math.inf),
            ("ema", 0.0, 1.0),
            ("label_smoothing", 0.0, 1.0),
        )
        _above_zero(self, "clip", "gamma")
        if self.nesterov and not self.momentum:
            raise InputError("nesterov needs a momentum above 0")
        if self.steps and self.schedule != "steps":
            raise InputError(f"steps={self.steps} needs schedule='steps', not {self.schedule!r}")
        if self.accumulate > self.batch_size:
            raise InputError(f"accumulate={self.accumulate} cannot divide a batch of {self.batch_size}")


def _known(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UnknownName.of(what, value, allowed)


def _within(config: object, *bounds: Bound) -> None:
    for name, low, high in bounds:
        value = getattr(config, name)
        if not (low <= value <= high and value < math.inf):
            allowed = "finite" if value == math.inf else f"at least {low}" if high == math.inf else f"in {low}..{high}"
            raise InputError(f"{name}={value} must be {allowed}")


def _above_zero(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise InputError(f"{name}={value} must be above 0")
