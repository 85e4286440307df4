"""Learning-rate factors as pure functions of the step: multiply the base rate by what they return.

Warm-up is linear, (step + 1) / warmup, so that the first step moves and the last step of the warm-up has the full rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["cosine", "multistep", "onecycle"]


def cosine(step: int, total: int, warmup: int = 0) -> float:
    """Half a cosine from 1 towards 0 over the steps after the warm-up (Loshchilov & Hutter 2017, without restarts)."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def multistep(step: int, milestones: Sequence[int], gamma: float = 0.1, warmup: int = 0) -> float:
    """`gamma` to the number of milestones reached. Milestones count from step 0, warm-up included."""
    ramp = (step + 1) / warmup if step < warmup else 1.0
    return float(ramp * gamma ** sum(step >= milestone for milestone in milestones))


def onecycle(step: int, total: int, warmup: int = 0, start: float = 1 / 25, end: float = 1e-5) -> float:
    """Half a cosine from `start` to 1 over the warm-up, and half a cosine from 1 to `end` over the rest.

    The rate of Smith & Topin 2018 (arXiv:1708.07120) with torch's shape and numbers; the momentum is not cycled.
    warmup 0: three tenths of all steps.
    """
    up = warmup or round(0.3 * total)
    low, share = (start, 1 - step / max(1, up)) if step < up else (end, (step - up) / max(1, total - 1 - up))
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
