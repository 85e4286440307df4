"""N:M patterns along the input axis."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import prunus
from prunus.errors import InputError, TargetError
from prunus.methods import Weights
from prunus.methods.patterns import holds, input_axis, largest, read


def test_two_of_four_by_hand() -> None:
    weight = torch.tensor([[1.0, -4.0, 3.0, 2.0, 0.5, 0.1, -0.2, 0.0], [1.0, 1.0, 1.0, 1.0, -2.0, 2.0, 2.0, 1.0]])
    expected = [[0, 1, 1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 0, 1, 1, 0]]  # of equal ones the first go
    assert largest(weight, 2, 4, 1).int().tolist() == expected
    assert largest(weight.t(), 2, 4, 0).t().int().tolist() == expected
    assert not holds(weight, 2, 4, 1)
    assert holds(weight * largest(weight, 2, 4, 1), 2, 4, 1)
    assert not holds(weight[:, :6], 2, 4, 1)


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (4, 8), (3, 5)])
def test_against_a_sort(n: int, m: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 8 * m, 3, 3)
    mask = largest(weight, n, m, 1)
    for o, block, i, j in [(0, 0, 0, 0), (5, 7, 2, 1), (3, 2, 1, 2)]:
        values = weight[o, block * m : (block + 1) * m, i, j].abs()
        top = set(values.argsort(descending=True)[:n].tolist())
        assert set(mask[o, block * m : (block + 1) * m, i, j].nonzero()[:, 0].tolist()) == top
    assert int(mask.sum()) == weight.numel() * n // m


def test_the_input_axis_of_layers() -> None:
    layers = (
        (nn.Linear(4, 8), 1),
        (nn.Conv2d(4, 8, 3), 1),
        (nn.Conv2d(8, 8, 3, groups=2), 1),
        (nn.ConvTranspose2d(4, 8, 3), 0),
        (nn.ConvTranspose2d(4, 8, 3, groups=2), None),
        (nn.Embedding(4, 8), None),
    )
    assert [input_axis(layer, layer.weight) for layer, _ in layers] == [axis for _, axis in layers]
    attention = nn.MultiheadAttention(8, 2)
    assert input_axis(attention, attention.in_proj_weight) == 1


def test_a_network_with_the_pattern_and_what_cannot_have_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    thin = prunus.prune(model, torch.randn(1, 3, 8, 8), method=Weights(pattern="2:4"))
    assert [(layer.name, layer.weights, layer.nonzero) for layer in thin.layers()] == [
        ("2.weight", 576, 288),
        ("5.weight", 32, 16),
    ]
    assert holds(thin.model[2].weight, 2, 4, 1) and holds(thin.model[5].weight, 2, 4, 1)
    assert torch.equal(thin.model[0].weight, model[0].weight)
    assert thin.notes == ("without the 2:4 pattern: 0.weight (3 inputs)",)
    with pytest.raises(TargetError, match="pattern=5:7: no weight has an input axis that 7 divides"):
        prunus.prune(model, torch.randn(1, 3, 8, 8), method=Weights(pattern="5:7"))


@pytest.mark.parametrize("text", ["4:2", "0:4", "2:2", "2-4", "two:four", "1:64"])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(InputError, match="is no N:M with"):
        read(text)
