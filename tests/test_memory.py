"""Large tensors ask for large pages, and are otherwise what torch makes."""

from __future__ import annotations

import ctypes
import mmap

import pytest
import torch
from torch import nn

import prunus
from prunus import memory
from prunus.memory import LARGE, MADV_HUGEPAGE, room, twin
from prunus.plan import plan_for
from prunus.surgery import apply


class Kernel:
    """Notes what it is asked, and refuses."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []

    def __call__(self, start: ctypes.c_void_p, size: ctypes.c_size_t, advice: int) -> int:
        self.asked.append((start.value or 0, size.value, advice))
        return -1


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(memory, "_madvise", lambda: made)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
def test_whole_pages_of_the_tensor_and_no_others_are_named(kernel: Kernel, dtype: torch.dtype) -> None:
    tensor = room(torch.zeros((), dtype=dtype), (3, LARGE))
    assert tensor.shape == (3, LARGE) and tensor.dtype == dtype and tensor.is_contiguous()
    ((start, size, advice),) = kernel.asked
    assert start % mmap.PAGESIZE == size % mmap.PAGESIZE == 0 and advice == MADV_HUGEPAGE
    first, behind = tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size()
    assert first <= start < first + mmap.PAGESIZE and behind - mmap.PAGESIZE < start + size <= behind


def test_small_tensors_and_those_without_memory_are_left_alone(kernel: Kernel) -> None:
    assert room(torch.zeros(()), (LARGE // 4 - 1,)).numel() == LARGE // 4 - 1
    assert room(torch.zeros((), device="meta"), (2, LARGE)).is_meta
    assert room(torch.zeros(()), (0, LARGE)).numel() == 0
    assert kernel.asked == []


def test_where_there_is_no_such_call_it_is_a_plain_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_madvise", lambda: None)
    assert room(torch.zeros(2, dtype=torch.float64), (2, LARGE)).dtype == torch.float64


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0).reshape(3, 4),
        torch.arange(12.0).reshape(3, 4).t(),
        torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.randn(3, dtype=torch.complex64),
        torch.eye(3).to_sparse(),
        torch.tensor(2.0),
        torch.zeros(0, 3),
    ],
)
def test_a_twin_is_the_same_in_memory_of_its_own(tensor: torch.Tensor) -> None:
    again = twin(tensor)
    assert again.dtype == tensor.dtype and again.layout == tensor.layout
    assert torch.equal(again.to_dense() if again.is_sparse else again, tensor.to_dense() if again.is_sparse else tensor)
    if not tensor.is_sparse:
        assert again.stride() == tensor.stride()
        assert not tensor.numel() or again.data_ptr() != tensor.data_ptr()
    if tensor.is_floating_point() and not tensor.is_sparse:
        wide = twin(tensor, torch.float64)
        assert wide.dtype == torch.float64 and torch.equal(wide.float(), tensor)


def test_a_cut_asks_for_its_large_tensors(kernel: Kernel) -> None:
    """The wide layer is cut along both sides, and the one that stays whole is copied."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1100, 1200, bias=False), nn.Linear(1200, 1100), nn.Linear(1100, 8), nn.Tanh())
    coupling = prunus.trace(net, torch.randn(2, 1100))
    keep = [range(1200) if g.width == 1200 else range(1, 1100) for g in coupling.groups]
    small = apply(net, plan_for(coupling, keep))
    assert [tuple(p.shape) for p in small.parameters() if p.dim() == 2] == [(1200, 1100), (1099, 1200), (8, 1099)]
    assert len(kernel.asked) >= 2
    assert torch.equal(small[1].weight, net[1].weight[1:])
    assert torch.equal(small[0].weight, net[0].weight) and small[0].weight.data_ptr() != net[0].weight.data_ptr()
    assert torch.equal(small[2].weight, net[2].weight[:, 1:])
    with torch.no_grad():
        small[0].weight.zero_()
    assert bool(net[0].weight.any())
