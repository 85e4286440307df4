"""`take`, the map of the option-A shortcut, and what a cut net's state dict carries."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from prunus.models import Shortcut, resnet20, resnet56, resnet_widths, take
from prunus.models.shortcut import centred


def test_take_picks_channels_and_fills_with_zeros() -> None:
    x = torch.arange(24.0).view(2, 3, 2, 2)
    y = take(x, torch.tensor([2, -1, 0, 2]))
    assert y.shape == (2, 4, 2, 2)
    assert torch.equal(y[:, 0], x[:, 2])
    assert torch.equal(y[:, 1], torch.zeros(2, 2, 2))
    assert torch.equal(y[:, 2], x[:, 0])
    assert torch.equal(y[:, 3], x[:, 2])


def test_take_gives_each_channel_the_gradient_of_its_copies() -> None:
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([2, -1, 0, 2])
    take(x, index).sum().backward()
    assert x.grad is not None
    assert x.grad[0, :, 0, 0].tolist() == [1, 0, 2]
    assert torch.autograd.gradcheck(lambda t: take(t, index), (x,))


def test_a_zero_channel_stays_zero_where_the_input_is_not_finite() -> None:
    x = torch.full((1, 2, 1, 1), torch.inf, requires_grad=True)
    y = take(x, torch.tensor([-1, 1]))
    assert y.flatten().tolist() == [0, torch.inf]
    y[:, 0].sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_take_keeps_the_dtype(dtype: torch.dtype) -> None:
    assert take(torch.ones(1, 2, 1, 1, dtype=dtype), torch.tensor([0, -1])).dtype is dtype


def test_a_function_mode_sees_take_as_one_op() -> None:
    class Record(TorchFunctionMode):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Any] = []

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen.append(func)
            return func(*args, **(kwargs or {}))

    x, index = torch.randn(1, 2, 2, 2), torch.tensor([1, -1])
    with Record() as mode:
        y = take(x, index)
    assert mode.seen == [take]
    assert torch.equal(y, take(x, index))


@pytest.mark.parametrize(("width_in", "width_out"), [(16, 32), (6, 25), (25, 32), (5, 6), (7, 7), (9, 4)])
def test_centred_is_the_padding_of_the_references(width_in: int, width_out: int) -> None:
    x = torch.randn(2, width_in, 4, 4)
    left = (width_out - width_in) // 2
    padded = F.pad(x, (0, 0, 0, 0, left, width_out - width_in - left))
    assert torch.equal(take(x, centred(width_in, width_out)), padded)


def test_dense_shortcuts_are_option_a() -> None:
    net = resnet20()
    x = torch.randn(2, 16, 8, 8)
    expected = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
    assert torch.equal(net.layer2[0].shortcut(x), expected)
    assert [name for name, _ in net.named_buffers() if name.endswith("index")] == [
        "layer2.0.shortcut.index",
        "layer3.0.shortcut.index",
    ]


def test_both_shortcuts_agree_at_the_papers_widths_and_differ_below() -> None:
    dense = [m.index.tolist() for kind in ("map", "centred") for m in maps(resnet20(shortcut=kind))]
    assert dense[:2] == dense[2:]
    widths = [*resnet_widths(20)[:-3], 6, 25, 20]
    mapped, rebuilt = (maps(resnet20(widths=widths, shortcut=kind)) for kind in ("map", "centred"))
    assert rebuilt[0].index.tolist() == centred(6, 25).tolist()
    assert rebuilt[1].index.tolist() == list(range(3, 23))
    assert mapped[0].index.tolist() == [-1] * 8 + list(range(6)) + [-1] * 11
    assert mapped[1].index.tolist() == [-1] * 16 + [0, 1, 2, 3]


def maps(net: torch.nn.Module) -> list[Shortcut]:
    return [module for module in net.modules() if isinstance(module, Shortcut)]


def test_a_state_dict_carries_the_map_of_a_cut_net() -> None:
    widths = [*resnet_widths(56)[:-3], 10, 20, 40]
    cut, other = resnet56(widths=widths).eval(), resnet56(widths=widths).eval()
    for shortcut in maps(cut):
        shortcut.index.copy_(shortcut.index[torch.randperm(len(shortcut.index))])
    other.load_state_dict(cut.state_dict())
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(other(x), cut(x))


def test_a_state_dict_without_the_map_loads_strictly_and_leaves_it() -> None:
    net = resnet20()
    before = [m.index.clone() for m in maps(net)]
    published = {key: value for key, value in net.state_dict().items() if not key.endswith("index")}
    net.load_state_dict(published, strict=True)
    assert all(torch.equal(m.index, index) for m, index in zip(maps(net), before, strict=True))
