"""Multiply-accumulates of the operations that mix channels, as plain products.

Each width may be an int, or a tensor: with soft widths (a sum of gates) the result is differentiable, and a loss on the
budget uses the formula that the final count uses.
"""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor

__all__ = ["Width", "attention_macs", "bilinear_macs", "conv_macs", "linear_macs", "matmul_macs"]

Width: TypeAlias = int | Tensor


def conv_macs(out_positions: Width, out_channels: Width, in_per_group: Width, kernel: Width) -> Width:
    """Cout·positions·(Cin/g)·k, with `kernel` the product of the kernel's sides.

    A depthwise convolution has in_per_group = 1. A transposed one is the same product over its *input* positions and
    channels, with Cout/g in the place of Cin/g.
    """
    return out_positions * out_channels * in_per_group * kernel


def linear_macs(in_features: Width, out_features: Width, positions: Width = 1) -> Width:
    """in·out for each position (token, pixel) the layer is applied to."""
    return positions * in_features * out_features


def matmul_macs(rows: Width, inner: Width, columns: Width, batch: Width = 1) -> Width:
    """(batch, rows, inner) @ (batch, inner, columns)."""
    return batch * rows * inner * columns


def attention_macs(heads: Width, queries: Width, keys: Width, key_width: Width, value_width: Width) -> Width:
    """Both products of scaled dot-product attention, q·kᵀ and (softmax)·v. Masked entries count."""
    return heads * queries * keys * (key_width + value_width)


def bilinear_macs(first: Width, second: Width, out_features: Width, positions: Width = 1) -> Width:
    """x₁ᵀ·W·x₂: one for each weight and position."""
    return positions * out_features * first * second
