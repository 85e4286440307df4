"""RandAugment (Cubuk et al. 2020, arXiv:1909.13719) and AutoAugment's policy for CIFAR-10 (Cubuk et al. 2019,
arXiv:1805.09501, table 7), with torchvision's operations and magnitudes.

Samples of a batch are grouped by operation, so that each runs once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from prunus.engine import colour, warp

__all__ = ["BINS", "CIFAR10", "OPERATIONS", "RANDAUGMENT", "autoaugment", "levels", "randaugment"]

BINS = 31
"""Magnitudes of RandAugment, 0..30."""

Change = Callable[[Tensor, Tensor], Tensor]
Operation = tuple[Change, bool]
"""What is done to uint8 (N, C, H, W) by amounts (N,), and whether half of the amounts are negative."""


def _times(change: Change) -> Change:
    """Amounts around 0 as factors around 1."""
    return lambda x, amount: change(x, 1 + amount)


OPERATIONS: dict[str, Operation] = {
    "identity": (lambda x, _: x, False),
    "shear_x": (warp.shear_x, True),
    "shear_y": (warp.shear_y, True),
    "translate_x": (warp.translate_x, True),
    "translate_y": (warp.translate_y, True),
    "rotate": (warp.rotate, True),
    "brightness": (_times(colour.brightness), True),
    "color": (_times(colour.saturation), True),
    "contrast": (_times(colour.contrast), True),
    "sharpness": (_times(colour.sharpness), True),
    "posterize": (lambda x, amount: colour.posterize(x, amount.long()), False),
    "solarize": (colour.solarize, False),
    "autocontrast": (lambda x, _: colour.autocontrast(x), False),
    "equalize": (lambda x, _: colour.equalize(x), False),
    "invert": (lambda x, _: colour.invert(x), False),
}
RANDAUGMENT = tuple(name for name in OPERATIONS if name != "invert")

# Operation, probability, magnitude of 0..9 (None: the operation has none).
CIFAR10: tuple[tuple[tuple[str, float, int | None], tuple[str, float, int | None]], ...] = (
    (("invert", 0.1, None), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, None), ("equalize", 0.9, None)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, None), ("equalize", 0.5, None)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, None), ("autocontrast", 0.4, None)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, None)),
    (("equalize", 0.2, None), ("autocontrast", 0.6, None)),
    (("equalize", 0.2, None), ("equalize", 0.6, None)),
    (("color", 0.9, 9), ("equalize", 0.6, None)),
    (("autocontrast", 0.8, None), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, None)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, None), ("solarize", 0.8, 3)),
    (("equalize", 0.8, None), ("invert", 0.1, None)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, None)),
)


def levels(name: str, bins: int, size: tuple[int, int]) -> Tensor:
    """The amounts of an operation from weak to strong, float32 (bins,), for images of (height, width)."""
    ranges = {"shear_x": 0.3, "shear_y": 0.3, "rotate": 30.0}
    ranges |= {"translate_x": 150 / 331 * size[1], "translate_y": 150 / 331 * size[0]}
    ranges |= dict.fromkeys(("brightness", "color", "contrast", "sharpness"), 0.9)
    if name == "posterize":
        return (8 - (torch.arange(bins) / ((bins - 1) / 4)).round()).float()
    if name == "solarize":
        return torch.linspace(255.0, 0.0, bins)
    return torch.linspace(0.0, ranges.get(name, 0.0), bins)


def randaugment(x: Tensor, draws: Tensor, magnitude: int) -> Tensor:
    """Operations one after the other on uint8 (N, C, H, W). draws (N, ops, 2) in 0..1: which, and of which sign."""
    size = (x.shape[2], x.shape[3])
    for which, sign in (pair.unbind(1) for pair in draws.unbind(1)):
        chosen = (which * len(RANDAUGMENT)).long()
        amounts = torch.stack([levels(name, BINS, size)[magnitude] for name in RANDAUGMENT])[chosen]
        x = _apply(x, {name: chosen == i for i, name in enumerate(RANDAUGMENT)}, amounts, sign)
    return x


def autoaugment(x: Tensor, draws: Tensor) -> Tensor:
    """Two operations, each with its probability. draws (N, 5) in 0..1: sub-policy, chance and sign of each."""
    size = (x.shape[2], x.shape[3])
    policy = (draws[:, 0] * len(CIFAR10)).long()
    for k in range(2):
        steps = [pair[k] for pair in CIFAR10]
        amounts = torch.stack([levels(name, 10, size)[m or 0] for name, _, m in steps])[policy]
        happens = draws[:, 1 + k] < torch.tensor([chance for _, chance, _ in steps])[policy]
        names = {name for name, _, _ in steps}
        of = {name: torch.tensor([step[0] == name for step in steps])[policy] & happens for name in sorted(names)}
        x = _apply(x, of, amounts, draws[:, 3 + k])
    return x


def _apply(x: Tensor, groups: dict[str, Tensor], amounts: Tensor, sign: Tensor) -> Tensor:
    """Each operation once, on the samples of its group (bool (N,) on the CPU)."""
    out = x.clone()
    for name, members in groups.items():
        change, signed = OPERATIONS[name]
        index = members.nonzero()[:, 0]
        if not len(index) or name == "identity":
            continue
        amount = amounts[index]
        if signed:
            amount = torch.where(sign[index] < 0.5, -amount, amount)
        index = index.to(x.device)
        out[index] = change(x[index], amount.to(x.device))
    return out
