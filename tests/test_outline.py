"""What is known of a call's shape without the call is what the call gives."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from prunus.outline import shape_of


def on(*shape: int, **how: Any) -> Tensor:
    return torch.empty(shape, device="meta", **how)


def same(func: Any, *args: Any, **kwargs: Any) -> bool:
    """Whether the shape is known; where it is, it is right, in dtype and layout too."""
    found = shape_of(func, args, kwargs)
    if found is None:
        return False
    real = func(*args, **kwargs)
    assert (found.shape, found.dtype, found.stride()) == (real.shape, real.dtype, real.stride())
    return True


STEPS = list(itertools.product((1, 2, (2,)), (0, 1), (1, 2), (1, 2), (True, False)))


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups", "bias"), STEPS)
@pytest.mark.parametrize("conv", [F.conv1d, F.conv2d, F.conv3d])
def test_a_convolution(conv: Any, stride: Any, padding: int, dilation: int, groups: int, bias: bool) -> None:
    sides = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}[conv]
    stride = stride * sides if isinstance(stride, tuple) else stride
    x, weight = on(2, 4, *(9, 8, 7)[:sides]), on(6, 4 // groups, *(3, 2, 1)[:sides])
    assert same(conv, x, weight, on(6) if bias else None, stride, padding, dilation, groups)
    assert same(conv, x, weight, stride=stride, padding=padding, dilation=dilation, groups=groups)


@pytest.mark.parametrize(
    "call",
    [
        (on(4, 9, 9), on(6, 4, 3, 3)),  # one image without a batch
        (on(2, 4, 9, 9), on(6, 3, 3, 3)),  # channels that do not meet
        (on(2, 4, 9, 9), on(5, 2, 3, 3), None, 1, 0, 1, 2),  # outputs that do not divide
        (on(2, 4, 9, 9), on(6, 4, 3, 3), on(5)),
        (on(2, 4, 9, 9), on(6, 4, 3, 3), None, 1, "same"),
        (on(2, 4, 2, 2), on(6, 4, 3, 3)),  # nothing would be left
        (on(0, 4, 9, 9), on(6, 4, 3, 3)),
        (on(2, 4, 9, 9), on(6, 4, 3, 3, dtype=torch.float64)),
        (on(2, 4, 9, 9).to(memory_format=torch.channels_last), on(6, 4, 3, 3)),
        (torch.zeros(2, 4, 9, 9), torch.zeros(6, 4, 3, 3)),  # values
    ],
)
def test_a_convolution_that_torch_must_judge(call: tuple[Any, ...]) -> None:
    assert shape_of(F.conv2d, call, {}) is None


def test_other_calls() -> None:
    x = on(2, 6, 5, 5)
    assert same(F.relu, x) and same(torch.add, x, on(2, 1, 5, 5)) and same(torch.cat, [x, on(2, 3, 5, 5)], 1)
    assert same(F.linear, on(2, 7, 6), on(4, 6), on(4)) and same(F.layer_norm, on(2, 7, 6), (6,))
    assert same(F.batch_norm, x, on(6), on(6)) and same(F.adaptive_avg_pool2d, x, 3)
    assert not same(torch.add, x, on(2, 1, 5, 5, dtype=torch.float64))


def test_convolutions_are_counted_all_the_same() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1, groups=2))
    assert prunus.cost(net, torch.zeros(1, 3, 6, 6)).macs == 16 * (8 * 3 * 9 + 4 * 4)
