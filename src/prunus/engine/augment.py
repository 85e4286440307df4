"""What happens to whole batches of images, as plain tensor operations. Random numbers come in as arguments."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["crop", "flip", "normalise"]


def crop(x: Tensor, top: Tensor, left: Tensor, pad: int) -> Tensor:
    """Pad by `pad` zeros (black, before normalisation) on each side, then cut sample n at (top[n], left[n]) to size.

    x is (N, C, H, W); top and left are int64 (N,) in 0..2*pad. The windows are views, so one gather does the batch.
    """
    n, _, h, w = x.shape
    windows = F.pad(x, (pad, pad, pad, pad)).unfold(2, h, 1).unfold(3, w, 1)
    return windows[torch.arange(n, device=x.device), :, top, left]


def flip(x: Tensor, chosen: Tensor) -> Tensor:
    """Mirror left to right the samples where `chosen`, bool (N,), is true."""
    return torch.where(chosen[:, None, None, None], x.flip(3), x)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (N, C, H, W) -> float32 (x / 255 - mean) / std, per channel, as torchvision does it."""
    shape = (1, -1, 1, 1)
    m = torch.tensor(mean, dtype=torch.float32, device=images.device).view(shape)
    s = torch.tensor(std, dtype=torch.float32, device=images.device).view(shape)
    return images.to(torch.float32).div_(255).sub_(m).div_(s)
