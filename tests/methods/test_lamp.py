"""LAMP scores worked out by hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import prunus
from prunus.methods import Lamp
from prunus.methods.lamp import lamp

EXAMPLE = torch.ones(1, 1)


def test_the_share_in_what_is_not_smaller() -> None:
    found = lamp(np.array([4.0, 1.0, 9.0, 2.0]))
    np.testing.assert_allclose(found, [4 / 13, 1 / 16, 1.0, 2 / 15], rtol=1e-15)


def test_equal_channels_score_alike_and_zeros_score_zero() -> None:
    np.testing.assert_allclose(lamp(np.array([2.0, 2.0, 0.0])), [0.5, 0.5, 0.0], rtol=1e-15)
    assert lamp(np.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def net() -> nn.Sequential:
    """Filters of squared norms 1, 4, 9 and then, read by three, 14, 3·25."""
    model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-2.0], [3.0]]))
        model[2].weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, -5.0]]))
    return model


def test_by_group_and_whatever_the_scale_of_a_layer() -> None:
    model = net()
    coupling = prunus.trace(model, EXAMPLE)
    first, second = Lamp().score(model, coupling)
    np.testing.assert_allclose(first, [1 / 14, 4 / 13, 1.0], rtol=1e-15)
    np.testing.assert_allclose(second, [14 / 89, 1.0], rtol=1e-15)
    with torch.no_grad():
        model[0].weight.mul_(64)
    for a, b in zip((first, second), Lamp().score(model, coupling), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_group_is_emptied_first() -> None:
    small = prunus.prune(net(), EXAMPLE, "channels=2", "lamp")
    assert small.plan.kept == ((2,), (1,))
