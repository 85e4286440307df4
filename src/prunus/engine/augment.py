"""What happens to whole batches of images, as plain tensor operations. Random numbers come in as arguments."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from prunus.engine.colour import brightness, contrast, saturation

__all__ = ["crop", "cutmix", "cutout", "flip", "jitter", "mixup", "normalise"]


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


def jitter(x: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast and saturation, in this order, by factors (N, 3); uint8."""
    for change, factor in zip((brightness, contrast, saturation), factors.unbind(1), strict=True):
        x = change(x, factor)
    return x


def cutout(x: Tensor, top: Tensor, left: Tensor, side: int) -> Tensor:
    """0 in the square of sample n from (top[n], left[n]) on, which may reach over the edge (DeVries & Taylor 2017)."""
    return torch.where(_square(x, top, left, side, side), torch.zeros((), dtype=x.dtype, device=x.device), x)


def mixup(x: Tensor, y: Tensor, share: float, classes: int) -> tuple[Tensor, Tensor]:
    """share · x + (1 - share) · the batch in reverse, and the labels alike (Zhang et al. 2018)."""
    return x * share + x.flip(0) * (1 - share), _labels(y, share, classes)


def cutmix(x: Tensor, y: Tensor, share: float, centre: tuple[float, float], classes: int) -> tuple[Tensor, Tensor]:
    """Paste from the batch in reverse a box of 1 - share of the area, around `centre` in 0..1 (Yun et al. 2019).

    The labels are mixed by the area that the box has inside the image.
    """
    h, w = x.shape[2:]
    box = []
    for size, at in ((h, centre[0]), (w, centre[1])):
        half, middle = int(size * (1 - share) ** 0.5) // 2, int(size * at)
        box.append((max(middle - half, 0), min(middle + half, size)))
    (top, bottom), (left, right) = box
    mixed = x.clone()
    mixed[:, :, top:bottom, left:right] = x.flip(0)[:, :, top:bottom, left:right]
    return mixed, _labels(y, 1 - (bottom - top) * (right - left) / (h * w), classes)


def normalise(images: Tensor, mean: Tensor | tuple[float, ...], std: Tensor | tuple[float, ...]) -> Tensor:
    """uint8 (N, C, H, W) -> float32 (x / 255 - mean) / std, per channel, as torchvision does it. The layout stays."""
    m, s = (torch.as_tensor(v, dtype=torch.float32, device=images.device) for v in (mean, std))
    if images.is_contiguous() or not images.is_contiguous(memory_format=torch.channels_last):
        m, s = m.view(1, -1, 1, 1), s.view(1, -1, 1, 1)
        return images.to(torch.float32).div_(255).sub_(m).div_(s)
    n, c, h, w = images.shape  # by whole rows: vectors of three channels would be five times slower
    rows = images.permute(0, 2, 3, 1).reshape(n, h, w * c).to(torch.float32)
    return rows.div_(255).sub_(m.repeat(w)).div_(s.repeat(w)).view(n, h, w, c).permute(0, 3, 1, 2)


def _square(x: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape[2:])
    down, right = rows - top[:, None], columns - left[:, None]
    inside = ((down >= 0) & (down < height))[:, :, None] & ((right >= 0) & (right < width))[:, None, :]
    return inside[:, None]


def _labels(y: Tensor, share: float, classes: int) -> Tensor:
    hot = F.one_hot(y, classes).to(torch.float32)
    return hot * share + hot.flip(0) * (1 - share)
