"""Operations on the colours of uint8 batches (N, C, H, W), C 1 or 3, each sample with a parameter of its own.

Numbers are those of torchvision's functions of the same names, or one grey level beside them where floats round.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "autocontrast",
    "brightness",
    "contrast",
    "equalize",
    "invert",
    "posterize",
    "saturation",
    "sharpness",
    "solarize",
]


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Every level times factor[n]."""
    return (x * _each(factor)).clamp_(0, 255).to(torch.uint8)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """factor[n] of the image and 1 - factor[n] of its mean grey."""
    return _blend(x, _grey(x).mean(dim=(1, 2, 3), keepdim=True), factor)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """factor[n] of the image and 1 - factor[n] of it in grey. Grey images stay as they are."""
    return x if x.shape[1] == 1 else _blend(x, _grey(x), factor)


def sharpness(x: Tensor, factor: Tensor) -> Tensor:
    """factor[n] of the image and 1 - factor[n] of it smoothed by a 3x3 kernel; the border stays."""
    channels, h, w = x.shape[1:]
    if h <= 2 or w <= 2:
        return x
    kernel = torch.full((3, 3), 1 / 13, device=x.device)
    kernel[1, 1] = 5 / 13
    out = x.to(torch.float32)
    smooth = F.conv2d(out, kernel.expand(channels, 1, 3, 3), groups=channels).round_()
    inner = out[:, :, 1:-1, 1:-1]
    inner += (smooth - inner) * (1 - _each(factor))
    return out.clamp_(0, 255).to(torch.uint8)


def posterize(x: Tensor, bits: Tensor) -> Tensor:
    """Keep the upper bits[n] (int64, 0..8) of each level."""
    return x & _each((255 << (8 - bits)) & 255).to(torch.uint8)


def solarize(x: Tensor, threshold: Tensor) -> Tensor:
    """Invert the levels at or above threshold[n]."""
    return torch.where(x >= _each(threshold), 255 - x, x)


def invert(x: Tensor) -> Tensor:
    """255 minus each level."""
    return 255 - x


def autocontrast(x: Tensor) -> Tensor:
    """Stretch the levels of each channel to 0..255."""
    from torchvision.transforms.v2 import functional as TF

    done: Tensor = TF.autocontrast(x)
    return done


def equalize(x: Tensor) -> Tensor:
    """Make the histogram of each channel as even as it goes."""
    from torchvision.transforms.v2 import functional as TF

    done: Tensor = TF.equalize(x)
    return done


def _each(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1)


def _grey(x: Tensor) -> Tensor:
    """float32 (N, 1, H, W), in whole levels."""
    if x.shape[1] == 1:
        return x.to(torch.float32)
    red, green, blue = x.unbind(1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()[:, None]


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    ratio = _each(factor)
    rest = (1 - ratio.double()).to(torch.float32)  # rounded once, as torchvision's is
    return (x * ratio).addcmul_(other, rest).clamp_(0, 255).to(torch.uint8)
