"""How many weights stay after each round of masking, and the epochs at which rounds start.

Zhu & Gupta 2017, "To prune, or not to prune" (arXiv:1710.01878), equation 1, with rounds in place of steps and nothing
removed before the first: s_r = s_f · (1 − (1 − r/R)³).
"""

from __future__ import annotations

import math
from fractions import Fraction

from ..errors import InputError

__all__ = ["kept_after", "starts_of"]


def kept_after(n: int, share: Fraction, rounds: int, rate_of: str, schedule: str) -> tuple[int, ...]:
    """How many of n weights stay after each round.

    rate_of "remaining": ⌊share · what was left⌋ each time. "whole": ⌊share · n⌋ after the last; what is removed by then
    grows by 1 − (1 − r/R)³ (cubic) or r/R (linear), rounded down, or what is left shrinks by the same factor each time
    (geometric).
    """
    last = math.floor(share * n)
    if rate_of == "remaining":
        found = [n]
        for _ in range(rounds):
            found.append(math.floor(share * found[-1]))
        return tuple(found[1:])
    if schedule == "geometric":
        middle = [round(n * float(share) ** (r / rounds)) for r in range(1, rounds)]
        return (*(max(last, k) for k in middle), last)
    power = 3 if schedule == "cubic" else 1
    whole = rounds**power
    return tuple(n - (n - last) * (whole - (rounds - r) ** power) // whole for r in range(1, rounds + 1))


def starts_of(rounds: int, start: int, rewind: int | None, epochs: int | None) -> tuple[int, ...]:
    """The epoch at which each round starts: start + ⌊(r − 1) · (epochs − start) / R⌋, all epochs having one length.

    Raises InputError where the epochs do not hold all rounds.
    """
    if epochs is None:
        if rounds > 1:
            raise InputError(f"weights: rounds={rounds} are spread over the epochs; give epochs=")
        epochs = start + 1
    if epochs < 1:
        raise InputError(f"epochs={epochs} must be at least 1")
    room = epochs - start
    if room < rounds:
        raise InputError(f"weights: rounds={rounds} need as many epochs, and start={start} leaves {room} of {epochs}")
    if rewind is not None and not start:
        raise InputError("weights: rewind needs epochs of training before the first mask; give start=")
    return tuple(start + r * room // rounds for r in range(rounds))
