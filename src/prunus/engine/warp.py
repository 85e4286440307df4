"""Shear, shift and turn uint8 batches (N, C, H, W), each sample by an amount of its own; what comes in is black.

The pixel nearest to where an output pixel comes from is taken, as torchvision's RandAugment does by default.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"]


def shear_x(x: Tensor, amount: Tensor) -> Tensor:
    """Each row moves by amount[n] times its distance from the top."""
    zero, one = torch.zeros_like(amount), torch.ones_like(amount)
    return _warp(x, one, amount, amount * x.shape[2] / 2, zero, one, zero)


def shear_y(x: Tensor, amount: Tensor) -> Tensor:
    """Each column moves by amount[n] times its distance from the left."""
    zero, one = torch.zeros_like(amount), torch.ones_like(amount)
    return _warp(x, one, zero, zero, amount, one, amount * x.shape[3] / 2)


def translate_x(x: Tensor, amount: Tensor) -> Tensor:
    """To the right by the whole part of amount[n] pixels."""
    zero, one = torch.zeros_like(amount), torch.ones_like(amount)
    return _warp(x, one, zero, -amount.trunc(), zero, one, zero)


def translate_y(x: Tensor, amount: Tensor) -> Tensor:
    """Down by the whole part of amount[n] pixels."""
    zero, one = torch.zeros_like(amount), torch.ones_like(amount)
    return _warp(x, one, zero, zero, zero, one, -amount.trunc())


def rotate(x: Tensor, degrees: Tensor) -> Tensor:
    """Counter-clockwise around the centre."""
    angle = degrees.double().deg2rad()
    zero = torch.zeros_like(angle)
    return _warp(x, angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero)


def _warp(x: Tensor, *matrix: Tensor) -> Tensor:
    """matrix: six (N,): where an output pixel comes from, in pixels around the image's centre.

    The grid is computed as torchvision computes it, so that the same pixel is the nearest.
    """
    n, _, h, w = x.shape
    theta = torch.stack([entry.to(torch.float32) for entry in matrix], 1).view(n, 2, 3)
    columns, rows = (torch.linspace((1 - s) * 0.5, (s - 1) * 0.5, s, device=x.device) for s in (w, h))
    base = torch.stack([columns.expand(h, w), rows[:, None].expand(h, w), torch.ones(h, w, device=x.device)], 2)
    scaled = theta.transpose(1, 2) / torch.tensor([0.5 * w, 0.5 * h], device=x.device)
    grid = base.view(1, h * w, 3).expand(n, -1, -1).bmm(scaled).view(n, h, w, 2)
    moved = F.grid_sample(x.to(torch.float32), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return moved.to(torch.uint8)
