"""Small models that the tests of the graph and of the surgery share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

Forward = Callable[..., Any]


class Net(nn.Module):
    """Named modules, parameters and buffers, and the forward that uses them: `net(forward, a=nn.Conv2d(…), …)`."""

    def __init__(self, forward: Forward, parts: dict[str, Any]) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.run = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


def net(forward: Forward, **parts: Any) -> nn.Module:
    """A Net with lively statistics and weights, the same ones at every call."""
    return lively(Net(forward, parts))


def conv(width_in: int, width_out: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    """A 2d convolution that keeps the size."""
    return nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2, **options)


def head(width: int, classes: int = 5) -> nn.Linear:
    return nn.Linear(width, classes)


def pool(x: Tensor) -> Tensor:
    """Mean over the positions of an image."""
    return x.mean((2, 3))


def tokens(x: Tensor) -> Tensor:
    """(N, C, H, W) as (N, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def image(*shape: int) -> Tensor:
    """Noise of a shape, (1, 3, 8, 8) where none is given."""
    return torch.randn(shape or (1, 3, 8, 8), generator=torch.Generator().manual_seed(1))


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, scales and running statistics, so that a wrong cut shows."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                fan = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * (2 / fan) ** 0.5)
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3)
        for module in model.modules():
            if isinstance(module, (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)) and module.weight is not None:
                module.weight.copy_(torch.rand(module.weight.shape, generator=draw) + 0.5)
            if isinstance(module, _NormBase) and module.running_mean is not None:
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=draw) * 0.3)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=draw) + 0.5)
    return model


def chain() -> nn.Module:
    """conv, norm, conv, norm, linear: two groups of 8 and 12."""
    return lively(
        nn.Sequential(
            conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 12), nn.BatchNorm2d(12), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(12),
        )
    )  # fmt: skip


class Block(nn.Module):
    """A branch of two convolutions beside an identity."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.a, self.n, self.b = conv(width, inner), nn.BatchNorm2d(inner), conv(inner, width)
        self.m = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.m(self.b(self.n(self.a(x)).relu()))).relu()


def residual() -> nn.Module:
    """A stem, two blocks and a linear layer: the stream of 8, and inner widths 6 and 10."""
    return lively(nn.Sequential(conv(3, 8), Block(8, 6), Block(8, 10), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(8)))


EXAMPLE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def classifier(width: int = 16, head: int = 4) -> nn.Sequential:
    """Two convolutions with norms, dropout and a head, seeded; its input is EXAMPLE."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        nn.Conv2d(width, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU(), nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, head),
    )  # fmt: skip
