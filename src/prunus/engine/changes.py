"""The augmentation of one epoch: its random numbers, and what they do to the samples at some positions of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from prunus.engine import augment as ops
from prunus.engine.config import Augment
from prunus.engine.policies import autoaugment, randaugment

__all__ = ["Changes", "uniforms"]


def uniforms(seed: int, epoch: int, stream: int) -> torch.Generator:
    """A generator of its own for each use: order 0, crops 1, flips 2, policy 3, jitter 4, cutout 5,
    crops of files 7."""
    mixed = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed) >> 1)


class Changes:
    """Crop, flip, policy and jitter act on pixels, in this order; then, on normalised images, cutout and mixing.

    The draws of all n samples are made here, from the seed, the epoch and the sample's position.
    """

    def __init__(self, augment: Augment, n: int, seed: int, epoch: int, device: torch.device) -> None:
        self.augment, self.seed, self.epoch = augment, seed, epoch

        def drawn(stream: int, *shape: int) -> Tensor:
            return torch.rand(n, *shape, generator=uniforms(seed, epoch, stream))

        self.shifts = self.mirror = self.policy = self.factors = self.centres = None
        if augment.crop:
            shifts = torch.randint(0, 2 * augment.crop + 1, (2, n), generator=uniforms(seed, epoch, 1))
            self.shifts = shifts.to(device)
        if augment.flip:
            self.mirror = (drawn(2) < 0.5).to(device)
        if augment.policy != "none":  # stays on the CPU, where samples are grouped by operation
            self.policy = drawn(3, *((augment.ops, 2) if augment.policy == "randaugment" else (5,)))
        if augment.jitter:
            self.factors = (1 + augment.jitter * (2 * drawn(4, 3) - 1)).to(device)
        if augment.cutout:
            self.centres = drawn(5, 2).to(device)

    def pixels(self, x: Tensor, at: slice) -> Tensor:
        """x: uint8 (N, C, H, W), the samples at positions `at`."""
        if self.shifts is not None:
            top, left = self.shifts[:, at]
            x = ops.crop(x, top, left, self.augment.crop)
        if self.mirror is not None:
            x = ops.flip(x, self.mirror[at])
        if self.policy is not None:
            if self.augment.policy == "randaugment":
                x = randaugment(x, self.policy[at], self.augment.magnitude)
            else:
                x = autoaugment(x, self.policy[at])
        if self.factors is not None:
            x = ops.jitter(x, self.factors[at])
        return x

    def blanked(self, x: Tensor, at: slice) -> Tensor:
        """x: normalised, so that a blanked square has the mean colour."""
        if self.centres is None:
            return x
        size = torch.tensor(x.shape[2:], device=x.device)
        corner = (self.centres[at] * size).long() - self.augment.cutout // 2
        return ops.cutout(x, corner[:, 0], corner[:, 1], self.augment.cutout)

    def mixed(self, x: Tensor, y: Tensor, classes: int, step: int) -> tuple[Tensor, Tensor]:
        """Mixup or cutmix of the samples of one micro-batch with the same samples in reverse; one draw a step."""
        if not (self.augment.mixup or self.augment.cutmix):
            return x, y
        # numpy's legacy stream is frozen: a seed means the same in every version.
        random = np.random.RandomState(np.random.SeedSequence([self.seed, self.epoch, 6, step]).generate_state(4))
        which, row, column = random.random_sample(3)
        cut = which < 0.5 if self.augment.mixup and self.augment.cutmix else bool(self.augment.cutmix)
        alpha = self.augment.cutmix if cut else self.augment.mixup
        share = float(random.beta(alpha, alpha))
        if cut:
            return ops.cutmix(x, y, share, (row, column), classes)
        return ops.mixup(x, y, share, classes)
