"""The nuclear-norm term against singular value decompositions in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.methods.nuclear import layers_of, polar, resistance


def truncated(m: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Nuclear norm and U Vᵀ over singular values above eps·σ_max, by a decomposition in float64."""
    u, sigma, v = torch.linalg.svd(m.double(), full_matrices=False)
    alive = (sigma > eps * sigma.max()).double()
    return (sigma * alive).sum(), (u * alive) @ v


@pytest.mark.parametrize("shape", [(16, 144), (144, 16), (32, 32), (1, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_polar_factor_is_that_of_the_decomposition(shape: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    m = torch.randn(3, *shape, dtype=dtype)
    if shape[0] > 4:
        m[0, ::3] = 0.0  # gates that are off
        m[1] = m[1][:, :2] @ torch.randn(2, shape[1], dtype=dtype)  # rank 2
        m[2] *= torch.logspace(0, -4, shape[0], dtype=dtype)[:, None]  # badly conditioned
    norms, p = polar(m.double())
    for k in range(3):
        norm, expected = truncated(m[k], 1e-5)
        torch.testing.assert_close(norms[k], norm, rtol=1e-6, atol=0)
        cosine = float((p[k] * expected).sum() / (p[k].norm() * expected.norm()))
        assert cosine > 0.999
    if shape[0] > 4:
        assert (p[0, ::3] == 0).all()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 4, 1)
    )


def test_the_term_and_its_gradient_are_those_of_the_definition() -> None:
    model = network()
    coupling = prunus.trace(model, torch.zeros(1, 3, 8, 8))
    assert coupling.widths == (6, 6)
    layers = layers_of(model, coupling, [0, 6, 12], 12)
    assert [layer.name for layer in layers] == ["0.weight", "2.weight", "4.weight"]
    on = torch.tensor([1, 1, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1]).bool()
    value, slope = resistance(layers, [layer.weight for layer in layers], on, 1e-5)
    gates = on.double().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for layer, own in zip(layers[:2], gates.split(6), strict=True):
        w = layer.weight.detach().double().flatten(1)
        total = total + (torch.linalg.matrix_norm(w, "nuc") - torch.linalg.matrix_norm(own[:, None] * w, "nuc")).abs()
    expected = total / 3  # the last convolution has no gate, and counts in the mean
    torch.testing.assert_close(value, expected.detach())
    (grad,) = torch.autograd.grad(expected, gates)
    torch.testing.assert_close(slope[on], grad[on])
    assert (slope[~on] == 0).all()
    assert (slope[on] < 0).all()  # to minimise it is to keep gates open


def test_a_layer_with_all_gates_open_resists_nothing() -> None:
    model = network()
    layers = layers_of(model, prunus.trace(model, torch.zeros(1, 3, 8, 8)), [0, 6, 12], 12)
    on = torch.tensor([True] * 6 + [False] + [True] * 5)
    _, slope = resistance(layers, [layer.weight for layer in layers], on, 1e-5)
    assert (slope[:7] == 0).all() and (slope[7:] < 0).all()
