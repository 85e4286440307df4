"""The option-A shortcut as an explicit map of channels.

He et al. 2016 (arXiv:1512.03385) widen a residual stream without parameters: every second position, and zero channels
beside the old ones. Written with `F.pad`, the padding is arithmetic on widths, which goes wrong as soon as single
channels are removed. Here the map is data: `index[o]` is the input channel that output channel `o` carries, or -1 for a
zero channel. Cutting the output selects entries of `index`, cutting the input renumbers them, so any kept sets on
either side are exact.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

__all__ = ["Shortcut", "centred", "take"]


def take(x: Tensor, index: Tensor) -> Tensor:
    """Channels of x (N, C, H, W) in the order of index, int64 (O,), with -1 for a channel of zeros: (N, O, H, W).

    Torch function modes see one call of `take`, not what it is made of.
    """
    if has_torch_function((x, index)):
        out: Tensor = handle_torch_function(take, (x, index), x, index)
        return out
    # masked_fill and not a product: a zero channel stays zero where channel 0 is not finite.
    return x.index_select(1, index.clamp(min=0)).masked_fill((index < 0).view(-1, 1, 1), 0)


def centred(width_in: int, width_out: int) -> Tensor:
    """The published map: (out - in) // 2 zero channels left, the rest right. A narrower output crops likewise."""
    index = torch.arange(width_out) - (width_out - width_in) // 2
    return index.masked_fill((index < 0) | (index >= width_in), -1)


class Shortcut(nn.Module):
    """Every `stride`-th position of the channels that `index` names.

    `index` is part of the state dict: without it, the weights of a cut net would load into another net of the same
    widths and compute something else. Published checkpoints do not have it; they load, also strictly, and leave the map
    as built.
    """

    index: Tensor

    def __init__(self, index: Tensor, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        return take(x, self.index)

    def extra_repr(self) -> str:
        return f"{len(self.index)} channels, stride={self.stride}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.setdefault(prefix + "index", self.index)
        super()._load_from_state_dict(state_dict, prefix, *rest)
