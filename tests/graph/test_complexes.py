"""Fourier transforms over positions let channels pass; over channels they keep them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from zoo import conv, head, image, net, pool, tokens

import prunus


def widths(model: nn.Module) -> dict[str, int]:
    return {g.name: g.width for g in prunus.trace(model, image()).groups}


def proven(model: nn.Module) -> None:
    small = prunus.prune(model, image(), "channels=60%", method="random")
    assert small.proof is not None and small.proof.worst < 1e-12


def test_a_filter_in_the_frequencies_goes_with_its_channels() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.a(x).permute(0, 2, 3, 1)
        y = torch.fft.rfft2(y, dim=(1, 2), norm="ortho") * torch.view_as_complex(s.w)
        return s.h(torch.fft.irfft2(y, s=(8, 8), dim=(1, 2), norm="ortho").square().mean((1, 2)))

    model = net(forward, a=conv(3, 12), w=nn.Parameter(torch.zeros(8, 5, 12, 2)), h=head(12))
    coupling = prunus.trace(model, image())
    assert {g.name: g.width for g in coupling.groups} == {"a": 12}
    assert ("w", 2) in {(m.tensor, m.axis) for m in coupling.groups[0].members}
    proven(model)


def test_real_and_imaginary_parts_as_channels_go_in_pairs() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.a(x).relu()
        b, _, h, w = y.shape
        z = torch.fft.rfft2(y, norm="ortho")
        z = torch.stack((z.real, z.imag), -1).permute(0, 1, 4, 2, 3).reshape(b, -1, h, w // 2 + 1)
        z = s.f(z).relu().view(b, -1, 2, h, w // 2 + 1).permute(0, 1, 3, 4, 2)
        return s.h(pool(s.o(y + torch.fft.irfft2(torch.complex(z[..., 0], z[..., 1]), s=(h, w), norm="ortho"))))

    model = net(forward, a=conv(3, 8), f=conv(16, 16, 1), o=conv(8, 12, 1), h=head(12))
    assert widths(model) == {"a": 8, "o": 12}
    positions = {
        m.tensor: m.positions[3].tolist() for m in prunus.trace(model, image()).groups[0].members if m.axis == 0
    }
    assert positions["f.weight"] == [6, 7]  # both parts of channel 3
    proven(model)


def test_a_transform_over_channels_keeps_them() -> None:
    model = net(
        lambda s, x: s.h(torch.fft.fft(tokens(s.b(s.a(x).relu())), dim=-1).real.mean(1)),
        a=conv(3, 8), b=conv(8, 12), h=head(12),
    )  # fmt: skip
    assert widths(model) == {"a": 8}
    proven(model)
