"""N:M patterns: at most n of every m consecutive weights along the input axis are not 0.

Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks" (arXiv:2104.08378), section 3, has 2:4, which sparse
tensor cores run. The input axis is the one that the product sums over: for a convolution the input channels, at each
place of the kernel on its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import InputError, TargetError

__all__ = ["holds", "input_axis", "largest", "patterned", "read"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def read(pattern: str) -> tuple[int, int]:
    """ "2:4" -> (2, 4). Raises InputError."""
    found = re.fullmatch(r"([0-9]{1,2}):([0-9]{1,2})", pattern)
    n, m = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= n < m <= 32:
        raise InputError(f"pattern={pattern!r} is no N:M with 1 <= N < M <= 32, such as 2:4")
    return n, m


def input_axis(owner: nn.Module, weight: Tensor) -> int | None:
    """The axis of a module's weight that its product sums over, None where that is not known."""
    if weight.dim() < 2:
        return None
    if isinstance(owner, _TRANSPOSED):
        return 0 if owner.groups == 1 else None
    known = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
    return 1 if isinstance(owner, known) else None


def largest(weight: Tensor, n: int, m: int, axis: int) -> Tensor:
    """The mask (bool, True stays) of the n largest |w| of every m along `axis`, whose length m divides.

    Of equal magnitudes those that come first go first.
    """
    blocks = _blocks(weight.detach().abs(), m, axis)
    smaller = torch.zeros(blocks.shape, dtype=torch.uint8, device=weight.device)
    for i in range(m):
        for j in range(m):
            if j != i:
                less = blocks[..., j] <= blocks[..., i] if j < i else blocks[..., j] < blocks[..., i]
                smaller[..., i] += less
    return (smaller >= m - n).flatten(-2).movedim(-1, axis)


def holds(weight: Tensor, n: int, m: int, axis: int) -> bool:
    """Whether a weight has the pattern."""
    if weight.shape[axis] % m:
        return False
    return bool((_blocks(weight.detach(), m, axis).count_nonzero(dim=-1) <= n).all())


def patterned(
    model: nn.Module, tensors: Mapping[str, Tensor], n: int, m: int
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """N:M masks of the weights that can have them; the others are named."""
    masks: dict[str, Tensor] = {}
    whole = []
    for name, weight in tensors.items():
        axis = input_axis(model.get_submodule(name.rpartition(".")[0]), weight)
        if axis is None or weight.shape[axis] % m:
            whole.append(f"{name} ({'no input axis' if axis is None else f'{weight.shape[axis]} inputs'})")
        else:
            masks[name] = largest(weight, n, m, axis)
    if not masks:
        raise TargetError(f"pattern={n}:{m}: no weight has an input axis that {m} divides ({', '.join(whole[:4])})")
    return masks, (f"without the {n}:{m} pattern: {', '.join(whole)}",) if whole else ()


def _blocks(weight: Tensor, m: int, axis: int) -> Tensor:
    """(…, length / m, m), the axis last."""
    moved = weight.movedim(axis, -1)
    return moved.reshape(*moved.shape[:-1], -1, m)
