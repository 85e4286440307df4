"""Memory of a training on the CPU stays with the process until the training ends.

glibc gives large blocks back to the system as soon as they are freed, and activations are large blocks: every step
then asks for all of them again, page by page, as zeros that the kernel writes first. That is a quarter of the time of
a compiled ResNet-56 (`benchmarks/allocator.py`).
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
NEVER = 1 << 30  # bytes; a block of that size or more still comes from the system
LARGEST = 32 << 20  # bytes: where glibc's own threshold, which grows as blocks are freed, ends
SET = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Variables by which a user has decided on an allocator or its settings."""


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Inside, freed memory stays with the process; at the end it is given back. Does nothing for a GPU, on systems
    other than Linux with glibc, and where the user has set an allocator or its thresholds."""
    libc = allocator() if device.type == "cpu" else None
    if libc is None:
        yield
        return
    libc.mallopt(MMAP_THRESHOLD, NEVER)
    libc.mallopt(TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        libc.mallopt(MMAP_THRESHOLD, LARGEST)
        libc.mallopt(TRIM_THRESHOLD, 2 * LARGEST)
        libc.malloc_trim(0)


def allocator() -> ctypes.CDLL | None:
    """The C library whose allocator this process uses, where it is glibc's and the user has not set it."""
    if not sys.platform.startswith("linux") or any(os.environ.get(name) for name in SET):
        return None
    try:
        libc = ctypes.CDLL(None)
        return libc if all(hasattr(libc, name) for name in ("gnu_get_libc_version", "mallopt", "malloc_trim")) else None
    except OSError:
        return None
