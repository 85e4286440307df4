"""Large tensors in large pages.

A block of fresh memory comes from the kernel page by page, as zeros that it writes first. For the weights of a wide
linear layer, with pages of 4 kB, that takes several times as long as copying them (`benchmarks/graph_speed.py`,
`vgg16_bn`).
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["room", "twin"]

LARGE = 4 << 20
"""Bytes from which large pages are asked for: two of 2 MiB."""
MADV_HUGEPAGE = 14


def twin(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A copy in memory of its own; of another dtype where one is given."""
    if type(tensor) is Tensor and tensor.layout == torch.strided and tensor.is_contiguous():
        return room(tensor, tensor.shape, dtype).copy_(tensor)
    return tensor.to(dtype or tensor.dtype, copy=True)


def room(like: Tensor, sizes: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """An empty contiguous tensor on the device of `like`, and of its dtype unless another is given. Linux is asked for
    large pages where it is large and on the CPU; elsewhere, or where none are granted, it is as torch makes it."""
    made = like.new_empty(tuple(sizes), dtype=dtype)
    bytes_ = made.numel() * made.element_size()
    if made.device.type == "cpu" and bytes_ >= LARGE and (advise := _madvise()) is not None:
        start = -(-made.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (made.data_ptr() + bytes_) // mmap.PAGESIZE * mmap.PAGESIZE
        advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_HUGEPAGE)  # refused: small pages, no harm
    return made


@cache
def _madvise() -> Any:
    """The system call; None on systems other than Linux."""
    try:
        return ctypes.CDLL(None).madvise if sys.platform.startswith("linux") else None
    except (AttributeError, OSError):
        return None
