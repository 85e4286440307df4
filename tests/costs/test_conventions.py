"""The three published conventions, module by module, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.costs import CONVENTIONS, cost
from prunus.errors import InputError, UnknownName

RULED = ("thop", "ptflops", "thop-2020")


@pytest.mark.parametrize(
    ("module", "shape", "thop", "ptflops", "old"),
    [
        # 64 positions; a filter reads 6·9 entries, or 2·9 in each of 3 groups.
        (nn.Conv2d(6, 4, 3, padding=1), (1, 6, 8, 8), *[64 * 4 * (54 + 1)] * 3),
        (nn.Conv2d(6, 4, 3, padding=1, bias=False), (1, 6, 8, 8), *[64 * 4 * 54] * 3),
        (nn.Conv2d(6, 9, 3, padding=1, groups=3), (1, 6, 8, 8), *[64 * 9 * (18 + 1)] * 3),
        (nn.Conv1d(6, 4, 3), (1, 6, 10), *[8 * 4 * (18 + 1)] * 3),
        # Transposed: counted by outputs, as these tools do.
        (nn.ConvTranspose2d(6, 4, 2, stride=2), (1, 6, 5, 5), *[100 * 4 * (24 + 1)] * 3),
        (nn.BatchNorm2d(6), (1, 6, 4, 4), 2 * 96, 2 * 96, 4 * 96),
        (nn.BatchNorm1d(6, affine=False), (1, 6), 12, 12, 24),
        (nn.Linear(7, 5), (1, 7), 35, 35 + 5, 13 * 5),
        (nn.Linear(7, 5, bias=False), (1, 7), 35, 35, 13 * 5),
        (nn.Linear(7, 5), (1, 3, 7), 105, 105 + 5, 13 * 15),
        (nn.AdaptiveAvgPool2d(1), (1, 6, 8, 8), 6 * 65, 384, 6 * 65),
        (nn.AdaptiveAvgPool2d((2, 4)), (1, 6, 8, 8), 48 * 9, 384, 48 * 9),
        (nn.AdaptiveAvgPool1d(1), (1, 6, 8), 6 * 9, 48, 6 * 9),
        (nn.AvgPool2d(2), (1, 6, 8, 8), 96, 384, 96 * 3),
        (nn.AvgPool2d((2, 2)), (1, 6, 8, 8), 96, 384, 96 * 5),
        (nn.AvgPool2d(7), (1, 6, 7, 7), 6, 294, 6 * 8),
        (nn.MaxPool2d(2), (1, 6, 8, 8), 0, 384, 0),
        (nn.AdaptiveMaxPool2d(1), (1, 6, 8, 8), 0, 384, 0),
        (nn.ReLU(), (1, 6, 8, 8), 0, 384, 0),
        (nn.ReLU6(), (1, 6, 8, 8), 0, 384, 0),
        (nn.PReLU(), (1, 6, 8, 8), 0, 384, 0),
        (nn.Dropout(), (1, 6), 0, 0, 0),
        (nn.Flatten(), (1, 6, 8, 8), 0, 0, 0),
    ],
)
def test_modules(module: nn.Module, shape: tuple[int, ...], thop: int, ptflops: int, old: int) -> None:
    for convention, expected in zip(RULED, (thop, ptflops, old), strict=True):
        found = cost(nn.Sequential(module), torch.zeros(shape), convention)
        assert (found.convention, found.macs, found.unsupported) == (convention, expected, ())
        assert found.by_module == ({"0": expected} if expected or "0" in found.by_module else {})


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.extra = nn.Parameter(torch.zeros(4, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(F.relu(F.conv2d(self.conv(x), self.extra)), 1)
        return x.flatten(1) @ x.flatten(1).t()


@pytest.mark.parametrize("convention", RULED)
def test_functional_calls_count_nothing_and_loose_parameters_are_named(convention: str) -> None:
    found = cost(Functional(), torch.zeros(1, 3, 6, 6), convention)
    assert found.by_module == {"conv": 16 * 4 * 28}
    assert found.unsupported == ("Functional in the model itself",)


def test_a_subclass_goes_by_its_base_and_a_repeated_module_counts_each_time() -> None:
    class Padded(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(F.pad(x, (1, 1, 1, 1)))

    conv = Padded(4, 4, 3, bias=False)
    found = cost(nn.Sequential(conv, conv, nn.LayerNorm(4)), torch.zeros(1, 4, 4, 4), "thop")
    assert found.by_module == {"0": 2 * 16 * 4 * 36}
    assert found.unsupported == ("LayerNorm in 2",)


def test_the_names_of_conventions() -> None:
    assert CONVENTIONS == ("macs", "thop", "ptflops", "thop-2020")
    with pytest.raises(InputError, match="use macs="):
        cost(nn.Linear(2, 2), torch.zeros(1, 2), convention="flops")
    with pytest.raises(UnknownName, match="unknown convention 'thopp'; did you mean 'thop'"):
        cost(nn.Linear(2, 2), torch.zeros(1, 2), convention="thopp")
